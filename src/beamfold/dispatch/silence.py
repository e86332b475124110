"""Services that no supervisor watches: when one that is silent is taken for lost.

That a process ended is told by its supervisor. Where there is none there is only its silence, which may also mean that
it is at work: user code can keep a worker or a reducer from saying anything for minutes. But ZeroMQ answers heartbeats
in a thread of its own, whatever user code does; so a connection that stays away is the end of its process, or of its
host, and one that is there means that it lives. Who lives is waited for; only a worker has a limit to that, the one for
its user code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEASES = 3
"""Leases for which a service has to be silent, and the last of them without a connection."""

LOOKS = 4
"""Looks in one lease."""


@dataclass(slots=True)
class _Heard:
    """When a service was last heard of, and for how long it has been silent, and not connected, since."""

    seen: float
    silent: float = 0.0
    away: float = 0.0


class Silence:
    """Watches services without a supervisor. User code may work for `time_limit` seconds; so has a `lease`."""

    def __init__(self, lease: float, time_limit: float) -> None:
        self._lease = lease
        self._time_limit = time_limit
        self._looked = 0.0
        self._heard: dict[bytes, _Heard] = {}
        self._unreachable: set[bytes] = set()

    def due(self, now: float) -> bool:
        """Whether it is time for a look."""
        return not 0 <= now - self._looked < self._lease / LOOKS

    def unreachable(self, peer: bytes) -> None:
        """What was sent to this service since the last look did not go: it is not connected."""
        self._unreachable.add(peer)

    def look(
        self, services: Iterable[tuple[bytes, str, float]], now: float
    ) -> tuple[list[bytes], list[tuple[bytes, str]]]:
        """Who is to be sent something, to see whether it goes; and who is taken for lost, with the reason in words.

        `services` are the peers, roles, and when each was last heard of, of those that no supervisor watches. Time in
        which nobody looked does not count: then it was the controller that was away, or the clock was set.
        """
        step = min(max(now - self._looked, 0.0), 2 * self._lease / LOOKS)
        self._looked = now
        known, self._heard = self._heard, {}
        gone, self._unreachable = self._unreachable, set()
        ask: list[bytes] = []
        lost: list[tuple[bytes, str]] = []
        for peer, role, seen in services:
            heard = known.get(peer)
            if heard is None or heard.seen != seen:
                self._heard[peer] = _Heard(seen)
                continue
            heard.silent += step
            heard.away = heard.away + step if peer in gone else 0.0
            if how := self._loss(role, heard):
                lost.append((peer, how))
                continue
            self._heard[peer] = heard
            if heard.silent >= self._lease:
                ask.append(peer)
        return ask, lost

    def _loss(self, role: str, heard: _Heard) -> str:
        """Why a service is taken for lost; "" when it is not."""
        least = LEASES * self._lease
        if heard.silent >= least and heard.away >= self._lease:
            return f"nothing was heard of it for {least:g} s, and it is not connected any more"
        if role == "worker" and heard.silent >= least + self._time_limit:
            return (
                f"nothing was heard of it for {least + self._time_limit:g} s, although it is connected: user code did "
                f"not come back within {self._time_limit:g} s ([workers] time_limit)"
            )
        return ""
