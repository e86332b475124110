"""Workers that die, at any moment and in any order: the scan ends by itself with every part folded once."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.recovery import Recovery
from beamfold.dispatch.scans import Policy
from beamfold.model.triggermap import TriggerMap, WrittenMap, compile_map
from beamfold.protocols.messages import Arm, Inventory
from rig import Rig
from unit.test_scan_in_memory import series, uniform

PATIENT = Policy(fold_patience=1e9)
CAST = [[{"constraint": None if i % 10 == 5 else i}] for i in range(40)]


def play(rig: Rig, trigger_map: Any, streams: dict[str, list[Any]], deaths: dict[int, int], back: int = 3) -> None:
    """Run a scan; after so many steps a worker dies, and `back` steps later there is another in its place."""
    rig.submit(trigger_map)
    rig.until(lambda: 1 in rig.replies)
    for stream, items in streams.items():
        rig.detector(stream, items)
    births: dict[int, list[int]] = {}
    steps = 0
    while rig.step() or any(at >= steps for at in (*deaths, *births)):
        steps += 1
        for who in births.pop(steps, []):
            if who == REDUCER:
                rig.replace_reducer()
            elif who == CONTROLLER:
                rig.replace_controller()
            elif who == INGESTER:
                rig.replace_ingester("i")
            else:
                rig.replace(who)
        who = deaths.get(steps)
        if who == STOP and not rig.controller_dead:
            rig.stop()
        if who == PARAMETER and not rig.controller_dead:
            rig.set_parameter(b"%d" % steps)
        if who in (None, STOP, PARAMETER) or (who == CONTROLLER and rig.controller_dead):
            continue
        if who == INGESTER and (not rig.process_of["i"] or not rig.ingest[rig.process_of["i"]]):
            continue
        if not rig.reducer if who == REDUCER else who >= 0 and rig.workers[who].dead:
            continue
        if who == REDUCER:
            rig.kill_reducer()
        elif who == CONTROLLER:
            rig.kill_controller()
        elif who == INGESTER:
            rig.kill_ingester("i")
        else:
            rig.kill(who)
        births.setdefault(steps + back, []).append(who)
        if steps > 20_000:
            raise AssertionError("it never comes to rest")
    rig.settle(waiting=STOP in deaths.values())


def folded_once(rig: Rig, trigger_map: TriggerMap) -> None:
    """Every data event's parts were folded, each of them once."""
    parts = [(f.event, f.k) for f in rig.folded]
    assert len(parts) == len(set(parts))


def casts_in_order(rig: Rig, trigger_map: TriggerMap) -> None:
    """Every process saw all broadcasts between its other events: those before them before, those after them after."""
    casts = [e for e in range(trigger_map.n_events or 0) if trigger_map.groups_of(e)]
    for process in {p for p, _ in rig.worked}:
        seen = [part.event for p, part in rig.worked if p == process and part.call]
        for cast in casts:
            if cast in seen:
                at = seen.index(cast)
                assert all(e <= cast for e in seen[:at]) and all(e >= cast for e in seen[at:]), (process, cast, seen)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("at", [1, 10, 30, 60, 100])
def test_a_killed_worker_changes_nothing(seed: int, at: int) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    trigger_map = uniform(["a", "b"], 40)
    play(rig, trigger_map, {"a": series("a", 40), "b": series("b", 40)}, {at: seed % 2})
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert rig.report["ended"] == "finished"
    assert [f.event for f in rig.folded] == [0, 0, *range(1, 41), 41, 41]


@pytest.mark.parametrize("seed", range(8))
def test_the_only_worker_may_die_and_be_replaced(seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"]], seed=seed, policy=PATIENT)
    play(rig, uniform(["a"], 30), {"a": series("a", 30, lost={4})}, {10 + seed: 0, 40 + 2 * seed: 0})
    assert rig.report["states"] == {"reduced": 29, "incomplete (skipped)": 1}
    assert len(rig.report["losses"]) == 2
    folded_once(rig, rig.controller.scan.map)


@pytest.mark.parametrize("seed", range(12))
def test_a_replacement_sees_the_broadcasts_before_its_events_and_none_after(seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"], ["generic"]], seed=seed, policy=PATIENT)
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    play(rig, trigger_map, {"a": series("a", 40)}, {20 + 7 * seed: seed % 3})
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)


@pytest.mark.parametrize("seed", range(5))
def test_a_lost_broadcast_is_known_to_a_replacement_long_after(seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    play(rig, trigger_map, {"a": series("a", 40, lost={5, 6})}, {150 + seed: 0})
    assert rig.report["ended"] == "finished"
    assert rig.report["states"] == {"reduced": 38, "incomplete (skipped)": 2}


def test_a_place_that_nobody_fills_is_given_up_and_the_others_finish() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(30):
        rig.step()
    rig.kill(0)
    for _ in range(20):
        rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert [t for t in rig.report["troubles"] if "no other took its place" in t]


def test_when_nobody_is_left_the_scan_ends_and_says_so() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(30):
        rig.step()
    rig.kill(0)
    while rig.controller.scan.active:
        while rig.step():
            pass
        rig.now += 3
        rig._perform(rig.controller.tick(rig.now))
    assert rig.report["ended"] == "failed"
    assert "no other took its place within 30 s: only 0 workers available, but 1 required" in rig.report["reason"]
    assert rig.report["states"]["lost"] > 0


def test_an_event_that_ends_its_process_twice_is_poison() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 20))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 8, end=False))
    for _ in range(25):
        rig.step()
    scan = rig.controller.scan
    for worker in (0, 1):
        rig.kill(worker, event=7)
        rig.replace(worker)
        for _ in range(10):
            rig.step()
    assert scan.poison == [7]
    rig.detector("a", series("a", 20)[4:])
    rig.settle()
    assert rig.report["ended"] == "finished"


REDUCER = -1
CONTROLLER = -2
INGESTER = -3
STOP = -4
PARAMETER = -5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("at", [1, 10, 30, 60, 100, 140])
@pytest.mark.parametrize("who", [REDUCER, CONTROLLER])
def test_a_killed_reducer_or_controller_changes_nothing(who: int, seed: int, at: int) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    play(rig, uniform(["a", "b"], 40), {"a": series("a", 40), "b": series("b", 40)}, {at: who})
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert rig.report["ended"] == "finished"
    assert [f.event for f in rig.folded] == [0, 0, *range(1, 41), 41, 41]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("at", [1, 10, 30, 60, 100, 140])
@pytest.mark.parametrize("streams", ["a", "ab"])
def test_a_killed_ingester_takes_along_only_frames_that_are_named(streams: str, seed: int, at: int) -> None:
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    rig = Rig(inputs, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    play(rig, uniform(list(streams), 40), {s: series(s, 40) for s in streams}, {at: INGESTER})
    whole_or_named(rig, 40)


def whole_or_named(rig: Rig, n: int) -> None:
    """Every event was folded once and whole, or the report says what it lacked.

    Where the rest of the series went with its ingester nobody can know that; then a person stops the scan.
    """
    for _ in range(10):
        rig.settle(waiting=True)
    scan = rig.controller.scan
    if scan is not None and scan.active:
        assert scan.bereft
        rig.stop()
        rig.settle()
    report = rig.report
    assert report["ended"] in ("finished", "stopped")
    assert sum(report["states"].values()) == report["events"] <= n
    n = report["events"]
    assert set(report["states"]) <= {"reduced", "incomplete", "incomplete (skipped)"}
    assert rig.reduce_map is not None
    folded_once(rig, rig.reduce_map)
    lacking = {e for state, runs in report["runs"].items() for lo, hi in runs for e in range(lo, hi)}
    told = [*report["incomplete"].values(), *(stream["missing"] for stream in report["streams"].values())]
    missing = {e for runs in told for lo, hi in runs for e in range(lo, hi)}
    assert lacking <= missing
    assert all(f.event <= n + 1 for f in rig.folded if f.streams), "nothing of events that the scan does not have"
    in_force = [(v["from_event"], v["version"]) for v in report["parameters"]]
    assert all(f.version == [v for begin, v in in_force if begin <= f.event][-1] for f in rig.folded if f.streams)
    folded = [f for f in rig.folded if 1 <= f.event <= n]
    assert {f.event for f in folded} >= set(range(1, n + 1)) - lacking
    if rig.reduce_map.uniform:
        part = {f.event for f in folded if set(f.streams) != set(rig.reduce_map.streams)}
        assert {f.event for f in folded} - part == set(range(1, n + 1)) - lacking
    ends_whole_or_named(rig)


def test_what_only_a_lost_ingester_had_said_to_be_missing_another_controller_names() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]] * 2, policy=PATIENT)
    rig.submit(uniform(["a", "b"], 30))
    rig.until(lambda: 1 in rig.replies)
    items = {"a": series("a", 30, lost={3}), "b": series("b", 30)}
    for stream in "ab":
        rig.detector(stream, items[stream][:6])
    rig.settle()
    rig.kill_ingester("i")
    rig.kill_controller()
    rig.replace_ingester("i")
    rig.replace_controller()
    rig.settle()
    for stream in "ab":
        rig.detector(stream, items[stream][6:])
    rig.settle()
    assert (rig.report["ended"], rig.report["incomplete"]) == ("finished", {"a": [(4, 5)]})
    assert (4, 5) in rig.report["streams"]["a"]["missing"]


def ends_whole_or_named(rig: Rig) -> None:
    """Every worker had every start and end message, or the report says so of those that it lacks."""
    report, trigger_map = rig.report, rig.reduce_map
    assert trigger_map is not None and trigger_map.n_events is not None
    for event in (0, trigger_map.n_events - 1):
        for stream in trigger_map.streams:
            named = any(text.startswith(f"stream {stream}: event {event} lacks") for text in report["troubles"])
            lacks = any(stream not in f.streams for f in rig.folded if f.event == event)
            open_ = report["ended"] == "stopped" and report["streams"][stream]["phase"] != "ended"
            assert named == lacks or (open_ and lacks), (event, stream, report["troubles"])


def test_a_reducer_that_every_time_ends_fails_the_scan() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40)[:-2])
    for end in range(6):
        assert rig.controller.scan.active, f"it was ended {end} times"
        for _ in range(20):
            rig.step()
        rig.kill_reducer()
        rig.replace_reducer()
    assert rig.report["ended"] == "failed"
    assert "the reducer ended 6 times within 60 s" in rig.report["reason"]
    rig.settle(waiting=True)
    assert not rig.controller.scan.active


def test_without_another_reducer_the_scan_ends_and_says_so() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(30):
        rig.step()
    rig.kill_reducer()
    while rig.controller.scan.active:
        while rig.step():
            pass
        rig.now += 3
        rig._perform(rig.controller.tick(rig.now))
    assert rig.report["ended"] == "failed"
    assert rig.report["reason"] == "the reducer was lost, and no other came within 30 s"


@given(st.data())
@settings(max_examples=150)
def test_any_deaths_of_any_workers_change_nothing(data: st.DataObject) -> None:
    casts = data.draw(st.booleans(), label="broadcasts")
    n = data.draw(st.integers(1, 40), label="events")
    if casts:
        cells = [[{"constraint": None if i % 7 == 3 else i // 2}] for i in range(n)]
        trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    else:
        trigger_map = uniform(["a"], data.draw(st.sampled_from([n, None])), data.draw(st.integers(1, 5)))
    workers = data.draw(st.integers(1, 3), label="workers")
    deaths = data.draw(
        st.dictionaries(st.integers(1, 300), st.integers(REDUCER, workers - 1), max_size=5), label="deaths"
    )
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig({"i": [("a", True)]}, [["generic"]] * workers, seed=seed, policy=PATIENT, credit=60)
    play(rig, trigger_map, {"a": series("a", n)}, deaths, data.draw(st.integers(1, 30), label="back"))
    assert rig.report["ended"] == "finished"
    assert rig.report["states"] == {"reduced": n}
    folded_once(rig, trigger_map)
    data_events = sorted({f.event for f in rig.folded if 1 <= f.event <= n})
    assert data_events == list(range(1, n + 1))
    if casts:
        casts_in_order(rig, trigger_map)


@given(st.data())
@settings(max_examples=150)
def test_whatever_dies_with_an_ingester_every_event_is_whole_or_named(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30), label="events")
    streams = data.draw(st.sampled_from(["a", "ab"]), label="streams")
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    who = st.sampled_from([INGESTER, REDUCER, PARAMETER, 0, 1])
    deaths = data.draw(st.dictionaries(st.integers(1, 200), who, max_size=6), label="deaths")
    deaths[data.draw(st.integers(1, 200))] = INGESTER
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig(inputs, [["generic"]] * 2, seed=seed, policy=PATIENT, credit=60)
    trigger_map = uniform(list(streams), n, data.draw(st.integers(1, 5)))
    play(rig, trigger_map, {s: series(s, n) for s in streams}, deaths, data.draw(st.integers(1, 30), label="back"))
    whole_or_named(rig, n)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at", [20, 60, 100])
@pytest.mark.parametrize("after", [-3, -1, 1, 3])
def test_a_scan_that_is_stopped_while_an_ingester_is_away_ends_as_stopped(after: int, at: int, seed: int) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]] * 2, seed=seed, policy=PATIENT)
    streams = {s: series(s, 60)[:50] for s in "ab"}
    play(rig, uniform(["a", "b"], 60), streams, {at: INGESTER, at + after: STOP}, 5)
    assert not rig.controller.scan.active
    assert rig.report["ended"] == "stopped"
    whole_or_named(rig, 60)


@given(st.data())
@settings(max_examples=150)
def test_whoever_dies_a_scan_that_is_stopped_ends(data: st.DataObject) -> None:
    casts = data.draw(st.booleans(), label="broadcasts")
    n = data.draw(st.integers(1, 40), label="events")
    streams = data.draw(st.sampled_from(["a", "ab"]), label="streams")
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    durable = data.draw(st.booleans(), label="durable")
    if casts:
        cells = [[{"constraint": None if i % 3 == 2 else i // 2}] for i in range(n)]
        trigger_map = compile_map({"parts": {"p": dict.fromkeys(streams, cells)}, "sequence": ["p"]})
    else:
        trigger_map = uniform(list(streams), data.draw(st.sampled_from([n, None])), data.draw(st.integers(1, 5)))
    who = st.sampled_from([INGESTER, INGESTER, REDUCER, PARAMETER, 0, 1])
    deaths = data.draw(st.dictionaries(st.integers(1, 200), who, max_size=6), label="deaths")
    deaths[data.draw(st.integers(1, 200), label="stop")] = STOP
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig(inputs, [["generic"]] * 2, seed=seed, policy=PATIENT, credit=60, durable=durable)
    back = data.draw(st.integers(1, 30), label="back")
    play(rig, trigger_map, {s: series(s, n)[:-1] for s in streams}, deaths, back)
    for _ in range(10):
        rig.settle(waiting=True)
    assert not rig.controller.scan.active
    whole_or_named(rig, n)


def only_sockets_lose(rig: Rig, n: int) -> None:
    """The scan ends by itself, every event was folded once, and just those that are named lack what was in a socket.

    Of an endless map nobody can know that the last frame of all was there.
    """
    report = rig.report
    assert report["ended"] == "finished"
    assert report["events"] == n or rig.controller.scan.planned is None
    n = report["events"]
    assert sum(report["states"].values()) == n
    folded_once(rig, rig.controller.scan.map)
    lacking = {e for state, runs in report["runs"].items() for lo, hi in runs for e in range(lo, hi)}
    assert lacking == {number + 1 for numbers in rig.gone_in_sockets.values() for number in numbers if number < n}
    for stream, facts in report["streams"].items():
        gone = {number + 1 for number in rig.gone_in_sockets.get(stream, ()) if number < n}
        told = [*facts["missing"], *report["incomplete"].get(stream, [])]
        assert {e for lo, hi in told for e in range(lo, hi)} == gone
        if facts["phase"] == "ended":  # else its ingester was lost when nobody needed it any more
            assert facts["frames"] == n - len(gone)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("at", [10, 30, 60, 100, 140])
@pytest.mark.parametrize("streams", ["a", "ab"])
def test_a_killed_ingester_of_durable_streams_loses_only_what_was_in_its_socket(
    streams: str, seed: int, at: int
) -> None:
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    rig = Rig(inputs, [["generic"], ["generic"]], seed=seed, policy=PATIENT, durable=True)
    deaths = {at: INGESTER, at + 20: INGESTER}
    play(rig, uniform(list(streams), 40), {s: series(s, 40) for s in streams}, deaths)
    only_sockets_lose(rig, 40)


@given(st.data())
@settings(max_examples=150)
def test_any_deaths_lose_only_what_was_in_the_socket_of_a_durable_stream(data: st.DataObject) -> None:
    casts = data.draw(st.booleans(), label="broadcasts")
    n = data.draw(st.integers(1, 40), label="events")
    streams = data.draw(st.sampled_from(["a", "ab"]), label="streams")
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    if casts:
        cells = [[{"constraint": None if i % 7 == 3 else i // 2}] for i in range(n)]
        trigger_map = compile_map({"parts": {"p": dict.fromkeys(streams, cells)}, "sequence": ["p"]})
    else:
        trigger_map = uniform(list(streams), data.draw(st.sampled_from([n, None])), data.draw(st.integers(1, 5)))
    who = st.sampled_from([INGESTER, INGESTER, REDUCER, 0, 1])
    deaths = data.draw(st.dictionaries(st.integers(1, 300), who, max_size=6), label="deaths")
    deaths[data.draw(st.integers(1, 200))] = INGESTER
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig(inputs, [["generic"]] * 2, seed=seed, policy=PATIENT, credit=60, durable=True)
    play(rig, trigger_map, {s: series(s, n) for s in streams}, deaths, data.draw(st.integers(1, 30), label="back"))
    only_sockets_lose(rig, n)
    if casts:
        casts_in_order(rig, trigger_map)


def mixed(n: int) -> dict[str, Any]:
    """Virtual workers that reach to the end of the scan, parts for two of them in an event, broadcasts in between."""
    return {
        "a": [[{"constraint": None}] if i % 7 == 3 else [{"constraint": i // 2 % 5}] for i in range(n)],
        "b": [[{"constraint": None}] if i % 5 == 4 else [{"constraint": (i + 1) // 3 % 5}] for i in range(n)],
    }


MIXED = mixed(24)


@given(st.data())
@settings(max_examples=60)
def test_what_a_lost_worker_had_is_done_before_a_broadcast_though_all_others_have_much_to_do_behind_it(
    data: st.DataObject,
) -> None:
    """Virtual workers that reach to the end of the scan, so that everybody has more than is asked for at once."""
    n = data.draw(st.sampled_from([24, 100]), label="events")
    streams = data.draw(st.sampled_from(["a", "ab"]), label="streams")
    workers = data.draw(st.integers(2, 4), label="workers")
    who = st.integers(REDUCER, workers - 1)
    deaths = data.draw(st.dictionaries(st.integers(1, 300), who, min_size=1, max_size=5), label="deaths")
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig(inputs, [["generic"]] * workers, seed=seed, policy=PATIENT, credit=60)
    trigger_map = compile_map({"parts": {"p": {s: mixed(n)[s] for s in streams}}, "sequence": ["p"]})
    play(rig, trigger_map, {s: series(s, n) for s in streams}, deaths, data.draw(st.integers(1, 30), label="back"))
    assert rig.report["ended"] == "finished"
    assert rig.report["states"] == {"reduced": n}
    folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)


@given(st.data())
@settings(max_examples=100)
def test_whoever_dies_together_with_a_controller_changes_nothing(data: st.DataObject) -> None:
    """Several at nearly the same time: minus what died with an ingester, which is named."""
    casts = data.draw(st.booleans(), label="broadcasts")
    streams = data.draw(st.sampled_from(["a", "ab"]), label="streams")
    n = 24
    if casts:
        trigger_map = compile_map({"parts": {"p": {s: MIXED[s] for s in streams}}, "sequence": ["p"]})
    else:
        trigger_map = uniform(list(streams), n, data.draw(st.integers(1, 5)))
    ingesters = data.draw(st.booleans(), label="ingesters, too")
    workers = data.draw(st.integers(1 + ingesters, 3), label="workers")  # somebody has to be left who knows of the scan
    others = st.sampled_from([REDUCER, INGESTER, 0] if ingesters else [REDUCER, *range(workers)])
    deaths: dict[int, int] = {}
    for at in data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=2), label="at"):
        together = [CONTROLLER, *data.draw(st.lists(others, min_size=1, max_size=3))]
        deaths |= dict(enumerate(data.draw(st.permutations(together)), at))
    back = data.draw(st.integers(1, 30), label="back")
    inputs = {"i": [("a", True)], "j": [("b", True)]} if len(streams) > 1 else {"i": [("a", True)]}
    seed = data.draw(st.integers(0, 1 << 16), label="seed")
    rig = Rig(inputs, [["generic"]] * workers, seed=seed, policy=PATIENT, credit=60)
    play(rig, trigger_map, {s: series(s, n) for s in streams}, deaths, back)
    if rig.controller.scan is None and not rig.controller.reports:
        return  # nobody is left who knew of it
    if INGESTER in deaths.values():
        whole_or_named(rig, n)
    else:
        assert rig.report["ended"] == "finished"
        assert rig.report["states"] == {"reduced": n}
        folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)


@pytest.mark.parametrize("who", [REDUCER, 0, INGESTER])
@pytest.mark.parametrize("seed", range(4))
def test_who_ends_before_the_scan_is_taken_up_is_lost(who: int, seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(40):
        rig.step()
    rig.kill_controller()
    rig.replace_controller()

    def said() -> bool:
        recovery = rig.controller._scans.recovery
        kinds = {REDUCER: "reducers", INGESTER: "ingesters"}
        return recovery is not None and bool(getattr(recovery, kinds.get(who, "workers")))

    rig.until(lambda: said() or rig.controller.scan is not None)
    if who == REDUCER:
        rig.kill_reducer()
        rig.replace_reducer()
    elif who == INGESTER:
        rig.kill_ingester("i")
        rig.replace_ingester("i")
    else:
        rig.kill(who)
        rig.replace(who)
    whole_or_named(rig, 40)
    if who != INGESTER:
        assert rig.report["summary"] == "40 events: 40 reduced"


def test_parameters_that_were_taken_while_the_controller_died_are_put_in_force() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], policy=PATIENT)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 10, end=False))
    for _ in range(40):
        rig.step()
    rig.set_parameter(b"1")
    for (src, _), queue in rig.channels.items():
        if src == "controller":
            queue.clear()  # nobody hears of it
    rig.kill_controller()
    rig.replace_controller()
    while rig.step():
        pass
    rig.detector("a", series("a", 40)[4:])
    rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert [v["values"]["p"] for v in rig.report["parameters"]] == ["0", "1"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", range(20, 150, 26))
def test_what_a_lost_worker_had_before_a_broadcast_waits_for_its_replacement_also_at_a_new_controller(
    at: int, seed: int
) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"], ["generic"]], seed=seed, policy=PATIENT)
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    play(rig, trigger_map, {"a": series("a", 40)}, {at: CONTROLLER, at + 1: seed % 3}, back=12)
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", range(20, 150, 26))
def test_so_does_what_the_one_before_knew_to_be_lost(at: int, seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"], ["generic"]], seed=seed, policy=PATIENT)
    trigger_map = compile_map({"parts": {"p": {"a": CAST}}, "sequence": ["p"]})
    rig.submit(trigger_map)
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(at):
        rig.step()
    rig.kill(seed % 3)
    while any(queue for (src, _), queue in rig.channels.items() if src == "controller"):
        rig.step()
    rig.kill_controller()
    rig.replace_controller()
    rig.replace(seed % 3)
    rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    folded_once(rig, trigger_map)
    casts_in_order(rig, trigger_map)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("who", [REDUCER, 0])
@pytest.mark.parametrize("at", range(0, 24, 2))
def test_a_service_that_is_killed_while_a_scan_is_armed_changes_nothing(at: int, who: int, seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], seed=seed, policy=PATIENT)
    rig.submit(uniform(["a"], 20))
    for _ in range(at):
        rig.step()
    if who == REDUCER:
        rig.kill_reducer()
    else:
        rig.kill(who)
    for _ in range(3 * seed):
        rig.step()
    if who == REDUCER:
        rig.replace_reducer()
    else:
        rig.replace(who)
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 20))
    rig.settle()
    assert rig.report["summary"] == "20 events: 20 reduced"
    assert rig.report["ended"] == "finished"


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("at", range(1, 70, 3))
def test_an_event_that_is_broadcast_and_a_workers_own_is_done_once(at: int, who: int) -> None:
    cells = [
        [{"constraint": None}, {"constraint": c}] if i % 2 else [{"constraint": c}]
        for i, c in enumerate([3, 3, 0, 3, 0])
    ]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]}, True)
    for seed, back in ((1, 1), (2, 5), (3, 15)):
        rig = Rig({"i": [("a", True)]}, [["generic"]] * 2, seed=seed, policy=PATIENT, credit=60)
        play(rig, trigger_map, {"a": series("a", len(cells))}, {at: who}, back)
        assert rig.report["summary"] == "5 events: 5 reduced"
        folded_once(rig, trigger_map)


@pytest.mark.parametrize("at", range(10, 120, 10))
def test_what_is_broadcast_in_an_event_of_a_lost_worker_is_seen_with_its_part_or_alone(at: int) -> None:
    """Two streams, of which one lacks a frame, and three workers, one of which is lost."""
    cast = [{"constraint": None}]
    cells = {
        "a": [[{"constraint": i % 4}] for i in range(12)],
        "b": [cast if i % 3 == 1 else [{"constraint": (i + 1) % 4}] for i in range(12)],
    }
    trigger_map = compile_map({"parts": {"p": cells}, "sequence": ["p"]})
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]] * 3, seed=at, policy=PATIENT, credit=60)
    play(rig, trigger_map, {"a": series("a", 12), "b": series("b", 12, lost={4})}, {at: at // 10 % 3}, 15)
    assert rig.report["states"] == {"reduced": 11, "incomplete (skipped)": 1}
    folded_once(rig, trigger_map)
    for f in rig.folded:
        if 1 <= f.event <= 12 and f.event % 3 == 2 and f.event != 5 and f.k >= 0:
            assert f.streams == ("a", "b")
    casts_in_order(rig, trigger_map)


@pytest.mark.parametrize("seed", range(8))
def test_what_a_new_controller_adds_to_a_recording_can_be_read(seed: int) -> None:
    """Also where a worker was lost and its virtual workers are nobody's just then."""
    written = WrittenMap.of(b'{"streams": ["a"], "events": 40}', True)
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], seed=seed, policy=Policy(record="recordings"))
    rig.submit(written.compile(), written=written)
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    for _ in range(30 + 5 * seed):
        rig.step()
    rig.kill(0)
    rig.kill_controller()
    rig.replace_controller()
    rig.replace(0)
    rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    lines = [json.loads(file.content) for file in rig.files if file.append]
    owners = {worker for line in lines for _, _, worker in line.get("blocks", ())}
    assert owners <= {0, 1}


def test_a_new_controller_knows_the_plan_though_some_were_armed_after_the_map_was_closed() -> None:
    """They have only what was left of it."""
    written = WrittenMap.of(b'{"streams": ["a"], "events": 40}', True)
    arm = Arm(1, "scan-1", written.compile().closed_at(5).to_wire(), [], [], "", 0, {})
    whole = Inventory(1, msgspec.structs.replace(arm, map=written.compile().to_wire()))
    recovery = Recovery(arm, 0.0)
    assert recovery.plan().n_events == 7
    recovery.add("reducer", b"r", whole)
    assert recovery.plan().n_events == 42


def test_what_one_controller_had_heard_of_is_in_the_report_of_the_next() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"]] * 2, policy=PATIENT)
    rig.submit(uniform(["a"], 30))
    rig.until(lambda: 1 in rig.replies)
    items = series("a", 30)
    rig.detector("a", items[:6])
    rig.settle()
    rig.kill(0)
    rig.replace(0)
    rig.controller.trouble("scan-1", "somebody", "went wrong")
    rig.settle()
    before = rig.controller.scan.report
    rig.kill_controller()
    rig.replace_controller()
    rig.detector("a", items[6:])
    rig.settle()
    assert [loss["service"] for loss in rig.report["losses"]] == ["worker w0", "controller"]
    assert rig.report["redone"] == before.redone
    assert rig.report["troubles"] == ["somebody: went wrong"]
    assert rig.report["states"] == {"reduced": 30}
