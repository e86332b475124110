"""Workers that join a scan in its middle, at any moment and beside any losses: they get work, nothing else changes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.scans import Policy
from beamfold.model.triggermap import TriggerMap, WrittenMap, compile_map
from rig import Rig
from unit.test_live_is_replay import CombiningRig, app_of, replayed, write_apps
from unit.test_recovery import (
    CAST,
    CONTROLLER,
    INGESTER,
    PATIENT,
    REDUCER,
    casts_in_order,
    folded_once,
    play,
    whole_or_named,
)
from unit.test_scan_in_memory import series, uniform


class Joining(Rig):
    """Before some of its steps a worker joins; before others the newest that joined dies, for good or not."""

    joins: Collection[int] = ()
    falls: Mapping[int, bool] = {}
    steps = 0

    def step(self) -> bool:
        self.steps += 1
        if self.steps in self.joins:
            self.join()
        number = len(self.workers) - 1
        if self.steps in self.falls and self.workers[number].joined and not self.workers[number].dead:
            self.kill(number)
            if self.falls[self.steps]:
                self.replace(number)
        return super().step()

    @property
    def late(self) -> list[str]:
        """The processes that worked in places that came in mid-scan."""
        return [w.name for w in self.workers if w.joined]


class JoiningApp(Joining, CombiningRig):
    """The same with an app."""


def rig_of(workers: int = 2, *, seed: int = 0, joins: Collection[int] = (), **more: Any) -> Joining:
    rig = Joining({"i": [("a", True)]}, [["generic"]] * workers, seed=seed, policy=PATIENT, **more)
    rig.joins = joins
    return rig


def casts_of(trigger_map: TriggerMap) -> list[int]:
    return [e for e in range(trigger_map.n_events or 0) if trigger_map.groups_of(e)]


def nothing_of_joined_is_folded_of_broadcasts(rig: Rig, workers: int) -> None:
    assert all(-f.k - 1 < workers for f in rig.folded)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("streams", ["a", "ab"])
def test_a_worker_that_joins_gets_a_share_of_the_events(streams: str, seed: int) -> None:
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    rig = Joining(inputs, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    rig.joins = {30}
    play(rig, uniform(list(streams), 60), {s: series(s, 60) for s in streams}, {})
    assert rig.report["summary"] == "60 events: 60 reduced"
    assert rig.report["workers"] == ["w0", "w1", "w2"]
    assert rig.report["troubles"] == [] and rig.report["losses"] == [] and rig.report["duplicates"] == 0
    assert [f.event for f in rig.folded] == [0, 0, *range(1, 61), 61, 61]
    assert {f.worker for f in rig.folded} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(12))
def test_it_sees_every_broadcast_in_its_place_and_none_of_that_is_folded(seed: int) -> None:
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    rig = rig_of(3, seed=seed, joins={20 + 7 * seed})
    play(rig, trigger_map, {"a": series("a", 40)}, {})
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)
    nothing_of_joined_is_folded_of_broadcasts(rig, 3)
    assert [(f.event, f.k) for f in rig.folded] == sorted(
        ((f.event, f.k) for f in rig.folded), key=lambda p: (p[0], p[1] if p[1] >= 0 else 99 - p[1])
    )
    assert rig.late == ["w3"]
    seen = [part.event for name, part in rig.worked if name == "w3" and part.k < 0 and part.call]
    assert seen == casts_of(trigger_map)


@pytest.mark.parametrize("seed", range(6))
def test_frames_of_broadcasts_that_are_missing_are_known_to_it(seed: int) -> None:
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    rig = rig_of(2, seed=seed, joins={90})
    play(rig, trigger_map, {"a": series("a", 40, lost={5, 6})}, {})
    assert rig.report["states"] == {"reduced": 38, "incomplete (skipped)": 2}
    assert rig.report["ended"] == "finished"


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_one_that_joined_may_die_and_be_replaced_or_not(seed: int, again: bool) -> None:
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    rig = rig_of(2, seed=seed, joins={25})
    rig.falls = {25 + 9 * seed + 20: again}
    play(rig, trigger_map, {"a": series("a", 40)}, {})
    for _ in range(15):
        rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    (out_of_place,) = rig.report["troubles"] or [""]  # nothing of what is broadcast is missing
    if out_of_place:
        assert not again and "its events before a broadcast went to others" in out_of_place
    else:
        casts_in_order(rig, trigger_map)


def test_when_those_of_the_beginning_are_gone_it_does_the_rest_alone() -> None:
    rig = rig_of(1)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(30):
        rig.step()
    rig.join()
    rig.until(lambda: rig.workers[1].joined and rig.controller.scan.places[1].here)
    rig.kill(0)
    for _ in range(20):
        rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert [t for t in rig.report["troubles"] if "worker w0: it was lost" in t]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", range(20, 150, 26))
def test_a_new_controller_comes_to_the_same_places(at: int, seed: int) -> None:
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    rig = rig_of(2, seed=seed, joins={at - 2 * seed, at + 5})
    play(rig, trigger_map, {"a": series("a", 40)}, {at: CONTROLLER}, back=10)
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    nothing_of_joined_is_folded_of_broadcasts(rig, 2)
    assert [len(rig.report["workers"]), len(rig.late)] == [4, 4 - 2] or at > 100  # later there may be nothing left


@given(st.data())
@settings(max_examples=150)
def test_joins_beside_any_deaths_change_nothing(data: st.DataObject) -> None:
    casts = data.draw(st.booleans(), label="broadcasts")
    n = data.draw(st.integers(1, 40), label="events")
    if casts:
        cells = [[{"constraint": None if i % 7 == 3 else i // 2}] for i in range(n)]
        trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    else:
        trigger_map = uniform(["a"], data.draw(st.sampled_from([n, None])), data.draw(st.integers(1, 5)))
    workers = data.draw(st.integers(1, 3), label="workers")
    moments = st.integers(1, 300)
    rig = rig_of(
        workers, seed=data.draw(st.integers(0, 1 << 16)), joins=data.draw(st.sets(moments, max_size=3)), credit=60
    )
    rig.falls = data.draw(st.dictionaries(moments, st.booleans(), max_size=2), label="falls")
    deaths = data.draw(st.dictionaries(moments, st.integers(0, workers - 1), max_size=3), label="deaths")
    deaths |= data.draw(st.dictionaries(moments, st.sampled_from([CONTROLLER, REDUCER]), max_size=1), label="other")
    play(rig, trigger_map, {"a": series("a", n)}, deaths, data.draw(st.integers(1, 30), label="back"))
    for _ in range(15):
        rig.settle()
    assert rig.report["ended"] == "finished"
    assert rig.report["states"] == {"reduced": n}
    folded_once(rig, trigger_map)
    assert sorted({f.event for f in rig.folded if 1 <= f.event <= n}) == list(range(1, n + 1))
    nothing_of_joined_is_folded_of_broadcasts(rig, workers)
    # What a controller had not told everybody when it died may go to another worker, whatever that has seen.
    if casts and not rig.report["troubles"]:
        casts_in_order(rig, trigger_map)


@given(st.data())
@settings(max_examples=60)
def test_whatever_dies_with_an_ingester_is_named_also_where_workers_joined(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30), label="events")
    moments = st.integers(1, 200)
    deaths = data.draw(st.dictionaries(moments, st.sampled_from([INGESTER, REDUCER, 0, 1]), max_size=3))
    deaths[data.draw(moments)] = INGESTER
    rig = rig_of(2, seed=data.draw(st.integers(0, 1 << 16)), joins=data.draw(st.sets(moments, max_size=3)), credit=60)
    play(rig, uniform(["a"], n), {"a": series("a", n)}, deaths, data.draw(st.integers(1, 30), label="back"))
    whole_or_named(rig, n)


CELLS: list[Any] = [["own"]] * 5 + [["cast"], ["own", "cast"], None, []]
"""What a stream has in an event: frames for somebody, for all, none, or one that nobody gets."""


def any_map(data: st.DataObject, streams: str, n: int) -> dict[str, Any]:
    """Runs of virtual workers, broadcasts among them, and perhaps events that are both."""
    run = data.draw(st.integers(1, 3), label="run")
    both = data.draw(st.booleans(), label="both")
    columns: dict[str, Any] = {s: [] for s in streams}
    for event in range(n):
        cells = st.sampled_from(CELLS if both else [["cast"], None, []] if event % 7 == 3 else [["own"], None])
        for s in streams:
            cell = data.draw(cells)
            own = {"own": {"constraint": event // run}, "cast": {"constraint": None}}
            columns[s].append(None if cell is None else [own[what] for what in cell])
    return {"parts": {"p": columns}, "sequence": ["p"]}


def recorded(
    seed: int, folder: Path, joins: Collection[int], body: Any, deaths: Mapping[int, int], lost: Collection[int] = ()
) -> JoiningApp:
    """A recorded scan that workers joined; after so many steps one of the first two died and was replaced."""
    app = app_of(CombiningRig, write_apps(folder))
    policy = Policy(fold_patience=1e9, record=f"{folder}/recordings", app=app)
    rig = JoiningApp({"i": [("a", True)], "j": [("b", True)]}, [["generic"]] * 2, seed=seed, policy=policy)
    rig.joins = joins
    written = WrittenMap.of(json.dumps(body).encode())
    trigger_map = written.compile()
    rig.submit(trigger_map, written=written)
    rig.until(lambda: 1 in rig.replies)
    for s, stream in enumerate(trigger_map.streams):
        frames = (trigger_map.frame_count(s) or 2) - 2
        rig.detector(stream, series(stream, frames, lost={i for i in lost if i < frames}))
    for at in range(max(deaths, default=0)):
        rig.step()
        if (who := deaths.get(at + 1)) is not None:
            rig.kill(who)
            rig.replace(who)
    rig.settle()
    return rig


def replays(rig: JoiningApp) -> None:
    """Its recording gives the same state again, and all results are those that were recorded."""
    folded, report, digests = replayed(rig)
    assert folded == rig.publish["folded"]
    assert (report.states, report.events) == (rig.report["states"], rig.report["events"])
    assert digests.differing == []


@pytest.mark.parametrize("death", [0, 70])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "body",
    [{"streams": ["a"], "events": 40}, {"parts": {"p": {"a": CAST}}, "sequence": ["p"]}],
    ids=["uniform", "broadcasts"],
)
def test_a_recording_of_a_scan_that_workers_joined_replays_to_the_same_state(
    body: Any, seed: int, death: int, tmp_path: Path
) -> None:
    rig = recorded(seed, tmp_path, {40, 60}, body, {death: 0} if death else {})
    assert sorted(rig.report["workers"]) == ["w0", "w1", "w2", "w3"]
    assert {"w2", "w3"} & {worker for _, worker, _ in rig.publish["folded"]}
    replays(rig)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_live_is_replay_of_any_scan_that_workers_joined(data: st.DataObject) -> None:
    """Whatever the map and its broadcasts, with frames that are missing, and with losses."""
    n = data.draw(st.integers(10, 40), label="events")
    body = any_map(data, data.draw(st.sampled_from(["a", "ab"]), label="streams"), n)
    joins = data.draw(st.sets(st.integers(1, 150), min_size=1, max_size=3), label="joins")
    deaths = data.draw(st.dictionaries(st.integers(1, 200), st.integers(0, 1), max_size=2), label="deaths")
    lost = data.draw(st.sets(st.integers(0, n - 1), max_size=3), label="lost")
    with tempfile.TemporaryDirectory() as name:
        rig = recorded(data.draw(st.integers(0, 1 << 16), label="seed"), Path(name), joins, body, deaths, lost)
        assert rig.report["ended"] == "finished"
        replays(rig)
