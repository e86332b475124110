"""Beamfold, as its users run it: `beamfold run`, and a uniform trigger map for every scan."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from sidebyside.base import APP, STREAM, BenchFailure, Measured, Tally, check_tally
from sidebyside.processes import (
    START_S,
    Process,
    clean_environment,
    cpu_seconds,
    free_port,
    spent,
    wait_for,
)
from sidebyside.source import Source

POLL_S = 0.05
"""Between two questions whether the scan has ended. They do not make it seem longer: the report says when it ended."""

ANSWER_S = 30.0
"""Seconds for an answer: that to a new trigger map comes when everything is armed."""

ENDING_S = 20.0
"""Seconds for an orderly end, with that of a scan before it."""

_READY = re.compile(r"controller (http://\S+)  reducer (http://\S+)")

_RUN = """\
[run]
name = "benchmark"

[app]
worker = "{app}/tally.py:Worker"
reducer = "{app}/tally.py:Reducer"

[workers]
count = {workers}

[streams.{stream}]
protocol = "stins"
url = "{url}"
"""


class Beamfold:
    """One run for all scans, with a control store of its own."""

    name = "beamfold"

    def __init__(self, *, workers: int, deadline_s: float) -> None:
        self._workers = workers
        self._deadline_s = deadline_s
        self._url = f"tcp://127.0.0.1:{free_port()}"
        self._temporary = tempfile.TemporaryDirectory(prefix="beamfold-bench-")
        self._folder = Path(self._temporary.name)
        self._process: Process | None = None
        self._controller = self._reducer = ""
        self._http = httpx.Client(timeout=ANSWER_S, trust_env=False)

    def start(self) -> None:
        """Start it, and read from its output where it is."""
        runfile = self._folder / "run.toml"
        runfile.write_text(_RUN.format(app=APP, workers=self._workers, stream=STREAM, url=self._url))
        command = [sys.executable, "-m", "beamfold", "run", str(runfile)]
        process = Process("beamfold", command, folder=self._folder, cwd=self._folder, env=clean_environment())
        self._process = process

        def ready() -> re.Match[str] | None:
            process.check()
            return _READY.search(process.output())

        found = wait_for(ready, START_S, lambda: f"beamfold run is not up after {START_S:.0f} s:{process.tail()}")
        self._controller, self._reducer = (f"{url}/api/v1" for url in found.groups())

    def scan(self, frames: int, batch: int) -> Measured:
        """One scan; the report and what the reducer publishes must both account for every event."""
        process = self._running()
        before = cpu_seconds([process.pid])
        scan = self._submit({"streams": [STREAM], "events": frames, "batch": batch})
        with Source(self._url, frames) as source:
            wait_for(lambda: self._finished(source), self._deadline_s, lambda: self._late(frames, batch), POLL_S)
            cpu = spent(before, cpu_seconds([process.pid]))
            started = source.started(self._deadline_s)
        report = self._get(f"{self._controller}/scans/{scan}/report")
        self._check(frames, report)
        return Measured(frames, report["finished"] - started, cpu)

    def close(self) -> None:
        """End it as Ctrl-C does; the supervisor ends the rest."""
        if self._process is not None:
            self._process.end(signal.SIGINT, ENDING_S)
            self._process = None
        self._http.close()
        self._temporary.cleanup()

    def _submit(self, trigger_map: dict[str, Any]) -> str:
        try:
            answer = self._http.post(f"{self._controller}/sequence", json=trigger_map)
        except httpx.HTTPError as error:
            raise BenchFailure(f"beamfold does not take the trigger map: {error!r}") from None
        if answer.is_error:
            raise BenchFailure(f"beamfold refuses the trigger map: {answer.text}")
        return str(answer.json())

    def _running(self) -> Process:
        if self._process is None:
            raise BenchFailure("beamfold was not started")
        self._process.check()
        return self._process

    def _finished(self, source: Source) -> bool:
        self._running()
        source.check()
        return bool(self._get(f"{self._controller}/progress")["finished"])

    def _check(self, frames: int, report: dict[str, Any]) -> None:
        if report["states"] != {"reduced": frames}:
            raise BenchFailure(f"beamfold: of {frames:,} events not every one was reduced: {report['summary']}")
        state = self._get(f"{self._reducer}/state")
        check_tally(self.name, frames, Tally(state["count"], state["sum"]))

    def _late(self, frames: int, batch: int) -> str:
        return (
            f"beamfold HANGS: a scan of {frames:,} events in batches of {batch} has not ended after "
            f"{self._deadline_s:.0f} s; {self._standing()}; its last words:{self._running().tail()}"
        )

    def _standing(self) -> str:
        try:
            return f"its progress: {self._get(f'{self._controller}/progress')}"
        except BenchFailure as silence:
            return str(silence)

    def _get(self, url: str) -> Any:
        try:
            return self._http.get(url).raise_for_status().json()
        except httpx.HTTPError as error:
            raise BenchFailure(f"beamfold does not answer GET {url}: {error!r}") from None
