"""The dispatcher alone: who gets which virtual workers, and how many ahead."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.blocks import BLOCKS_PER_WINDOW, FIRST_WINDOW, LARGEST_WINDOW, LONGEST, WINDOW, Dispatcher
from beamfold.model.errors import MapError
from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.protocols.messages import Block

GENERIC = frozenset({"generic"})
TAGS = [frozenset({"generic"}), frozenset({"x"}), frozenset({"generic", "x"})]


def uniform(events: int | None, **more: Any) -> TriggerMap:
    return compile_map({"streams": ["a"], "events": events, **more})


def drain(dispatcher: Dispatcher, trigger_map: TriggerMap, rounds: int = 10_000) -> dict[int, int]:
    """Let every worker do what can be done until all is assigned; returns the worker of each virtual worker."""
    owner: dict[int, int] = {}
    done: set[tuple[int, int]] = set()
    total = trigger_map.n_virtual
    assert total is not None
    for now in range(rounds):
        for block in dispatcher.assign():
            for v in range(block.lo, block.hi):
                assert v not in owner, f"{v} was assigned twice"
                owner[v] = block.worker
        work: dict[int, int] = {}
        for v, worker in owner.items():
            events, ks = trigger_map.parts_of(v, v + 1)
            for part in zip(events.tolist(), ks.tolist(), strict=True):
                if part not in done and ready(trigger_map, owner, part[0]):
                    done.add(part)
                    work[worker] = work.get(worker, 0) + 1
        for worker, parts in work.items():
            dispatcher.done(worker, parts, float(now))
        if len(owner) == total and len(done) == trigger_map.part_total(0, total):
            return owner
    raise AssertionError(f"starved: {len(owner)} of {total} assigned, {len(done)} parts done")


def ready(trigger_map: TriggerMap, owner: dict[int, int], event: int) -> bool:
    """Frames come in order: an event can be done when all that starts up to it has its worker."""
    return all(v in owner for v in range(trigger_map.virtual_before(event + 1)))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_virtual_worker_is_assigned_once_to_one_that_may_have_it(data: st.DataObject) -> None:
    """Also where virtual workers span the scan, interlock, and want tags: none starves."""
    n = data.draw(st.integers(1, 14))
    columns = {
        s: [
            None
            if data.draw(st.integers(0, 5)) == 0
            else [
                {"constraint": c, "tags": sorted(TAGS[c % 3])}
                for c in data.draw(st.sets(st.integers(0, 5), max_size=2))
            ]
            for _ in range(n)
        ]
        for s in data.draw(st.sampled_from(["a", "ab"]))
    }
    trigger_map = compile_map({"parts": {"p": columns}, "sequence": ["p"] * data.draw(st.integers(1, 3))})
    tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=3))
    for _ in range(9):
        try:
            trigger_map.refuse_unless(list(columns), tags)
        except MapError:
            tags = [*tags, TAGS[2]]
    owner = drain(Dispatcher(trigger_map, tags), trigger_map)
    assert trigger_map.n_virtual is not None
    assert sorted(owner) == list(range(trigger_map.n_virtual))
    for v, worker in owner.items():
        assert trigger_map.tags(v) <= tags[worker]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 30))
def test_a_uniform_map_is_assigned_whole(events: int, batch: int, workers: int, every: int, first: int) -> None:
    streams = {"a": {"every": every, "first": first}, "b": {"every": every + 1, "first": first}}
    trigger_map = compile_map({"streams": streams, "events": events, "batch": batch})
    owner = drain(Dispatcher(trigger_map, [GENERIC] * workers), trigger_map)
    assert len(owner) == trigger_map.n_virtual


def test_streams_of_one_event_go_to_different_workers() -> None:
    cells = {s: [[{"constraint": 2 * i + n}] for i in range(20)] for n, s in enumerate("ab")}
    trigger_map = compile_map({"parts": {"p": cells}, "sequence": ["p"]})
    owner = drain(Dispatcher(trigger_map, [GENERIC] * 3), trigger_map)
    assert all(owner[2 * i] != owner[2 * i + 1] for i in range(20))


def test_nobody_gets_more_than_a_window_ahead_before_anything_is_known() -> None:
    dispatcher = Dispatcher(uniform(1000), [GENERIC] * 3)
    assigned = [0] * 3
    for block in dispatcher.assign():
        assigned[block.worker] += block.hi - block.lo
    assert assigned == [FIRST_WINDOW] * 3
    assert not dispatcher.assign()
    dispatcher.done(1, 1, 0.0)
    assert [(b.worker, b.hi - b.lo) for b in dispatcher.assign()] == [(1, 1)]


def test_the_window_follows_the_rate() -> None:
    dispatcher = Dispatcher(uniform(None), [GENERIC])
    outstanding, now, sizes = 0, 0.0, []
    for _ in range(60):
        blocks = dispatcher.assign()
        outstanding += sum(b.hi - b.lo for b in blocks)
        sizes.append(outstanding)
        now += 0.025
        part = min(outstanding, 250)  # 10 kHz at most
        dispatcher.done(0, part, now)
        outstanding -= part
    assert all(after >= before * (1 - 1 / BLOCKS_PER_WINDOW) for before, after in pairwise(sizes))
    assert sizes[0] == FIRST_WINDOW
    assert (1 - 1 / BLOCKS_PER_WINDOW) * WINDOW * 10_000 <= sizes[-1] <= 1.2 * WINDOW * 10_000
    for _ in range(1000):  # now 4 Hz
        now += 0.25
        dispatcher.done(0, min(outstanding, 1), now)
        outstanding -= min(outstanding, 1)
        outstanding += sum(b.hi - b.lo for b in dispatcher.assign())
    assert outstanding <= 2 * FIRST_WINDOW


def steady(dispatcher: Dispatcher, rate: float, trip: float, begin: float, end: float) -> float:
    """One worker at a rate (parts/s), told and heard every `trip` seconds; returns the rate that it really has."""
    worker, part = dispatcher._workers[0], 0
    for turn in range(round((end - begin) / trip)):
        part = min(worker.assigned - worker.done, round(rate * trip))
        dispatcher.done(0, part, begin + turn * trip)
        dispatcher.assign()
    return part / trip


def test_a_worker_that_runs_dry_gets_more_ahead_and_less_again_when_it_does_not() -> None:
    dispatcher = Dispatcher(uniform(None), [GENERIC])
    assert steady(dispatcher, 1000, 3 * WINDOW, 0, 30) > 900, "the way is longer than a window usually is"
    assert dispatcher._workers[0].ahead > WINDOW
    steady(dispatcher, 1000, WINDOW / 5, 30, 60)
    assert dispatcher._workers[0].ahead == WINDOW
    steady(dispatcher, 1000, 10 * LONGEST, 60, 500)
    assert dispatcher._workers[0].ahead == LONGEST


def test_a_worker_gets_no_less_than_a_block() -> None:
    dispatcher = Dispatcher(uniform(None), [GENERIC])
    steady(dispatcher, 10_000, 0.025, 0, 3)
    block = dispatcher._workers[0].window // BLOCKS_PER_WINDOW
    parts, given = [], []
    while len(given) < 3:
        parts.append(0)
        blocks: list[Block] = []
        while not blocks:
            dispatcher.done(0, 1, 2.975)
            parts[-1] += 1
            blocks = dispatcher.assign()
        given += [b.hi - b.lo for b in blocks]
    assert given == [block] * 3 and parts[1:] == [block] * 2


def test_workers_that_are_full_do_not_hide_those_with_other_tags() -> None:
    cells = [[{"constraint": i, "tags": ["x" if i % 2 else "generic"]}] for i in range(20)]
    dispatcher = Dispatcher(compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]}), [GENERIC, frozenset("x")])
    given: list[int] = []
    for now in range(20):
        for block in dispatcher.assign():
            given += [block.worker] * (block.hi - block.lo)
            dispatcher.done(block.worker, block.hi - block.lo, float(now))
    assert given == [-1, *[0, 1] * 10, -1][1:-1]


def test_the_window_is_bounded() -> None:
    dispatcher = Dispatcher(uniform(None), [GENERIC])
    sizes = []
    for i in range(40):
        sizes.append(sum(b.hi - b.lo for b in dispatcher.assign()))
        dispatcher.done(0, sizes[-1], i * 0.0201)
    assert max(sizes) == LARGEST_WINDOW


def test_blocks_are_a_share_of_the_window_and_small_near_the_end() -> None:
    trigger_map = uniform(2000)
    dispatcher = Dispatcher(trigger_map, [GENERIC] * 2)
    blocks: list[Block] = []
    now = 0.0
    while len(blocks) < 10_000:
        fresh = dispatcher.assign()
        blocks += fresh
        if blocks[-1].hi == 2000 and not fresh:
            break
        now += 0.025
        for worker in (0, 1):
            dispatcher.done(worker, sum(b.hi - b.lo for b in fresh if b.worker == worker), now)
    sizes = [b.hi - b.lo for b in blocks]
    assert max(sizes) > 4 * BLOCKS_PER_WINDOW
    assert sizes[-1] <= 4
    ends: dict[int, int] = {}
    for b in blocks:
        ends[b.worker] = b.hi
    assert min(ends.values()) > 1900, "both workers are busy until the end"


def test_events_that_nobody_has_a_frame_in_cost_nothing() -> None:
    """The first frame comes at event a million; nothing is to be done before."""
    for events in (None, 1_000_100):
        trigger_map = compile_map({"streams": {"a": {"first": 1_000_000}}, "events": events})
        dispatcher = Dispatcher(trigger_map, [GENERIC])
        blocks = dispatcher.assign()
        assert blocks == [Block(0, 999_999 + FIRST_WINDOW, 0)]
    trigger_map = compile_map({"streams": {"a": {"first": 1_000_000}}, "events": 999_999})
    assert Dispatcher(trigger_map, [GENERIC]).assign() == [Block(0, 999_999, 0)]


def test_a_closed_map_ends_what_is_assigned() -> None:
    cells = [[{"constraint": i % 3}] for i in range(30)]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    dispatcher = Dispatcher(trigger_map, [GENERIC] * 2)
    dispatcher.assign()
    closed = trigger_map.closed_at(1)
    dispatcher.close(closed)
    assert not dispatcher.assign()
    dispatcher.done(0, 1, 1.0)
    assert not dispatcher.assign()


def test_an_endless_map_is_assigned_to_its_end_when_it_gets_one() -> None:
    trigger_map = uniform(None)
    dispatcher = Dispatcher(trigger_map, [GENERIC])
    assert dispatcher.assign() == [Block(0, FIRST_WINDOW, 0)]
    dispatcher.close(trigger_map.closed_at(FIRST_WINDOW + 2))
    dispatcher.done(0, FIRST_WINDOW, 1.0)
    assert dispatcher.assign() == [Block(FIRST_WINDOW, FIRST_WINDOW + 2, 0)]
    dispatcher.done(0, 2, 1.0)
    assert not dispatcher.assign()


@pytest.mark.parametrize("worker", [-1, 2, 1000])
def test_parts_of_a_worker_that_the_scan_does_not_have_are_ignored(worker: int) -> None:
    dispatcher = Dispatcher(uniform(100), [GENERIC] * 2)
    dispatcher.assign()
    dispatcher.done(worker, 50, 1.0)
    assert not dispatcher.assign()


def test_what_is_assigned_again_is_no_more_than_a_window_either() -> None:
    """Else the first worker to come back gets all of it."""
    dispatcher = Dispatcher(uniform(10_000), [frozenset({"generic"})] * 2)
    dispatcher.assign()
    for now in range(1, 40):
        for worker in (0, 1):
            dispatcher.done(worker, 50, now / 10)
        dispatcher.assign()
    lost = dispatcher.lose(0) + dispatcher.lose(1)
    assert lost > 10 * FIRST_WINDOW
    dispatcher.fill(0)
    again = sum(block.hi - block.lo for block in dispatcher.assign())
    assert 0 < again <= FIRST_WINDOW + 1
