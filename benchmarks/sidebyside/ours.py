"""Beamfold, as its users run it: `beamfold run`, and a uniform trigger map for every scan."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from sidebyside.base import APP, OURS, WORKERS, BenchFailure, Inexact, Measured, Scan, Setup, check_state
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
from sidebyside.viewer import published

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
worker = "{app}/tally.py:{worker}"
reducer = "{app}/tally.py:{reducer}"

[workers]
count = {workers}
"""

_STREAM = """
[streams.{name}]
protocol = "stins"
url = "{url}"
"""


def check_report(scan: Scan, setup: Setup, report: Mapping[str, Any]) -> None:
    """Raises Inexact unless the report has all events of the scan in the states in which they should be."""
    reduced = scan.events // setup.every if setup.every else 0
    expected = {"reduced": reduced, "no result": scan.events - reduced}
    if report["states"] != {name: n for name, n in expected.items() if n}:
        raise Inexact(f"beamfold: of {scan.events:,} events not every one was processed: {report['summary']}")


class Beamfold:
    """One run for all scans, with a control store of its own."""

    name = OURS

    def __init__(self, setup: Setup, *, deadline_s: float) -> None:
        self._setup = setup
        self._deadline_s = deadline_s
        self._urls = [f"tcp://127.0.0.1:{free_port()}" for _ in setup.streams]
        self._temporary = tempfile.TemporaryDirectory(prefix="beamfold-bench-")
        self._folder = Path(self._temporary.name)
        self._process: Process | None = None
        self._controller = self._reducer = ""
        self._http = httpx.Client(timeout=ANSWER_S, trust_env=False)

    def start(self) -> None:
        """Start it, and read from its output where it is."""
        runfile = self._folder / "run.toml"
        runfile.write_text(self._run())
        command = [sys.executable, "-m", "beamfold", "run", str(runfile)]
        process = Process("beamfold", command, folder=self._folder, cwd=self._folder, env=clean_environment())
        self._process = process

        def ready() -> re.Match[str] | None:
            process.check()
            return _READY.search(process.output())

        found = wait_for(ready, START_S, lambda: f"beamfold run is not up after {START_S:.0f} s:{process.tail()}")
        self._controller, self._reducer = found.groups()

    def _run(self) -> str:
        setup = self._setup
        run = _RUN.format(app=APP, worker=setup.worker, reducer=setup.reducer, workers=WORKERS)
        streams = zip(setup.names, self._urls, strict=True)
        return run + "".join(_STREAM.format(name=name, url=url) for name, url in streams)

    def scan(self, scan: Scan) -> Measured:
        """One scan; the report and what the reducer publishes must both account for every event."""
        process = self._running()
        before = cpu_seconds(self.roots())
        uuid = self._post(scan)
        with Source(self._setup, self._urls, scan) as source:
            wait_for(lambda: self._finished(source), self._deadline_s, lambda: self._late(scan), POLL_S)
            cpu = spent(before, cpu_seconds([process.pid]))
            started = source.started(self._deadline_s)
        report = self._get(f"{self._controller}/api/v1/scans/{uuid}/report")
        state = published(self._http, self._reducer)
        check_report(scan, self._setup, report)
        check_state(self.name, scan, self._setup, state)
        return Measured(scan.events, report["finished"] - started, cpu, state)

    def submit(self, scan: Scan) -> float:
        """Its answer comes when every ingester is armed."""
        self._running()
        began = time.monotonic()
        self._post(scan)
        seconds = time.monotonic() - began
        self._stop()
        wait_for(
            lambda: self._progress()["finished"], self._deadline_s, lambda: f"beamfold HANGS: {scan} does not stop"
        )
        return seconds

    def roots(self) -> list[int]:
        """The supervisor: everything else is below it."""
        return [self._running().pid]

    def viewed(self) -> tuple[str, str]:
        """As it says when it is ready."""
        return self._reducer, self._controller

    def close(self) -> None:
        """End it as Ctrl-C does; the supervisor ends the rest."""
        if self._process is not None:
            self._process.end(signal.SIGINT, ENDING_S)
            self._process = None
        self._http.close()
        self._temporary.cleanup()

    def _post(self, scan: Scan) -> str:
        body = {"streams": self._setup.names, "events": scan.events, "batch": scan.batch}
        try:
            answer = self._http.post(f"{self._controller}/api/v1/sequence", json=body)
        except httpx.HTTPError as error:
            raise BenchFailure(f"beamfold does not take the trigger map: {error!r}") from None
        if answer.is_error:
            raise BenchFailure(f"beamfold refuses the trigger map: {answer.text}")
        return str(answer.json())

    def _stop(self) -> None:
        try:
            self._http.post(f"{self._controller}/api/v1/stop").raise_for_status()
        except httpx.HTTPError as error:
            raise BenchFailure(f"beamfold does not stop a scan: {error!r}") from None

    def _running(self) -> Process:
        if self._process is None:
            raise BenchFailure("beamfold was not started")
        self._process.check()
        return self._process

    def _finished(self, source: Source) -> bool:
        self._running()
        source.check()
        return bool(self._progress()["finished"])

    def _late(self, scan: Scan) -> str:
        return (
            f"beamfold HANGS: a scan of {scan.events:,} events in batches of {scan.batch} has not ended after "
            f"{self._deadline_s:.0f} s; {self._standing()}; its last words:{self._running().tail()}"
        )

    def _standing(self) -> str:
        try:
            return f"its progress: {self._progress()}"
        except BenchFailure as silence:
            return str(silence)

    def _progress(self) -> Any:
        return self._get(f"{self._controller}/api/v1/progress")

    def _get(self, url: str) -> Any:
        try:
            return self._http.get(url).raise_for_status().json()
        except httpx.HTTPError as error:
            raise BenchFailure(f"beamfold does not answer GET {url}: {error!r}") from None
