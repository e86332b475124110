"""The controller machine alone: services are what the test says for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beamfold.dispatch import noted as noted_module
from beamfold.dispatch import scan as scan_module
from beamfold.dispatch.actions import Note, RecordParameters, RecordScan, Reply, Send
from beamfold.dispatch.blocks import FIRST_WINDOW
from beamfold.dispatch.losses import ARM_PATIENCE
from beamfold.dispatch.machine import TELL_INTERVAL, ControllerMachine
from beamfold.dispatch.recovery import PATIENCE
from beamfold.dispatch.scan import STATE_LOST, Phase, Plan
from beamfold.dispatch.scans import Policy
from beamfold.model.bitmaps import events_in, events_lacking
from beamfold.model.errors import BeamfoldError, MapError, ScanError
from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap, WrittenMap, compile_map
from beamfold.protocols import messages as m

MAP = compile_map({"streams": ["a", "b"], "events": 4})


def endless() -> TriggerMap:
    return compile_map({"streams": ["a", "b"], "events": None})


class Bench:
    """A controller with ingesters i (stream a) and j (stream b), workers w0 and w1, a reducer r, a supervisor s."""

    def __init__(self, *, without: str = "", **more: Any) -> None:
        self.machine = ControllerMachine("v", 1, values={"p": b"0"}, **more)
        self.now = 100.0
        self.log: list[Any] = []
        info = {s: [m.StreamInfo(s, "T", s == "a")] for s in "ab"}
        self.hello("ingester", "i", streams=info["a"])
        self.hello("ingester", "j", streams=info["b"])
        for worker in ("w0", "w1"):
            self.hello("worker", worker, tags=["generic"])
        self.hello("reducer", "r")
        self.hello("supervisor", "s")

    def hello(self, role: str, name: str, peer: str = "", version: str = "v", pid: int = 1, **more: Any) -> list[Any]:
        return self.say(peer or name, m.Hello(role, name, peer or name, version, pid, "here", url=name, **more))

    def say(self, who: str, message: Any) -> list[Any]:
        self.now += 0.01
        return self.do(self.machine.receive(who.encode(), message, self.now))

    def do(self, actions: list[Any]) -> list[Any]:
        self.log += actions
        return actions

    def submit(self, trigger_map: TriggerMap = MAP, request: int = 1) -> list[Any]:
        return self.do(self.machine.submit(Plan(f"scan-{request}", trigger_map, request), self.now))

    def stop(self, request: int = 90) -> list[Any]:
        return self.do(self.machine.stop(request, self.now))

    def armed(self, *names: str, scan: int = 1) -> list[Any]:
        return [a for name in names for a in self.say(name, m.Armed(scan))]

    def run(self, trigger_map: TriggerMap = MAP, request: int = 1) -> Bench:
        """Submit a scan and arm it."""
        self.submit(trigger_map, request)
        self.armed("i", "j", "r", "w0", "w1", scan=request)
        assert self.phase is Phase.RUNNING
        return self

    @property
    def phase(self) -> Phase:
        assert self.machine.scan is not None
        return self.machine.scan.phase

    @property
    def reports(self) -> list[dict[str, Any]]:
        return list(self.machine.reports.values())

    def drained(self, scan: int = 1, last: int = 4, finish: bool = True) -> None:
        """The reducer has everything: all data events, then the end event."""
        self.say("r", m.PartsDone(scan, [(0, last + 1, 2)], {0: last}, last + 1, closed=True))
        self.say("r", m.PartsDone(scan, [(last + 1, last + 2, 2)], {}, last + 2, closed=True))
        self.say("r", m.PartsDone(scan, [], {}, last + 2, closed=True, finished=True))
        for name in ("w0", "w1", "r") if finish else ():
            self.say(name, m.Finished(scan))

    def ended(self, last: int = 4, scan: int = 1) -> list[Any]:
        return self.say("i", m.StreamEnded(scan, "a", last, last)) + self.say("j", m.StreamEnded(scan, "b", last, last))


def to(actions: list[Any], kind: type) -> list[str]:
    """Who was sent a message of this kind."""
    return [a.peer.decode() for a in actions if isinstance(a, Send) and isinstance(a.message, kind)]


def replies(actions: list[Any]) -> dict[int, Any]:
    return {a.request: a.error or a.value for a in actions if isinstance(a, Reply)}


# -- arming ---------------------------------------------------------------------------------------------------------


def test_services_are_armed_in_stages_and_the_request_is_answered_at_the_end() -> None:
    bench = Bench()
    assert to(bench.submit(), m.Arm) == ["i", "j"]
    assert not bench.armed("i")
    assert to(bench.armed("j"), m.Arm) == ["r"]
    assert to(bench.armed("r"), m.Arm) == ["w0", "w1"]
    assert not bench.armed("w1", "w1")
    actions = bench.armed("w0")
    assert replies(actions) == {1: "scan-1"}
    assert to(actions, m.Assign) == ["i", "j", "w0", "w1"]
    assert not bench.armed("w0", "i")


def test_people_are_told_who_is_waited_for() -> None:
    bench = Bench()
    bench.submit()
    assert bench.machine.progress()["waiting_for"] == ["ingester i", "ingester j"]
    bench.armed("i", "j", "r", "w1")
    assert bench.machine.progress()["waiting_for"] == ["worker w0"]
    bench.now += ARM_PATIENCE
    actions = bench.do(bench.machine.tick(bench.now))
    assert str(replies(actions)[1]) == "not ready for the scan within 120 s: worker w0"
    assert bench.machine.progress()["waiting_for"] == []


def test_only_the_ingesters_of_the_maps_streams_are_armed() -> None:
    bench = Bench()
    assert to(bench.submit(compile_map({"streams": ["b"], "events": 1})), m.Arm) == ["j"]


def test_a_service_that_cannot_be_armed_refuses_the_scan_once_all_have_answered() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r")
    assert not bench.say("w0", m.Armed(1, "no such class"))
    actions = bench.armed("w1")
    assert isinstance(replies(actions)[1], ScanError) and "worker w0: no such class" in str(replies(actions)[1])
    assert set(to(actions, m.End)) == {"i", "j", "r", "w0", "w1"}
    assert bench.reports[0]["ended"] == "failed"
    bench.run(request=2)


@pytest.mark.parametrize(("trigger_map", "error"), [
    (compile_map({"streams": ["a", "nobody"], "events": 4}), "not available"),
    (compile_map({"streams": ["a"], "events": 4, "tags": ["gpu"]}), "gpu"),
    (compile_map({"parts": {"p": {"a": [[{"constraint": c} for c in range(3)]]}}, "sequence": ["p"]}), "3 required"),
])  # fmt: skip
def test_a_map_that_the_deployment_cannot_serve_is_refused_at_once(trigger_map: TriggerMap, error: str) -> None:
    bench = Bench()
    actions = bench.submit(trigger_map)
    assert isinstance(replies(actions)[1], MapError) and error in str(replies(actions)[1])
    assert not to(actions, m.Arm) and bench.machine.scan is None


def test_without_a_reducer_there_is_no_scan() -> None:
    bench = Bench()
    bench.say("s", m.Gone("reducer", "r", "killed"))
    assert "no reducer" in str(replies(bench.submit())[1])


def test_a_refused_map_does_not_stop_the_running_scan() -> None:
    bench = Bench().run()
    bench.submit(compile_map({"streams": ["nobody"], "events": 4}), 2)
    assert bench.phase is Phase.RUNNING


def test_another_version_is_refused() -> None:
    bench = Bench()
    actions = bench.hello("worker", "w9", version="older")
    assert to(actions, m.Refused) == ["w9"]
    assert to(bench.say("w9", m.Beat()), m.Introduce) == ["w9"]


def test_a_stranger_is_asked_who_it_is() -> None:
    bench = Bench().run()
    assert to(bench.say("nobody", m.Finished(1)), m.Introduce) == ["nobody"]


# -- the course of a scan -------------------------------------------------------------------------------------------


def test_a_scan_from_its_series_ends_to_its_report() -> None:
    bench = Bench().run()
    assert not to(bench.say("i", m.StreamEnded(1, "a", 4, 4)), m.Close)
    actions = bench.say("j", m.StreamEnded(1, "b", 4, 4))
    assert to(actions, m.Close) == ["i", "j", "w0", "w1", "r"]
    assert {a.message.last_event for a in actions if isinstance(a, Send) and isinstance(a.message, m.Close)} == {4}
    assert not to(bench.say("r", m.PartsDone(1, [(0, 3, 2)], {0: 2}, 3, closed=True)), m.Conclude)
    assert to(bench.say("r", m.PartsDone(1, [(3, 5, 2)], {1: 2}, 5, closed=True)), m.Conclude) == ["w0", "w1"]
    bench.say("r", m.PartsDone(1, [(5, 6, 2)], {}, 6, closed=True))
    assert to(bench.say("r", m.PartsDone(1, [], {}, 6, closed=True, finished=True)), m.Finish) == ["w0", "w1"]
    assert not bench.say("w0", m.Finished(1))
    assert to(bench.say("w1", m.Finished(1)), m.Finish) == ["r"]
    actions = bench.say("r", m.Finished(1))
    assert set(to(actions, m.End)) == {"i", "j", "r", "w0", "w1"}
    assert bench.reports[0]["summary"] == "4 events: 4 reduced"
    assert not bench.say("r", m.PartsDone(1, [(1, 2, 7)], {}, 6, closed=True)), "the scan is over"


def test_the_end_event_does_not_begin_by_word_of_a_reducer_that_does_not_know_the_end() -> None:
    bench = Bench().run()
    bench.ended()
    assert not to(bench.say("r", m.PartsDone(1, [(0, 5, 2)], {}, 5)), m.Conclude)
    assert to(bench.say("r", m.PartsDone(1, [], {}, 5, closed=True)), m.Conclude) == ["w0", "w1"]


def test_what_a_late_reducer_says_of_events_beyond_the_end_changes_nothing() -> None:
    bench = Bench().run(endless())
    bench.ended(2)
    actions = bench.say("r", m.PartsDone(1, [(1, 9, 5)], {}, 9))
    releases = [a.message.runs for a in actions if isinstance(a, Send) and isinstance(a.message, m.Release)]
    assert releases == [[(1, 3)], [(1, 3)]]
    bench.drained(last=2)
    assert bench.reports[0]["summary"] == "2 events: 2 reduced"


def test_all_series_ended_before_the_scan_was_armed() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r", "w0")
    bench.ended(2)
    actions = bench.armed("w1")
    assert to(actions, m.Close) == ["i", "j", "w0", "w1", "r"]
    bench.drained(last=2)
    assert bench.reports[0]["summary"] == "4 events: 2 unverified, 2 incomplete (skipped)"


def test_a_series_that_ends_while_the_scan_is_halted_does_not_close_it_twice() -> None:
    bench = Bench().run()
    bench.stop()
    assert not bench.ended(3)
    bench.say("i", m.Halted(1, {"a": (3, True)}))
    assert to(bench.say("j", m.Halted(1, {"b": (3, True)})), m.Close)
    assert not to(bench.say("j", m.Halted(1, {"b": (4, True)})), m.Close)


# -- stop -----------------------------------------------------------------------------------------------------------


def test_stop_without_a_scan_is_answered() -> None:
    bench = Bench()
    assert replies(bench.stop(7)) == {7: None}


def test_a_scan_that_is_stopped_while_arming_is_refused() -> None:
    bench = Bench()
    bench.submit()
    actions = bench.stop()
    assert 90 in replies(actions) and str(replies(actions)[1]) == "stopped by request"
    assert bench.reports[0]["ended"] == "stopped"
    assert not bench.armed("i", "j")
    bench.run(request=2)


def test_a_stopped_scan_is_halted_closed_and_drained() -> None:
    bench = Bench().run()
    actions = bench.stop()
    assert replies(actions) == {90: None} and to(actions, m.Halt) == ["i", "j"]
    assert not bench.say("i", m.Halted(1, {"a": (2, False)}))
    actions = bench.say("j", m.Halted(1, {"b": (3, False)}))
    assert {a.message.last_event for a in actions if isinstance(a, Send) and isinstance(a.message, m.Close)} == {3}
    bench.drained(last=3)
    report = bench.reports[0]
    assert (report["ended"], report["reason"]) == ("stopped", "stopped by request")
    assert report["summary"] == "3 events: 3 reduced (1 of 4 planned were not reached)"


def phase_after(bench: Bench, phase: Phase) -> Bench:
    """A scan that ends by itself, brought to a phase."""
    bench.run()
    if phase is Phase.HALTING:
        bench.stop()
    else:
        bench.ended()
    if phase in (Phase.FINISHING, Phase.REDUCING):
        bench.drained(finish=False)
    if phase is Phase.REDUCING:
        bench.say("w0", m.Finished(1))
        bench.say("w1", m.Finished(1))
    assert bench.phase is phase
    return bench


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.FINISHING, Phase.REDUCING])
def test_to_stop_a_scan_that_is_ending_by_itself_does_not_cut_it(phase: Phase) -> None:
    bench = phase_after(Bench(), phase)
    assert replies(bench.stop()) == {90: None}
    assert bench.phase is phase and not bench.reports
    if phase is Phase.DRAINING:
        bench.drained(finish=False)
    for name in ("w0", "w1", "r"):
        bench.say(name, m.Finished(1))
    assert bench.reports[0]["ended"] == "finished"


@pytest.mark.parametrize("phase", [Phase.HALTING, Phase.DRAINING, Phase.FINISHING, Phase.REDUCING])
def test_to_stop_twice_gives_up_what_is_left(phase: Phase) -> None:
    bench = phase_after(Bench(), phase)
    bench.stop(91)
    if phase is not Phase.HALTING:
        assert 92 in replies(bench.stop(92))
    report = bench.reports[0]
    assert report["ended"] == "stopped" and report["reason"].startswith("stopped twice")
    assert sum(report["states"].values()) == report["events"] == 4
    assert bench.phase is Phase.ENDED
    bench.run(request=2)


def test_an_endless_scan_can_be_given_up() -> None:
    bench = Bench().run(endless())
    bench.say("r", m.PartsDone(1, [(0, 3, 2)], {0: 2}, 3))
    bench.stop()
    bench.stop(91)
    assert bench.reports[0]["summary"] == "2 events: 2 reduced"


# -- a scan after the other -----------------------------------------------------------------------------------------


def test_a_new_scan_stops_the_running_one_and_waits_for_its_end() -> None:
    bench = Bench().run()
    actions = bench.submit(request=2)
    assert to(actions, m.Arm) == ["i", "j"] == to(actions, m.Halt)
    assert replies(bench.armed("i", "j", scan=2)) == {2: "scan-2"}, "it can be fed from now on"
    bench.say("i", m.Halted(1, {"a": (4, False)}))
    bench.say("j", m.Halted(1, {"b": (4, False)}))
    bench.drained()
    assert bench.machine.scan is not None and bench.machine.scan.number == 2
    bench.armed("r", "w0", "w1", scan=2)
    assert bench.phase is Phase.RUNNING
    assert [r["reason"] for r in bench.reports] == ["a new scan was submitted"]


def test_a_third_scan_takes_the_place_of_the_second() -> None:
    bench = Bench().run()
    bench.submit(request=2)
    actions = bench.submit(request=3)
    assert str(replies(actions)[2]) == "another scan was submitted"
    assert "i" in to(actions, m.End)
    assert replies(bench.armed("i", "j", scan=3)) == {3: "scan-3"}
    bench.stop()
    assert bench.phase is Phase.HALTING, "what has arrived is still processed"
    bench.stop()
    assert bench.machine.scan is not None and bench.machine.scan.number == 3
    assert [r["ended"] for r in bench.reports] == ["superseded", "stopped"]


def test_a_new_scan_while_one_is_arming_takes_its_place() -> None:
    bench = Bench()
    bench.submit()
    actions = bench.submit(request=2)
    assert isinstance(replies(actions)[1], ScanError)
    bench.armed("i", "j", "r", "w0", "w1", scan=2)
    assert bench.phase is Phase.RUNNING


def test_a_waiting_scan_whose_ingester_cannot_is_refused_and_the_old_one_ends_in_order() -> None:
    bench = Bench().run()
    bench.submit(request=2)
    bench.armed("j", scan=2)
    actions = bench.say("i", m.Armed(2, "out of memory"))
    assert "out of memory" in str(replies(actions)[2])
    bench.say("i", m.Halted(1, {"a": (4, False)}))
    bench.say("j", m.Halted(1, {"b": (4, False)}))
    bench.drained()
    assert [r["ended"] for r in bench.reports] == ["failed", "stopped"]
    bench.run(request=3)


# -- who goes -------------------------------------------------------------------------------------------------------

SERVICES = {"i": "ingester", "j": "ingester", "w0": "worker", "w1": "worker", "r": "reducer"}


@pytest.mark.parametrize("phase", [Phase.ARMING, Phase.RUNNING, Phase.HALTING, Phase.DRAINING])
@pytest.mark.parametrize("name", ["i", "j"])
def test_a_scan_that_loses_an_ingester_fails_and_says_so(name: str, phase: Phase) -> None:
    bench = Bench()
    if phase is Phase.ARMING:
        bench.submit()
    elif phase is Phase.RUNNING:
        bench.run()
    else:
        phase_after(bench, phase)
    actions = bench.say("s", m.Gone(SERVICES[name], name, "killed by signal 9"))
    report = bench.reports[0]
    assert report["ended"] == "failed" and report["reason"] == f"{SERVICES[name]} {name} ended: killed by signal 9"
    assert set(to(actions, m.End)) == set(SERVICES) - {name}
    assert sum(report["states"].values()) == report["events"]
    assert not bench.say("s", m.Gone(SERVICES[name], name, "again"))
    if phase is Phase.ARMING:
        assert isinstance(replies(actions)[1], ScanError)


def test_the_running_and_the_waiting_scan_both_fail_with_a_service_of_both() -> None:
    bench = Bench().run()
    bench.submit(request=2)
    bench.say("s", m.Gone("ingester", "i", "killed"))
    assert sorted(r["ended"] for r in bench.reports) == ["failed", "failed"]


def test_the_work_of_a_lost_worker_goes_to_the_others_at_once() -> None:
    bench = Bench().run()
    actions = bench.say("s", m.Gone("worker", "w0", "killed"))
    assert bench.phase is Phase.RUNNING and not to(actions, m.End)
    assert to(actions, m.Fill) == ["i", "j", "r"]
    blocks = [b for a in actions if isinstance(a, Send) and isinstance(a.message, m.Assign) for b in a.message.blocks]
    assert blocks and {b.worker for b in blocks} == {1} and all(b.attempt for b in blocks)
    assert not bench.say("s", m.Gone("worker", "w0", "again"))


def test_a_worker_that_comes_while_an_ingester_is_away_knows_where_it_was() -> None:
    """It hears of the next one when that is there."""
    bench = Bench()
    bench.hello("ingester", "i", streams=[m.StreamInfo("a", "T", True, True)])
    bench.run(endless())
    for role, name in (("ingester", "i"), ("worker", "w0")):
        bench.say("s", m.Gone(role, name, "killed", 1))
    bench.hello("worker", "w0", "another", pid=2, tags=["generic"])
    for name in ("j", "r"):
        actions = bench.say(name, m.Filled(1, 0, "another"))
    (arm,) = [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, m.Arm)]
    assert [(info.name, info.streams) for info in arm.ingesters] == [("i", ["a"]), ("j", ["b"])]
    bench.armed("another")
    actions = bench.hello("ingester", "i", "i again", pid=2, streams=[m.StreamInfo("a", "T", True, True)])
    assert to(actions, m.Arm) == ["i again"]
    assert to(bench.say("i again", m.Armed(1)), m.Rejoined) == ["another", "w1"]


def test_what_was_in_results_that_were_refused_is_done_by_others_and_another_process_takes_the_place() -> None:
    bench = Bench().run()
    actions = bench.say("r", m.Torn(1, 0, "w0", "results were refused"))
    assert to(actions, m.Refused) == ["w0"] and to(actions, m.Fill) == ["i", "j", "r"]
    blocks = [b for a in actions if isinstance(a, Send) and isinstance(a.message, m.Assign) for b in a.message.blocks]
    assert blocks and {b.worker for b in blocks} == {1} and all(b.attempt for b in blocks)
    assert not bench.say("r", m.Torn(1, 0, "w0", "again, of the same process"))
    report = bench.machine.report("scan-1")
    assert report is not None and "reducer r: results were refused" in report["troubles"]
    assert [loss["service"] for loss in report["losses"]] == ["worker w0"]


def test_a_worker_that_is_lost_while_it_is_armed_is_waited_for() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r", "w1")
    bench.say("s", m.Gone("worker", "w0", "killed"))
    actions = bench.hello("worker", "w0", peer="w0 again", tags=["generic"])
    assert to(actions, m.Fill) == ["i", "j", "r"] and not to(actions, m.Arm)
    for name in ("i", "j"):
        assert not bench.say(name, m.Filled(1, 0, "w0 again"))
    assert to(bench.say("r", m.Filled(1, 0, "w0 again")), m.Arm) == ["w0 again"]
    bench.armed("w0 again")
    assert bench.phase is Phase.RUNNING


def test_a_worker_that_is_not_replaced_in_time_ends_the_arming() -> None:
    bench = Bench()
    bench.submit()
    bench.say("s", m.Gone("worker", "w0", "killed"))
    actions = bench.machine.tick(bench.now + 31)
    assert "no other took its place within 30 s" in str(replies(actions)[1])


def test_a_service_that_never_gets_ready_is_named_and_not_waited_for_for_ever() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r", "w1")
    actions = bench.machine.tick(bench.now + 121)
    assert "not ready for the scan within 120 s: worker w0" in str(replies(actions)[1])
    assert bench.reports[0]["ended"] == "failed"


def test_a_worker_that_is_lost_at_its_end_is_not_waited_for() -> None:
    bench = Bench()
    phase_after(bench, Phase.FINISHING)
    bench.say("w1", m.Finished(1))
    actions = bench.say("s", m.Gone("worker", "w0", "killed"))
    assert to(actions, m.Finish) == ["r"]
    bench.say("r", m.Finished(1))
    assert bench.reports[0]["ended"] == "finished"
    assert "before its finish() came back" in bench.reports[0]["troubles"][0]


def test_a_process_that_was_lost_is_refused_when_it_comes_back() -> None:
    bench = Bench().run()
    bench.say("s", m.Gone("worker", "w0", "killed"))
    assert to(bench.say("w0", m.Beat()), m.Introduce) == ["w0"]
    assert to(bench.hello("worker", "w0", tags=["generic"]), m.Refused) == ["w0"]
    assert not to(bench.hello("worker", "w0", peer="w0 again", tags=["generic"]), m.Refused)


def test_a_process_whose_end_is_told_before_its_beginning_is_never_here() -> None:
    bench = Bench().run()
    bench.say("s", m.Gone("worker", "w0", "killed"))
    bench.say("s", m.Gone("worker", "w0", "killed", pid=77))
    assert not bench.hello("worker", "w0", peer="w0 again", pid=77, tags=["generic"])


def test_a_service_that_has_no_part_in_the_scan_may_go_and_come() -> None:
    bench = Bench()
    bench.submit(compile_map({"streams": ["a"], "events": 4}))
    bench.armed("i", "r", "w0", "w1")
    bench.hello("worker", "a-late-one", tags=["generic"])
    bench.hello("reducer", "a-late-one")
    assert not to(bench.say("s", m.Gone("ingester", "j", "killed")), m.End)
    assert not to(bench.say("s", m.Gone("worker", "a-late-one", "killed")), m.End)
    assert to(bench.say("i", m.StreamEnded(1, "a", 4, 4)), m.Close) == ["i", "w0", "w1", "r"]


def test_only_a_supervisor_says_who_is_gone() -> None:
    bench = Bench().run()
    assert not bench.say("w0", m.Gone("worker", "w1", "killed"))
    assert bench.phase is Phase.RUNNING


def test_a_service_that_comes_back_takes_part_in_the_next_scan() -> None:
    bench = Bench().run()
    bench.say("s", m.Gone("ingester", "i", "killed"))
    bench.hello("ingester", "i", peer="i again", streams=[m.StreamInfo("a", "T", True)])
    bench.submit(request=2)
    bench.armed("i again", "j", "r", "w0", "w1", scan=2)
    assert bench.phase is Phase.RUNNING


def test_another_reducer_takes_up_the_scan_and_learns_what_the_first_one_was_told() -> None:
    bench = Bench().run()
    bench.ended()
    bench.say("s", m.Gone("reducer", "r", "killed"))
    assert bench.phase is Phase.DRAINING
    assert to(bench.hello("reducer", "r", peer="r again"), m.Arm) == ["r again"]
    actions = bench.armed("r again")
    assert to(actions, m.Close) == ["r again"]
    assert to(actions, m.Moved) == ["w0", "w1"]


# -- parameters -----------------------------------------------------------------------------------------------------


def parameters(actions: list[Any]) -> list[tuple[str, int, int]]:
    return [
        (a.peer.decode(), a.message.version, a.message.from_event)
        for a in actions
        if isinstance(a, Send) and isinstance(a.message, m.Parameters)
    ]


def change(bench: Bench, value: bytes) -> list[Any]:
    return bench.do(bench.machine.set_parameters({"p": value}, bench.now))


def test_parameters_are_in_force_from_the_first_event_that_nobody_can_have_begun() -> None:
    bench = Bench().run()
    assert to(change(bench, b"1"), m.Fence) == ["i", "j"]
    assert not bench.say("i", m.FenceReached(1, 1, 2))
    actions = bench.say("j", m.FenceReached(1, 1, 3))
    assert sorted(parameters(actions)) == [(name, 1, 4) for name in sorted(SERVICES)]
    records = [a for a in actions if isinstance(a, RecordParameters)]
    assert [(r.version, r.values, r.from_event) for r in records] == [(1, {"p": b"1"}, 4)]
    assert bench.machine.scan is not None
    history = [(p["version"], p["from_event"]) for p in bench.machine.scan.report.parameters]
    assert history == [(0, 0), (1, 4)]


def bereft(bench: Bench) -> Bench:
    """A scan whose ingester i was lost, and j has said that it had sent event 3."""
    streams = [m.StreamInfo("a", "T", True, True)]
    bench.hello("ingester", "i", streams=streams)
    bench.run(endless())
    bench.say("i", m.StreamSeen(1, "a", "running", 1, 1, 0))
    bench.say("s", m.Gone("ingester", "i", "killed", 1))
    change(bench, b"1")
    assert not bench.say("j", m.FenceReached(1, 1, 3))
    bench.hello("ingester", "i", peer="i again", pid=2, streams=streams)
    return bench


def test_parameters_are_in_force_behind_all_that_came_of_an_ingester_that_was_lost() -> None:
    """How far it was the one in its place cannot know: workers and reducer say what has come to them."""
    bench = bereft(Bench())
    actions = bench.armed("i again")
    asked = [a.peer.decode() for a in actions if isinstance(a, Send) and isinstance(a.message, m.Rejoined | m.Fence)]
    assert asked == ["w0", "w1", "i again"], "workers leave the one that was lost before they are asked"
    assert sorted(to(bench.say("i again", m.FenceReached(1, 1, -1)), m.Fence)) == ["r", "w0", "w1"]
    assert not bench.say("w0", m.FenceReached(1, 1, 5))
    assert not bench.say("w1", m.FenceReached(1, 1, 4))
    actions = bench.say("r", m.FenceReached(1, 1, 8))
    assert {p[1:] for p in parameters(actions)} == {(1, 9)}


def test_who_is_lost_before_it_said_what_it_had_is_not_waited_for_but_the_next_reducer_is() -> None:
    bench = bereft(Bench())
    bench.armed("i again")
    bench.say("i again", m.FenceReached(1, 1, -1))
    bench.say("w0", m.FenceReached(1, 1, 5))
    bench.say("s", m.Gone("reducer", "r", "killed", 1))
    assert not parameters(bench.say("s", m.Gone("worker", "w1", "killed", 1)))
    bench.hello("reducer", "r", peer="r again", pid=2)
    assert sorted(to(bench.armed("r again"), m.Fence)) == ["r again", "w0"]
    bench.say("w0", m.FenceReached(1, 1, 5))
    actions = bench.say("r again", m.FenceReached(1, 1, 6))
    assert {p[1:] for p in parameters(actions)} == {(1, 7)}


def test_changes_while_a_fence_is_being_reached_come_together_as_the_next_one() -> None:
    bench = Bench().run()
    change(bench, b"1")
    assert not to(change(bench, b"2"), m.Fence) and not to(change(bench, b"3"), m.Fence)
    bench.say("i", m.FenceReached(1, 1, -1))
    actions = bench.say("j", m.FenceReached(1, 1, -1))
    assert {p[1:] for p in parameters(actions)} == {(1, 0)}
    assert to(actions, m.Fence) == ["i", "j"]
    assert not bench.say("i", m.FenceReached(1, 1, 5)), "an answer to the fence before"
    bench.say("i", m.FenceReached(1, 3, 1))
    actions = bench.say("j", m.FenceReached(1, 3, 0))
    assert {p[1:] for p in parameters(actions)} == {(3, 2)}
    assert not to(actions, m.Fence)


def test_parameters_that_change_while_a_scan_is_arming_are_in_force_from_its_first_event() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j")
    assert not to(change(bench, b"1"), m.Fence)
    arms = [a.message for a in bench.armed("r") if isinstance(a, Send) and isinstance(a.message, m.Arm)]
    assert {(a.version, a.parameters["p"]) for a in arms} == {(0, b"0")}, "a version has always the same values"
    bench.armed("w0")
    actions = bench.armed("w1")
    assert to(actions, m.Fence) == ["i", "j"]
    assert [(r.version, r.values["p"]) for r in actions if isinstance(r, RecordParameters)] == [(0, b"0")]
    bench.say("i", m.FenceReached(1, 1, -1))
    assert {p[1:] for p in parameters(bench.say("j", m.FenceReached(1, 1, -1)))} == {(1, 0)}


def test_a_waiting_scan_begins_with_the_parameters_of_its_own_beginning() -> None:
    bench = Bench().run()
    bench.submit(request=2)
    bench.armed("i", "j", scan=2)
    change(bench, b"1")
    bench.stop()
    bench.stop()
    arms = [a.message for a in bench.log if isinstance(a, Send) and a.peer == b"r" and isinstance(a.message, m.Arm)]
    assert [(a.scan, a.version, a.parameters["p"]) for a in arms] == [(1, 0, b"0"), (2, 1, b"1")]
    actions = bench.armed("r", "w0", "w1", scan=2)
    assert not to(actions, m.Fence), "the fence was the old scan's"
    assert bench.machine.scan is not None
    assert [(p["version"], p["from_event"]) for p in bench.machine.scan.report.parameters] == [(1, 0)]


@pytest.mark.parametrize("phase", [Phase.FINISHING, Phase.REDUCING])
def test_parameters_that_change_at_the_very_end_are_for_the_next_scan(phase: Phase) -> None:
    bench = phase_after(Bench(), phase)
    actions = change(bench, b"1")
    assert [type(a) for a in actions] == [RecordParameters]


# -- ticks ----------------------------------------------------------------------------------------------------------


def test_workers_tick_in_turn_at_the_shortest_interval() -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r")
    bench.say("w0", m.Armed(1, tick_interval=5.0))
    actions = bench.say("w1", m.Armed(1, tick_interval=2.0))
    assert to(actions, m.Tick) == ["w0"]
    begun = bench.now
    assert not bench.machine.tick(begun + 1.9)
    assert to(bench.machine.tick(begun + 2.0), m.Tick) == ["w0"], "nobody ticked yet: the same one is asked again"
    bench.say("r", m.PartsDone(1, [], {}, 0, ticks=[(7, 0)]))
    assert to(bench.machine.tick(begun + 4.1), m.Tick) == ["w1"]
    bench.stop()
    assert not bench.machine.tick(begun + 99)


def test_nobody_ticks_who_did_not_ask_for_it() -> None:
    bench = Bench().run()
    assert not bench.machine.tick(bench.now + 1e6)


# -- the report -----------------------------------------------------------------------------------------------------


def test_the_report_grows_with_the_scan() -> None:
    bench = Bench().run()
    failure = m.Failure(2, "process_event", "w0", "Traceback")
    bench.say("r", m.PartsDone(1, [(1, 2, 2), (2, 3, 7)], {0: 2}, 0, [failure], 1, {"b": [(4, 5)]}, duplicates=3))
    bench.say("i", m.FramesMissing(1, "a", [(3, 4)]))
    bench.say("i", m.StreamSeen(1, "a", "running", 2, 2, 10, 1, 2, 3))
    bench.say("j", m.Trouble(1, "stream b", "odd"))
    report = bench.machine.report("scan-1")
    assert report is not None
    assert report["phase"] == "running"
    assert report["states"] == {"pending": 2, "reduced": 1, "failed": 1}
    assert report["runs"] == {"failed": [(2, 3)]}
    assert report["streams"]["a"]["missing"] == [(3, 4)]
    assert (report["streams"]["a"]["frames"], report["streams"]["a"]["duplicates"]) == (2, 3)
    assert report["incomplete"] == {"b": [(4, 5)]}
    assert (report["failed_total"], report["duplicates"], report["troubles"]) == (1, 3, ["stream b: odd"])
    assert bench.machine.report("scan-77") is None


def test_every_event_of_a_scan_that_failed_is_in_one_state() -> None:
    bench = Bench().run()
    bench.say("r", m.PartsDone(1, [(0, 2, 2), (3, 4, 4)], {0: 2}, 2))
    bench.say("r", m.Failed(1, "the disk is full"))
    report = bench.reports[0]
    assert report["states"] == {"reduced": 1, "incomplete": 1, "lost": 2}
    assert report["runs"]["lost"] == [(2, 3), (4, 5)]
    assert report["reason"] == "reducer r: the disk is full"


def test_a_counted_stream_with_a_wrong_total_is_not_verified() -> None:
    bench = Bench().run()
    bench.say("i", m.StreamEnded(1, "a", 4, 4))
    bench.say("j", m.StreamEnded(1, "b", 4, 4, surplus=1))
    bench.drained()
    assert bench.reports[0]["states"] == {"unverified": 4}
    assert bench.reports[0]["streams"]["b"]["verified"] is False


def test_a_scan_that_is_not_taken_up_yet_is_not_finished() -> None:
    bench = Bench(known={"old": {"number": 3, "state": "running"}})
    assert bench.machine.progress()["finished"] is False
    bench.do(bench.machine.give_up_unfinished("its run was killed", bench.now))
    assert bench.machine.progress()["finished"] is True


def test_what_a_person_sees_of_the_progress() -> None:
    bench = Bench()
    assert bench.machine.progress()["finished"] is True
    bench.run()
    progress = bench.machine.progress()
    assert (progress["total_events"], progress["finished"], progress["phase"]) == (6, False, "running")
    bench.ended()
    bench.drained()
    assert bench.machine.progress()["completed_events"] == 6


def test_reports_are_bounded() -> None:
    bench = Bench()
    for request in range(1, 130):
        bench.submit(request=request)
        bench.stop()
    assert len(bench.machine.reports) == 100
    assert bench.machine.report("scan-129") is not None
    states = [a.fields["state"] for a in bench.log if isinstance(a, RecordScan)]
    assert states == ["arming", "stopped"] * 129
    assert any(isinstance(a, Note) for a in bench.log)


def reached(actions: list[Any]) -> list[tuple[str, int]]:
    return [
        (a.peer.decode(), a.message.reached) for a in actions if isinstance(a, Send) and isinstance(a.message, m.Assign)
    ]


def test_when_a_stream_has_ended_workers_learn_how_far_the_others_have_come() -> None:
    bench = Bench().run(endless())
    begun = bench.say("i", m.StreamSeen(1, "a", "running", 2, 2, 10))
    assert begun == [RecordScan("scan-1", {"series": {"a": [0, None]}})], "nobody waits for what may still come"
    assert reached(bench.say("j", m.StreamEnded(1, "b", 1, 1))) == [("w0", 2), ("w1", 2)]
    assert not bench.say("i", m.StreamSeen(1, "a", "running", 2, 2, 0))
    bench.now += TELL_INTERVAL
    assert reached(bench.say("i", m.StreamSeen(1, "a", "running", 5, 5, 0))) == [("w0", 5), ("w1", 5)]
    assert not bench.say("i", m.StreamSeen(1, "a", "running", 6, 6, 0)), "there may be sixty streams"
    assert reached(bench.machine.tick(bench.now + TELL_INTERVAL)) == [("w0", 6), ("w1", 6)]
    bench.say("r", m.PartsDone(1, [(0, 2, 2)], {0: 1}, 2))
    assert not bench.machine.tick(bench.now + TELL_INTERVAL - 0.1)
    assert {r for _, r in reached(bench.machine.tick(bench.now + 2 * TELL_INTERVAL))} == {6}


# -- who hears of blocks --------------------------------------------------------------------------------------------


def test_a_block_is_told_to_all_ingesters_and_to_its_worker() -> None:
    bench = Bench().run(endless())
    assert to(bench.say("r", m.PartsDone(1, [(1, 2, 2)], {1: 1}, 2)), m.Assign) == ["i", "j", "w1"]
    assert to(bench.machine.tick(bench.now + TELL_INTERVAL), m.Assign) == ["w0", "w1"], "both hear what is over"
    assert not to(bench.machine.tick(bench.now + 3 * TELL_INTERVAL), m.Assign)


def test_all_workers_hear_that_everything_is_assigned() -> None:
    """One that has no part in the last blocks may wait at the end event, for which it lacks a frame."""
    bench = Bench().run(compile_map({"streams": ["a", "b"], "events": 2 * FIRST_WINDOW + 2}))
    assert to(bench.say("r", m.PartsDone(1, [(1, 2, 2)], {0: 1}, 2)), m.Assign) == ["i", "j", "w0"]
    assert to(bench.say("r", m.PartsDone(1, [(2, 3, 2)], {0: 1}, 3)), m.Assign) == ["i", "j", "w0", "w1"]


def test_all_workers_hear_that_what_comes_before_a_broadcast_is_assigned() -> None:
    last = 2 * FIRST_WINDOW  # is assigned when the first part is done
    cells = [[{"constraint": None if i == last + 1 else i}] for i in range(2 * last)]
    bench = Bench().run(compile_map({"parts": {"p": {"a": cells, "b": cells}}, "sequence": ["p"]}))
    told = [to(bench.say("r", m.PartsDone(1, [(e, e + 1, 2)], {0: 1}, e + 1)), m.Assign) for e in (1, 2)]
    assert told == [["i", "j", "w0", "w1"], ["i", "j", "w0"]]


def test_what_the_reducer_says_in_a_row_is_answered_once() -> None:
    bench = Bench().run(endless())
    first, second = m.PartsDone(1, [(2, 3, 2)], {1: 1}, 1), m.PartsDone(1, [(1, 2, 2)], {0: 1}, 3)
    actions = bench.machine.receive_all([(b"r", first), (b"w0", m.Beat()), (b"r", second)], bench.now)
    assert to(actions, m.Assign) == ["i", "j", "w0", "w1"]
    releases = [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, m.Release)]
    assert [r.runs for r in releases] == [[(1, 3)], [(1, 3)]]
    assert releases[0] is releases[1], "it is encoded once"


def test_what_is_done_is_answered_before_the_scan_is_closed() -> None:
    """Else frames would be released by the numbers of a map that its ingesters do not have any more."""
    bench = Bench().run(endless())
    done = m.PartsDone(1, [(1, 9, 5)], {0: 1}, 9)
    ends = [(b"i", m.StreamEnded(1, "a", 2, 2)), (b"j", m.StreamEnded(1, "b", 2, 2))]
    actions = bench.machine.receive_all([(b"r", done), *ends], bench.now)
    kinds = [type(a.message) for a in actions if isinstance(a, Send) and a.peer == b"i"]
    assert kinds.index(m.Release) < kinds.index(m.Close)


def test_a_report_counts_the_events_that_it_cannot_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_RUNS", 5)
    bench = Bench().run(compile_map({"streams": ["a", "b"], "events": 40}))
    failed = [(e, e + 1, int(EventState.FAILED)) for e in range(1, 41, 2)]
    reduced = [(e, e + 1, int(EventState.REDUCED)) for e in range(2, 41, 2)]
    bench.say("r", m.PartsDone(1, failed + reduced, {0: 8}, 41))
    report = bench.machine.report("scan-1")
    assert report is not None
    assert report["states"] == {"failed": 20, "reduced": 20}
    assert report["runs"] == {"failed": [(e, e + 1) for e in range(1, 10, 2)]}
    assert report["unlisted"] == {"failed": 15}
    assert report["bitmaps"] == {}, "they are made once, at the end"


def test_the_report_of_an_ended_scan_says_of_each_event_in_which_state_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_RUNS", 5)
    bench = Bench().run(compile_map({"streams": ["a", "b"], "events": 40}))
    states = [
        EventState.FAILED if e % 2 else EventState.NO_RESULT if e % 4 else EventState.REDUCED for e in range(1, 41)
    ]
    states[7:9] = [EventState.DROPPED] * 2
    bench.say("r", m.PartsDone(1, [(e, e + 1, int(s)) for e, s in enumerate(states, 1)], {0: 8}, 41))
    bench.stop()
    bench.stop(91)
    (report,) = bench.reports
    assert set(report["bitmaps"]) == {"failed", "no result"} and report["unlisted"] == {}
    assert report["runs"] == {"dropped": [(8, 10)]}
    for state in EventState:
        expected = [e for e, s in enumerate(states, 1) if s is state]
        assert events_in(report, state.label).tolist() == expected


def test_it_says_of_each_event_which_stream_it_lacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted_module, "MAX_RUNS", 5)
    monkeypatch.setattr(scan_module, "MAX_RUNS", 5)
    bench = Bench().run(compile_map({"streams": ["a", "b"], "events": 100}))
    for begin in range(1, 41, 10):
        lacking = {"b": [(e, e + 1) for e in range(begin, begin + 10, 2)], "a": [(begin, begin + 1)]}
        done = [(e, e + 1, 2 + 2 * (e % 2)) for e in range(begin, begin + 10)]
        bench.say("r", m.PartsDone(1, done, {0: 1}, begin + 10, incomplete=lacking))
        bench.say("i", m.FramesMissing(1, "a", lacking["a"]))
        bench.say("j", m.FramesMissing(1, "b", lacking["b"]))
    bench.say("i", m.StreamEnded(1, "a", 40, 40))
    bench.say("j", m.StreamEnded(1, "b", 20, 40))
    bench.say("r", m.PartsDone(1, [(41, 42, 2)], {}, 101, closed=True, finished=True))
    for name in ("w0", "w1", "r"):
        bench.say(name, m.Finished(1))
    (report,) = bench.reports
    assert report["reason"] == "every series ended by event 40 of 100"
    assert set(report["incomplete_bitmaps"]) == {"b"} and set(report["incomplete"]) == {"a"}
    assert events_lacking(report, "b").tolist() == [*range(1, 41, 2), *range(41, 101)]
    assert events_lacking(report, "a").tolist() == [*range(1, 41, 10), *range(41, 101)]
    assert len(report["streams"]["b"]["missing"]) == 5 and report["streams"]["b"]["missing_total"] == 20
    with pytest.raises(BeamfoldError, match="no stream 'c'; it has a, b"):
        events_lacking(report, "c")


def test_bitmaps_are_bounded_and_count_what_they_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_RUNS", 5)
    monkeypatch.setattr(scan_module, "MAX_EVENTS", 30)
    bench = Bench().run(compile_map({"streams": ["a", "b"], "events": 1000}))
    failed = [(e, e + 1, int(EventState.FAILED)) for e in range(1, 41, 2)]
    bench.say("r", m.PartsDone(1, failed, {0: 8}, 1))
    bench.say("r", m.Failed(1, "the disk is full"))
    (report,) = bench.reports
    assert report["states"] == {"failed": 20, "lost": 980}
    assert report["unlisted"] == {"failed": 5, "lost": 965}
    assert events_in(report, "failed").tolist() == list(range(1, 31, 2))
    assert events_in(report, "lost").tolist() == list(range(2, 31, 2))


def test_what_an_ingester_had_counted_before_it_was_lost_is_still_counted() -> None:
    bench = Bench()
    info = [m.StreamInfo("a", "T", True, resumes=True)]
    bench.hello("ingester", "i", "i1", streams=info)
    bench.submit()
    bench.armed("i1", "j", "r", "w0", "w1")
    bench.say("i1", m.StreamSeen(1, "a", "running", 2, 2, 0, 1, 2, 3, late=4, strangers=5, out_of_order=6))
    bench.say("s", m.Gone("ingester", "i", "killed"))
    actions = bench.hello("ingester", "i", "i2", pid=2, streams=info)
    (arm,) = [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, m.Arm)]
    assert arm.resume["a"].frames == 2, "frames it counts on from there, since it may have some of them again"
    bench.armed("i2")
    bench.say("i2", m.StreamSeen(1, "a", "running", 3, 3, 0, 10, 20, 30, late=40, strangers=50, out_of_order=60))
    report = bench.machine.report("scan-1")
    assert report is not None
    stream = report["streams"]["a"]
    counted = ("frames", "discarded", "malformed", "duplicates", "late", "strangers", "out_of_order")
    assert [stream[what] for what in counted] == [3, 11, 22, 33, 44, 55, 66]


def test_parts_of_a_lost_worker_and_results_that_came_again_are_counted() -> None:
    bench = Bench().run()
    assert bench.machine.scan is not None
    had = bench.machine.scan.dispatcher._left(0)
    bench.say("r", m.PartsDone(1, [], {}, 0, duplicates=2))
    bench.say("s", m.Gone("worker", "w0", "killed"))
    report = bench.machine.report("scan-1")
    assert report is not None and had > 0
    assert (report["redone"], report["duplicates"]) == (had, 2)
    assert [(loss["service"], loss["redone"]) for loss in report["losses"]] == [("worker w0", had)]


def stepping(bench: Bench, a: int, b: int, slip: int) -> None:
    """Stream a brings a frame every 100 ms, b as well, but from event `slip` on one period later."""
    for tick in range(1, a + 2):
        for who, stream, last, behind in (("i", "a", a, 0), ("j", "b", b, int(tick > slip))):
            if 1 <= (event := tick - behind) <= last:
                arrived = (event, 1e9 + 0.1 * tick)
                bench.say(who, m.StreamSeen(1, stream, "running", event, event, 0, arrived=arrived))


@pytest.mark.parametrize("slipped", [True, False])
def test_a_stream_that_slipped_is_an_alarm_in_report_and_log(slipped: bool) -> None:
    bench = Bench()
    bench.hello("ingester", "j", "j", streams=[m.StreamInfo("b", "T", True)])
    bench.run(compile_map({"streams": ["a", "b"], "events": 40}))
    stepping(bench, 40, 39, slip=20 if slipped else 100)
    bench.say("i", m.StreamEnded(1, "a", 40, 40))
    bench.say("j", m.StreamEnded(1, "b", 39, 39))
    bench.drained(last=40)
    (report,) = bench.reports
    alarms = [a.text for a in bench.log if isinstance(a, Note) and a.text.startswith("stream b")]
    if not slipped:
        assert not report["slips"] and not report["troubles"] and not alarms
        return
    (slip,) = report["slips"]
    assert (slip["stream"], slip["against"], slip["frames"]) == ("b", "a", 1)
    assert abs(slip["near"] - 20) <= 2
    assert report["troubles"] == alarms == [f"stream b: {slip['text']}"]
    assert report["states"] == {"reduced": 40}, "nothing is matched otherwise"


# -- workers that keep something ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stateful", [True, False])
def test_the_work_of_a_lost_worker_that_keeps_something_is_for_who_takes_its_place(stateful: bool) -> None:
    bench = Bench()
    bench.submit()
    bench.armed("i", "j", "r")
    for worker in ("w0", "w1"):
        bench.say(worker, m.Armed(1, stateful=stateful))
    lost = bench.say("s", m.Gone("worker", "w0", "killed"))
    assert to(lost, m.Assign) == ([] if stateful else ["i", "j", "w1"])
    bench.hello("worker", "w0", "w2", pid=2, tags=["generic"])
    bench.say("i", m.Filled(1, 0, "w2"))
    bench.say("j", m.Filled(1, 0, "w2"))
    bench.say("r", m.Filled(1, 0, "w2"))
    came = bench.say("w2", m.Armed(1, stateful=stateful))
    mine = [a.message for a in came if isinstance(a, Send) and a.peer == b"w2"]
    assert any(isinstance(message, m.Assign) and message.blocks for message in mine) is stateful
    report = bench.machine.report("scan-1")
    assert report is not None
    assert [STATE_LOST in trouble for trouble in report["troubles"]] == [True] * stateful


# -- silence -----------------------------------------------------------------------------------------------------------


def silent(**more: Any) -> Bench:
    bench = Bench(policy=Policy(timeout=60.0), **more)
    bench.run()
    bench.do(bench.machine.tick(bench.now))
    return bench


def test_silence_ends_nothing_unless_the_scan_has_a_timeout() -> None:
    bench = Bench().run()
    bench.do(bench.machine.tick(bench.now))
    bench.now += 1e6
    assert not to(bench.do(bench.machine.tick(bench.now)), m.Halt) and bench.phase is Phase.RUNNING


def test_a_scan_of_which_nothing_comes_for_its_timeout_is_stopped_and_says_why() -> None:
    bench = silent()
    bench.say("i", m.StreamSeen(1, "a", "running", 1, 1, 0))
    bench.now += 59
    assert not to(bench.do(bench.machine.tick(bench.now)), m.Halt)
    bench.now += 2
    assert to(bench.do(bench.machine.tick(bench.now)), m.Halt) == ["i", "j"]
    bench.say("i", m.Halted(1, {"a": (1, False)}))
    bench.say("j", m.Halted(1, {"b": (0, False)}))
    bench.drained(last=1)
    (report,) = bench.reports
    assert report["ended"] == "stopped"
    assert report["reason"] == "nothing came from a, b for 60 s, which is the timeout of this scan"


@pytest.mark.parametrize("goes_on", ["frames", "held back"])
def test_a_stream_that_goes_on_or_is_held_back_keeps_the_scan(goes_on: str) -> None:
    bench = silent()
    for n in range(1, 5):
        bench.now += 40
        paused = n * 40.0 if goes_on == "held back" else 0.0
        bench.say("i", m.StreamSeen(1, "a", "running", n, 1 if paused else n, 0, paused=paused))
        assert not to(bench.do(bench.machine.tick(bench.now)), m.Halt)


def test_a_stream_that_never_starts_is_waited_for_and_ends_the_scan_when_the_others_have_ended() -> None:
    bench = silent()
    assert bench.machine.progress()["waiting_for"] == ["stream a", "stream b"]
    bench.say("i", m.StreamSeen(1, "a", "ended", 4, 4, 0))
    bench.say("i", m.StreamEnded(1, "a", 4, 4))
    assert bench.machine.progress()["waiting_for"] == ["stream b"]
    bench.now += 61
    actions = bench.do(bench.machine.tick(bench.now))
    assert to(actions, m.Halt) == ["i", "j"]
    assert any(isinstance(a, Note) and "nothing came from b for 60 s" in a.text for a in actions)


def test_a_scan_may_have_a_timeout_of_its_own() -> None:
    bench = Bench(policy=Policy(timeout=60.0))
    written = WrittenMap.of(b'{"streams": ["a", "b"], "events": 4}', timeout=5.0)
    bench.do(bench.machine.submit(Plan("scan-1", written.compile(), 1, written), bench.now))
    bench.armed("i", "j", "r", "w0", "w1")
    assert bench.machine.scan is not None and bench.machine.scan.timeout == 5.0
    record = next(a.fields for a in bench.log if isinstance(a, RecordScan) and "map" in a.fields)
    assert record["timeout"] == 5.0 and WrittenMap(**record["map"]) == written


# -- texts -------------------------------------------------------------------------------------------------------------


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("i", m.Trouble(1, LONG, LONG)),
        ("r", m.PartsDone(1, [], {}, 0, [m.Failure(1, LONG, LONG, LONG)], 1)),
        ("r", m.Failed(1, LONG)),
        ("s", m.Gone("worker", "w0", LONG)),
        ("s", m.Gone("ingester", "i", LONG)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_texts_of_services_are_cut(who: str, message: Any) -> None:
    bench = Bench().run()
    bench.say(who, message)
    report = bench.machine.report("scan-1")
    assert 1000 < len(json.dumps(report)) < 30_000
    assert all(len(a.text) < 10_000 for a in bench.log if isinstance(a, Note))


def test_texts_at_the_beginning_and_at_the_end_of_a_scan_are_cut() -> None:
    bench = Bench()
    bench.hello("worker", "w0", "w0", tags=["generic"], error=LONG)
    assert len(bench.machine.services["worker w0"].hello.error) < 10_000
    bench.submit()
    bench.armed("j", "r")
    bench.say("i", m.Armed(1, LONG))
    assert len(str(bench.reports[0]["reason"])) < 10_000
    bench.run(request=2)
    bench.ended(scan=2)
    bench.drained(scan=2, finish=False)
    for name in ("w0", "w1", "r"):
        bench.say(name, m.Finished(2, [m.Failure(1, LONG, LONG, LONG)], error=LONG))
    assert bench.reports[1]["ended"] == "finished"
    assert len(json.dumps(bench.reports[1])) < 60_000


def test_nothing_is_remembered_of_the_services_of_scans_that_ended() -> None:
    bench = Bench()
    for number in range(1, 20):
        bench.run(request=number)
        bench.stop()
        bench.stop()
        assert bench.phase is Phase.ENDED
    assert not bench.machine._services._here


def test_ingesters_do_not_read_before_it_is_known_whether_a_scan_is_taken_up() -> None:
    """What a new one reads before it is armed for the scan that it has a part in would be lost."""
    bench = Bench(known={"old": {"number": 3, "state": "running"}})
    assert to(bench.log, m.Welcome) == ["w0", "w1", "r", "s"]
    assert not bench.do(bench.machine.tick(bench.now))
    bench.now += PATIENCE
    assert to(bench.do(bench.machine.tick(bench.now)), m.Welcome) == ["i", "j"]
    assert not bench.do(bench.machine.tick(bench.now))
    assert to(bench.hello("ingester", "i", "again"), m.Welcome) == ["again"]
    bench = Bench(known={"old": {"number": 3, "state": "finished"}})
    assert to(bench.log, m.Welcome) == ["i", "j", "w0", "w1", "r", "s"]


def test_a_scan_whose_services_have_all_ended_with_the_controller_has_failed_after_a_while() -> None:
    bench = Bench(known={"old": {"number": 3, "state": "running"}})
    bench.now += Policy().replace_patience - 1
    assert not [a for a in bench.do(bench.machine.tick(bench.now)) if isinstance(a, RecordScan)]
    bench.now += 1
    (record,) = [a for a in bench.do(bench.machine.tick(bench.now)) if isinstance(a, RecordScan)]
    assert (record.scan_id, record.fields["state"]) == ("old", "failed")
    assert "every service that was at work on it has ended" in record.fields["report"]["reason"]
    assert not bench.do(bench.machine.tick(bench.now))


def test_scans_that_nobody_is_at_work_on_have_failed() -> None:
    known = {"b": {"number": 4, "state": "arming"}, "a": {"number": 3, "state": "running", "started": 7.0}}
    machine = ControllerMachine("v", 1, known={**known, "c": {"number": 2, "state": "stopped"}}, first_scan=5)
    records = [a for a in machine.give_up_unfinished("it was killed", 9.0) if isinstance(a, RecordScan)]
    assert [(r.scan_id, r.number, r.fields["state"], r.fields["finished"]) for r in records] == [
        ("a", 3, "failed", 9.0),
        ("b", 4, "failed", 9.0),
    ]
    report = records[0].fields["report"]
    assert (report["ended"], report["reason"], report["started"]) == ("failed", "it was killed", 7.0)
    assert not machine.give_up_unfinished("again", 10.0)
