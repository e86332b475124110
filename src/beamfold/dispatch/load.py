"""What a service said in its beats about one scan, kept for a while: how busy it is, and how fast."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

KEPT = 300
"""Beats that are remembered: five minutes at one a second."""

RATE_SECONDS = 3.0
"""Seconds over which events are counted into a rate: several beats, and still what a person calls now."""

MAX_STATS = 32
"""Numbers in one beat that are looked at."""

MAX_TEXT = 200
"""Characters of a text among them."""


class Load(NamedTuple):
    """Counted since the service was armed: `events` processed, seconds of user code, seconds in all."""

    events: int = 0
    active: float = 0.0
    total: float = 0.0

    def since(self, before: Load) -> Load:
        """What came after `before`."""
        return Load(self.events - before.events, self.active - before.active, self.total - before.total)


class LoadHistory:
    """The beats of one service in one `scan` (0: none yet). `last_event` is the highest event that it processed."""

    def __init__(self) -> None:
        self.scan = 0
        self.last_event = 0
        self._beats: deque[tuple[float, int, Load]] = deque(maxlen=KEPT)

    def add(self, stats: Mapping[str, Any], now: float) -> None:
        """A beat; one that has no part in a scan, or whose numbers cannot be, changes nothing."""
        scan, events, last = (_count(stats.get(key, 0)) for key in ("scan", "events", "last_event"))
        active, total = (_seconds(stats.get(key, 0.0)) for key in ("active", "total"))
        if not scan or events is None or last is None or active is None or total is None:
            return
        if scan != self.scan:
            self.scan = scan
            self._beats.clear()
            self._beats.append((now - total, 0, Load()))
        self.last_event = last
        self._beats.append((now, last, Load(events, active, total)))

    @property
    def whole(self) -> Load:
        """Of the whole scan."""
        return self._beats[-1][2] if self._beats else Load()

    def newest(self, seconds: float) -> Load:
        """Of at least the last so many seconds, by the service's own clock, or of all that is remembered."""
        whole = self.whole
        for _, _, load in reversed(self._beats):
            if whole.total - load.total >= seconds:
                return whole.since(load)
        return whole.since(self._beats[0][2]) if self._beats else whole

    def rate(self, now: float) -> float:
        """Events per second lately; 0 when nothing was said for a while."""
        if not self._beats or now - self._beats[-1][0] > RATE_SECONDS:
            return 0.0
        when, _, whole = self._beats[-1]
        for at, _, load in reversed(self._beats):
            if when - at >= RATE_SECONDS or at == self._beats[0][0]:
                return max(0.0, (whole.events - load.events) / (when - at)) if when > at else 0.0
        return 0.0

    def steps(self, count: int) -> Iterator[tuple[int, Load]]:
        """The newest `count` steps from beat to beat in which events were processed: the last event, and the load."""
        beats = list(self._beats)[-count - 1 :]
        for (_, _, before), (_, last, load) in pairwise(beats):
            if load.events > before.events:
                yield last, load.since(before)


def plain_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    """What of a beat can be shown to people: finite numbers, short texts, and not too many of them."""
    found = list(stats.items())[:MAX_STATS]
    return {
        key[:MAX_TEXT]: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in found if _plain(value)
    }


def _plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value >= 0 else None
