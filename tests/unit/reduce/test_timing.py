"""The stages that the reducer sees: every part once, from when it was processed and from when its first frame came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.latency import Latencies, Stage
from beamfold.protocols.stamps import Times
from beamfold.reduce.timing import BatchTiming


def totals(latency: Latencies) -> dict[str, tuple[int, float]]:
    return {stage.value: (h.count, pytest.approx(h.total)) for stage, h in latency.items()}  # type: ignore[misc]


def test_results_that_are_new_and_timed_are_timed_to_the_log_and_to_the_fold() -> None:
    """Four parts: the second is in the log already, the third is a broadcast. Those received together share a mean."""
    latency = Latencies()
    times = Times(100.0, [(4, 1.0)], [(2, 90.0), (1, 0.0), (1, 95.0)])
    batch = BatchTiming(latency, times, np.array([True, False, True, True]), 110.0)
    assert totals(latency) == {"result": (2, (110 - 101.5) + (110 - 104))}
    batch.folded([0, 2], 120.0, 122.0)
    batch.folded([3], 130.0, 131.0)
    assert totals(latency) == {
        "result": (2, 14.5),
        "fold": (2, (121.5 - 110) + (131 - 110)),
        "total": (2, (121.5 - 90) + (131 - 95)),
    }


def test_parts_whose_result_is_one_are_folded_together() -> None:
    """Parts 1 to 3 are combined, of two runs; 0 and 4 are not."""
    latency = Latencies()
    times = Times(100.0, [(5, 0.0)], [(2, 90.0), (3, 95.0)])
    batch = BatchTiming(latency, times, np.ones(5, dtype=bool), 100.0, {1: 4})
    batch.folded([0, 1], 110.0, 110.0)
    assert totals(latency)["total"] == (4, 2 * 20 + 2 * 15)
    batch.folded([4], 110.0, 110.0)
    assert totals(latency) == {"result": (5, 0.0), "fold": (5, 50.0), "total": (5, 2 * 20 + 3 * 15)}


@given(
    st.lists(st.tuples(st.integers(1, 4), st.floats(1.0, 50.0)), min_size=1, max_size=8),
    st.floats(0.0, 1.0),
    st.data(),
)
def test_stages_add_up_to_the_whole_way(received: list[tuple[int, float]], each: float, data: st.DataObject) -> None:
    """However the fold cuts the batch: total = (processed - received) + result + fold, for every part."""
    n = sum(count for count, _ in received)
    latency, began, logged = Latencies(), 60.0, 100.0
    times = Times(began, [(n, each)], received)
    batch = BatchTiming(latency, times, np.ones(n, dtype=bool), logged)
    at, now = 0, 101.0
    while at < n:
        stop = data.draw(st.integers(at + 1, n))
        batch.folded(list(range(at, stop)), now, now + 1.0)
        at, now = stop, now + 2.0
    processed = sum(began + each * (i + 1) for i in range(n)) - sum(count * x for count, x in received)
    parts = [latency[stage] for stage in (Stage.RESULT, Stage.FOLD, Stage.TOTAL)]
    assert [h.count for h in parts] == [n] * 3
    assert [h.negative for h in parts] == [0] * 3
    assert parts[2].total == pytest.approx(processed + parts[0].total + parts[1].total)
