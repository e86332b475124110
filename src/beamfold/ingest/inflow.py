"""How long what a detector sent is gathered before it goes on: not at all, or for a moment when there is much of it."""

from __future__ import annotations

from itertools import chain

from beamfold.model.events import Buffer

HOLD = 0.008
"""Seconds for which messages are gathered when many come: what sends a batch on costs the same for any number."""

MANY = 500.0
"""Messages per second from which on they are gathered. Below, every one goes on at once."""

HEAVY = 512e6
"""Bytes per second that keep a machine so busy that messages are gathered from `FEW` per second on."""

FEW = 2 / HOLD
"""Messages per second of which two come while they are gathered."""

WINDOW = 0.1
"""Seconds over which messages are counted."""


class Inflow:
    """Messages of one stream that were read and not yet looked at; `limit` of them at most."""

    def __init__(self, limit: int) -> None:
        self.messages: list[list[Buffer]] = []
        self._limit = limit
        self._since = 0.0
        self._hold = 0.0
        self._counted = 0
        self._bytes = 0
        self._window = 0.0

    @property
    def room(self) -> int:
        """How many more may be added."""
        return self._limit - len(self.messages)

    def add(self, messages: list[list[Buffer]], now: float) -> None:
        """These were read."""
        if not messages:
            return
        if not self.messages:
            self._since = now
        self.messages += messages
        self._counted += len(messages)
        self._bytes += sum(map(len, chain.from_iterable(messages)))
        if (passed := now - self._window) >= WINDOW:
            enough = FEW if self._bytes >= HEAVY * passed else MANY
            self._hold = HOLD if self._counted >= enough * passed else 0.0
            self._window, self._counted, self._bytes = now, 0, 0

    def due(self, now: float) -> float | None:
        """Seconds until they are to go on, 0 at once; None where there are none."""
        if not self.messages:
            return None
        return max(self._hold - (now - self._since), 0.0) if self.room > 0 else 0.0

    def age(self, now: float) -> float:
        """Seconds since the first of those that are there was read."""
        return now - self._since

    def take(self) -> list[list[Buffer]]:
        """All of them, to be passed on."""
        messages, self.messages = self.messages, []
        return messages
