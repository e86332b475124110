"""What runs is given out in blocks, and workers hear how the scan stands."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Send
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.services import Services
from beamfold.protocols.messages import DROPPED, Assign, Block, Drop, Waits


class Assigning:
    """Gives blocks to workers, and tells everybody who has to know."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def assign(self, scan: Scan, now: float) -> list[Action]:
        """New blocks, as far as there is room. Ingesters hear of all of them, a worker of its own."""
        blocks = scan.dispatcher.assign() if scan.assigning else []
        return self.assigned(scan, blocks, now) if blocks else []

    def assigned(self, scan: Scan, blocks: list[Block], now: float) -> list[Action]:
        """These were assigned: tell everybody who has to know."""
        dropped = [(b.lo, b.hi) for b in blocks if b.worker == DROPPED]
        scan.recent.extend(b for b in blocks if b.worker != DROPPED)
        everything = Assign(scan.number, blocks, *scan.standing)
        actions: list[Action] = [Send(s.peer, everything) for s in self._services.needed(scan, "ingester")]
        actions += recording.blocks(scan, blocks)
        if dropped:
            actions += [Send(s.peer, Drop(scan.number, dropped)) for s in self._services.needed(scan, "reducer")]
        own: dict[int, list[Block]] = {}
        for block in blocks:
            if block.worker != DROPPED:
                own.setdefault(block.worker, []).append(block)
        if scan.passes_broadcast():
            return actions + self.tell(scan, now, own)
        return actions + [self.to_worker(scan, me, mine) for me, mine in own.items()]

    def to_worker(self, scan: Scan, worker: int, blocks: list[Block]) -> Send:
        peer = scan.places[worker].peer
        assert peer is not None  # nobody else is given work
        return Send(peer, Assign(scan.number, blocks, *scan.standing, poison=scan.poison))

    def tell(self, scan: Scan, now: float, own: Mapping[int, list[Block]] = MappingProxyType({})) -> list[Action]:
        """All workers hear how the scan stands, and of blocks of their own: because some of them may wait for it."""
        scan.told, scan.told_at = scan.standing, now
        nothing = Assign(scan.number, [], *scan.standing)
        return [
            self.to_worker(scan, me, own[me]) if me in own else Send(peer, nothing) for me, peer in scan.places.here()
        ]

    def relieve(self, scan: Scan, now: float) -> list[Action]:
        """Streams or workers got further: do what the policy says where one is close to its bound."""
        overload = scan.overload
        if scan.phase is not Phase.RUNNING or not (overload.full or overload.every > 1 or scan.waiting_streams):
            return []
        actions: list[Action] = []
        if (waiting := scan.held_up()) != scan.waiting_streams:
            scan.waiting_streams = waiting
            actions += [Send(s.peer, Waits(scan.number, waiting)) for s in self._services.needed(scan, "ingester")]
        overload.look(scan.map.virtual_before(scan.complete()), now)
        return actions + (self.assign(scan, now) if overload.drops else [])

    def tell_shown(self, scan: Scan, now: float) -> list[Action]:
        """Events that ended streams have no frames for wait for nothing, once other streams are beyond them."""
        if scan.phase is not Phase.RUNNING or not scan.ended_streams or scan.shown <= scan.told.reached:
            return []
        return self.tell(scan, now)
