"""The controller machine: which services there are, which scan runs, and how it comes to its end.

A scan is armed (every service got the map and constructed the app's classes), runs, is perhaps halted or closed early,
drains until every data event is terminal, gets its end event, lets workers and then the reducer finish, and ends with
a report. One scan runs at a time; the next one may be submitted any time: its ingesters are armed at once and the
running scan is stopped. No sockets, no store, no clock: requests and messages in, actions out; `now` is in seconds
since the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Logged, Note, RecordScan, Reply, Send
from beamfold.dispatch.arming import Arming
from beamfold.dispatch.assigning import Assigning
from beamfold.dispatch.ending import Ending
from beamfold.dispatch.entries import entries_of
from beamfold.dispatch.fencing import Fencing
from beamfold.dispatch.load import plain_stats
from beamfold.dispatch.losses import Losses
from beamfold.dispatch.peers import SUPERVISOR, bounded, credible, fault_of, is_ours
from beamfold.dispatch.records import ended_record, noted_records, running_records, series_records
from beamfold.dispatch.recovery import PATIENCE
from beamfold.dispatch.resumption import Resumption
from beamfold.dispatch.scan import Phase, Plan, Scan
from beamfold.dispatch.scans import Policy, Scans
from beamfold.dispatch.seating import Seating
from beamfold.dispatch.services import Service, Services, remember
from beamfold.dispatch.taking_up import TakingUp
from beamfold.dispatch.tally import Tally, tally_of
from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.latency import Latencies
from beamfold.model.report import for_ledger
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols.messages import (
    Armed,
    Beat,
    Failed,
    FenceReached,
    Filled,
    Finished,
    FoldFailed,
    FramesMissing,
    Gone,
    Halted,
    Hello,
    Introduce,
    Inventory,
    Logs,
    PartsDone,
    Refused,
    StreamEnded,
    StreamSeen,
    Tick,
    ToController,
    Torn,
    Trouble,
    Welcome,
)

ASK_AGAIN = 0.5
"""Seconds after which somebody whom the controller does not know is asked again who that is."""

TELL_INTERVAL = 0.2
"""Seconds after which all workers hear how a scan stands, where nobody can be waiting for it: as often as an ingester
says how far it is."""


class ControllerMachine:
    """All that the controller knows. `values` are the raw parameters to begin with, at version `version`.

    `known` is what the ledger has of the newest scans: services may be at work on one of them that another controller
    has begun. That one is taken up; or the one of the `resumption`, of which no service knows any more. Only who has
    the `token` is a service of this deployment; "": whoever says so.
    """

    def __init__(
        self,
        software: str,
        epoch: int,
        *,
        policy: Policy | None = None,
        values: dict[str, bytes] | None = None,
        version: int = 0,
        first_scan: int = 1,
        known: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        resumption: Resumption | None = None,
        token: str = "",
    ) -> None:
        policy = policy or Policy()
        self._software = software
        self._epoch = epoch
        self._policy = policy
        self._token = token
        self._since = math.inf
        self._introduced: dict[Any, float] = {}  # peers, and when they were asked who they are
        services = self._services = Services()
        scans = self._scans = Scans(first_scan - 1, dict(known), resumption)
        assigning = self._assigning = Assigning(services)
        fencing = self._fencing = Fencing(services, scans, dict(values or {}), version)
        ending = self._ending = Ending(services, scans, assigning, self._advance)
        self._arming = Arming(services, scans, policy, fencing, ending, self._run)
        self._losses = Losses(services, scans, policy, epoch, assigning, fencing, ending)
        self._seating = Seating(services, scans, assigning, self._arming, fencing, ending, self._losses)
        self._taking_up = TakingUp(
            services, scans, policy, epoch, assigning, fencing, ending, self._seating, self._receive
        )

    # -- services --------------------------------------------------------------------------------------------

    def receive(self, peer: bytes, message: ToController, now: float) -> list[Action]:
        """A service said something."""
        return self.receive_all([(peer, message)], now)

    def receive_all(self, messages: Iterable[tuple[bytes, ToController]], now: float) -> list[Action]:
        """What services said since the last call, in its order, each with the peer that said it.

        Parts that are done are answered once for all that was said of them in a row: the busier the controller is, the
        less an answer costs.
        """
        actions: list[Action] = []
        for peer, message in messages:
            if not isinstance(message, PartsDone | Beat | Logs):
                actions += self._ending.answer_done(now)
            actions += self._receive(peer, bounded(message), now)
        return actions + self._ending.answer_done(now)

    def _receive(self, peer: bytes, message: ToController, now: float) -> list[Action]:
        if isinstance(message, Hello):
            return self._hello(peer, message, now)
        key = self._services.peers.get(peer)
        if key is None:
            if now - self._introduced.get(peer, -math.inf) < ASK_AGAIN:
                return []
            remember(self._introduced, peer, now)
            return [Send(peer, Introduce())]
        service = self._services.all[key]
        service.seen = now
        if isinstance(message, Beat):
            return self._beat(service, message, now)
        if isinstance(message, Logs):
            return [Logged(entries_of(service.hello.name, message.lines, now))]
        if isinstance(message, Gone):
            own = (message.role, message.name) == (service.hello.role, service.hello.name)
            return self._losses.gone(message, now) if own or service.hello.role == SUPERVISOR else []
        if isinstance(message, Inventory):
            return self._taking_up.inventory(service, message, now)
        if isinstance(message, Armed) and self._scans.resumption is not None and message.error:
            return self._taking_up.not_resumed(f"{key}: {message.error}", now)
        if self._scans.recovery is not None and message.scan == self._scans.recovery.arm.scan:
            self._scans.recovery.later.append((peer, message))
            return []
        scan = next((s for s in (self.scan, self._scans.next) if s is not None and s.number == message.scan), None)
        if scan is None or not scan.active or key not in scan.services:
            return []
        if not credible(scan, service.hello, message):
            return [Note("warning", f"{key} said what cannot be ({type(message).__name__}); it was ignored")]
        return self._scan_message(scan, service, message, now)

    def _beat(self, service: Service, message: Beat, now: float) -> list[Action]:
        service.stats = plain_stats(message.stats)
        service.load.add(service.stats, now)
        scan = self.scan
        if scan is None or not scan.active or service.key not in scan.services:
            return []
        if service.stats.get("scan") == scan.number:
            try:
                scan.latencies[service.peer] = Latencies.from_wire(message.latency)
            except CodecError as error:
                return [Note("warning", f"{service.key} said what cannot be ({error}); it was ignored")]
        return []

    def _hello(self, peer: bytes, hello: Hello, now: float) -> list[Action]:
        if hello.version != self._software:
            text = (
                f"{hello.role} {hello.name} runs Beamfold {hello.version}, the controller {self._software}: "
                "install the same version for all services of a scan"
            )
            return [Send(peer, Refused(text)), Note("error", text)]
        if not is_ours(hello, peer, self._token):
            text = (
                "it does not have the token of this deployment: give all its services the same [controller] token_file "
                "or BEAMFOLD_CONTROLLER__TOKEN"
            )
            who = f"{hello.role} {hello.name} (pid {hello.pid} on {hello.host})"
            return [Send(peer, Refused(text)), Note("error", f"{who} was refused: {text}")]
        if fault := fault_of(hello):
            return [Send(peer, Refused(fault)), Note("error", fault)]
        if peer in self._services.lost:
            text = f"this {hello.role} was taken for lost, and others do its work: start it anew"
            return [Send(peer, Refused(text)), Note("warning", f"{hello.role} {hello.name}: {text}")]
        service = Service(peer, hello, now)
        if (service.key, hello.pid) in self._services.unmet:
            return []
        if self._services.peers.get(peer, service.key) != service.key:
            return [Send(peer, Refused("a service has one name"))]
        actions: list[Action] = []
        old = self._services.all.get(service.key)
        if old is not None and old.peer != peer:
            self._services.peers.pop(old.peer, None)
            if not old.gone:
                text = f"another {service.key} took this one's place: give every service a name of its own"
                actions += [Send(old.peer, Refused(text)), *self._losses.lose(old, text, now)]
                remember(self._services.lost, old.peer)
                if self._scans.recovery is not None:
                    self._scans.recovery.forget(old.peer)
        self._services.add(service)
        self._since = min(self._since, now)
        if old is None or old.peer != peer:
            actions.append(Note("info", f"{service.key} is here (pid {hello.pid} on {hello.host})"))
        if hello.error:
            actions.append(Note("error", f"{service.key}: {hello.error}"))
        self._introduced.pop(peer, None)
        actions += self._seating.take_place(service, now) + self._taking_up.resume() + self._taking_up.recover(now)
        # An ingester reads its detectors from now on: it has to know which scan it goes on with.
        if not (self._taking_up.awaited and hello.role == "ingester"):
            actions.append(Send(peer, Welcome(self._epoch)))
        return actions

    def unreachable(self, peer: bytes) -> None:
        """What was sent to this service did not go: it is not connected."""
        self._losses.unreachable(peer)

    # -- requests --------------------------------------------------------------------------------------------

    def submit(self, plan: Plan, now: float) -> list[Action]:
        """Start a scan; the reply comes when it is armed. A running scan is stopped for it."""
        try:
            scan = self._arming.prepare(plan, now)
        except BeamfoldError as error:
            return [Reply(plan.request, error=error)]
        actions: list[Action] = []
        if self._scans.next is not None:
            actions += self._ending.abort(self._scans.next, "superseded", "another scan was submitted", now)
        self._scans.next = scan
        actions += self._arming.arm_next(scan, now)
        running = self.scan
        if running is None or not running.active:
            return actions + self._advance(now)
        return actions + self._ending.stop(running, "a new scan was submitted", now)

    def _advance(self, now: float) -> list[Action]:
        """Make the next scan the running one, when none is."""
        scan = self._scans.next
        if scan is None or (self.scan is not None and self.scan.active):
            return []
        self._scans.scan, self._scans.next = scan, None
        self._fencing.begin(scan)
        actions: list[Action] = [
            RecordScan(scan.scan_id, {"number": scan.number, "state": "arming", "started": scan.started}, scan.number)
        ]
        actions += self._taking_up.give_up_unfinished(
            "no service was at work on it any more when the next scan began", now
        )
        return actions + self._arming.arm_next(scan, now)

    def stop(self, request: int, now: float) -> list[Action]:
        """Stop the running scan: what has arrived is still processed. Stopping twice gives that up as well."""
        scan = self.scan
        if scan is None or not scan.active:
            return [Reply(request)]
        if scan.stopped and scan.phase is not Phase.ARMING:
            text = "stopped twice: what was left was given up"
            return [Reply(request), *self._ending.abort(scan, "stopped", text, now)]
        scan.stopped = True  # one that is ending by itself goes on with that
        return [Reply(request), *self._ending.stop(scan, "stopped by request", now)]

    def set_parameters(self, values: dict[str, bytes], now: float) -> list[Action]:
        """New raw values (merged into the old ones): in force from the first event that no worker can have begun."""
        return self._fencing.set_parameters(values, now)

    def give_up_unfinished(self, reason: str, now: float) -> list[Action]:
        """Scans that the ledger takes to be under way, and nobody is at work on, have failed."""
        return self._taking_up.give_up_unfinished(reason, now)

    def trouble(self, scan_id: str, where: str, text: str) -> list[Action]:
        """The service could not do what it was told to for a scan: a person reads it in the report, or in the log."""
        told = f"{where}: {text}"
        actions: list[Action] = [Note("error", told)]
        for scan in (self.scan, self._scans.next):
            if scan is None or scan.scan_id != scan_id or not scan.active:
                continue
            if told not in scan.report.troubles:  # a file may fail with every line
                scan.trouble(where, text)
            return actions
        report = self.reports.get(scan_id)
        if report is not None and told not in report["troubles"]:
            report = self.reports[scan_id] = {**report, "troubles": [*report["troubles"], told]}
            actions.append(RecordScan(scan_id, {"report": for_ledger(report)}))
        return actions

    def record_again(self) -> list[Action]:
        """All that is known of scans, for a ledger that may have forgotten it."""
        actions: list[Action] = [ended_record(report) for report in self.reports.values()]
        if self.scan is not None and self.scan.phase is not Phase.ARMING:
            actions += running_records(self.scan, self._services)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time passed."""
        actions = self._taking_up.recover(now) + self._losses.look_for_silent(now)
        if self._scans.recovery is None and self._scans.resumption is None and now - self._since >= PATIENCE:
            actions += self._taking_up.decided()
            if now - self._since >= self._policy.replace_patience:
                actions += self._taking_up.give_up_unfinished("every service that was at work on it has ended", now)
        for scan in (self._scans.next, self.scan):
            if scan is not None and scan.active:
                actions += self._losses.vacate(scan, now)
        scan = self.scan
        if scan is None:
            return actions
        if scan.active:
            actions += noted_records(scan)
        if scan.bereft and scan.active:
            actions += self._ending.close_if_ended(scan, now)
        if reason := scan.timed_out(now):
            actions += [
                Note("warning", f"scan {scan.number} is stopped: {reason}"),
                *self._ending.stop(scan, reason, now),
            ]
        if scan.assigning and now - scan.told_at >= TELL_INTERVAL and scan.standing != scan.told:
            actions += self._assigning.tell(scan, now)
        return actions + self._tick(scan, now)

    def _tick(self, scan: Scan, now: float) -> list[Action]:
        """One worker after the other ticks, where their class wants that."""
        if scan.phase is not Phase.RUNNING or scan.tick_interval is None or now < scan.next_tick:
            return []
        scan.next_tick = now + scan.tick_interval
        here = scan.places.here()
        return [Send(here[scan.report.ticks_total % len(here)][1], Tick(scan.number))] if here else []

    # -- messages of a scan ----------------------------------------------------------------------------------

    def _scan_message(self, scan: Scan, service: Service, message: Any, now: float) -> list[Action]:
        match message:
            case PartsDone():
                scan.done(message, now)
                return list(recording.logged(scan, message))
            case StreamSeen():
                scan.seen(message, now)
                told = self._assigning.tell_shown(scan, now) if now - scan.told_at >= TELL_INTERVAL else []
                return [*series_records(scan), *told, *self._assigning.relieve(scan, now)]
            case FramesMissing():
                scan.missing(message)
            case StreamEnded():
                return self._stream_ended(scan, message, now)
            case FoldFailed():
                scan.fold_failed(message.failed)
            case Torn():
                return self._seating.torn(scan, service, message, now)
            case Trouble():
                scan.trouble(message.where, message.text)
            case Armed():
                return self._seating.armed(scan, service, message, now)
            case Halted():
                return self._ending.halted(scan, service, message, now)
            case FenceReached():
                return self._fencing.fence_reached(scan, service, message)
            case Filled():
                return self._seating.filled(scan, service, message)
            case Finished():
                return self._ending.finished(scan, service, message, now)
            case Failed():
                return self._ending.abort(scan, "failed", f"{service.key}: {message.reason}", now)
        return []

    def _run(self, scan: Scan, now: float) -> list[Action]:
        scan.phase = Phase.RUNNING
        actions = self._arming.reply(scan)
        actions += running_records(scan, self._services)
        policy, infos = self._policy, {i.name: i for s in self._services.of("ingester") for i in s.hello.streams}
        about = {
            "incomplete": policy.incomplete,
            "fold_patience": policy.fold_patience,
            "fold_order": policy.fold_order,
            "overload": policy.overload,
        }
        actions += recording.begin(scan, infos, self._software, about, policy.app)
        actions += self.tick(now)
        actions += self._fencing.fence_again(scan)
        actions += self._ending.close_if_ended(scan, now)
        actions += self._assigning.assign(scan, now) + self._assigning.tell_shown(scan, now)
        late = [s for s in self._services.of("worker") if scan.places.named(s.hello.name) is None]
        return actions + [action for service in late for action in self._seating.join(scan, service)]

    def _stream_ended(self, scan: Scan, message: StreamEnded, now: float) -> list[Action]:
        scan.ended(message)
        return series_records(scan) + (self._ending.close_if_ended(scan, now) or self._assigning.tell_shown(scan, now))

    # -- what people ask -------------------------------------------------------------------------------------

    @property
    def scan(self) -> Scan | None:
        """The scan that runs, or the last one that did."""
        return self._scans.scan

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        """Reports of scans that have ended, by their ids."""
        return self._scans.reports

    @property
    def services(self) -> dict[str, Service]:
        """Services that said Hello, by their keys; also those that are gone."""
        return self._services.all

    @property
    def values(self) -> dict[str, bytes]:
        """The raw parameters, at `version`."""
        return self._fencing.values

    @property
    def version(self) -> int:
        """Which version of the parameters is the newest."""
        return self._fencing.version

    def streams(self) -> dict[str, Service]:
        """Which ingester has which stream."""
        return self._services.streams()

    def declared(self) -> list[dict[str, Any]]:
        """Parameters that worker and reducer describe, by name, sorted."""
        return self._services.declared()

    def report(self, scan_id: str) -> dict[str, Any] | None:
        """The report of a scan, as it stands."""
        for scan in (self.scan, self._scans.next):
            if scan is not None and scan.scan_id == scan_id and scan.active:
                return scan.snapshot()
        return self.reports.get(scan_id)

    def tally(self) -> Tally:
        """What was counted since this controller started, up to now."""
        tally = Tally()
        tally.add(self._scans.ended)
        if self.scan is not None and self.scan.active:
            tally.add(tally_of(self.scan, self._services.loads()))
        return tally

    @property
    def newest(self) -> Scan | None:
        """The scan that was submitted last; it may wait for the running one to be drained."""
        return self._scans.next or self.scan

    def written(self, scan_id: str) -> WrittenMap | None:
        """The map of a scan that is under way (or was the last one), as somebody wrote it."""
        for scan in (self.scan, self._scans.next):
            if scan is not None and scan.scan_id == scan_id:
                return scan.written
        return None

    def progress(self) -> dict[str, Any]:
        """How far the present (or last) scan is, counting start and end event as the map does."""
        scan = self.scan
        if scan is None:
            over = not self._taking_up.pending  # who waits for the end of that one is not to go on yet
            return {"last_assigned": 0, "completed_events": 0, "total_events": 0, "finished": over}
        n = scan.map.n_events
        virtual = scan.dispatcher.next_virtual
        last = n if scan.map.n_virtual is not None and virtual >= scan.map.n_virtual else scan.map.span(virtual)[0]
        following = sorted(self._scans.next.waiting) if self._scans.next is not None else []
        return {
            "last_assigned": last or 0,
            "completed_events": scan.states.done,
            "total_events": n,
            "finished": not scan.active,
            "scan": scan.scan_id,
            "phase": str(scan.phase),
            "streams": {name: s.phase for name, s in scan.report.streams.items()},
            "waiting_for": [*scan.waiting_for(), *following],
        }
