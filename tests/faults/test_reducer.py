"""Promise 2, the reducer: whatever ends it in mid-scan, the published state is that of the undisturbed scan."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import httpx
import msgspec
import pytest

from beamfold.model.errors import BeamfoldError
from beamfold.reduce.checkpoint import Checkpoint, read_whole
from beamfold.testing.simulators import stins_series
from faults.harm import APP, COMPLAINTS, frame, pids, scan, undisturbed, wait_ended, wait_reached
from flow.deployment import Deployment, Stream, wait_until

SHARING = """
import threading
import numpy as np

class Reducer:
    def __init__(self, **kwargs):
        self.bins = np.zeros(4, dtype=np.int64)
        self.publish = {"total": 0, "order": [], "bins": self.bins}
        self.publish_rlock = threading.RLock()
        self.calls = 0

    def process_result(self, result, parameters=None):
        with open(FOLDED, "ab") as file:
            file.write(b".")
        self.bins[result.payload["n"] % 4] += result.payload["sum"]
        self.publish["total"] += result.payload["sum"]
        self.publish["order"].append(result.payload["n"])

    def timer(self):
        self.calls += 1
        return 0.001
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("reducer")
    with Deployment(folder, APP, {"x": Stream()}, complaints=COMPLAINTS) as deployment:
        yield deployment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("n", "rate", "moments"), [(1200, 400.0, [200, 600]), (30_000, None, [9000])])
def test_a_reducer_that_ends_is_replaced_and_every_part_is_folded_once(
    deployment: Deployment, n: int, rate: float | None, moments: list[int], number: signal.Signals
) -> None:
    def kill() -> None:
        for moment in moments:
            wait_reached(deployment, moment)
            (pid,) = pids(deployment, "reducer")
            os.kill(pid, number)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
    assert {loss["service"] for loss in report["losses"]} == {"reducer reducer"}
    assert deployment.state() == undisturbed(n)


def test_reducer_and_workers_may_end_together(deployment: Deployment) -> None:
    def kill() -> None:
        wait_reached(deployment, 100)
        for pid in [*pids(deployment, "reducer"), *pids(deployment, "worker-")]:
            os.kill(pid, signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 300})
    assert deployment.state() == undisturbed(300)


def saved(folder: Path) -> int:
    """How many results are in the newest checkpoint."""
    with suppress(IndexError, OSError, BeamfoldError):  # it is just being replaced
        newest = sorted(folder.glob(".results/*/checkpoint." + "[0-9]" * 10))[-1]
        return msgspec.msgpack.decode(read_whole(newest)[0], type=Checkpoint).folded
    return 0


def test_a_reducer_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Killed again and again, alone and with a worker; what is in a checkpoint is not folded again."""
    folded, output, n, step, more = tmp_path / "folded", tmp_path / "output", 800, 200, 50
    sections = {"reducer": {"checkpoint": True, "checkpoint_pause": 0.05}}
    app = {**APP, "reducer.py": SHARING.replace("FOLDED", repr(str(folded)))}
    with Deployment(tmp_path, app, {"x": Stream()}, sections=sections, complaints=COMPLAINTS) as deployment:
        number = deployment.submit({"streams": ["x"], "events": n})
        messages = iter(stins_series([frame(i) for i in range(n)]))
        deployment.send("x", [*islice(messages, 1)])
        for turn, names in enumerate((["reducer"], ["reducer", "worker-0"], ["reducer"])):
            deployment.send("x", [*islice(messages, step)])
            wanted = turn * (step + more) + step
            wait_until(lambda wanted=wanted: saved(output) >= wanted, "a checkpoint of all results")
            deployment.send("x", [*islice(messages, more)])
            for pid in [pid for name in names for pid in pids(deployment, name)]:
                os.kill(pid, signal.SIGKILL)
        deployment.send("x", [*messages])
        report = wait_ended(deployment, number)
        assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
        state = deployment.state()
        assert state.pop("bins") == [sum(range(k, n, 4)) for k in (3, 0, 1, 2)]
        assert state == undisturbed(n)
        assert n <= len(folded.read_bytes()) <= n + 3 * more
        (pid,) = pids(deployment, "reducer")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pids(deployment, "reducer") not in ([], [pid]) and shows(deployment), "what was published")
        assert deployment.state()["order"] == undisturbed(n)["order"]


def shows(deployment: Deployment) -> bool:
    try:
        return bool(deployment.state())
    except (AssertionError, httpx.TransportError):
        return False


def test_nothing_is_left_of_result_logs(deployment: Deployment) -> None:
    scan(deployment, [frame(i) for i in range(10)], None)
    logs = deployment.folder / "output" / ".results"
    wait_until(lambda: not [*logs.iterdir()], "no result log")


def test_promise_1_a_reducer_whose_class_ends_it_every_time_fails_the_scan_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    """Nothing that was logged is lost; but it cannot be folded, however often that is tried."""
    ending = APP["reducer.py"].replace(
        "    def process_result(self, result, parameters=None):\n",
        "    def process_result(self, result, parameters=None):\n"
        "        if result.payload['n'] == 20:\n            raise KeyboardInterrupt\n",
    )
    complaints = [*COMPLAINTS, "KeyboardInterrupt", r"^\s", "scan 1 failed"]
    with Deployment(tmp_path, {**APP, "reducer.py": ending}, {"x": Stream()}, complaints=complaints) as deployment:
        report = scan(deployment, [frame(i) for i in range(40)], 400.0)
        assert report["ended"] == "failed"
        assert "the reducer ended 6 times" in report["reason"]
        report = scan(deployment, [frame(i) for i in range(10)], 400.0)
        assert (report["ended"], report["states"]) == ("finished", {"reduced": 10})
