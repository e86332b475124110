"""How a scan begins: every service gets what it needs, one kind after the other."""

from __future__ import annotations

from collections.abc import Callable

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Reply, Send
from beamfold.dispatch.ending import Ending
from beamfold.dispatch.fencing import Fencing
from beamfold.dispatch.overload import Overload
from beamfold.dispatch.places import Places
from beamfold.dispatch.scan import Phase, Plan, Scan
from beamfold.dispatch.scans import Policy, Scans
from beamfold.dispatch.services import Service, Services, info_of, uuid_of
from beamfold.model.errors import ScanError
from beamfold.protocols.messages import Arm, Armed, Moved, WorkerInfo


class Arming:
    """Prepares and arms scans. `run` begins the one of which everybody is armed."""

    def __init__(
        self,
        services: Services,
        scans: Scans,
        policy: Policy,
        fencing: Fencing,
        ending: Ending,
        run: Callable[[Scan, float], list[Action]],
    ) -> None:
        self._services = services
        self._scans = scans
        self._policy = policy
        self._fencing = fencing
        self._ending = ending
        self._run = run

    def prepare(self, plan: Plan, now: float) -> Scan:
        """A scan of the services that are here; ScanError or MapError when it cannot be one."""
        workers, reducers, streams = self._services.of("worker"), self._services.of("reducer"), self._services.streams()
        if self._scans.recovery is not None or self._scans.resumption is not None:
            raise ScanError("this controller is new and takes up the scan of another one: submit again in a moment")
        if not reducers:
            raise ScanError("no reducer is connected: start one (`beamfold reducer RUNFILE`) and submit again")
        tags = [frozenset(s.hello.tags) for s in workers]
        plan.map.refuse_unless(set(streams), tags)
        prefix = recording.dump_prefix(self._fencing.values, self._policy.output)
        matching = {
            info.name: "numbered" if info.numbered else "counted"
            for s in self._services.of("ingester")
            for info in s.hello.streams
        }
        self._scans.number += 1
        places = Places((s.hello.name, frozenset(s.hello.tags), s.peer) for s in workers)
        ingesters = {streams[name].key for name in plan.map.streams}
        return Scan(
            self._scans.number,
            plan.scan_id,
            plan.map,
            plan.request,
            places,
            {s: matching[s] for s in plan.map.streams},
            self._fencing.version,
            now,
            self._fencing.values,
            frozenset(ingesters | {s.key for s in [*workers, reducers[0]]}),
            plan.written,
            self._folder(plan),
            prefix,
            Overload(self._policy.overload, self._policy.sample_every),
            timeout=(plan.written.timeout if plan.written is not None else None) or self._policy.timeout,
        )

    def _folder(self, plan: Plan) -> str:
        """Where the scan is recorded; a scan whose map nobody wrote could not be run again by what is recorded."""
        if not self._policy.record or plan.written is None:
            return ""
        return f"{self._policy.record}/{self._scans.number:06}-{plan.scan_id}"

    def arm_next(self, scan: Scan, now: float) -> list[Action]:
        """Arm the next kind of service, once those before are armed; run the scan when all are.

        Ingesters and reducer come before the workers, because workers greet them with their first credit. Only
        ingesters are armed while another scan is still draining.
        """
        if scan.waiting or scan.phase is not Phase.ARMING:
            return []
        if scan.errors:
            return self._ending.abort(scan, "failed", "; ".join(scan.errors), now)
        if not scan.unarmed:
            return self._run(scan, now)
        if scan is self._scans.next and scan.unarmed[0] != "ingester":
            return self.reply(scan)
        scan.waiting_since = now
        return self._arm(scan, scan.unarmed.pop(0))

    def _arm(self, scan: Scan, role: str) -> list[Action]:
        if role == "worker":
            scan.waiting.update(f"worker {p.name}" for p in scan.places)
            ready = [p.peer for p in scan.places if p.peer is not None and not p.unaware]
            return [Send(peer, self.arm_of(scan)) for peer in ready]
        services = self._services.needed(scan, role)
        scan.waiting.update(key for key in scan.services if key.startswith(f"{role} "))  # also one that is to come back
        return [Send(s.peer, self.arm_of(scan)) for s in services]

    def arm_of(self, scan: Scan) -> Arm:
        """What a service needs to take part."""
        reducer = self._services.needed(scan, "reducer")
        scan.ingesters |= {s.key: info_of(s.hello) for s in self._services.needed(scan, "ingester")}
        return Arm(
            scan.number,
            scan.scan_id,
            scan.map.to_wire(),
            [WorkerInfo(p.name, sorted(p.tags), uuid_of(p.peer), p.joined) for p in scan.places],
            list(scan.ingesters.values()),
            reducer[0].hello.url if reducer else "",
            scan.version,
            scan.values,
            self._services.declared(),
            self._policy.incomplete,
            self._policy.fold_patience,
            self._policy.fold_order,
            scan.record,
            scan.dump_prefix,
            scan.overload.policy,
        )

    def armed(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """A service is ready, or says why it is not."""
        if service.key not in scan.waiting:
            return []
        scan.waiting.discard(service.key)
        me = scan.places.of(service.peer)
        moved: list[Action] = []
        if me is not None:
            scan.places[me].here = True
        elif service.hello.role == "reducer":
            moved = [Send(worker, Moved(scan.number, service.hello.url)) for _, worker in scan.places.here()]
        if message.error:
            scan.errors.append(f"{service.key}: {message.error}")
        scan.stateful = scan.stateful or message.stateful
        if message.tick_interval is not None:
            scan.tick_interval = min(message.tick_interval, scan.tick_interval or message.tick_interval)
        return moved + self.arm_next(scan, now)

    def reply(self, scan: Scan) -> list[Action]:
        """Answer who submitted the scan, once."""
        request, scan.request = scan.request, None
        return [] if request is None else [Reply(request, value=scan.scan_id)]
