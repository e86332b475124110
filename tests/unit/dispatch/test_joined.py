"""Workers of new names in mid-scan at the controller: who is told what, and when there is nothing for them."""

from __future__ import annotations

from typing import Any

import pytest

from beamfold.dispatch import seating
from beamfold.dispatch.actions import Send
from beamfold.dispatch.blocks import Dispatcher
from beamfold.dispatch.recording import WriteFile
from beamfold.dispatch.recovery import Recovery
from beamfold.dispatch.scan import Phase, Plan
from beamfold.dispatch.scans import Policy
from beamfold.model.triggermap import WrittenMap, compile_map
from beamfold.protocols import messages as m
from unit.dispatch.test_controller_machine import Bench, endless, to

GENERIC = frozenset({"generic"})
EXTRA = m.WorkerInfo("extra", ["generic"], joined=True)


def sent(actions: list[Any], peer: str) -> list[Any]:
    return [a.message for a in actions if isinstance(a, Send) and a.peer == peer.encode()]


def join(bench: Bench, name: str = "extra") -> list[Any]:
    """It comes, and the others say that they know it."""
    said = bench.hello("worker", name, tags=["generic"])
    me = bench.machine.scan.places.named(name)  # type: ignore[union-attr]
    assert me is not None
    for router in ("i", "j", "r"):
        said += bench.say(router, m.Filled(1, me, name))
    return said


def test_all_are_told_of_it_before_it_is_armed_and_then_it_gets_work() -> None:
    bench = Bench().run(endless())
    told = bench.hello("worker", "extra", tags=["generic"])
    assert to(told, m.Fill) == ["i", "j", "r"]
    assert sent(told, "i") == [m.Fill(1, 2, "extra", EXTRA)]
    assert not to(told, m.Arm)
    assert not bench.say("i", m.Filled(1, 2, "extra")) and not bench.say("j", m.Filled(1, 2, "extra"))
    (arm,) = sent(bench.say("r", m.Filled(1, 2, "extra")), "extra")
    assert [(w.name, w.uuid, w.joined) for w in arm.workers] == [
        ("w0", "w0", False),
        ("w1", "w1", False),
        ("extra", "extra", True),
    ]
    (assign,) = [a for a in sent(bench.armed("extra"), "extra") if isinstance(a, m.Assign) and a.blocks]
    assert {block.worker for block in assign.blocks} == {2}
    report = bench.machine.report("scan-1")
    assert report is not None and report["workers"] == ["w0", "w1", "extra"]


def test_what_it_says_of_itself_again_gives_it_no_second_place() -> None:
    bench = Bench().run(endless())
    join(bench)
    assert not to(bench.hello("worker", "extra", tags=["generic"]), m.Fill)
    bench.armed("extra")
    assert not to(bench.hello("worker", "extra", tags=["generic"]), m.Fill)
    assert len(bench.machine.scan.places) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("more", [{"tags": ["other"]}, {"tags": ["generic"], "error": "no such class"}])
def test_one_that_could_do_nothing_waits_for_the_next_scan(more: dict[str, Any]) -> None:
    bench = Bench().run(endless())
    assert not to(bench.hello("worker", "extra", **more), m.Fill)


def test_when_everything_is_assigned_it_waits_for_the_next_scan() -> None:
    bench = Bench().run()  # of four events, all of which are ahead of the frames
    assert not to(bench.hello("worker", "extra", tags=["generic"]), m.Fill)
    bench.drained(finish=False)
    assert not to(bench.hello("worker", "another", tags=["generic"]), m.Fill)


def test_one_that_came_while_the_scan_was_armed_joins_when_it_runs() -> None:
    bench = Bench()
    bench.submit(endless())
    bench.armed("i", "j", "r", "w0")
    assert not to(bench.hello("worker", "extra", tags=["generic"]), m.Fill)
    assert to(bench.armed("w1"), m.Fill) == ["i", "j", "r"]


def test_there_is_a_bound_to_how_many_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seating, "MAX_JOINED", 2)
    bench = Bench().run(endless())
    told = [to(bench.hello("worker", f"x{n}", tags=["generic"]), m.Fill) for n in range(3)]
    assert [bool(t) for t in told] == [True, True, False]


def test_one_that_is_lost_for_good_leaves_nothing_behind() -> None:
    bench = Bench().run(endless())
    join(bench)
    bench.armed("extra")
    bench.say("s", m.Gone("worker", "extra", "killed"))
    bench.now += 60
    done = bench.do(bench.machine.tick(bench.now))
    assert not to(done, m.Vacate)
    report = bench.machine.report("scan-1")
    assert report is not None and report["troubles"] == []
    assert [loss["service"] for loss in report["losses"]] == ["worker extra"]
    assert to(bench.hello("worker", "extra", "again", tags=["generic"]), m.Fill) == [
        "i",
        "j",
        "r",
    ]  # in a place of its own
    assert len(bench.machine.scan.places) == 4  # type: ignore[union-attr]


def test_another_of_its_name_takes_its_place() -> None:
    bench = Bench().run(endless())
    join(bench)
    bench.armed("extra")
    bench.say("s", m.Gone("worker", "extra", "killed"))
    told = bench.hello("worker", "extra", "again", tags=["generic"])
    assert sent(told, "r") == [m.Fill(1, 2, "again", EXTRA)]


def test_it_finishes_like_the_others() -> None:
    bench = Bench().run(endless())
    join(bench)
    bench.armed("extra")
    bench.stop()
    for ingester, stream in (("i", "a"), ("j", "b")):
        bench.say(ingester, m.Halted(1, {stream: (4, False)}))
    assert to(bench.say("r", m.PartsDone(1, [(0, 6, 2)], {0: 4}, 6, closed=True, finished=True)), m.Finish) == [
        "w0",
        "w1",
        "extra",
    ]
    for worker in ("w0", "w1"):
        assert not bench.say(worker, m.Finished(1))
    assert bench.phase is Phase.FINISHING
    # What it would still have to see is gone with an ingester: it is told not to wait for that.
    assert to(bench.say("s", m.Gone("ingester", "i", "killed")), m.Finish) == ["extra"]
    assert to(bench.say("extra", m.Finished(1)), m.Finish) == ["r"]


def test_the_history_says_who_joined_before_it_says_what_they_got() -> None:
    bench = Bench(policy=Policy(record="/recordings"))
    written = WrittenMap.of(b'{"streams": ["a", "b"], "events": null}')
    bench.do(bench.machine.submit(Plan("scan-1", written.compile(), 1, written), bench.now))
    bench.armed("i", "j", "r", "w0", "w1")
    join(bench)
    bench.armed("extra")
    lines = [a.content.decode() for a in bench.log if isinstance(a, WriteFile) and a.append]
    (at,) = [n for n, line in enumerate(lines) if line == '{"joined": [[2, "extra", ["generic"]]]}']
    assert any(line.startswith('{"blocks"') and ", 2]" in line for line in lines[at:])


def test_a_new_controller_believes_who_knows_of_most_places() -> None:
    def arm(*names: str) -> m.Arm:
        return m.Arm(1, "scan-1", {}, [m.WorkerInfo(n, ["generic"], n, n == "x") for n in names], [], "", 0, {})

    recovery = Recovery(arm("w0"), 0.0)
    recovery.add("worker", b"w0", m.Inventory(1, arm("w0")))
    recovery.add("ingester", b"i", m.Inventory(1, arm("w0", "x"), fillers=["w0", "x"]))
    recovery.add("worker", b"x", m.Inventory(1, arm("w0", "x")))
    assert [w.name for w in recovery.arm.workers] == ["w0", "x"]
    assert (recovery.filler(0), recovery.filler(1)) == (b"w0", b"x")
    recovery.add("reducer", b"r", m.Inventory(1, arm("w0"), fillers=["w0"]))  # it had not been told
    assert (recovery.filler(0), recovery.filler(1)) == (b"w0", None)


# -- the dispatcher --------------------------------------------------------------------------------------------------


def test_a_place_that_joins_gets_blocks_once_somebody_fills_it() -> None:
    dispatcher = Dispatcher(compile_map({"streams": ["a"], "events": None}), [GENERIC])
    dispatcher.assign()
    dispatcher.join(GENERIC)
    assert dispatcher.assign() == []
    assert dispatcher.fill(1) == []
    assert {block.worker for block in dispatcher.assign()} == {1}


def test_a_place_of_other_tags_gets_what_these_allow() -> None:
    cells = [[{"constraint": i, "tags": ["x"] if i % 2 else ["generic"]}] for i in range(20)]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    dispatcher = Dispatcher(trigger_map, [GENERIC, frozenset({"x"})])
    dispatcher.assign()
    assert dispatcher.wants(frozenset({"x", "y"})) and not dispatcher.wants(frozenset({"y"}))
    dispatcher.join(frozenset({"x", "y"}))
    dispatcher.fill(2)
    dispatcher.lose(1)
    got = [v for block in dispatcher.assign() if block.worker == 2 for v in range(block.lo, block.hi)]
    assert got and all(trigger_map.tags(v) == {"x"} for v in got)


def test_nobody_is_waited_for_who_will_never_have_room() -> None:
    """A virtual worker conflicts with those of all workers but one, whose place was given up."""
    cells = {
        "a": [[{"constraint": 0}], [{"constraint": 1}], [{"constraint": 0}], [{"constraint": 1}]],
        "b": [None, None, [{"constraint": 2}], [{"constraint": 2}]],
    }
    trigger_map = compile_map({"parts": {"p": cells}, "sequence": ["p"]})
    dispatcher = Dispatcher(trigger_map, [GENERIC] * 3)
    dispatcher.lose(2)
    dispatcher.vacate(2)
    for now in range(10):
        for block in dispatcher.assign():
            dispatcher.done(block.worker, 1, float(now))
    assert dispatcher.next_virtual == trigger_map.n_virtual
