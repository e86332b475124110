"""User code over parts: which hook gets which of them, and what becomes of those that it fails for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from beamfold.app.batchsize import LARGEST, BatchSize
from beamfold.app.hooks import WorkerHooks
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.model.states import EventState
from beamfold.protocols.codec import decode
from beamfold.protocols.envelopes import POISON, ResultBatch, decode_header
from beamfold.reduce.batch import Batch
from beamfold.work.machine import Part
from beamfold.work.results import ResultBuffer
from beamfold.work.runner import Runner

LONG = 1e9


class Clock:
    """Stands still unless user code takes its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Single:
    """Squares; event 13 is one too many, and multiples of ten have no result."""

    def __init__(self) -> None:
        self.alone: list[int] = []

    def process_event(self, event: Any, parameters: Any = None, tick: bool = False) -> Any:
        self.alone.append(event.event_number)
        return self.square(event.event_number)

    def square(self, number: int) -> Any:
        if number == 13:
            raise ValueError("thirteen")
        return None if number % 10 == 0 else number * number


class Many(Single):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.ticks: list[Any] = []

    def process_events(self, events: Any, parameters: Any = None, ticks: Any = ()) -> Any:
        self.batches.append([event.event_number for event in events])
        self.ticks.append(ticks)
        return [self.square(event.event_number) for event in events]


class Combining(Single):
    def combine(self, results: Any, parameters: Any = None) -> Any:
        return [len(results), sum(results)]


class Both(Many, Combining):
    pass


def part(event: int, k: int = 0, missing: int = 0, call: bool = True) -> Part:
    return Part(event, k, {}, missing, 1, call)


def runner(app: type, *, broadcasts: tuple[int, ...] = (), changes: tuple[int, ...] = (), **more: Any) -> Runner:
    hooks = WorkerHooks(app)
    history = ParameterHistory([(0, ParameterSet([], 1))])
    for version, event in enumerate(changes, 2):
        history.append(event, ParameterSet([], version))
    hooks.construct(parameters=history.latest, context={}, state=None)
    return Runner(
        hooks,
        history,
        ResultBuffer(1, 0),
        next_broadcast=lambda event: min((b for b in broadcasts if b >= event), default=None),
        **more,
    )


def taken(run: Runner) -> tuple[ResultBatch, Batch]:
    (head, *parts), _ = run.results.take()
    header = decode_header(head)
    assert isinstance(header, ResultBatch)
    return header, Batch(header, parts)


def payloads(batch: Batch) -> list[tuple[list[int], Any]]:
    """(events, result) of everything that would be folded."""
    return [
        (batch.events_of(i).tolist(), decode(body, list(batch.buffers))) for i, body in enumerate(batch.bodies) if body
    ]


def states(batch: Batch) -> dict[int, int]:
    return dict(zip(batch.events.tolist(), np.broadcast_to(batch.states, len(batch.events)).tolist(), strict=True))


def test_every_event_has_its_own_result_of_a_batch() -> None:
    run = runner(Many)
    assert run.run([part(e) for e in range(1, 12)], LONG) == 11
    app = run.hooks.instance
    assert app.batches == [[1], [2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert app.alone == []
    header, batch = taken(run)
    assert payloads(batch) == [([e], e * e) for e in range(1, 12) if e != 10]
    assert (states(batch)[10], header.combined, header.version) == (EventState.NO_RESULT, [], 1)


@pytest.mark.parametrize("app", [Many, Both])
def test_what_is_broadcast_is_processed_alone_and_nothing_goes_across_it_or_new_parameters(app: type) -> None:
    run = runner(app, broadcasts=(0, 5), changes=(8,))
    run.run([part(e) for e in range(100, 150)], LONG)  # the batches have grown
    taken(run)
    instance = run.hooks.instance
    instance.batches.clear()
    parts = [(0, -1), (2, 0), (1, 0), (5, -1), (6, 0), (5, 0), (7, 0), (9, 0), (8, 0), (21, 0)]
    run.run([part(event, k) for event, k in parts], LONG)
    assert instance.batches == [[2, 1], [6], [7], [9, 8, 21]]
    assert instance.alone == [0, 5, 5]
    _, batch = taken(run)
    combined = [([1, 2], [2, 5]), ([6, 7], [2, 85]), ([8, 9, 21], [3, 586])]
    alone = [([5], 25), ([5], 25)]
    if app is Both:
        assert sorted(payloads(batch), key=str) == sorted(alone + combined, key=str)


def test_results_are_combined_in_the_order_of_events_whatever_came_first() -> None:
    run = runner(Combining)
    run.run([part(3), part(1, 1), part(1), part(20), part(2)], LONG)
    header, batch = taken(run)
    assert payloads(batch) == [([1, 1, 2, 3], [4, 15])]
    (lo, hi), *_ = header.combined
    assert np.broadcast_to(batch.k, 5)[lo:hi].tolist() == [0, 1, 0, 0]
    assert states(batch)[20] == EventState.NO_RESULT


def test_one_result_is_combined_too_so_that_the_reducer_sees_one_kind() -> None:
    run = runner(Combining)
    run.run([part(4)], LONG)
    header, batch = taken(run)
    assert (payloads(batch), header.combined) == ([([4], [1, 16])], [])


def test_a_part_that_comes_twice_is_combined_once() -> None:
    run = runner(Combining)
    run.run([part(4), part(5), part(4)], LONG)
    assert payloads(taken(run)[1]) == [([4, 5], [2, 41])]


@pytest.mark.parametrize("app", [Many, Both])
def test_a_batch_that_raises_runs_again_one_by_one_and_only_the_guilty_event_fails(app: type) -> None:
    run = runner(app)
    run.run([part(e) for e in range(1, 20)], LONG)
    header, batch = taken(run)
    assert [e for e, state in states(batch).items() if state == EventState.FAILED] == [13]
    ((index, hook, text),) = header.failures
    assert (batch.events[index], hook) == (13, "process_event")
    assert "ValueError: thirteen" in text
    assert {e for events, _ in payloads(batch) for e in events} == set(range(1, 20)) - {10, 13}
    assert run.troubles == []


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda events: [0], "returned 1 results for 2 events; return a list with one result per event"),
        (lambda events: np.zeros(len(events)), "returned ndarray for 2 events"),
        (lambda events: None, "returned NoneType"),
        (lambda events: "ab", "returned str"),
        (lambda events: [{}["a"] for _ in events], "KeyError: 'a'"),
    ],
)
def test_what_process_events_does_wrong_is_told_once_and_costs_nothing(
    returned: Callable[[Any], Any], told: str
) -> None:
    class Wrong(Many):
        def process_events(self, events: Any, parameters: Any = None, ticks: Any = ()) -> Any:
            return super().process_events(events) if len(events) < 2 else returned(events)

    run = runner(Wrong)
    run.run([part(e) for e in range(1, 9)], LONG)
    header, batch = taken(run)
    assert payloads(batch) == [([e], e * e) for e in range(1, 9)]
    assert header.failures == []
    (trouble,) = run.troubles
    assert trouble.startswith("process_events failed for 2 events from 2 to 3; processed one by one, none failed: ")
    assert told in trouble


def test_a_result_that_cannot_travel_is_one_events_failure() -> None:
    class Odd(Many):
        def square(self, number: int) -> Any:
            return object() if number == 2 else number

    run = runner(Odd)
    run.run([part(1), part(2), part(3)], LONG)
    header, batch = taken(run)
    ((index, hook, text),) = header.failures
    assert (batch.events[index], hook) == (2, "process_events")
    assert "process_events returned what cannot travel" in text
    assert payloads(batch) == [([1], 1), ([3], 3)]


@pytest.mark.parametrize("wrong", ["raise", "none", "odd"])
def test_where_combine_fails_events_are_processed_again_and_travel_alone(wrong: str) -> None:
    """What it was given may have been changed before it raised, so that is not what travels."""

    class Wrong(Combining):
        def process_event(self, event: Any, parameters: Any = None) -> Any:
            return np.array([float(event.event_number)])

        def combine(self, results: Any, parameters: Any = None) -> Any:
            if len(results) > 1:
                results[0] += 1000.0
                return {"none": None, "odd": object()}.get(wrong) if wrong != "raise" else {}["never"]
            return float(results[0][0])

    run = runner(Wrong)
    run.run([part(1), part(2)], LONG)
    run.run([part(3), part(4)], LONG)
    header, batch = taken(run)
    assert payloads(batch) == [([e], float(e)) for e in (1, 2, 3, 4)]
    assert (header.failures, header.combined) == ([], [])
    (trouble,) = run.troubles
    assert "combine failed for 2 events from 1 to 2" in trouble
    assert {"raise": "KeyError", "none": "combine returned None for 2", "odd": "cannot travel"}[wrong] in trouble


def test_a_result_that_combine_fails_for_alone_is_that_events_failure() -> None:
    class Wrong(Combining):
        def combine(self, results: Any, parameters: Any = None) -> Any:
            return sum(results) // (0 if 9 in results else 1)

    run = runner(Wrong)
    run.run([part(e) for e in (1, 2, 3, 4)], LONG)
    header, batch = taken(run)
    ((index, hook, text),) = header.failures
    assert (batch.events[index], hook) == (3, "combine")
    assert "ZeroDivisionError" in text
    assert payloads(batch) == [([e], e * e) for e in (1, 2, 4)]
    assert run.troubles == []


@pytest.mark.parametrize("app", [Single, Many, Combining, Both])
def test_incomplete_parts_and_those_that_bring_nothing_keep_their_states(app: type) -> None:
    parts = [part(1), part(2, missing=1), part(3, missing=3, call=False), part(4, call=False), part(10, missing=2)]
    for skip in (False, True):
        run = runner(app, skip=skip)
        run.run([*parts, part(5)], LONG)
        header, batch = taken(run)
        assert states(batch) == {
            1: EventState.REDUCED,
            2: EventState.INCOMPLETE_SKIPPED if skip else EventState.INCOMPLETE,
            3: EventState.INCOMPLETE_SKIPPED,
            4: EventState.NO_RESULT,
            5: EventState.REDUCED,
            10: EventState.INCOMPLETE_SKIPPED if skip else EventState.INCOMPLETE,
        }
        assert {(int(batch.events[i]), bits) for i, bits in header.missing} == {(2, 1), (3, 3), (10, 2)}


@pytest.mark.parametrize("app", [Many, Both])
def test_a_tick_is_that_of_one_event_also_when_it_runs_again(app: type) -> None:
    class Ticking(app):  # type: ignore[misc]
        ticked: list[int]

        def process_event(self, event: Any, parameters: Any = None, tick: bool = False) -> Any:
            if tick:
                self.ticked.append(event.event_number)
            return super().process_event(event)

    Ticking.ticked = []
    run = runner(Ticking)
    run.tick_at = {6, 12, 99}
    run.run([part(1)], LONG)
    run.tick = True
    run.run([part(e) for e in range(2, 16)], LONG)
    instance = run.hooks.instance
    assert [t for t in instance.ticks if t] == [{2}, {6}, {12}]
    assert instance.ticked == [12]  # its batch had the thirteen
    assert run.tick_at == {99}
    assert taken(run)[0].ticks == [2, 6, 12]


def test_batches_fit_into_the_time_there_is() -> None:
    clock = Clock()

    class Slow(Many):
        def process_events(self, events: Any, parameters: Any = None, ticks: Any = ()) -> Any:
            clock.now += 0.001 * len(events)
            return super().process_events(events)

    run = runner(Slow, clock=clock)
    parts = [part(e) for e in range(100, 400)]
    done = 0
    while done < len(parts):
        began = clock.now
        done += run.run(parts[done:], 0.010)
        assert clock.now - began < 0.0121
    assert max(map(len, run.hooks.instance.batches)) in (7, 8, 9, 10)


def test_a_batch_size_grows_with_the_work_and_not_without_it() -> None:
    size = BatchSize()
    assert size.within(1.0) == size.within(0.0) == size.within(-1.0) == 1
    for _ in range(20):
        size.took(1, 0.0)
    assert size.within(1.0) == 2
    for _ in range(20):
        size.took(size.within(1.0), 0.0)
    assert size.within(1.0) == LARGEST
    size.took(LARGEST, 1.0)
    assert 1 <= size.within(0.1) < LARGEST // 2
    assert size.within(-1.0) == 1


@pytest.mark.parametrize("app", [Combining, Both])
def test_what_another_worker_had_before_is_processed_and_combined_each_for_itself(app: type) -> None:
    """The reducer sees what `combine` returned, as always, and no result stands for parts of which some are done."""
    run = runner(app)
    run.run([part(1), part(2)._replace(again=True), part(3), part(4)], LONG)
    header, batch = taken(run)
    assert payloads(batch) == [([2], [1, 4]), ([1, 3, 4], [3, 26])]
    assert header.combined == [(1, 4)]
    assert getattr(run.hooks.instance, "batches", None) in (None, [[1], [3, 4]])


def test_also_where_nothing_is_combined_it_is_processed_alone() -> None:
    run = runner(Many)
    run.run([part(1), part(2)._replace(again=True), part(3)], LONG)
    assert (run.hooks.instance.batches, run.hooks.instance.alone) == ([[1], [3]], [2])


def test_poison_is_not_tried_again() -> None:
    run = runner(Combining)
    run.poison.add(2)
    run.run([part(1), part(2), part(3)], LONG)
    header, batch = taken(run)
    assert payloads(batch) == [([1, 3], [2, 10])]
    assert header.failures == [(0, "process_event", POISON)]
