"""Services that are lost, and what that means for the scans they have a part in."""

from __future__ import annotations

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Note, Send
from beamfold.dispatch.assigning import Assigning
from beamfold.dispatch.ending import Ending
from beamfold.dispatch.fencing import Fencing
from beamfold.dispatch.peers import SUPERVISOR
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.scans import Policy, Scans
from beamfold.dispatch.services import Service, Services, fill_of, remember
from beamfold.dispatch.silence import Silence
from beamfold.model.errors import MapError
from beamfold.protocols.messages import Gone, Vacate, Welcome

ARM_PATIENCE = 120.0
"""Seconds in which services have to be ready for a scan: an app may be imported from a slow disk."""

REST_PATIENCE = 10.0
"""Seconds in which a worker that joined has to see the rest of what is broadcast, before its `finish()`."""

REDUCER_ENDS, ENDS_WITHIN = 6, 60.0
"""So many ends of a scan's reducers within so many seconds are its app's doing: they would go on for ever."""


class Losses:
    """Takes services for lost. What nobody makes good in time ends the scan, or goes to others."""

    def __init__(
        self,
        services: Services,
        scans: Scans,
        policy: Policy,
        epoch: int,
        assigning: Assigning,
        fencing: Fencing,
        ending: Ending,
    ) -> None:
        self._services = services
        self._scans = scans
        self._policy = policy
        self._epoch = epoch
        self._assigning = assigning
        self._fencing = fencing
        self._ending = ending
        self._silence = Silence(policy.lease, policy.time_limit)

    def gone(self, message: Gone, now: float) -> list[Action]:
        """A process ended."""
        key = f"{message.role} {message.name}"
        service = self._services.all.get(key)
        if service is None or service.gone or (message.pid and message.pid != service.hello.pid):
            if message.pid:
                remember(self._services.unmet, (key, message.pid))
            return []
        return self._take_for_lost(service, message.how, f"{key} ended: {message.how}", now, message)

    def _take_for_lost(
        self, service: Service, how: str, text: str, now: float, gone: Gone | None = None
    ) -> list[Action]:
        """Whatever becomes of this process, it has no part in anything any more."""
        self._services.lose(service, how)
        if self._scans.recovery is not None:
            self._scans.recovery.forget(service.peer)
        return [Note("error", text), *self.lose(service, text, now, gone)]

    def unreachable(self, peer: bytes) -> None:
        """What was sent to this service did not go: it is not connected."""
        self._silence.unreachable(peer)

    def look_for_silent(self, now: float) -> list[Action]:
        """Services that no supervisor watches are lost when they have been silent for too long."""
        if not self._silence.due(now):
            return []
        supervisors = {(s.hello.host, s.hello.pid) for s in self._services.of(SUPERVISOR)}
        alone = {
            s.peer: s
            for s in self._services.all.values()
            if not s.gone and s.hello.role != SUPERVISOR and (s.hello.host, s.hello.parent) not in supervisors
        }
        ask, lost = self._silence.look([(s.peer, s.hello.role, s.seen) for s in alone.values()], now)
        actions: list[Action] = [Send(peer, Welcome(self._epoch)) for peer in ask]
        for peer, how in lost:
            service = alone[peer]
            actions += self._take_for_lost(service, how, f"{service.key} is taken for lost: {how}", now)
        return actions

    def lose(self, service: Service, text: str, now: float, gone: Gone | None = None) -> list[Action]:
        """A service is lost. Others do the work of a worker, a reducer is waited for, and an ingester whose streams
        another one can go on with; otherwise the scan cannot be completed."""
        actions: list[Action] = []
        for scan in (self._scans.next, self._scans.scan):
            if scan is None or not scan.active or service.key not in scan.services:
                continue
            if service.hello.role == "worker":
                event = gone.event if gone is not None and gone.scan == scan.number else -1
                actions += self.lose_worker(scan, service, text, now, event)
                continue
            if service.hello.role == "reducer":
                actions += self._lose_reducer(scan, service, text, now)
                continue
            if self.resumable(scan, service):
                actions += self._lose_ingester(scan, service, text, now)
                continue
            scan.errors.append(text)
            actions += self._ending.abort(scan, "failed", text, now)
        return actions

    def lose_worker(self, scan: Scan, service: Service, how: str, now: float, event: int) -> list[Action]:
        """Nobody fills a worker's place: what it had is assigned again, at once to others where that may be."""
        me = scan.places.of(service.peer)
        if me is None:
            return []
        if scan.assigning:
            scan.lose(me, how, now, event)
            empty = fill_of(scan, me)
            actions: list[Action] = [Send(s.peer, empty) for s in self._services.routers(scan)]
            if scan.phase is Phase.HALTING and service.key in scan.waiting:
                actions += self._ending.halted_or_lost(scan, service.key, now)
            return actions + self._fencing.worker_lost(scan, service) + self._assigning.assign(scan, now)
        scan.places.lose(me, now)
        if scan.phase is Phase.ARMING and "worker" not in scan.unarmed:
            scan.waiting.add(service.key)
        elif scan.phase is Phase.FINISHING and service.key in scan.waiting:
            scan.waiting.discard(service.key)
            scan.trouble(service.key, f"it ended before its finish() came back: {how}")
            return [] if scan.waiting else self._ending.finish_reducer(scan)
        return []

    def _lose_reducer(self, scan: Scan, service: Service, how: str, now: float) -> list[Action]:
        """Another one will take up its result log; workers keep until then what it has not confirmed."""
        scan.reducer_lost = now
        scan.reducer_ends = [*(at for at in scan.reducer_ends if now - at < ENDS_WITHIN), now]
        if len(scan.reducer_ends) >= REDUCER_ENDS:
            text = (
                f"the reducer ended {REDUCER_ENDS} times within {ENDS_WITHIN:g} s, as often as it was started: look at "
            )
            return self._ending.abort(
                scan, "failed", f"{text}what its class does to the process; the last time, {how}", now
            )
        if scan.phase is Phase.ARMING:
            if "reducer" not in scan.unarmed:
                scan.waiting.add(service.key)
            return []
        scan.report.loss(service.key, how, now, 0)
        return []

    def resumable(self, scan: Scan, service: Service) -> bool:
        """Whether another ingester can go on with what this one read for the scan, or nothing more is read."""
        if scan.phase in (Phase.FINISHING, Phase.REDUCING):
            return True
        infos = [info for info in service.hello.streams if info.name in scan.map.streams]
        return scan.assigning and all(info.resumes for info in infos)

    def _lose_ingester(self, scan: Scan, service: Service, how: str, now: float) -> list[Action]:
        names = [info.name for info in service.hello.streams]
        scan.lose_ingester(service.key, how, now, names)
        if scan.phase is Phase.HALTING:
            scan.waiting.add(service.key)
        self._fencing.ingester_lost(scan, service)
        return self._ending.hurry(scan) if scan.phase is Phase.FINISHING else []

    def vacate(self, scan: Scan, now: float) -> list[Action]:
        """Places that nobody filled in time are given up, as long as others can do the work."""
        actions: list[Action] = []
        patience = self._policy.replace_patience
        if scan.phase is Phase.ARMING and scan.waiting and now - scan.waiting_since >= ARM_PATIENCE:
            text = f"not ready for the scan within {ARM_PATIENCE:g} s: {', '.join(sorted(scan.waiting))}"
            return self._ending.abort(scan, "failed", text, now)
        if scan.phase is Phase.FINISHING:
            scan.finishing = now if scan.finishing is None else scan.finishing
            if now - scan.finishing >= REST_PATIENCE:
                scan.finishing = now
                return self._ending.hurry(scan)
        for key, since in scan.ingesters_lost.items():
            if scan.assigning and now - since >= patience:
                return self._ending.abort(
                    scan, "failed", f"{key} was lost, and no other came within {patience:g} s", now
                )
        if scan.reducer_lost is not None and now - scan.reducer_lost >= patience:
            return self._ending.abort(
                scan, "failed", f"the reducer was lost, and no other came within {patience:g} s", now
            )
        for me in scan.places.overdue(now, patience):
            place = scan.places[me]
            text = f"worker {place.name} was lost, and no other took its place within {patience:g} s"
            if scan.phase is Phase.ARMING:
                return [*actions, *self._ending.abort(scan, "failed", text, now)]
            if not scan.assigning:
                continue
            place.vacant = True
            waited = scan.dispatcher.vacate(me)
            tags = [p.tags for p in scan.places if not p.vacant]
            try:
                scan.map.refuse_unless(scan.map.streams, tags)
            except MapError as error:
                return [*actions, *self._ending.abort(scan, "failed", f"{text}: {error}", now)]
            if place.joined:  # it had no part of what is broadcast
                actions.append(Note("info", text))
                if waited:
                    text = "its events before a broadcast went to others that have seen that"
                    scan.trouble(f"worker {place.name}", text)
                continue
            scan.trouble(f"worker {place.name}", "it was lost, and no other took its place: what is broadcast went on")
            actions += recording.vacated(scan, me)
            actions += [Send(s.peer, Vacate(scan.number, me)) for s in self._services.needed(scan, "reducer")]
        return actions + self._assigning.assign(scan, now) if actions else []
