"""The reducer service: batches of results in, into the result log, then into the user's reducer."""

from __future__ import annotations

import logging
import math
import shutil
import socket as sockets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.declared import declared_together, facts
from beamfold.app.garbage import collect_what_is_over
from beamfold.app.hooks import ReducerHooks
from beamfold.app.loading import modules_of
from beamfold.ledger.segmentlog import Location, LogBusy, SegmentLog
from beamfold.model.errors import AppError, BeamfoldError, CodecError, ParameterError
from beamfold.model.events import Buffer
from beamfold.model.latency import Latencies
from beamfold.model.parameters import ParameterBase, ParameterHistory, ParameterSet
from beamfold.model.report import ServiceState
from beamfold.model.runs import MAX_RUNS, RunSet
from beamfold.model.triggermap import EVERYBODY, TriggerMap
from beamfold.protocols.codec import TypeTable, decode, encode
from beamfold.protocols.envelopes import (
    GREETING,
    RESULTS,
    Grant,
    ResultBatch,
    decode_header,
    encode_header,
)
from beamfold.protocols.messages import (
    Arm,
    Armed,
    Beat,
    Close,
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
    Halt,
    Halted,
    Introduce,
    Inventory,
    Parameters,
    PartsDone,
    Shutdown,
    Torn,
    ToService,
    Trouble,
    Vacate,
    WorkerInfo,
    decode_to_service,
    encode_message,
)
from beamfold.reduce.batch import Batch
from beamfold.reduce.checkpoint import Checkpoint, Checkpoints, places_of, read_whole, unfolded, write_whole
from beamfold.reduce.done import Done
from beamfold.reduce.folder import Folder, Timer
from beamfold.reduce.machine import ReduceMachine
from beamfold.reduce.timing import BatchTiming
from beamfold.reduce.told import Told
from beamfold.transport.control import ControlChannel
from beamfold.transport.data import DataHub
from beamfold.transport.pace import Pace
from beamfold.transport.sockets import POLLIN, Poller

logger = logging.getLogger(__name__)

SLICE = 0.02
"""Seconds of folding between two looks at the sockets."""

CREDIT_BYTES = 32 << 20
"""Results under way from one worker at most."""

CREDIT_BATCHES = 64
"""Batches of a worker after which it gets credit back however small they are: it keeps them until then."""

LOSS_PATIENCE = 10.0
"""Seconds that a hole is waited for after a worker was lost or replaced, if that is more than the scan's patience."""

PARAMETERS_PATIENCE = 60.0
"""Seconds that results wait at most for the parameters that they were made with: these come by another way, at once."""

DROP_RECORD = b"drop"
"""The first part of a record in the result log that is no batch of results but the message about what is dropped."""

BACKLOG_BYTES = 128 << 20
"""Unfolded results kept in memory; what comes beyond is read back from the log when its turn comes."""

TELL_INTERVAL = 0.01
"""Seconds between two messages about parts done while they are many: short against the work that a worker has ahead."""

TELL_MANY = 8
"""Parts from which on they are many; so many at least are ahead of the workers from the beginning."""

TELL_LATEST = 0.03
"""The same while they are few: at low rates the answer would come in between the next event and its result."""

RECEIVE_BYTES = 32 << 20
"""Bytes of results taken in before folding gets its turn."""


class Publisher(Protocol):
    """What the publish layer does for the reducer: take a snapshot of the state, and store it with its report."""

    def snapshot(self, publish: Any) -> Any:
        """A deep, plain copy that nothing changes any more."""

    def store(self, scan_id: str, snapshot: Any, report: dict[str, Any] | None, recording: str = "") -> str:
        """Write the final state to disk, and into the folder of a recording; returns the file's path, "" for none."""


@dataclass(slots=True)
class _Owed:
    """Credit of a worker that was not given back yet."""

    nbytes: int = 0
    batches: int = 0

    @property
    def due(self) -> bool:
        return self.nbytes * 4 >= CREDIT_BYTES or self.batches >= CREDIT_BATCHES


class _Batch(Batch):
    """A logged batch: where it is in the log, and its results while there is room for them in memory."""

    __slots__ = ("left", "location", "size", "timing")

    def __init__(self, header: ResultBatch, parts: list[Buffer]) -> None:
        super().__init__(header, parts[1:])
        self.size = sum(map(len, parts))
        self.left = 0
        self.location: Location
        self.timing: BatchTiming | None = None


def _logged_at(location: Location, parts: list[bytes]) -> tuple[ResultBatch, _Batch]:
    """A batch as it was logged."""
    header = decode_header(parts[0])
    assert isinstance(header, ResultBatch)
    batch = _Batch(header, list(parts))
    batch.location = location
    return header, batch


_NO_PLACES = np.array([], np.intp)


class _Scan:
    def __init__(
        self,
        arm: Arm,
        machine: ReduceMachine[_Batch],
        folder: Folder,
        log: SegmentLog,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.arm = arm
        self.checkpoints = checkpoints
        self.fillers = [w.uuid.encode() for w in arm.workers]
        self.names = folder.workers
        self.map = TriggerMap.from_wire(arm.map)
        self.machine = machine
        self.folder = folder
        self.log = log
        self.timer = Timer(folder)
        self.folds: deque[tuple[_Batch, list[int]]] = deque()
        self.backlog = 0
        self.latency = Latencies()
        self.version = arm.version
        self.stuck: float | None = None  # since when the next results wait for their parameters
        self.withheld: dict[bytes, _Owed] = {}
        self.finish = False
        self.closed = False
        self.finished_told = False
        self.done = self.nothing_done()
        self.told = 0.0
        self.told_all = Told()
        self.changes: list[Parameters] = []
        self.last_event: int | None = None  # of the closed map
        self.duplicates = 0

    def nothing_done(self) -> Done:
        """What was made durable, and not told of: nothing yet."""
        return Done(self.map.streams, self.names, recorded=bool(self.arm.record))

    def join(self, worker: WorkerInfo) -> None:
        """There is one logical worker more, which nobody fills yet."""
        self.arm = msgspec.structs.replace(self.arm, workers=[*self.arm.workers, worker])
        self.names[len(self.fillers) : len(self.fillers) + 1] = [worker.name]
        self.fillers.append(b"")

    def first_to_fold(self) -> int:
        """No event before this one is folded any more."""
        return min([self.machine.frontier, *(int(batch.events[index[0]]) for batch, index in self.folds)])


@dataclass(frozen=True, slots=True)
class Progress:
    """What a reducer has done since it was started, about a second ago at most. Nobody changes it any more."""

    folded: int = 0
    backlog_bytes: int = 0
    latency: Latencies = field(default_factory=Latencies)


class ReducerService:
    """Runs until told to shut down. `directory` holds the result logs of scans that are under way.

    `types` gives, for the reducer class, the app's own types that results may be of (the worker's, above all).
    `shown` is where what was published last is kept, to be shown again by another reducer; None: nowhere.
    `checkpoint_any`: also of classes without `checkpoint` and `restore`, by their attributes.
    """

    def __init__(
        self,
        load: Callable[[], type],
        control: ControlChannel,
        data: DataHub,
        publisher: Publisher,
        directory: Path,
        state: ServiceState | None = None,
        types: Callable[[type], TypeTable] = lambda cls: TypeTable(modules_of(cls)),
        *,
        shown: Path | None = None,
        checkpoint_any: bool = False,
        checkpoint_pause: float = 5.0,
    ) -> None:
        self._load = load
        self._types = types
        self._control = control
        self._data = data
        self._publisher = publisher
        self._directory = directory
        self._state = state
        self._context: dict[str, Any] = {}
        self._scan: _Scan | None = None
        self._shown: Folder | None = None
        self._shown_path = shown
        self._shown_before = self._read_shown()
        self._checkpoint_any = checkpoint_any
        self._checkpoint_pause = checkpoint_pause
        self._declared: list[ParameterBase] = []
        self._folded_before = 0
        self._latency_before = Latencies()
        self.progress = Progress()
        self._running = True
        self._pace = Pace()
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._asked: list[_Request] = []
        self._asked_lock = threading.Lock()
        self._cached: tuple[object, Any] | None = None
        self._poller = Poller()
        self._poller.register(control.socket, POLLIN)
        self._poller.register(data.socket, POLLIN)
        self._poller.register(self._wake_read, POLLIN)
        self._handlers: dict[type, Callable[..., None]] = {
            Introduce: self._introduce,
            Arm: self._arm,
            Close: self._close,
            Drop: self._drop_parts,
            Fill: self._fill,
            Vacate: self._vacate,
            Parameters: self._parameters,
            Halt: self._halt,
            Fence: self._fence,
            Finish: self._finish,
            End: self._end,
        }

    def stop(self) -> None:
        """Leave `run` after the present turn."""
        self._running = False
        self._wake()

    def close(self) -> None:
        """Once `run` has come back and nobody can `read` any more."""
        self._wake_read.close()
        self._wake_write.close()

    def run(self) -> None:
        """Serve until told to stop; then let the app close what it holds."""
        while self._running:
            self._pace.turn()
            ready = dict(self._poller.poll(self._wait_ms()))
            for message in self._control.receive():
                self._handle(message)
            if self._data.socket in ready:
                self._receive()
            if self._wake_read.fileno() in ready:
                self._wake_read.recv(4096)
            if self._scan is not None:  # which no name here may hold on to when the next one comes
                self._go_on(self._scan)
            self._answer()
            self._control.beat(self._beat)
        if self._scan is not None:
            self._close_scan(self._scan)  # the log stays: another reducer may take it up
        if self._shown is not None and self._shown.hooks.close is not None:
            self._shown.hooks.close(self._context)

    def _go_on(self, scan: _Scan) -> None:
        if time.monotonic() >= self._tell_at(scan):
            self._tell_done(scan)
        self._fold(scan)
        self._save(scan)

    def _wait_ms(self) -> int:
        scan = self._scan
        if scan is None:
            return 500
        if scan.folds and scan.stuck is None:
            return 0
        deadlines = [self._tell_at(scan)] if scan.done else []
        if (hole := scan.machine.deadline()) is not None:
            deadlines.append(hole)
        return max(1, min([500, *(int((at - time.monotonic()) * 1000) + 1 for at in deadlines)]))

    def _beat(self) -> Beat:
        scan, before = self._scan, self._latency_before
        if scan is None:
            self.progress = Progress(self._folded_before, 0, Latencies.sum([before]))
            return Beat()
        folded = scan.folder.folded
        together = Latencies.sum([before, scan.latency])
        self.progress = Progress(self._folded_before + folded, scan.backlog, together)
        stats = {"scan": scan.arm.scan, "events": folded, "folded": folded, "backlog_bytes": scan.backlog}
        return Beat(stats, scan.latency.to_wire())

    def _handle(self, message: ToService) -> None:
        if isinstance(message, Shutdown):
            self._running = False
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            return
        if isinstance(message, Arm | Introduce) or (self._scan is not None and self._scan.arm.scan == message.scan):  # type: ignore[union-attr]
            handler(message)

    # -- results ---------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        scan = self._scan
        for parts in self._data.receive(RECEIVE_BYTES):
            try:
                header = decode_header(parts[1]) if len(parts) > 1 else None
                if isinstance(header, Grant):
                    self._greet(bytes(parts[0]), header.scan)
                    continue
                if not isinstance(header, ResultBatch) or scan is None or header.scan != scan.arm.scan:
                    continue
                batch = self._batch(scan, header, bytes(parts[0]), parts[1:])
            except CodecError:
                continue  # not from one of ours: nothing of it is used
            if self._refused(scan, batch) or self._log(scan, header, batch, parts[1:]):
                self._credit(scan, bytes(parts[0]), batch.size)

    def _tell(self, scan: _Scan, message: PartsDone) -> None:
        scan.told_all.add(message)
        self._control.send(message)

    def _tell_all(self, scan: _Scan, *, recorded: bool) -> None:
        """Tell a controller that had another reducer before; what is `recorded` is in the message itself only."""
        message = self._untold(scan)
        scan.told_all.add(message)
        whole = msgspec.structs.replace(message, inventory=True) if recorded else scan.told_all.inventory(scan.arm.scan)
        self._control.send(whole)

    def _introduce(self, message: Introduce) -> None:
        """A controller that does not know this reducer: it may go on with what another one began."""
        if (scan := self._scan) is None:
            return
        self._tell_done(scan)  # nobody takes note of it, but then it is in the inventory
        number = scan.arm.scan
        self._control.send(
            Inventory(
                number,
                scan.arm,
                fillers=[uuid.decode() for uuid in scan.fillers],
                changes=scan.changes,
                closed=scan.last_event,
                done=scan.told_all.inventory(number),
            )
        )

    @staticmethod
    def _tell_at(scan: _Scan) -> float:
        """When to tell of what is done."""
        return scan.told + (TELL_INTERVAL if scan.done.count >= TELL_MANY else TELL_LATEST)

    def _tell_done(self, scan: _Scan) -> None:
        """Tell the controller what became durable since it was last told."""
        if scan.done:
            self._tell(scan, self._untold(scan))

    @staticmethod
    def _untold(scan: _Scan) -> PartsDone:
        scan.told = time.monotonic()
        duplicates, scan.duplicates = scan.duplicates, scan.machine.duplicates
        new = scan.machine.duplicates - duplicates
        message = scan.done.message(scan.arm.scan, scan.machine.frontier, scan.closed, new)
        scan.done = scan.nothing_done()
        return message

    def _batch(self, scan: _Scan, header: ResultBatch, peer: bytes, parts: list[Buffer]) -> _Batch:
        if not 0 <= header.worker < len(scan.fillers):
            raise CodecError(f"results of worker {header.worker}, which this scan does not have")
        if scan.fillers[header.worker] != peer:
            raise CodecError(f"results of worker {header.worker} that somebody else sent")
        if header.times is not None:
            header.times.check(header.n)
        return _Batch(header, parts)

    def _refused(self, scan: _Scan, batch: _Batch) -> bool:
        """Whether a combined result has parts that are done by others; then nothing of the batch is taken."""
        torn = scan.machine.torn(batch.events, batch.k, batch.combined)
        if torn is None:
            return False
        events, peer = batch.events[torn[0] : torn[1]], scan.fillers[batch.worker]
        text = (
            f"results of worker {scan.names[batch.worker]} were refused: a combined one, of events from {events[0]} to "
            f"{events[-1]}, has some that are done already; the others have to be processed again"
        )
        self._control.send(Torn(scan.arm.scan, batch.worker, peer.decode(), text))
        return True

    def _log(self, scan: _Scan, header: ResultBatch, batch: _Batch, parts: list[Buffer]) -> bool:
        """Append a batch to the result log, which is when its parts are done; False where that cannot be."""
        try:
            batch.location = scan.log.append(parts)
        except (BeamfoldError, OSError) as error:
            # A full disk: these parts are not done and never will be, so the scan ends here and says why.
            self._control.send(Failed(scan.arm.scan, f"the result log cannot be written: {error}"))
            return False
        self._logged(scan, header, batch, parts[1:])
        return True

    def _logged(self, scan: _Scan, header: ResultBatch, batch: _Batch, payload: Sequence[Buffer]) -> None:
        """A batch is in the result log: its parts are done."""
        now, places = time.monotonic(), batch.places
        fresh, completed = scan.machine.logged(batch, batch.events, batch.k, batch.states, now, places)
        if header.times is not None:
            batch.timing = BatchTiming(scan.latency, header.times, fresh, time.time(), batch.combined)
        scan.done.add(header, batch, fresh, completed, payload)
        self._keep(scan, batch, int(np.count_nonzero(fresh if places is None else fresh[places])))

    @staticmethod
    def _keep(scan: _Scan, batch: _Batch, left: int) -> None:
        """So many parts of a batch are left to fold: it stays in memory, where there is room, until they are."""
        batch.left = left
        if left:
            scan.backlog += batch.size
        if not left or scan.backlog > BACKLOG_BYTES:
            batch.drop()

    def _trouble(self, scan: _Scan, text: str) -> None:
        self._control.send(Trouble(scan.arm.scan, "reducer", text))

    def _greet(self, peer: bytes, number: int) -> None:
        """A worker is ready to send results of a scan: it gets its credit."""
        if self._scan is not None and self._scan.arm.scan == number and peer in self._scan.fillers:
            self._data.send(peer, [encode_header(Grant(number, GREETING, CREDIT_BYTES))])

    def _credit(self, scan: _Scan, peer: bytes, size: int) -> None:
        """Give credit back, unless folding lags so far behind that the workers had better wait."""
        owed = scan.withheld.setdefault(peer, _Owed())
        owed.nbytes += size
        owed.batches += 1
        if owed.due and scan.backlog <= 4 * BACKLOG_BYTES:
            self._give_back(scan, peer)

    # -- folding ---------------------------------------------------------------------------------------------

    def _fold(self, scan: _Scan) -> None:
        """Fold for a slice of time."""
        now = time.monotonic()
        for fold in scan.machine.fold(now):
            scan.folds.append((fold.batch, list(fold.index)))
        if len(scan.folder.parameters) > 1:
            scan.folder.parameters.forget(scan.first_to_fold())
        if scan.folds:
            self._fold_until(scan, now, now + SLICE)
        if scan.folder.failed.count >= MAX_RUNS:
            self._tell_failed(scan)
        if not scan.folds:
            if scan.backlog <= BACKLOG_BYTES:
                for peer in [peer for peer, owed in scan.withheld.items() if owed.due]:
                    self._give_back(scan, peer)
            self._tell_finished(scan)

    def _fold_until(self, scan: _Scan, now: float, deadline: float) -> None:
        scan.folder.begin(deadline)
        folded: list[tuple[BatchTiming | None, list[int], float, float]] = []
        ended = time.time()
        while scan.folds and now < deadline:
            batch, index = scan.folds[0]
            if batch.version > scan.version:
                self._wait_for_parameters(scan, batch.version, now)
                break
            scan.stuck = None
            if batch.dropped:
                batch.restore(scan.log.read(batch.location))
            done = scan.folder.fold(batch, index)
            began, ended = ended, time.time()
            folded.append((batch.timing, index[:done], began, ended))
            self._cached = None
            batch.left -= done
            if not batch.left:
                scan.backlog -= batch.size
                batch.drop()
            if done < len(index):
                scan.folds[0] = (batch, index[done:])
                break
            scan.folds.popleft()
            now = time.monotonic()
        scan.folder.flush()
        self._time(scan, folded)

    def _wait_for_parameters(self, scan: _Scan, version: int, now: float) -> None:
        """The parameters of results are on their way. Where they were lost, the scan ends rather than hangs."""
        if scan.stuck is None:
            scan.stuck = now
        elif now - scan.stuck >= PARAMETERS_PATIENCE:
            scan.stuck = math.inf  # it is said once
            self._control.send(
                Failed(
                    scan.arm.scan,
                    f"results were made with version {version} of the parameters, and the reducer has heard of "
                    f"version {scan.version} only, for {PARAMETERS_PATIENCE:g} s: start the scan again",
                )
            )

    @staticmethod
    def _time(scan: _Scan, folded: Sequence[tuple[BatchTiming | None, list[int], float, float]]) -> None:
        """Results were folded: one by one as they came, or all of them with `process_results` at the end."""
        now = time.time() if scan.folder.hooks.process_results is not None else None
        for timing, places, began, ended in folded:
            if timing is not None:
                timing.folded(places, now or began, now or ended)

    def _tell_failed(self, scan: _Scan) -> None:
        """Tell the controller, which knows then that these events are terminal, for which of them user code raised."""
        self._tell_done(scan)
        failed, frontier = scan.folder.failed, scan.machine.frontier
        known = failed.overlap(0, frontier)  # a combined result may have events that still lack a part
        failed.discard(0, frontier)
        if known:
            scan.told_all.fold_failed(known)
            self._control.send(FoldFailed(scan.arm.scan, known))

    def _give_back(self, scan: _Scan, peer: bytes) -> None:
        owed = scan.withheld.pop(peer)
        self._data.send(peer, [encode_header(Grant(scan.arm.scan, RESULTS, owed.nbytes))])

    def _tell_finished(self, scan: _Scan) -> None:
        if not scan.finished_told and scan.machine.finished:
            scan.finished_told = True
            self._tell_done(scan)
            self._tell(scan, PartsDone(scan.arm.scan, [], {}, scan.machine.frontier, closed=scan.closed, finished=True))
        if scan.finish:
            scan.finish = False
            self._do_finish(scan)

    # -- the controller --------------------------------------------------------------------------------------

    def _arm(self, message: Arm) -> None:
        if self._scan is not None:
            self._drop(self._scan)
        try:
            scan = self._prepare(message)
        except BeamfoldError as error:
            self._control.send(Armed(message.scan, str(error)))
            return
        try:
            saved = None if scan.checkpoints is None else scan.checkpoints.restore(scan.log.end, self._construct(scan))
            taken_up = self._take_up(scan, saved)
        except (BeamfoldError, OSError) as error:
            scan.log.close()
            wrong = str(error) if isinstance(error, AppError) else f"the result log cannot be read: {error}"
            self._control.send(Armed(message.scan, wrong))
            return
        self._forget_shown()
        self._scan, self._shown, self._cached = scan, scan.folder, None
        self._control.scans = [message.scan]
        if taken_up:  # before it is armed: what is done has to be known before anything is assigned again
            scan.machine.hold(time.monotonic() + LOSS_PATIENCE)
            self._tell_all(scan, recorded=bool(message.record))
        self._control.send(Armed(message.scan))
        collect_what_is_over()
        scan.timer.start()
        if not hasattr(scan.folder.hooks.instance, "publish"):
            self._trouble(
                scan, "the class has no `publish`, so nobody sees a result: set self.publish = {…} in __init__"
            )

    def _prepare(self, message: Arm) -> _Scan:
        cls = self._load()
        hooks = ReducerHooks(cls)
        own = hooks.describe_parameters()
        self._declared = declared_together(own, message.declared)
        self._control.announce(**facts(own))
        first = ParameterSet.build(self._declared, message.parameters, message.version)
        hooks.construct(parameters=first, context=self._context, state=self._state)
        types = self._types(cls)
        trigger_map = TriggerMap.from_wire(message.map)
        targets = trigger_map.targets([w.tags for w in message.workers if not w.joined])  # those are the last ones
        machine: ReduceMachine[_Batch] = ReduceMachine(
            trigger_map, targets, patience=message.fold_patience, in_order=message.fold_order == "event"
        )
        folder = Folder(
            hooks,
            ParameterHistory([(0, first)]),
            types,
            [w.name for w in message.workers],
            lambda event: machine.map.next_broadcast(event, EVERYBODY),
        )
        try:
            self._tidy(message.scan_id)
            log = SegmentLog(self._directory / message.scan_id)
        except OSError as error:
            raise AppError(f"cannot keep a result log in {self._directory}: {error}; set [output] directory") from error
        checkpoints = None
        if self._checkpoint_any or hooks.checkpoint is not None:
            outside = [self._state, self._context]
            checkpoints = Checkpoints(
                self._directory / message.scan_id, message.scan_id, hooks, types, outside, self._checkpoint_pause
            )
        return _Scan(message, machine, folder, log, checkpoints)

    def _construct(self, scan: _Scan) -> Callable[[], object]:
        """Makes the app's object of a scan anew."""
        first = scan.folder.parameters.latest
        return lambda: scan.folder.hooks.construct(parameters=first, context=self._context, state=self._state)

    def _take_up(self, scan: _Scan, saved: Checkpoint | None) -> bool:
        """Go on where a reducer ended that wrote this scan's result log before; False where none did.

        Everything in the log is done. What is not in the app's state as it was `saved` is folded (again) in the order
        that it would have had. What the end of a process left unfinished of its last record was never told to be done.
        """
        start, end, found, now = None, Location(0, 0), saved is not None, time.monotonic()
        batches: dict[Location, _Batch] = {}
        held = {} if saved is None else dict(places_of(saved.held))
        wanted = {} if saved is None else saved.left()
        if saved is not None:
            end = saved.end
            if saved.events == scan.map.n_events and not scan.arm.record:  # else all of the log has to be told again
                start = end
                scan.machine.restore(saved.tracker, saved.told.duplicates)
                scan.told_all, scan.duplicates = Told.of_sum(saved.told), saved.told.duplicates
                for location in wanted:
                    batches[location] = batch = _logged_at(location, scan.log.read(location))[1]
                    if location in held:
                        scan.machine.enqueue(batch, batch.events, batch.k, now, held[location])
        for location, parts in scan.log.records(start):
            found = True
            if parts[0] == DROP_RECORD:
                drop = decode_to_service(parts[1])
                assert isinstance(drop, Drop)
                scan.done.add_completed(run for lo, hi in drop.blocks for run in scan.machine.drop(lo, hi))
                continue
            header, batch = _logged_at(location, parts)
            for number in range(len(scan.names), header.worker + 1):  # it joined, and nobody else is left who knows
                scan.names.append(f"worker {number}")
            if location >= end:
                self._logged(scan, header, batch, parts[1:])
                continue
            places = held.get(location, _NO_PLACES)
            fresh, completed = scan.machine.logged(batch, batch.events, batch.k, batch.states, now, places)
            scan.done.add(header, batch, fresh, completed, parts[1:])
            if location in wanted:
                batches[location] = batch
        if saved is not None:
            for location, left in wanted.items():
                self._keep(scan, batches[location], left)
            scan.folds.extend((batches[location], places.tolist()) for location, places in places_of(saved.handed))
            scan.machine.out_of_order = list(saved.out_of_order)
            scan.folder.failures, scan.folder.folded = list(saved.failures), saved.folded
            scan.folder.failed = RunSet(saved.failed)
            if start is None:
                for lo, hi in Told.of_sum(saved.told).failed_runs():  # perhaps because they could not be folded
                    scan.folder.failed.add(lo, hi)
            self._folded_before -= saved.folded  # by another process
        return found

    def _save(self, scan: _Scan) -> None:
        """Make a checkpoint when one is due."""
        checkpoints, at = scan.checkpoints, (scan.folder.folded, scan.log.end)
        if checkpoints is not None and checkpoints.due(at):
            checkpoints.save(at, scan.folder.timing, lambda: self._checkpoint(scan, checkpoints))

    def _checkpoint(self, scan: _Scan, checkpoints: Checkpoints) -> Checkpoint:
        """All that belongs to the app's state as it is now."""
        if scan.done or scan.machine.duplicates != scan.duplicates:
            self._tell(scan, self._untold(scan))
        return Checkpoint(
            *checkpoints.stamp(),
            scan.log.end,
            [unfolded(batch.location, index) for batch, index in scan.folds],
            [unfolded(batch.location, places) for batch, places in scan.machine.held()],
            scan.machine.out_of_order,
            scan.folder.failures,
            scan.folder.failed.runs(),
            scan.folder.folded,
            scan.map.n_events,
            scan.machine.to_wire(),
            scan.told_all.to_sum(),
        )

    def _close(self, message: Close) -> None:
        scan = self._scan
        assert scan is not None
        if scan.closed:
            return
        self._tell_done(scan)  # by the map as it was
        scan.last_event = message.last_event
        before, scan.map = scan.map, scan.map.closed_at(message.last_event)
        if scan.map.n_events != before.n_events:
            scan.told_all.close(message.last_event)
        completed = scan.machine.close(scan.map)
        scan.closed = True
        self._tell(scan, PartsDone(scan.arm.scan, completed, {}, scan.machine.frontier, closed=True))

    def _halt(self, message: Halt) -> None:
        assert self._scan is not None
        come = (max(self._scan.machine.highest, 0), False)
        self._control.send(Halted(message.scan, dict.fromkeys(self._scan.map.streams, come)))

    def _fence(self, message: Fence) -> None:
        assert self._scan is not None
        self._control.send(FenceReached(message.scan, message.version, self._scan.machine.highest))

    def _drop_parts(self, message: Drop) -> None:
        scan = self._scan
        assert scan is not None
        self._tell_done(scan)  # with the frontier as it was
        try:
            scan.log.append([DROP_RECORD, encode_message(message)])
        except (BeamfoldError, OSError) as error:
            self._control.send(Failed(scan.arm.scan, f"the result log cannot be written: {error}"))
            return
        self._tell_terminal(scan, [run for lo, hi in message.blocks for run in scan.machine.drop(lo, hi)])

    def _tell_terminal(self, scan: _Scan, completed: list[tuple[int, int, int]]) -> None:
        """Events became terminal although nobody has done their parts."""
        self._tell(scan, PartsDone(scan.arm.scan, completed, {}, scan.machine.frontier, closed=scan.closed))

    def _fill(self, message: Fill) -> None:
        """Another process is logical worker `worker`: what the one before may still send comes too late."""
        scan = self._scan
        assert scan is not None
        if message.joined is not None and message.worker == len(scan.fillers):
            scan.join(message.joined)
        if 0 <= message.worker < len(scan.fillers):
            scan.withheld.pop(before := scan.fillers[message.worker], None)
            if before != message.uuid.encode():
                self._data.forget(before)
            scan.fillers[message.worker] = message.uuid.encode()
            scan.machine.hold(time.monotonic() + LOSS_PATIENCE)
            if message.uuid:
                self._control.send(Filled(message.scan, message.worker, message.uuid))

    def _vacate(self, message: Vacate) -> None:
        scan = self._scan
        assert scan is not None
        self._tell_done(scan)  # with the frontier as it was
        self._tell_terminal(scan, scan.machine.vacate(message.worker))

    def _parameters(self, message: Parameters) -> None:
        scan = self._scan
        assert scan is not None
        history = scan.folder.parameters
        if message.version <= history.latest.version:
            return  # said again, by a controller that cannot know who knows it
        scan.changes.append(message)
        try:
            values = ParameterSet.build(self._declared, message.values, message.version)
        except ParameterError as error:  # they were checked by what the class declared when this reducer came up
            values = history.latest.renumbered(message.version)
            self._trouble(scan, f"parameter version {message.version} was not applied: {error}")
        history.append(message.from_event, values)
        scan.version = message.version

    def _finish(self, message: Finish) -> None:
        assert self._scan is not None
        self._scan.finish = True

    def _do_finish(self, scan: _Scan) -> None:
        scan.timer.stop()
        if scan.checkpoints is not None:
            scan.checkpoints.stop()  # or finish() would come to run twice on the same state
        folder = scan.folder
        folder.finish((scan.map.n_events or 1) - 1)
        self._cached = None
        problems = [scan.timer.error] if scan.timer.error else []
        path = ""
        try:
            path = self._publisher.store(scan.arm.scan_id, self._snapshot(), None, scan.arm.record)
        except (OSError, BeamfoldError) as error:
            problems.append(f"the result could not be stored: {error}")
        self._control.beat(self._beat, at_once=True)
        self._control.send(
            Finished(
                scan.arm.scan,
                folder.failures,
                folder.failed.runs(),
                scan.machine.out_of_order,
                path,
                "; ".join(problems),
            )
        )

    def _end(self, message: End) -> None:
        scan = self._scan
        assert scan is not None
        if message.report is not None:
            with suppress(OSError, BeamfoldError):  # Finished has said so; the report itself is in the ledger
                self._publisher.store(scan.arm.scan_id, self._snapshot(), message.report, scan.arm.record)
        self._keep_shown()
        self._drop(scan)

    def _drop(self, scan: _Scan) -> None:
        """The scan is over: its log has done its service."""
        self._close_scan(scan)
        self._folded_before += scan.folder.folded
        self._latency_before.add(scan.latency)
        shutil.rmtree(self._directory / scan.arm.scan_id, ignore_errors=True)
        self._scan = None
        self._control.scans = []

    @staticmethod
    def _close_scan(scan: _Scan) -> None:
        scan.timer.stop()
        if scan.checkpoints is not None:
            scan.checkpoints.stop()
        scan.log.close()

    def _tidy(self, scan_id: str) -> None:
        """Remove the logs of scans that nobody takes up any more: their reducers ended before the scans did."""
        for old in [p for p in self._directory.glob("*") if p.name != scan_id]:
            try:
                SegmentLog(old).close()
            except LogBusy:
                continue
            except (BeamfoldError, OSError):
                pass  # damaged: all the more
            shutil.rmtree(old, ignore_errors=True)

    # -- readers ---------------------------------------------------------------------------------------------

    def _snapshot(self) -> Any:
        folder = self._shown
        if folder is None:
            return self._shown_before
        if self._cached is not None and self._cached[0] is folder and folder.hooks.timer is None:
            return self._cached[1]
        try:
            with folder.hooks.publish_rlock:
                snapshot = self._publisher.snapshot(folder.hooks.publish)
        except AppError:
            raise
        except USER_ERRORS as error:  # the lock is the app's own
            raise AppError(f"what the reducer publishes cannot be read: {user_traceback(error)}") from error
        self._cached = (folder, snapshot)
        return snapshot

    def _keep_shown(self) -> None:
        """Let a reducer that comes after this one show what was published last, until the next scan begins."""
        if self._shown_path is None:
            return
        buffers: list[Buffer] = []
        try:
            write_whole(self._shown_path, [encode(self._snapshot(), buffers, copy=False), *buffers])
        except (OSError, BeamfoldError) as error:
            logger.warning("what was published will not be shown by a reducer that is started anew: %s", error)

    def _read_shown(self) -> Any:
        if self._shown_path is None or not self._shown_path.exists():
            return None
        try:
            frames = read_whole(self._shown_path)
            return decode(frames[0], frames[1:])
        except (OSError, BeamfoldError) as error:
            logger.warning("what was published before cannot be shown: %s", error)
            return None

    def _forget_shown(self) -> None:
        if self._shown_path is not None:
            shutil.rmtree(self._shown_path, ignore_errors=True)

    def _answer(self) -> None:
        with self._asked_lock:
            asked, self._asked = self._asked, []
        if not asked:
            return
        answer: Any = None
        error: AppError | None = None
        try:
            answer = self._snapshot()
        except AppError as wrong:
            error = wrong
        for request in asked:
            request.answer, request.error = answer, error
            request.ready.set()

    def _wake(self) -> None:
        self._wake_write.send(b"\0")

    def read(self, timeout: float) -> Any:
        """A consistent snapshot of the published state, for another thread; None before the first scan.

        Taken between two folds. TimeoutError when user code did not come back within `timeout` seconds, AppError
        when what the app publishes cannot be read.
        """
        request = _Request()
        with self._asked_lock:
            self._asked.append(request)
        self._wake()
        if not request.ready.wait(timeout):
            raise TimeoutError("the reducer's process_result has not come back yet")
        if request.error is not None:
            raise AppError(str(request.error))
        return request.answer


class _Request:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.answer: Any = None
        self.error: AppError | None = None
