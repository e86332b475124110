"""When the frames of a stream were taken from the detector's socket."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from beamfold.protocols.stamps import UNTIMED, Runs

KEPT = 1 << 16
"""Stamps that are kept of a stream, megabytes at most. Frames that were retained for longer have the oldest."""


class Arrivals:
    """A stamp for every run of ordinals that were drained together."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stamps: list[float] = []

    def add(self, lo: int, stamp: float) -> None:
        """Ordinals from `lo` on, which is beyond all that came before, have this stamp."""
        if self._stamps and self._stamps[-1] == stamp:
            return
        self._starts.append(lo)
        self._stamps.append(stamp)
        if len(self._starts) > 2 * KEPT:
            del self._starts[:KEPT], self._stamps[:KEPT]

    @property
    def newest(self) -> tuple[int, float] | None:
        """The first ordinal that was drained last, and its stamp; None before anything came."""
        return (self._starts[-1], self._stamps[-1]) if self._starts else None

    def of(self, ordinals: NDArray[np.int64]) -> Runs:
        """The stamps of ascending ordinals, in runs."""
        n, starts, stamps = len(ordinals), self._starts, self._stamps
        if not starts:
            return [(n, UNTIMED)]
        first = max(bisect_right(starts, int(ordinals[0])), 1) - 1
        last = max(bisect_right(starts, int(ordinals[-1])), 1) - 1
        if first == last:
            return [(n, stamps[first])]
        low = int(ordinals[0])
        if int(ordinals[-1]) - low == n - 1:
            ends = [start - low for start in starts[first + 1 : last + 1]]
        else:
            ends = np.searchsorted(ordinals, starts[first + 1 : last + 1]).tolist()
        cuts = pairwise([0, *ends, n])
        found = zip(cuts, stamps[first : last + 1], strict=True)
        return [(end - begin, stamp) for (begin, end), stamp in found if end > begin]
