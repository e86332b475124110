"""A scan that a controller has begun, taken up by another one: what the services say of it is put together again.

The ledger says which scans there were, and the services what became of this one: every one that is armed has the `Arm`
that it was armed with, ingesters know the assignments, the reducer what is done. A controller may have died while it
told them something; so what they do not agree about is decided anew. Everybody has heard all that it said up to some
point: a worker that was to have virtual workers, and has not heard of it, has not gone beyond them, and gets them. A
place that is not filled by the same process for all of them is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec

from beamfold.model.routes import UNASSIGNED, Routes
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.messages import DROPPED, PARKED, Arm, Inventory, Parameters

PATIENCE = 3.0
"""Seconds in which services have to say what they know, from when the first one did."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """Virtual workers lo..hi-1: the logical worker that has them (or DROPPED); None: nobody knows.

    Nobody may fill that worker's place: its replacement will do what is before a broadcast that others have seen.
    """

    lo: int
    hi: int
    worker: int | None


@dataclass(slots=True)
class Recovery:
    """What the services have said of one scan, by their peers, and what they said `later`, while others were waited
    for."""

    arm: Arm
    since: float
    ingesters: dict[bytes, Inventory] = field(default_factory=dict)
    workers: dict[bytes, Inventory] = field(default_factory=dict)
    reducers: dict[bytes, Inventory] = field(default_factory=dict)
    later: list[tuple[bytes, Any]] = field(default_factory=list)

    def add(self, role: str, peer: bytes, inventory: Inventory) -> None:
        """A service said what it knows."""
        if len(inventory.arm.workers) > len(self.arm.workers):  # not all may have heard of those that joined
            self.arm = msgspec.structs.replace(self.arm, workers=inventory.arm.workers)
        {"ingester": self.ingesters, "worker": self.workers, "reducer": self.reducers}[role][peer] = inventory

    def forget(self, peer: bytes) -> None:
        """This service is lost; what it knew is known to others, or gone with it."""
        for known in (self.ingesters, self.workers, self.reducers):
            known.pop(peer, None)
        self.later = [(who, message) for who, message in self.later if who != peer]

    @property
    def all(self) -> list[Inventory]:
        """What everybody said."""
        return [*self.ingesters.values(), *self.workers.values(), *self.reducers.values()]

    def complete(self, fresh: Iterable[str], *, resumed: bool = False) -> bool:
        """Whether all have said what they know; those of the keys in `fresh` are new and know nothing.

        Of ingesters that is only certain where the whole run is new (`resumed`): what they know may be on its way.
        """
        fresh = set(fresh)
        new = sum(f"ingester {i.name}" in fresh for i in self.arm.ingesters) if resumed else 0
        ingesters = len(self.ingesters) + new
        workers = sum(f"worker {w.name}" in fresh for w in self.arm.workers) + len(self.workers)
        reducers = len(self.reducers) + any(key.startswith("reducer ") for key in fresh)
        return ingesters >= len(self.arm.ingesters) and workers >= len(self.arm.workers) and reducers > 0

    def overdue(self, now: float) -> bool:
        """Whether who has not said anything yet is lost."""
        return now - self.since >= PATIENCE

    # -- what they agree about -------------------------------------------------------------------------------

    def filler(self, worker: int) -> bytes | None:
        """The process that fills this place for everybody; None when there is none."""
        routers = [*self.ingesters.values(), *self.reducers.values()]
        for peer, inventory in self.workers.items():
            uuid = peer.decode("utf-8", "replace")
            if [w.uuid for w in inventory.arm.workers[worker : worker + 1]] == [uuid]:
                return peer if all(r.fillers[worker : worker + 1] == [uuid] for r in routers) else None
        return None

    def plan(self) -> TriggerMap:
        """The map that the scan began with: who was armed after it was closed has only what was left of it."""
        maps = [TriggerMap.from_wire(arm.map) for arm in (self.arm, *(i.arm for i in self.all))]
        return max(maps, key=lambda found: math.inf if found.n_events is None else found.n_events)

    def changes(self) -> list[Parameters]:
        """All later versions of the parameters that anybody knows, in their order."""
        found = {change.version: change for inventory in self.all for change in inventory.changes}
        return [found[version] for version in sorted(found)]

    def closed(self) -> int | None:
        """The last data event that the map came to have, as far as anybody knows."""
        return next((i.closed for i in self.all if i.closed is not None), None)

    def assigned(self) -> list[Assigned]:
        """All virtual workers that were ever assigned, from 0 on without a hole."""
        routes = [_routes(i.blocks) for i in self.ingesters.values()]
        fillers = {peer: w for w in range(len(self.arm.workers)) if (peer := self.filler(w)) is not None}
        own: dict[int, Routes] = {}
        heard: dict[int, int] = {}
        for peer, inventory in self.workers.items():
            if peer in fillers:
                own[fillers[peer]], heard[fillers[peer]] = _routes(inventory.blocks), inventory.assigned
            else:
                routes.append(_routes((lo, hi, PARKED - worker) for lo, hi, worker in inventory.blocks))
        # Whoever has heard that all below is assigned may be beyond a broadcast, though nobody knows whose that is.
        edges = {0, *(i.assigned for i in self.workers.values())}
        edges |= {edge for i in self.all for lo, hi, _ in i.blocks for edge in (lo, hi)}
        return [Assigned(lo, hi, _owner(lo, routes, own, heard)) for lo, hi in pairwise(sorted(edges))]


def _owner(virtual: int, routes: list[Routes], own: dict[int, Routes], heard: dict[int, int]) -> int | None:
    """Who is to have a virtual worker: who knows to have it, or who was to be told; or whose it was at last."""
    known = [worker for worker, routes_ in own.items() if routes_.find(virtual) == worker]
    said = {found for found in (r.find(virtual) for r in routes) if found != UNASSIGNED}
    if known or DROPPED in said:
        return known[0] if known else DROPPED
    given = [worker for worker in said if worker >= 0]
    lost = [PARKED - worker for worker in said if worker <= PARKED]
    # Who fills a place anew gets what was kept for it with the first word of what is assigned.
    told = [w for w in given if w in own] or [w for w in lost if w in own and heard[w] <= virtual]
    gone = [w for w in (*given, *lost) if w not in own]
    return min(told or gone, default=None)


def _routes(blocks: Iterable[tuple[int, int, int]]) -> Routes:
    routes = Routes()
    for lo, hi, worker in blocks:
        routes.add(lo, hi, worker)
    return routes


__all__ = ["PATIENCE", "Assigned", "Recovery"]
