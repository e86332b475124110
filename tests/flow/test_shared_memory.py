"""Large frames on one host: workers read them where the ingester wrote them, and nothing else changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.testing.simulators import stins_series
from beamfold.testing.wire import Message
from flow.deployment import Deployment, Stream, wait_until

SHAPE = (512, 512)  # uint32: 1 MiB
FRAMES = 120
CAMERAS = ("camera", "other")

WORKER = """
class Worker:
    def __init__(self, parameters=None, **kwargs):
        self.kept = []

    def process_event(self, event, parameters=None):
        [stream] = event.streams.values()
        if stream.parse().htype != "image":
            return None
        array = stream.array()
        if event.event_number % int(parameters["keep"].data) == 0:
            self.kept.append((event.event_number, array[1:, ::2]))
        for number, kept in self.kept if event.event_number % 40 == 0 else ():
            if not (kept == number).all():
                raise ValueError(f"the array that was kept of event {number} is now one of {kept.flat[0]}")
        shared = type(stream.frames[1].obj).__name__ == "_Slot"
        return {"sum": int(array.sum()), "shared": shared}
"""

REDUCER = """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"sums": [], "shared": 0}

    def process_result(self, result):
        self.publish["sums"].append(result.payload["sum"])
        self.publish["shared"] += result.payload["shared"]
"""

APP = {"worker.py": WORKER, "reducer.py": REDUCER}


def series(frames: int = FRAMES) -> Iterator[Message]:
    """Frame n is of pixels n + 1, the number of its event."""
    return stins_series(np.full(SHAPE, n + 1, dtype=np.uint32) for n in range(frames))


def deploy(
    folder: Path, *, keep: int, retention: int = 4 << 20, shared: bool = True, complaints: Sequence[str] = ()
) -> Deployment:
    return Deployment(
        folder,
        APP,
        {name: Stream("stins", {"retention_bytes": retention}) for name in CAMERAS},
        parameters={"keep": str(keep)},
        sections={"policy": {"shared_memory": shared}},
        complaints=complaints,
    )


def run(deployment: Deployment, frames: int = FRAMES, camera: str = "camera") -> dict[str, Any]:
    scan = deployment.submit({"streams": [camera], "events": frames})
    deployment.send(camera, series(frames))
    report = deployment.wait_ended(scan)
    assert report["states"] == {"reduced": frames}, report["failures"][:1]
    state: dict[str, Any] = deployment.state()
    assert state["sums"] == [(n + 1) * SHAPE[0] * SHAPE[1] for n in range(frames)]
    return state


@pytest.mark.parametrize("shared", [True, False])
def test_arrays_that_the_app_keeps_never_change(tmp_path: Path, shared: bool) -> None:
    """Many times the retention goes through; each tenth array is compared with what it was, again and again."""
    with deploy(tmp_path, keep=10, shared=shared) as deployment:
        for _ in range(2):
            assert run(deployment)["shared"] == (FRAMES if shared else 0)


def test_an_app_that_keeps_everything_gets_the_rest_over_the_network(tmp_path: Path) -> None:
    """The arena is full of what the app keeps: that is said, and no frame is lost or waits for ever."""
    with deploy(tmp_path, keep=1, retention=1 << 20) as deployment:
        assert 0 < run(deployment)["shared"] < FRAMES
        # Arrays of the scan before are gone with its worker object: there is room again.
        assert run(deployment, 20)["shared"] == 20
        assert any("the arena is full" in line for line in deployment.lines)


def test_an_ingester_is_told_of_its_slots_in_a_scan_without_it(tmp_path: Path) -> None:
    """What the app kept goes as the next scan begins, which reads from another ingester alone."""
    with deploy(tmp_path, keep=1, retention=1 << 20) as deployment:
        assert 0 < run(deployment)["shared"] < FRAMES
        run(deployment, 5, "other")
        assert run(deployment, 20)["shared"] == 20


def test_a_killed_worker_gives_up_what_it_held(tmp_path: Path) -> None:
    """What it kept fills the arena, until its process ends: the other worker reads all of the next scan there."""
    with deploy(tmp_path, keep=1, retention=1 << 20, complaints=["killed by SIGKILL"]) as deployment:
        assert run(deployment)["shared"] < FRAMES
        [victim, _] = [pid for pid, name in deployment.processes().items() if name.startswith("worker")]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: any("killed by SIGKILL" in line for line in deployment.lines), "news of its death")
        assert run(deployment, 20)["shared"] == 20
