"""The ingester service: detector sockets in, batches for workers out. All decisions are the machine's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from beamfold.ingest.dumps import Dumps, dump_paths
from beamfold.ingest.inflow import Inflow
from beamfold.ingest.machine import (
    Action,
    Dump,
    IngestMachine,
    Pause,
    Resume,
    SendFrames,
    SendGap,
    StreamSpec,
    Tell,
)
from beamfold.ingest.merge import PATIENCE, Merge
from beamfold.ingest.readers import Readers
from beamfold.ingest.spill import DiskShelf, Spill, SpillLost
from beamfold.ingest.writeahead import At, WriteAhead, WriteAheads
from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.events import Buffer
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.envelopes import (
    Attach,
    Gap,
    Grant,
    LetGo,
    decode_header,
    encode_frames,
    encode_header,
)
from beamfold.protocols.items import Framer, Item, Malformed
from beamfold.protocols.messages import (
    Arm,
    Armed,
    Assign,
    Beat,
    Close,
    End,
    Failed,
    Fence,
    Fill,
    Filled,
    Halt,
    Halted,
    Introduce,
    Inventory,
    Parameters,
    Release,
    Shutdown,
    StreamEnded,
    StreamSeen,
    ToService,
    Trouble,
    Waits,
)
from beamfold.sources.base import Source
from beamfold.transport.arena import Arena
from beamfold.transport.control import ControlChannel
from beamfold.transport.data import DataHub
from beamfold.transport.sockets import POLLIN, Poller

logger = logging.getLogger(__name__)

DRAIN_MESSAGES = 1000
"""Messages taken from a detector socket before anything else gets its turn: a few milliseconds of work."""

DRAIN_BYTES = 16 << 20
"""Bytes taken from a detector socket in one turn."""

PROGRESS_INTERVAL = 0.2
"""Seconds between reports of how far the streams are."""

PROMPT_INTERVAL = 0.02
"""The same where the controller acts on them: it decides what is dropped, and whether a detector is held back."""


MERGE_SHARE = 4
"""Frames that wait for those of other sockets may take this part of their stream's room in memory."""


@dataclass(slots=True)
class Connection:
    """One socket of a stream: where its messages come from and what tells them apart."""

    source: Source
    framer: Framer
    inflow: Inflow = field(default_factory=lambda: Inflow(DRAIN_MESSAGES))
    polled: bool = False


@dataclass(slots=True)
class Input:
    """A stream, and the sockets that bring it. `base` None: the start message gives it.

    `durable`: what its one socket brings is written to a log before anything else is done with it.
    """

    name: str
    connections: tuple[Connection, ...]
    base: int | None
    retention_bytes: int
    durable: bool = False
    paused: set[int] = field(default_factory=set)  # by which scans: one may end while the next one has no room
    unused: int = 0  # messages since the last scan

    @property
    def typ(self) -> str:
        return self.connections[0].framer.typ

    @property
    def numbered(self) -> bool:
        return self.connections[0].framer.numbered

    @property
    def held_bytes(self) -> int:
        """How much of `retention_bytes` is for frames that wait for those of other sockets."""
        return self.retention_bytes // MERGE_SHARE if len(self.connections) > 1 else 0

    def gathered(self) -> bool:
        """Whether there are messages that were read and not yet looked at."""
        return any(c.inflow.messages for c in self.connections)

    def due(self, now: float) -> float | None:
        """Seconds until what was read is to go on; None where there is nothing."""
        return min((d for c in self.connections if (d := c.inflow.due(now)) is not None), default=None)


class _Armed:
    """A scan this ingester is armed for."""

    def __init__(
        self,
        machine: IngestMachine,
        streams: dict[str, int],
        workers: list[bytes],
        dumps: Dumps | None,
        shelves: list[DiskShelf],
        merges: dict[str, Merge],
        ahead: WriteAhead | None,
        arm: Arm,
    ) -> None:
        self.arm = arm
        self.changes: list[Parameters] = []
        self.closed: int | None = None
        self.machine = machine
        self.streams = streams
        self.workers = workers
        self.dumps = dumps
        self.shelves = shelves
        self.merges = merges  # of the streams that several sockets bring
        self.ahead = ahead
        self.halted = False
        self.told: dict[str, StreamSeen] = {}
        self.stopwatches = {name: _Stopwatch() for name in streams}


class _Stopwatch:
    """Seconds in which something was the case."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    def set(self, running: bool) -> None:
        now = time.monotonic()
        if self._since is not None:
            self._total += now - self._since
        self._since = now if running else None

    @property
    def seconds(self) -> float:
        return self._total + (time.monotonic() - self._since if self._since is not None else 0.0)


class IngesterService:
    """Runs until it is told to shut down or `stop()` is called.

    `spill` is where frames go that exceed their stream's bound in memory, `arena` where the inputs' sources put large
    parts; None: nowhere, they are sent. `aheads` is where the logs of durable inputs are, which there are none of
    without.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        control: ControlChannel,
        data: DataHub,
        spill: Spill,
        arena: Arena | None = None,
        aheads: WriteAheads | None = None,
    ) -> None:
        self._inputs = dict(inputs)
        self._aheads = aheads
        self._spill = spill
        self._control = control
        self._data = data
        self._scans: dict[int, _Armed] = {}
        self._running = True
        self._poller = Poller()
        self._poller.register(control.socket, POLLIN)
        self._poller.register(data.socket, POLLIN)
        self._arena = arena
        self._readers = Readers(arena, self._poller)
        self._refused = 0
        self._reading = False
        for item in self._inputs.values():
            self._watch(item)
        self._handlers: dict[type, Callable[..., None]] = {
            Introduce: self._introduce,
            Arm: self._arm,
            Assign: self._assign,
            Fill: self._fill,
            Release: self._release,
            Waits: self._waits,
            Halt: self._halt,
            Close: self._close,
            Fence: self._fence,
            Parameters: self._parameters,
            End: self._end,
        }

    def stop(self) -> None:
        """Leave `run` after the present turn."""
        self._running = False

    def run(self) -> None:
        """Serve until told to stop."""
        next_progress = 0.0
        while self._running:
            asked = time.monotonic()
            ready = dict(self._poller.poll(self._wait_ms()))
            for message in self._control.receive():
                self._handle(message)
            if self._control.welcomed and not self._reading:
                self._reading = True
                for item in self._inputs.values():
                    self._watch(item)
            if self._data.socket in ready:
                self._hear_workers()
            self._readers.look(ready)
            now = time.monotonic()
            for item in self._inputs.values():
                self._read(item, ready, asked, now)
            if now >= next_progress:
                next_progress = now + self._interval
                for scan in self._scans.values():
                    self._do(scan, scan.machine.look)
                    self._tell_progress(scan)
                self._look_at_arena()
                self._control.beat(self._beat)
        for scan in self._scans.values():
            self._dump(scan, Dumps.close)
            if scan.ahead is not None:
                scan.ahead.close()

    def _wait_ms(self) -> int:
        now = time.monotonic()
        due = [self._interval]
        for item in self._inputs.values():
            if (gathered := item.due(now)) is not None:
                due.append(gathered)
            merge = self._merge(item)
            if merge is not None and not item.paused and (held := merge.due(now)) is not None:
                due.append(held)
        return math.ceil(min(due) * 1000)

    @property
    def _interval(self) -> float:
        spilling = all(scan.machine.spills for scan in self._scans.values())
        return PROGRESS_INTERVAL if spilling else min(PROMPT_INTERVAL, PROGRESS_INTERVAL)

    def _beat(self) -> Beat:
        return Beat(self._stats())

    def _stats(self) -> dict[str, Any]:
        """Of the newest scan: `events` are the frames of the stream that has most, `frames` those of all."""
        memory = {} if self._arena is None else {"arena_bytes": self._arena.used}
        if not self._scans:
            return {"scans": 0, **memory}
        number = next(reversed(self._scans))
        seen = self._scans[number].machine.progress()
        frames = [s.frames for s in seen]
        last = max((s.last_event for s in seen), default=0)
        counts = {"events": max(frames, default=0), "last_event": max(last, 0), "frames": sum(frames)}
        return {"scan": number, **counts, "scans": len(self._scans), **memory}

    def _handle(self, message: ToService) -> None:
        if isinstance(message, Shutdown):
            self._running = False
            return
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    # -- detectors -------------------------------------------------------------------------------------------

    def _reader(self, item: Input) -> _Armed | None:
        """The scan that a stream's frames are for: the newest one, because older ones have stopped reading."""
        return next((scan for scan in reversed(self._scans.values()) if item.name in scan.streams), None)

    def _merge(self, item: Input) -> Merge | None:
        """What puts the sockets of a stream in order for the scan that reads it; None where there is one socket."""
        if len(item.connections) == 1 or (scan := self._reader(item)) is None:
            return None
        return scan.merges[item.name]

    def _read(self, item: Input, ready: Mapping[object, int], asked: float, now: float) -> None:
        """Read what is ready. What came goes on when it is due, or at once where there is not room for much more."""
        merge = self._merge(item)
        room = self._room(item, merge)
        for index, connection in enumerate(item.connections):
            if connection.source.socket in ready:
                inflow = connection.inflow
                messages = connection.source.drain(inflow.room, max(1, room // len(item.connections)))
                if item.durable and messages:
                    self._write_ahead(item, messages)
                inflow.add(messages, now)
                if merge is not None:
                    merge.hear(index, now)
        if item.due(now) == 0 or (room < DRAIN_BYTES and item.gathered()):
            self._take_in(item)
        if merge is not None and not item.paused and merge.due(asked) == 0:
            self._look(item, merge, asked)

    def _room(self, item: Input, merge: Merge | None) -> int:
        """Bytes that may be read now; what exceeds a bound is one message of each socket at most."""
        scan = self._reader(item)
        room = DRAIN_BYTES if scan is None else min(DRAIN_BYTES, scan.machine.room(scan.streams[item.name]))
        return max(1, room if merge is None else min(room, merge.room))

    def _take_in(self, item: Input) -> None:
        now = time.monotonic()
        merge = self._merge(item)
        age = 0.0 if merge is None else merge.waited(now)
        count = 0
        arrived: list[list[Item]] = []
        for connection in item.connections:
            messages = connection.inflow.take()
            if messages:
                age = max(age, connection.inflow.age(now))
                count += len(messages)
            arrived.append(connection.framer.feed(messages))
        scan = self._reader(item)
        if scan is None and any(arrived):
            if not item.unused:
                logger.warning("what comes from stream %r is not used: there is no scan for it", item.name)
            item.unused += count
        elif scan is not None:
            items = arrived[0] if merge is None else merge.feed(arrived, now)
            self._pass_on(scan, item, items, time.time() - age)
            if scan.ahead is not None and item.durable:
                scan.ahead.fed(item.name, scan.machine.mark(scan.streams[item.name]))
            if merge is not None:
                self._watch(item)

    def _pass_on(self, scan: _Armed, item: Input, items: list[Item], stamp: float) -> None:
        if items:
            self._do(scan, partial(scan.machine.feed, scan.streams[item.name], items, stamp))
            told = scan.told.get(item.name)
            if told is None or told.phase == "waiting":  # who goes on with the series after us has to know its base
                self._tell_progress(scan)

    def _look(self, item: Input, merge: Merge, asked: float) -> None:
        """Give up the sockets that had nothing to be read when that was asked, which was late enough."""
        if item.gathered():
            self._take_in(item)
        scan = self._reader(item)
        assert scan is not None  # whose merge it is
        before = set(merge.given_up)
        stamp = time.time() - merge.waited(asked)
        self._pass_on(scan, item, merge.look(asked), stamp)
        for index in sorted(merge.given_up - before):
            logger.warning(
                "stream %r: nothing came from %s for %g s while frames of its other sockets waited. "
                "What it does not bring counts as missing",
                item.name,
                item.connections[index].source.url,
                PATIENCE,
            )
        self._watch(item)

    def _flush(self, scan: _Armed, names: Iterable[str]) -> None:
        """Nothing more of these streams is read for a scan: what waits for other sockets goes on without them."""
        for name in names:
            if (merge := scan.merges.get(name)) is not None:
                stamp = time.time() - merge.waited(time.monotonic())
                self._pass_on(scan, self._inputs[name], merge.flush(), stamp)

    def _take_all_in(self) -> None:
        for item in self._inputs.values():
            if item.gathered():
                self._take_in(item)

    # -- the log of durable streams --------------------------------------------------------------------------

    def _write_ahead(self, item: Input, messages: list[list[Buffer]]) -> None:
        """Whatever becomes of this process now, these messages are not lost."""
        scan = self._reader(item)
        if scan is not None and not scan.halted:
            self._log(scan, lambda ahead: ahead.append(item.name, messages, time.time()))

    def _log(self, scan: _Armed, do: Callable[[WriteAhead], None]) -> None:
        """Do something with the scan's log, if it has one. Where that fails the scan goes on without."""
        if (ahead := scan.ahead) is None:
            return
        try:
            do(ahead)
        except (BeamfoldError, OSError) as error:
            scan.ahead = None
            ahead.remove()
            self._tell_undurable(scan.arm, error)

    def _tell_undurable(self, arm: Arm, error: BeamfoldError | OSError) -> None:
        text = (
            f"its streams are not durable any more: {error}. The scan goes on; were this ingester to be killed, "
            "the frames that it has would be lost"
        )
        self._control.send(Trouble(arm.scan, f"ingester {self._control.hello.name}", text))

    def _open_ahead(self, message: Arm, specs: list[StreamSpec]) -> tuple[WriteAhead | None, bool]:
        """The scan's log, where one of its streams is durable; and whether it is that of an ingester before."""
        if self._aheads is None or not any(self._inputs[s.name].durable for s in specs):
            return None, False
        try:
            if message.resume and (found := self._aheads.find(message.scan_id)) is not None:
                return found, True
            return self._aheads.begin(message.scan_id), False
        except (BeamfoldError, OSError) as error:
            self._tell_undurable(message, error)
            return None, False

    def _resume(self, scan: _Armed, found: bool) -> None:
        """Go on with the streams of another ingester: by its log where it has left one."""
        series, machine = scan.arm.resume, scan.machine
        durable = {n: s for n, s in series.items() if n in scan.streams and self._inputs[n].durable}
        logged = durable if found else {}
        self._do(scan, partial(machine.resume, {n: s for n, s in series.items() if n not in logged}))
        if logged:
            machine.take_up(logged)
            self._log(scan, lambda ahead: self._replay(scan, ahead))
            self._do(scan, partial(machine.taken_up, logged))
        for name in durable:
            mark = machine.mark(scan.streams[name])
            if not found or mark.base is None:  # from here on what comes counts, though no start may have come
                self._log(scan, partial(WriteAhead.at, stream=name, mark=mark))

    def _replay(self, scan: _Armed, ahead: WriteAhead) -> None:
        """Feed the machine what the ingester before had received, in its order."""
        machine = scan.machine
        for name, mark in ahead.begins.items():
            self._do(scan, partial(machine.go_on, scan.streams[name], mark))
        for name, ordinal, frame in ahead.kept():
            machine.keep(scan.streams[name], ordinal, frame)
        for received in ahead.received():
            index = scan.streams[received.stream]
            if isinstance(received, At):
                self._do(scan, partial(machine.go_on, index, received.mark))
                continue
            (connection,) = self._inputs[received.stream].connections
            # What is malformed was told; or it is the rest of a frame that is done, and begins before the log does.
            items = [i for i in connection.framer.feed(received.messages) if not isinstance(i, Malformed)]
            self._do(scan, partial(machine.feed, index, items, received.stamp))
            ahead.fed(received.stream, machine.mark(index))

    def _trim(self, ahead: WriteAhead, scan: _Armed) -> None:
        streams, machine = scan.streams, scan.machine
        ahead.trim(lambda s: machine.first_open(streams[s]), lambda s, lo, hi: machine.kept(streams[s], lo, hi))

    # -- workers ---------------------------------------------------------------------------------------------

    def _hear_workers(self) -> None:
        for parts in self._data.receive(1 << 20):
            try:
                header = decode_header(parts[1]) if len(parts) == 2 else None
            except CodecError:
                continue  # a stranger on this port: nothing of it is used
            peer = bytes(parts[0])
            if isinstance(header, Grant):
                self._granted(peer, header)
            elif isinstance(header, Attach) and any(peer in scan.workers for scan in self._scans.values()):
                self._readers.attach(peer, header.pid)
            elif isinstance(header, LetGo):
                self._readers.let_go(peer, header.leases)

    def _granted(self, peer: bytes, grant: Grant) -> None:
        scan = self._scans.get(grant.scan)
        if scan is not None and peer in scan.workers:
            worker = scan.workers.index(peer)
            self._do(scan, partial(scan.machine.grant, worker, grant.stream, grant.credit))

    def _look_at_arena(self) -> None:
        """Say it, once for as long as that lasts, when frames do not fit into the arena."""
        arena = self._arena
        if arena is None or arena.refused == self._refused:
            return
        if not self._refused:
            logger.warning(
                "the arena is full: frames are sent over the network until workers let go of what they hold. "
                "Does the app keep arrays of many events? Then let it keep copies, or raise retention_bytes"
            )
        self._refused = arena.refused

    def _do(self, scan: _Armed, step: Callable[[], list[Action]]) -> None:
        """A step of the scan's machine, and what it asks for. What was spilled and cannot be read ends the scan."""
        try:
            actions = step()
        except SpillLost as error:
            self._control.send(Failed(scan.machine.scan, str(error)))
            return
        self._perform(scan, actions)

    def _perform(self, scan: _Armed, actions: list[Action]) -> None:
        machine = scan.machine
        for action in actions:
            if isinstance(action, SendFrames):
                a, peer = action, scan.workers[action.worker]
                lease = self._readers.lease(peer)
                batch = encode_frames(
                    machine.scan,
                    a.stream,
                    a.version,
                    a.events,
                    a.k,
                    a.frames,
                    a.closed,
                    lease,
                    a.received,
                    time.time(),
                    a.again,
                )
                self._data.send(peer, batch[0])
            elif isinstance(action, Dump):
                self._dump(scan, partial(Dumps.write, dump=action))
            elif isinstance(action, Tell):
                if isinstance(action.message, StreamEnded | Halted):
                    self._tell_progress(scan)  # first, so that the report of a scan that ends now has these counts
                if isinstance(action.message, StreamSeen):
                    self._tell_seen(scan, action.message)
                else:
                    self._control.send(action.message)
            elif isinstance(action, SendGap):
                gap = Gap(machine.scan, action.stream, action.runs, action.tail, action.closed)
                self._data.send(scan.workers[action.worker], [encode_header(gap)])
            elif isinstance(action, Pause | Resume):
                name = machine.map.streams[action.stream]
                scan.stopwatches[name].set(isinstance(action, Pause))
                self._pause(name, machine.scan, isinstance(action, Pause))

    def _dump(self, scan: _Armed, do: Callable[[Dumps], None]) -> None:
        """Do something with the scan's dumps, if it has any. A full disk ends them, and the scan goes on."""
        dumps = scan.dumps
        if dumps is None:
            return
        try:
            do(dumps)
        except OSError as error:
            scan.dumps = None
            text = f"the dumps end here, because they cannot be written: {error.strerror or error}"
            self._control.send(Trouble(scan.machine.scan, f"ingester {self._control.hello.name}", text))
            with suppress(OSError):
                dumps.close()

    def _pause(self, name: str, scan: int, pause: bool) -> None:
        """A scan has no room for a stream's frames, or has room again."""
        item = self._inputs[name]
        if pause:
            item.paused.add(scan)
        else:
            item.paused.discard(scan)
            if (merge := self._merge(item)) is not None:
                merge.resume(time.monotonic())
        self._watch(item)

    def _watch(self, item: Input) -> None:
        """Poll the sockets that are to be read, and no others."""
        merge = self._merge(item)
        for index, connection in enumerate(item.connections):
            # Before the controller has said what there is to do nobody knows what a frame is for.
            wanted = self._control.welcomed and not item.paused and (merge is None or merge.wants(index))
            socket = connection.source.socket
            if socket is None or wanted == connection.polled:
                continue
            connection.polled = wanted
            if wanted:
                self._poller.register(socket, POLLIN)
            else:
                self._poller.unregister(socket)

    # -- the controller --------------------------------------------------------------------------------------

    def _arm(self, message: Arm) -> None:
        self._take_all_in()  # it was sent before, and is not of this scan
        trigger_map = TriggerMap.from_wire(message.map)
        specs = [
            StreamSpec(index, name, item.numbered, item.base, item.retention_bytes - item.held_bytes)
            for index, name in enumerate(trigger_map.streams)
            if (item := self._inputs.get(name)) is not None
        ]
        groups = [trigger_map.groups_for(w.tags) for w in message.workers]
        try:
            dumps = self._open_dumps(message, specs)
        except OSError as error:
            if not message.resume:
                text = f"cannot dump to {error.filename}: {error.strerror}; name another place, or none"
                self._control.send(Armed(message.scan, text))
                return
            dumps = None
            text = f"its dumps end where the one before it ended: cannot dump to {error.filename}: {error.strerror}"
            self._control.send(Trouble(message.scan, f"ingester {self._control.hello.name}", text))
        shelves: list[DiskShelf] = []

        def shelf() -> DiskShelf:
            shelves.append(self._spill.open())
            return shelves[-1]

        machine = IngestMachine(
            message.scan,
            trigger_map,
            specs,
            groups,
            version=message.version,
            dump=dumps is not None,
            shelf=shelf,
            spill=message.overload == "spill",
        )
        workers = [w.uuid.encode() for w in message.workers]
        ahead, found = self._open_ahead(message, specs)
        for stream in specs:
            item = self._inputs[stream.name]
            if item.unused:
                logger.info("%d messages of stream %r came before this scan: not used", item.unused, item.name)
            item.unused = 0
        streams = {s.name: s.index for s in specs}
        for scan in self._scans.values():
            self._flush(scan, streams)
        merges = self._merges(trigger_map, specs)
        self._scans[message.scan] = _Armed(machine, streams, workers, dumps, shelves, merges, ahead, message)
        for name in merges:
            self._watch(self._inputs[name])
        self._control.scans = list(self._scans)
        self._control.send(Armed(message.scan))
        if message.resume:
            self._resume(self._scans[message.scan], found)

    def _merges(self, trigger_map: TriggerMap, specs: Iterable[StreamSpec]) -> dict[str, Merge]:
        found: dict[str, Merge] = {}
        for stream in specs:
            item = self._inputs[stream.name]
            if len(item.connections) > 1:
                count = trigger_map.frame_count(stream.index)
                frames = None if count is None else count - 1 - int(trigger_map.wrapped)
                now = time.monotonic()
                found[stream.name] = Merge(
                    len(item.connections), now, base=stream.base or 0, frames=frames, limit=item.held_bytes
                )
        return found

    def _open_dumps(self, message: Arm, specs: list[StreamSpec]) -> Dumps | None:
        if not message.record and not message.dump_prefix:
            return None
        streams = {s.index: (s.name, self._inputs[s.name].typ) for s in specs}
        paths = dump_paths(message, self._control.hello.name, [s.name for s in specs])
        return Dumps(streams, paths, go_on=bool(message.resume))

    def _assign(self, message: Assign) -> None:
        if (scan := self._scans.get(message.scan)) is not None:
            self._do(scan, partial(scan.machine.assign, message.blocks, message.settled))

    def _fill(self, message: Fill) -> None:
        scan = self._scans.get(message.scan)
        if scan is not None and message.joined is not None and message.worker == len(scan.workers):
            scan.arm = msgspec.structs.replace(scan.arm, workers=[*scan.arm.workers, message.joined])
            scan.workers.append(b"")
            scan.machine.join(scan.machine.map.groups_for(message.joined.tags))
        if scan is None or not 0 <= message.worker < len(scan.workers):
            return
        if (uuid := message.uuid.encode()) != (before := scan.workers[message.worker]):  # it may be said twice
            self._data.forget(before)
            scan.workers[message.worker] = uuid
            self._do(scan, partial(scan.machine.fill, message.worker, bool(uuid)))
        if message.uuid:
            self._control.send(Filled(message.scan, message.worker, message.uuid))

    def _introduce(self, message: Introduce) -> None:
        """A controller that does not know this ingester: it may go on with what another one began."""
        for number, scan in self._scans.items():
            machine, closed = scan.machine, scan.closed
            fillers = [uuid.decode() for uuid in scan.workers]
            self._control.send(
                Inventory(number, scan.arm, fillers=fillers, changes=scan.changes, closed=closed, **machine.inventory())
            )
            scan.told.clear()

    def _release(self, message: Release) -> None:
        if (scan := self._scans.get(message.scan)) is not None:
            self._do(scan, partial(scan.machine.release, message))
            self._log(scan, partial(self._trim, scan=scan))

    def _waits(self, message: Waits) -> None:
        if (scan := self._scans.get(message.scan)) is not None:
            self._do(scan, partial(scan.machine.waits, message.streams))

    def _halt(self, message: Halt) -> None:
        self._take_all_in()
        if (scan := self._scans.get(message.scan)) is not None:
            self._flush(scan, scan.streams)
            scan.halted = True
            self._do(scan, scan.machine.halt)

    def _close(self, message: Close) -> None:
        if (scan := self._scans.get(message.scan)) is not None and scan.closed is None:
            scan.closed, scan.halted = message.last_event, True
            self._do(scan, partial(scan.machine.close, message.last_event))
            self._tell_progress(scan)  # the end of a series may be still to come, and the report has these counts

    def _fence(self, message: Fence) -> None:
        if (scan := self._scans.get(message.scan)) is not None:
            self._do(scan, partial(scan.machine.fence, message.version))

    def _parameters(self, message: Parameters) -> None:
        if (scan := self._scans.get(message.scan)) is not None:
            scan.changes.append(message)
            self._do(scan, partial(scan.machine.set_version, message.version, message.from_event))

    def _end(self, message: End) -> None:
        self._control.beat(self._beat, at_once=True)
        scan = self._scans.pop(message.scan, None)
        self._control.scans = list(self._scans)
        if scan is None:
            return
        self._dump(scan, Dumps.close)
        for shelf in scan.shelves:
            shelf.close()
        if scan.ahead is not None:
            scan.ahead.remove()
        for name in scan.streams:
            self._pause(name, message.scan, False)
        if self._arena is not None and not self._scans:
            self._refused = self._arena.refused = 0
            self._arena.trim()

    def _tell_progress(self, scan: _Armed) -> None:
        for seen in scan.machine.progress():
            self._tell_seen(scan, seen)

    def _tell_seen(self, scan: _Armed, seen: StreamSeen) -> None:
        seen = msgspec.structs.replace(seen, paused=scan.stopwatches[seen.stream].seconds)
        if scan.told.get(seen.stream) != seen:
            scan.told[seen.stream] = seen
            self._control.send(seen)
