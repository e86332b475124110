"""What a scan costs does not follow its length: not to start it, and not to keep it going."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from beamfold.model.triggermap import compile_map
from beamfold.protocols.messages import Arm, WorkerInfo, encode_message
from beamfold.testing import wire
from flow.deployment import Deployment, Stream
from flow.witness import frames

MIB = 1 << 20
SHAPE, DTYPE = (8, 8), np.dtype("uint16")
FRAMES = 10_000
"""Frames between two looks at the memory."""

WORKER = """
class Worker:
    def process_event(self, event, parameters=None):
        message = event.streams["camera"].parse()
        return int(message.frame) if message.htype == "image" else None
"""

REDUCER = """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"count": 0, "sum": 0}

    def process_result(self, result, parameters=None):
        assert result.payload == result.event_number - 1
        self.publish["count"] += 1
        self.publish["sum"] += result.payload
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    app = {"worker.py": WORKER, "reducer.py": REDUCER}
    with Deployment(tmp_path_factory.mktemp("large"), app, {"camera": Stream()}) as deployment:
        yield deployment


def uniform(events: int | None) -> dict[str, Any]:
    return {"streams": ["camera"], "events": events, "batch": 10}


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """By how many MiB each process grew."""
    return {name: (after[name] - size) / MIB for name, size in before.items()}


def test_what_the_services_are_told_of_a_map_does_not_grow_with_it() -> None:
    def told(events: int) -> int:
        workers = [WorkerInfo("worker-0", ["generic"], "0" * 32)]
        wire_map = compile_map(uniform(events)).to_wire()
        return len(encode_message(Arm(1, "id", wire_map, workers, [], "", 0, {}, [], "process", 2.0, "event")))

    assert told(10_000_000) - told(10) < 16


def test_ten_million_events_are_submitted_like_ten_and_can_be_stopped(deployment: Deployment) -> None:
    report = deployment.wait_ended(submit_and_send(deployment, 10, 10, end=True))
    assert report["summary"] == "10 events: 10 reduced"
    before = deployment.memory()
    scan = submit_and_send(deployment, 10_000_000, 5, end=False)
    deployment.wait_reached(6)
    deployment.stop()
    report = deployment.wait_ended(scan)
    assert report["ended"] == "stopped"
    assert report["summary"] == "5 events: 5 reduced (9999995 of 10000000 planned were not reached)"
    grown = growth(before, deployment.memory())
    assert max(grown.values()) < 10, grown


def submit_and_send(deployment: Deployment, events: int, count: int, *, end: bool) -> str:
    scan = deployment.submit(uniform(events))
    deployment.send("camera", frames(count) if end else frames(count)[:-1])
    return scan


def test_an_endless_scan_needs_no_more_memory_the_longer_it_runs(deployment: Deployment) -> None:
    scan = deployment.submit(uniform(None))
    camera = deployment.senders["camera"]
    template = wire.stins_template(SHAPE, DTYPE)
    blob = wire.stins_blob(np.zeros(SHAPE, DTYPE))
    deployment.send("camera", [wire.stins_header("endless.h5", 0)])
    sizes = []
    for step in range(3):
        sent = step * FRAMES
        camera.send_numbered(template, [blob], FRAMES, first=(sent, sent + 1))
        deployment.wait_reached(sent + FRAMES + 1)
        sizes.append(deployment.memory())
    assert deployment.progress()["total_events"] is None
    deployment.send("camera", [wire.stins_end(3 * FRAMES + 1)])
    report = deployment.wait_ended(scan)
    assert report["summary"] == f"{3 * FRAMES} events: {3 * FRAMES} reduced"
    assert deployment.state() == {"count": 3 * FRAMES, "sum": sum(range(3 * FRAMES))}
    grown = growth(sizes[0], sizes[-1])
    assert max(grown.values()) < 10, grown
