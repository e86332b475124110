"""Which events of a uniform map have any frame at all: a union of arithmetic progressions, counted in O(1).

Nearly every scan has one stream with a frame in every event from the first on, and everything here is
trivial. The rest exists so that a slow stream alone (every tenth event, say) is counted right.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import lcm

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import MapError

LONGEST_PERIOD = 1 << 17
"""Events after which the pattern must repeat: it is tabulated (5 bytes each), once per segment."""

_Segment = tuple[int, int, "NDArray[np.int32] | None", int]


class Progressions:
    """Events e >= 1 for which e >= first and (e - first) % every == 0 for some (every, first).

    `dense_from`: every event from here on has a frame; None when there is no such event.
    """

    def __init__(self, progressions: Sequence[tuple[int, int]]) -> None:
        self.progressions = tuple(progressions)
        self.dense_from = min((first for every, first in progressions if every == 1), default=None)
        self._starts: list[int] = []
        self._segments: list[_Segment] = []
        if self.dense_from != 1:
            self._tabulate()

    def _tabulate(self) -> None:
        """Between two firsts the set of active progressions is fixed, so the pattern there is periodic."""
        before = 0
        firsts = sorted({first for _, first in self.progressions})
        if self.dense_from is not None:
            firsts = [f for f in firsts if f <= (self.dense_from or 0)]
        for i, start in enumerate(firsts):
            if start == self.dense_from:
                self._append(start, 1, None, before)
                break
            active = _essential([(e, f % e) for e, f in self.progressions if f <= start])
            period = lcm(*(e for e, _ in active))
            if period > LONGEST_PERIOD:
                raise MapError(
                    f"the streams' periods repeat only after {period} events (at most {LONGEST_PERIOD}); "
                    "let one stream have a frame in every event, or write the map out as a sequence"
                )
            present = np.zeros(period, dtype=np.bool_)
            for every, phase in active:
                present[(phase - start) % every :: every] = True
            counts = np.zeros(period + 1, dtype=np.int32)
            np.cumsum(present, out=counts[1:])
            self._append(start, period, counts, before)
            if i + 1 < len(firsts):
                before = self.count(firsts[i + 1] - 1)

    def _append(self, start: int, period: int, counts: NDArray[np.int32] | None, before: int) -> None:
        self._starts.append(start)
        self._segments.append((start, period, counts, before))

    def count(self, last: int) -> int:
        """How many of the events 1..last have a frame."""
        if self.dense_from == 1:
            return max(0, last)
        i = bisect_right(self._starts, last) - 1
        if i < 0:
            return 0
        start, period, counts, before = self._segments[i]
        if counts is None:
            return before + last - start + 1
        whole, rest = divmod(last - start + 1, period)
        return before + whole * int(counts[period]) + int(counts[rest])

    def next(self, event: int) -> int:
        """The first event >= `event` with a frame; there always is one."""
        event = max(1, event)
        return min(first if event <= first else event + (first - event) % every for every, first in self.progressions)


def _essential(progressions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without those that lie within another one: they would only lengthen the period."""
    out: list[tuple[int, int]] = []
    for every, phase in sorted(set(progressions)):
        if not any(every % e == 0 and phase % e == p for e, p in out):
            out.append((every, phase))
    return out
