"""Histograms say what a sorted list of the same durations would, as far as their buckets go."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.model.histogram import BOUNDS, BUCKETS, Histogram
from beamfold.model.latency import Latencies, Stage
from beamfold.model.report import StageLatency

DURATIONS = st.lists(st.floats(-1.0, 1e4), max_size=300)


def filled(seconds: list[float]) -> Histogram:
    histogram = Histogram()
    for s in seconds:
        histogram.observe(s)
    return histogram


def test_bounds_are_round_numbers_five_to_a_decade() -> None:
    assert (BOUNDS[0], BOUNDS[5], BOUNDS[-1]) == (20e-6, 200e-6, 125.0)
    assert all(1.5 < b / a < 1.7 for a, b in pairwise(BOUNDS))
    assert all(float(f"{b:.3g}") == b for b in BOUNDS)


def test_a_bound_belongs_to_its_bucket_and_what_is_longer_than_all_has_one_of_its_own() -> None:
    histogram = filled([0.0, 20e-6, 21e-6, 125.0, 126.0])
    assert {i: n for i, n in enumerate(histogram.counts) if n} == {0: 2, 1: 1, BUCKETS - 2: 1, BUCKETS - 1: 1}
    assert (histogram.count, histogram.largest) == (5, 126.0)


@given(DURATIONS)
def test_it_counts_adds_up_and_knows_the_longest(seconds: list[float]) -> None:
    histogram = filled(seconds)
    assert histogram.count == len(seconds)
    assert histogram.total == pytest.approx(sum(max(s, 0.0) for s in seconds))
    assert histogram.largest == max([*seconds, 0.0])
    assert histogram.negative == sum(1 for s in seconds if s < 0)


@given(DURATIONS, st.integers(1, 5))
def test_a_duration_many_times_is_that_duration_so_often(seconds: list[float], n: int) -> None:
    histogram = Histogram()
    for s in seconds:
        histogram.observe(s, n)
    assert histogram.counts == filled(seconds * n).counts


@given(DURATIONS, DURATIONS)
def test_a_sum_has_the_durations_of_both(first: list[float], second: list[float]) -> None:
    both = filled(first)
    both.add(filled(second))
    expected = filled(first + second)
    assert both.counts == expected.counts
    assert (both.negative, both.largest) == (expected.negative, expected.largest)


@given(st.lists(st.floats(0.0, 200.0), min_size=1, max_size=300), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_real_one(seconds: list[float], q: float) -> None:
    histogram = filled(seconds)
    real = sorted(seconds)[max(math.ceil(q * len(seconds)) - 1, 0)]
    lower = max((b for b in BOUNDS if b < real), default=0.0)
    upper = min((b for b in BOUNDS if b >= real), default=math.inf)
    assert lower <= histogram.quantile(q) <= min(upper, histogram.largest)


def test_an_empty_one_has_quantiles_and_a_wire_form() -> None:
    empty = Histogram()
    assert empty.quantile(0.5) == 0.0
    assert Histogram.from_wire(empty.to_wire()) == empty
    assert StageLatency.of(empty) == StageLatency(0, 0.0, 0.0, 0.0, 0.0)


@given(DURATIONS)
def test_it_travels_to_the_nanosecond(seconds: list[float]) -> None:
    histogram = filled(seconds)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(histogram.to_wire()))
    back = Histogram.from_wire(wire)
    assert back == histogram
    assert back.total == pytest.approx(histogram.total, abs=1e-9)


def test_centuries_travel_too() -> None:
    histogram = filled([1e10] * 1000)
    assert Histogram.from_wire(histogram.to_wire()).count == 1000


@pytest.mark.parametrize(
    "wire",
    [
        [],
        [1, 2],
        [1, 2, 3, 4],
        [1, 2, 3, BUCKETS, 1],
        [1, 2, 3, -1, 1],
        [1, 2, 3, 4, 1, 4, 1],
        [1, 2, 3, 5, 1, 4, 1],
        [1, 2, 3, 4, 0],
        [1, 2, 3, 4, -1],
        [-1, 2, 3, 4, 1],
        [1 << 62, 2, 3, 4, 1],
        [1, 2, 3, 4, 1 << 63],
        [1, 2, 3, *range(10_000)],
    ],
)
def test_what_is_no_histogram_is_refused(wire: list[int]) -> None:
    with pytest.raises(CodecError):
        Histogram.from_wire(wire)


# -- the stages of the way -----------------------------------------------------------------------------------


def test_stages_come_in_the_order_of_the_way_and_only_those_observed() -> None:
    latencies = Latencies()
    latencies[Stage.TOTAL].observe(1.0)
    latencies[Stage.INGEST].observe(0.1, 3)
    assert [(stage.value, h.count) for stage, h in latencies.items()] == [("ingest", 3), ("total", 1)]
    back = Latencies.from_wire(latencies.to_wire())
    assert back.items() == latencies.items()
    assert dict(Latencies.sum([latencies, back]).items())[Stage.INGEST].count == 6


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(CodecError, match="no stage 'nap'"):
        Latencies.from_wire({"nap": [0, 0, 0]})
