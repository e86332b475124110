"""The logical workers of a scan: numbered places, and which process fills each of them.

A process is known by its peer identity, which no other process ever has: what comes from one that was lost is told by
that from what its replacement says. A place that was lost is filled again in steps: ingesters and reducer learn who
fills it (and say so), then the process is armed, and only then it is given work; in this order nothing that it sends
can come too early for them. In the same steps a worker of a new name is given a place of its own in mid-scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Place:
    """One logical worker. `peer` fills it, or is about to; None: nobody does, since `lost`.

    `unaware` are the services that have not said yet that they know who fills it. It is `here` when it is armed;
    nobody will ever fill it again when it is `vacant`. One that `joined` came in mid-scan, and has no parts of
    broadcasts.
    """

    name: str
    tags: frozenset[str]
    peer: bytes | None
    here: bool = False
    lost: float = 0.0
    vacant: bool = False
    joined: bool = False
    unaware: set[str] = field(default_factory=set)


class Places:
    """The places of one scan, in the order of their numbers."""

    def __init__(self, workers: Iterable[tuple[str, frozenset[str], bytes | None]] = ()) -> None:
        self._places = [Place(name, tags, peer) for name, tags, peer in workers]

    def __getitem__(self, worker: int) -> Place:
        return self._places[worker]

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def here(self) -> list[tuple[int, bytes]]:
        """Which workers are armed, and their peers."""
        return [(w, p.peer) for w, p in enumerate(self._places) if p.here and p.peer is not None]

    def of(self, peer: bytes) -> int | None:
        """The place that this process fills, or is about to."""
        return next((w for w, p in enumerate(self._places) if p.peer == peer), None)

    def named(self, name: str) -> int | None:
        """The place of this name that somebody may fill."""
        return next((w for w, p in enumerate(self._places) if p.name == name and not p.vacant), None)

    def add(self, name: str, tags: frozenset[str]) -> int:
        """One more, which joined in mid-scan; its number."""
        self._places.append(Place(name, tags, None, joined=True))
        return len(self._places) - 1

    def lose(self, worker: int, now: float) -> None:
        """Nobody fills it any more."""
        place = self._places[worker]
        place.peer, place.here, place.lost, place.unaware = None, False, now, set()

    def fill(self, worker: int, peer: bytes, unaware: set[str]) -> None:
        """This process is to fill it; the services in `unaware` are told so."""
        place = self._places[worker]
        place.peer, place.here, place.unaware = peer, False, unaware

    def known(self, worker: int, peer: bytes, service: str) -> bool:
        """A service knows now that the process fills the place; True when it was the last one."""
        place = self._places[worker]
        if place.peer != peer or service not in place.unaware:
            return False
        place.unaware.discard(service)
        return not place.unaware

    def overdue(self, now: float, patience: float) -> list[int]:
        """Places that have been lost for longer than that."""
        return [w for w, p in enumerate(self._places) if p.peer is None and not p.vacant and now - p.lost >= patience]
