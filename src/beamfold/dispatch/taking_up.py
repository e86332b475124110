"""A scan that another controller has begun, taken up by this one: all is said again that only some may know."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Note, RecordScan, Send
from beamfold.dispatch.assigning import Assigning
from beamfold.dispatch.ending import Ending
from beamfold.dispatch.fencing import Fencing
from beamfold.dispatch.overload import Overload
from beamfold.dispatch.peers import sound
from beamfold.dispatch.places import Places
from beamfold.dispatch.records import ending_note, restore_noted, running_records
from beamfold.dispatch.recovery import Assigned, Recovery
from beamfold.dispatch.resumption import count_series, given_up, restore_series, unfinished, written_map
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.scans import Policy, Scans
from beamfold.dispatch.seating import Seating, uncertain
from beamfold.dispatch.services import Service, Services, fill_of, info_of
from beamfold.model.errors import BeamfoldError
from beamfold.protocols.messages import (
    Assign,
    Block,
    Close,
    Drop,
    End,
    Introduce,
    Inventory,
    Moved,
    Parameters,
    Rejoined,
    ToController,
    Welcome,
)


class TakingUp:
    """Takes up the scan that services are at work on, or the one of a run that was killed.

    Ingesters are not told to read as long as such a scan is `awaited`. What services said while others were waited for
    is given to `receive` afterwards.
    """

    def __init__(
        self,
        services: Services,
        scans: Scans,
        policy: Policy,
        epoch: int,
        assigning: Assigning,
        fencing: Fencing,
        ending: Ending,
        seating: Seating,
        receive: Callable[[bytes, ToController, float], list[Action]],
    ) -> None:
        self._services = services
        self._scans = scans
        self._policy = policy
        self._epoch = epoch
        self._assigning = assigning
        self._fencing = fencing
        self._ending = ending
        self._seating = seating
        self._receive = receive
        self._unfinished = any(map(unfinished, scans.known.values()))
        self.awaited = self._unfinished  # and then ingesters do not begin to read

    @property
    def pending(self) -> bool:
        """Whether the ledger takes a scan to be under way that is neither taken up nor given up."""
        return self._unfinished

    def inventory(self, service: Service, message: Inventory, now: float) -> list[Action]:
        """A service is at work on a scan that this controller does not know."""
        if not sound(service.hello, message):
            return [Note("warning", f"{service.key} said what cannot be (Inventory); it was ignored")]
        scan_id, recovery = message.arm.scan_id, self._scans.recovery
        if any(s is not None and s.active and s.number == message.scan for s in (self._scans.scan, self._scans.next)):
            return []
        over = scan_id in self._scans.reports or "finished" in self._scans.known.get(scan_id, {})
        if (
            over
            or (self._scans.scan is not None and self._scans.scan.active)
            or (recovery and recovery.arm.scan != message.scan)
        ):
            return [Send(service.peer, End(message.scan))]
        if service.hello.role != "reducer":
            self._scans.resumption = None  # its run lives: another controller has taken it up, or begun it
        if recovery is None:
            recovery = self._scans.recovery = Recovery(message.arm, now)
        recovery.add(service.hello.role, service.peer, message)
        return self.recover(now)

    def recover(self, now: float) -> list[Action]:
        """Take the scan up as soon as all who have a part in it have said what they know, or are late."""
        recovery = self._scans.recovery
        if recovery is None:
            return []
        told = {*recovery.ingesters, *recovery.workers, *recovery.reducers}
        if self._scans.resumption is not None and not recovery.reducers:
            return []  # it was lost again
        number = recovery.arm.scan
        fresh = [s for s in self._services.all.values() if not (s.gone or s.peer in told or number in s.hello.scans)]
        resumed = self._scans.resumption is not None
        if not (recovery.complete((s.key for s in fresh), resumed=resumed) or recovery.overdue(now)):
            return []
        self._scans.recovery = None
        try:
            scan = self._restored(recovery, now)
        except BeamfoldError as error:
            ends: list[Action] = [Send(peer, End(recovery.arm.scan)) for peer in told]
            return [Note("error", f"a scan cannot be taken up: {error}"), *ends, *self.decided()]
        actions = self._take_up(scan, recovery, fresh, now) + self.decided()
        return actions + [a for peer, message in recovery.later for a in self._receive(peer, message, now)]

    def resume(self) -> list[Action]:
        """Arm the reducer for it, so that it reads what is done, and ask it what it knows."""
        waiting, reducer = self._scans.resumption, next(iter(self._services.of("reducer")), None)
        if waiting is None or reducer is None or waiting.asked == reducer.peer:
            return []
        waiting.asked = reducer.peer
        number = waiting.arm.scan
        if number in reducer.hello.scans:
            return []  # it outlived its run, and says so
        policy = self._policy
        arm = msgspec.structs.replace(
            waiting.arm,
            declared=self._services.declared(),
            incomplete=policy.incomplete,
            fold_patience=policy.fold_patience,
            fold_order=policy.fold_order,
        )
        return [Send(reducer.peer, message) for message in (arm, *waiting.changes, Introduce())]

    def decided(self) -> list[Action]:
        """A scan is taken up, or none is: new ingesters, which may have a part in it, read their detectors from now on.

        What they had read before would be of no scan.
        """
        awaited, self.awaited, self._scans.resumption = self.awaited, False, None
        return [Send(s.peer, Welcome(self._epoch)) for s in self._services.of("ingester")] if awaited else []

    def not_resumed(self, why: str, now: float) -> list[Action]:
        """The reducer cannot be armed for a scan of a run that was killed."""
        assert self._scans.resumption is not None
        self._scans.number = max(self._scans.number, self._scans.resumption.arm.scan)
        self._scans.resumption = None
        return [*self.give_up_unfinished(f"it cannot be taken up: {why}", now)]

    def give_up_unfinished(self, reason: str, now: float) -> list[Action]:
        """Scans that the ledger takes to be under way, and nobody is at work on, have failed."""
        if not self._unfinished:
            return []
        actions: list[Action] = []
        resumed = self._scans.resumption.arm.scan_id if self._scans.resumption is not None else None
        self._unfinished = resumed is not None
        for scan_id, record in sorted(self._scans.known.items(), key=lambda item: int(item[1].get("number", 0))):
            taken_up = scan_id in self._scans.reports or (
                self._scans.scan is not None and self._scans.scan.scan_id == scan_id
            )
            if not unfinished(record) or taken_up or scan_id == resumed:
                continue
            report = given_up(scan_id, record, reason, now)
            fields = {"state": "failed", "finished": now, "report": report}
            self._scans.known[scan_id] = {"finished": now}
            actions += [RecordScan(scan_id, fields, report["number"]), ending_note(report)]
        return actions + (self.decided() if resumed is None and self._scans.recovery is None else [])

    def _restored(self, recovery: Recovery, now: float) -> Scan:
        arm = recovery.arm
        known = self._scans.known.get(arm.scan_id, {})
        self._scans.number = max(self._scans.number, arm.scan)
        numbered = {i.name: i.numbered for s in self._services.of("ingester") for i in s.hello.streams}
        written = written_map(known)
        trigger_map = recovery.plan() if written is None else written.compile()
        places = Places((w.name, frozenset(w.tags), None) for w in arm.workers)
        for place, info in zip(places, arm.workers, strict=True):
            place.joined = info.joined
        reducers = [s.key for s in self._services.of("reducer")] or ["reducer reducer"]
        others = [*(f"ingester {i.name}" for i in arm.ingesters), *(f"worker {w.name}" for w in arm.workers)]
        scan = Scan(
            arm.scan,
            arm.scan_id,
            trigger_map,
            None,
            places,
            {name: "numbered" if numbered.get(name, True) else "counted" for name in trigger_map.streams},
            arm.version,
            float(known.get("started", now)),
            arm.parameters,
            frozenset([*others, reducers[0]]),
            written,
            arm.record,
            arm.dump_prefix,
            Overload(arm.overload, self._policy.sample_every),
            timeout=known.get("timeout", self._policy.timeout),
        )
        scan.unarmed, scan.phase, scan.changes = [], Phase.RUNNING, recovery.changes()
        scan.report.joined = [place.name for place in places if place.joined]
        for me in range(len(places)):
            if (peer := recovery.filler(me)) is not None:
                places.fill(me, peer, set())
                places[me].here = True
            else:
                places.lose(me, now)
        ticks = [i.tick_interval for i in recovery.workers.values() if i.tick_interval is not None]
        scan.tick_interval = min(ticks, default=None)
        scan.stateful = any(i.stateful for i in recovery.workers.values())
        for inventory in recovery.ingesters.values():
            scan.bereft.update(inventory.arm.resume)
            for missing in inventory.missing:
                scan.missing(missing)
            for ended in inventory.ended:
                scan.ended(ended)
        restore_series(scan, known)
        restore_noted(scan, known)
        if "stopped" in known:
            scan.cut, scan.reason = True, known["stopped"]
        if (closed := recovery.closed()) is not None:
            scan.close(closed, cut=scan.cut or set(scan.ended_streams) < set(trigger_map.streams))
        for inventory in recovery.reducers.values():
            if inventory.done is not None:
                scan.done(inventory.done, now)
                for name, runs in inventory.done.incomplete.items():  # an ingester that said so may be gone
                    scan.absent[name].add(runs)
        if not recovery.ingesters:
            count_series(scan)
        here = [me for me, _ in places.here()]
        # Where no ingester knows, what is not done of all that may have been assigned is assigned again.
        assigned = recovery.assigned() or [Assigned(0, scan.map.virtual_before(scan.reached), None)]
        scan.dispatcher.restore([(a.lo, a.hi, a.worker) for a in assigned], here)
        return scan

    def _take_up(self, scan: Scan, recovery: Recovery, fresh: list[Service], now: float) -> list[Action]:
        """Tell everybody what only some may know, and go on."""
        number, changes = scan.number, scan.changes
        self._scans.scan = scan
        self._services.changed()
        armed = recovery.reducers and all(place.here or place.joined for place in scan.places)
        recorded = self._scans.known.get(scan.scan_id, {}).get("state") == "running"
        if not (scan.dispatcher.next_virtual or armed or recorded):
            return self._ending.abort(scan, "failed", "the controller ended while the scan was armed", now)
        if self._scans.resumption is None:
            scan.report.loss("controller", "another one took the scan up", now, 0)
        else:
            scan.report.loss("run", "it ended with all services, and another one took the scan up", now, 0)
        for version, values, from_event in [(scan.version, scan.values, 0), *scan.later_versions()]:
            scan.report.version(self._fencing.version_record(version, values, from_event))
        newest = changes[-1] if changes else Parameters(number, scan.version, scan.values, 0)
        if newest.version > self._fencing.version:  # the ledger is behind, or has been wiped
            self._fencing.version, self._fencing.values = newest.version, newest.values
        actions: list[Action] = [Note("warning", f"scan {number} of another controller is taken up")]
        actions += running_records(scan, self._services)
        there = {s.key for s in self._services.all.values() if s.peer in recovery.ingesters}
        scan.ingesters |= {f"ingester {info.name}": info for info in recovery.arm.ingesters}
        for info in recovery.arm.ingesters:
            if (key := f"ingester {info.name}") not in there:
                scan.lose_ingester(key, f"{key} was lost", now, info.streams)
        if not recovery.reducers:
            scan.reducer_lost = now
        actions += self._record_again(scan, recovery)
        actions += self._say_again(scan, now)
        if not scan.closing and (scan.cut or any(i.halted for i in recovery.ingesters.values())):
            scan.stopped = True
            actions += self._ending.halt(scan)
        workers = [s for s in self._services.all.values() if s.hello.role == "worker" and not s.gone]
        strays = [s for s in workers if s.peer in recovery.workers or number in s.hello.scans]
        for service in [s for s in strays if scan.places.of(s.peer) is None]:
            actions += self._services.dismiss(service, uncertain(service))
        for service in fresh:
            actions += self._seating.take_place(service, now)
        if self._fencing.version > newest.version:
            actions += self._fencing.fence(scan)  # it was taken, and perhaps no ingester has heard of it
        elif any(i.holding for i in recovery.ingesters.values()):
            actions += self._fencing.set_parameters({}, now)
        if recovery.reducers:  # else what is terminal is not known before another one has read its log
            actions += self._seating.resolve(scan, now)
        scan.unanswered = True
        return actions + self._ending.answer_done(now) + self._ending.close_if_ended(scan, now)

    def _say_again(self, scan: Scan, now: float) -> list[Action]:
        """Say again what only some may know; who knows it ignores it."""
        number = scan.number
        actions: list[Action] = [
            Send(peer, change) for peer in self._services.peers_of(scan) for change in scan.changes
        ]
        for me, place in enumerate(scan.places):
            if place.peer is None:
                actions += [Send(s.peer, fill_of(scan, me)) for s in self._services.routers(scan)]
        if scan.closing and scan.last_data_event is not None:
            scan.phase = Phase.DRAINING
            actions += [Send(peer, Close(number, scan.last_data_event)) for peer in self._services.peers_of(scan)]
        ingesters, reducers = self._services.needed(scan, "ingester"), self._services.needed(scan, "reducer")
        if dropped := scan.dispatcher.dropped():
            actions += [Send(s.peer, Drop(number, dropped)) for s in reducers]
        blocks = scan.dispatcher.assigned(scan.dispatcher.attempt)
        actions += [Send(s.peer, Assign(number, blocks, *scan.standing)) for s in ingesters]
        own: dict[int, list[Block]] = {}
        for block in scan.dispatcher.assigned():
            own.setdefault(block.worker, []).append(block)
        actions += self._assigning.tell(scan, now, own)
        for _, worker in scan.places.here():
            if scan.reducer_lost is None:
                actions += [Send(worker, Moved(number, s.hello.url)) for s in reducers]
            actions += [Send(worker, Rejoined(number, info_of(s.hello))) for s in ingesters]
        return actions

    def _record_again(self, scan: Scan, recovery: Recovery) -> list[Action]:
        """What the recording may lack, because the controller before ended with it; it may have any of it twice."""
        owned = [Block(a.lo, a.hi, a.worker) for a in recovery.assigned() if a.worker is not None]
        found = [*recording.taken_up(scan), *recording.joined(scan), *recording.blocks(scan, owned)]
        for version, values, from_event in scan.later_versions():
            found += recording.parameters(scan, version, from_event, values)
        for inventory in recovery.reducers.values():
            found += recording.logged(scan, inventory.done) if inventory.done is not None else []
        if scan.closing and scan.last_data_event is not None:
            found += recording.closed(scan, scan.last_data_event)
        return list(found)
