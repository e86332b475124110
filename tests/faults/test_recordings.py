"""Promise 4 after promise 2: a recorded scan whose services were killed replays to the same state."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from beamfold.cli.replay import run_replay
from beamfold.model.errors import MalformedFrame
from beamfold.protocols.dumps import DumpEvent, read_dump
from beamfold.protocols.recordings import read_recording
from faults.harm import ABORT, COMPLAINTS, frame, pids, scan, wait_reached
from flow.deployment import Deployment, Stream, wait_until

KILLED = [*COMPLAINTS, r"of another controller is taken up", r"nobody knows for certain", r"cannot be reached"]

WORKER = """
import os
import numpy as np

class Worker:
    def __init__(self, parameters=None, context=None, state=None):
        self.name = state.name

    def get_tick_interval(self, parameters=None):
        return 0.02

    def process_event(self, event, parameters=None, tick=False):
        message = event.streams["x"].parse()
        if message.htype != "image":
            return None
        number, what = message.data[0, :2].tolist()
        if what == 4:
            os.abort()
        big = np.full(5000, number, "int32")  # travels as a buffer of its own
        return {"value": np.float32(number) / np.float32(3), "who": {self.name, "all"}, "ticks": int(tick), "big": big}
"""
COMBINE = """
    def combine(self, results, parameters=None):
        total = np.float32(0)
        for result in results:
            total += result["value"]
        return {
            "value": total,
            "who": results[0]["who"],
            "ticks": sum(result["ticks"] for result in results),
            "big": sum(result["big"] for result in results),
        }
"""
REDUCER = """
import numpy as np

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"rows": [], "who": [], "total": np.float32(0), "big": np.zeros(5000, "int64")}

    def process_result(self, result, parameters=None):
        payload = result.payload
        self.publish["rows"].append([result.event_number, payload["ticks"], float(payload["value"])])
        self.publish["who"].append([result.worker, *sorted(payload["who"])])
        self.publish["total"] = np.float32(self.publish["total"] + payload["value"])
        self.publish["big"] += payload["big"]
"""


@pytest.fixture(scope="module", params=[False, True], ids=["single", "combined-checkpoints"])
def deployment(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("recorded")
    app = {"worker.py": WORKER + COMBINE * request.param, "reducer.py": REDUCER}
    sections: dict[str, Any] = {"record": {"directory": str(folder / "recordings")}}
    if request.param:
        sections["reducer"] = {"checkpoint": True, "checkpoint_pause": 0.05}
    with Deployment(folder, app, {"x": Stream()}, sections=sections, complaints=KILLED) as deployment:
        yield deployment


def verified(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of the recording, which replays to the same state."""
    recording = Path(report["recording"])
    found = []
    for processes in (1, 2):
        code = run_replay([str(recording)], None, None, None, None, None, processes, verify=True)
        said = capsys.readouterr()
        found.append(said.out)
        assert code == 0, said
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(("n", "rate"), [(400, 400.0), (6000, None)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_scan_with_killed_workers_and_reducers_replays_to_the_same_state(
    deployment: Deployment, n: int, rate: float | None, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        chance = random.Random(seed)
        for share, name in ((0.2, "worker-"), (0.4, "reducer"), (0.6, "worker-")):
            deployment.wait_reached(int(n * share) + chance.randrange(10))
            os.kill(chance.choice(pids(deployment, name)), signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert report["states"] == {"reduced": n}
    assert {loss["service"].split()[0] for loss in report["losses"]} == {"worker", "reducer"}
    said = verified(report, capsys)
    assert said.startswith(f"the same: 4 leaves of the published state, the states of {n} events, and ")
    recording = read_recording(Path(report["recording"]))
    assert f"in {sum(bool(b.digest) for b in recording.logged)} batch" in said


@pytest.mark.parametrize(
    ("n", "rate", "moments", "controller"),
    [(1000, 400.0, [150, 500], False), (6000, 3000.0, [1000], False), (1000, 400.0, [150], True)],
)
def test_a_scan_with_killed_ingesters_replays_to_the_same_state(
    deployment: Deployment,
    n: int,
    rate: float,
    moments: list[int],
    controller: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the next one received is in a file of its own, and what died with the one before is not in the replay,
    though it had come into its dump."""

    def kill() -> None:
        for moment in moments:
            wait_reached(deployment, moment)
            for name in ["x", *["controller"] * controller]:
                (pid,) = wait_until(lambda name=name: pids(deployment, name), name)
                os.kill(pid, signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert report["ended"] == "finished"
    assert not report["troubles"]
    lacking = sum(hi - lo for lo, hi in report["runs"].get("incomplete (skipped)", []))
    assert report["states"]["reduced"] == n - lacking
    assert verified(report, capsys).startswith("the same: ")
    dumps = read_recording(Path(report["recording"])).streams["x"].dumps
    assert 2 <= len(dumps) <= len(moments) + 1, "one may end before it has received anything"
    dumped = {event.event_number for dump in dumps for event in whole(dump)}
    assert dumped >= {0, n + 1} and n - lacking <= len(dumped) - 2 <= n


def whole(dump: Path) -> Iterator[DumpEvent]:
    """The frames of a dump, the last of which may have been cut off."""
    with suppress(MalformedFrame):
        yield from read_dump(dump)


def test_what_was_given_up_as_poison_is_not_tried_in_a_replay(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    report = scan(deployment, [frame(i, ABORT if i == 49 else 0) for i in range(200)], 400.0)
    assert report["states"] == {"reduced": 199, "failed": 1}
    verified(report, capsys)
