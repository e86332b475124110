"""Frames kept until every part that needs them is durably done."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from beamfold.model.events import Buffer
from beamfold.model.runs import RunSet

Frame = list[Buffer]


class Retention:
    """One stream's frames by ordinal, in chunks as they arrived.

    A chunk's memory goes when all of its frames are released, so that the bookkeeping costs per batch and not per
    frame. `nbytes` counts the payload of the chunks that are held.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._starts: list[int] = []
        self._chunks: list[list[Frame]] = []
        self._sizes: list[int] = []
        self._released = RunSet()

    def append(self, lo: int, frames: list[Frame]) -> None:
        """Keep frames of ordinals `lo`, `lo + 1`, …; `lo` is beyond all that came before."""
        size = sum(map(len, chain.from_iterable(frames)))
        self._starts.append(lo)
        self._chunks.append(frames)
        self._sizes.append(size)
        self.nbytes += size

    def pick(self, ordinals: NDArray[np.int64]) -> list[Frame]:
        """The frames of these ascending ordinals, all of which must be held; raises KeyError otherwise."""
        out: list[Frame] = []
        position, n = 0, len(ordinals)
        while position < n:
            first = int(ordinals[position])
            at = bisect_right(self._starts, first) - 1
            start = self._starts[at] if at >= 0 else 0
            chunk: Sequence[Frame] = self._chunks[at] if at >= 0 else ()
            end = start + len(chunk)
            if first >= end:
                raise KeyError(first)
            stop = position + int(np.searchsorted(ordinals[position:], end))
            if int(ordinals[stop - 1]) - first == stop - 1 - position:
                out += chunk[first - start : first - start + stop - position]
            else:
                out += [chunk[o - start] for o in ordinals[position:stop].tolist()]
            position = stop
        return out

    def held(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The runs of ordinals in [lo, hi) that can be picked."""
        at = max(bisect_right(self._starts, lo) - 1, 0)
        runs = RunSet()
        for start, chunk in zip(self._starts[at:], self._chunks[at:], strict=True):
            if start >= hi:
                break
            a, b = max(lo, start), min(hi, start + len(chunk))
            if a < b:
                runs.add(a, b)
        return runs.runs()

    def release(self, lo: int, hi: int) -> None:
        """Ordinals lo..hi-1 are done. Those never held are simply remembered as done."""
        if hi <= lo:
            return
        self._released.add(lo, hi)
        at = max(bisect_right(self._starts, lo) - 1, 0)
        while at < len(self._starts) and self._starts[at] < hi:
            start = self._starts[at]
            if self._released.covers(start, start + len(self._chunks[at])):
                self.nbytes -= self._sizes[at]
                del self._starts[at], self._chunks[at], self._sizes[at]
            else:
                at += 1
