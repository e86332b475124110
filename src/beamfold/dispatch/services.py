"""The services of a deployment: who is here, who is lost, and who has a part in a scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from beamfold.dispatch.actions import Action, Note, Send
from beamfold.dispatch.load import LoadHistory
from beamfold.dispatch.scan import Scan
from beamfold.protocols.messages import Fill, Hello, IngesterInfo, Refused, WorkerInfo

KEEP_LOST = 10_000
"""Processes that were lost and are remembered, so that they are not taken for new ones."""


@dataclass(slots=True)
class Service:
    """A service that said Hello, and when it was last heard of."""

    peer: bytes
    hello: Hello
    seen: float
    stats: dict[str, Any] = field(default_factory=dict)
    gone: str = ""
    load: LoadHistory = field(default_factory=LoadHistory)

    @property
    def key(self) -> str:
        return f"{self.hello.role} {self.hello.name}"


class Services:
    """All that said Hello, by their keys; `peers` are the keys of those that are heard."""

    def __init__(self) -> None:
        self.all: dict[str, Service] = {}
        self.peers: dict[bytes, str] = {}
        self.lost: dict[Any, None] = {}  # peers
        self.unmet: dict[Any, None] = {}  # keys and process numbers: their end was told before their beginning
        self._here: dict[tuple[int, str], list[Service]] = {}

    def changed(self) -> None:
        """Somebody came or went, or has a part in a scan, or a scan has ended."""
        self._here.clear()

    def add(self, service: Service) -> None:
        """A service is here; it may be another one of its name."""
        self.all[service.key] = service
        self.peers[service.peer] = service.key
        self.changed()

    def lose(self, service: Service, how: str) -> None:
        """Whatever becomes of this process, it has no part in anything any more."""
        service.gone = how
        self.changed()
        self.peers.pop(service.peer, None)
        remember(self.lost, service.peer)

    def loads(self) -> list[tuple[str, LoadHistory]]:
        """What every worker has said of its load, by its name."""
        return [(s.hello.name, s.load) for s in self.all.values() if s.hello.role == "worker"]

    def dismiss(self, service: Service, why: str) -> list[Action]:
        """What a worker has said and will say cannot be told from what another one in its place says, so it has to
        become another process."""
        text = f"{why}: start it anew"
        self.lose(service, text)
        return [Send(service.peer, Refused(text)), Note("warning", text)]

    def routers(self, scan: Scan) -> list[Service]:
        """Who has to know which process is which worker, as far as they know of the scan."""
        return [s for role in ("ingester", "reducer") if role not in scan.unarmed for s in self.needed(scan, role)]

    def of(self, role: str, scan: Scan | None = None) -> list[Service]:
        """The services that are here, or those of a scan, by name; remembered until one comes or goes."""
        key = (scan.number if scan is not None else 0, role)
        found = self._here.get(key)
        if found is None:
            services = [s for s in self.all.values() if s.hello.role == role and not s.gone]
            found = sorted(services, key=lambda s: s.hello.name)
            if scan is not None:
                found = [s for s in found if s.key in scan.services]
            self._here[key] = found
        return found

    def streams(self) -> dict[str, Service]:
        """Which ingester has which stream."""
        return {info.name: s for s in self.of("ingester") for info in s.hello.streams}

    def declared(self) -> list[dict[str, Any]]:
        """Parameters that worker and reducer describe, by name, sorted."""
        found: dict[str, dict[str, Any]] = {}
        for service in self.of("worker") + self.of("reducer"):
            for parameter in service.hello.parameters:
                found.setdefault(parameter["name"], parameter)
        return [found[name] for name in sorted(found)]

    def needed(self, scan: Scan, role: str) -> list[Service]:
        """The scan's own services: who came later has no part in it. Its workers are known by its places."""
        return self.of(role, scan)

    def witnesses(self, scan: Scan) -> dict[str, bytes]:
        """Who knows what came of ingesters that were lost, once workers have left those: keys and peers.

        A reducer refuses what comes of a worker that it was told to be lost.
        """
        workers = {f"worker {scan.places[me].name}": peer for me, peer in scan.places.here()}
        return workers | {s.key: s.peer for s in self.needed(scan, "reducer")}

    def peers_of(self, scan: Scan) -> list[bytes]:
        """All who take part in a scan that runs: ingesters, then workers, then the reducer."""
        workers = [peer for _, peer in scan.places.here()]
        ingesters, reducers = ([s.peer for s in self.needed(scan, role)] for role in ("ingester", "reducer"))
        return [*ingesters, *workers, *reducers]


def info_of(hello: Hello) -> IngesterInfo:
    """What workers have to know of an ingester."""
    return IngesterInfo(hello.name, hello.url, [i.name for i in hello.streams], hello.arena)


def fill_of(scan: Scan, me: int) -> Fill:
    """Who fills this place, for those who have to know; of one that joined also what it is."""
    place = scan.places[me]
    joined = WorkerInfo(place.name, sorted(place.tags), joined=True) if place.joined else None
    return Fill(scan.number, me, uuid_of(place.peer), joined)


def uuid_of(peer: bytes | None) -> str:
    """What a process calls itself on all channels."""
    return peer.decode("utf-8", "replace") if peer is not None else ""


def remember(known: dict[Any, Any], item: Any, value: Any = None) -> None:
    """Add to what is remembered, of which there is a bound."""
    known[item] = value
    while len(known) > KEEP_LOST:
        del known[next(iter(known))]
