"""Ingesters, workers and reducer as the controller sees them: what they say, and when.

They speak the real control messages; frames and results are runs of events that arrive later. The reducer counts parts
with the tracker of the real one.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from beamfold.model.parts import PartTracker
from beamfold.model.runs import RunSet
from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols import messages as m
from simulation.clock import Clock
from simulation.setup import Setup

BEAT = 1.0
PROGRESS = 0.2
"""Seconds between heartbeats, and between words of an ingester on how far it is; as in the services."""

STEP = 0.5e-3
"""Seconds between two looks of the ingesters at a slow detector."""

Say = Callable[[m.Message], None]
Batch = tuple[int, int, list[m.Run]]
"""Results: logical worker, position k in the event, runs of events."""


class Service:
    """What all of them do. `say` sends a message to the controller."""

    role = ""

    def __init__(self, name: str, clock: Clock, say: Say) -> None:
        self.name = name
        self.clock = clock
        self.say = say
        self.scan = 0
        self.events = 0

    def hello(self, version: str, **more: Any) -> m.Hello:
        return m.Hello(self.role, self.name, self.name, version, 1, "host", url="tcp://10.0.0.1:40000", **more)

    def beat(self) -> None:
        """Say that all is well, once a second from now on."""
        stats = {"scan": self.scan, "events": self.events, "last_event": self.events, "active": 0.5, "total": 1.0}
        self.say(m.Beat(stats))
        self.clock.at(self.clock.now + BEAT, self.beat)


class Worker(Service):
    """Processes what comes in slices, as long as there is something. `each` is what an event takes it on average."""

    role = "worker"

    def __init__(self, name: str, clock: Clock, say: Say, number: int, each: float, setup: Setup) -> None:
        super().__init__(name, clock, say)
        self.number = number
        self.send: Callable[[Batch], None] = lambda batch: None
        self.assigned = 0
        self.heard = 0.0
        self.idle = 0.0
        self.last = 0.0
        self._each = each
        self._jitter = setup.jitter
        self._time = setup.slice_time
        self._random = random.Random(f"{setup.seed} {name}")
        self._here: deque[m.Run] = deque()
        self._busy = False

    def receive(self, message: Any) -> None:
        match message:
            case m.Arm():
                self.scan = message.scan
                self.say(m.Armed(message.scan))
                self._results([(0, 1)], -1 - self.number)
            case m.Assign():
                assert message.assigned >= self.assigned, "the controller took something back"
                self.assigned, self.heard = message.assigned, self.clock.now
            case m.Close():
                self.end = message.last_event + 1
            case m.Conclude():
                self._results([(self.end, self.end + 1)], -1 - self.number)
            case m.Finish():
                self.say(m.Finished(message.scan))

    def frames(self, lo: int, hi: int) -> None:
        """All frames of events lo..hi-1 are here."""
        self._here.append((lo, hi))
        if not self._busy:
            if self.events:
                self.idle += self.clock.now - self.last
            self._slice()

    def _slice(self) -> None:
        each = self._each * math.exp(self._random.gauss(0.0, self._jitter))
        left = most = max(1, int(self._time / each))
        runs: list[m.Run] = []
        while self._here and left:
            lo, hi = self._here.popleft()
            stop = min(hi, lo + left)
            runs.append((lo, stop))
            left -= stop - lo
            if stop < hi:
                self._here.appendleft((stop, hi))
        self._busy = True
        self.clock.at(self.clock.now + (most - left) * each, self._sliced, runs, most - left)

    def _sliced(self, runs: list[m.Run], events: int) -> None:
        self._busy = False
        self.last = self.clock.now
        self.events += events
        self._results(runs, 0)
        if self._here:
            self._slice()

    def _results(self, runs: list[m.Run], k: int) -> None:
        self.send((self.number, k, runs))


class Reducer(Service):
    """Logs in one turn all results that are there, tells the controller of them in one message, and folds."""

    role = "reducer"

    def __init__(self, clock: Clock, say: Say, setup: Setup) -> None:
        super().__init__("reducer", clock, say)
        self._setup = setup
        self._inbox: list[Batch] = []
        self._busy = False
        self._closed = False
        self._told = False

    def receive(self, message: Any) -> None:
        match message:
            case m.Arm():
                self.scan = message.scan
                self._map = TriggerMap.from_wire(message.map)
                self._tracker = PartTracker(self._map, self._map.targets([w.tags for w in message.workers]))
                self.say(m.Armed(message.scan))
            case m.Close():
                self._map, self._closed = self._map.closed_at(message.last_event), True
                completed = self._tracker.close(self._map)
                self.say(m.PartsDone(self.scan, completed, {}, self._tracker.frontier, closed=True))
                self._tell_finished()
            case m.Finish():
                self.say(m.Finished(message.scan))

    def results(self, batch: Batch) -> None:
        self._inbox.append(batch)
        if not self._busy:
            self._turn()

    def _turn(self) -> None:
        self._busy = True
        batches, self._inbox = self._inbox, []
        completed: list[tuple[int, int, int]] = []
        parts: dict[int, int] = {}
        results = 0
        for worker, k, runs in batches:
            parts.setdefault(worker, 0)
            for lo, hi in runs:
                fresh, over = self._tracker.add(np.arange(lo, hi), k, EventState.REDUCED)
                assert bool(fresh.all()), f"events {lo} to {hi - 1} were done twice"
                completed += over
                parts[worker] += hi - lo if k >= 0 else 0
                results += hi - lo
        self.events += results
        logged = self.clock.now + len(batches) * self._setup.log_time
        message = m.PartsDone(self.scan, _merged(completed), parts, self._tracker.frontier, closed=self._closed)
        self.clock.at(logged, self.say, message)
        folded = max(logged + results * self._setup.fold_time, self.clock.now + self._setup.gather_time)
        self.clock.at(folded, self._folded)

    def _folded(self) -> None:
        self._busy = False
        self._tell_finished()
        if self._inbox:
            self._turn()

    def _tell_finished(self) -> None:
        if self._tracker.finished and not (self._told or self._busy):
            self._told = True
            self.say(m.PartsDone(self.scan, [], {}, self._tracker.frontier, closed=self._closed, finished=True))


def _merged(completed: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Adjacent runs of the same state as one."""
    out: list[tuple[int, int, int]] = []
    for lo, hi, state in completed:
        if out and out[-1][1:] == (lo, state):
            lo = out.pop()[0]
        out.append((lo, hi, int(state)))
    return out


class Ingester(Service):
    """One stream of the detector; how far it is with it is what all of them know together."""

    role = "ingester"

    def __init__(self, name: str, clock: Clock, say: Say, stream: str, together: Ingesters) -> None:
        super().__init__(name, clock, say)
        self.stream = stream
        self._together = together
        self._seen = -1

    def receive(self, message: Any) -> None:
        match message:
            case m.Arm():
                self.scan = message.scan
                self.say(m.Armed(message.scan))
                self.clock.at(self.clock.now + PROGRESS, self._progress)
            case m.Fence():
                self._together.hold()
                self.say(m.FenceReached(message.scan, message.version, self._together.sent))
            case m.Parameters():
                self._together.go_on(message.from_event)
            case m.End():
                self.scan = 0

    def ended(self) -> None:
        """The series end came."""
        self._tell("ended")
        self.say(m.StreamEnded(self.scan, self.stream, self._together.sent, self._together.sent))

    def _progress(self) -> None:
        if self.scan:
            self.events = self._together.sent
            if self.events != self._seen:
                self._tell("running")
            self.clock.at(self.clock.now + PROGRESS, self._progress)

    def _tell(self, phase: str) -> None:
        self._seen = sent = self._together.sent
        self.say(m.StreamSeen(self.scan, self.stream, phase, sent, sent, 1 << 20))


class Ingesters:
    """The data path of all ingesters: a block's frames are at its worker when the last of them has heard of it.

    `deliver(worker, lo, hi)` brings events lo..hi-1 to a worker.
    """

    def __init__(self, setup: Setup, trigger_map: TriggerMap, clock: Clock) -> None:
        self._setup = setup
        self._map = trigger_map
        self._clock = clock
        self.each: Sequence[Ingester] = ()
        self.deliver: Callable[[int, int, int], None] = lambda worker, lo, hi: None
        self.sent = 0
        self.blocks = 0
        self.holds = 0
        self.released = RunSet()
        self._virtual = 0
        self._queue: deque[tuple[int, int, int]] = deque()
        self._hold: float = math.inf
        self._begun: float | None = None
        self._waiting = False
        self._ended = False

    def assign(self, message: m.Assign) -> None:
        """All of them have heard of these blocks."""
        for block in message.blocks:
            assert block.lo == self._virtual, f"virtual worker {block.lo} follows {self._virtual - 1}"
            self._virtual = block.hi
            first, last = self._map.span(block.lo)[0], self._map.span(block.hi - 1)[1]
            self._queue.append((first, last + 1, block.worker))
        self.blocks += len(message.blocks)
        assert message.assigned == self._virtual
        self._flow()

    def release(self, message: m.Release) -> None:
        """Frames that nobody needs any more."""
        for lo, hi in message.runs:
            assert self.released.add(lo, hi) == hi - lo, f"events {lo} to {hi - 1} were released twice"

    def hold(self) -> None:
        """New parameters are coming: nothing more is sent."""
        self._hold = min(self._hold, self.sent)

    def go_on(self, from_event: int) -> None:
        """The parameters are known, to one of the ingesters; the last one lets the frames go on."""
        assert from_event > self.sent, "the parameters come too late for what is sent"
        self.holds += 1
        if self.holds % len(self.each) == 0:
            self._hold = math.inf
            self._flow()

    def _flow(self) -> None:
        """Send what has arrived and has its worker."""
        if self._begun is None:
            self._begun = self._clock.now
        rate = self._setup.rate
        there = math.floor((self._clock.now - self._begun) * rate + 1e-6) if rate else math.inf
        limit = min(there, self._hold)
        while self._queue and self._queue[0][0] <= limit:
            lo, hi, worker = self._queue.popleft()
            stop = int(min(hi, limit + 1))
            self.deliver(worker, lo, stop)
            self.sent = stop - 1
            if stop < hi:
                self._queue.appendleft((stop, hi, worker))
        if self.sent == self._setup.events and not self._ended:
            self._ended = True
            for ingester in self.each:
                ingester.ended()
        elif self._queue and self.sent < self._hold and rate and not self._waiting:
            self._waiting = True
            due = self._begun + (self.sent + 1) / rate
            self._clock.at(max(due, self._clock.now + STEP), self._look)

    def _look(self) -> None:
        self._waiting = False
        self._flow()
