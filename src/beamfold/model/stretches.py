"""Stretches: events with the same parameters between the same broadcasts, which hooks for many may get together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from beamfold.model.parameters import ParameterHistory

NextBroadcast: TypeAlias = Callable[[int], int | None]
"""The first event from this one on that is broadcast to anybody; None where there is none."""

_NO_END = 1 << 62


class Stretches:
    """Tells events of one stretch from those of another; a broadcast event is a stretch of its own.

    One object sees one map and one history of parameters: make a new one when these may have changed.
    """

    __slots__ = ("_hi", "_lo", "_next_broadcast", "_parameters")

    def __init__(self, parameters: ParameterHistory, next_broadcast: NextBroadcast) -> None:
        self._parameters = parameters
        self._next_broadcast = next_broadcast
        self._lo = self._hi = 0

    def end(self, event: int) -> int:
        """Where the event's stretch ends, which names it: events of one stretch are all below the same end.

        A broadcast event is not below it: that is its own number.
        """
        if self._lo <= event < self._hi:
            return self._hi
        broadcast = self._next_broadcast(event)
        if broadcast == event:
            return event
        _, until = self._parameters.at_run(event)
        end = min(e for e in (broadcast, until, _NO_END) if e is not None)
        self._lo = min(self._lo, event) if end == self._hi else event
        self._hi = end
        return end


def no_broadcast(event: int) -> int | None:
    """For events that no map knows: none of them is broadcast."""
    return None
