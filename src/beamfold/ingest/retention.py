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
    frame. `nbytes` counts the payload of the chunks that are held; `kept_bytes` that of single frames which are kept
    whatever is released, and for which nobody can wait.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.kept_bytes = 0
        self._kept: dict[int, Frame] = {}
        self._starts: list[int] = []
        self._chunks: list[list[Frame]] = []
        self._sizes: list[int] = []
        self._released = RunSet()

    def append(self, lo: int, frames: list[Frame]) -> int:
        """Keep frames of ordinals `lo`, `lo + 1`, …; `lo` is beyond all that came before. Returns their payload.

        Frames that were released before they came (their event was done without them) are not kept at all.
        """
        size = sum(map(len, chain.from_iterable(frames)))
        if self._released.covers(lo, lo + len(frames)):
            return size
        self._starts.append(lo)
        self._chunks.append(frames)
        self._sizes.append(size)
        self.nbytes += size
        return size

    def keep(self, ordinal: int) -> None:
        """Keep this frame, which must be held, from now on by itself: its chunk need not wait for it."""
        if ordinal not in self._kept:
            self.put(ordinal, self.pick(np.array([ordinal]))[0])
            self.release(ordinal, ordinal + 1)

    def put(self, ordinal: int, frame: Frame) -> None:
        """A single frame to keep whatever is released, or was: of the closed map ordinals have another meaning."""
        self._kept[ordinal] = frame
        self.kept_bytes += sum(map(len, frame))

    def pick(self, ordinals: NDArray[np.int64]) -> list[Frame]:
        """The frames of these ascending ordinals (one may come twice), all of which must be held; else KeyError."""
        out: list[Frame] = []
        position, n = 0, len(ordinals)
        while position < n:
            first = int(ordinals[position])
            at = bisect_right(self._starts, first) - 1
            start = self._starts[at] if at >= 0 else 0
            chunk: Sequence[Frame] = self._chunks[at] if at >= 0 else ()
            end = start + len(chunk)
            if first >= end:
                out.append(self._kept[first])
                position += 1
                continue
            stop = position + int(np.searchsorted(ordinals[position:], end))
            if _consecutive(ordinals[position:stop]):
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
        for ordinal in self._kept:
            if lo <= ordinal < hi:
                runs.add(ordinal, ordinal + 1)
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


def _consecutive(ordinals: NDArray[np.int64]) -> bool:
    """Whether these ascending ordinals are each one more than the one before."""
    n = len(ordinals)
    return int(ordinals[-1]) - int(ordinals[0]) == n - 1 and bool((ordinals[1:] - ordinals[:-1] == 1).all())
