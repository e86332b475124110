"""What happens in one scan of the chaos suite, drawn from a seed: its map, its frames, what is done to the services."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WORKERS = ("worker-0", "worker-1", "worker-2")
LEASE = 1.0
"""Seconds that a worker may be stopped before its supervisor takes it for lost."""

SMALL, LARGE = 8, 12_000
"""Numbers of 8 bytes in a frame: large ones go to workers through shared memory."""

STORE, CONTROLLER, INGESTER, NETWORK = "store", "controller", "ingester", "network"
ROLES = ("worker", "reducer", CONTROLLER, STORE, INGESTER, NETWORK)

SERVICES, DETECTOR = "services", "detector"
"""Whose connections are cut: between services, or those of a stream's detector."""


@dataclass(frozen=True)
class Harm:
    """`at` seconds after a scan was submitted, `who` is killed, told to end (term), or stopped for `lasts` seconds.

    Of the network, all connections between services are cut, or those to the detector of a stream. `in_mid_scan` counts
    from when the detectors begin to send.
    """

    at: float
    who: str
    what: str
    lasts: float = 0.0
    in_mid_scan: bool = False


@dataclass(frozen=True)
class Planned:
    """A data event: the frame that it has of each stream (None: that one was lost), and which streams each of its
    parts joins. A broadcast (`cast`) is one part for every worker."""

    frames: dict[str, int | None]
    parts: tuple[tuple[str, ...], ...]
    cast: bool = False


@dataclass(frozen=True)
class History:
    """One scan. `events` are the data events, 1 to N; `counts` how many frames each stream's detector takes, of which
    the `lost` ones are not sent; `rate` per second (None: as fast as it goes), `delays` seconds before each stream's
    first one; a frame has `size` numbers of 8 bytes. User code takes `work` seconds per event at the worker, which
    `combines` results where it may, and `fold` seconds per result at the reducer. A parameter is set at the times in
    `changes`."""

    seed: int
    kind: str
    trigger_map: dict[str, Any]
    events: tuple[Planned, ...]
    counts: dict[str, int]
    lost: dict[str, frozenset[int]]
    rate: float | None
    delays: dict[str, float]
    size: int
    work: float = 0.0
    fold: float = 0.0
    combines: bool = False
    changes: tuple[float, ...] = ()
    harms: tuple[Harm, ...] = field(default=())

    @property
    def lossy(self) -> frozenset[str]:
        """The streams of which frames may die, with their ingester or in a connection that is cut."""
        harmed = (harm.who.partition(" ") for harm in self.harms)
        return frozenset(name for what, _, name in harmed if what in (INGESTER, DETECTOR))

    @property
    def title(self) -> str:
        rate = "full speed" if self.rate is None else f"{self.rate:g} Hz"
        large = f" of {self.size >> 7} KiB" if self.size > SMALL else ""
        user = (", slow worker" if self.work else "") + (", slow reducer" if self.fold else "")
        combines = ", combined" if self.combines else ""
        return f"{self.kind}, {len(self.counts)} streams, {len(self.events)} events{large}, {rate}{user}{combines}"


def draw(seed: int, roles: Sequence[str] = ("worker", "reducer")) -> History:
    """The history of a seed, with harms of services of these roles; without any, nothing is disturbed."""
    chance = random.Random(seed)
    streams = ("a",) if chance.random() < 0.4 else ("a", "b")
    rate = chance.choice([200.0, 400.0, 1000.0, None])
    n = chance.randint(500, 20_000) if rate is None else max(2, int(rate * chance.uniform(0.2, 1.6)))
    kind = chance.choice(["uniform", "batches", "broadcasts", "split", "endless"])
    if kind == "split" and len(streams) == 1:
        kind = "batches"
    trigger_map, shapes = _map(chance, kind, streams, n)
    counts, lost, events = _frames(chance, streams, shapes, losing=chance.random() < 0.4)
    work, fold = chance.choice([(0.0, 0.0), (0.0, 0.0), (0.003, 0.0), (0.0, 0.0005)]) if n < 2000 else (0.0, 0.0)
    lasts = max(n / rate if rate is not None else 0.4, n * work / len(WORKERS), n * fold)
    changes = sorted(chance.uniform(0.0, lasts) for _ in range(chance.choice([0, 0, 1, 2, 3])))
    delays = {name: chance.choice([0.0, 0.0, chance.uniform(0.0, 0.3)]) for name in streams}
    harms = _harms(chance, roles, lasts, streams)
    size = LARGE if n < 2000 and chance.random() < 0.3 else SMALL
    combines = chance.random() < 0.25
    return History(
        seed, kind, trigger_map, events, counts, lost, rate, delays, size, work, fold, combines, tuple(changes), harms
    )


def draw_kill(seed: int, role: str, rate: float | None) -> History:
    """A scan of which no frame is lost, at this rate, in which a service of this role is killed, and nothing else."""
    chance = random.Random(f"{role} {rate} {seed}")
    streams = ("a",) if chance.random() < 0.4 else ("a", "b")
    n = chance.randint(10_000, 30_000) if rate is None else int(rate * chance.uniform(0.7, 1.7))
    kind = chance.choice(["uniform", "batches", "broadcasts", "endless"])
    trigger_map, shapes = _map(chance, kind, streams, n)
    counts, lost, events = _frames(chance, streams, shapes, losing=False)
    who = {"worker": chance.choice(WORKERS), INGESTER: f"{INGESTER} {chance.choice(streams)}"}.get(role, role)
    harm = Harm(chance.uniform(0.0, n / rate if rate is not None else 0.5), who, "kill", in_mid_scan=True)
    size = LARGE if rate is not None and chance.random() < 0.3 else SMALL
    combines = chance.random() < 0.25
    delays = dict.fromkeys(streams, 0.0)
    return History(seed, kind, trigger_map, events, counts, lost, rate, delays, size, combines=combines, harms=(harm,))


_Shape = tuple[tuple[tuple[str, ...], ...], bool]


def _map(chance: random.Random, kind: str, streams: tuple[str, ...], n: int) -> tuple[dict[str, Any], list[_Shape]]:
    """A trigger map of `n` data events, and of each event the streams of its parts and whether it is broadcast."""
    together: list[_Shape] = [((streams,), False)] * n
    if kind == "endless":
        return {"streams": list(streams), "events": None}, together
    if kind == "uniform":
        return {"streams": list(streams), "events": n}, together
    if kind == "batches":
        return {"streams": list(streams), "events": n, "batch": chance.randint(2, 20)}, together
    size, between = chance.randint(1, 4), chance.randint(3, 60)
    cells: dict[str, list[Any]] = {name: [] for name in streams}
    shapes: list[_Shape] = []
    for i in range(n):
        cast = kind == "broadcasts" and i % between == between - 1
        without = streams[1:] if chance.random() < 0.05 else ()  # no frame of these comes
        there = tuple(name for name in streams if name not in without)
        for place, name in enumerate(streams):
            constraint = None if cast else i // size if kind == "broadcasts" else 2 * (i // size) + place
            cells[name].append(None if name in without else [{"tags": ["generic"], "constraint": constraint}])
        split = kind == "split" and len(there) > 1
        shapes.append((tuple((name,) for name in there) if split else (there,), cast))
    return {"parts": {"all": cells}, "sequence": ["all"]}, shapes


def _frames(
    chance: random.Random, streams: tuple[str, ...], shapes: list[_Shape], *, losing: bool
) -> tuple[dict[str, int], dict[str, frozenset[int]], tuple[Planned, ...]]:
    """Frames for the events of these shapes; some are lost, never a detector's last one."""
    counts = {name: sum(name in streams_of for parts, _ in shapes for streams_of in parts) for name in streams}
    lost: dict[str, frozenset[int]] = {}
    for name, count in counts.items():
        gone = set()
        for _ in range(chance.randint(1, 4) if losing else 0):
            first = chance.randrange(max(count - 1, 1))
            gone |= set(range(first, min(first + chance.choice([1, 1, 2, 9]), count - 1)))
        lost[name] = frozenset(gone)
    numbers = dict.fromkeys(streams, 0)
    events = []
    for parts, cast in shapes:
        frames: dict[str, int | None] = {}
        for name in (name for part in parts for name in part):
            frames[name] = None if numbers[name] in lost[name] else numbers[name]
            numbers[name] += 1
        events.append(Planned(frames, parts, cast))
    return counts, lost, tuple(events)


def _harms(chance: random.Random, roles: Sequence[str], lasts: float, streams: Sequence[str]) -> tuple[Harm, ...]:
    """Harms of a scan that takes about so many seconds."""
    harms: list[Harm] = []
    weighed = [role for role in roles for _ in range(len(WORKERS) if role == "worker" else 1)]
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3]) if roles else 0):
        # In mid-scan, while it is armed, or as it ends.
        when = [(0.0, lasts), (0.0, lasts), (0.0, lasts), (0.0, 0.05), (lasts, lasts + 0.15)]
        at, role = chance.uniform(*chance.choice(when)), chance.choice(weighed)
        if role == "worker":
            harms += _harms_of_workers(chance, at)
        elif role == "reducer":
            harms.append(Harm(at, "reducer", chance.choice(["kill", "kill", "term"])))
            if chance.random() < 0.25:  # with a worker
                harms.append(Harm(at, chance.choice(WORKERS), "kill"))
            if chance.random() < 0.2:  # again, soon
                harms.append(Harm(at + chance.uniform(0.2, 1.2), "reducer", "kill"))
        elif role == CONTROLLER:
            harms.append(Harm(at, CONTROLLER, "kill"))
        elif role == INGESTER:
            harms.append(Harm(at, f"{INGESTER} {chance.choice(streams)}", chance.choice(["kill", "kill", "term"])))
        elif role == NETWORK:
            who = chance.choice([SERVICES, SERVICES, f"{DETECTOR} {chance.choice(streams)}"])
            harms.append(Harm(at, who, "cut"))
        else:
            harms.append(Harm(at, STORE, chance.choice(["stop", "stop", "kill"]), chance.uniform(0.2, 3.0)))
    return tuple(sorted(harms, key=lambda harm: harm.at))


def _harms_of_workers(chance: random.Random, at: float) -> list[Harm]:
    who = chance.choice(WORKERS)
    what = chance.choice(["kill", "kill", "term", "stop", "all", "again"])
    if what == "all":
        return [Harm(at, name, "kill") for name in WORKERS]
    if what == "again":  # while its replacement is coming up, or has just come
        return [Harm(at, who, "kill"), Harm(at + chance.uniform(0.1, 1.2), who, "kill")]
    if what == "stop":
        return [Harm(at, who, "stop", chance.choice([chance.uniform(0.02, 0.6), LEASE + 1.0]))]
    return [Harm(at, who, what)]
