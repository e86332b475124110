"""A whole scan: the controller machine in the middle, and what it costs."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beamfold.dispatch.actions import Action, Note, Reply, Send
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.scan import Phase, Plan
from beamfold.model.triggermap import compile_map
from beamfold.protocols import messages as m
from beamfold.protocols.messages import decode_to_controller, encode_message
from simulation.clock import Clock, Line
from simulation.services import BEAT, Batch, Ingester, Ingesters, Reducer, Service, Worker
from simulation.setup import Setup

VERSION = "simulated"

TICK = 0.05
"""Seconds between ticks of the controller."""

DEADLINE = 1e5
"""Seconds of virtual time in which a scan is over."""


@dataclass
class Counts:
    """What the controller did so far. `cpu` in seconds: reading messages, the machine's calls, and writing messages."""

    time: float = 0.0
    events: int = 0
    blocks: int = 0
    turns: int = 0
    cpu: float = 0.0
    received: int = 0
    sent: int = 0
    nbytes: int = 0

    def since(self, before: Counts) -> Counts:
        return Counts(**{name: value - getattr(before, name) for name, value in vars(self).items()})


@dataclass
class Outcome:
    """A scan that is over. `whole` is from when it ran; `steady` from a third of the events until all were given out.

    `kinds` counts messages to services by their type. `utilisation` is the share of the steady time in which workers
    had something to do. `tail` are the seconds from the last block given out to the last event processed, `uneven`
    those from the last event of the first worker without work; `stale` is the longest that a worker heard nothing.
    """

    setup: Setup
    report: dict[str, Any]
    whole: Counts
    steady: Counts
    kinds: Counter[str]
    utilisation: float
    tail: float
    uneven: float
    stale: float
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Seconds of the steady time that the controller needed: its CPU, and its socket for every message."""
        return self.steady.cpu + (self.steady.received + self.steady.sent) * self.setup.line_time

    @property
    def figures(self) -> dict[str, float]:
        """What a table shows of the steady time; `load` 1 is a controller that can do no more."""
        steady, events = self.steady, max(self.steady.events, 1)
        time = max(steady.time, 1e-9)
        return {
            "events/s": steady.events / time,
            "events/block": events / max(steady.blocks, 1),
            "blocks/s": steady.blocks / time,
            "messages/event": (steady.received + steady.sent) / events,
            "bytes/event": steady.nbytes / events,
            "µs/event": self.busy / events * 1e6,
            "load": self.busy / time,
            "workers busy": self.utilisation,
            "tail": self.tail,
        }


class Cluster:
    """Runs one scan; `run` may be called once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.clock = Clock()
        self.machine = ControllerMachine(VERSION, 1, values={"p": b"0"})
        self.map = compile_map({"streams": setup.streams, "events": setup.events, "batch": setup.batch})
        self.ingesters = Ingesters(setup, self.map, self.clock)
        self.counts = Counts()
        self.kinds: Counter[str] = Counter()
        self._random = random.Random(setup.seed)
        self._inbox: list[tuple[bytes, bytes]] = []
        self._asked: list[Callable[[], list[Action]]] = []
        self._busy = False
        self._outstanding = [0] * setup.workers
        self._marks: dict[str, Counts] = {}
        self._changed = setup.change_at is None
        self._stale = 0.0
        self.services: dict[bytes, tuple[Any, Line]] = {}
        self._make()

    def run(self) -> Outcome:
        """The scan from its submission to its report. AssertionError: something was done twice, not at all, or late."""
        self.clock.run(lambda: len(self.machine.services) == len(self.services), DEADLINE)
        self._asked.append(lambda: self.machine.submit(Plan("scan", self.map, 1), self.clock.now))
        self.clock.at(self.clock.now, self._tick)
        self.clock.run(lambda: bool(self.machine.reports), DEADLINE)
        return self._outcome()

    # -- the cluster -----------------------------------------------------------------------------------------

    def _make(self) -> None:
        setup = self.setup
        deviate = random.Random(f"{setup.seed} speed")
        each = [setup.event_time * math.exp(deviate.gauss(0.0, setup.spread)) for _ in range(setup.workers)]
        self.workers = [
            Worker(name, self.clock, self._say(name), i, each[i], setup)
            for i, name in enumerate(f"w{i:04}" for i in range(setup.workers))  # in the order that names have
        ]
        names = [f"i{i:03}" for i in range(setup.ingesters)]
        ingesters = [Ingester(n, self.clock, self._say(n), f"s{n[1:]}", self.ingesters) for n in names]
        self.ingesters.each = [i for i in ingesters if i.stream in setup.streams]
        self.reducer = Reducer(self.clock, self._say("reducer"), setup)
        for i in ingesters:
            self._add(i, streams=[m.StreamInfo(i.stream, "STINS", True)])
        for w in self.workers:
            self._add(w, tags=["generic"])
            w.send = self._results(self._line())
        self._add(self.reducer)
        frames = [self._line() for _ in self.workers]

        def deliver(worker: int, lo: int, hi: int) -> None:
            self.clock.at(frames[worker].arrival(), self.workers[worker].frames, lo, hi)

        self.ingesters.deliver = deliver

    def _add(self, service: Service, **more: Any) -> None:
        self.services[service.name.encode()] = (service, self._line())
        service.say(service.hello(VERSION, **more))
        self.clock.at(self._random.uniform(0, BEAT), service.beat)

    def _line(self) -> Line:
        return Line(self.clock, self._random, self.setup.delay)

    def _say(self, name: str) -> Callable[[m.Message], None]:
        line, peer = self._line(), name.encode()

        def say(message: m.Message) -> None:
            self.clock.at(line.arrival(), self._arrived, peer, encode_message(message))

        return say

    def _results(self, line: Line) -> Callable[[Batch], None]:
        return lambda batch: self.clock.at(line.arrival(), self.reducer.results, batch)

    # -- the controller --------------------------------------------------------------------------------------

    def _arrived(self, peer: bytes, data: bytes) -> None:
        self._inbox.append((peer, data))
        if not self._busy:
            self._turn()

    def _turn(self) -> None:
        """Take what is there; what comes meanwhile waits for the next turn."""
        (inbox, self._inbox), (asked, self._asked) = (self._inbox, []), (self._asked, [])
        began = time.thread_time()
        messages = [(peer, decode_to_controller(data)) for peer, data in inbox]
        actions = self.machine.receive_all(messages, self.clock.now)
        actions += [action for ask in asked for action in ask()]
        actions += self.machine.tick(self.clock.now)
        sends = [a for a in actions if isinstance(a, Send)]
        sizes = self._write(sends)
        spent = time.thread_time() - began
        counts = self.counts
        counts.turns += 1
        counts.received += len(messages)
        counts.cpu += spent
        counts.sent += len(sends)
        counts.nbytes += sum(sizes)
        lines = (len(messages) + len(sends)) * self.setup.line_time
        took = spent + lines if self.setup.turn_time is None else self.setup.turn_time
        self._busy = True
        self.clock.at(self.clock.now + took, self._leave, sends)
        self._keep_books([message for _, message in messages], sends)
        for action in actions:
            assert not isinstance(action, Note) or action.level == "info", action
            assert not isinstance(action, Reply) or action.error is None, action
        self._mark()

    def _tick(self) -> None:
        if not self._busy:
            self._turn()
        self.clock.at(self.clock.now + TICK, self._tick)

    def _write(self, sends: Iterable[Send]) -> list[int]:
        """As the controller's socket does: what goes to many in a row is encoded once."""
        sizes: list[int] = []
        last = None
        for send in sends:
            if send.message is not last:
                last, size = send.message, len(encode_message(send.message))
            sizes.append(size)
        return sizes

    def _leave(self, sends: list[Send]) -> None:
        self._busy = False
        heard: dict[int, tuple[m.Message, float]] = {}  # what all ingesters get counts when the last of them has it
        for send in sends:
            message = send.message
            self.kinds[type(message).__name__] += 1
            service, line = self.services[send.peer]
            arrival = line.arrival()
            if isinstance(service, Ingester) and isinstance(message, m.Assign | m.Release):
                _, latest = heard.get(id(message), (message, 0.0))
                heard[id(message)] = (message, max(latest, arrival))
                continue
            if isinstance(message, m.Assign):
                self._stale = max(self._stale, arrival - service.heard if service.heard else 0.0)
            self.clock.at(arrival, service.receive, message)
        for message, arrival in heard.values():
            to = self.ingesters.assign if isinstance(message, m.Assign) else self.ingesters.release
            self.clock.at(arrival, to, message)
        if self._inbox and not self._busy:
            self._turn()

    # -- what is looked at -----------------------------------------------------------------------------------

    def _keep_books(self, messages: Iterable[m.Message], sends: Iterable[Send]) -> None:
        """What every worker was given and has done; whoever did something has work, as long as there is any."""
        reports = [message.parts for message in messages if isinstance(message, m.PartsDone)]
        for parts in reports:
            for worker, count in parts.items():
                self._outstanding[worker] -= count
                self.counts.events += count
                assert self._outstanding[worker] >= 0, f"worker {worker} did what it was not given"
        for send in sends:
            service, _ = self.services[send.peer]
            if isinstance(service, Worker) and isinstance(send.message, m.Assign):
                given = sum(self.map.part_total(b.lo, b.hi) for b in send.message.blocks)
                self._outstanding[service.number] += given
        scan = self.machine.scan
        if scan is not None and scan.assigning and scan.dispatcher.next_event is not None:
            for parts in reports:
                idle = [worker for worker in parts if not self._outstanding[worker]]
                assert not idle, f"workers {idle} have nothing to do, and there is work"

    def _mark(self) -> None:
        """Remember how things stood when the windows had grown, and when the last block was given out."""
        scan, counts = self.machine.scan, self.counts
        if scan is None or scan.phase is Phase.ENDED:
            return
        counts.time, counts.blocks = self.clock.now, self.ingesters.blocks
        given, total = scan.dispatcher.next_virtual, self.map.n_virtual or 0
        if "begun" not in self._marks and scan.phase is Phase.RUNNING:
            self._marks["begun"] = Counts(**vars(counts))
        if "grown" not in self._marks and given >= total // 3:
            self._marks["grown"] = Counts(**vars(counts))
            self._marks["grown idle"] = Counts(cpu=sum(w.idle for w in self.workers))
        if "assigned" not in self._marks and given == total:
            self._marks["assigned"] = Counts(**vars(counts))
            self._marks["assigned idle"] = Counts(cpu=sum(w.idle for w in self.workers))
        if not self._changed and counts.events >= (self.setup.change_at or 0):
            self._changed = True
            self._asked.append(lambda: self.machine.set_parameters({"p": b"1"}, self.clock.now))

    def _outcome(self) -> Outcome:
        setup, report = self.setup, next(iter(self.machine.reports.values()))
        assert report["ended"] == "finished" and report["states"] == {"reduced": setup.events}, report
        assert sum(w.events for w in self.workers) == setup.events
        assert self.ingesters.released.total >= setup.events
        assert not any(self._outstanding), "the dispatcher has parts left that nobody has"
        marks = self._marks
        begun, assigned = marks["begun"], marks["assigned"]
        grown = marks.get("grown", begun)
        steady = assigned.since(grown)
        idle = marks["assigned idle"].cpu - marks.get("grown idle", Counts()).cpu
        span = max(steady.time * setup.workers, 1e-9)
        last = max(w.last for w in self.workers)
        return Outcome(
            setup,
            report,
            self.counts.since(begun),
            steady,
            self.kinds,
            1 - idle / span,
            last - assigned.time,
            last - min(w.last for w in self.workers),
            self._stale,
            report["parameters"],
        )
