"""A whole run is killed in mid-scan and started again: what is logged is done, the rest is whole or named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.resumption import resumption
from beamfold.model.errors import ScanError
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols import messages as m
from rig import Rig
from unit.test_recovery import PATIENT, whole_or_named
from unit.test_scan_in_memory import series

N = 40


def written(streams: Sequence[str], events: int | None = N) -> WrittenMap:
    text = f'{{"streams": [{", ".join(f"{chr(34)}{s}{chr(34)}" for s in streams)}], "events": {events or "null"}}}'
    return WrittenMap.of(text.encode())


def begin(streams: str, seed: int = 0, events: int | None = N) -> Rig:
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    rig = Rig(inputs, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    map_ = written(streams, events)
    rig.submit(map_.compile(), written=map_)
    rig.until(lambda: 1 in rig.replies)
    for stream in streams:
        rig.detector(stream, series(stream, N))
    return rig


def steps(rig: Rig, count: int) -> None:
    for _ in range(count):
        rig.step()


def kill_and_resume(rig: Rig) -> int:
    """How many events were done before."""
    before = rig.controller.scan
    assert before is not None
    if not before.active:
        return 2 * N
    rig.kill_all()
    rig.resume()
    rig.until(lambda: rig.controller.scan is not None)
    after = rig.controller.scan
    assert after is not None
    assert (after.scan_id, after.number, after.written) == (before.scan_id, before.number, before.written)
    assert (after.started, after.record) == (before.started, before.record)
    assert after.states.done >= before.states.done
    return after.states.done


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", [1, 10, 30, 60, 100, 140])
@pytest.mark.parametrize("streams", ["a", "ab"])
def test_a_run_that_was_killed_takes_its_scan_up_and_loses_only_frames_that_are_named(
    streams: str, seed: int, at: int
) -> None:
    rig = begin(streams, seed)
    steps(rig, at)
    kill_and_resume(rig)
    rig.settle()
    whole_or_named(rig, N)
    assert [loss["service"] for loss in rig.report["losses"]][:1] in ([], ["run"])


@given(st.data())
@settings(max_examples=40)
def test_it_may_be_killed_again_and_again(data: st.DataObject) -> None:
    streams = data.draw(st.sampled_from(["a", "ab"]))
    rig = begin(streams, data.draw(st.integers(0, 1 << 16)))
    done = 0
    for at in data.draw(st.lists(st.integers(0, 120), min_size=1, max_size=4)):
        for _ in range(data.draw(st.integers(0, 2))):
            rig.set_parameter(b"x")
            steps(rig, at // 2)
        steps(rig, at)
        if rig.controller.scan is None:
            continue  # it is being taken up
        now = kill_and_resume(rig)
        assert now >= done, "what was done is not done any more"
        done = now
    rig.settle()
    whole_or_named(rig, N)
    versions = [(v["version"], v["from_event"]) for v in rig.report["parameters"]]
    assert versions == sorted(versions) and [f for _, f in versions] == sorted(f for _, f in versions)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", [0, 3, 6, 10, 15, 22, 30, 45])
@pytest.mark.parametrize("streams", ["a", "ab"])
def test_a_controller_that_is_killed_while_it_takes_the_scan_up_is_followed_by_one_that_does(
    streams: str, at: int, seed: int
) -> None:
    rig = begin(streams, seed)
    steps(rig, 60)
    rig.kill_all()
    rig.resume()
    steps(rig, at)
    rig.kill_controller()
    steps(rig, 3)
    rig.replace_controller(resumes=True)
    rig.settle()
    whole_or_named(rig, N)
    assert rig.controller.scan is not None and rig.controller.scan.number == 1


def test_everything_that_had_come_is_there_when_all_was_done() -> None:
    rig = begin("a")
    rig.until(lambda: rig.controller.scan is not None and rig.controller.scan.frontier > N)
    kill_and_resume(rig)
    rig.settle()
    assert (rig.report["ended"], rig.report["states"]) == ("finished", {"reduced": N})


@pytest.mark.parametrize("seed", range(4))
def test_an_endless_scan_ends_by_its_series(seed: int) -> None:
    rig = begin("a", seed, events=None)
    steps(rig, 60)
    kill_and_resume(rig)
    rig.settle()
    whole_or_named(rig, N)


def test_parameters_are_those_of_their_events() -> None:
    rig = begin("a")
    rig.until(lambda: rig.controller.scan.frontier > 5)
    rig.set_parameter(b"1")
    rig.until(lambda: bool(rig.controller.scan.changes))
    from_event = rig.controller.scan.changes[0].from_event
    rig.set_parameter(b"2")  # nobody has heard of it
    done = kill_and_resume(rig)
    rig.settle()
    whole_or_named(rig, N)
    found = [(v["values"]["p"], v["from_event"]) for v in rig.report["parameters"]]
    assert found[:2] == [("0", 0), ("1", from_event)]
    ((value, last),) = found[2:]
    assert value == "2" and last >= done, "what is done was done with the one before"


def test_a_reducer_that_cannot_go_on_fails_the_scan_and_nothing_else() -> None:
    rig = begin("a")
    steps(rig, 60)
    rig.kill_all()
    rig.resume()
    rig.until(lambda: any(isinstance(p, m.Arm) for q in rig.channels.values() for p in q))
    asked = rig.channels["controller", rig.reducer]
    asked.clear()
    rig.post(rig.reducer, "controller", m.Armed(1, "the class has gone"))
    rig.settle(waiting=True)
    assert rig.controller.scan is None
    ended = rig.records[-1]
    assert (ended.scan_id, ended.fields["state"]) == ("scan-1", "failed")
    assert "cannot be taken up: reducer reducer: the class has gone" in ended.fields["report"]["reason"]
    map_ = written("a")
    rig.submit(map_.compile(), 2, map_)
    rig.until(lambda: 2 in rig.replies)
    assert rig.controller.scan.number == 2


def test_nothing_is_started_meanwhile() -> None:
    rig = begin("a")
    steps(rig, 60)
    rig.kill_all()
    rig.resume()
    map_ = written("a")
    rig.submit(map_.compile(), 2, map_)
    assert "submit again in a moment" in str(rig.replies[2].error)


FIRST = m.Parameters(1, 1, {}, 0)


@pytest.mark.parametrize(
    ("change", "versions", "why"),
    [
        ({"state": "arming"}, [FIRST], "only being armed"),
        ({"map": None}, [FIRST], "too long"),
        ({}, [], "has not all"),
        ({}, [m.Parameters(1, 2, {}, 7)], "has not all"),
        ({"readers": ...}, [FIRST], "has not all"),
    ],
)
def test_where_the_ledger_knows_too_little_it_is_said(change: Any, versions: Any, why: str) -> None:
    rig = begin("a")
    record: dict[str, Any] = {}
    for recorded in rig.records:
        record.update(recorded.fields)
    assert resumption("scan-1", record, [FIRST]).arm.scan_id == "scan-1"
    record = {key: value for key, value in {**record, **change}.items() if value is not ...}
    with pytest.raises(ScanError, match=why):
        resumption("scan-1", record, versions)
