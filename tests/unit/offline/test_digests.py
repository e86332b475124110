"""A replay's results are compared with the recorded digests, in whatever batches they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from beamfold.model.states import EventState
from beamfold.offline.digests import Digests, first_event
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.envelopes import POISON, ResultBatch, decode_header
from beamfold.protocols.messages import Logged as Told
from beamfold.protocols.recordings import Logged
from beamfold.reduce.batch import Batch
from beamfold.reduce.done import Done
from beamfold.work.machine import Part
from beamfold.work.results import ResultBuffer

NOTHING = TypeTable([])


def batch(worker: int, results: Sequence[tuple[int, int, Any]]) -> tuple[ResultBatch, Batch, list[Any]]:
    """An envelope of results (event, k, result), None for no result."""
    buffer = ResultBuffer(1, worker)
    for event, k, result in results:
        body = b"" if result is None else encode(result, buffer.buffers)
        state = EventState.NO_RESULT if result is None else EventState.REDUCED
        buffer.add(event, k, 0, state, body, 0)
    (head, *parts), _ = buffer.take()
    header = decode_header(head)
    assert isinstance(header, ResultBatch)
    return header, Batch(header, parts), parts


def told(worker: int, results: Sequence[tuple[int, int, Any]], fresh: Sequence[bool] | None = None) -> Logged:
    """What the recording gets of such a batch."""
    header, whole, parts = batch(worker, results)
    done = Done(["a"], ["w0", "w1"], recorded=True)
    done.add(header, whole, np.array([True] * len(results) if fresh is None else fresh), [], parts)
    (found,) = done.message(1, 0, False, 0).logged
    assert isinstance(found, Told)
    return Logged(found.worker, found.parts, found.digest)


def large(number: int) -> np.ndarray[Any, Any]:
    return np.full(5000, number)  # a buffer of its own, which is numbered within its batch


RESULTS = [(3, 0, 1), (4, 0, None), (5, 0, {"a": large(5)}), (9, 1, large(9)), (2, 0, {"set": {"x", "y", "z"}})]


def test_the_parts_of_a_batch_are_recorded_in_its_order() -> None:
    assert told(1, RESULTS).parts == [(0, 3, 6), (1, 9, 10), (0, 2, 3)]
    assert told(1, RESULTS).worker == 1 and len(told(1, RESULTS).digest) == 16


def test_of_a_batch_that_was_partly_there_already_only_the_new_parts_are_recorded_and_no_digest() -> None:
    assert told(0, RESULTS, [False, True, True, False, True]) == Logged(0, [(0, 4, 6), (0, 2, 3)], "")


@pytest.mark.parametrize("cut", [[5], [1, 2, 3, 4, 5], [3, 5]])
def test_results_that_come_in_other_batches_are_the_same(cut: list[int]) -> None:
    digests = Digests([told(0, RESULTS), told(1, [(7, 0, 7)])], NOTHING)
    shuffled, at = [RESULTS[i] for i in (3, 1, 4, 2, 0)], 0
    for end in cut:
        digests.add(batch(0, shuffled[at:end])[1])
        at = end
    assert digests.same == 1
    digests.add(batch(1, [(7, 0, 7)])[1])
    digests.finish()
    assert (digests.same, digests.differing, digests.without) == (2, [], 0)


@pytest.mark.parametrize(
    ("at", "result"),
    [(0, 2), (0, 1.0), (0, None), (1, 0), (2, {"a": large(6)}), (2, {"b": large(5)}), (4, {"set": {"x"}})],
)
def test_one_other_result_is_enough_to_differ(at: int, result: Any) -> None:
    recorded = told(0, RESULTS)
    digests = Digests([recorded], NOTHING)
    changed = list(RESULTS)
    changed[at] = (*RESULTS[at][:2], result)
    digests.add(batch(0, changed)[1])
    digests.finish()
    assert (digests.same, digests.differing) == (0, [recorded])
    assert first_event(recorded) == 2


def test_what_is_not_processed_again_or_by_another_worker_differs() -> None:
    first, second = told(0, [(1, 0, 1), (2, 0, 2)]), told(0, [(3, 0, 3)])
    digests = Digests([second, first], NOTHING)
    digests.add(batch(0, [(1, 0, 1), (7, 0, 7)])[1])
    digests.add(batch(1, [(2, 0, 2), (3, 0, 3)])[1])
    digests.finish()
    assert (digests.same, digests.differing) == (0, [first, second])


def test_batches_without_a_digest_or_beyond_the_end_are_not_compared() -> None:
    """The end event 4 is a broadcast; before the map was closed another event had this number."""
    beyond, end = told(0, [(3, 0, 3), (4, 0, 4)]), told(0, [(4, -1, "end")])
    digests = Digests([beyond, end, Logged(0, [(0, 1, 2)], "")], NOTHING, 3)
    digests.add(batch(0, [(4, -1, "end")])[1])
    digests.finish()
    assert (digests.same, digests.differing, digests.without) == (1, [], 2)


def test_ticks_and_poison_of_a_batch_that_came_again_are_not_told_again() -> None:
    """Otherwise a recording would seem to lack lines that say when its workers ticked."""
    buffer = ResultBuffer(1, 0)
    buffer.ticks = [1, 2]
    for event in (1, 2):
        buffer.fail(Part(event, 0, {}, 0, 0, True), "process_event", POISON)
    (head, *parts), _ = buffer.take()
    header = decode_header(head)
    assert isinstance(header, ResultBatch)
    done = Done(["a"], ["w0"], recorded=True)
    done.add(header, Batch(header, parts), np.array([False, True]), [], parts)
    message = done.message(1, 0, False, 0)
    assert (message.ticks, message.poison) == ([(2, 0)], [(2, 0)])
