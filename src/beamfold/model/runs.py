"""Sets of integers kept as runs: what is done, what is missing, what is held.

A run is a half-open pair (lo, hi). Sets of event numbers and ordinals are nearly contiguous in practice, so
the cost follows the number of holes and not the length of the scan.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Run: TypeAlias = tuple[int, int]
"""The integers lo <= n < hi."""


MAX_RUNS = 10_000
"""Runs kept per list for people, or told in one message: what does not compress further is still counted by state."""

MAX_SHOWN = 10
"""Runs that are named in a line of text."""


def as_runs(events: NDArray[np.int64]) -> list[Run]:
    """Ascending event numbers as half-open runs."""
    if not len(events):
        return []
    breaks = np.flatnonzero(np.diff(events) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(events, breaks)]


def shown(runs: Sequence[Run]) -> str:
    """The numbers, for people: "3, 7 to 9", and of many runs the first ones."""
    texts = [str(lo) if hi == lo + 1 else f"{lo} to {hi - 1}" for lo, hi in runs[:MAX_SHOWN]]
    return ", ".join([*texts, "…"] if len(runs) > MAX_SHOWN else texts)


def append_event(runs: list[Run], event: int) -> None:
    """Add an event that is not before the last ones: it prolongs the last run, is in it already, or begins another."""
    if runs and runs[-1][1] == event:
        runs[-1] = (runs[-1][0], event + 1)
    elif not runs or not runs[-1][0] <= event < runs[-1][1]:
        runs.append((event, event + 1))


class RunSet:
    """A set of integers as sorted, disjoint, merged runs.

    Bounds must be Python ints (numpy integers would be stored as they are). An empty interval (hi <= lo) is
    nothing. Adding at the end is O(1); anything else costs a bisection plus moving the list behind it.
    """

    __slots__ = ("_hi", "_lo", "_total")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._lo: list[int] = []
        self._hi: list[int] = []
        self._total = 0
        for lo, hi in runs:
            self.add(lo, hi)

    def add(self, lo: int, hi: int) -> int:
        """Put lo..hi-1 into the set; returns how many of them are new."""
        if hi <= lo:
            return 0
        los, his = self._lo, self._hi
        if not his or lo >= his[-1]:
            if his and lo == his[-1]:
                his[-1] = hi
            else:
                los.append(lo)
                his.append(hi)
            self._total += hi - lo
            return hi - lo
        first = bisect_left(his, lo)
        last = bisect_right(los, hi)
        if first == last:
            los.insert(first, lo)
            his.insert(first, hi)
            self._total += hi - lo
            return hi - lo
        held = sum(his[i] - los[i] for i in range(first, last))
        lo, hi = min(lo, los[first]), max(hi, his[last - 1])
        los[first:last] = [lo]
        his[first:last] = [hi]
        self._total += hi - lo - held
        return hi - lo - held

    def discard(self, lo: int, hi: int) -> None:
        """Take lo..hi-1 out of the set, as far as they are in it."""
        los, his = self._lo, self._hi
        if hi <= lo or not los or lo >= his[-1] or hi <= los[0]:
            return
        first = bisect_right(his, lo)
        last = bisect_left(los, hi)
        if first >= last:
            return
        left = (los[first], lo) if los[first] < lo else None
        right = (hi, his[last - 1]) if his[last - 1] > hi else None
        kept = [run for run in (left, right) if run is not None]
        self._total -= sum(his[i] - los[i] for i in range(first, last)) - sum(b - a for a, b in kept)
        los[first:last] = [a for a, _ in kept]
        his[first:last] = [b for _, b in kept]

    def __contains__(self, n: int) -> bool:
        i = bisect_right(self._lo, n) - 1
        return i >= 0 and n < self._hi[i]

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of lo..hi-1 are in the set; True for an empty interval."""
        if hi <= lo:
            return True
        i = bisect_right(self._lo, lo) - 1
        return i >= 0 and hi <= self._hi[i]

    def overlap(self, lo: int, hi: int) -> list[Run]:
        """The runs of the set inside [lo, hi), cut to it."""
        if hi <= lo:
            return []
        los, his = self._lo, self._hi
        first = bisect_right(his, lo)
        last = bisect_left(los, hi)
        return [(max(lo, los[i]), min(hi, his[i])) for i in range(first, last)]

    def missing(self, lo: int, hi: int) -> list[Run]:
        """The runs inside [lo, hi) that are not in the set."""
        out: list[Run] = []
        for start, stop in self.overlap(lo, hi):
            if lo < start:
                out.append((lo, start))
            lo = stop
        if lo < hi:
            out.append((lo, hi))
        return out

    def first_gap(self, start: int) -> int:
        """The first integer >= start that is not in the set."""
        i = bisect_right(self._lo, start) - 1
        return self._hi[i] if i >= 0 and start < self._hi[i] else start

    def runs(self) -> list[Run]:
        """All runs, ascending; a new list."""
        return list(zip(self._lo, self._hi, strict=True))

    @property
    def total(self) -> int:
        """How many integers are in the set."""
        return self._total

    @property
    def count(self) -> int:
        """How many runs there are: what the set costs."""
        return len(self._lo)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs())

    def __bool__(self) -> bool:
        return bool(self._lo)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSet) and self._lo == other._lo and self._hi == other._hi

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"RunSet({self.runs()!r})"
