"""Turns of a service that are no more than are worth their price."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL = 0.001
"""Seconds between turns that follow one another for long."""

BURST = 8
"""Turns that are free after a pause: what an event or two cause, and all that follows from it."""


class Pace:
    """Lets turns follow one another at once, but not for long: then one in `interval` seconds.

    A turn costs a service, and those it sends to, some hundred microseconds however little there is to do. At full
    load turns grow by themselves, because more arrives during a long one. Below it, every service would wake for every
    single message and take the time away from the others; what a turn finds after a millisecond costs little more than
    what it would have found at once. At low rates turns are rarer than that, and nothing waits.
    """

    def __init__(
        self,
        interval: float = INTERVAL,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = interval
        self._ahead = interval * (burst - 1)
        self._clock = clock
        self._sleep = sleep
        self._due = 0.0

    def turn(self) -> None:
        """A turn begins: wait for its time, if it has not come yet."""
        now = self._clock()
        rest = self._due - self._ahead - now
        if rest > 0:
            self._sleep(rest)
            now = self._clock()
        self._due = max(self._due, now) + self._interval
