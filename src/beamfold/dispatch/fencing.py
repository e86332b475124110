"""Parameters: their values, and from which event on they are in force."""

from __future__ import annotations

from typing import Any

from beamfold.app.declared import hash_of
from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, RecordParameters, Send
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.scans import Scans
from beamfold.dispatch.services import Service, Services
from beamfold.protocols.messages import Fence, FenceReached, Parameters


class Fencing:
    """The raw values in force, at `version`; a new version gets its event once all ingesters said how far they are."""

    def __init__(self, services: Services, scans: Scans, values: dict[str, bytes], version: int) -> None:
        self._services = services
        self._scans = scans
        self.values = values
        self.version = version
        self._fencing: tuple[int, dict[str, bytes]] | None = None
        self._fence_again = False
        self._asked: set[bytes] | None = None  # workers and reducer that are to say what has come to them

    def set_parameters(self, values: dict[str, bytes], now: float) -> list[Action]:
        """New raw values (merged into the old ones): in force from the first event that no worker can have begun."""
        self.values = {**self.values, **values}
        self.version += 1
        scan = self._scans.scan
        actions: list[Action] = [RecordParameters(scan.scan_id if scan else None, self.version, self.values, None)]
        if scan is None or not scan.active or scan.phase in (Phase.FINISHING, Phase.REDUCING):
            return actions
        if scan.phase is Phase.ARMING or self._fencing is not None:
            self._fence_again = True
            return actions
        return actions + self.fence(scan)

    def version_record(self, version: int, values: dict[str, bytes], from_event: int) -> dict[str, Any]:
        """A version for the report: its hash as results know it, text where it is text, sizes of what is long."""
        shown = {k: v.decode("utf-8", "replace") if len(v) <= 1024 else f"{len(v)} bytes" for k, v in values.items()}
        known = hash_of(self._services.declared(), values)
        return {"version": version, "from_event": from_event, "values": shown, "hash": known}

    def begin(self, scan: Scan) -> None:
        """The next scan begins with the values as they are, changed perhaps while the one before was drained."""
        self._fencing, self._fence_again, self._asked = None, False, None
        scan.version, scan.values = self.version, self.values
        scan.report.version(self.version_record(scan.version, scan.values, 0))

    def fence_again(self, scan: Scan) -> list[Action]:
        """The values changed while there could be no fence: now there can."""
        return self.fence(scan) if self._fence_again else []

    def fence(self, scan: Scan) -> list[Action]:
        """Ask the ingesters how far they are; one that was lost is asked when another one has its place."""
        self._fencing, self._fence_again, self._asked = (self.version, dict(self.values)), False, None
        scan.sent = {}
        return [Send(s.peer, Fence(scan.number, self.version)) for s in self._services.needed(scan, "ingester")]

    def fence_reached(self, scan: Scan, service: Service, message: FenceReached) -> list[Action]:
        """An ingester said how far it was; workers and reducer, what has come to them."""
        if self._fencing is None or message.version != self._fencing[0]:
            return []
        scan.sent[service.key] = max(message.sent, scan.sent.get(service.key, -1))
        if self._asked is not None:
            self._asked.discard(service.peer)
        return self._fence_set(scan)

    def ingester_seated(self, scan: Scan, service: Service) -> list[Action]:
        """Another ingester is in the place of one that was lost."""
        return [] if self._fencing is None else [Send(service.peer, Fence(scan.number, self._fencing[0]))]

    def reducer_seated(self, scan: Scan) -> list[Action]:
        """Another reducer knows what the one before had: it is asked, where that one was to be."""
        self._asked = None
        return [] if self._fencing is None else self._fence_set(scan)

    def ingester_lost(self, scan: Scan, service: Service) -> None:
        """What it has sent since it said how far it was, if it did, the witnesses are asked, perhaps again."""
        scan.sent.pop(service.key, None)
        self._asked = None

    def worker_lost(self, scan: Scan, service: Service) -> list[Action]:
        """Nothing more will be made of what has come to it."""
        if self._fencing is None or self._asked is None or service.peer not in self._asked:
            return []
        self._asked.discard(service.peer)
        return self._fence_set(scan)

    def _fence_set(self, scan: Scan) -> list[Action]:
        """Set the fence, once all have said how far they were.

        An ingester that was lost may have been further than the one in its place can know: workers and reducer do.
        """
        assert self._fencing is not None
        if not {key for key in scan.services if key.startswith("ingester ")} <= scan.sent.keys():
            return []
        ingesters = self._services.needed(scan, "ingester")
        if scan.bereft and scan.reducer_lost is not None:
            return []
        if scan.bereft and self._asked is None:
            witnesses = self._services.witnesses(scan).values()
            self._asked = set(witnesses)
            return [Send(peer, Fence(scan.number, self._fencing[0])) for peer in witnesses]
        if self._asked:
            return []
        # While the fence was being reached the values may have changed again: those get a fence of their own.
        before = scan.changes[-1].from_event if scan.changes else 0  # perhaps by ingesters that were further
        (version, values), from_event = self._fencing, max(before, max(scan.sent.values()) + 1)
        self._fencing = None
        update = Parameters(scan.number, version, values, from_event)
        scan.changes.append(update)
        # Ingesters come last: what they send of this version finds the others informed, in most cases.
        told = [peer for peer in self._services.peers_of(scan) if peer not in {s.peer for s in ingesters}]
        actions: list[Action] = [Send(peer, update) for peer in [*told, *(s.peer for s in ingesters)]]
        scan.report.version(self.version_record(version, values, from_event))
        actions.append(RecordParameters(scan.scan_id, version, values, from_event))
        actions += recording.parameters(scan, version, from_event, values)
        return actions + self.fence_again(scan)
