"""What the tests of faults share: an app that can be harmed from inside, a detector that keeps its rate, and what the
published state is when nothing goes wrong.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from beamfold.testing.simulators import stins_series
from flow.deployment import Deployment, wait_until

APP = {
    "worker.py": """
import ctypes, os, time

class Worker:
    def process_event(self, event, parameters=None):
        message = event.streams["x"].parse()
        if message.htype != "image":
            return None
        array = message.data
        what = int(array[0, 1])
        if what == 1:
            os._exit(3)
        if what == 2:
            time.sleep(3600)
        if what == 3:
            ctypes.PyDLL(None).sleep(3600)  # and never lets go of the interpreter's lock
        if what == 4:
            os.abort()
        if what == 5:
            if os.fork() == 0:
                time.sleep(3600)  # with all that the worker had open
            os._exit(3)
        return {"n": event.event_number, "sum": int(array.sum())}
""",
    "reducer.py": """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"total": 0, "order": []}

    def process_result(self, result, parameters=None):
        self.publish["total"] += result.payload["sum"]
        self.publish["order"].append(result.payload["n"])
""",
}
COMPLAINTS = [r" ended: ", r"worker.*lost", r"taken for lost", r"Fatal Python error", r"^    "]
EXIT, HANG, LOCK, ABORT, FORK = 1, 2, 3, 4, 5


def frame(number: int, what: int = 0) -> Any:
    return np.array([[number, what], [0, 0]], dtype=np.int32)


def undisturbed(n: int, without: set[int] = frozenset()) -> dict[str, Any]:
    events = [e for e in range(1, n + 1) if e not in without]
    return {"total": sum(e - 1 for e in events), "order": events}


def pids(deployment: Deployment, name: str) -> list[int]:
    """The processes whose name begins so."""
    return [pid for pid, found in deployment.processes().items() if found.startswith(name)]


def all_here(deployment: Deployment) -> None:
    def here() -> bool:
        config = ask(deployment, "config")
        if config is None:
            return False
        workers = len(config["workers"]) == 2 and len(pids(deployment, "worker-")) == 2
        return workers and config["reducer"] is not None and len(pids(deployment, "reducer")) == 1

    wait_until(here, "all services")


def tcp_address() -> str:
    """A control address that is nobody's: on one host the services' own choice would be no TCP."""
    return f"tcp://127.{random.randrange(1, 255)}.{random.randrange(256)}.1:{random.randrange(20_000, 30_000)}"


def connections(deployment: Deployment) -> list[tuple[str, str]]:
    """The TCP connections of a deployment's processes, by the addresses of both ends."""
    pids = [f"pid={pid}," for pid in deployment.processes()]
    shown = subprocess.run(["ss", "-tnpH", "state", "established"], capture_output=True, text=True, check=True)
    lines = [line.split() for line in shown.stdout.splitlines()]
    return [(line[2], line[3]) for line in lines if any(pid in "".join(line[4:]) for pid in pids)]


def cut(deployment: Deployment, detector: str = "") -> int:
    """Break the connections to a stream's detector, or all but those to detectors; how many there were.

    None, if this kernel does not let it, or this user may not.
    """
    detectors = {name: sender.url.removeprefix("tcp://") for name, sender in deployment.senders.items()}
    wanted = {detectors[detector]} if detector else set(detectors.values())
    before = [ends for ends in connections(deployment) if (ends[1] in wanted) == bool(detector)]
    for here, there in before:
        subprocess.run(["ss", "-tK", "src", here, "dst", there], capture_output=True, check=False)
    return len(set(before) - set(connections(deployment)))


class Sender(threading.Thread):
    """A detector of its own: so many frames at this rate (None: as fast as it goes), and the series' `end`."""

    def __init__(self, deployment: Deployment, frames: list[Any], rate: float | None, *, end: bool = True) -> None:
        super().__init__(daemon=True)
        self._deployment, self._rate = deployment, rate
        self._messages = list(stins_series(frames))[: None if end else -1]
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        for i, message in enumerate(self._messages):
            if self._rate is not None:
                time.sleep(max(0.0, began + i / self._rate - time.monotonic()))
            self._deployment.send("x", [message])


def ask(deployment: Deployment, path: str) -> Any:
    """What the controller answers; None while there is none, or it does not know."""
    try:
        answer = deployment.get(path)
    except httpx.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None


def wait_reached(deployment: Deployment, events: int) -> None:
    """Until so many events of the present scan are done, whoever is the controller."""

    def reached() -> bool:
        progress = ask(deployment, "progress")
        return progress is not None and progress["completed_events"] >= events

    wait_until(reached, f"{events} events")


def wait_ended(deployment: Deployment, number: str) -> dict[str, Any]:
    """The report of a scan, once it has ended, whoever is the controller."""

    def ended() -> Any:
        report = ask(deployment, f"scans/{number}/report")
        return report if report and report["ended"] else None

    found: dict[str, Any] = wait_until(ended, f"the end of scan {number}")
    return found


def scan(
    deployment: Deployment, frames: list[Any], rate: float | None, disturb: Callable[[], None] | None = None
) -> dict[str, Any]:
    all_here(deployment)
    number = deployment.submit({"streams": ["x"], "events": len(frames)})
    sender = Sender(deployment, frames, rate)
    if disturb is not None:
        disturb()
    report = wait_ended(deployment, number)
    sender.join()
    return report
