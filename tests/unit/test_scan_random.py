"""Random explicit maps through all machines: whatever the map, whatever is lost and however messages arrive.

Each test builds a scan, plays it through the rig, and compares every part with what the map and the frames that exist
say about it, event by event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamfold.dispatch.scans import Policy
from beamfold.model.errors import MapError
from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap, WrittenMap
from beamfold.protocols.items import Data, End, Start
from rig import Rig

TAGS = [["generic"], ["x"], ["generic", "x"]]
PATIENT = Policy(fold_patience=1e9)


def frame(stream: str, number: int) -> list[bytes]:
    return [f"{stream} {number}".encode(), b"x" * (number % 5)]


# -- what is drawn ------------------------------------------------------------------------------------------------


@st.composite
def cells(draw: st.DrawFn, length: int) -> list[Any]:
    """Cells of one stream; a constraint always has the same tags, as it must."""
    out: list[Any] = []
    for _ in range(length):
        kind = draw(st.sampled_from(["own", "own", "own", "two", "cast", "mixed", "null", "empty"]))
        own = [
            {"constraint": c, "tags": TAGS[c % 3]}
            for c in draw(st.lists(st.integers(0, 3), min_size=2, max_size=2, unique=True))
        ]
        cast = {"constraint": None, "tags": draw(st.sampled_from(TAGS))}
        out.append(
            {
                "own": own[:1],
                "two": own,
                "cast": [cast],
                "mixed": draw(st.permutations([cast, own[0]])),
                "null": None,
                "empty": [],
            }[kind]
        )
    return out


@st.composite
def sequences(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    parts = {}
    for part in ["p", "q"][: draw(st.integers(1, 2))]:
        length = draw(st.integers(1, 6))
        parts[part] = {s: draw(cells(length)) for s in names}
    return {"parts": parts, "sequence": draw(st.lists(st.sampled_from(list(parts)), min_size=1, max_size=3))}


@st.composite
def uniform(draw: st.DrawFn, names: list[str], plain: bool = False) -> dict[str, Any]:
    streams = {s: {"every": draw(st.integers(1, 3)), "first": draw(st.integers(1, 5))} for s in names}
    return {
        "streams": streams,
        "events": draw(st.integers(0, 14) if plain else st.one_of(st.none(), st.integers(0, 14))),
        "batch": draw(st.integers(1, 4)),
        "tags": draw(st.sampled_from(TAGS)),
        "broadcast": not plain and draw(st.sampled_from([False, False, True])),
    }


def accommodate(trigger_map: TriggerMap, streams: list[str], tags: list[list[str]]) -> list[list[str]]:
    """These workers, and as many more as the map needs."""
    for _ in range(12):
        try:
            trigger_map.refuse_unless(streams, [frozenset(t) for t in tags])
        except MapError:
            tags = [*tags, ["generic", "x"]]
    return tags


@dataclass
class Series:
    """What one detector sends, and which ordinals of its stream that makes."""

    items: list[Any]
    exists: set[int] = field(default_factory=set)


def play(draw: Any, stream: str, count: int | None, wrapped: bool, numbered: bool, whole: bool) -> Series:
    """A series of a stream that has `count` messages in the map: whole, or with losses, repeats, a swap, surplus."""
    surplus, endless = 2, count is None
    if count is None:  # as many as it likes
        count, surplus = draw(st.integers(2, 12), label=f"messages of {stream}"), 0
    data = max(count - 2, 0)
    cut = data if whole else draw(st.integers(0, data + surplus), label=f"frames of {stream}")
    numbers = list(range(cut))
    if numbered and not whole and numbers:
        lost = draw(st.sets(st.sampled_from(numbers), max_size=len(numbers)), label=f"lost of {stream}")
        numbers = [n for n in numbers if n not in lost]
        if len(numbers) > 1 and draw(st.booleans(), label=f"disorder in {stream}"):
            at = draw(st.integers(0, len(numbers) - 2))
            pair = numbers[at : at + 2]
            numbers[at : at + 2] = draw(st.sampled_from([pair[::-1], pair * 2]))
    chunk = draw(st.integers(1, 4), label=f"chunk of {stream}")
    items: list[Any] = [Start([f"{stream} start".encode()], None)]
    for at in range(0, len(numbers), chunk):
        part = numbers[at : at + chunk]
        items.append(Data(part if numbered else None, [frame(stream, n) for n in part]))
    limit = count - 1 if wrapped else count
    exists = {0} & set(range(count))
    following = 1
    for n in numbers:
        if n + 1 >= following and n + 1 < limit:
            exists.add(n + 1)
            following = n + 2
    if wrapped:
        exists |= set() if endless else {count - 1}  # its place is known once the map is closed
    elif following < count:
        exists.add(following)
    return Series([*items, End([f"{stream} end".encode()])], exists)


# -- what must come of it -------------------------------------------------------------------------------------------


def groups_of(trigger_map: TriggerMap, tags: list[str]) -> int:
    return sum(1 << g for g, wanted in enumerate(trigger_map.groups) if wanted <= set(tags))


def expected_parts(rig: Rig, event: int) -> set[tuple[int, int]]:
    """(k, worker) of an event; of virtual workers the logical worker is -1, for any."""
    trigger_map = rig.reduce_map
    assert trigger_map is not None
    cast = trigger_map.groups_of(event)
    targets = {(-1 - i, i) for i, w in enumerate(rig.workers) if groups_of(trigger_map, w.tags) & cast}
    return targets | {(k, -1) for k in range(trigger_map.width(event))}


def check(rig: Rig, existing: dict[str, set[int]], sent: dict[str, list[bytes]] | None = None) -> None:
    """Every part of every event that was not dropped exactly once, with exactly the frames that exist."""
    trigger_map = rig.reduce_map
    assert trigger_map is not None and trigger_map.n_events is not None
    report = rig.report
    assert sum(report["states"].values()) == report["events"]
    by_event: dict[int, list[tuple[int, Any]]] = {}
    for worker, part in rig.processed:
        by_event.setdefault(part.event, []).append((worker, part))
    assert all(not p.call for e, ps in by_event.items() if e >= trigger_map.n_events for _, p in ps)
    worst: dict[int, EventState] = {}
    dropped = {e for lo, hi in report["runs"].get("dropped", ()) for e in range(lo, hi)}
    for event in range(trigger_map.n_events):
        if event in dropped:
            assert not by_event.get(event) and not trigger_map.groups_of(event) and trigger_map.width(event) == 1
            worst[event] = EventState.DROPPED
        else:
            worst[event] = check_event(rig, existing, event, by_event.get(event, []))
    assert not dropped or report["overload"] in ("sample", "latest")
    folded = [(f.event, f.k) for f in rig.folded if f.event < trigger_map.n_events]
    assert len(folded) == len(set(folded))
    processed = set(range(trigger_map.n_events)) - dropped
    assert set(folded) == {(e, k) for e in processed for k, _ in expected_parts(rig, e)}
    if not report["out_of_order"] and rig.in_order:
        assert [e for e, _ in folded] == sorted(e for e, _ in folded)
    check_counts(rig, worst)
    history = [(p["from_event"], p["version"]) for p in report["parameters"]]
    assert [e for e, _ in history] == sorted(e for e, _ in history)
    for f in rig.folded:
        assert not f.streams or f.version == [v for e, v in history if e <= f.event][-1]


def check_event(rig: Rig, existing: dict[str, set[int]], event: int, processed: list[tuple[int, Any]]) -> EventState:
    trigger_map = rig.reduce_map
    assert trigger_map is not None
    state = EventState.NO_RESULT
    parts = expected_parts(rig, event)
    assert {p.k for _, p in processed} <= {k for k, _ in parts}, (event, processed)
    for k, target in parts:
        mine = [(w, p) for w, p in processed if p.k == k]
        assert mine, f"event {event} part {k} was never processed"
        worker = mine[0][0]
        assert target in (-1, worker)
        groups = groups_of(trigger_map, rig.workers[worker].tags)
        need = int(trigger_map.needs(np.array([event]), k, groups)[0])
        if k < 0 and any(p.k >= 0 and w == worker for w, p in processed):
            assert not any(p.call for _, p in mine)
            continue  # its frames came with the worker's own part
        assert len(mine) == 1, f"event {event} part {k} was processed {len(mine)} times"
        part = mine[0][1]
        here: dict[str, int] = {}
        for s, name in enumerate(trigger_map.streams):
            if need >> s & 1 and trigger_map.ordinal_at(s, event) in existing[name]:
                here[name] = trigger_map.ordinal_at(s, event)
        assert set(part.streams) == set(here), (event, k, part, here)
        missing = {n for s, n in enumerate(trigger_map.streams) if part.missing >> s & 1}
        assert missing == {n for s, n in enumerate(trigger_map.streams) if need >> s & 1} - set(here)
        assert part.call == bool(here)
        for name, ordinal in here.items():
            first = part.streams[name].frames[0]
            count = trigger_map.frame_count(trigger_map.streams.index(name))
            if ordinal == 0:
                assert first == f"{name} start".encode()
            elif trigger_map.wrapped and ordinal == count - 1:
                assert first == f"{name} end".encode()
            elif first != f"{name} end".encode():
                assert part.streams[name].frames == frame(name, ordinal - 1)
        if part.missing:
            state = max(state, EventState.INCOMPLETE if part.call else EventState.INCOMPLETE_SKIPPED)
        else:
            state = max(state, EventState.REDUCED)
    return state


def check_counts(rig: Rig, worst: dict[int, EventState]) -> None:
    """The report's states are those of the parts. (Counted streams raise some to unverified.)"""
    trigger_map, report = rig.reduce_map, rig.report
    assert trigger_map is not None and trigger_map.n_events is not None
    first = int(trigger_map.wrapped)
    counts: dict[str, int] = {}
    for event in range(first, trigger_map.n_events - first):
        counts[worst[event].label] = counts.get(worst[event].label, 0) + 1
    if (more := report["events"] - (trigger_map.n_events - 2 * first)) > 0:
        label = EventState.INCOMPLETE_SKIPPED.label
        counts[label] = counts.get(label, 0) + more
    if all(s["verified"] for s in report["streams"].values()):
        assert report["states"] == counts, (report["states"], counts, worst)


def accepted(rig: Rig) -> dict[str, set[int]]:
    """The ordinals that the ingesters of the last scan really took, by their own account."""
    out: dict[str, set[int]] = {}
    number = max(n for _, n in rig.ingest_ended)
    for (_, n), machine in rig.ingest_ended.items():
        if n == number:
            for index, state in machine._streams.items():
                count = machine.map.frame_count(index)
                out[state.spec.name] = {o for o in range(min(count, state.next)) if o not in state.missing}
    return out


# -- the tests --------------------------------------------------------------------------------------------------------


OVERLOAD: list[dict[str, Any]] = [
    {"overload": "spill"},
    {"overload": "block"},
    {"overload": "latest"},
    {"overload": "sample"},
    {"overload": "sample", "sample_every": 3},
]


def build(
    data: st.DataObject,
    policy: Policy = PATIENT,
    overload: Sequence[dict[str, Any]] = OVERLOAD,
    room: Sequence[int] = (1, 40, 1 << 20),
    make: type[Rig] = Rig,
    numbered: Sequence[bool] = (True, True, False),
    shapes: Sequence[Callable[[list[str]], st.SearchStrategy[Any]]] = (sequences, sequences, uniform),
) -> tuple[Rig, WrittenMap, dict[str, bool]]:
    names = ["a", "b", "c"][: data.draw(st.integers(1, 3), label="streams")]
    counts = {s: data.draw(st.sampled_from(numbered), label=f"{s} numbered") for s in names}
    wrapped = data.draw(st.sampled_from([True, True, False]), label="all_wrap")
    shape = data.draw(st.sampled_from(shapes))
    written = WrittenMap.of(json.dumps(data.draw(shape(names), label="map")).encode(), wrapped)
    trigger_map = written.compile()
    wanted = data.draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=3), label="workers")
    workers = accommodate(trigger_map, names, wanted)
    home = {s: data.draw(st.sampled_from(["i", "j"]), label=f"ingester of {s}") for s in names}
    ingesters = {name: [(s, counts[s]) for s in names if home[s] == name] for name in sorted(set(home.values()))}
    rig = make(
        ingesters,
        workers,
        seed=data.draw(st.integers(0, 999), label="seed"),
        policy=replace(policy, **data.draw(st.sampled_from(overload), label="overload")),
        shelf_frames=data.draw(st.sampled_from([0, 4, 1 << 30]), label="room on disk"),
        credit=data.draw(st.sampled_from([1, 30, 1 << 20]), label="credit"),
        retention_bytes=data.draw(st.sampled_from(room), label="room"),
        in_order=data.draw(st.sampled_from([True, True, False]), label="in order"),
    )
    return rig, written, counts


RIG = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@RIG
@given(st.data())
def test_every_part_is_processed_once_with_the_frames_that_exist(data: st.DataObject) -> None:
    rig, written, numbered = build(data)
    trigger_map = written.compile()
    rig.submit(trigger_map)
    rig.until(lambda: 1 in rig.replies)
    assert rig.replies[1].error is None
    whole = data.draw(st.booleans(), label="whole")
    existing = {}
    for s, name in enumerate(trigger_map.streams):
        series = play(data.draw, name, trigger_map.frame_count(s), trigger_map.wrapped, numbered[name], whole)
        existing[name] = series.exists
        rig.detector(name, series.items)
    for _ in range(data.draw(st.integers(0, 3), label="parameter changes")):
        for _ in range(data.draw(st.integers(0, 60))):
            rig.step()
        rig.set_parameter(b"1")
    rig.settle()
    assert rig.reports_ended() == ["finished"]
    closed = rig.reduce_map
    assert closed is not None
    if closed.n_events != trigger_map.n_events:  # the end event's number moved
        for s, name in enumerate(closed.streams):
            moved = {closed.frame_count(s) - 1} if closed.wrapped else set()
            kept = {o for o in existing[name] if o < closed.frame_count(s) - len(moved)}
            existing[name] = kept | moved
    check(rig, existing)
    if whole and not trigger_map.endless:
        assert rig.report["events"] == sum(rig.report["states"].values())
        assert set(rig.report["states"]) <= {"reduced", "no result", "dropped"}


@RIG
@given(st.data())
def test_what_is_dropped_is_dropped_whole_and_all_else_is_processed(data: st.DataObject) -> None:
    """Workers stand still for a while, so that frames pile up."""
    rig, written, numbered = build(data, overload=OVERLOAD[2:], room=[20, 60, 200])
    trigger_map = written.compile()
    rig.submit(trigger_map)
    rig.until(lambda: 1 in rig.replies)
    for s, name in enumerate(trigger_map.streams):
        whole = data.draw(st.booleans(), label=f"{name} whole")
        series = play(data.draw, name, trigger_map.frame_count(s), trigger_map.wrapped, numbered[name], whole)
        rig.detector(name, series.items)
    for _ in range(data.draw(st.integers(0, 60), label="steps before")):
        rig.step()
    rig.held_back = {w.name for w in rig.workers}
    rig.settle(waiting=True)
    rig.held_back.clear()
    rig.settle()
    assert rig.reports_ended() == ["finished"]
    check(rig, accepted(rig))


@RIG
@given(st.data())
def test_a_scan_stopped_at_any_moment_processes_what_had_arrived(data: st.DataObject) -> None:
    rig, written, numbered = build(data)
    trigger_map = written.compile()
    rig.submit(trigger_map)
    rig.until(lambda: 1 in rig.replies)
    sent = {}
    for s, name in enumerate(trigger_map.streams):
        series = play(data.draw, name, trigger_map.frame_count(s), trigger_map.wrapped, numbered[name], False)
        sent[name] = series.exists
        rig.detector(name, series.items)
    change = data.draw(st.integers(0, 200), label="parameters at")
    stop = data.draw(st.integers(0, 200), label="stop at")
    for at in range(max(change, stop) + 1):
        if at == change:
            rig.set_parameter(b"1")
        if at == stop:
            rig.stop()
        rig.step()
    rig.settle()
    assert len(rig.controller.reports) == 1
    assert rig.report["ended"] in ("stopped", "finished")
    assert not rig.report["reason"].startswith("stopped twice"), rig.report
    existing = accepted(rig)
    check(rig, existing)


@RIG
@given(st.data())
def test_a_scan_ends_even_when_it_is_stopped_twice_or_another_one_is_submitted(data: st.DataObject) -> None:
    rig, written, numbered = build(data)
    trigger_map = written.compile()
    rig.submit(trigger_map, 1)
    requests = 1
    for s, name in enumerate(trigger_map.streams):
        items = play(data.draw, name, trigger_map.frame_count(s), trigger_map.wrapped, numbered[name], False).items
        rig.detector(name, items if data.draw(st.booleans(), label=f"{name} ends") else items[:-1])
    for what in data.draw(st.lists(st.sampled_from(["stop", "submit", "parameter"]), max_size=5), label="then"):
        for _ in range(data.draw(st.integers(0, 80))):
            rig.step()
        if what == "stop":
            rig.stop()
        elif what == "submit":
            requests += 1
            rig.submit(trigger_map, requests)
        else:
            rig.set_parameter(b"2")
    rig.settle(waiting=True)
    rig.stop()
    rig.settle()
    rig.stop()
    rig.settle()
    assert set(range(1, requests + 1)) <= set(rig.replies), "every request is answered"
    assert len(rig.controller.reports) == requests, "every scan has a report"
    for report in rig.controller.reports.values():
        assert sum(report["states"].values()) == report["events"]
        assert report["planned"] is None or report["events"] + report["unreached"] == report["planned"]
