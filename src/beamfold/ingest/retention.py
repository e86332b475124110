"""Frames kept until every part that needs them is durably done: in memory, and beyond that on a shelf."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beamfold.model.events import Buffer
from beamfold.model.runs import RunSet

Frame = list[Buffer]

RECORD_BYTES = 4 << 20
"""Payload of one record on a shelf, about: large for a disk; and as much is read back for any frame of it."""

MAX_RECORDS = 1 << 17
"""Records on a shelf at most: each costs some hundred bytes of memory, and those of a stream with gaps are small."""

KEPT_SHARE = 4
"""Frames that are kept whatever is released may take this part of the room in memory."""


class Shelf(Protocol):
    """Where frames are put that memory has no room for: a disk, or a list in a test."""

    @property
    def fault(self) -> str:
        """Why `put` found no room the last time, for people; "" when it did."""

    def put(self, frames: Sequence[Frame]) -> Sequence[Frame] | None:
        """Put frames away. What comes back reads them again whenever it is asked; None: there is no room now.

        The buffers are not kept.
        """

    def discard(self, frames: Sequence[Frame]) -> None:
        """What `put` gave is not needed any more."""


class Retention:
    """One stream's frames by ordinal, in chunks as they arrived.

    A chunk's memory goes when all of its frames are released, so that the bookkeeping costs per batch and not per
    frame. `nbytes` counts the payload in memory of the chunks that are held, of which there should be `limit` at most;
    `kept_bytes` that of single frames in memory which are kept whatever is released, and for which nobody can wait.
    `shelved_bytes` are on the shelves, and `spilled_bytes` have ever been put there.

    `shelf` takes chunks when it is asked to by `spill`, `kept` the kept frames that exceed their share of the limit;
    without them everything stays in memory.
    """

    def __init__(self, limit: int = 1 << 62, shelf: Shelf | None = None, kept: Shelf | None = None) -> None:
        self.limit = limit
        self.nbytes = 0
        self.kept_bytes = 0
        self.shelved_bytes = 0
        self.spilled_bytes = 0
        self._shelf = shelf
        self._kept_shelf = kept
        self._kept: dict[int, Sequence[Frame]] = {}
        self._starts: list[int] = []
        self._chunks: list[Sequence[Frame]] = []  # a list where it is in memory
        self._sizes: list[int] = []
        self._records = 0
        self._released = RunSet()

    @property
    def full(self) -> bool:
        """Whether there is more in memory than there should be."""
        return self.nbytes > self.limit

    @property
    def fault(self) -> str:
        """Why a shelf has no room, "" where none was asked in vain."""
        if self._records >= MAX_RECORDS:
            return f"{MAX_RECORDS} pieces of the stream are spilled, which is as many as can be kept track of"
        return next((s.fault for s in (self._shelf, self._kept_shelf) if s is not None and s.fault), "")

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
        size = sum(map(len, frame))
        stored: Sequence[Frame] | None = None
        if self._kept_shelf is not None and self.kept_bytes + size > self.limit // KEPT_SHARE:
            stored = self._kept_shelf.put([frame])
        if stored is None:
            self.kept_bytes += size
        else:
            self.shelved_bytes += size
            self.spilled_bytes += size
        self._kept[ordinal] = [frame] if stored is None else stored

    def spill(self) -> None:
        """Where memory is full, put the newest chunks on the shelf, as far as that has room.

        The newest, because the oldest are sent next. A little more than is needed goes, so that records are large.
        """
        if self._shelf is None or not self.full:
            return
        target = self.limit - min(self.limit // 4, RECORD_BYTES)
        end = len(self._chunks)
        while end and self.nbytes > target:
            if not isinstance(self._chunks[end - 1], list):
                if not self.full:
                    break  # what lies before is older than what was spilled already
                end -= 1
                continue
            first = self._adjacent(end, self.nbytes - target)
            if not self._shelve(first, end):
                break
            end = first

    def _adjacent(self, end: int, wanted: int) -> int:
        """Where the chunks in memory begin that lie before `end`, join on to each other and have `wanted` bytes."""
        first, size = end - 1, self._sizes[end - 1]
        while first and size < min(wanted, RECORD_BYTES):
            before = self._chunks[first - 1]
            if not isinstance(before, list) or self._starts[first - 1] + len(before) != self._starts[first]:
                break
            first -= 1
            size += self._sizes[first]
        return first

    def _shelve(self, first: int, end: int) -> bool:
        """Put chunks first..end-1, which join on, on the shelf in records of a good size; whether there was room."""
        assert self._shelf is not None
        frames: list[Frame] = list(chain.from_iterable(self._chunks[first:end]))
        starts: list[int] = []
        chunks: list[Sequence[Frame]] = []
        sizes: list[int] = []
        start, at, room = self._starts[first], 0, True
        while at < len(frames):
            piece, size = fit(frames[at:], RECORD_BYTES)
            room = room and self._records < MAX_RECORDS
            stored = self._shelf.put(piece) if room else None
            room = stored is not None
            if stored is not None:
                self._records += 1
                self.nbytes -= size
                self.shelved_bytes += size
                self.spilled_bytes += size
            starts.append(start + at)
            chunks.append(piece if stored is None else stored)
            sizes.append(size)
            at += len(piece)
        self._starts[first:end], self._chunks[first:end], self._sizes[first:end] = starts, chunks, sizes
        return room

    def pick(self, ordinals: NDArray[np.int64]) -> list[Frame]:
        """The frames of these ascending ordinals (one may come twice), all of which must be held; else KeyError.

        Raises what the shelf raises where it cannot read frames back.
        """
        out: list[Frame] = []
        position, n = 0, len(ordinals)
        while position < n:
            first = int(ordinals[position])
            at = bisect_right(self._starts, first) - 1
            start = self._starts[at] if at >= 0 else 0
            chunk: Sequence[Frame] = self._chunks[at] if at >= 0 else ()
            end = start + len(chunk)
            if first >= end:
                out.append(self._kept[first][0])
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

    def needed(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The runs of ordinals in [lo, hi) that were not released."""
        return self._released.missing(lo, hi)

    def keeps(self, ordinal: int) -> bool:
        """Whether this frame is kept whatever is released."""
        return ordinal in self._kept

    def kept(self) -> list[int]:
        """The ordinals that are kept whatever is released, ascending."""
        return sorted(self._kept)

    def release(self, lo: int, hi: int) -> None:
        """Ordinals lo..hi-1 are done. Those never held are simply remembered as done."""
        if hi <= lo:
            return
        self._released.add(lo, hi)
        first = max(bisect_right(self._starts, lo) - 1, 0)
        end = first
        left: list[int] = []
        while end < len(self._starts) and self._starts[end] < hi:
            start = self._starts[end]
            if self._released.covers(start, start + len(self._chunks[end])):
                self._drop(end)
            else:
                left.append(end)
            end += 1
        if len(left) < end - first:
            self._starts[first:end] = [self._starts[at] for at in left]
            self._chunks[first:end] = [self._chunks[at] for at in left]
            self._sizes[first:end] = [self._sizes[at] for at in left]

    def _drop(self, at: int) -> None:
        chunk, size = self._chunks[at], self._sizes[at]
        if isinstance(chunk, list):
            self.nbytes -= size
        elif self._shelf is not None:
            self.shelved_bytes -= size
            self._records -= 1
            self._shelf.discard(chunk)


def fit(frames: list[Frame], budget: int) -> tuple[list[Frame], int]:
    """As many frames as the budget holds, but one at least; and their size."""
    size = sum(map(len, chain.from_iterable(frames)))
    if size <= budget:
        return frames, size
    size = 0
    for i, frame in enumerate(frames):
        n = sum(map(len, frame))
        if i and size + n > budget:
            return frames[:i], size
        size += n
    return frames, size


def _consecutive(ordinals: NDArray[np.int64]) -> bool:
    """Whether these ascending ordinals are each one more than the one before."""
    n = len(ordinals)
    return int(ordinals[-1]) - int(ordinals[0]) == n - 1 and bool((ordinals[1:] - ordinals[:-1] == 1).all())
