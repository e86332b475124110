"""`beamfold demo`: a fluorescence map from two simulated detectors, the whole way that a real one goes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from beamfold.app.runfile import load_runfile
from beamfold.cli.logs import LEVEL_VARIABLE
from beamfold.cli.process import Child
from beamfold.cli.reports import faults, picture
from beamfold.cli.run import record_to
from beamfold.cli.signals import interruptible
from beamfold.cli.supervisor import Supervisor, to_stderr
from beamfold.cli.web import Refusal, ask
from beamfold.model.errors import BeamfoldError, ConfigError

POLL = 0.2
"""Seconds between two looks at the progress."""

AHEAD = 0.3
"""Seconds between the word to start a series and its first message, so that both detectors start together."""

DETECTORS = ("contrast", "xspress3")
COLUMNS = 20


def run_demo(*, serve: bool, points: int, rate: float, output: Path, record: Path | None = None) -> int:
    """Scan once, or until Ctrl-C; returns the exit code, 1 when a scan was not clean.

    `record`: the folder below which the scans are recorded.
    """
    record_to(record)
    os.environ.setdefault(LEVEL_VARIABLE, "WARNING")
    return asyncio.run(_demo(serve, points, rate, output))


def app_folder() -> Path:
    """The fluorescence app: the checkout's, or the one that was installed with the package."""
    package = Path(__file__).parents[1]
    for apps in (package.parents[1] / "apps", package / "_apps"):
        if (apps / "fluorescence" / "run.toml").is_file():
            return apps / "fluorescence"
    raise ConfigError(f"the app 'fluorescence' is not beside {package}: install Beamfold again")


async def _demo(serve: bool, points: int, rate: float, output: Path) -> int:
    demo = Demo(points, rate, output)
    return await interruptible(demo.run(serve), demo.hurry)


class Demo:
    """The detectors, the services, and the person who starts scans."""

    def __init__(self, points: int, rate: float, output: Path) -> None:
        self._points = points
        self._columns = COLUMNS if points >= 10 * COLUMNS else max(1, math.isqrt(points))
        self._rate = rate
        self._output = output
        self._detectors: list[Detector] = []
        self._supervisor: Supervisor | None = None
        self._console = Console(stderr=True)

    def hurry(self) -> None:
        """Kill what has not ended yet."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    async def run(self, serve: bool) -> int:
        """Start everything, scan, end everything."""
        async with AsyncExitStack() as stack:
            for name in DETECTORS:
                detector = Detector(name)
                stack.push_async_callback(detector.stop)
                await detector.start(self._points, self._columns, self._rate)
                self._detectors.append(detector)
            urls = {f"BEAMFOLD_STREAMS__{d.name.upper()}__URL": await d.url() for d in self._detectors}
            os.environ.update(urls, BEAMFOLD_OUTPUT__DIRECTORY=str(self._output.absolute()))
            self._supervisor = Supervisor(load_runfile(app_folder()), own_store=True)
            supervisor = await stack.enter_async_context(self._supervisor)
            print(f"controller  {supervisor.controller_url}")
            print(f"live map    {supervisor.reducer_url}/api/v1/state/map", flush=True)
            code = 0
            while True:
                code = max(code, await self._guarded(self._scan(supervisor)))
                if not serve:
                    return code

    async def _guarded(self, scan: Coroutine[Any, Any, int]) -> int:
        """A scan, given up when the run or a detector ends under it."""
        assert self._supervisor is not None
        task = asyncio.create_task(scan)
        guards = [asyncio.create_task(d.ended()) for d in self._detectors]
        guards.append(asyncio.create_task(self._supervisor.wait()))
        try:
            done, _ = await asyncio.wait({task, *guards}, return_when=asyncio.FIRST_COMPLETED)
            for guard in guards:
                if guard in done:
                    await guard
            return await task
        finally:
            for other in (task, *guards):
                other.cancel()
            await asyncio.gather(task, *guards, return_exceptions=True)

    async def _scan(self, supervisor: Supervisor) -> int:
        api = f"{supervisor.controller_url}/api/v1"
        scan_id = await ask(f"{api}/sequence", {"streams": list(DETECTORS), "events": self._points})
        # Only now: what a detector sends before its ingester is armed belongs to no scan.
        for detector in self._detectors:
            detector.play(time.monotonic() + AHEAD)
        await self._follow(api)
        report = await ask(f"{api}/scans/{scan_id}/report")
        await self._show_map(supervisor.reducer_url)
        print(report["summary"])
        if report["result_file"]:
            print(f"result      {report['result_file']}")
        if report["recording"]:
            print(f"recording   {report['recording']}")
        wrong = faults(report)
        for fault in wrong:
            print(f"beamfold: {fault}", file=sys.stderr)
        sys.stdout.flush()
        return 1 if wrong else 0

    async def _follow(self, api: str) -> None:
        columns = (TextColumn("scanning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task("scan", total=self._points)
            while True:
                progress = await ask(f"{api}/progress")
                bar.update(task, completed=min(progress["completed_events"], self._points))
                if progress["finished"]:
                    return
                await asyncio.sleep(POLL)

    async def _show_map(self, reducer: str) -> None:
        with suppress(Refusal):  # when nothing was reduced, which the report says
            shades = picture(await ask(f"{reducer}/api/v1/state/image/roi1"))
            print(shades, end="\n" if shades else "")


class Detector:
    """A simulated detector in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._child: Child | None = None
        self._url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Task[str] | None = None

    async def start(self, points: int, columns: int, rate: float) -> None:
        """Start it; `url()` says where it can be received."""
        arguments = ["beamfold.cli.detectors", self.name, "--points", str(points), "--columns", str(columns)]
        arguments += ["--rate", str(rate), "--parent", str(os.getpid())]
        pipe = asyncio.subprocess.PIPE
        self._child = await Child.start("detector", self.name, arguments, os.environ, self._heard, stdin=pipe)
        self._ended = asyncio.create_task(self._child.wait())

    def _heard(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            to_stderr(line)  # no message of ours: something went wrong
            return
        if said["event"] == "listening" and not self._url.done():
            self._url.set_result(said["url"])

    async def url(self) -> str:
        """Where it can be received."""
        assert self._ended is not None
        await asyncio.wait({self._url, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self._url.done():
            await self.ended()
        return self._url.result()

    async def ended(self) -> None:
        """Wait until it ends, which it should not: BeamfoldError."""
        assert self._ended is not None
        how = await asyncio.shield(self._ended)
        raise BeamfoldError(f"the simulated {self.name} detector ended: {how}")

    def play(self, start: float) -> None:
        """Send one series, beginning at this reading of `time.monotonic`."""
        assert self._child is not None
        self._child.write(repr(start))

    async def stop(self) -> None:
        """End it; nothing of it is worth waiting for."""
        if self._child is not None and self._ended is not None:
            self._child.kill()
            await self._ended
            await self._child.close()
