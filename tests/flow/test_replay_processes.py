"""A replay in several processes publishes what it does in one, and says which of them ended too early."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.cli.signals import INTERRUPTED
from beamfold.model.errors import AppError, ConfigError, ReplayError
from beamfold.model.events import StreamData
from beamfold.model.report import ScanReport
from beamfold.offline.replay import replay
from beamfold.protocols.dumps import DumpWriter, RawWriter
from beamfold.testing.simulators import stins_series
from processes import command, descendants, is_gone, wait_for

APP = """
import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
from beamfold import IntParameter


class Worker:
    stateful = True

    @staticmethod
    def describe_parameters():
        return [IntParameter(name="gain", default=2)]

    def __init__(self, parameters=None, context=None, state=None):
        self.name, self.seen, self.chain, self.ticks = state.name, 0, b"", 0

    def get_tick_interval(self, parameters=None):
        return 1e6

    def process_event(self, event, parameters=None, tick=False):
        frames = [part for data in event.streams.values() for part in data.frames]
        self.seen += 1
        self.ticks += tick
        self.chain = hashlib.sha256(self.chain + b"".join(frames)).digest()
        if self.chain[0] < 6:
            raise ValueError(f"event {event.event_number} has a bad digest")
        if self.chain[0] < 30:
            return None
        if self.chain[0] < 33:
            return object()
        large = np.frombuffer(self.chain * (300 if self.chain[1] < 20 else 1), np.uint8)
        return {"seen": self.seen, "who": self.name, "ticks": self.ticks, "large": large, "pid": os.getpid()}

    def finish(self, parameters=None):
        if self.name == "worker-1":
            raise RuntimeError(f"{self.name} ends badly after {self.seen}")


class Killed(Worker):
    def process_event(self, event, parameters=None):
        if event.event_number == 700:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1


class Hanging(Worker):
    def process_event(self, event, parameters=None):
        if event.event_number == 300:
            Path("hangs").touch()
            time.sleep(1000)
        return 1


class Unmade(Worker):
    def __init__(self, state=None, **kwargs):
        if state.name == "worker-1":
            raise ValueError("not today")


class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"rows": [], "who": [], "total": np.float32(0), "finished": 0}
        self.pids = set()

    def process_result(self, result, parameters=None):
        found = result.payload
        if found == 1:
            return
        self.publish["rows"].append([result.event_number, found["seen"], found["ticks"], int(found["large"].sum())])
        self.publish["who"].append(result.worker + found["who"])
        # In single precision, so that the sum depends on the order.
        self.publish["total"] = np.float32(self.publish["total"] * np.float32(0.7) + np.float32(found["seen"]) / 3)
        self.pids.add(found["pid"])

    def finish(self, parameters=None):
        self.publish["finished"] += 1
        Path("pids").write_text(str(len(self.pids - {os.getpid()})))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dump(path: Path, events: int) -> Path:
    """Two streams: one of every event, and a sparse one; sizes differ."""
    rng = random.Random(events)
    with DumpWriter(path) as writer:
        for number in range(events):
            streams = {"camera": StreamData("STINS", [b"%d" % number, rng.randbytes(rng.choice([8, 8, 8, 300]))])}
            if number % 3 == 0:
                streams["sparse"] = StreamData("contrast", [rng.randbytes(4)])
            writer.write(number, streams)
    return path


def raw(path: Path, events: int) -> str:
    with RawWriter(path) as writer:
        for message in stins_series(np.full((2, 3), n, np.uint16) for n in range(events)):
            writer.write(message)
    return f"other:stins={path}"


def outcome(report: ScanReport) -> dict[str, Any]:
    own = ("scan_id", "started", "finished", "result_file")
    return {name: value for name, value in report.to_dict().items() if name not in own}


@pytest.mark.parametrize(("workers", "processes"), [(2, 2), (5, 3)])
def test_what_is_published_is_the_same_byte_for_byte(folder: Path, workers: int, processes: int) -> None:
    """Workers with a state each, failures, events without result, ticks, several captures, one of them cut."""
    files = [dump(folder / "d.cbors", 1500), raw(folder / "r.cbors", 700)]
    cut = folder / "d.cbors"
    cut.write_bytes(cut.read_bytes()[:-3])
    alone = replay("app:Worker", "app:Reducer", files, None, folder / "1.h5", workers)
    assert (folder / "pids").read_text() == "0"
    shared = replay("app:Worker", "app:Reducer", files, None, folder / "n.h5", workers, processes)
    assert (folder / "pids").read_text() == str(processes)
    assert outcome(shared) == outcome(alone)
    assert alone.failed_total > 10 and len(alone.troubles) == 1
    assert [f["worker"] for f in alone.failures if f["where"] == "finish"] == ["worker-1"]
    assert (folder / "n.h5").read_bytes() == (folder / "1.h5").read_bytes()


def test_every_process_needs_a_logical_worker(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 processes for 2 logical workers.*--nworkers"):
        replay("app:Worker", "app:Reducer", [dump(folder / "d.cbors", 5)], workers=2, processes=3)


def test_a_class_that_cannot_be_constructed_is_the_same_error_as_in_one_process(folder: Path) -> None:
    for processes in (1, 2):
        with pytest.raises(AppError, match="not today"):
            replay(
                "app:Unmade", "app:Reducer", [dump(folder / f"{processes}.cbors", 5)], workers=2, processes=processes
            )


def test_a_killed_process_is_named_with_its_events_and_nothing_is_left(folder: Path) -> None:
    before = descendants(os.getpid())
    with pytest.raises(
        ReplayError, match=r"the process of worker-1 was killed by SIGKILL in events (\d+) to (\d+)"
    ) as e:
        replay("app:Killed", "app:Reducer", [dump(folder / "d.cbors", 3000)], output=folder / "o.h5", processes=2)
    first, last = (int(word) for word in str(e.value).replace(";", "").split() if word.isdigit())
    assert first <= 700 <= last < first + 256
    assert not (folder / "o.h5").exists()
    assert all("resource_tracker" in _command(pid) for pid in descendants(os.getpid()) - before)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_its_processes(folder: Path, number: signal.Signals) -> None:
    dump(folder / "d.cbors", 3000)
    arguments = ["replay", "-w", "app:Hanging", "-r", "app:Reducer", "--processes", "2", "d.cbors"]
    with command(*arguments, cwd=folder) as running:
        wait_for((folder / "hangs").exists, "an event that hangs")
        below = descendants(running.pid)
        assert len(below) >= 2
        for pid in [running.pid, *below] if number == signal.SIGINT else [running.pid]:
            os.kill(pid, number)
        code = running.ends()
        if number == signal.SIGINT:
            assert (code, running.out.text(), running.err.text()) == (INTERRUPTED, "", "")
        wait_for(lambda: all(map(is_gone, below)), "the end of all processes")
