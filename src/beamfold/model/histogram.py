"""A histogram of durations in fixed, log-spaced buckets: it adds up, and travels as integers.

The bounds are the same in every process and every version of a scan, so that histograms of many services are added
without a loss; and five in a decade, so that a quantile is known to within a factor of 1.6.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import add

from beamfold.model.errors import CodecError

_STEPS = (1.25, 2.0, 3.2, 5.0, 8.0)

BOUNDS: tuple[float, ...] = tuple(float(f"{step}e{power}") for power in range(-5, 3) for step in _STEPS)[1:36]
"""Upper bounds of the buckets in seconds, inclusive: 20 µs, 32 µs, 50 µs, … 125 s; longer ones have one more bucket."""

BUCKETS = len(BOUNDS) + 1

_LARGEST = 1 << 62
"""Integers on the wire are below this, so that sums of them are integers that others can read."""


class Histogram:
    """Durations in seconds, which must be finite.

    `counts` has how many are in each of the BUCKETS; `total` is their sum and `largest` the longest. `negative` of them
    were below zero, which only the clocks of two hosts can make them: they are taken for 0.
    """

    __slots__ = ("counts", "largest", "negative", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0.0
        self.largest = 0.0
        self.negative = 0

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    def observe(self, seconds: float, n: int = 1) -> None:
        """The same duration `n` times."""
        if seconds < 0:
            self.negative += n
            seconds = 0.0
        self.counts[bisect_left(BOUNDS, seconds)] += n
        self.total += seconds * n
        self.largest = max(self.largest, seconds)

    def add(self, other: Histogram) -> None:
        """Take in another histogram's durations."""
        self.counts = list(map(add, self.counts, other.counts))
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        self.negative += other.negative

    def quantile(self, q: float) -> float:
        """The duration that a share `q` (0 to 1) does not exceed, interpolated in its bucket; 0 when there is none."""
        ends = list(accumulate(self.counts))
        if not ends[-1]:
            return 0.0
        wanted = q * ends[-1]
        bucket = bisect_left(ends, max(wanted, 1))
        lower = BOUNDS[bucket - 1] if bucket else 0.0
        upper = min(BOUNDS[bucket], self.largest) if bucket < len(BOUNDS) else self.largest
        inside = self.counts[bucket]
        share = (wanted - ends[bucket] + inside) / inside
        return lower + (upper - lower) * min(max(share, 0.0), 1.0)

    def to_wire(self) -> list[int]:
        """Sum and longest in nanoseconds, how many were negative, then bucket and count of each that is not empty."""
        pairs = [number for bucket, n in enumerate(self.counts) if n for number in (bucket, n)]
        times = (min(round(seconds * 1e9), _LARGEST - 1) for seconds in (self.total, self.largest))
        return [*times, self.negative, *pairs]

    @classmethod
    def from_wire(cls, numbers: Sequence[int]) -> Histogram:
        """What `to_wire` made, to the nanosecond; CodecError for anything else."""
        buckets, counts = list(numbers[3::2]), list(numbers[4::2])
        whole = len(numbers) >= 3 and len(buckets) == len(counts) <= BUCKETS
        if not whole or buckets != sorted(set(buckets)) or (buckets and not 0 <= buckets[0] <= buckets[-1] < BUCKETS):
            raise CodecError(f"{len(numbers)} numbers that are no histogram")
        if min(numbers) < 0 or max(numbers) >= _LARGEST or (counts and min(counts) < 1):
            raise CodecError(f"a histogram with numbers from {min(numbers)} to {max(numbers)}")
        self = cls()
        for bucket, n in zip(buckets, counts, strict=True):
            self.counts[bucket] = n
        self.total, self.largest, self.negative = numbers[0] / 1e9, numbers[1] / 1e9, numbers[2]
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_wire() == other.to_wire()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, p50={self.quantile(0.5):.3g} s, largest={self.largest:.3g} s)"
