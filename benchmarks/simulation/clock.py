"""Virtual time, and lines between services on which messages take some of it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any


class Clock:
    """What is to happen, in the order of its time (seconds); things of the same time in the order they were said."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        """Call `do(*args)` at that time, at once where it is past."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._count), do, args))

    def run(self, until: Callable[[], bool], deadline: float) -> None:
        """Let time pass until the condition holds. Raises AssertionError when it does not by the deadline."""
        while not until():
            assert self._heap, "nothing is left to happen, and still it is not over"
            self.now, _, do, args = heapq.heappop(self._heap)
            assert self.now < deadline, f"not over after {deadline} s"
            do(*args)


class Line:
    """One direction between two services: messages arrive in their order, `delay` s later on average."""

    def __init__(self, clock: Clock, random: random.Random, delay: float) -> None:
        self._clock = clock
        self._random = random
        self._least = delay / 2 * random.uniform(0.5, 1.5)
        self._more = 2 / delay if delay else 0.0
        self._last = 0.0

    def arrival(self) -> float:
        """When a message that is sent now arrives."""
        more = self._random.expovariate(self._more) if self._more else 0.0
        self._last = max(self._last, self._clock.now + self._least + more)
        return self._last
