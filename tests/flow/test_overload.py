"""A detector that is faster than the workers: nothing grows, nothing hangs, and the report says what became of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.testing import wire
from flow.deployment import Deployment, Stream, wait_until

MIB = 1 << 20
SHAPE, DTYPE = (128, 128), np.dtype("uint16")
FRAMES = 4000
"""Frames of each stream: 125 MiB of the large one, which take the workers seconds."""

ROOM = {"retention_bytes": 16 * MIB}
GROWTH = 64
"""MiB that a process may grow: far more than the room for frames, and far less than the frames."""

WORKER = """
import time

class Worker:
    def process_event(self, event, parameters=None):
        big, small = (event.streams[name].parse() for name in ("big", "small"))
        if big.htype != "image":
            return None
        time.sleep(0.001)
        assert big.frame == small.frame == event.event_number - 1
        return int(big.frame)
"""

REDUCER = """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"count": 0, "sum": 0, "last": -1}

    def process_result(self, result, parameters=None):
        self.publish["count"] += 1
        self.publish["sum"] += result.payload
        self.publish["last"] = result.payload
"""

APP = {"worker.py": WORKER, "reducer.py": REDUCER}


def detect(deployment: Deployment, together: int) -> None:
    """One program for both detectors, which sends so many frames of one before it turns to the other."""
    template = wire.stins_template(SHAPE, DTYPE)
    blobs = {"big": wire.stins_blob(np.zeros(SHAPE, DTYPE)), "small": b"small"}
    for stream in blobs:
        deployment.send(stream, [wire.stins_header("overload.h5", 0)])
    for at in range(0, FRAMES, together):
        for stream, blob in blobs.items():
            deployment.senders[stream].send_numbered(template, [blob], together, first=(at, at + 1))
    for stream in blobs:
        deployment.send(stream, [wire.stins_end(FRAMES + 1)])


def run(deployment: Deployment, together: int) -> tuple[dict[str, Any], dict[str, int]]:
    """The report of a scan, and by how many MiB each process had grown at most."""
    scan = deployment.submit({"streams": ["big", "small"], "events": FRAMES})
    before, most = deployment.memory(), deployment.memory()
    sending = threading.Thread(target=detect, args=(deployment, together))
    sending.start()

    def ended() -> dict[str, Any] | None:
        for name, size in deployment.memory().items():
            most[name] = max(size, most[name])
        report = deployment.report(scan)
        return report if report["ended"] else None

    report = wait_until(ended, f"the end of scan {scan}")
    sending.join()
    return report, {name: (size - before[name]) // MIB for name, size in most.items()}


def deployed(folder: Path, overload: str) -> Deployment:
    streams = {"big": Stream(keys=ROOM), "small": Stream(keys={**ROOM, "ingester": "other"})}
    sections = {"policy": {"overload": overload}, "spill": {"directory": str(folder / "spill")}}
    return Deployment(folder, APP, streams, sections=sections)


@pytest.mark.parametrize("overload", ["spill", "block", "sample", "latest"])
def test_a_detector_that_is_faster_than_the_workers_grows_no_process(tmp_path: Path, overload: str) -> None:
    with deployed(tmp_path, overload) as deployment:
        report, grown = run(deployment, 100)
        state, files = deployment.state(), deployment.open_files()
    assert max(grown.values()) < GROWTH, grown
    assert (report["ended"], report["overload"], report["failures"]) == ("finished", overload, [])
    big, dropped = report["streams"]["big"], report["states"].get("dropped", 0)
    assert report["states"]["reduced"] == state["count"] == FRAMES - dropped
    if overload == "spill":
        assert big["spilled"] > 20 * MIB and not big["paused"] and not dropped
        assert not list((tmp_path / "spill").iterdir()) and max(files.values()) < 100, files
    elif overload == "block":
        assert big["paused"] and not dropped
    else:
        assert dropped > FRAMES // 20 and report["runs"]["dropped"]
    if not dropped:
        assert state["sum"] == sum(range(FRAMES))


def test_a_detector_is_not_held_back_for_ever_by_one_that_the_same_program_feeds_later(tmp_path: Path) -> None:
    """Half of the frames of one stream, for which there is no room, before the first one of the other."""
    with deployed(tmp_path, "block") as deployment:
        report, grown = run(deployment, FRAMES // 2)
    assert report["summary"] == f"{FRAMES} events: {FRAMES} reduced"
    assert max(grown.values()) < GROWTH, grown
