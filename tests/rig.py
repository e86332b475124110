"""All machines of a scan in one process, without sockets: messages travel through FIFO channels that a test drains
in any order it likes. What the services do between machine and socket is done here in a few lines each; frames and
the numbers of results travel in their envelopes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from beamfold.dispatch.actions import RecordParameters, RecordScan, Reply, Send
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.recording import WriteFile
from beamfold.dispatch.resumption import Resumption, resumption, unfinished
from beamfold.dispatch.scan import Plan
from beamfold.dispatch.scans import Policy
from beamfold.ingest.machine import Dump, IngestMachine, Mark, Pause, Resume, SendFrames, SendGap, StreamSpec, Tell
from beamfold.ingest.retention import Frame
from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap, WrittenMap
from beamfold.protocols import messages as m
from beamfold.protocols.envelopes import (
    FrameBatch,
    decode_frames,
    decode_header,
    encode_frames,
    pack_events,
    pack_positions,
    unpack_events,
    unpack_positions,
)
from beamfold.protocols.items import Data
from beamfold.reduce.machine import ReduceMachine
from beamfold.reduce.told import Told
from beamfold.work.machine import Part, WorkMachine

VERSION = "test"
POLICY = Policy()


class ListShelf:
    """A shelf with room for `room` frames; what is discarded makes room again."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.fault = ""
        self.held: list[tuple[Frame, ...]] = []
        self.most = 0

    def put(self, frames: Sequence[Frame]) -> Sequence[Frame] | None:
        self.fault = "" if len(frames) <= self.room else "no room"
        if self.fault:
            return None
        self.room -= len(frames)
        self.held.append(tuple(frames))
        self.most = max(self.most, len(self.held))
        return self.held[-1]

    def discard(self, frames: Sequence[Frame]) -> None:
        self.room += len(frames)
        self.held = [h for h in self.held if h is not frames]


@dataclass
class RigLog:
    """What an ingester has received of a scan: (stream, item, how far that was then), or (stream, mark, None)."""

    entries: list[tuple[str, Any, Mark | None]] = field(default_factory=list)
    begins: dict[str, Mark] = field(default_factory=dict)
    kept: dict[tuple[str, int], Frame] = field(default_factory=dict)

    def trim(self, machine: IngestMachine) -> None:
        """Drop from the front what is terminal, but for what was broadcast."""
        while self.entries:
            stream, _, mark = self.entries[0]
            index = machine.map.streams.index(stream)
            if mark is None or machine.first_open(index) <= mark.next:
                return
            before = self.begins[stream].next if stream in self.begins else 0
            self.kept.update(((stream, o), frame) for o, frame in machine.kept(index, before, mark.next))
            self.begins[stream] = mark
            del self.entries[0]


@dataclass
class Folded:
    """One part as the reducer folded it."""

    event: int
    k: int
    worker: int
    streams: tuple[str, ...]
    version: int


@dataclass
class RigWorker:
    """A process, which is known by its name; the logical worker that it is to fill is called `place`."""

    name: str
    place: str
    tags: list[str]
    joined: bool = False
    finish: bool = False
    machine: WorkMachine | None = None
    scan: int = 0
    me: int = -1
    dead: bool = False
    reducer: str = ""
    greeted: bool = False
    sources: list[str] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    unconfirmed: deque[Any] = field(default_factory=deque)
    versions: list[tuple[int, int]] = field(default_factory=list)

    def version_at(self, event: int) -> int:
        return [v for e, v in self.versions if e <= event][-1]


class Rig:
    """A controller, ingesters (name -> streams (name, numbered)), workers with tags, and a reducer."""

    def __init__(
        self,
        ingesters: dict[str, list[tuple[str, bool]]],
        workers: list[list[str]],
        *,
        seed: int = 0,
        policy: Policy = POLICY,
        retention_bytes: int = 1 << 30,
        shelf_frames: int = 1 << 30,
        credit: int = 1 << 20,
        in_order: bool = True,
        durable: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.policy = replace(policy, lease=1e9)  # services of a rig do not beat
        self.controller = ControllerMachine(VERSION, 1, policy=self.policy, values={"p": b"0"})
        self.channels: dict[tuple[str, str], deque[Any]] = {}
        self.ingest: dict[str, dict[int, IngestMachine]] = {name: {} for name in ingesters}
        self.ingest_ended: dict[tuple[str, int], IngestMachine] = {}
        self.arm_workers: dict[tuple[str, int], list[str]] = {}
        self.born = 0
        self.reducer = "reducer"
        self.log: list[Any] = []  # the result log of the present scan
        self.log_of = 0
        self.told_all = Told()
        self.closed = False
        self.unsaid: dict[str, list[Any]] = {}  # what the reducer has not yet confirmed
        self.controller_dead = False
        self.gone: list[Any] = []
        self.hellos: dict[str, m.Hello] = {}
        self.arms: dict[tuple[str, int], m.Arm] = {}
        self.changes: dict[tuple[str, int], list[m.Parameters]] = {}
        self.closes: dict[tuple[str, int], int] = {}
        self.pids: dict[str, int] = {}
        self.held_back: set[str] = set()  # workers that do not get to work
        self.paused: dict[str, set[int]] = {}
        self.durable = durable
        self.logs: dict[tuple[str, int], RigLog] = {}
        self.gone_in_sockets: dict[str, set[int]] = {}  # numbers of frames
        self.seen: dict[tuple[int, str], m.StreamSeen] = {}
        self.stream_of = {s: name for name, streams in ingesters.items() for s, _ in streams}
        self.process_of = {name: name for name in ingesters}
        self.infos = {
            s: m.StreamInfo(s, "T", numbered, numbered, durable)
            for streams in ingesters.values()
            for s, numbered in streams
        }
        self.owners = {
            s: (name, [self.infos[i] for i, _ in streams]) for name, streams in ingesters.items() for s, _ in streams
        }
        self.workers = [RigWorker(f"w{i}", f"w{i}", tags) for i, tags in enumerate(workers)]
        self.reduce: ReduceMachine[Any] | None = None
        self.reduce_map: TriggerMap | None = None
        self.reduce_scan = 0
        self.told_finished = False
        self.in_order = in_order
        self.credit = credit
        self.retention_bytes = retention_bytes
        self.shelf_frames = shelf_frames
        self.shelves: list[ListShelf] = []
        self.folded: list[Folded] = []
        self.processed: list[tuple[int, Part]] = []
        self.worked: list[tuple[str, Part]] = []  # the same by process
        self.replies: dict[int, Reply] = {}
        self.records: list[RecordScan] = []
        self.versions: list[RecordParameters] = []
        self.files: list[WriteFile] = []
        self.dumps: dict[str, dict[str, list[tuple[int, list[Any]]]]] = {}  # of streams, by their ingesters
        for name, streams in ingesters.items():
            self._hello("ingester", name, streams=[self.infos[s] for s, _ in streams])
        for w in self.workers:
            self._hello("worker", w.name, w.place, tags=w.tags)
        self._hello("reducer", self.reducer)

    # -- channels --------------------------------------------------------------------------------------------

    def post(self, src: str, dst: str, payload: Any) -> None:
        self.channels.setdefault((src, dst), deque()).append(payload)

    def step(self) -> bool:
        """Deliver one message of a channel picked at random; False when all are empty (or not read)."""
        keys = [k for k, q in self.channels.items() if q and not self._unread(*k)]
        if not keys:
            return False
        src, dst = self.random.choice(keys)
        payload = self.channels[src, dst].popleft()
        self.now += 0.001
        self._deliver(src, dst, payload)
        return True

    def _unread(self, src: str, dst: str) -> bool:
        """Whether this is a detector whose ingester has no room and does not read it, or has nobody who reads it."""
        if dst == "controller" and self.controller_dead:
            return True
        if src == "self":
            return dst in self.held_back
        if src.startswith("detector ") and (dst not in self.ingest or not self.ingest[dst]):
            return dst not in self.process_of.values() or dst != dst.partition(".")[0]  # it waits for its first scan
        return src.startswith("detector ") and bool(self.paused.get(src.removeprefix("detector ")))

    def settle(self, limit: int = 200_000, *, waiting: bool = False) -> None:
        """Deliver everything, and let time pass until nothing more happens.

        Nothing may be left but, with `waiting`, what detectors send beyond the room that there is for it.
        """
        for _ in range(limit):
            if not self.step():
                self.now += 3.0
                self._fold()
                self._perform(self.controller.tick(self.now))
                if not any(q for key, q in self.channels.items() if not self._unread(*key)):
                    break
        else:
            raise AssertionError("the machines never come to rest")
        left = {src: len(q) for (src, _), q in self.channels.items() if q}
        assert waiting or not left, f"not read any more, with messages waiting: {left}"

    def _deliver(self, src: str, dst: str, payload: Any) -> None:
        if isinstance(payload, m.Arm):
            self.arms[dst, payload.scan] = payload
        elif isinstance(payload, m.Close):
            self.closes[dst, payload.scan] = payload.last_event
        elif isinstance(payload, m.Parameters):
            known = self.changes.setdefault((dst, payload.scan), [])
            if known and payload.version <= known[-1].version:
                return
            known.append(payload)
        if dst == "controller":
            self._perform(self.controller.receive(src.encode(), payload, self.now))
        elif dst in self.ingest:
            self._to_ingester(dst, src, payload)
        elif dst.startswith("reducer"):
            if dst == self.reducer:
                self._to_reducer(src, payload)
        else:
            w = next((w for w in self.workers if w.name == dst), None)
            if w is not None and not w.dead and self._heard(src, w, payload):
                self._to_worker(w, src, payload)

    @staticmethod
    def _heard(src: str, w: RigWorker, payload: Any) -> bool:
        """Whether a worker still listens to who says this: not to a reducer that it left."""
        return payload not in (("logged", w.scan), ("greeting", w.scan)) or src == w.reducer

    def _perform(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.post("controller", action.peer.decode(), action.message)
            elif isinstance(action, Reply):
                self.replies[action.request] = action
            elif isinstance(action, RecordScan):
                self.records.append(action)
            elif isinstance(action, RecordParameters):
                self.versions.append(action)
            elif isinstance(action, WriteFile):
                self.files.append(action)

    def _hello(self, role: str, name: str, place: str = "", **more: Any) -> None:
        self.pids[name] = len(self.pids) + 1
        about = (role, place or name, name, VERSION, self.pids[name], "here")
        self.hellos[name] = m.Hello(*about, url=name, **more)
        self.post(name, "controller", self.hellos[name])

    # -- death -----------------------------------------------------------------------------------------------

    def kill(self, number: int, event: int = -1, *, told: bool = True) -> None:
        """The process of a worker ends: what it was sent is gone, what it sent may still arrive. It is noticed
        (`told`), and that it was at work on `event`."""
        w = self.workers[number]
        w.dead = True
        for (src, dst), queue in self.channels.items():
            if dst == w.name or (src, dst) == ("self", w.name):
                queue.clear()
        if told:
            scan = self.controller.scan.number if self.controller.scan else 0
            self._supervise(m.Gone("worker", w.place, "killed", self.pids[w.name], scan, event))

    def kill_reducer(self) -> None:
        """The reducer's process ends; its result log stays."""
        dead = self.reducer
        for (_, dst), queue in self.channels.items():
            if dst == dead:
                queue.clear()
        self.reducer, self.reduce, self.unsaid = "", None, {}
        self._supervise(m.Gone("reducer", "reducer", "killed", self.pids[dead]))

    def replace_reducer(self) -> None:
        """A new process takes its place."""
        self.born += 1
        self.reducer = f"reducer.{self.born}"
        self._hello("reducer", self.reducer, "reducer")

    def kill_controller(self) -> None:
        """The controller ends; the first of what it sent is on its way all the same, and the last of what it was sent
        will come to another one. The last lines that it wrote may not be on the disk."""
        self.controller_dead = True
        for _ in range(self.random.randint(0, 3)):
            if len(self.files) > 3 and self.files[-1].append:
                self.files.pop()
        for (src, dst), queue in self.channels.items():
            if "controller" in (src, dst):
                left = self.random.randint(0, len(queue))
                while len(queue) > left:
                    queue.pop() if src == "controller" else queue.popleft()

    def _known(self) -> dict[str, dict[str, Any]]:
        """What the ledger has."""
        known: dict[str, dict[str, Any]] = {}
        for record in self.records:
            known.setdefault(record.scan_id, {}).update(record.fields)
        return known

    def _resumption(self) -> Resumption | None:
        """What the ledger has of the newest scan, if that is under way."""
        scan_id, record = list(self._known().items())[-1]
        versions = [
            m.Parameters(record["number"], p.version, p.values, p.from_event)
            for p in self.versions
            if p.scan_id == scan_id and p.from_event is not None
        ]
        return resumption(scan_id, record, versions) if unfinished(record) else None

    def replace_controller(self, *, resumes: bool = False) -> None:
        """A new one looks at the ledger, and hears of the others by and by. Where the one before was to take up the
        scan of a run that was killed, it `resumes` it if that is still to be done."""
        known = self._known()
        numbers = [r["number"] for r in known.values() if "number" in r]
        old = self.controller
        self.controller = ControllerMachine(
            VERSION,
            2,
            policy=self.policy,
            values=old.values,
            version=old.version,
            first_scan=max(numbers, default=0) + 1,
            known=known,
            resumption=self._resumption() if resumes else None,
        )
        self.controller.reports.update(old.reports)
        self.controller_dead = False
        alive = [*self.ingest, *(w.name for w in self.workers if not w.dead), *([self.reducer] if self.reducer else [])]
        for name in alive:
            self.post(name, "controller", m.Beat())
        for message in self.gone:
            self._to_controller(message)

    def kill_all(self) -> None:
        """The whole run ends; only what detectors send waits for the next one."""
        self.controller_dead = True
        for (src, _), queue in self.channels.items():
            if not src.startswith("detector "):
                queue.clear()
        for w in self.workers:
            w.dead = True
        self.reducer, self.reduce, self.unsaid = "", None, {}
        self.ingest.clear()
        self.process_of = dict.fromkeys(self.process_of, "")
        self.paused, self.gone = {}, []

    def resume(self) -> None:
        """It is started again, and takes up the scan by what the ledger has and the result log."""
        known = self._known()
        newest = max(self.versions, key=lambda p: p.version)
        self.controller = ControllerMachine(
            VERSION,
            2,
            policy=self.policy,
            values=newest.values,
            version=newest.version,
            first_scan=list(known.values())[-1]["number"] + 1,
            known=known,
            resumption=self._resumption(),
        )
        self.controller_dead = False
        births = [self.replace_reducer, *(partial(self.replace_ingester, name) for name in self.process_of)]
        births += [partial(self.replace, number) for number in range(len(self.workers))]
        self.random.shuffle(births)
        for birth in births:
            birth()

    def _introduce(self, name: str, inventories: list[m.Inventory]) -> None:
        scans = [inventory.scan for inventory in inventories]
        self.post(name, "controller", msgspec.structs.replace(self.hellos[name], scans=scans))
        for inventory in inventories:
            self.post(name, "controller", inventory)

    def kill_ingester(self, name: str) -> None:
        """An ingester ends, with all frames that it has; what it sent is there only in part."""
        dead = self.process_of[name]
        for (src, dst), queue in self.channels.items():
            if dst == dead and not src.startswith("detector "):
                queue.clear()
            elif src == dead:
                left = self.random.randint(0, len(queue))
                while len(queue) > left:
                    queue.pop()
        del self.ingest[dead]
        self.process_of[name] = ""
        for stream, (owner, _) in self.owners.items():
            if owner == name:
                self.paused.pop(stream, None)
        self._supervise(m.Gone("ingester", name, "killed", self.pids[dead]))

    def replace_ingester(self, name: str) -> None:
        """A new process takes its place. A frame that was in the socket of the one before may be gone."""
        self.born += 1
        self.process_of[name] = new = f"{name}.{self.born}"
        self.ingest[new] = {}
        infos = next(infos for owner, infos in self.owners.values() if owner == name)
        for stream, (owner, _) in self.owners.items():
            if owner != name:
                continue
            old, self.stream_of[stream] = self.stream_of[stream], new
            waiting = self.channels.pop((f"detector {stream}", old), deque())
            if waiting and isinstance(waiting[0][1], Data) and self.random.random() < 0.5:
                self.gone_in_sockets.setdefault(stream, set()).update(waiting.popleft()[1].numbers)
            self.channels[f"detector {stream}", new] = waiting
        self._hello("ingester", new, name, streams=infos)

    def _supervise(self, message: Any) -> None:
        self.gone.append(message)
        if not self.controller_dead:
            self._to_controller(message)

    def _to_controller(self, message: Any) -> None:
        if "supervisor supervisor" not in self.controller.services:
            self._perform(
                self.controller.receive(
                    b"supervisor", m.Hello("supervisor", "supervisor", "s", VERSION, 1, "here"), self.now
                )
            )
        self._perform(self.controller.receive(b"supervisor", message, self.now))

    def replace(self, number: int) -> None:
        """A new process takes the place of a worker."""
        old = self.workers[number]
        self.born += 1
        self.workers[number] = w = RigWorker(f"{old.place}.{self.born}", old.place, old.tags)
        self._hello("worker", w.name, w.place, tags=w.tags)

    def join(self, tags: Sequence[str] = ("generic",)) -> None:
        """One worker more, of a new name."""
        name = f"w{len(self.workers)}"
        self.workers.append(RigWorker(name, name, list(tags)))
        self._hello("worker", name, tags=list(tags))

    # -- people and detectors --------------------------------------------------------------------------------

    def submit(self, trigger_map: TriggerMap, request: int = 1, written: WrittenMap | None = None) -> None:
        self.settle_hellos()
        self._perform(self.controller.submit(Plan(f"scan-{request}", trigger_map, request, written), self.now))

    def settle_hellos(self) -> None:
        for (_, dst), queue in list(self.channels.items()):
            if dst == "controller":
                while queue and isinstance(queue[0], m.Hello):
                    src = next(s for (s, d), q in self.channels.items() if q is queue)
                    self._deliver(src, "controller", queue.popleft())

    def until(self, done: Callable[[], bool]) -> None:
        """Step until the condition holds."""
        while not done():
            assert self.step(), "nothing left to happen, and still not"

    def detector(self, stream: str, items: list[Any]) -> None:
        """A detector will send these items of its framer, each arriving on its own."""
        for item in items:
            self.post(f"detector {stream}", self.stream_of[stream], (stream, item))

    def stop(self, request: int = 99) -> None:
        self._perform(self.controller.stop(request, self.now))

    def set_parameter(self, value: bytes) -> None:
        self._perform(self.controller.set_parameters({"p": value}, self.now))

    @property
    def report(self) -> dict[str, Any]:
        return list(self.controller.reports.values())[-1]

    def reports_ended(self) -> list[str]:
        """How the scans ended, in order."""
        return [r["ended"] for r in self.controller.reports.values()]

    # -- services --------------------------------------------------------------------------------------------

    def _to_ingester(self, name: str, src: str, payload: Any) -> None:
        scans = self.ingest[name]
        if isinstance(payload, tuple) and isinstance(payload[0], str):  # from a detector
            stream, item = payload
            for number in sorted(scans, reverse=True):
                machine = scans[number]
                if stream in machine.map.streams:
                    index = machine.map.streams.index(stream)
                    log = self._log_of(name, number)
                    log.entries.append((stream, item, None))
                    self._ingest(name, machine, machine.feed(index, [item]))
                    log.entries[-1] = (stream, item, machine.mark(index))
                    return
            return
        if isinstance(payload, tuple):  # a grant: (scan, worker, stream, credit)
            scan, worker, stream, credit = payload
            if scan in scans and self.arm_workers[name, scan][worker] == src:
                self._ingest(name, scans[scan], scans[scan].grant(worker, stream, credit))
            return
        if isinstance(payload, m.Arm):
            trigger_map = TriggerMap.from_wire(payload.map)
            specs = [
                StreamSpec(i, s, self.infos[s].numbered, retention_bytes=self.retention_bytes)
                for i, s in enumerate(trigger_map.streams)
                if self.owners[s][0] == name.partition(".")[0]
            ]
            groups = [self._groups(trigger_map, w.tags) for w in payload.workers]
            self.arm_workers[name, payload.scan] = [w.uuid for w in payload.workers]
            scans[payload.scan] = IngestMachine(
                payload.scan,
                trigger_map,
                specs,
                groups,
                version=payload.version,
                dump=bool(payload.record),
                shelf=self._shelf,
                spill=payload.overload == "spill",
            )
            self.post(name, "controller", m.Armed(payload.scan))
            if payload.resume:
                self._resume(name, scans[payload.scan], payload.resume)
            return
        if isinstance(payload, m.Introduce):
            self._introduce(
                name,
                [
                    m.Inventory(
                        number,
                        self.arms[name, number],
                        fillers=self.arm_workers[name, number],
                        changes=self.changes.get((name, number), []),
                        closed=self.closes.get((name, number)),
                        **machine.inventory(),
                    )
                    for number, machine in scans.items()
                ],
            )
            for machine in scans.values():
                for seen in machine.progress():
                    self.post(name, "controller", seen)
            return
        machine = scans.get(getattr(payload, "scan", -1))
        if machine is None:
            return
        match payload:
            case m.Assign():
                self._ingest(name, machine, machine.assign(payload.blocks, payload.settled))
            case m.Fill():
                fillers = self.arm_workers[name, payload.scan]
                if payload.joined is not None and payload.worker == len(fillers):
                    self._more(name, payload)
                    fillers.append("")
                    machine.join(self._groups(machine.map, payload.joined.tags))
                if fillers[payload.worker] != payload.uuid:
                    fillers[payload.worker] = payload.uuid
                    self._ingest(name, machine, machine.fill(payload.worker, bool(payload.uuid)))
                if payload.uuid:
                    self.post(name, "controller", m.Filled(payload.scan, payload.worker, payload.uuid))
            case m.Release():
                self._ingest(name, machine, machine.release(payload))
                if self.random.random() < 0.5:
                    self._log_of(name, payload.scan).trim(machine)
            case m.Waits():
                self._ingest(name, machine, machine.waits(payload.streams))
            case m.Halt():
                self._ingest(name, machine, machine.halt())
            case m.Close():
                self._ingest(name, machine, machine.close(payload.last_event))
            case m.Fence():
                self._ingest(name, machine, machine.fence(payload.version))
            case m.Parameters():
                self._ingest(name, machine, machine.set_version(payload.version, payload.from_event))
            case m.End():
                self.ingest_ended[name, payload.scan] = scans.pop(payload.scan)
                for stream in machine.map.streams:
                    if self.owners[stream][0] == name.partition(".")[0]:
                        self.paused.get(stream, set()).discard(payload.scan)

    def _log_of(self, name: str, scan: int) -> RigLog:
        return self.logs.setdefault((name.partition(".")[0], scan), RigLog())

    def _resume(self, name: str, machine: IngestMachine, series: dict[str, m.Series]) -> None:
        if not self.durable:
            self._ingest(name, machine, machine.resume(series))
            return
        log, index = self._log_of(name, machine.scan), machine.map.streams.index
        machine.take_up(series)
        for stream, mark in log.begins.items():
            self._ingest(name, machine, machine.go_on(index(stream), mark))
        for (stream, ordinal), frame in log.kept.items():
            machine.keep(index(stream), ordinal, frame)
        for at, (stream, item, _) in enumerate(log.entries):
            if isinstance(item, Mark):
                self._ingest(name, machine, machine.go_on(index(stream), item))
                continue
            self._ingest(name, machine, machine.feed(index(stream), [item]))
            log.entries[at] = (stream, item, machine.mark(index(stream)))
        self._ingest(name, machine, machine.taken_up(series))
        for stream in series:
            if (mark := machine.mark(index(stream))).base is None:
                log.entries.append((stream, mark, None))

    def _shelf(self) -> ListShelf:
        self.shelves.append(ListShelf(self.shelf_frames))
        return self.shelves[-1]

    def _ingest(self, name: str, machine: IngestMachine, actions: list[Any]) -> None:
        for seen in machine.progress():
            if self.seen.get((machine.scan, seen.stream)) != seen:
                self.seen[machine.scan, seen.stream] = seen
                self.post(name, "controller", seen)
        for action in actions:
            if isinstance(action, Tell):
                self.post(name, "controller", action.message)
            elif isinstance(action, Dump):
                dump = self.dumps.setdefault(machine.map.streams[action.stream], {}).setdefault(name, [])
                dump += zip(action.events.tolist(), action.frames, strict=True)
            elif isinstance(action, Pause):
                self.paused.setdefault(machine.map.streams[action.stream], set()).add(machine.scan)
            elif isinstance(action, Resume):
                self.paused[machine.map.streams[action.stream]].remove(machine.scan)
            elif isinstance(action, SendFrames):
                parts, _ = encode_frames(
                    machine.scan,
                    action.stream,
                    action.version,
                    action.events,
                    action.k,
                    action.frames,
                    action.closed,
                    again=action.again,
                )
                self.post(name, self.arm_workers[name, machine.scan][action.worker], (machine.scan, parts))
            elif isinstance(action, SendGap):
                self.post(name, self.arm_workers[name, machine.scan][action.worker], (machine.scan, action))

    @staticmethod
    def _groups(trigger_map: TriggerMap, tags: list[str]) -> int:
        return sum(1 << g for g, wanted in enumerate(trigger_map.groups) if wanted <= set(tags))

    def _to_worker(self, w: RigWorker, src: str, payload: Any) -> None:
        if isinstance(payload, m.Arm):
            trigger_map = TriggerMap.from_wire(payload.map)
            w.me = [i.uuid for i in payload.workers].index(w.name)
            w.joined, w.finish = payload.workers[w.me].joined, False
            infos = [self.infos[s] for s in trigger_map.streams]
            w.machine = WorkMachine(trigger_map, w.me, self._groups(trigger_map, w.tags), infos, payload.version)
            w.scan, w.versions = payload.scan, [(0, payload.version)]
            where = {s: info.url for info in payload.ingesters for s in info.streams}
            w.sources, w.heard = [where.get(s, "") for s in trigger_map.streams], set()
            for i, source in enumerate(w.sources):
                self.post(w.name, source, (payload.scan, w.me, i, self.credit))
            self.post(w.name, "controller", m.Armed(payload.scan))
            w.reducer, w.unconfirmed, w.greeted = payload.reducer_url, deque(), False
            self.post(w.name, w.reducer, ("greeting", payload.scan))
            return
        if isinstance(payload, tuple) and payload[0] == "greeting":
            if payload[1] == w.scan and not w.greeted:
                w.greeted = True
                for results in w.unconfirmed:
                    self.post(w.name, w.reducer, results)
            return
        if isinstance(payload, tuple) and payload[0] == "logged":
            if payload[1] == w.scan:
                w.unconfirmed.popleft()
            return
        if payload == "work":
            self._work(w)
            self._finish(w, 0)
            return
        if isinstance(payload, m.Introduce):
            number = w.scan
            known = (
                []
                if w.machine is None
                else [
                    m.Inventory(
                        number,
                        self.arms[w.name, number],
                        blocks=w.machine.blocks,
                        assigned=w.machine.assigned,
                        changes=self.changes.get((w.name, number), []),
                        closed=self.closes.get((w.name, number)),
                    )
                ]
            )
            self._introduce(w.name, known)
            return
        if isinstance(payload, m.Welcome):
            return
        if isinstance(payload, m.Refused):  # its process ends, and its supervisor starts another one
            number = self.workers.index(w)
            self.kill(number)
            self.replace(number)
            return
        if isinstance(payload, tuple):
            scan, action = payload
            if scan == w.scan and w.machine is not None and src in w.sources:  # not an ingester that it left
                w.heard.add(src)
                if isinstance(action, list):
                    self._take_frames(w, src, scan, action)
                else:
                    w.machine.gap(action.stream, action.runs, action.tail, action.closed)
        elif w.machine is not None and payload.scan == w.scan:
            match payload:
                case m.Assign():
                    w.machine.assign(payload.blocks, payload.assigned, payload.settled, payload.reached)
                case m.Close():
                    w.machine.close(payload.last_event)
                case m.Conclude():
                    w.machine.conclude()
                case m.Halt():
                    come = dict.fromkeys(w.machine.map.streams, (max(w.machine.halt(), 0), False))
                    self.post(w.name, "controller", m.Halted(w.scan, come))
                case m.Fence():
                    self.post(w.name, "controller", m.FenceReached(w.scan, payload.version, w.machine.latest))
                case m.Parameters():
                    w.versions.append((payload.from_event, payload.version))
                    w.machine.parameters(payload.version)
                case m.Rejoined():
                    for i, s in enumerate(w.machine.map.streams):
                        url = payload.ingester.url
                        if s in payload.ingester.streams and (w.sources[i] != url or url not in w.heard):
                            w.sources[i] = url
                            self.post(w.name, w.sources[i], (w.scan, w.me, i, self.credit))
                case m.Moved():
                    if w.reducer != payload.url or not w.greeted:
                        w.reducer, w.greeted = payload.url, False
                        self.post(w.name, w.reducer, ("greeting", w.scan))
                case m.Finish():
                    told, w.finish = w.finish, True
                    self._finish(w, 1 + told)
                case m.End():
                    w.machine = None
                    return
        if not any(p == "work" for p in self.channels.get(("self", w.name), ())):
            self.post("self", w.name, "work")

    def _finish(self, w: RigWorker, told: int) -> None:
        """One that joined sees what is broadcast before, unless it is told twice."""
        if w.finish and w.machine is not None and (told > 1 or not w.joined or w.machine.passed):
            w.finish = False
            self.post(w.name, "controller", m.Finished(w.scan))

    def _take_frames(self, w: RigWorker, src: str, scan: int, parts: list[Any]) -> None:
        header = decode_header(parts[0])
        assert isinstance(header, FrameBatch) and w.machine is not None
        frames = decode_frames(header, parts[1:])
        events, k = unpack_events(header.events, header.n), unpack_positions(header.k, header.n)
        w.machine.frames(header.stream, header.version, events, k, frames, header.closed, again=header.again)
        size = sum(len(p) for f in frames for p in f)
        if src == w.sources[header.stream]:
            self.post(w.name, src, (scan, w.me, header.stream, size))

    def _work(self, w: RigWorker) -> None:
        if w.machine is None:
            return
        parts = w.machine.take(self.random.choice([1, 3, 50]))
        if not parts:
            return
        self.processed += [(w.me, p) for p in parts]
        self.worked += [(w.name, p) for p in parts]
        self.post("self", w.name, "work")
        if w.joined and self.random.random() < 0.5:  # else the reducer leaves it out
            parts = [p for p in parts if p.k >= 0]
        if not parts:
            return
        states = [
            (EventState.INCOMPLETE_SKIPPED if p.missing else EventState.NO_RESULT)
            if not p.call
            else EventState.INCOMPLETE
            if p.missing
            else EventState.REDUCED
            for p in parts
        ]
        done = [Folded(p.event, p.k, w.me, tuple(sorted(p.streams)), w.version_at(p.event)) for p in parts]
        events = pack_events(np.array([p.event for p in parts], dtype=np.int64))
        ks = pack_positions(np.array([p.k for p in parts], dtype=np.int16))
        results = (w.scan, done, events, ks, [int(s) for s in states])
        w.unconfirmed.append(results)
        if w.greeted:
            self.post(w.name, w.reducer, results)

    def _to_reducer(self, src: str, payload: Any) -> None:
        if isinstance(payload, m.Introduce):
            number = self.reduce_scan
            known = (
                []
                if self.reduce is None
                else [
                    m.Inventory(
                        number,
                        self.arms[self.reducer, number],
                        fillers=self.fillers,
                        changes=self.changes.get((self.reducer, number), []),
                        closed=self.closes.get((self.reducer, number)),
                        done=self.told_all.inventory(number),
                    )
                ]
            )
            self._introduce(self.reducer, known)
            return
        if isinstance(payload, m.Welcome):
            return
        if isinstance(payload, m.Arm):
            self.reduce_map = TriggerMap.from_wire(payload.map)
            targets = [
                sum(1 << i for i, w in enumerate(payload.workers) if tags <= set(w.tags) and not w.joined)
                for tags in self.reduce_map.groups
            ]
            self.reduce = ReduceMachine(
                self.reduce_map, targets, patience=payload.fold_patience, in_order=self.in_order
            )
            self.reduce_scan, self.told_finished, self.closed = payload.scan, False, False
            self.fillers = [w.uuid for w in payload.workers]
            self.folded, self.told_all = [], Told()
            if self.log_of != payload.scan:
                self.log, self.log_of = [], payload.scan
            completed: list[Any] = []
            lacked: list[Any] = []
            for entry in self.log:
                if isinstance(entry, tuple):
                    _, more, lacking = self._logged(entry)
                    lacked.append(lacking)
                else:
                    more = self._dropped(entry)
                completed += more
            if self.log:
                told = m.PartsDone(payload.scan, completed, {}, self.reduce.frontier, inventory=True)
                self._tell(told)
                for lacking in lacked:
                    self._tell(m.PartsDone(payload.scan, [], {}, self.reduce.frontier, incomplete=lacking))
                self._fold()
            self.post(self.reducer, "controller", m.Armed(payload.scan))
        elif isinstance(payload, tuple):
            if payload[0] == "greeting":
                if payload[1] == self.reduce_scan and self.reduce is not None:
                    self.post(self.reducer, src, payload)
                return
            scan, done = payload[:2]
            if scan == self.reduce_scan and self.fillers[done[0].worker] != src:
                return
            if scan == self.reduce_scan and self.reduce is not None:
                self.log.append(payload)
                count, completed, lacking = self._logged(payload)
                if self.random.random() < 0.7:
                    while self.unsaid.get(src):
                        self.post(self.reducer, src, self.unsaid[src].pop())
                    self.post(self.reducer, src, ("logged", scan))
                else:
                    self.unsaid.setdefault(src, []).append(("logged", scan))
                frontier = self.reduce.frontier
                done = m.PartsDone(scan, completed, count, frontier, incomplete=lacking, closed=self.closed)
                self._tell(done)
                self._fold()
        elif self.reduce is not None and payload.scan == self.reduce_scan:
            if isinstance(payload, m.Close):
                if self.closed:
                    return
                assert self.reduce_map is not None
                self.reduce_map = self.reduce_map.closed_at(payload.last_event)
                completed = self.reduce.close(self.reduce_map)
                self.closed = True
                told = m.PartsDone(payload.scan, completed, {}, self.reduce.frontier, closed=True)
                self._tell(told)
                self._fold()
            elif isinstance(payload, m.Drop):
                self.log.append(payload)
                completed = self._dropped(payload)
                told = m.PartsDone(payload.scan, completed, {}, self.reduce.frontier, closed=self.closed)
                self._tell(told)
                self._fold()
            elif isinstance(payload, m.Fill):
                if payload.joined is not None and payload.worker == len(self.fillers):
                    self._more(self.reducer, payload)
                    self.fillers.append("")
                self.fillers[payload.worker] = payload.uuid
                if payload.uuid:
                    self.post(self.reducer, "controller", m.Filled(payload.scan, payload.worker, payload.uuid))
            elif isinstance(payload, m.Vacate):
                completed = self.reduce.vacate(payload.worker)
                told = m.PartsDone(payload.scan, completed, {}, self.reduce.frontier, closed=self.closed)
                self._tell(told)
                self._fold()
            elif isinstance(payload, m.Halt):
                come = dict.fromkeys(self.reduce.map.streams, (max(self.reduce.highest, 0), False))
                self.post(self.reducer, "controller", m.Halted(payload.scan, come))
            elif isinstance(payload, m.Fence):
                reached = m.FenceReached(payload.scan, payload.version, self.reduce.highest)
                self.post(self.reducer, "controller", reached)
            elif isinstance(payload, m.Finish):
                out = self.reduce.out_of_order
                self.post(self.reducer, "controller", m.Finished(payload.scan, out_of_order=out))
            elif isinstance(payload, m.End):
                self.reduce = None

    def _more(self, name: str, message: m.Fill) -> None:
        """A service hears of one logical worker more: a new controller will hear of it."""
        arm = self.arms[name, message.scan]
        self.arms[name, message.scan] = msgspec.structs.replace(arm, workers=[*arm.workers, message.joined])

    def _tell(self, message: m.PartsDone) -> None:
        self.told_all.add(message)
        self.post(self.reducer, "controller", message)

    def _lacking(self, payload: Any, fresh: Any) -> dict[str, list[tuple[int, int]]]:
        """Which events of these results lack which streams, where they are new."""
        assert self.reduce_map is not None
        found: dict[str, list[tuple[int, int]]] = {}
        for f, state, new in zip(payload[1], payload[4], fresh.tolist(), strict=True):
            for stream in self.reduce_map.streams:
                lacks = state in (EventState.INCOMPLETE, EventState.INCOMPLETE_SKIPPED) and stream not in f.streams
                if new and lacks:
                    found.setdefault(stream, []).append((f.event, f.event + 1))
        return found

    def _logged(self, payload: Any) -> tuple[dict[int, int], list[Any], dict[str, list[tuple[int, int]]]]:
        _, done, packed, positions, states = payload
        assert self.reduce is not None
        events, ks = unpack_events(packed, len(done)), unpack_positions(positions, len(done))
        fresh, completed = self.reduce.logged(done, events, ks, np.array(states, np.uint8), self.now)
        count = {done[0].worker: int((fresh & np.greater_equal(ks, 0)).sum())}
        return count, completed, self._lacking(payload, fresh)

    def _dropped(self, message: m.Drop) -> list[Any]:
        assert self.reduce is not None
        return [run for lo, hi in message.blocks for run in self.reduce.drop(lo, hi)]

    def _fold(self) -> None:
        if self.reduce is None:
            return
        for fold in self.reduce.fold(self.now):
            self.folded += [fold.batch[i] for i in fold.index]
        self._tell_finished()

    def _tell_finished(self) -> None:
        assert self.reduce is not None
        if self.reduce.finished and not self.told_finished:
            self.told_finished = True
            done = m.PartsDone(self.reduce_scan, [], {}, self.reduce.frontier, closed=self.closed, finished=True)
            self._tell(done)
