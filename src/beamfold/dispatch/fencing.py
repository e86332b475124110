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
        self._fencing, self._fence_again = None, False
        scan.version, scan.values = self.version, self.values
        scan.report.version(self.version_record(scan.version, scan.values, 0))

    def fence_again(self, scan: Scan) -> list[Action]:
        """The values changed while there could be no fence: now there can."""
        return self.fence(scan) if self._fence_again else []

    def fence(self, scan: Scan) -> list[Action]:
        """Ask the ingesters how far they are."""
        self._fencing, self._fence_again = (self.version, dict(self.values)), False
        scan.sent = {}
        return [Send(s.peer, Fence(scan.number, self.version)) for s in self._services.needed(scan, "ingester")]

    def fence_reached(self, scan: Scan, service: Service, message: FenceReached) -> list[Action]:
        """An ingester said how far it was."""
        if self._fencing is None or message.version != self._fencing[0]:
            return []
        scan.sent[service.key] = message.sent
        return self._fence_set(scan)

    def ingester_lost(self, scan: Scan, service: Service) -> list[Action]:
        """This ingester will not say how far it was."""
        if self._fencing is None or service.key in scan.sent:
            return []
        scan.sent[service.key] = 0
        return self._fence_set(scan)

    def _fence_set(self, scan: Scan) -> list[Action]:
        """Set the fence, once all ingesters have said how far they were."""
        assert self._fencing is not None
        ingesters = self._services.needed(scan, "ingester")
        if set(scan.sent) < {s.key for s in ingesters}:
            return []
        # While the fence was being reached the values may have changed again: those get a fence of their own.
        # Ingesters that were lost may have sent all that they had.
        lost = max([scan.begun, scan.reached - 1, *scan.last.values()]) if scan.bereft else -1
        before = scan.changes[-1].from_event if scan.changes else 0  # perhaps by ingesters that were further
        (version, values), from_event = self._fencing, max(before, max(lost, *scan.sent.values()) + 1)
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
