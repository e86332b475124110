"""Which logical worker has which virtual worker, as the controller's blocks say."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

UNASSIGNED = -1


class Routes:
    """Blocks of virtual workers by number; a later block overrides an earlier one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._workers: list[int] = []
        self._arrays: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]] | None = None

    def add(self, lo: int, hi: int, worker: int) -> None:
        """Virtual workers lo..hi-1 go to `worker`; appending beyond the last block, the usual case, is O(1)."""
        if hi <= lo:
            return
        self._arrays = None
        if self._ends and lo < self._ends[-1]:
            self._cut(lo, hi)
        at = bisect_left(self._starts, lo)
        self._starts.insert(at, lo)
        self._ends.insert(at, hi)
        self._workers.insert(at, worker)

    @property
    def end(self) -> int:
        """One beyond the last virtual worker that has a worker; 0 when none has."""
        return self._ends[-1] if self._ends else 0

    def all(self) -> list[tuple[int, int, int]]:
        """(lo, hi, worker) of all blocks that are still remembered, ascending."""
        return list(zip(self._starts, self._ends, self._workers, strict=True))

    def blocks(self, worker: int) -> list[tuple[int, int]]:
        """The blocks of one worker that are still remembered."""
        return [(lo, hi) for lo, hi, w in zip(self._starts, self._ends, self._workers, strict=True) if w == worker]

    def _cut(self, lo: int, hi: int) -> None:
        """Make room for [lo, hi): what overlaps is shortened, split or dropped."""
        at = max(bisect_right(self._starts, lo) - 1, 0)
        while at < len(self._starts) and self._starts[at] < hi:
            start, end, worker = self._starts[at], self._ends[at], self._workers[at]
            if end <= lo:
                at += 1
                continue
            del self._starts[at], self._ends[at], self._workers[at]
            for a, b in ((start, lo), (hi, end)):
                if a < b:
                    self._starts.insert(at, a)
                    self._ends.insert(at, b)
                    self._workers.insert(at, worker)
                    at += 1

    def forget_before(self, virtual: int) -> None:
        """Drop blocks that end at or before `virtual`: nothing of theirs will be asked for again."""
        at = bisect_right(self._ends, virtual)
        if at > 64:
            del self._starts[:at], self._ends[:at], self._workers[:at]
            self._arrays = None

    def find(self, virtual: int) -> int:
        """Logical worker of one virtual worker, as `lookup` has it: quicker for a single one."""
        at = bisect_right(self._starts, virtual) - 1
        return self._workers[at] if at >= 0 and virtual < self._ends[at] else UNASSIGNED

    def lookup(self, virtual: NDArray[np.int64]) -> NDArray[np.int32]:
        """Logical worker per virtual worker, UNASSIGNED where there is none yet."""
        if self._arrays is None:
            self._arrays = (
                np.array(self._starts, dtype=np.int64),
                np.array(self._ends, dtype=np.int64),
                np.array(self._workers, dtype=np.int32),
            )
        starts, ends, workers = self._arrays
        if not len(starts):
            return np.full(len(virtual), UNASSIGNED, dtype=np.int32)
        at = np.searchsorted(starts, virtual, side="right") - 1
        np.maximum(at, 0, out=at)
        found = workers[at]
        found[(virtual >= ends[at]) | (virtual < starts[at])] = UNASSIGNED
        return found
