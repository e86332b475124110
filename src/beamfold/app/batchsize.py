"""How many events, or results, a hook for many gets in one call."""

from __future__ import annotations

LARGEST = 4096
"""Events of one call at most: beyond it the price of a call is nothing beside that of its events."""


class BatchSize:
    """A size that follows the measured time: it begins with one, doubles at most, and fits into the time there is."""

    def __init__(self) -> None:
        self._size = 1
        self._each = 0.0

    def within(self, seconds: float) -> int:
        """How many to take for about so many seconds of work; at least one."""
        if self._size * self._each <= max(seconds, 0.0):
            return self._size
        return max(1, int(seconds / self._each))

    def took(self, count: int, seconds: float) -> None:
        """A call with so many took so long."""
        each = seconds / count
        self._each = (self._each + each) / 2 if self._each else each
        if count >= self._size:
            self._size = min(2 * self._size, LARGEST)
