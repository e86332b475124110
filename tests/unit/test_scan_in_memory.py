"""A whole scan through all machines, with messages between them arriving in any order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.scans import Policy
from beamfold.model.triggermap import compile_map
from beamfold.protocols.items import Data, End, Start
from rig import Rig


def frame(stream: str, number: int) -> list[bytes]:
    return [f"{stream} {number}".encode(), b"x" * 20]


def series(
    stream: str, n: int, lost: set[int] = frozenset(), numbered: bool = True, chunk: int = 3, end: bool = True
) -> list:
    """Start, frames 0..n-1 without the lost ones in chunks, end."""
    items: list = [Start([f"{stream} start".encode()], None)]
    kept = [i for i in range(n) if i not in lost]
    for at in range(0, len(kept), chunk):
        part = kept[at : at + chunk]
        items.append(Data(part if numbered else None, [frame(stream, i) for i in part]))
    return items + ([End([f"{stream} end".encode()])] if end else [])


def uniform(streams: object, events: int | None, batch: int = 1) -> object:
    return compile_map({"streams": streams, "events": events, "batch": batch})


def data_parts(rig: Rig) -> list:
    return [p for _, p in rig.processed if p.call]


@pytest.mark.parametrize("seed", range(5))
def test_a_scan_of_one_stream_reduces_every_event_in_order(seed: int) -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]], seed=seed)
    rig.submit(uniform(["a"], 40))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    assert rig.report["ended"] == "finished"
    assert [f.event for f in rig.folded] == [0, 0, *range(1, 41), 41, 41]


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_missing_from_one_of_two_joined_streams_is_one_incomplete_event_that_names_it(
    seed: int,
) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]], seed=seed)
    rig.submit(uniform(["a", "b"], 20))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 20))
    rig.detector("b", series("b", 20, lost={6}))
    rig.settle()
    assert rig.report["states"] == {"reduced": 19, "incomplete": 1}
    assert rig.report["runs"] == {"incomplete": [(7, 8)]}
    assert rig.report["streams"]["b"]["missing"] == [(7, 8)]
    for _, part in rig.processed:
        if part.call and 1 <= part.event <= 20:
            for name, data in part.streams.items():
                assert data.frames == frame(name, part.event - 1)


def test_a_stream_that_ends_early_leaves_incomplete_events_and_the_scan_ends() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a", "b"], 20))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 20))
    rig.detector("b", series("b", 12))
    rig.settle()
    assert rig.report["states"] == {"reduced": 12, "incomplete": 8}


def test_when_every_series_ends_early_the_rest_lacks_its_frames() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a", "b"], 1000))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 7))
    rig.detector("b", series("b", 9))
    rig.settle()
    assert rig.report["summary"] == "1000 events: 7 reduced, 2 incomplete, 991 incomplete (skipped)"
    assert rig.report["ended"] == "finished"


def test_a_counted_stream_that_comes_up_short_makes_its_events_unverified() -> None:
    rig = Rig({"i": [("a", True)], "j": [("c", False)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a", "c"], 10))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 10))
    rig.detector("c", series("c", 9, numbered=False))
    rig.settle()
    assert rig.report["states"] == {"unverified": 9, "incomplete": 1}
    assert rig.report["streams"]["c"]["verified"] is False
    assert rig.report["streams"]["c"]["matching"] == "counted"


def test_an_endless_scan_runs_until_its_series_end() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a"], None))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 123))
    rig.settle()
    assert rig.report["summary"] == "123 events: 123 reduced"


@pytest.mark.parametrize("sent", [0, 1, 17])
def test_a_stopped_scan_processes_what_has_arrived_and_says_so(sent: int) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a", "b"], 100))
    rig.until(lambda: 1 in rig.replies)
    if sent:
        rig.detector("a", series("a", sent, end=False))
        rig.detector("b", series("b", sent, end=False))
    while rig.step():
        pass
    rig.stop()
    rig.settle()
    assert rig.report["ended"] == "stopped"
    assert rig.report["events"] == sent
    assert rig.report["states"] == ({"reduced": sent} if sent else {})
    assert rig.report["unreached"] == 100 - sent


def test_a_new_scan_in_mid_scan_stops_the_old_one_and_runs() -> None:
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]])
    rig.submit(uniform(["a"], 100), 1)
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 30, end=False))
    for _ in range(60):
        rig.step()
    rig.submit(uniform(["a"], 10, batch=2), 2)
    rig.until(lambda: 2 in rig.replies)
    rig.detector("a", series("a", 10))
    rig.settle()
    reports = list(rig.controller.reports.values())
    assert [r["ended"] for r in reports] == ["stopped", "finished"]
    assert set(reports[0]["states"]) <= {"reduced"}
    assert reports[1]["summary"] == "10 events: 10 reduced"


def test_parameters_change_at_one_event_for_all_workers() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]], seed=3)
    rig.submit(uniform(["a", "b"], 200, batch=100))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 200))
    rig.detector("b", series("b", 200))
    for _ in range(150):
        rig.step()
    rig.set_parameter(b"1")
    for _ in range(5):
        rig.step()
    rig.set_parameter(b"2")
    rig.settle()
    assert rig.report["states"] == {"reduced": 200}
    history = [(p["from_event"], p["version"]) for p in rig.report["parameters"]]
    assert history[0] == (0, 0) and history[-1][1] == 2
    assert [e for e, _ in history] == sorted(e for e, _ in history)
    for f in rig.folded:
        assert f.version == [v for e, v in history if e <= f.event][-1]


def test_constraints_that_alternate_over_the_whole_scan_do_not_starve_each_other() -> None:
    cells = [[{"constraint": i % 5}] for i in range(60)]
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"]])
    rig.submit(compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]}))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 60))
    rig.settle()
    assert rig.report["summary"] == "60 events: 60 reduced"
    owner: dict[int, set[int]] = {}
    for worker, part in rig.processed:
        if 1 <= part.event <= 60:
            owner.setdefault((part.event - 1) % 5, set()).add(worker)
    assert all(len(w) == 1 for w in owner.values())


def test_a_broadcast_in_mid_scan_is_seen_by_every_worker_between_its_neighbours() -> None:
    cells = [[{"constraint": None if i % 10 == 5 else i}] for i in range(40)]
    rig = Rig({"i": [("a", True)]}, [["generic"], ["generic"], ["generic"]], seed=2)
    rig.submit(compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]}))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 40))
    rig.settle()
    assert rig.report["summary"] == "40 events: 40 reduced"
    for me in range(3):
        mine = [p.event for w, p in rig.processed if w == me]
        assert {6, 16, 26, 36} <= set(mine)
        for b in (6, 16, 26, 36):
            at = mine.index(b)
            assert all(e < b for e in mine[:at]) and all(e > b for e in mine[at + 1 :])


def test_streams_of_one_event_may_go_to_different_workers_and_a_broadcast_joins_a_constraint() -> None:
    n = 12
    parts = {
        "p": {
            "a": [[{"constraint": 2 * i}] for i in range(n)],
            "b": [[{"constraint": 2 * i + 1}] for i in range(n)],
            "c": [[{"constraint": None}] if i % 4 == 0 else None for i in range(n)],
        }
    }
    rig = Rig({"i": [("a", True), ("b", True)], "j": [("c", True)]}, [["generic"], ["generic"]], seed=1)
    rig.submit(compile_map({"parts": parts, "sequence": ["p"]}))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", n))
    rig.detector("b", series("b", n))
    rig.detector("c", series("c", n // 4))
    rig.settle()
    assert rig.report["states"] == {"reduced": n}
    for event in range(1, n + 1):
        seen = sorted((tuple(sorted(p.streams)), w) for w, p in rig.processed if p.call and p.event == event)
        third = ("c",) if (event - 1) % 4 == 0 else ()
        assert [s for s, _ in seen] == [("a", *third), ("b", *third)]
        assert seen[0][1] != seen[1][1]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_event_ends_in_exactly_one_state_whatever_is_lost_and_however_messages_arrive(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(1, 25), "events")
    names = ["a", "b", "c"][: data.draw(st.integers(1, 3), "streams")]
    every = {s: data.draw(st.integers(1, 4), f"every {s}") for s in names}
    batch = data.draw(st.integers(1, 7), "batch")
    workers = data.draw(st.integers(1, 3), "workers")
    rig = Rig(
        {f"i{s}": [(s, True)] for s in names},
        [["generic"]] * workers,
        seed=data.draw(st.integers(0, 99)),
        credit=data.draw(st.sampled_from([30, 300, 1 << 20])),
    )
    rig.submit(compile_map({"streams": {s: {"every": every[s]} for s in names}, "events": n, "batch": batch}))
    rig.until(lambda: 1 in rig.replies)
    missing: dict[int, set[str]] = {}
    last: dict[str, int] = {}
    for s in names:
        events = [e for e in range(1, n + 1) if (e - 1) % every[s] == 0]
        lost = data.draw(st.sets(st.sampled_from(range(len(events)))), f"lost {s}")
        cut = data.draw(st.integers(0, len(events)), f"cut {s}")
        if data.draw(st.booleans(), f"whole {s}"):
            lost, cut = set(), len(events)
        for i, e in enumerate(events):
            if i in lost or i >= cut:
                missing.setdefault(e, set()).add(s)
        kept = [i for i in range(cut) if i not in lost]
        last[s] = events[kept[-1]] if kept else 0
        rig.detector(s, series(s, cut, lost, chunk=data.draw(st.integers(1, 5))))
    rig.settle()
    reached = max(last.values())
    report = rig.report
    assert report["ended"] == "finished"
    assert report["events"] == n
    assert sum(report["states"].values()) == n
    empty = {e for e in range(1, reached + 1) if not any((e - 1) % every[s] == 0 for s in names)}
    for e in range(1, reached + 1):
        here = {s for s in names if (e - 1) % every[s] == 0}
        parts = [p for _, p in rig.processed if p.event == e]
        assert len(parts) == (0 if e in empty else 1), e
        if parts:
            assert set(parts[0].streams) == here - missing.get(e, set())
            for s, d in parts[0].streams.items():
                assert d.frames == frame(s, (e - 1) // every[s])
    folded = [f.event for f in rig.folded]
    assert folded == sorted(folded)


BLOCK = Policy(overload="block")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ingesters", [{"i": [("a", True)], "j": [("b", True)]}, {"i": [("a", True), ("b", True)]}])
def test_a_detector_is_not_held_back_because_another_one_is_late(ingesters: dict, seed: int) -> None:
    """One program feeds both detectors, and comes to the second when the first took all: to hold that one back for what
    it has to wait for would be for ever."""
    rig = Rig(ingesters, [["generic"]], seed=seed, policy=BLOCK, retention_bytes=100)
    rig.submit(uniform({"a": {}, "b": {"every": 3}}, 30))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 30, chunk=1))
    rig.until(lambda: not rig.channels["detector a", rig.stream_of["a"]])
    assert sum(len(s.held) for s in rig.shelves)
    rig.detector("b", series("b", 10, chunk=1))
    rig.settle()
    assert rig.report["states"] == {"reduced": 30}
    assert rig.report["streams"]["a"]["spilled"] > 300
    assert not any(s.held for s in rig.shelves)


def test_a_detector_is_held_back_when_workers_are_slow_and_that_is_the_policy() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]], policy=BLOCK, retention_bytes=100)
    rig.submit(uniform(["a", "b"], 30))
    rig.until(lambda: 1 in rig.replies)
    rig.held_back.add("w0")
    for stream in "ab":
        rig.detector(stream, series(stream, 30, chunk=1))
    rig.settle(waiting=True)
    assert rig.paused == {"a": {1}, "b": {1}} and not any(s.held for s in rig.shelves)
    rig.held_back.clear()
    rig.settle()
    assert rig.report["states"] == {"reduced": 30}


@pytest.mark.parametrize("room", [0, 3, 1000])
def test_what_the_workers_are_behind_with_is_spilled_as_far_as_there_is_room(room: int) -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]], retention_bytes=100, shelf_frames=room)
    rig.submit(uniform(["a", "b"], 30))
    rig.until(lambda: 1 in rig.replies)
    rig.held_back.add("w0")
    for stream in "ab":
        rig.detector(stream, series(stream, 30, chunk=1))
    rig.settle(waiting=True)
    assert bool(rig.paused) == (room < 30)
    rig.held_back.clear()
    rig.settle()
    assert rig.report["states"] == {"reduced": 30}
    said = {f"stream {s}: frames could not be spilled" for s in "ab"} if room < 30 else set()
    assert {t.partition(",")[0] for t in rig.report["troubles"]} == said
    assert bool(rig.report["streams"]["b"]["spilled"]) == bool(room)


def test_a_stream_that_ends_early_holds_nobody_back_who_has_no_room() -> None:
    """What event 3 had of b goes to a worker of its own, which gets nothing that shows that there was an event 3."""
    cells = {s: [[{"constraint": 2 * i + n}] for i in range(20)] for n, s in enumerate("ab")}
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"], ["generic"]], retention_bytes=100, in_order=False)
    rig.submit(compile_map({"parts": {"p": cells}, "sequence": ["p"]}))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("b", series("b", 2))
    rig.detector("a", series("a", 20, chunk=1))
    rig.settle()
    assert rig.report["states"] == {"reduced": 2, "incomplete (skipped)": 18}


def test_events_of_an_ended_stream_do_not_stop_an_endless_scan() -> None:
    rig = Rig({"i": [("a", True)], "j": [("b", True)]}, [["generic"]], retention_bytes=100)
    rig.submit(compile_map({"streams": {"a": {}, "b": {"every": 5}}, "events": None}))
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 0))
    rig.detector("b", series("b", 9, chunk=1))
    rig.settle()
    assert rig.report["states"] == {"incomplete": 9, "incomplete (skipped)": 32}
