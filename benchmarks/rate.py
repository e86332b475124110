"""Events per second and CPU per event at full speed, beside a bare PULL socket on the same source process."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import zmq

WORKER = """
class Worker:
    def process_event(self, event, parameters=None):
        frames = event.streams["camera"].frames
        return {"number": event.event_number, "bytes": len(frames[1])} if len(frames) > 1 else None
"""
REDUCER = """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"events": 0}
    def process_result(self, result, parameters=None):
        self.publish["events"] += 1
"""
RUN = """
[run]
name = "benchmark"
[app]
worker = "worker.py:Worker"
reducer = "reducer.py:Reducer"
[workers]
count = {workers}
[streams.camera]
protocol = "stins"
url = "{url}"
"""


def free_url() -> str:
    """An address that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def source(url: str, frames: int) -> subprocess.Popen[str]:
    """The source process: waits for its receiver, then sends one series."""
    command = [sys.executable, "-m", "beamfold.testing.simulate", "stins", "--url", url, "--frames", str(frames)]
    return subprocess.Popen([*command, "--hwm", "5000"], stdout=subprocess.PIPE, text=True)


def sent(process: subprocess.Popen[str]) -> float:
    """Wait for the source; returns when its series began, in seconds since the epoch."""
    output, _ = process.communicate()
    now = time.time()
    return now - json.loads(output.splitlines()[-1])["seconds"]


def ceiling(frames: int) -> float:
    """Messages per second that a PULL socket takes and throws away."""
    url = free_url()
    process = source(url, frames)
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.connect(url)
        pull.recv_multipart()
        start = time.perf_counter()
        for _ in range(frames + 1):
            pull.recv_multipart()
        seconds = time.perf_counter() - start
    process.communicate()
    return frames / seconds


def cpu_seconds(root: int) -> float:
    """CPU time so far of a process and all its descendants."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def below(pid: int) -> bool:
        while pid > 1 and pid != root:
            pid = parents.get(pid, 0)
        return pid == root

    return sum(seconds for pid, seconds in used.items() if below(pid))


class Beamfold:
    """`beamfold run` with a benchmark app, for several scans."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.url = free_url()
        (folder / "worker.py").write_text(WORKER)
        (folder / "reducer.py").write_text(REDUCER)
        (folder / "run.toml").write_text(RUN.format(workers=workers, url=self.url))
        command = [sys.executable, "-m", "beamfold", "run", "run.toml"]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"controller (http\S+)", self.process.stdout.readline())
        if found is None:
            raise SystemExit("beamfold run did not start")
        self.api = httpx.Client(base_url=f"{found[1]}/api/v1", timeout=60)

    def scan(self, frames: int, batch: int) -> tuple[float, float]:
        """One scan; returns events per second and CPU microseconds per event."""
        spec = {"streams": ["camera"], "events": frames, "batch": batch}
        scan = self.api.post("/sequence", json=spec).raise_for_status().json()
        before = cpu_seconds(self.process.pid)
        start = sent(source(self.url, frames))
        while not self.api.get("/progress").json()["finished"]:
            time.sleep(0.05)
        cpu = cpu_seconds(self.process.pid) - before
        report = self.api.get(f"/scans/{scan}/report").json()
        if report["states"] != {"reduced": frames}:
            raise SystemExit(f"events are missing: {report['summary']}")
        return frames / (report["finished"] - start), cpu / frames * 1e6

    def close(self) -> None:
        """End it as Ctrl-C does."""
        self.api.close()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


def shown(values: list[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="events per virtual worker")
    options = parser.parse_args()
    bare, rates, cpus = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        beamfold = Beamfold(Path(folder), options.workers)
        try:
            for _ in range(options.repeat):
                bare.append(ceiling(options.frames))
                rate, cpu = beamfold.scan(options.frames, options.batch)
                rates.append(rate)
                cpus.append(cpu)
        finally:
            beamfold.close()
    print(f"bare PULL     {shown(bare)} messages/s")
    print(f"Beamfold      {shown(rates)} events/s")
    print(f"ratio         {shown([r / b for r, b in zip(rates, bare, strict=True)], 2)}")
    print(f"CPU per event {shown(cpus, 1)} µs over all processes")


if __name__ == "__main__":
    main()
