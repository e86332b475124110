"""The reduce machine alone: what is folded, in which order, and when."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.reduce import machine as machine_module
from beamfold.reduce.machine import ReduceMachine

OK = EventState.REDUCED
Parts = list[tuple[int, int]]


def uniform(events: int | None = 10) -> TriggerMap:
    return compile_map({"streams": ["a"], "events": events})


def bare(events: int) -> TriggerMap:
    """A map without start and end event."""
    cells = [[{"constraint": i}] for i in range(events)]
    return compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]}, all_wrap=False)


class Bench:
    def __init__(self, trigger_map: TriggerMap, workers: int = 1, **more: Any) -> None:
        targets = [(1 << workers) - 1] * len(trigger_map.groups)
        self.machine: ReduceMachine[Parts] = ReduceMachine(trigger_map, targets, **more)

    def logged(self, *parts: int | tuple[int, int], now: float = 0.0, state: int = OK) -> list[bool]:
        batch = [p if isinstance(p, tuple) else (p, 0) for p in parts]
        events, ks = np.array([e for e, _ in batch]), np.array([k for _, k in batch], dtype=np.int16)
        return self.machine.logged(batch, events, ks, state, now)[0].tolist()

    def fold(self, now: float = 0.0) -> list[int]:
        return [e for e, _ in self.parts(now)]

    def parts(self, now: float = 0.0) -> Parts:
        return [fold.batch[i] for fold in self.machine.fold(now) for i in fold.index]


def test_what_comes_in_order_is_folded_at_once() -> None:
    bench = Bench(uniform())
    bench.logged((0, -1))
    bench.logged(1, 2)
    assert bench.fold() == [0, 1, 2]
    assert bench.fold() == []
    bench.logged(3)
    assert bench.fold() == [3]
    assert bench.machine.deadline() is None


def test_batches_that_interlock_are_folded_in_the_order_of_their_events() -> None:
    bench = Bench(uniform())
    for parts in ([(0, -1)], [1, 4, 5, 9], [2, 3, 7], [6, 8]):
        bench.logged(*parts)
    assert bench.fold() == list(range(10))


def test_a_batch_in_disorder_is_sorted() -> None:
    bench = Bench(uniform())
    bench.logged((0, -1))
    bench.logged(3, 1, 2)
    assert bench.fold() == [0, 1, 2, 3]


def test_parts_of_one_event_are_folded_by_position_and_then_by_worker_whatever_arrives_first() -> None:
    cells = [[{"constraint": 0}, {"constraint": 1}, {"constraint": 2}], [{"constraint": 3}]]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    arrivals = [[(0, -3)], [(0, -1)], [(1, 1), (2, 0)], [(0, -2)], [(1, 2), (1, 0)]]
    for seed in range(20):
        bench = Bench(trigger_map, workers=3)
        for batch in random.Random(seed).sample(arrivals, len(arrivals)):
            bench.logged(*batch)
        assert bench.parts() == [(0, -1), (0, -2), (0, -3), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_a_hole_is_waited_for() -> None:
    bench = Bench(uniform(), patience=2.0)
    bench.logged((0, -1))
    bench.logged(2, 3, now=10.0)
    assert bench.fold(10.0) == [0]
    assert bench.machine.deadline() == 12.0
    assert bench.fold(11.9) == []
    bench.logged(1)
    assert bench.fold(11.9) == [1, 2, 3]
    assert bench.machine.out_of_order == []


def test_patience_runs_out_and_the_order_is_recorded() -> None:
    bench = Bench(uniform(), patience=2.0)
    bench.logged((0, -1))
    bench.logged(2, 3, 5)
    assert bench.fold(10.0) == [0]
    assert bench.fold(12.0) == [2, 3, 5]
    assert bench.machine.out_of_order == [(2, 4), (5, 6)]
    bench.logged(1, now=13.0)
    bench.logged(4, now=13.0)
    assert bench.fold(13.0) == [1, 4]
    assert bench.machine.out_of_order == [(2, 4), (5, 6)]


def test_patience_begins_anew_with_every_hole() -> None:
    bench = Bench(uniform(), patience=2.0)
    bench.logged((0, -1))
    bench.logged(2)
    bench.fold(10.0)
    bench.logged(1)
    bench.logged(4)
    assert bench.fold(11.9) == [1, 2]
    assert bench.machine.deadline() == pytest.approx(13.9)
    assert bench.fold(12.5) == []


def test_as_they_arrive() -> None:
    bench = Bench(uniform(), in_order=False)
    bench.logged(5)
    assert bench.fold() == [], "the start event comes first all the same"
    assert bench.machine.deadline() is None
    bench.logged((0, -1))
    assert bench.fold() == [0, 5]
    bench.logged(3)
    assert bench.fold() == [3]
    bench.logged(1)
    assert bench.fold() == [1]
    assert bench.machine.out_of_order == []


@pytest.mark.parametrize("in_order", [True, False])
def test_the_start_event_of_every_worker_comes_first_however_long_it_takes(in_order: bool) -> None:
    bench = Bench(uniform(), workers=2, patience=1.0, in_order=in_order)
    bench.logged(1, 2)
    bench.logged((0, -2))
    folded = bench.parts(0.0) + bench.parts(100.0) + bench.parts(10_000.0)
    assert all(e == 0 for e, _ in folded)
    bench.logged((0, -1))
    assert folded + bench.parts(10_001.0) in ([(0, -2), (0, -1), (1, 0), (2, 0)], [(0, -1), (0, -2), (1, 0), (2, 0)])


def test_without_a_start_event_the_first_hole_is_like_any_other() -> None:
    bench = Bench(bare(5), patience=1.0)
    bench.logged(1, 2)
    assert bench.fold(0.0) == []
    assert bench.fold(1.0) == [1, 2]
    bench.logged(0)
    assert bench.fold(1.1) == [0]


def test_a_part_is_folded_once_whatever_is_delivered_again() -> None:
    bench = Bench(uniform(), workers=2)
    assert bench.logged((0, -1), (0, -2)) == [True, True]
    assert bench.logged(1, 2) == [True, True]
    assert bench.logged(2, 3) == [False, True]
    assert bench.logged((0, -1)) == [False]
    assert bench.logged(3, 3, 4) == [False, False, True]
    assert bench.fold() == [0, 0, 1, 2, 3, 4]
    assert bench.machine.duplicates == 4


def test_parts_that_the_map_does_not_have_are_not_folded() -> None:
    bench = Bench(uniform(3))
    assert bench.logged((0, -1), (0, -2), (1, 5), (77, 0)) == [True, False, False, False]
    assert bench.fold(1e9) == [0]


def test_what_became_terminal_is_told() -> None:
    bench = Bench(uniform(3))
    completed = bench.machine.logged([(1, 0), (2, 0)], np.array([1, 2]), 0, np.array([2, 4], np.uint8), 0.0)[1]
    assert sorted(completed) == [(1, 2, 2), (2, 3, 4)]
    assert bench.machine.frontier == 0
    bench.logged((0, -1))
    assert bench.machine.frontier == 3


def test_it_is_finished_when_all_is_folded() -> None:
    bench = Bench(uniform(2))
    bench.logged((0, -1), 1, 2, (3, -1))
    assert not bench.machine.finished
    bench.fold()
    assert bench.machine.finished


def test_what_lies_beyond_the_closed_map_is_not_folded_and_not_waited_for() -> None:
    bench = Bench(bare(9), patience=1e9)
    bench.logged(0, 1)
    bench.logged(2, 5, 6)
    bench.logged(7)
    assert bench.fold() == [0, 1, 2]
    bench.machine.close(bare(9).closed_at(3))
    assert not bench.machine.finished
    bench.logged(3)
    assert bench.fold() == [3]
    assert bench.machine.finished
    assert bench.machine.deadline() is None


def test_an_endless_scan_finishes_when_it_is_closed() -> None:
    bench = Bench(uniform(None))
    bench.logged((0, -1), 1, 2)
    assert bench.fold() == [0, 1, 2]
    assert not bench.machine.finished
    bench.machine.close(uniform(None).closed_at(2))
    bench.logged((3, -1))
    assert bench.fold() == [3]
    assert bench.machine.finished


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(1, 9)), st.data())
def test_every_part_is_folded_once_in_event_order(events: list[int], data: st.DataObject) -> None:
    """Whatever the batches, whatever is delivered again, and whenever there is time to fold."""
    patience = data.draw(st.sampled_from([1e9, 3.0]))
    bench = Bench(uniform(8), workers=2, patience=patience)
    stream: Parts = [*((e, 0) for e in events)]
    for part in [(0, -1), (0, -2)]:
        stream.insert(data.draw(st.integers(0, len(stream))), part)
    folded: Parts = []
    now, sent = 0.0, 0
    while sent < len(stream):
        n = data.draw(st.integers(1, 4))
        again = data.draw(st.lists(st.sampled_from(stream[: sent + 1]), max_size=2))
        bench.logged(*again, *stream[sent : sent + n], now=now)
        sent += n
        now += data.draw(st.sampled_from([0.5, 2.0]))
        folded += bench.parts(now)
    bench.logged((9, -1), (9, -2))
    folded += bench.parts(now)
    assert sorted(folded) == sorted({(0, -1), (0, -2), (9, -1), (9, -2), *((e, 0) for e in events)})
    assert {folded[0], folded[1]} == {(0, -1), (0, -2)}
    early = {e for lo, hi in bench.machine.out_of_order for e in range(lo, hi)}
    if patience > 1e6:
        assert not early
    in_order = [e for e, _ in folded if e not in early]
    assert in_order == sorted(in_order)
    assert bench.machine.finished


def test_any_number_of_events_out_of_order_are_folded_and_so_many_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_RUNS", 3)
    bench = Bench(bare(40), patience=0.0)
    for event in range(1, 40, 2):
        bench.logged(event)
        bench.fold(0.0)
        bench.fold(1.0)
    assert bench.machine.out_of_order == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize("batch", [1, 3])
def test_dropped_parts_are_done_and_hold_nothing_up(batch: int) -> None:
    bench = Bench(compile_map({"streams": ["a"], "events": 12, "batch": batch}))
    bench.logged((0, -1))
    first = batch + 1
    assert bench.machine.drop(1, 3) == [(first, first + 2 * batch, EventState.DROPPED)]
    assert bench.machine.drop(1, 3) == []
    bench.logged(*range(1, first))
    bench.logged(first + 2 * batch)
    assert bench.fold() == [0, *range(1, first), first + 2 * batch]
    assert bench.logged(first) == [False]
    assert not bench.machine.out_of_order


def combined_batch(bench: Bench, *parts: int, now: float = 0.0) -> list[bool] | None:
    """A batch that is one combined result; None where it is refused."""
    events, batch = np.array(parts), [(e, 0) for e in parts]
    if bench.machine.torn(events, 0, {0: len(parts)}) is not None:
        return None
    return bench.machine.logged(batch, events, 0, OK, now, np.array([0]))[0].tolist()


def test_a_combined_result_is_folded_once_at_the_place_of_its_first_event() -> None:
    bench = Bench(uniform())
    bench.logged((0, -1))
    assert combined_batch(bench, 2, 4, 6) == [True] * 3
    bench.logged(3, 5)
    assert bench.fold() == [0]
    bench.logged(1)
    assert bench.fold() == [1, 2, 3, 5]
    assert combined_batch(bench, 2, 4, 6) == [False] * 3
    assert bench.fold() == []
    assert bench.machine.frontier == 7


def test_a_combined_result_of_which_a_part_is_done_is_refused_and_changes_nothing() -> None:
    """A worker was taken for dead and had sent what another has done again since."""
    bench = Bench(uniform())
    bench.logged((0, -1), 1, 2)
    assert combined_batch(bench, 2, 3) is None
    bench.logged(5)
    assert combined_batch(bench, 4, 5) is None
    assert bench.machine.frontier == 3
    assert combined_batch(bench, 3, 4) == [True, True]
    assert bench.fold() == [0, 1, 2, 3, 5]
    assert bench.machine.duplicates == 0


def test_a_part_that_is_in_a_batch_twice_is_not_folded_twice() -> None:
    bench = Bench(uniform())
    for events, ks in (([1, 2, 1, 3], 0), ([1, 2, 1, 2], np.array([0, 0, 0, 0], dtype=np.int16))):
        assert bench.machine.torn(np.array(events), ks, {0: 3}) is not None
    assert bench.machine.torn(np.array([2, 1, 2, 3]), 0, {1: 4}) == (1, 4)
    assert bench.machine.torn(np.array([1, 2, 3, 2]), 0, {0: 3}) is None, "it is the other one that comes again"
    assert bench.machine.torn(np.array([1, 2, 1, 2]), np.array([0, 0, 1, -1], dtype=np.int16), {0: 2}) is None
    assert bench.machine.torn(np.array([1, 2, 2]), 0, {}) is None


def test_only_what_there_is_to_fold_is_folded() -> None:
    bench = Bench(uniform())
    bench.logged((0, -1))
    bench.machine.logged([(e, 0) for e in range(1, 6)], np.arange(1, 6), 0, OK, 0.0, np.array([1, 4]))
    assert bench.fold() == [0, 2, 5]
    assert bench.machine.frontier == 6
    bench.machine.logged([(6, 0)], np.array([6]), 0, EventState.NO_RESULT, 0.0, np.array([], dtype=np.intp))
    assert bench.machine.frontier == 7 and bench.fold() == []


CELLS = [[{"constraint": e}] if e % 3 else [{"constraint": e}, {"constraint": 100 + e}] for e in range(12)]
TWOFOLD = compile_map({"parts": {"p": {"a": CELLS}}, "sequence": ["p"]}, all_wrap=False)
PARTS = [(e, k) for e in range(12) for k in range(1 if e % 3 else 2)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_part_is_folded_once_whatever_is_combined_and_delivered_again(data: st.DataObject) -> None:
    """Workers combine what they have, and others do the same parts again, combined in other ways or not at all.

    What is refused is delivered again part by part, as recovery does it.
    """
    machine: ReduceMachine[list[Parts]] = ReduceMachine(TWOFOLD, [])
    folded: Parts = []

    def deliver(units: list[Parts]) -> bool:
        parts = [part for unit in units for part in unit]
        events, ks = np.array([e for e, _ in parts]), np.array([k for _, k in parts], dtype=np.int16)
        begins = np.cumsum([0, *map(len, units)])[:-1]
        several = {int(at): int(at) + len(unit) for at, unit in zip(begins, units, strict=True) if len(unit) > 1}
        if machine.torn(events, ks, several) is not None:
            return False
        own: list[Parts] = [[] for _ in parts]
        for at, unit in zip(begins, units, strict=True):
            own[at] = unit
        machine.logged(own, events, ks, OK, 0.0, begins)
        folded.extend(part for fold in machine.fold(0.0) for i in fold.index for part in fold.batch[i])
        return True

    for _ in range(data.draw(st.integers(0, 8))):
        drawn = data.draw(st.lists(st.sampled_from(PARTS), unique=True, min_size=1))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(drawn)), max_size=3)) | {len(drawn)})
        deliver([sorted(drawn[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)])
    for part in PARTS:
        assert deliver([[part]])
    assert machine.finished
    assert sorted(folded) == PARTS


@settings(max_examples=100)
@given(st.data())
def test_a_machine_that_goes_on_where_another_one_was_folds_what_that_one_would_have(data: st.DataObject) -> None:
    """Events of several parts, broadcasts, places that are given up; nothing of it but what is written down."""
    cells = [
        [{"constraint": 0}, {"constraint": 1}, {"constraint": None}],
        None,
        [{"constraint": 2}],
        [{"constraint": 3}],
    ]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    workers = 70  # more than a message's integers have bits
    last = trigger_map.n_events or 0
    casts = [(event, -1 - w) for event in (0, 1, last - 1) for w in range(workers)]
    parts: Parts = data.draw(
        st.permutations([*casts[:: data.draw(st.sampled_from([1, 7]))], (1, 0), (1, 1), (3, 0), (4, 0)])
    )
    size = data.draw(st.integers(1, 40))
    steps: list[Any] = [parts[i : i + size] for i in range(0, len(parts), size)]
    steps.insert(data.draw(st.integers(0, len(steps))), data.draw(st.integers(0, workers - 1)))
    cut = data.draw(st.integers(0, len(steps)))
    whole, before, after = (Bench(trigger_map, workers, patience=1e9) for _ in range(3))

    def play(bench: Bench, steps: list[Any]) -> list[Any]:
        found: list[Any] = []
        for step in steps:
            if isinstance(step, int):
                found.append(bench.machine.vacate(step))
            else:
                found.append(bench.logged(*step))
            found.append(bench.parts())
        return found

    expected = play(whole, steps)
    first = play(before, steps[:cut])
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(before.machine.to_wire()))
    after.machine.restore(wire, before.machine.duplicates)
    for batch, places in before.machine.held():
        events, ks = np.array([e for e, _ in batch]), np.array([k for _, k in batch], dtype=np.int16)
        after.machine.enqueue(batch, events, ks, 0.0, np.array(places))
    assert first + play(after, steps[cut:]) == expected
    assert after.machine.frontier == whole.machine.frontier
    assert after.machine.to_wire() == whole.machine.to_wire()
