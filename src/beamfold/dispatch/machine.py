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
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from beamfold.app.declared import hash_of
from beamfold.dispatch import recording
from beamfold.dispatch.entries import entries_of
from beamfold.dispatch.load import LoadHistory, plain_stats
from beamfold.dispatch.overload import Overload
from beamfold.dispatch.peers import SUPERVISOR, bounded, credible, fault_of, is_ours, sound
from beamfold.dispatch.places import Places
from beamfold.dispatch.recording import WriteFile
from beamfold.dispatch.recovery import PATIENCE, Assigned, Recovery
from beamfold.dispatch.resumption import (
    Resumption,
    count_series,
    given_up,
    plan_record,
    restore_series,
    series_record,
    unfinished,
    written_map,
)
from beamfold.dispatch.scan import MAX_JOINED, Phase, Plan, Scan
from beamfold.dispatch.silence import Silence
from beamfold.dispatch.tally import Tally, tally_of
from beamfold.model.errors import BeamfoldError, CodecError, MapError, ScanError
from beamfold.model.latency import Latencies
from beamfold.model.report import for_ledger
from beamfold.model.runs import RunSet
from beamfold.model.triggermap import TriggerMap, WrittenMap
from beamfold.protocols.messages import (
    DROPPED,
    Arm,
    Armed,
    Assign,
    Beat,
    Block,
    Close,
    Conclude,
    Drop,
    End,
    Failed,
    Fence,
    FenceReached,
    Fill,
    Filled,
    Finish,
    Finished,
    FoldFailed,
    FramesMissing,
    Gone,
    Halt,
    Halted,
    Hello,
    IngesterInfo,
    Introduce,
    Inventory,
    Logs,
    Message,
    Moved,
    Parameters,
    PartsDone,
    Refused,
    Rejoined,
    Release,
    StreamEnded,
    StreamSeen,
    Tick,
    ToController,
    Torn,
    Trouble,
    Vacate,
    Waits,
    Welcome,
    WorkerInfo,
)

ARM_PATIENCE = 120.0
"""Seconds in which services have to be ready for a scan: an app may be imported from a slow disk."""

ASK_AGAIN = 0.5
"""Seconds after which somebody whom the controller does not know is asked again who that is."""

KEEP_LOST = 10_000
"""Processes that were lost and are remembered, so that they are not taken for new ones."""

KEEP_REPORTS = 100
"""Reports of ended scans kept in memory; the ledger keeps more."""

REST_PATIENCE = 10.0
"""Seconds in which a worker that joined has to see the rest of what is broadcast, before its `finish()`."""

TELL_INTERVAL = 0.2
"""Seconds after which all workers hear how a scan stands, where nobody can be waiting for it: as often as an ingester
says how far it is."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a control message to one service."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request: with a value, or with the error that refuses it."""

    request: int
    value: Any = None
    error: BeamfoldError | None = None


@dataclass(frozen=True, slots=True)
class RecordScan:
    """Write these fields of a scan to the ledger; with its number where that need not know the scan."""

    scan_id: str
    fields: dict[str, Any]
    number: int | None = None


@dataclass(frozen=True, slots=True)
class RecordParameters:
    """Write a parameter version and the event from which it is in force."""

    scan_id: str | None
    version: int
    values: dict[str, bytes]
    from_event: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """What a service logged, for people; it has printed it itself."""

    entries: list[dict[str, Any]]


Action: TypeAlias = Send | Reply | RecordScan | RecordParameters | WriteFile | Note | Logged


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


@dataclass(frozen=True, slots=True)
class Policy:
    """What the run file says about every scan.

    `record` is the folder that recordings go below ("": none are made), `app` what they say of the app: class paths and
    their folder. A relative `dump_prefix` counts from the folder `output`. With `overload` "sample" one event in
    `sample_every` is processed, None: one in as many as it takes. For `replace_patience` seconds somebody may take the
    place of a worker that was lost. A scan of which nothing has come for `timeout` seconds is stopped (None: none is).
    By `lease` and `time_limit` services without a supervisor are (see `silence`).
    """

    incomplete: str = "process"
    fold_patience: float = 2.0
    fold_order: str = "event"
    record: str = ""
    app: dict[str, str] = field(default_factory=dict)
    output: str = ""
    overload: str = "spill"
    sample_every: int | None = None
    replace_patience: float = 30.0
    timeout: float | None = None
    lease: float = 10.0
    time_limit: float = 300.0


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
        policy: Policy = Policy(),
        values: dict[str, bytes] | None = None,
        version: int = 0,
        first_scan: int = 1,
        known: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        resumption: Resumption | None = None,
        token: str = "",
    ) -> None:
        self._software = software
        self._epoch = epoch
        self._policy = policy
        self.values: dict[str, bytes] = dict(values or {})
        self.version = version
        self.services: dict[str, Service] = {}
        self._peers: dict[bytes, str] = {}
        self._here: dict[tuple[int, str], list[Service]] = {}
        self._number = first_scan - 1
        self.scan: Scan | None = None
        self._next: Scan | None = None
        self.reports: dict[str, dict[str, Any]] = {}
        self._ended = Tally()
        self._fencing: tuple[int, dict[str, bytes]] | None = None
        self._fence_again = False
        self._known = dict(known)
        self._resumption = resumption
        self._token = token
        self._silence = Silence(policy.lease, policy.time_limit)
        self._awaited = any(unfinished(record) for record in known.values())  # and then ingesters do not begin to read
        self._since = math.inf
        self._recovery: Recovery | None = None
        self._introduced: dict[Any, float] = {}  # peers, and when they were asked who they are
        self._lost: dict[Any, None] = {}  # peers
        self._unmet: dict[Any, None] = {}  # keys and process numbers: their end was told before their beginning

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
                actions += self._answer_done(now)
            actions += self._receive(peer, bounded(message), now)
        return actions + self._answer_done(now)

    def _receive(self, peer: bytes, message: ToController, now: float) -> list[Action]:
        if isinstance(message, Hello):
            return self._hello(peer, message, now)
        key = self._peers.get(peer)
        if key is None:
            if now - self._introduced.get(peer, -math.inf) < ASK_AGAIN:
                return []
            _remember(self._introduced, peer, now)
            return [Send(peer, Introduce())]
        service = self.services[key]
        service.seen = now
        if isinstance(message, Beat):
            return self._beat(service, message, now)
        if isinstance(message, Logs):
            return [Logged(entries_of(service.hello.name, message.lines, now))]
        if isinstance(message, Gone):
            own = (message.role, message.name) == (service.hello.role, service.hello.name)
            return self._gone(message, now) if own or service.hello.role == SUPERVISOR else []
        if isinstance(message, Inventory):
            return self._inventory(service, message, now)
        if isinstance(message, Armed) and self._resumption is not None and message.error:
            return self._not_resumed(f"{key}: {message.error}", now)
        if self._recovery is not None and message.scan == self._recovery.arm.scan:
            self._recovery.later.append((peer, message))
            return []
        scan = next((s for s in (self.scan, self._next) if s is not None and s.number == message.scan), None)
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
        if peer in self._lost:
            text = f"this {hello.role} was taken for lost, and others do its work: start it anew"
            return [Send(peer, Refused(text)), Note("warning", f"{hello.role} {hello.name}: {text}")]
        service = Service(peer, hello, now)
        if (service.key, hello.pid) in self._unmet:
            return []
        if self._peers.get(peer, service.key) != service.key:
            return [Send(peer, Refused("a service has one name"))]
        actions: list[Action] = []
        old = self.services.get(service.key)
        if old is not None and old.peer != peer:
            self._peers.pop(old.peer, None)
            if not old.gone:
                text = f"another {service.key} took this one's place: give every service a name of its own"
                actions += [Send(old.peer, Refused(text)), *self._lose(old, text, now)]
                _remember(self._lost, old.peer)
                if self._recovery is not None:
                    self._recovery.forget(old.peer)
        self.services[service.key] = service
        self._peers[peer] = service.key
        self._here.clear()
        self._since = min(self._since, now)
        if old is None or old.peer != peer:
            actions.append(Note("info", f"{service.key} is here (pid {hello.pid} on {hello.host})"))
        if hello.error:
            actions.append(Note("error", f"{service.key}: {hello.error}"))
        self._introduced.pop(peer, None)
        actions += self._take_place(service, now) + self._resume() + self._recover(now)
        # An ingester reads its detectors from now on: it has to know which scan it goes on with.
        if not (self._awaited and hello.role == "ingester"):
            actions.append(Send(peer, Welcome(self._epoch)))
        return actions

    def _gone(self, message: Gone, now: float) -> list[Action]:
        """A process ended."""
        key = f"{message.role} {message.name}"
        service = self.services.get(key)
        if service is None or service.gone or (message.pid and message.pid != service.hello.pid):
            if message.pid:
                _remember(self._unmet, (key, message.pid))
            return []
        return self._take_for_lost(service, message.how, f"{key} ended: {message.how}", now, message)

    def _take_for_lost(
        self, service: Service, how: str, text: str, now: float, gone: Gone | None = None
    ) -> list[Action]:
        """Whatever becomes of this process, it has no part in anything any more."""
        service.gone = how
        self._here.clear()
        self._peers.pop(service.peer, None)
        if self._recovery is not None:
            self._recovery.forget(service.peer)
        _remember(self._lost, service.peer)
        return [Note("error", text), *self._lose(service, text, now, gone)]

    def unreachable(self, peer: bytes) -> None:
        """What was sent to this service did not go: it is not connected."""
        self._silence.unreachable(peer)

    def _look_for_silent(self, now: float) -> list[Action]:
        """Services that no supervisor watches are lost when they have been silent for too long."""
        if not self._silence.due(now):
            return []
        supervisors = {(s.hello.host, s.hello.pid) for s in self._of(SUPERVISOR)}
        alone = {
            s.peer: s
            for s in self.services.values()
            if not s.gone and s.hello.role != SUPERVISOR and (s.hello.host, s.hello.parent) not in supervisors
        }
        ask, lost = self._silence.look([(s.peer, s.hello.role, s.seen) for s in alone.values()], now)
        actions: list[Action] = [Send(peer, Welcome(self._epoch)) for peer in ask]
        for peer, how in lost:
            service = alone[peer]
            actions += self._take_for_lost(service, how, f"{service.key} is taken for lost: {how}", now)
        return actions

    def _lose(self, service: Service, text: str, now: float, gone: Gone | None = None) -> list[Action]:
        """A service is lost. Others do the work of a worker, a reducer is waited for, and an ingester whose streams
        another one can go on with; otherwise the scan cannot be completed."""
        actions: list[Action] = []
        for scan in (self._next, self.scan):
            if scan is None or not scan.active or service.key not in scan.services:
                continue
            if service.hello.role == "worker":
                event = gone.event if gone is not None and gone.scan == scan.number else -1
                actions += self._lose_worker(scan, service, text, now, event)
                continue
            if service.hello.role == "reducer":
                self._lose_reducer(scan, service, text, now)
                continue
            if self._resumable(scan, service):
                actions += self._lose_ingester(scan, service, text, now)
                continue
            scan.errors.append(text)
            actions += self._abort(scan, "failed", text, now)
        return actions

    # -- workers that are lost, and come back ----------------------------------------------------------------

    def _lose_worker(self, scan: Scan, service: Service, how: str, now: float, event: int) -> list[Action]:
        """Nobody fills a worker's place: what it had is assigned again, at once to others where that may be."""
        me = scan.places.of(service.peer)
        if me is None:
            return []
        if scan.assigning:
            scan.lose(me, how, now, event)
            empty = _fill(scan, me)
            return [*(Send(s.peer, empty) for s in self._routers(scan)), *self._assign(scan, now)]
        scan.places.lose(me, now)
        if scan.phase is Phase.ARMING and "worker" not in scan.unarmed:
            scan.waiting.add(service.key)
        elif scan.phase is Phase.FINISHING and service.key in scan.waiting:
            scan.waiting.discard(service.key)
            scan.trouble(service.key, f"it ended before its finish() came back: {how}")
            return [] if scan.waiting else self._finish_reducer(scan)
        return []

    def _lose_reducer(self, scan: Scan, service: Service, how: str, now: float) -> None:
        """Another one will take up its result log; workers keep until then what it has not confirmed."""
        scan.reducer_lost = now
        if scan.phase is Phase.ARMING:
            if "reducer" not in scan.unarmed:
                scan.waiting.add(service.key)
            return
        scan.report.loss(service.key, how, now, 0)

    def _resumable(self, scan: Scan, service: Service) -> bool:
        """Whether another ingester can go on with what this one read for the scan, or nothing more is read."""
        if scan.phase in (Phase.FINISHING, Phase.REDUCING):
            return True
        infos = [info for info in service.hello.streams if info.name in scan.map.streams]
        return scan.phase in (Phase.RUNNING, Phase.DRAINING) and all(info.resumes for info in infos)

    def _lose_ingester(self, scan: Scan, service: Service, how: str, now: float) -> list[Action]:
        names = [info.name for info in service.hello.streams]
        scan.lose_ingester(service.key, how, now, names)
        if scan.phase is Phase.FINISHING:
            return self._hurry(scan)
        if self._fencing is None or service.key in scan.sent:
            return []
        scan.sent[service.key] = 0
        return self._fence_set(scan)

    def _replace_ingester(self, scan: Scan, service: Service, now: float) -> list[Action]:
        if service.key not in scan.ingesters_lost or not scan.assigning:
            return []
        del scan.ingesters_lost[service.key]
        if not self._resumable(scan, service):
            return self._abort(scan, "failed", f"{service.key} was lost, and nobody can go on with its streams", now)
        scan.seating.add(service.key)
        series = scan.series(info.name for info in service.hello.streams)
        return [Send(service.peer, msgspec.structs.replace(self._arming(scan), resume=series))]

    def _seat_ingester(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """An ingester goes on with streams of one that was lost: it learns what that one was told, workers of it."""
        if message.error:
            return self._abort(scan, "failed", f"{service.key}: {message.error}", now)
        peer, number, hello = service.peer, scan.number, service.hello
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        if self._fencing is not None:  # nobody was here to be asked, or another one was
            scan.sent.pop(service.key, None)
            actions.append(Send(peer, Fence(number, self._fencing[0])))
        actions.append(Send(peer, Assign(number, scan.dispatcher.assigned(), *scan.standing)))
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(number, scan.last_data_event)))
        actions += [Send(peer, _fill(scan, me)) for me, place in enumerate(scan.places) if service.key in place.unaware]
        return actions + [Send(worker, Rejoined(number, _info(hello))) for _, worker in scan.places.here()]

    def _replace_reducer(self, scan: Scan, service: Service) -> list[Action]:
        if service.key not in scan.services or scan.reducer_lost is None:
            return []
        scan.reducer_lost = None
        if "reducer" in scan.unarmed:
            return []
        scan.seating.add(service.key)
        unsure = [me for me, place in enumerate(scan.places) if service.key in place.unaware]
        fills = [Send(service.peer, _fill(scan, me)) for me in unsure]
        return [Send(service.peer, self._arming(scan)), *fills]

    def _seat_reducer(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """A reducer has read the result log of the one before: it learns what that one was told, workers of it."""
        if message.error:
            return self._abort(scan, "failed", f"{service.key}: {message.error}", now)
        peer, number = service.peer, scan.number
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        if dropped := scan.dispatcher.dropped():
            actions.append(Send(peer, Drop(number, dropped)))
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(number, scan.last_data_event)))
        actions += [Send(peer, Vacate(number, me)) for me, p in enumerate(scan.places) if p.vacant]
        moved = Moved(number, service.hello.url)
        actions += [Send(worker, moved) for _, worker in scan.places.here()]
        if scan.phase is Phase.REDUCING:
            actions.append(Send(peer, Finish(number)))
        return actions + self._resolve(scan, now)

    # -- a scan that another controller has begun ------------------------------------------------------------

    def _inventory(self, service: Service, message: Inventory, now: float) -> list[Action]:
        """A service is at work on a scan that this controller does not know."""
        if not sound(service.hello, message):
            return [Note("warning", f"{service.key} said what cannot be (Inventory); it was ignored")]
        scan_id, recovery = message.arm.scan_id, self._recovery
        if any(s is not None and s.active and s.number == message.scan for s in (self.scan, self._next)):
            return []
        over = scan_id in self.reports or "finished" in self._known.get(scan_id, {})
        if over or (self.scan is not None and self.scan.active) or (recovery and recovery.arm.scan != message.scan):
            return [Send(service.peer, End(message.scan))]
        if recovery is None:
            recovery = self._recovery = Recovery(message.arm, now)
        recovery.add(service.hello.role, service.peer, message)
        return self._recover(now)

    def _recover(self, now: float) -> list[Action]:
        """Take the scan up as soon as all who have a part in it have said what they know, or are late."""
        recovery = self._recovery
        if recovery is None:
            return []
        told = {*recovery.ingesters, *recovery.workers, *recovery.reducers}
        if self._resumption is not None and not recovery.reducers:
            return []  # it was lost again
        number = recovery.arm.scan
        fresh = [s for s in self.services.values() if not (s.gone or s.peer in told or number in s.hello.scans)]
        resumed = self._resumption is not None
        if not (recovery.complete((s.key for s in fresh), resumed=resumed) or recovery.overdue(now)):
            return []
        self._recovery = None
        try:
            scan = self._restored(recovery, now)
        except BeamfoldError as error:
            ends: list[Action] = [Send(peer, End(recovery.arm.scan)) for peer in told]
            return [Note("error", f"a scan cannot be taken up: {error}"), *ends, *self._decided()]
        actions = self._take_up(scan, recovery, fresh, now) + self._decided()
        return actions + [a for peer, message in recovery.later for a in self._receive(peer, message, now)]

    # -- a scan of a run that was killed ---------------------------------------------------------------------

    def _resume(self) -> list[Action]:
        """Arm the reducer for it, so that it reads what is done, and ask it what it knows."""
        waiting, reducer = self._resumption, next(iter(self._of("reducer")), None)
        if waiting is None or reducer is None or waiting.asked == reducer.peer:
            return []
        waiting.asked = reducer.peer
        number = waiting.arm.scan
        if number in reducer.hello.scans:
            return []  # it outlived its run, and says so
        policy = self._policy
        arm = msgspec.structs.replace(
            waiting.arm,
            declared=self.declared(),
            incomplete=policy.incomplete,
            fold_patience=policy.fold_patience,
            fold_order=policy.fold_order,
        )
        return [Send(reducer.peer, message) for message in (arm, *waiting.changes, Introduce())]

    def _decided(self) -> list[Action]:
        """A scan is taken up, or none is: new ingesters, which may have a part in it, read their detectors from now on.

        What they had read before would be of no scan.
        """
        awaited, self._awaited, self._resumption = self._awaited, False, None
        return [Send(s.peer, Welcome(self._epoch)) for s in self._of("ingester")] if awaited else []

    def _not_resumed(self, why: str, now: float) -> list[Action]:
        assert self._resumption is not None
        self._number = max(self._number, self._resumption.arm.scan)
        self._resumption = None
        return [*self.give_up_unfinished(f"it cannot be taken up: {why}", now)]

    def give_up_unfinished(self, reason: str, now: float) -> list[Action]:
        """Scans that the ledger takes to be under way, and nobody is at work on, have failed."""
        actions: list[Action] = []
        resumed = self._resumption.arm.scan_id if self._resumption is not None else None
        for scan_id, record in sorted(self._known.items(), key=lambda item: int(item[1].get("number", 0))):
            taken_up = scan_id in self.reports or (self.scan is not None and self.scan.scan_id == scan_id)
            if not unfinished(record) or taken_up or scan_id == resumed:
                continue
            report = given_up(scan_id, record, reason, now)
            fields = {"state": "failed", "finished": now, "report": report}
            self._known[scan_id] = {"finished": now}
            actions += [RecordScan(scan_id, fields, report["number"]), _ending(report)]
        return actions + (self._decided() if resumed is None and self._recovery is None else [])

    def _restored(self, recovery: Recovery, now: float) -> Scan:
        arm = recovery.arm
        known = self._known.get(arm.scan_id, {})
        self._number = max(self._number, arm.scan)
        numbered = {i.name: i.numbered for s in self._of("ingester") for i in s.hello.streams}
        written = written_map(known)
        trigger_map = recovery.plan() if written is None else written.compile()
        places = Places((w.name, frozenset(w.tags), None) for w in arm.workers)
        for place, info in zip(places, arm.workers, strict=True):
            place.joined = info.joined
        reducers = [s.key for s in self._of("reducer")] or ["reducer reducer"]
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
        if (closed := recovery.closed()) is not None:
            scan.close(closed, cut=set(scan.ended_streams) < set(trigger_map.streams))
        for inventory in recovery.reducers.values():
            if inventory.done is not None:
                scan.done(inventory.done, now)
        if not recovery.ingesters:
            count_series(scan)
        here = [me for me, _ in places.here()]
        # Where no ingester knows, what is not done of all that may have been assigned is assigned again.
        assigned = recovery.assigned() or [Assigned(0, scan.map.virtual_before(scan.reached), None)]
        scan.dispatcher.restore([(a.lo, a.hi, a.worker) for a in assigned], here)
        if len(recovery.ingesters) < len(arm.ingesters):
            scan.begun = max(scan.reached - 1, scan.last_assigned)
        return scan

    def _take_up(self, scan: Scan, recovery: Recovery, fresh: list[Service], now: float) -> list[Action]:
        """Tell everybody what only some may know, and go on."""
        number, changes = scan.number, scan.changes
        self.scan = scan
        self._here.clear()
        armed = recovery.reducers and all(place.here or place.joined for place in scan.places)
        recorded = self._known.get(scan.scan_id, {}).get("state") == "running"
        if not (scan.dispatcher.next_virtual or armed or recorded):
            return self._abort(scan, "failed", "the controller ended while the scan was armed", now)
        if self._resumption is None:
            scan.report.loss("controller", "another one took the scan up", now, 0)
        else:
            scan.report.loss("run", "it ended with all services, and another one took the scan up", now, 0)
        for version, values, from_event in [(scan.version, scan.values, 0), *scan.later_versions()]:
            scan.report.version(self._version_record(version, values, from_event))
        newest = changes[-1] if changes else Parameters(number, scan.version, scan.values, 0)
        if newest.version > self.version:  # the ledger is behind, or has been wiped
            self.version, self.values = newest.version, newest.values
        actions: list[Action] = [Note("warning", f"scan {number} of another controller is taken up")]
        actions += self._record_scan(scan)
        there = {s.key for s in self.services.values() if s.peer in recovery.ingesters}
        scan.ingesters |= {f"ingester {info.name}": info for info in recovery.arm.ingesters}
        for info in recovery.arm.ingesters:
            if (key := f"ingester {info.name}") not in there:
                scan.lose_ingester(key, f"{key} was lost", now, info.streams)
        if not recovery.reducers:
            scan.reducer_lost = now
        actions += self._record_again(scan, recovery)
        actions += self._say_again(scan, now)
        if not scan.closing and any(i.halted for i in recovery.ingesters.values()):
            scan.stopped, scan.phase, halting = True, Phase.HALTING, self._needed(scan, "ingester")
            scan.waiting = {s.key for s in halting}
            actions += [Send(s.peer, Halt(number)) for s in halting]
        workers = [s for s in self.services.values() if s.hello.role == "worker" and not s.gone]
        strays = [s for s in workers if s.peer in recovery.workers or number in s.hello.scans]
        for service in [s for s in strays if scan.places.of(s.peer) is None]:
            actions += self._dismiss(service, _uncertain(service))
        for service in fresh:
            actions += self._take_place(service, now)
        if self.version > newest.version:
            actions += self._fence(scan)  # it was taken, and perhaps no ingester has heard of it
        elif any(i.holding for i in recovery.ingesters.values()):
            actions += self.set_parameters({}, now)
        if recovery.reducers:  # else what is terminal is not known before another one has read its log
            actions += self._resolve(scan, now)
        scan.unanswered = True
        return actions + self._answer_done(now) + self._close_if_ended(scan, now)

    def _say_again(self, scan: Scan, now: float) -> list[Action]:
        """Say again what only some may know; who knows it ignores it."""
        number = scan.number
        actions: list[Action] = [Send(peer, change) for peer in self._peers_of(scan) for change in scan.changes]
        for me, place in enumerate(scan.places):
            if place.peer is None:
                actions += [Send(s.peer, _fill(scan, me)) for s in self._routers(scan)]
        if scan.closing and scan.last_data_event is not None:
            scan.phase = Phase.DRAINING
            actions += [Send(peer, Close(number, scan.last_data_event)) for peer in self._peers_of(scan)]
        ingesters, reducers = self._needed(scan, "ingester"), self._needed(scan, "reducer")
        if dropped := scan.dispatcher.dropped():
            actions += [Send(s.peer, Drop(number, dropped)) for s in reducers]
        blocks = scan.dispatcher.assigned(scan.dispatcher.attempt)
        actions += [Send(s.peer, Assign(number, blocks, *scan.standing)) for s in ingesters]
        own: dict[int, list[Block]] = {}
        for block in scan.dispatcher.assigned():
            own.setdefault(block.worker, []).append(block)
        actions += self._tell(scan, now, own)
        for _, worker in scan.places.here():
            if scan.reducer_lost is None:
                actions += [Send(worker, Moved(number, s.hello.url)) for s in reducers]
            actions += [Send(worker, Rejoined(number, _info(s.hello))) for s in ingesters]
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

    def _resolve(self, scan: Scan, now: float) -> list[Action]:
        """What is done is known: what nobody has for certain is for others, or for new processes in the places."""
        actions: list[Action] = []
        for me in sorted(scan.dispatcher.resolve(scan.frontier, scan.reached)):
            key = f"worker {scan.places[me].name}"
            if (service := self.services.get(key)) is not None and service.peer == scan.places[me].peer:
                actions += self._replace_worker(scan, service, _uncertain(service), now)
        return actions + self._assign(scan, now)

    def _torn(self, scan: Scan, service: Service, message: Torn, now: float) -> list[Action]:
        """Parts are to be processed again that their worker takes for done: another process will."""
        scan.trouble(service.key, message.text)
        worker = self.services.get(f"worker {scan.places[message.worker].name}")
        if worker is None or worker.peer != message.uuid.encode() or scan.places.of(worker.peer) != message.worker:
            return []  # it was lost since, and what it had is assigned again
        return self._replace_worker(scan, worker, f"results of {worker.key} were refused", now)

    def _replace_worker(self, scan: Scan, service: Service, why: str, now: float) -> list[Action]:
        """Another process has to take a worker's place, and others do what it has not done."""
        return [*self._dismiss(service, why), *self._lose_worker(scan, service, why, now, -1)]

    def _dismiss(self, service: Service, why: str) -> list[Action]:
        """What a worker has said and will say cannot be told from what another one in its place says, so it has to
        become another process."""
        text = f"{why}: start it anew"
        service.gone = text
        self._here.clear()
        self._peers.pop(service.peer, None)
        _remember(self._lost, service.peer)
        return [Send(service.peer, Refused(text)), Note("warning", text)]

    def _routers(self, scan: Scan) -> list[Service]:
        """Who has to know which process is which worker, as far as they know of the scan."""
        return [s for role in ("ingester", "reducer") if role not in scan.unarmed for s in self._needed(scan, role)]

    def _take_place(self, service: Service, now: float) -> list[Action]:
        """A service is here: it takes part in scans that have lost the one of its name."""
        actions: list[Action] = []
        for scan in (self.scan, self._next):
            if scan is not None and scan.active and service.hello.role == "reducer":
                actions += self._replace_reducer(scan, service)
            if scan is not None and scan.active and service.hello.role == "ingester":
                actions += self._replace_ingester(scan, service, now)
            if service.hello.role != "worker" or scan is None or not (scan.assigning or scan.phase is Phase.ARMING):
                continue
            me = scan.places.named(service.hello.name)
            if me is None:
                actions += self._join(scan, service)
            elif scan.places[me].peer is None and scan.places[me].tags <= set(service.hello.tags):
                actions += self._offer_place(scan, me, service)
        return actions

    def _offer_place(self, scan: Scan, me: int, service: Service) -> list[Action]:
        """This worker is to fill a place: the others learn it first."""
        routers = self._routers(scan)
        scan.places.fill(me, service.peer, {s.key for s in routers})
        if not routers and "worker" not in scan.unarmed:
            return [Send(service.peer, self._arming(scan))]
        return [Send(s.peer, _fill(scan, me)) for s in routers]

    def _join(self, scan: Scan, service: Service) -> list[Action]:
        """A worker of a new name in mid-scan gets a place of its own, as long as there is work to be given out.

        What is broadcast it sees as others do, but no part of that is its own: who waits for what stays as it was.
        """
        hello, tags = service.hello, frozenset(service.hello.tags)
        joined = sum(place.joined for place in scan.places)
        if not scan.assigning or hello.error or joined >= MAX_JOINED or not scan.dispatcher.wants(tags):
            return []
        me = scan.join(hello.name, tags)
        self._here.clear()
        note = Note("info", f"{service.key} joins scan {scan.number}")
        return [note, *recording.joined(scan), *self._offer_place(scan, me, service)]

    def _filled(self, scan: Scan, service: Service, message: Filled) -> list[Action]:
        peer = message.uuid.encode()
        if not scan.places.known(message.worker, peer, service.key) or "worker" in scan.unarmed:
            return []
        return [Send(peer, self._arming(scan))]

    def _seat(self, scan: Scan, me: int, message: Armed, now: float) -> list[Action]:
        """A worker is armed in mid-scan: it learns what others know already, and gets work."""
        place = scan.places[me]
        if message.error or place.peer is None or not scan.assigning:
            if message.error:
                scan.trouble(f"worker {place.name}", message.error)
                scan.places.lose(me, now)
            return []
        place.here, peer = True, place.peer
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(scan.number, scan.last_data_event)))
        actions += [Send(peer, Moved(scan.number, s.hello.url)) for s in self._needed(scan, "reducer")]
        actions += [Send(peer, Rejoined(scan.number, _info(s.hello))) for s in self._needed(scan, "ingester")]
        blocks = scan.dispatcher.fill(me)
        actions += self._assigned(scan, blocks, now) if blocks else [self._to_worker(scan, me, [])]
        if scan.concluded:
            actions.append(Send(peer, Conclude(scan.number)))
        return actions + self._assign(scan, now)

    def _vacate(self, scan: Scan, now: float) -> list[Action]:
        """Places that nobody filled in time are given up, as long as others can do the work."""
        actions: list[Action] = []
        patience = self._policy.replace_patience
        if scan.phase is Phase.ARMING and scan.waiting and now - scan.waiting_since >= ARM_PATIENCE:
            text = f"not ready for the scan within {ARM_PATIENCE:g} s: {', '.join(sorted(scan.waiting))}"
            return self._abort(scan, "failed", text, now)
        if scan.phase is Phase.FINISHING:
            scan.finishing = now if scan.finishing is None else scan.finishing
            if now - scan.finishing >= REST_PATIENCE:
                scan.finishing = now
                return self._hurry(scan)
        for key, since in scan.ingesters_lost.items():
            if scan.assigning and now - since >= patience:
                return self._abort(scan, "failed", f"{key} was lost, and no other came within {patience:g} s", now)
        if scan.reducer_lost is not None and now - scan.reducer_lost >= patience:
            return self._abort(scan, "failed", f"the reducer was lost, and no other came within {patience:g} s", now)
        for me in scan.places.overdue(now, patience):
            place = scan.places[me]
            text = f"worker {place.name} was lost, and no other took its place within {patience:g} s"
            if scan.phase is Phase.ARMING:
                return [*actions, *self._abort(scan, "failed", text, now)]
            if not scan.assigning:
                continue
            place.vacant = True
            waited = scan.dispatcher.vacate(me)
            tags = [p.tags for p in scan.places if not p.vacant]
            try:
                scan.map.refuse_unless(scan.map.streams, tags)
            except MapError as error:
                return [*actions, *self._abort(scan, "failed", f"{text}: {error}", now)]
            if place.joined:  # it had no part of what is broadcast
                actions.append(Note("info", text))
                if waited:
                    text = "its events before a broadcast went to others that have seen that"
                    scan.trouble(f"worker {place.name}", text)
                continue
            scan.trouble(f"worker {place.name}", "it was lost, and no other took its place: what is broadcast went on")
            actions += recording.vacated(scan, me)
            actions += [Send(s.peer, Vacate(scan.number, me)) for s in self._needed(scan, "reducer")]
        return actions + self._assign(scan, now) if actions else []

    def _of(self, role: str, scan: Scan | None = None) -> list[Service]:
        """The services that are here, or those of a scan, by name; remembered until one comes or goes."""
        key = (scan.number if scan is not None else 0, role)
        found = self._here.get(key)
        if found is None:
            services = [s for s in self.services.values() if s.hello.role == role and not s.gone]
            found = sorted(services, key=lambda s: s.hello.name)
            if scan is not None:
                found = [s for s in found if s.key in scan.services]
            self._here[key] = found
        return found

    def streams(self) -> dict[str, Service]:
        """Which ingester has which stream."""
        return {info.name: s for s in self._of("ingester") for info in s.hello.streams}

    def declared(self) -> list[dict[str, Any]]:
        """Parameters that worker and reducer describe, by name, sorted."""
        found: dict[str, dict[str, Any]] = {}
        for service in self._of("worker") + self._of("reducer"):
            for parameter in service.hello.parameters:
                found.setdefault(parameter["name"], parameter)
        return [found[name] for name in sorted(found)]

    # -- requests --------------------------------------------------------------------------------------------

    def submit(self, plan: Plan, now: float) -> list[Action]:
        """Start a scan; the reply comes when it is armed. A running scan is stopped for it."""
        try:
            scan = self._prepare(plan, now)
        except BeamfoldError as error:
            return [Reply(plan.request, error=error)]
        actions: list[Action] = []
        if self._next is not None:
            actions += self._abort(self._next, "superseded", "another scan was submitted", now)
        self._next = scan
        actions += self._arm_next(scan, now)
        if self.scan is None or not self.scan.active:
            return actions + self._advance(now)
        return actions + self._stop(self.scan, "a new scan was submitted", now)

    def _prepare(self, plan: Plan, now: float) -> Scan:
        workers, reducers, streams = self._of("worker"), self._of("reducer"), self.streams()
        if self._recovery is not None or self._resumption is not None:
            raise ScanError("this controller is new and takes up the scan of another one: submit again in a moment")
        if not reducers:
            raise ScanError("no reducer is connected: start one (`beamfold reducer RUNFILE`) and submit again")
        tags = [frozenset(s.hello.tags) for s in workers]
        plan.map.refuse_unless(set(streams), tags)
        prefix = recording.dump_prefix(self.values, self._policy.output)
        matching = {
            info.name: "numbered" if info.numbered else "counted"
            for s in self._of("ingester")
            for info in s.hello.streams
        }
        self._number += 1
        places = Places((s.hello.name, frozenset(s.hello.tags), s.peer) for s in workers)
        ingesters = {streams[name].key for name in plan.map.streams}
        return Scan(
            self._number,
            plan.scan_id,
            plan.map,
            plan.request,
            places,
            {s: matching[s] for s in plan.map.streams},
            self.version,
            now,
            self.values,
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
        return f"{self._policy.record}/{self._number:06}-{plan.scan_id}"

    def _needed(self, scan: Scan, role: str) -> list[Service]:
        """The scan's own services: who came later has no part in it. Its workers are known by its places."""
        return self._of(role, scan)

    def _arm_next(self, scan: Scan, now: float) -> list[Action]:
        """Arm the next kind of service, once those before are armed; run the scan when all are.

        Ingesters and reducer come before the workers, because workers greet them with their first credit. Only
        ingesters are armed while another scan is still draining.
        """
        if scan.waiting or scan.phase is not Phase.ARMING:
            return []
        if scan.errors:
            return self._abort(scan, "failed", "; ".join(scan.errors), now)
        if not scan.unarmed:
            return self._run(scan, now)
        if scan is self._next and scan.unarmed[0] != "ingester":
            return self._reply(scan)
        scan.waiting_since = now
        return self._arm(scan, scan.unarmed.pop(0))

    def _arm(self, scan: Scan, role: str) -> list[Action]:
        if role == "worker":
            scan.waiting.update(f"worker {p.name}" for p in scan.places)
            ready = [p.peer for p in scan.places if p.peer is not None and not p.unaware]
            return [Send(peer, self._arming(scan)) for peer in ready]
        services = self._needed(scan, role)
        scan.waiting.update(key for key in scan.services if key.startswith(f"{role} "))  # also one that is to come back
        return [Send(s.peer, self._arming(scan)) for s in services]

    def _arming(self, scan: Scan) -> Arm:
        """What a service needs to take part."""
        reducer = self._needed(scan, "reducer")
        scan.ingesters |= {s.key: _info(s.hello) for s in self._needed(scan, "ingester")}
        return Arm(
            scan.number,
            scan.scan_id,
            scan.map.to_wire(),
            [WorkerInfo(p.name, sorted(p.tags), _uuid(p.peer), p.joined) for p in scan.places],
            list(scan.ingesters.values()),
            reducer[0].hello.url if reducer else "",
            scan.version,
            scan.values,
            self.declared(),
            self._policy.incomplete,
            self._policy.fold_patience,
            self._policy.fold_order,
            scan.record,
            scan.dump_prefix,
            scan.overload.policy,
        )

    def _advance(self, now: float) -> list[Action]:
        """Make the next scan the running one, when none is."""
        scan = self._next
        if scan is None or (self.scan is not None and self.scan.active):
            return []
        self.scan, self._next = scan, None
        self._fencing, self._fence_again = None, False
        scan.version, scan.values = self.version, self.values  # changed perhaps while the scan before was drained
        scan.report.version(self._version_record(scan.version, scan.values, 0))
        actions: list[Action] = [
            RecordScan(scan.scan_id, {"number": scan.number, "state": "arming", "started": scan.started}, scan.number)
        ]
        actions += self.give_up_unfinished("no service was at work on it any more when the next scan began", now)
        return actions + self._arm_next(scan, now)

    def stop(self, request: int, now: float) -> list[Action]:
        """Stop the running scan: what has arrived is still processed. Stopping twice gives that up as well."""
        scan = self.scan
        if scan is None or not scan.active:
            return [Reply(request)]
        if scan.stopped and scan.phase is not Phase.ARMING:
            text = "stopped twice: what was left was given up"
            return [Reply(request), *self._abort(scan, "stopped", text, now)]
        scan.stopped = True  # one that is ending by itself goes on with that
        return [Reply(request), *self._stop(scan, "stopped by request", now)]

    def _stop(self, scan: Scan, reason: str, now: float) -> list[Action]:
        if scan.phase is Phase.ARMING:
            return self._abort(scan, "stopped", reason, now)
        if scan.phase is not Phase.RUNNING:
            return []
        scan.phase, scan.reason = Phase.HALTING, reason
        services = self._needed(scan, "ingester")
        scan.waiting = {s.key for s in services}
        return [Send(s.peer, Halt(scan.number)) for s in services]

    def set_parameters(self, values: dict[str, bytes], now: float) -> list[Action]:
        """New raw values (merged into the old ones): in force from the first event that no worker can have begun."""
        self.values = {**self.values, **values}
        self.version += 1
        scan = self.scan
        actions: list[Action] = [RecordParameters(scan.scan_id if scan else None, self.version, self.values, None)]
        if scan is None or not scan.active or scan.phase in (Phase.FINISHING, Phase.REDUCING):
            return actions
        if scan.phase is Phase.ARMING or self._fencing is not None:
            self._fence_again = True
            return actions
        return actions + self._fence(scan)

    def _version_record(self, version: int, values: dict[str, bytes], from_event: int) -> dict[str, Any]:
        """A version for the report: its hash as results know it, text where it is text, sizes of what is long."""
        shown = {k: v.decode("utf-8", "replace") if len(v) <= 1024 else f"{len(v)} bytes" for k, v in values.items()}
        known = hash_of(self.declared(), values)
        return {"version": version, "from_event": from_event, "values": shown, "hash": known}

    def _fence(self, scan: Scan) -> list[Action]:
        self._fencing, self._fence_again = (self.version, dict(self.values)), False
        scan.sent = {}
        return [Send(s.peer, Fence(scan.number, self.version)) for s in self._needed(scan, "ingester")]

    def trouble(self, scan_id: str, where: str, text: str) -> list[Action]:
        """The service could not do what it was told to for a scan: a person reads it in the report, or in the log."""
        told = f"{where}: {text}"
        actions: list[Action] = [Note("error", told)]
        for scan in (self.scan, self._next):
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
        actions: list[Action] = [_ended_record(report) for report in self.reports.values()]
        if self.scan is not None and self.scan.phase is not Phase.ARMING:
            actions += self._record_scan(self.scan)
        return actions

    def _record_scan(self, scan: Scan) -> list[Action]:
        """What the ledger has of a scan that runs: its plan, and the versions of the parameters in force."""
        known = [s for s in self.services.values() if s.hello.role == "ingester" and s.key in scan.services]
        readers = {s.hello.name: [info.name for info in s.hello.streams] for s in known}
        record: dict[str, Any] = {"number": scan.number, "started": scan.started, **plan_record(scan, readers)}
        if scan.active:
            record["state"] = "running"
        first = RecordParameters(scan.scan_id, scan.version, scan.values, 0)
        changes = [RecordParameters(scan.scan_id, c.version, c.values, c.from_event) for c in scan.changes]
        return [RecordScan(scan.scan_id, record, scan.number), first, *changes]

    @staticmethod
    def _record_series(scan: Scan) -> list[Action]:
        """A series began, or ended: its ingester may end together with the controller."""
        series = series_record(scan)
        if series == scan.recorded_series:
            return []
        scan.recorded_series = series
        return [RecordScan(scan.scan_id, {"series": series})]

    def tick(self, now: float) -> list[Action]:
        """Time passed."""
        actions = self._recover(now) + self._look_for_silent(now)
        if self._recovery is None and self._resumption is None and now - self._since >= PATIENCE:
            actions += self._decided()
        for scan in (self._next, self.scan):
            if scan is not None and scan.active:
                actions += self._vacate(scan, now)
        scan = self.scan
        if scan is None:
            return actions
        if scan.bereft and scan.active:
            actions += self._close_if_ended(scan, now)
        if reason := scan.timed_out(now):
            actions += [Note("warning", f"scan {scan.number} is stopped: {reason}"), *self._stop(scan, reason, now)]
        if scan.assigning and now - scan.told_at >= TELL_INTERVAL and scan.standing != scan.told:
            actions += self._tell(scan, now)
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
                told = self._tell_shown(scan, now) if now - scan.told_at >= TELL_INTERVAL else []
                return [*self._record_series(scan), *told, *self._relieve(scan, now)]
            case FramesMissing():
                scan.missing(message)
            case StreamEnded():
                return self._stream_ended(scan, message, now)
            case FoldFailed():
                scan.fold_failed(message.failed)
            case Torn():
                return self._torn(scan, service, message, now)
            case Trouble():
                scan.trouble(message.where, message.text)
            case Armed():
                return self._armed(scan, service, message, now)
            case Halted():
                return self._halted(scan, service, message, now)
            case FenceReached():
                return self._fence_reached(scan, service, message)
            case Filled():
                return self._filled(scan, service, message)
            case Finished():
                return self._finished(scan, service, message, now)
            case Failed():
                return self._abort(scan, "failed", f"{service.key}: {message.reason}", now)
        return []

    def _armed(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        me = scan.places.of(service.peer)
        if me is not None and scan.phase is not Phase.ARMING and not scan.places[me].here:
            return self._seat(scan, me, message, now)
        if service.key in scan.seating and scan.phase is not Phase.ARMING:
            scan.seating.discard(service.key)
            seat = self._seat_reducer if service.hello.role == "reducer" else self._seat_ingester
            return seat(scan, service, message, now)
        if service.key not in scan.waiting:
            return []
        scan.waiting.discard(service.key)
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
        return moved + self._arm_next(scan, now)

    def _run(self, scan: Scan, now: float) -> list[Action]:
        scan.phase = Phase.RUNNING
        actions = self._reply(scan)
        actions += self._record_scan(scan)
        policy, infos = self._policy, {i.name: i for s in self._of("ingester") for i in s.hello.streams}
        about = {
            "incomplete": policy.incomplete,
            "fold_patience": policy.fold_patience,
            "fold_order": policy.fold_order,
            "overload": policy.overload,
        }
        actions += recording.begin(scan, infos, self._software, about, policy.app)
        actions += self.tick(now)
        if self._fence_again:
            actions += self._fence(scan)
        actions += self._close_if_ended(scan, now)
        actions += self._assign(scan, now) + self._tell_shown(scan, now)
        late = [s for s in self._of("worker") if scan.places.named(s.hello.name) is None]
        return actions + [action for service in late for action in self._join(scan, service)]

    def _reply(self, scan: Scan) -> list[Action]:
        request, scan.request = scan.request, None
        return [] if request is None else [Reply(request, value=scan.scan_id)]

    def _assign(self, scan: Scan, now: float) -> list[Action]:
        """New blocks, as far as there is room. Ingesters hear of all of them, a worker of its own."""
        blocks = scan.dispatcher.assign() if scan.assigning else []
        return self._assigned(scan, blocks, now) if blocks else []

    def _assigned(self, scan: Scan, blocks: list[Block], now: float) -> list[Action]:
        """These were assigned: tell everybody who has to know."""
        dropped = [(b.lo, b.hi) for b in blocks if b.worker == DROPPED]
        scan.recent.extend(b for b in blocks if b.worker != DROPPED)
        everything = Assign(scan.number, blocks, *scan.standing)
        actions: list[Action] = [Send(s.peer, everything) for s in self._needed(scan, "ingester")]
        actions += recording.blocks(scan, blocks)
        if dropped:
            actions += [Send(s.peer, Drop(scan.number, dropped)) for s in self._needed(scan, "reducer")]
        own: dict[int, list[Block]] = {}
        for block in blocks:
            if block.worker != DROPPED:
                own.setdefault(block.worker, []).append(block)
        if scan.passes_broadcast():
            return actions + self._tell(scan, now, own)
        return actions + [self._to_worker(scan, me, mine) for me, mine in own.items()]

    def _to_worker(self, scan: Scan, worker: int, blocks: list[Block]) -> Send:
        peer = scan.places[worker].peer
        assert peer is not None  # nobody else is given work
        return Send(peer, Assign(scan.number, blocks, *scan.standing, poison=scan.poison))

    def _tell(self, scan: Scan, now: float, own: Mapping[int, list[Block]] = MappingProxyType({})) -> list[Action]:
        """All workers hear how the scan stands, and of blocks of their own: because some of them may wait for it."""
        scan.told, scan.told_at = scan.standing, now
        nothing = Assign(scan.number, [], *scan.standing)
        return [
            self._to_worker(scan, me, own[me]) if me in own else Send(peer, nothing) for me, peer in scan.places.here()
        ]

    def _relieve(self, scan: Scan, now: float) -> list[Action]:
        """Streams or workers got further: do what the policy says where one is close to its bound."""
        overload = scan.overload
        if scan.phase is not Phase.RUNNING or not (overload.full or overload.every > 1 or scan.waiting_streams):
            return []
        actions: list[Action] = []
        if (waiting := scan.held_up()) != scan.waiting_streams:
            scan.waiting_streams = waiting
            actions += [Send(s.peer, Waits(scan.number, waiting)) for s in self._needed(scan, "ingester")]
        overload.look(scan.map.virtual_before(scan.complete()), now)
        return actions + (self._assign(scan, now) if overload.drops else [])

    def _answer_done(self, now: float) -> list[Action]:
        """Parts are done: there is room for new ones, and frames may go."""
        actions: list[Action] = []
        for scan in (self.scan, self._next):
            if scan is None or not scan.active or not scan.unanswered:
                continue
            scan.unanswered = False
            scan.dispatcher.settle(scan.frontier)
            if scan.bereft:
                actions += self._close_if_ended(scan, now)
            actions += self._assign(scan, now)
            if scan.over:
                release = Release(scan.number, scan.over.runs())
                actions += [Send(s.peer, release) for s in self._needed(scan, "ingester")]
                scan.over = RunSet()
            actions += self._relieve(scan, now) + self._conclude(scan)
            if scan.reduced:
                actions += self._finish(scan)
        return actions

    def _stream_ended(self, scan: Scan, message: StreamEnded, now: float) -> list[Action]:
        scan.ended(message)
        return self._record_series(scan) + (self._close_if_ended(scan, now) or self._tell_shown(scan, now))

    def _tell_shown(self, scan: Scan, now: float) -> list[Action]:
        """Events that ended streams have no frames for wait for nothing, once other streams are beyond them."""
        if scan.phase is not Phase.RUNNING or not scan.ended_streams or scan.shown <= scan.told.reached:
            return []
        return self._tell(scan, now)

    def _close_if_ended(self, scan: Scan, now: float) -> list[Action]:
        """All series ended: an endless scan ends there, and so does one whose streams all end before its map."""
        if scan.phase is not Phase.RUNNING:
            return []
        if set(scan.ended_streams) < set(scan.report.streams) and not scan.all_came(now):
            return []
        return self._close(scan, scan.last_reached(), now)

    def _halted(self, scan: Scan, service: Service, message: Halted, now: float) -> list[Action]:
        if scan.phase is not Phase.HALTING or service.key not in scan.waiting:
            return []
        scan.waiting.discard(service.key)
        scan.halted.update(message.streams)
        if scan.waiting:
            return []
        done = scan.reached - 1 if scan.bereft else 0  # an ingester that was lost may have been further
        return self._close(scan, max([done, *(last for last, _ in scan.halted.values())]), now)

    def _close(self, scan: Scan, last: int, now: float) -> list[Action]:
        scan.phase = Phase.DRAINING
        scan.close(last, cut=bool(scan.halted))
        final = scan.last_data_event
        assert final is not None
        actions: list[Action] = [Send(peer, Close(scan.number, final)) for peer in self._peers_of(scan)]
        actions += recording.closed(scan, final)
        return actions + self._assign(scan, now) + self._tell(scan, now)

    def _peers_of(self, scan: Scan) -> list[bytes]:
        """All who take part in a scan that runs: ingesters, then workers, then the reducer."""
        workers = [peer for _, peer in scan.places.here()]
        ingesters, reducers = ([s.peer for s in self._needed(scan, role)] for role in ("ingester", "reducer"))
        return [*ingesters, *workers, *reducers]

    def _conclude(self, scan: Scan) -> list[Action]:
        """Let the end event be processed, once every data event is terminal."""
        n = scan.map.n_events
        if not scan.closed or scan.concluded or not scan.map.wrapped or n is None or scan.frontier < n - 1:
            return []
        scan.concluded = True
        return [Send(peer, Conclude(scan.number)) for _, peer in scan.places.here()]

    def _fence_reached(self, scan: Scan, service: Service, message: FenceReached) -> list[Action]:
        if self._fencing is None or message.version != self._fencing[0]:
            return []
        scan.sent[service.key] = message.sent
        return self._fence_set(scan)

    def _fence_set(self, scan: Scan) -> list[Action]:
        """Set the fence, once all ingesters have said how far they were."""
        assert self._fencing is not None
        ingesters = self._needed(scan, "ingester")
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
        told = [peer for peer in self._peers_of(scan) if peer not in {s.peer for s in ingesters}]
        actions: list[Action] = [Send(peer, update) for peer in [*told, *(s.peer for s in ingesters)]]
        scan.report.version(self._version_record(version, values, from_event))
        actions.append(RecordParameters(scan.scan_id, version, values, from_event))
        actions += recording.parameters(scan, version, from_event, values)
        return actions + (self._fence(scan) if self._fence_again else [])

    # -- the end ---------------------------------------------------------------------------------------------

    def _finish(self, scan: Scan) -> list[Action]:
        if scan.phase not in (Phase.RUNNING, Phase.HALTING, Phase.DRAINING):
            return []
        scan.phase = Phase.FINISHING
        here = scan.places.here()
        scan.waiting = {f"worker {scan.places[me].name}" for me, _ in here}
        if not here:
            return self._finish_reducer(scan)
        actions: list[Action] = [Send(peer, Finish(scan.number)) for _, peer in here]
        return actions + self._hurry(scan) if scan.ingesters_lost else actions

    def _hurry(self, scan: Scan) -> list[Action]:
        """What was broadcast went with an ingester: who joined is not to wait for it before its `finish()`."""
        joined = [(place, place.peer) for place in scan.places if place.joined and place.here]
        late = [peer for place, peer in joined if peer is not None and f"worker {place.name}" in scan.waiting]
        return [Send(peer, Finish(scan.number)) for peer in late]

    def _finish_reducer(self, scan: Scan) -> list[Action]:
        scan.phase = Phase.REDUCING
        scan.waiting = {key for key in scan.services if key.startswith("reducer ")}  # also one that is to come back
        return [Send(s.peer, Finish(scan.number)) for s in self._needed(scan, "reducer")]

    def _finished(self, scan: Scan, service: Service, message: Finished, now: float) -> list[Action]:
        if service.key not in scan.waiting:
            return []
        scan.waiting.discard(service.key)
        scan.finished(message)
        if scan.waiting:
            return []
        if scan.phase is Phase.FINISHING:
            return self._finish_reducer(scan)
        return self._end(scan, "stopped" if scan.halted else "finished", now)

    def _abort(self, scan: Scan, ended: str, reason: str, now: float) -> list[Action]:
        scan.reason = reason
        actions: list[Action] = []
        if scan.request is not None:
            request, scan.request = scan.request, None
            actions.append(Reply(request, error=ScanError(reason)))
        if scan.data_events is None:
            scan.close(max(scan.reached - 1, 0), cut=True)
        return actions + self._end(scan, ended, now)

    def _end(self, scan: Scan, ended: str, now: float) -> list[Action]:
        report = scan.conclude(ended, now)
        begun, scan.phase = scan.phase is not Phase.ARMING, Phase.ENDED
        self._ended.add(self._tally_of(scan))
        self.reports[scan.scan_id] = report
        if scan.scan_id in self._known:
            self._known[scan.scan_id] = {"finished": now}
        while len(self.reports) > KEEP_REPORTS:
            del self.reports[next(iter(self.reports))]
        actions: list[Action] = []
        end, workers = End(scan.number), [p.peer for p in scan.places if p.peer is not None]
        actions += [Send(peer, end) for peer in [*(s.peer for s in self._needed(scan, "ingester")), *workers]]
        actions += [Send(s.peer, End(scan.number, report)) for s in self._needed(scan, "reducer")]
        self._here.clear()  # nobody asks for the services of this scan any more
        actions.append(_ended_record(report))
        if begun:
            actions += recording.end(scan, report)
        actions += [Note("warning", f"stream {slip['stream']}: {slip['text']}") for slip in report["slips"]]
        actions.append(_ending(report))
        if scan is self._next:
            self._next = None
            return actions
        return actions + self._advance(now)

    # -- what people ask -------------------------------------------------------------------------------------

    def report(self, scan_id: str) -> dict[str, Any] | None:
        """The report of a scan, as it stands."""
        for scan in (self.scan, self._next):
            if scan is not None and scan.scan_id == scan_id and scan.active:
                return scan.snapshot()
        return self.reports.get(scan_id)

    def tally(self) -> Tally:
        """What was counted since this controller started, up to now."""
        tally = Tally()
        tally.add(self._ended)
        if self.scan is not None and self.scan.active:
            tally.add(self._tally_of(self.scan))
        return tally

    def _tally_of(self, scan: Scan) -> Tally:
        return tally_of(scan, [(s.hello.name, s.load) for s in self.services.values() if s.hello.role == "worker"])

    @property
    def newest(self) -> Scan | None:
        """The scan that was submitted last; it may wait for the running one to be drained."""
        return self._next or self.scan

    def written(self, scan_id: str) -> WrittenMap | None:
        """The map of a scan that is under way (or was the last one), as somebody wrote it."""
        for scan in (self.scan, self._next):
            if scan is not None and scan.scan_id == scan_id:
                return scan.written
        return None

    def progress(self) -> dict[str, Any]:
        """How far the present (or last) scan is, counting start and end event as the map does."""
        scan = self.scan
        if scan is None:
            return {"last_assigned": 0, "completed_events": 0, "total_events": 0, "finished": True}
        n = scan.map.n_events
        virtual = scan.dispatcher.next_virtual
        last = n if scan.map.n_virtual is not None and virtual >= scan.map.n_virtual else scan.map.span(virtual)[0]
        following = sorted(self._next.waiting) if self._next is not None else []
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


def _ending(report: dict[str, Any]) -> Note:
    """The line of the log that says how a scan ended, with the first thing that a person would look up."""
    text = f"scan {report['number']} {report['ended']}: {report['summary']}"
    if report["reason"]:
        text += f"; {_one_line(report['reason'])}"
    if report["failures"]:
        first = report["failures"][0]
        text += f"; first failure: event {first['event']}, {first['where']}: {_one_line(first['traceback'])}"
    if report["troubles"]:
        text += f"; {_one_line(report['troubles'][0])}"
    return Note("warning" if report["failures"] or report["troubles"] or report["ended"] == "failed" else "info", text)


def _remember(known: dict[Any, Any], item: Any, value: Any = None) -> None:
    """Add to what is remembered, of which there is a bound."""
    known[item] = value
    while len(known) > KEEP_LOST:
        del known[next(iter(known))]


def _info(hello: Hello) -> IngesterInfo:
    """What workers have to know of an ingester."""
    return IngesterInfo(hello.name, hello.url, [i.name for i in hello.streams], hello.arena)


def _fill(scan: Scan, me: int) -> Fill:
    """Who fills this place, for those who have to know; of one that joined also what it is."""
    place = scan.places[me]
    joined = WorkerInfo(place.name, sorted(place.tags), joined=True) if place.joined else None
    return Fill(scan.number, me, _uuid(place.peer), joined)


def _uncertain(service: Service) -> str:
    """Why another process has to take this worker's place."""
    return f"nobody knows for certain what {service.key} has to do, because a controller ended"


def _uuid(peer: bytes | None) -> str:
    """What a process calls itself on all channels."""
    return peer.decode("utf-8", "replace") if peer is not None else ""


def _one_line(text: str) -> str:
    """What a text with a traceback in it says: how it begins, and the error at its end."""
    begin, traceback, _ = text.partition("Traceback (most recent call last):")
    lines = text.strip().splitlines()
    return f"{begin}{lines[-1].strip()}" if traceback else " ".join(lines)


def _ended_record(report: dict[str, Any]) -> RecordScan:
    """What the ledger has of a scan that has ended."""
    fields = {key: report[key] for key in ("number", "started", "finished")}
    more = {"streams": list(report["streams"]), "state": report["ended"], "report": for_ledger(report)}
    return RecordScan(report["scan_id"], {**fields, **more}, report["number"])


__all__ = ["ControllerMachine", "MapError", "Plan", "Policy", "TriggerMap"]
