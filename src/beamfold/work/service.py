"""The worker service: one process, one thread, user code in its main loop."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.declared import declared_together, facts
from beamfold.app.garbage import collect_what_is_over
from beamfold.app.hooks import WorkerHooks
from beamfold.app.loading import modules_of
from beamfold.model.cursor import AT, IDLE, SCAN, SEVERAL, TURN, Cursor, idle_cursor
from beamfold.model.errors import BeamfoldError, CodecError, ParameterError
from beamfold.model.events import Buffer
from beamfold.model.parameters import ParameterBase, ParameterHistory, ParameterSet
from beamfold.model.report import ServiceState
from beamfold.model.triggermap import EVERYBODY, TriggerMap
from beamfold.protocols.codec import TypeTable
from beamfold.protocols.envelopes import (
    GREETING,
    RESULTS,
    Attach,
    FrameBatch,
    Gap,
    Grant,
    LetGo,
    decode_frames,
    decode_header,
    encode_header,
    slots_of,
    unpack_events,
    unpack_positions,
)
from beamfold.protocols.messages import (
    Arm,
    Armed,
    Assign,
    Beat,
    Close,
    Conclude,
    End,
    Failure,
    Fence,
    FenceReached,
    Finish,
    Finished,
    Gone,
    Halt,
    Halted,
    IngesterInfo,
    Introduce,
    Inventory,
    Moved,
    Parameters,
    Rejoined,
    Shutdown,
    StreamInfo,
    Tick,
    ToService,
    Trouble,
)
from beamfold.protocols.stamps import Times
from beamfold.transport.arena import ArenaReader, NotShared
from beamfold.transport.control import ControlChannel
from beamfold.transport.data import Context, DataLink
from beamfold.transport.pace import Pace
from beamfold.transport.sockets import POLLIN, Poller
from beamfold.work.machine import Part, WorkMachine
from beamfold.work.results import JoinedBuffer, ResultBuffer, Unconfirmed
from beamfold.work.runner import Runner
from beamfold.work.timing import Timing, stamps_of, times_of

logger = logging.getLogger(__name__)

SLICE = 0.01
"""Seconds of user code between two looks at the sockets: results leave at least this often."""

TAKE = 1024
"""Parts taken from the machine at a time."""

CREDIT_BYTES = 128 << 20
"""Frames under way to one worker, over all streams of a scan, at most (one frame of a stream may exceed its share)."""

LET_GO_INTERVAL = 0.005
"""Seconds between two messages to ingesters about slots that are not looked at any more, while they are many."""

RECEIVE_BYTES = 16 << 20
"""Bytes taken from one ingester before user code gets its turn."""

LINGER_MS = 2000
"""Milliseconds that the last results have to leave when the worker ends."""


class _Flow:
    """Credit of one stream: what came in, what was used up, what was given back."""

    __slots__ = ("credit", "frames_in", "frames_used", "heard", "link", "payload_in", "returned")

    def __init__(self, link: DataLink, credit: int) -> None:
        self.link = link
        self.credit = credit
        self.frames_in = 0
        self.frames_used = 0
        self.payload_in = 0
        self.returned = 0
        self.heard = False  # of the ingester, since it was given credit

    def owed(self) -> int:
        """Bytes of credit to give back: as much as the frames that were used weighed on average."""
        used = self.payload_in * self.frames_used // self.frames_in if self.frames_in else 0
        return used - self.returned


class _Scan:
    """Everything of the scan that this worker is armed for."""

    def __init__(self, arm: Arm, machine: WorkMachine, runner: Runner, flows: list[_Flow]) -> None:
        self.arm = arm
        self.machine = machine
        self.runner = runner
        self.flows = flows
        self.reducer: DataLink | None = None
        self.unconfirmed = Unconfirmed()
        self.parts: list[Part] = []
        self.at = 0
        self.result_credit = 0
        self.greeted = False
        self.finish = False
        self.sees_rest = False  # what is broadcast, before its `finish()`
        self.changes: list[Parameters] = []
        self.closed: int | None = None
        self.tick_interval: float | None = None
        self.stateful = False
        self.armed = time.monotonic()
        self.events = 0
        self.last_event = 0
        self.active = 0.0
        self.timing = Timing()


class WorkerService:
    """Runs until told to shut down. `load` gives the app's worker class, imported anew when its files changed.

    `context` is the dict that apps may use to keep things (connections, say) from scan to scan. `cursor` is where it
    writes what user code is at.

    When it is told to stop in mid-scan it finishes the event that it is at and says that it ends; others do the rest.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], type],
        control: ControlChannel,
        context: Context,
        typ_of: Callable[[str], StreamInfo],
        state: ServiceState | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        self._cursor = cursor or idle_cursor()
        self._name = name
        self._load = load
        self._control = control
        self._zmq = context
        self._typ_of = typ_of
        self._state = state
        self._context: dict[str, Any] = {}
        self._links: dict[str, DataLink] = {}
        self._arenas: dict[str, ArenaReader] = {}  # by the URL of the ingester whose it is
        self._scan: _Scan | None = None
        self._hooks: WorkerHooks | None = None
        self._declared: list[ParameterBase] = []
        self._types: TypeTable | None = None
        self._running = True
        self._pace = Pace()
        self._next_let_go = 0.0
        self._poller = Poller()
        self._poller.register(control.socket, POLLIN)
        self._handlers: dict[type, Callable[..., None]] = {
            Introduce: self._introduce,
            Arm: self._arm,
            Assign: self._assign,
            Close: self._close,
            Conclude: self._conclude,
            Parameters: self._parameters,
            Halt: self._halt,
            Fence: self._fence,
            Tick: self._tick,
            Finish: self._finish,
            Moved: self._moved,
            Rejoined: self._rejoined,
            End: self._end,
        }

    def stop(self) -> None:
        """Leave `run` after the present turn."""
        self._running = False

    def run(self) -> None:
        """Serve until told to stop; then let the app close what it holds."""
        while self._running:
            self._pace.turn()
            self._cursor[TURN] += 1
            ready = dict(self._poller.poll(self._wait_ms()))
            for message in self._control.receive():
                self._handle(message)
            for link in self._links.values():
                if link.socket in ready:
                    self._receive(link)
            if self._scan is not None:
                self._work(self._scan)
            self._let_go()
            if self._control.beat(self._beat):
                for link in self._links.values():
                    link.ask()
        self._leave()
        if self._hooks is not None and self._hooks.close is not None:
            self._hooks.close(self._context)

    def _leave(self) -> None:
        """What was processed is on its way; the rest of a scan is for others."""
        if self._scan is None:
            return
        hello = self._control.hello
        self._control.send(Gone(hello.role, hello.name, "it was told to end", hello.pid))
        if (link := self._scan.reducer) is not None:
            del self._links[link.url]
            link.close(LINGER_MS)

    def _wait_ms(self) -> int:
        scan = self._scan
        if scan is not None and scan.at < len(scan.parts) and scan.result_credit > 0:
            return 0
        return round(LET_GO_INTERVAL * 1000) if any(arena.gone for arena in self._arenas.values()) else 500

    def _beat(self) -> Beat:
        scan = self._scan
        if scan is None:
            return Beat()
        stats = {
            "scan": scan.arm.scan,
            "events": scan.events,
            "last_event": scan.last_event,
            "active": scan.active,
            "total": time.monotonic() - scan.armed,
            "waiting": scan.machine.waiting,
        }
        return Beat(stats, scan.timing.latency.to_wire())

    def _handle(self, message: ToService) -> None:
        if isinstance(message, Shutdown):
            self._running = False
            return
        handler = self._handlers.get(type(message))
        scan = self._scan
        if handler is None or not (isinstance(message, Arm | Introduce) or (scan and scan.arm.scan == message.scan)):  # type: ignore[union-attr]
            return
        handler(message)

    def _introduce(self, message: Introduce) -> None:
        """A controller that does not know this worker: it may go on with what another one began."""
        if (scan := self._scan) is not None:
            self._control.send(
                Inventory(
                    scan.arm.scan,
                    scan.arm,
                    blocks=scan.machine.blocks,
                    changes=scan.changes,
                    closed=scan.closed,
                    tick_interval=scan.tick_interval,
                    stateful=scan.stateful,
                    assigned=scan.machine.assigned,
                )
            )

    # -- data ------------------------------------------------------------------------------------------------

    def _receive(self, link: DataLink) -> None:
        arena = self._arenas.get(link.url)
        for parts in link.receive(RECEIVE_BYTES):
            try:
                self._envelope(parts, arena)
            except CodecError:
                continue  # not from one of ours: nothing of it is used

    def _envelope(self, parts: list[Buffer], arena: ArenaReader | None) -> None:
        scan = self._scan
        header = decode_header(parts[0])
        slots: list[Buffer] = []
        if isinstance(header, FrameBatch) and header.slots and arena is not None:
            # Also of a batch that comes too late: it is by making views that leases are given back.
            slots = [arena.part(*slot) for slot in slots_of(header)]
        if scan is None or isinstance(header, Attach | LetGo) or header.scan != scan.arm.scan:
            return
        if isinstance(header, FrameBatch) and 0 <= header.stream < len(scan.flows):
            frames = decode_frames(header, parts[1:], slots)
            flow = scan.flows[header.stream]
            flow.heard = True
            flow.frames_in += header.n
            flow.payload_in += sum(map(len, parts)) - len(parts[0]) + sum(map(len, slots))
            events, k = unpack_events(header.events, header.n), unpack_positions(header.k, header.n)
            stamps = scan.timing.taken(header, time.time())
            unused = scan.machine.frames(
                header.stream, header.version, events, k, frames, header.closed, stamps, header.again
            )
            if unused:  # nobody will use them up
                flow.frames_used += unused
                self._give_back(scan)
        elif isinstance(header, Gap):
            if 0 <= header.stream < len(scan.flows):
                scan.flows[header.stream].heard = True
            scan.machine.gap(header.stream, header.runs, header.tail, header.closed)
        elif isinstance(header, Grant):
            self._granted(scan, header.stream, header.credit)

    def _granted(self, scan: _Scan, stream: int, credit: int) -> None:
        """The reducer's first credit, by which it says that it is there; or some of it back for what it has logged."""
        if stream == RESULTS and scan.greeted:
            scan.unconfirmed.confirm(credit)
            scan.result_credit += credit
        if stream != GREETING or scan.greeted:
            return
        scan.greeted, scan.result_credit = True, credit
        assert scan.reducer is not None
        for envelope, size in scan.unconfirmed.again():
            scan.reducer.send(envelope)
            scan.result_credit -= size

    def _work(self, scan: _Scan) -> None:
        """One slice of user code, and its results on their way."""
        if scan.at >= len(scan.parts):
            scan.parts, scan.at = scan.machine.take(TAKE), 0
        if scan.parts and scan.result_credit > 0:
            batch = scan.parts[scan.at :] if scan.at else scan.parts
            began = time.time()
            done = scan.runner.run(batch, SLICE)
            spent = scan.runner.spent
            scan.active += sum(count * seconds for count, seconds in spent)
            scan.events += done
            scan.last_event = max(scan.last_event, batch[done - 1].event)
            scan.at += done
            batch = batch[:done] if done < len(batch) else batch
            stamps = stamps_of(batch)
            times = times_of(stamps, began, spent)
            # A part that came twice is combined once: then nobody can say which time is whose.
            if len(scan.runner.results):
                self._send_results(scan, times if len(scan.runner.results) == done else None)
            self._tell_troubles(scan)
            self._use(scan, batch)
            scan.timing.processed(stamps, times)
            if scan.at >= len(scan.parts):
                scan.parts, scan.at = scan.machine.take(TAKE), 0
        if scan.finish and not scan.parts and (scan.machine.passed or not scan.sees_rest):
            self._do_finish(scan)

    @staticmethod
    def _send_results(scan: _Scan, times: Times | None) -> None:
        envelope, size = scan.runner.results.take(times)
        assert scan.reducer is not None  # who else gave credit?
        scan.result_credit -= size
        scan.reducer.send(envelope)
        scan.unconfirmed.add(envelope, size)

    def _tell_troubles(self, scan: _Scan) -> None:
        for text in scan.runner.troubles:
            self._trouble(scan.arm.scan, text)
        scan.runner.troubles.clear()

    def _trouble(self, scan: int, text: str) -> None:
        self._control.send(Trouble(scan, f"worker {self._name}", text))

    def _use(self, scan: _Scan, parts: list[Part]) -> None:
        """Frames were used up: give credit back in steps of a quarter."""
        flows = scan.flows
        if len(flows) == 1:
            flows[0].frames_used += sum(1 for p in parts if p.streams)
        else:
            used: dict[str, int] = defaultdict(int)
            for part in parts:
                for name in part.streams:
                    used[name] += 1
            for index, name in enumerate(scan.machine.map.streams):
                flows[index].frames_used += used[name]
        self._give_back(scan)

    def _give_back(self, scan: _Scan) -> None:
        for index, flow in enumerate(scan.flows):
            owed = flow.owed()
            if owed * 4 >= flow.credit:
                flow.returned += owed
                flow.link.send([encode_header(Grant(scan.arm.scan, index, owed))])

    # -- the controller --------------------------------------------------------------------------------------

    def _arm(self, message: Arm) -> None:
        self._drop()
        try:
            trigger_map = TriggerMap.from_wire(message.map)
            infos = [self._typ_of(name) for name in trigger_map.streams]
            hooks, history = self._construct(message)
            interval = hooks.tick_interval(history.at(0))
        except BeamfoldError as error:
            self._control.send(Armed(message.scan, str(error)))
            return
        me = next(i for i, w in enumerate(message.workers) if w.uuid == self._control.hello.uuid)
        joined = message.workers[me].joined
        groups = trigger_map.groups_for(message.workers[me].tags)
        machine = WorkMachine(trigger_map, me, groups, infos, message.version)
        skip = message.incomplete == "skip"
        runner = Runner(
            hooks,
            history,
            JoinedBuffer(message.scan, me, partial(self._trouble, message.scan))
            if joined
            else ResultBuffer(message.scan, me),
            types=self._types,
            skip=skip,
            next_broadcast=lambda event: machine.map.next_broadcast(event, EVERYBODY),
            cursor=self._cursor,
        )
        credit = CREDIT_BYTES // max(len(trigger_map.streams), 1)
        where = {name: i for i in message.ingesters for name in i.streams}
        self._close_links({where[name].url for name in trigger_map.streams} | {message.reducer_url})
        flows = [_Flow(self._ingester(where[name]), credit) for name in trigger_map.streams]
        self._scan = _Scan(message, machine, runner, flows)
        for index, flow in enumerate(flows):
            flow.link.send([encode_header(Grant(message.scan, index, credit))])
        if message.reducer_url:
            self._greet(self._scan, message.reducer_url)
        self._scan.tick_interval, self._scan.sees_rest = interval, joined
        self._scan.stateful = hooks.stateful
        self._control.scans = [message.scan]
        self._next_let_go = 0.0
        self._let_go()  # what the object of the scan before had kept: there is to be room for the first frames
        self._control.send(Armed(message.scan, tick_interval=interval, stateful=hooks.stateful))
        collect_what_is_over()

    def _construct(self, message: Arm) -> tuple[WorkerHooks, ParameterHistory]:
        self._cursor[SCAN], self._cursor[AT] = message.scan, SEVERAL
        cls = self._load()
        hooks = WorkerHooks(cls)
        # Its own description counts as it is now: the app's files may have changed since this worker said Hello.
        own = hooks.describe_parameters()
        self._declared = declared_together(own, message.declared)
        self._control.announce(**facts(own))
        self._types = TypeTable(modules_of(cls))
        first = ParameterSet.build(self._declared, message.parameters, message.version)
        hooks.construct(parameters=first, context=self._context, state=self._state)
        self._hooks = hooks
        self._cursor[AT] = IDLE
        return hooks, ParameterHistory([(0, first)])

    def _ingester(self, info: IngesterInfo) -> DataLink:
        """The link to an ingester. Where it has an arena that can be mapped, it is told so before anything else."""
        if info.url in self._links:
            return self._links[info.url]
        link = self._link(info.url)
        if info.arena:
            try:
                self._arenas[info.url] = ArenaReader(info.arena)
            except NotShared as why:
                logger.info("frames of %s come over the network, not through shared memory: %s", info.name, why)
            else:
                link.send([encode_header(Attach(os.getpid()))])
        return link

    def _let_go(self) -> None:
        """Give back leases of slots that the app and this service have let go of, together when they are many."""
        now = time.monotonic()
        if now < self._next_let_go:
            return
        for url, arena in self._arenas.items():
            if arena.gone:
                self._next_let_go = now + LET_GO_INTERVAL
                self._links[url].send([encode_header(LetGo(array("q", arena.let_go()).tobytes()))])

    def _link(self, url: str) -> DataLink:
        link = self._links.get(url)
        if link is None:
            link = self._links[url] = DataLink(self._zmq, url, self._control.hello.uuid.encode())
            self._poller.register(link.socket, POLLIN)
        return link

    def _close_links(self, wanted: set[str]) -> None:
        """Services that came back have other addresses: their old ones would be called for ever.

        An ingester that lives is to be told of its slots, also by the scans that it has no part in.
        """
        for url in self._links.keys() - wanted:
            if url in self._arenas and self._arenas[url].lives:
                continue
            link = self._links.pop(url)
            self._arenas.pop(url, None)
            self._poller.unregister(link.socket)
            link.close()

    def _assign(self, message: Assign) -> None:
        scan = self._scan
        assert scan is not None
        scan.machine.assign(message.blocks, message.assigned, message.settled, message.reached)
        runner = scan.runner
        runner.parameters.forget(message.settled)
        # What is over is no poison any more: while there is some, nothing goes together.
        runner.poison = {event for event in (*runner.poison, *message.poison) if event >= message.settled}

    def _close(self, message: Close) -> None:
        assert self._scan is not None
        self._scan.closed = message.last_event
        self._scan.machine.close(message.last_event)

    def _conclude(self, message: Conclude) -> None:
        assert self._scan is not None
        self._scan.machine.conclude()

    def _halt(self, message: Halt) -> None:
        assert self._scan is not None
        machine = self._scan.machine
        self._control.send(Halted(message.scan, dict.fromkeys(machine.map.streams, (max(machine.halt(), 0), False))))

    def _fence(self, message: Fence) -> None:
        assert self._scan is not None
        self._control.send(FenceReached(message.scan, message.version, self._scan.machine.latest))

    def _parameters(self, message: Parameters) -> None:
        assert self._scan is not None
        history = self._scan.runner.parameters
        if message.version <= history.latest.version:
            return  # said again, by a controller that cannot know who knows it
        self._scan.changes.append(message)
        try:
            values = ParameterSet.build(self._declared, message.values, message.version)
        except ParameterError as error:  # they were checked by what the class declared when this worker came up
            values = history.latest.renumbered(message.version)
            self._trouble(message.scan, f"parameter version {message.version} was not applied: {error}")
        history.append(message.from_event, values)
        self._scan.machine.parameters(message.version)

    def _greet(self, scan: _Scan, url: str) -> None:
        scan.reducer = self._link(url)
        scan.reducer.send([encode_header(Grant(scan.arm.scan, GREETING, 0))])

    def _moved(self, message: Moved) -> None:
        scan = self._scan
        assert scan is not None
        if scan.reducer is not None and scan.reducer.url == message.url:
            if not scan.greeted:  # it was not armed yet when this worker greeted it
                self._greet(scan, message.url)
            return
        if scan.reducer is not None:
            self._poller.unregister(scan.reducer.socket)
            self._links.pop(scan.reducer.url).close()
        scan.greeted, scan.result_credit = False, 0
        self._greet(scan, message.url)

    def _rejoined(self, message: Rejoined) -> None:
        """Frames of some streams come from another process now, which knows of no credit yet."""
        scan = self._scan
        assert scan is not None
        for index, name in enumerate(scan.machine.map.streams):
            if name not in message.ingester.streams:
                continue
            old, same = scan.flows[index].link, scan.flows[index].link.url == message.ingester.url
            if same and scan.flows[index].heard:
                continue  # else it may not have been armed when it was given credit
            if not same and self._links.get(old.url) is old:
                self._poller.unregister(old.socket)
                del self._links[old.url]
                self._arenas.pop(old.url, None)
                old.close()
            flow = scan.flows[index] = _Flow(self._ingester(message.ingester), scan.flows[index].credit)
            flow.link.send([encode_header(Grant(scan.arm.scan, index, flow.credit))])

    def _tick(self, message: Tick) -> None:
        assert self._scan is not None
        self._scan.runner.tick = True

    def _finish(self, message: Finish) -> None:
        scan = self._scan
        assert scan is not None
        scan.sees_rest = scan.sees_rest and not scan.finish
        scan.finish = True

    def _do_finish(self, scan: _Scan) -> None:
        scan.finish = False
        failures = []
        last = (scan.machine.map.n_events or 1) - 1
        try:
            scan.runner.finish(last)
        except USER_ERRORS as error:
            failures.append(Failure(last, "finish", self._name, user_traceback(error)))
        self._control.beat(self._beat, at_once=True)
        self._control.send(Finished(scan.arm.scan, failures))

    def _end(self, message: End) -> None:
        self._drop()

    def _drop(self) -> None:
        self._scan = None
        self._control.scans = []
