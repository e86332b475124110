"""Whether anything grows: one long scan, then scan after scan in the same deployment (`make growth`).

What every process has (memory of its own, open files, threads), shared memory, the control store and the output folder
are measured all along. Something grows if the median of the last quarter of a series is above that of its second
quarter by more than its slack: what is cached comes and goes, and stays as it is; what leaks does not. In the long scan
the series is over its events, afterwards over the scans.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import redis

from beamfold.ledger import base
from beamfold.ledger.redis import RedisLedger
from beamfold.testing import wire
from flow.deployment import PATIENCE, Deployment, Stream, wait_until

APP = {
    "worker.py": """
import numpy as np

class Worker:
    def __init__(self, **kwargs):
        self.cycle = self.process_event  # as in many an app: only a search finds it when it is over
        self.mask = np.ones((128, 1024))

    def process_event(self, event, parameters=None):
        total = 0
        for stream in event.streams.values():
            message = stream.parse()
            if message.htype == "image":
                total += int(message.data.flat[0])
        return {"total": total * int(parameters["p"].data)}
""",
    "reducer.py": """
import numpy as np

class Reducer:
    def __init__(self, **kwargs):
        self.cycle = self.process_result
        self.publish = {"count": 0, "total": 0, "image": np.ones((128, 1024))}

    def process_result(self, result, parameters=None):
        self.publish["count"] += 1
        self.publish["total"] += result.payload["total"]
        self.publish["image"][result.event_number % 128] += 1
""",
}
STREAMS = {"a": Stream(), "b": Stream(), "camera": Stream()}
SHAPES = {"a": (4, 4), "b": (8,), "camera": (256, 256)}
"""Pixels of two bytes: the camera's frames are of 128 KiB, so that they go through shared memory."""

MIB = 1 << 20
MEMORY, FILES, THREADS = "memory", "open files", "threads"
BYTES = {MEMORY, "file", "used memory"}

SLACK = {MEMORY: 4 * MIB, "used memory": MIB // 4, "file": MIB // 4}
"""How far something may be above where it was; nothing for what is not in here.

Memory: what an allocator has in hand after one scan or another differs by that. Over half a million events these are
eight bytes for each, less than any object takes. The store: its buffers, and scans that say more than others.
"""

SMALL_SCAN = 300
"""Events of most of the scans in a row."""

EVERY = 20
"""Scans between two lines of the table."""

SAMPLES = 40
"""Samples of the long scan."""

STRIDE, AHEAD = 1000, 20_000
"""Frames that a detector of the long scan sends at once, and how many it is ahead of what is done."""

CROWD = 16
"""People who look at once."""

Values = Mapping[tuple[str, str], int]
"""(who, what) -> how much of it."""


@dataclass
class Series:
    """Samples of everything, one after the other."""

    samples: list[Values] = field(default_factory=list)

    def growing(self, slack: Mapping[str, int] = SLACK) -> list[str]:
        """What is more in the last quarter than in the second one, in words."""
        found = []
        for who, what in sorted({key for sample in self.samples for key in sample}):
            values = [sample.get((who, what), 0) for sample in self.samples]
            more = growth(values)
            if more > slack.get(what, 0):
                found.append(f"{who}: {what} grew by {shown(what, more)} ({shown(what, values[-1])} in the end)")
        return found


def growth(values: Sequence[int]) -> float:
    """By how much the median of the last quarter is above that of the second one."""
    quarter = len(values) // 4
    assert quarter, f"{len(values)} samples say nothing"
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter])


def shown(what: str, value: float) -> str:
    """A number as it is read best."""
    return f"{value / MIB:.1f} MiB" if what in BYTES else f"{value:.0f}"


class Gauge:
    """Looks at a deployment from outside."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._store = redis.Redis(unix_socket_path=str(deployment.store_socket()))
        self._folder = deployment.folder / "output"

    def sample(self) -> Values:
        """What there is of everything now."""
        found: dict[tuple[str, str], int] = {}
        shared: dict[int, int] = {}
        for pid, name in {**self._deployment.processes(), self._deployment.pid: "supervisor"}.items():
            home = Path(f"/proc/{pid}")
            name = "store" if name == "store.sock" else name
            found[name, MEMORY] = _anonymous(home)
            found[name, THREADS] = len([*(home / "task").iterdir()])
            descriptors = [*(home / "fd").iterdir()]
            found[name, FILES] = len(descriptors)
            shared.update(_shared(descriptors))
        found["shared memory", FILES] = len(shared)
        found["shared memory", MEMORY] = sum(shared.values())
        found["store", "used memory"] = self._store.info("memory")["used_memory"]
        found["store", "keys"] = self._store.dbsize()
        found["store", "entries"] = sum(map(self._entries, self._store.scan_iter(count=1000)))
        found["store", "file"] = self._file()
        files = [path for path in self._folder.rglob("*") if path.is_file() and path.suffix != ".h5"]
        found["output folder", "files"] = len([path for path in files if ".flow.store" not in path.parts])
        return found

    def _file(self) -> int:
        """Bytes of the store's file, which it is told to write anew: by itself it does when that has doubled and is
        beyond 64 MiB, and what is appended until then is no growth."""
        self._store.bgrewriteaof()

        def written() -> int:
            info = self._store.info("persistence")
            return 0 if info["aof_rewrite_in_progress"] else int(info["aof_current_size"])

        return int(wait_until(written, "the store's file"))

    def _entries(self, key: bytes) -> int:
        length = {b"hash": "hlen", b"zset": "zcard", b"list": "llen", b"stream": "xlen", b"string": "exists"}
        kind: Any = self._store.type(key)
        return int(getattr(self._store, length[kind])(key))


def _anonymous(home: Path) -> int:
    """Bytes of memory that a process has for itself, without what it maps of files and of the arenas."""
    for line in (home / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("this kernel does not say how much memory a process has for itself")


def _shared(descriptors: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Shared memory that a process has open (arenas, cursors): which, and bytes that are really there."""
    for path in descriptors:
        try:
            if str(path.readlink()).startswith(("/memfd:", "/dev/shm/")):
                yield path.stat().st_ino, path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # closed meanwhile


class Player:
    """Plays scans of all kinds in a deployment, which is looked at with `gauge`."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.gauge = Gauge(deployment)
        self._value = 0

    def long(self, events: int) -> Series:
        """One scan of two joined streams; a sample for every fortieth part of its events.

        Detectors are not far ahead of what is done, so that what waits for workers is as much at the end as before.
        """
        series, streams, sent = Series(), ("a", "b"), 0
        scan = self.deployment.submit({"streams": streams, "events": events})
        step, frames = events // SAMPLES, {name: _series(name, events) for name in streams}
        while sent < events + 2:
            self._send(frames, STRIDE)
            sent += STRIDE
            done = wait_until(partial(self._done, sent - AHEAD), "that what was sent is done")
            if done > len(series.samples) * step:
                series.samples.append(self.gauge.sample())
        self._check(self.deployment.wait_ended(scan), events)
        return series

    def _done(self, least: int) -> int:
        """How many events are done, once these are."""
        done: int = self.deployment.progress()["completed_events"]
        return done if done >= least else 0

    def short(self, number: int) -> None:
        """One scan, of another kind for each of ten numbers in a row."""
        self._set()
        match number % 10:
            case 3:
                self._stopped()
            case 5:
                self._superseded()
            case 4:
                self.deployment.write({"worker.py": f"{APP['worker.py']}# {number}\n"})  # all of it is imported anew
                self._whole(("a", "b"), SMALL_SCAN)
            case 7:
                self._changed()
            case 1 | 6 | 9:
                self._whole(("a", "camera"), SMALL_SCAN // 3)
            case 8:
                self._explicit()
            case _:
                self._whole(("a", "b"), SMALL_SCAN)
        self.look()

    def _whole(self, streams: Sequence[str], events: int) -> None:
        scan = self.deployment.submit({"streams": streams, "events": events})
        self._send({name: _series(name, events) for name in streams})
        self._check(self.deployment.wait_ended(scan), events)

    def _half(self) -> tuple[str, dict[str, Iterator[wire.Message]]]:
        """A scan of which half of the events are done, and what its detectors have still to send."""
        scan = self.deployment.submit({"streams": ["a", "b"], "events": SMALL_SCAN})
        rest = {name: _series(name, SMALL_SCAN) for name in ("a", "b")}
        self._send(rest, SMALL_SCAN // 2)
        self.deployment.wait_reached(SMALL_SCAN // 2)
        return scan, rest

    def _stopped(self) -> None:
        scan, rest = self._half()
        self.deployment.stop()
        assert self.deployment.wait_ended(scan)["ended"] == "stopped"
        self._send(rest)  # belongs to no scan

    def _superseded(self) -> None:
        scan, _ = self._half()
        self._whole(("a", "b"), SMALL_SCAN)
        assert self.deployment.report(scan)["ended"] == "stopped"

    def _changed(self) -> None:
        """A parameter is changed while the scan runs."""
        scan, rest = self._half()
        self._set()
        self._send(rest)
        self._check(self.deployment.wait_ended(scan), SMALL_SCAN)

    def _explicit(self) -> None:
        """Every tenth event goes to all workers, of the others two belong together."""
        cells = [[{"tags": ["generic"], "constraint": n // 2 if n % 10 else None}] for n in range(SMALL_SCAN)]
        scan = self.deployment.submit({"parts": {"all": {"a": cells, "b": cells}}, "sequence": ["all"]})
        self._send({name: _series(name, SMALL_SCAN) for name in ("a", "b")})
        self._check(self.deployment.wait_ended(scan), SMALL_SCAN)

    @staticmethod
    def _check(report: Mapping[str, Any], events: int) -> None:
        assert report["ended"] == "finished" and report["states"] == {"reduced": events}, report

    def _set(self) -> None:
        self._value += 1
        self.deployment.set_parameter("p", b"%d" % self._value)

    def crowd(self) -> None:
        """Many people look at once: pools of threads and of connections are as large afterwards as they need to be."""
        urls = [f"{self.deployment.controller_url}/api/v1/scans", f"{self.deployment.reducer_url}/api/v1/state/image"]
        with ThreadPoolExecutor(CROWD) as people:
            for answer in people.map(partial(httpx.get, timeout=PATIENCE, trust_env=False), urls * CROWD):
                assert answer.status_code == 200, answer.text

    def look(self) -> None:
        """What people look at between scans."""
        assert self.deployment.state("count") >= 0
        for path in ("scans", "status", "logs", "parameters"):
            assert self.deployment.get(path).status_code == 200, path

    def _send(self, frames: Mapping[str, Iterator[wire.Message]], most: int | None = None) -> None:
        """Send these from their detectors, in turn; of each the next ones, or all."""
        for messages in zip(*(islice(series, most) for series in frames.values()), strict=True):
            for name, message in zip(frames, messages, strict=True):
                self.deployment.senders[name].send([message])


def _series(stream: str, events: int) -> Iterator[wire.Message]:
    shape, dtype = SHAPES[stream], np.dtype("uint16")
    template, blob = wire.stins_template(shape, dtype), bytes(np.ones(shape, dtype))
    yield wire.stins_header("growth.h5", 0)
    for n in range(events):
        yield [template % (n, n + 1), blob]
    yield wire.stins_end(events + 1)


def fill(deployment: Deployment) -> None:
    """Fill the control store's history with copies of what is in there: it keeps the newest 1000 scans, so that until
    then it grows, as it should."""
    ledger = RedisLedger(f"unix://{deployment.store_socket()}", "flow")
    try:
        ((scan, _),) = ledger.scans(1, ["number"])
        record = ledger.scan(scan)
        assert record is not None and record["report"]
        names = ledger.parameters()[1]
        for n in range(base.KEEP_SCANS):
            ledger.put_scan(f"{n:036}", record, n - base.KEEP_SCANS)
        for n in range(base.KEEP_PARAMETERS):
            ledger.put_parameters(n - base.KEEP_PARAMETERS, dict.fromkeys(names, b"%d" % -n), 0, scan)
        logs = ledger.logs(100)
        for _ in range(0, base.KEEP_LOGS, len(logs)):
            ledger.append_logs(logs)
    finally:
        ledger.close()


def play(folder: Path, events: int, scans: int, tell: Callable[[str], None], *, record: bool = False) -> list[str]:
    """One long scan and many short ones in a new deployment; what grew."""
    sections = {"record": {"directory": str(folder / "recordings")}} if record else {}
    with Deployment(folder, APP, STREAMS, parameters={"p": "1"}, sections=sections) as deployment:
        player = Player(deployment)
        for number in range(10):
            player.short(number)
        fill(deployment)
        player.crowd()
        table = Table(tell)
        table.line("start", player.gauge.sample())
        long = player.long(events)
        table.line(f"{events} events", player.gauge.sample())
        found = [f"in one scan of {events} events: {text}" for text in long.growing()]
        series = Series()
        for number in range(1, scans + 1):
            player.short(number)
            series.samples.append(player.gauge.sample())
            if number % EVERY == 0:
                table.line(f"{number} scans", series.samples[-1])
        return found + [f"in {scans} scans: {text}" for text in series.growing()]


class Table:
    """Lines of samples, memory in MiB."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._columns: list[str] = []

    def line(self, title: str, sample: Values) -> None:
        """One more."""
        cells: dict[str, list[str]] = {}
        for (who, what), value in sample.items():
            cells.setdefault(who, []).append(shown(what, value).removesuffix(" MiB"))
        if not self._columns:
            self._columns = [f"{who} ({', '.join(w for o, w in sample if o == who)})" for who in cells]
            self._tell("\n".join(self._columns))
        self._tell(f"{title:>15}: " + " | ".join(f"{who} {' '.join(values)}" for who, values in cells.items()))


def main(arguments: Sequence[str]) -> int:
    """0 when nothing grew, else 1."""
    parser = argparse.ArgumentParser(prog="make growth", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="of the long scan")
    parser.add_argument("--scans", type=int, default=200, help="in a row after it")
    options = parser.parse_args(arguments)

    def tell(text: str) -> None:
        print(text, flush=True)

    tell("recording is off")
    with tempfile.TemporaryDirectory() as folder:
        found = play(Path(folder), options.events, options.scans, tell)
    tell("recording is on")
    with tempfile.TemporaryDirectory() as folder:
        recorded = play(Path(folder), options.events // 10, options.scans // 2, tell, record=True)
    found += [f"with recordings, {text}" for text in recorded]
    tell("\n".join(found) or "nothing grows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
