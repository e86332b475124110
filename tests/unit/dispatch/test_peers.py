"""What wrong, late and lost peers do to a scan at the controller: nothing, or it ends and says why; it never hangs."""

from __future__ import annotations

from typing import Any

import pytest

from beamfold.dispatch.actions import Action, RecordParameters, Reply, Send
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.scan import Phase, Plan
from beamfold.model.triggermap import compile_map
from beamfold.protocols.messages import (
    Arm,
    Armed,
    Combined,
    FenceReached,
    Finish,
    Finished,
    FramesMissing,
    Gone,
    Halted,
    Hello,
    PartsDone,
    Refused,
    StreamEnded,
    StreamInfo,
    StreamSeen,
    ToController,
)

SERVICES = ("i1", "i2", "reducer", "w0", "w1")


class Lab:
    """A controller with two ingesters (streams a and b), two workers and a reducer."""

    def __init__(self, events: int | None = 10, *, armed: bool = True) -> None:
        self.machine = ControllerMachine("v", 1, values={"p": b"old"}, version=1)
        self.hello("ingester", "i1", streams=[StreamInfo("a", "T", True)])
        self.hello("ingester", "i2", streams=[StreamInfo("b", "T", True)])
        self.hello("worker", "w0", tags=["generic"])
        self.hello("worker", "w1", tags=["generic"])
        self.hello("reducer", "reducer")
        self.hello("supervisor", "supervisor")
        trigger_map = compile_map({"streams": ["a", "b"], "events": events}, True)
        self.actions = self.machine.submit(Plan("scan", trigger_map, 1), 0.0)
        if armed:
            for name in SERVICES:
                self.say(name, Armed(1))
            assert self.phase is Phase.RUNNING

    @property
    def phase(self) -> Phase:
        assert self.machine.scan is not None
        return self.machine.scan.phase

    def hello(self, role: str, name: str, peer: str = "", **facts: Any) -> list[Action]:
        peer = peer or name
        return self.machine.receive(peer.encode(), Hello(role, name, peer, "v", 1, "host", **facts), 0.0)

    def say(self, name: str, message: ToController) -> list[Action]:
        self.actions = self.machine.receive(name.encode(), message, 0.0)
        return self.actions


def sent(actions: list[Action], kind: type) -> dict[str, Any]:
    """Messages of this kind by who gets them."""
    return {a.peer.decode(): a.message for a in actions if isinstance(a, Send) and isinstance(a.message, kind)}


def refused(actions: list[Action]) -> list[str]:
    return [a.message.reason for a in actions if isinstance(a, Send) and isinstance(a.message, Refused)]


FAR = 1 << 62


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w0", PartsDone(1, [(0, 5, 2)], {0: 5}, 5)),
        ("w0", PartsDone(1, [], {}, 0, closed=True, finished=True)),
        ("i1", PartsDone(1, [], {}, 0, finished=True)),
        ("reducer", PartsDone(1, [(0, FAR, 2)], {}, 5)),
        ("reducer", PartsDone(1, [], {}, 0, combined=[Combined(7, [(0, 1, 2)])])),
        ("reducer", PartsDone(1, [], {}, 0, combined=[Combined(0, [(0, 1, FAR)])])),
        ("reducer", PartsDone(1, [], {}, 0, combined=[Combined(0, [(-1, 1, 2)])])),
        ("reducer", PartsDone(1, [(0, 5, 99)], {}, 5)),
        ("reducer", PartsDone(1, [(0, 5, 0)], {}, 5)),
        ("reducer", PartsDone(1, [(-5, 3, 2)], {}, 0)),
        ("reducer", PartsDone(1, [(5, 5, 2)], {}, 0)),
        ("reducer", PartsDone(1, [], {0: -5}, 0)),
        ("reducer", PartsDone(1, [], {7: 5}, 0)),
        ("reducer", PartsDone(1, [], {}, FAR)),
        ("reducer", PartsDone(1, [], {}, 0, incomplete={"zzz": [(1, 2)]})),
        ("w0", StreamEnded(1, "a", 3, 3)),
        ("i1", StreamEnded(1, "b", 3, 3)),
        ("i1", StreamEnded(1, "a", 3, FAR)),
        ("i1", StreamEnded(1, "a", 3, -1)),
        ("i2", StreamSeen(1, "a", "ended", 3, 3, 0)),
        ("i1", FramesMissing(1, "a", [(3, 1)])),
        ("i1", FramesMissing(1, "a", [(-3, 1 << 63)])),
        ("reducer", FramesMissing(1, "a", [(1, 2)])),
        ("w0", Halted(1, {"a": (3, True)})),
        ("w1", Finished(1, [])),
        ("w0", Armed(1, "late")),
        ("w0", FenceReached(1, 2, 5)),
        ("i1", Gone("worker", "w0", "a lie")),
        ("w1", Gone("reducer", "reducer", "a lie")),
    ],
)
def test_what_a_service_has_no_say_in_changes_nothing(name: str, message: ToController) -> None:
    lab = Lab()
    before = lab.machine.report("scan")
    assert not [a for a in lab.say(name, message) if isinstance(a, Send)]
    assert lab.phase is Phase.RUNNING
    assert lab.machine.report("scan") == before


def test_a_halt_is_answered_by_ingesters_and_with_events_of_the_map() -> None:
    lab = Lab()
    lab.machine.stop(2, 1.0)
    for name, message in (
        ("w0", Halted(1, {"a": (3, True)})),
        ("i1", Halted(1, {"a": (FAR, True)})),
        ("i1", Halted(1, {"b": (3, True)})),
    ):
        lab.say(name, message)
    assert lab.phase is Phase.HALTING
    lab.say("i1", Halted(1, {"a": (3, False)}))
    lab.say("i1", Halted(1, {"a": (9, False)}))  # twice
    lab.say("i2", Halted(1, {"b": (2, False)}))
    assert lab.phase is Phase.DRAINING
    assert lab.machine.scan is not None
    assert lab.machine.scan.last_data_event == 3


def test_a_fence_is_reached_when_the_ingesters_of_the_scan_said_so() -> None:
    lab = Lab()
    lab.machine.set_parameters({"p": b"new"}, 1.0)
    lab.hello("ingester", "i0", streams=[StreamInfo("c", "T", True)])
    for name in ("w0", "i0", "reducer", "i1"):
        lab.say(name, FenceReached(1, 2, 4))
    assert not sent(lab.actions, Arm)
    report = lab.machine.report("scan")
    assert report is not None
    assert len(report["parameters"]) == 1
    lab.say("i2", FenceReached(1, 2, 6))
    report = lab.machine.report("scan")
    assert report is not None
    assert [p["from_event"] for p in report["parameters"]] == [0, 7]


def test_who_comes_later_has_no_part_in_a_scan() -> None:
    """Not even when it is first by its name, or offers a stream of the scan."""
    lab = Lab()
    lab.hello("reducer", "another")
    lab.hello("worker", "a-worker", tags=["generic"])
    lab.hello("ingester", "z", streams=[StreamInfo("a", "T", True)])
    lab.say("another", PartsDone(1, [], {}, 0, finished=True))
    assert lab.phase is Phase.RUNNING
    finish = sent(lab.say("reducer", PartsDone(1, [], {}, 12, finished=True)), Finish)
    assert set(finish) == {"w0", "w1"}
    lab.say("w0", Finished(1))
    assert set(sent(lab.say("w1", Finished(1)), Finish)) == {"reducer"}


def test_only_a_service_that_takes_part_ends_a_scan_by_its_death() -> None:
    lab = Lab()
    lab.hello("worker", "w2", tags=["generic"])
    lab.say("supervisor", Gone("worker", "w2", "killed"))
    assert lab.phase is Phase.RUNNING
    lab.say("supervisor", Gone("ingester", "i1", "killed"))
    assert lab.phase is Phase.ENDED


@pytest.mark.parametrize("armed", [True, False])
def test_a_service_that_came_back_as_another_process_ends_the_scan(armed: bool) -> None:
    """The new process knows nothing of the scan, and nobody said that the old one ended: it would go on for ever."""
    lab = Lab(armed=armed)
    actions = lab.hello("ingester", "i1", peer="i1 again", streams=[StreamInfo("a", "T", True)])
    assert lab.phase is Phase.ENDED
    report = lab.machine.report("scan")
    assert report is not None
    assert report["ended"] == "failed"
    assert "ingester i1" in report["reason"]
    if not armed:
        assert [a.request for a in actions if isinstance(a, Reply) and a.error is not None] == [1]


def test_a_service_that_cannot_be_one_is_refused() -> None:
    lab = Lab()
    assert "no role 'banana'" in refused(lab.hello("banana", "x"))[0]
    assert "has dtype None" in refused(lab.hello("worker", "x", parameters=[{"name": "p"}]))[0]
    assert refused(lab.hello("worker", "y", parameters=[{"bad": 1}]))
    assert refused(lab.hello("worker", "y", parameters=[{"name": "\0", "dtype": "int", "data": b"1"}]))
    assert refused(lab.hello("worker", "y", parameters=[{"name": "p", "dtype": "int", "data": b"x"}]))
    assert refused(lab.hello("worker", "another name", peer="w0"))
    assert lab.machine.declared() == []
    assert lab.phase is Phase.RUNNING


def test_all_services_are_armed_with_the_same_values() -> None:
    """Values that come while a scan is armed are its second version, also for those that are armed last."""
    lab = Lab(armed=False)
    arms = sent(lab.actions, Arm)
    for name in SERVICES:
        if name == "reducer":
            lab.machine.set_parameters({"p": b"new"}, 0.0)
        arms |= sent(lab.say(name, Armed(1)), Arm)
    assert {name: (arm.version, arm.parameters["p"]) for name, arm in arms.items()} == dict.fromkeys(
        SERVICES, (1, b"old")
    )
    recorded = [(a.version, a.values["p"]) for a in lab.actions if isinstance(a, RecordParameters)]
    assert recorded == [(1, b"old")]


def test_a_plan_of_any_length_can_be_given_up() -> None:
    """People who mean "without end" write a very large number of events."""
    lab = Lab(events=1 << 53)
    lab.say("reducer", PartsDone(1, [(0, 5, 2), (7, 9, 2)], {0: 7}, 5))
    lab.machine.stop(2, 1.0)
    lab.machine.stop(3, 1.0)
    report = lab.machine.report("scan")
    assert report is not None
    assert report["states"] == {"reduced": 6, "lost": (1 << 53) - 6}
    assert report["runs"] == {"lost": [(5, 7), (9, (1 << 53) + 1)]}


def test_events_that_no_series_reached_are_listed() -> None:
    lab = Lab(events=100)
    lab.say("reducer", PartsDone(1, [(0, 11, 2)], {0: 11}, 11))
    lab.say("i1", StreamEnded(1, "a", 10, 10))
    lab.say("i2", StreamEnded(1, "b", 10, 10))
    report = lab.machine.report("scan")
    assert report is not None
    assert report["states"] == {"reduced": 10, "incomplete (skipped)": 90}
    assert report["runs"] == {"incomplete (skipped)": [(11, 101)]}
