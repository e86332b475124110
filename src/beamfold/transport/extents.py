"""Where in an arena there is room."""

from __future__ import annotations

from bisect import bisect_left

GRAIN = 4096
"""Bytes that ranges are multiples of: a page, so that no two slots share one."""


class Extents:
    """Ranges of `nbytes` bytes, taken and given back. Always the lowest range that fits is taken.

    So the memory that is ever touched is little more than what is in use at once, and what was given back last is
    written again first, while caches still have it. Neighbouring free ranges are one: nothing is ever too fragmented
    for a slot that would fit once all others are given back.
    """

    def __init__(self, nbytes: int) -> None:
        whole = nbytes - nbytes % GRAIN
        self._starts = [0] if whole else []
        self._sizes = [whole] if whole else []
        self._taken: dict[int, int] = {}
        self.used = 0

    def take(self, nbytes: int) -> int | None:
        """The offset of a range of at least `nbytes` (> 0), None where there is none."""
        size = -(-nbytes // GRAIN) * GRAIN
        for at, free in enumerate(self._sizes):
            if free < size:
                continue
            offset = self._starts[at]
            if free == size:
                del self._starts[at], self._sizes[at]
            else:
                self._starts[at] += size
                self._sizes[at] -= size
            self._taken[offset] = size
            self.used += size
            return offset
        return None

    def give(self, offset: int) -> None:
        """A range that was taken is free again. KeyError for any other."""
        size = self._taken.pop(offset)
        self.used -= size
        at = bisect_left(self._starts, offset)
        if at and self._starts[at - 1] + self._sizes[at - 1] == offset:
            at -= 1
            self._sizes[at] += size
        else:
            self._starts.insert(at, offset)
            self._sizes.insert(at, size)
        if at + 1 < len(self._starts) and self._starts[at] + self._sizes[at] == self._starts[at + 1]:
            self._sizes[at] += self._sizes[at + 1]
            del self._starts[at + 1], self._sizes[at + 1]

    @property
    def top(self) -> int:
        """The end of the highest range that is taken; 0 where none is."""
        return max((offset + size for offset, size in self._taken.items()), default=0)
