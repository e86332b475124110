"""Events that lack a frame of a stream: remembered as runs while those are few, else one by one.

They are told in any order, and those of broadcasts by everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from beamfold.model.bitmaps import MAX_EVENTS, Bitmap
from beamfold.model.runs import MAX_RUNS, Run, RunSet

LONG = 1 << 16
"""Events of a run that is remembered as such even where there are many others: the rest of a plan may have any number
of them."""


class Noted:
    """A set of events. Beyond `MAX_RUNS` runs only the first `MAX_EVENTS` events are told from each other, so it has
    ten megabytes at most; runs that are `LONG` are among the runs up to twice as many."""

    def __init__(self) -> None:
        self._runs = RunSet()
        self._marks = np.zeros(0, dtype=np.bool_)

    def add(self, runs: Iterable[Run]) -> None:
        """These events are in the set."""
        for lo, hi in runs:
            if self._runs.count < (MAX_RUNS if hi - lo < LONG else 2 * MAX_RUNS):
                self._runs.add(lo, hi)
            elif lo < MAX_EVENTS:
                self._mark(lo, min(hi, MAX_EVENTS))

    def _mark(self, lo: int, hi: int) -> None:
        if hi > len(self._marks):
            grown = np.zeros(min(max(hi, 2 * len(self._marks), LONG), MAX_EVENTS), dtype=np.bool_)
            grown[: len(self._marks)] = self._marks
            self._marks = grown
        self._marks[lo:hi] = True

    def runs(self, lo: int, hi: int) -> list[Run]:
        """Those of events lo..hi-1 that are in the set, as runs: the first ones told, where there are too many."""
        return self._runs.overlap(lo, hi)

    def total(self, lo: int, hi: int) -> int:
        """How many of events lo..hi-1 are in it, as far as it knows."""
        runs = sum(b - a for a, b in self.runs(lo, hi))
        return runs + int(np.count_nonzero(self._others()[lo:hi]))

    def bitmap(self, lo: int, hi: int) -> Bitmap | None:
        """The same as a bitmap, of as many events as one may have; None where the runs say it all."""
        if not len(self._marks):
            return None
        hi = min(hi, lo + MAX_EVENTS)
        mask = np.zeros(hi - lo, dtype=np.bool_)
        marks = self._marks[lo:hi]
        mask[: len(marks)] = marks
        for a, b in self.runs(lo, hi):
            mask[a - lo : b - lo] = True
        return Bitmap.of(lo, mask)

    def _others(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """What is marked and in no run: a run may have come to be beside what was marked before."""
        if not len(self._marks):
            return self._marks
        others = self._marks.copy()
        for a, b in self.runs(0, len(others)):
            others[a:b] = False
        return others


__all__ = ["Noted"]
