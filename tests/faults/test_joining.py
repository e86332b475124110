"""More workers in mid-scan: one that is started by hand gets a share at once, and the published state is the same."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from beamfold.cli.replay import run_replay
from faults.harm import COMPLAINTS, Sender, frame
from flow.deployment import Deployment, Stream
from processes import command

APP = {
    "worker.py": """
import time
from pathlib import Path

GO = Path(__file__).parent / "go"

class Worker:
    def __init__(self, parameters=None, context=None, state=None, **kwargs):
        self.name, self.casts, self.done = state.name, [], 0

    def process_event(self, event, parameters=None):
        message = event.streams["x"].parse()
        if message.htype != "image":
            return None
        if message.data[0, 1]:
            self.casts.append(event.event_number)
        elif self.name == "extra":
            self.done += 1
            if self.done == 5:
                GO.touch()
        else:
            while not GO.exists():
                time.sleep(0.01)
        return {"n": event.event_number, "casts": list(self.casts)}
""",
    "reducer.py": """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"order": [], "casts": [], "by": {}}

    def process_result(self, result, parameters=None):
        self.publish["order"].append(result.event_number)
        self.publish["casts"].append(len(result.payload["casts"]))
        by = self.publish["by"]
        by[result.worker] = by.get(result.worker, 0) + 1
""",
}
N = 100
CASTS = {10, 60}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_worker_that_is_started_in_mid_scan_gets_events_and_the_state_is_that_of_the_undisturbed_scan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "controller": {"control": f"tcp://127.0.0.1:{free_port()}"},
        "record": {"directory": str(tmp_path / "recordings")},
        "policy": {"fold_patience": 60},  # what waits for the one that joins is a hole
    }
    cells = [[{"constraint": None if event in CASTS else event}] for event in range(1, N + 1)]
    with Deployment(tmp_path, APP, {"x": Stream()}, sections=sections, complaints=COMPLAINTS) as deployment:
        number = deployment.submit({"parts": {"p": {"x": cells}}, "sequence": ["p"]})
        sender = Sender(deployment, [frame(event, int(event in CASTS)) for event in range(1, N + 1)], None)
        # The others wait for what it does: without it the scan would not end.
        with command("worker", str(tmp_path / "run.toml"), "--name", "extra", cwd=tmp_path) as extra:
            report = deployment.wait_ended(number)
            state = deployment.state()
            extra.send(signal.SIGTERM)
            assert extra.ends() == 0
        sender.join()
    assert (report["ended"], report["states"]) == ("finished", {"reduced": N})
    assert (report["workers"], report["joined"]) == (["worker-0", "worker-1", "extra"], ["extra"])
    assert report["losses"] == report["troubles"] == []
    order = [event for event in range(1, N + 1) for _ in range(1 + (event in CASTS))]
    assert state["order"] == order
    assert state["casts"] == [sum(cast <= event for cast in CASTS) for event in order]
    assert state["by"]["extra"] >= 5 and sum(state["by"].values()) == len(order)
    code = run_replay([report["recording"]], None, None, None, None, None, 1, verify=True)
    said = capsys.readouterr()
    assert code == 0 and said.out.startswith("the same: "), said
