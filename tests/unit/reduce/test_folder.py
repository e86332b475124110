"""Folding: which results process_results gets together, and whose failure it is when it raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beamfold.app.batchsize import BatchSize
from beamfold.app.hooks import ReducerHooks
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.envelopes import ResultBatch, decode_header, pack_events, pack_positions
from beamfold.reduce.batch import Batch
from beamfold.reduce.folder import LOOK, Folder
from beamfold.work.machine import Part
from beamfold.work.results import ResultBuffer


class Alone:
    def __init__(self) -> None:
        self.alone: list[Any] = []

    def process_result(self, result: Any, parameters: Any = None) -> None:
        if result.payload == "wrong":
            raise ValueError("wrong result")
        self.alone.append((result.event_number, result.worker, result.payload))


class Many(Alone):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def process_results(self, results: Any, parameters: Any = None) -> None:
        assert all(result.parameters_hash == parameters.hash for result in results)
        for result in results:
            if result.payload == "wrong":
                raise ValueError("wrong result")
        self.calls.append([(result.event_number, result.payload) for result in results])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def folder(app: type, *, broadcasts: Sequence[int] = (), changes: Sequence[int] = (), **more: Any) -> Folder:
    hooks = ReducerHooks(app)
    hooks.construct(parameters=None, context={}, state=None)
    history = ParameterHistory([(0, ParameterSet([], 1))])
    for version, event in enumerate(changes, 2):
        history.append(event, ParameterSet([], version))
    found = Folder(
        hooks,
        history,
        TypeTable([]),
        ["w0", "w1"],
        lambda event: min((b for b in broadcasts if b >= event), default=None),
        **more,
    )
    found._size.took(1, 0.0)
    for _ in range(8):
        found._size.took(found._size.within(1.0), 0.0)
    return found


def singles(results: dict[int, Any], k: int = 0) -> Batch:
    bodies = [encode(payload, []) for payload in results.values()]
    header = ResultBatch(
        1,
        0,
        len(results),
        1,
        pack_events(np.array(list(results))),
        pack_positions(k),
        2,
        np.array([len(b) for b in bodies], "<u4").tobytes(),
        [],
        [],
        [],
    )
    return Batch(header, [b"".join(bodies)])


def combined(events: Sequence[int], payload: Any) -> Batch:
    buffer = ResultBuffer(1, 1)
    buffer.add_combined([Part(event, 0, {}, 0, 1, True) for event in events], encode(payload, []))
    (head, *parts), _ = buffer.take()
    header = decode_header(head)
    assert isinstance(header, ResultBatch)
    return Batch(header, parts)


def fold(to: Folder, *batches: Batch) -> None:
    to.begin(math.inf)
    for batch in batches:
        to.fold(batch, batch.all_places)
    to.flush()


def test_results_of_several_workers_are_folded_together_in_their_order() -> None:
    to = folder(Many)
    fold(to, singles({1: "a", 2: "b"}), combined([3, 5], "c"), singles({4: "d"}))
    assert to.hooks.instance.calls == [[(1, "a"), (2, "b"), (3, "c"), (4, "d")]]
    assert (to.folded, to.failures, to.failed.runs()) == (4, [], [])


def test_what_was_broadcast_is_folded_alone_and_nothing_goes_across_it_or_new_parameters() -> None:
    to = folder(Many, broadcasts=[0, 4], changes=[6])
    fold(to, singles({0: "start"}, -1), singles(dict.fromkeys(range(1, 9), "x")), singles({9: "?"}, -2))
    app = to.hooks.instance
    assert [[event for event, _ in call] for call in app.calls] == [[1, 2, 3], [5], [6, 7, 8]]
    assert app.alone == [(0, "w0", "start"), (4, "w0", "x"), (9, "w0", "?")]


def test_all_events_of_a_batch_that_raises_have_failed_because_it_may_have_folded_some() -> None:
    to = folder(Many)
    fold(to, singles({1: "a", 2: "wrong"}), combined([3, 4, 7], "c"))
    fold(to, singles({5: "e"}))
    assert to.failed.runs() == [(1, 5), (7, 8)]
    (failure,) = to.failures
    assert (failure.event, failure.where, failure.worker) == (1, "process_results", "w0")
    assert "for 5 events from 1 to 7: " in failure.text
    assert "ValueError: wrong result" in failure.text
    assert to.hooks.instance.calls == [[(5, "e")]]
    assert to.hooks.instance.alone == []


def test_a_combined_result_that_raises_is_a_failure_of_all_its_events() -> None:
    to = folder(Alone)
    fold(to, combined([2, 3, 9], "wrong"), combined([4], "fine"))
    assert to.failed.runs() == [(2, 4), (9, 10)]
    (failure,) = to.failures
    assert (failure.event, failure.where, failure.worker) == (2, "process_result", "w1")
    assert failure.text.startswith("for 3 events from 2 to 9: ")
    assert to.hooks.instance.alone == [(4, "w1", "fine")]


def test_folding_one_by_one_stops_when_its_time_is_over() -> None:
    clock = Clock()

    class Slow(Alone):
        def process_result(self, result: Any, parameters: Any = None) -> None:
            clock.now += 1

    to, batch = folder(Slow, clock=clock), singles(dict.fromkeys(range(1, 501), "x"))
    to.begin(clock.now + 40)
    assert to.fold(batch, range(500)) == 2 * LOOK
    to.begin(clock.now + 1)
    assert to.fold(batch, range(2 * LOOK, 500)) == LOOK
    assert to.folded == clock.now == 3 * LOOK


def test_process_results_gets_as_many_as_fit_into_the_time_there_is() -> None:
    clock = Clock()

    class Slow(Many):
        def process_results(self, results: Any, parameters: Any = None) -> None:
            super().process_results(results, parameters)
            clock.now += len(results)

    to, batch, done = folder(Slow, clock=clock), singles(dict.fromkeys(range(1, 501), "x")), 0
    to._size = BatchSize()
    while done < 500:
        to.begin(clock.now + 40)
        began = clock.now
        done += to.fold(batch, range(done, 500))
        to.flush()
        assert clock.now - began <= 40 + 2 * LOOK
    assert to.failures == []
    calls = to.hooks.instance.calls
    assert [result for call in calls for result in call] == [(event, "x") for event in range(1, 501)]
    assert 8 < max(map(len, calls)) <= 40
