"""Replay of a dump, with the command of either system."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpWriter
from beamfold.testing.rings import rings
from beamfold.testing.simulators import stins_series
from sidebyside.base import APP, CAMERA, OURS, PEER, BenchFailure, Scan, Setup, check_state
from sidebyside.figures import CPU, RATE, Ratio, Side, Values
from sidebyside.peer import PYTHON
from sidebyside.processes import clean_environment, guarded
from sidebyside.scenarios.base import Measure, Options

EVENTS = 300_000
ONE, TWO = "1 process", "2 processes"
"""What the events are processed in; with two, a third one folds, which for the peer there is no way to do."""

STATE = "BENCH_STATE"
"""Names the file that the app's reducer writes at the end (`WrittenReducer`)."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A dump of 8×8 frames through the app; the time is that of the whole command."""

    name: str = "replay"
    about: str = f"the same dump of {EVENTS:,} events of 8×8 frames, replayed in one process and in two"
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = (ONE, TWO)

    @property
    def ratios(self) -> list[Ratio]:
        """With the peer's one process."""
        return [
            Ratio(f"beamfold, {v} / dranspose, {ONE}", RATE, Side.one(OURS, v), Side.one(PEER, ONE))
            for v in self.variants
        ]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """With the dump written."""
        events = options.events(EVENTS)
        file = options.folder / "camera.cbors"
        if not file.exists():
            write_dump(file, events)
        numbers = itertools.count()

        def measure(variant: str) -> Values | None:
            if system == PEER and variant != ONE:
                return None
            processes = self.variants.index(variant) + 1
            state = options.folder / f"{system}-{next(numbers)}.json"
            used, began = _children_seconds(), time.monotonic()
            run(system, file, state, processes, options.deadline_s)
            seconds, used = time.monotonic() - began, _children_seconds() - used
            check_state(system, Scan(events), Setup(), json.loads(state.read_text()))
            return {RATE: events / seconds, CPU: used / events * 1e6}

        yield measure


def write_dump(path: Path, events: int) -> None:
    """What an ingester would have written: the start message as event 0, the images, and the end message."""
    images = rings(CAMERA.shape, count=16)
    series = stins_series(itertools.islice(itertools.cycle(images), events))
    with DumpWriter(path) as writer:
        for number, message in enumerate(series):
            writer.write(number, {CAMERA.name: StreamData("STINS", message)})


def run(system: str, dump: Path, state: Path, processes: int, deadline_s: float) -> None:
    """The system's own command, from its start to its end. Raises BenchFailure."""
    command = [sys.executable, "-m", "beamfold"] if system == OURS else [str(PYTHON), "-m", "dranspose.cli"]
    app = ["-w", "tally:Worker", "-r", "tally:WrittenReducer", "--nworkers", str(processes)]
    if processes > 1:
        app += ["--processes", str(processes)]
    env = clean_environment(LOG_LEVEL="WARNING", **{STATE: str(state)})
    log = state.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            guarded([*command, "replay", *app, "-f", str(dump)]),
            cwd=APP,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with process:
            try:
                code = process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                raise BenchFailure(f"{system} HANGS: its replay has not ended after {deadline_s:.0f} s") from None
            finally:
                process.kill()
    if code:
        raise BenchFailure(f"{system}: its replay ended with exit code {code}: {log.read_text()[-1000:]}")


def _children_seconds() -> float:
    """CPU seconds of all processes that we have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
