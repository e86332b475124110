"""Replay: captured streams through an app's classes in this process, in the order and with the code paths of live.

Start and end events go to every logical worker, data events to one each in turn; results travel through the same
codec and are folded in event order. What user code raises is a failure record, and the replay goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from beamfold.model.errors import BeamfoldError
from beamfold.model.events import EventData
from beamfold.model.report import MAX_FAILURES, ScanReport
from beamfold.model.states import EventState, EventStates
from beamfold.offline.apprun import FOREVER, AppRun
from beamfold.offline.parameters import read_parameters
from beamfold.offline.playback import Capture, events, parse_capture
from beamfold.offline.recorded import RecordedReplay
from beamfold.protocols.envelopes import ResultBatch, decode_header
from beamfold.protocols.messages import Failure
from beamfold.protocols.recordings import read_recording
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot
from beamfold.reduce.batch import Batch
from beamfold.work.machine import Part
from beamfold.work.runner import Runner

BATCH = 256
"""Events between two looks at the progress bar."""


class Replay:
    """One replay. `workers` logical workers take the data events in turn; `parameters` are raw values by name."""

    def __init__(
        self,
        worker: str,
        reducer: str,
        *,
        parameters: dict[str, bytes] | None = None,
        workers: int = 1,
        base_dir: Path | None = None,
    ) -> None:
        names = [f"worker-{i}" for i in range(workers)]
        self._app = AppRun(worker, reducer, base_dir or Path.cwd(), names, [(0, 0, parameters or {})])
        self._runners, self._folder = self._app.runners, self._app.folder
        self._next_tick = 0.0
        self._states = EventStates()
        self._last = -1
        self.report = ScanReport(str(uuid.uuid4()), 0, workers=names, started=time.time())

    @property
    def publish(self) -> Any:
        """The reducer's state as it is now."""
        return self._app.publish

    def run(self, source: Iterable[EventData]) -> Iterator[int]:
        """Process the events, yielding how many are done; the last one of all goes to every worker."""
        stream = iter(source)
        held = next(stream, None)
        first = True
        done = 0
        while held is not None:
            following = next(stream, None)
            everyone = first or following is None
            runners = self._runners if everyone else [self._runners[held.event_number % len(self._runners)]]
            self._one(held, runners, everyone)
            first, held = False, following
            done += 1
            if done % BATCH == 0:
                yield done
        self._finish()
        yield done

    def _one(self, event: EventData, runners: list[Runner], everyone: bool) -> None:
        now, interval = time.monotonic(), self._app.tick_interval
        if interval is not None and now >= self._next_tick:
            self._next_tick = now + interval
            runners[0].tick = True
        for n, runner in enumerate(runners):
            runner.run([Part(event.event_number, -1 - n if everyone else 0, event.streams, 0, 0, True)], FOREVER)
            self._fold(runner)
        self._last = max(self._last, event.event_number)

    def _fold(self, runner: Runner) -> None:
        """Results take the way they take live, through the codec, so that what cannot travel shows here as well."""
        parts, _ = runner.results.take()
        header = decode_header(parts[0])
        assert isinstance(header, ResultBatch)
        batch = Batch(header, parts[1:])
        event, states = int(batch.events[0]), batch.states
        state = states if isinstance(states, int) else int(states[0])
        self._states.set(event, event + 1, max(state, int(self._states[event])))
        name = self.report.workers[batch.worker]
        self._fail(Failure(event, hook, name, text) for _, hook, text in header.failures)
        self._app.fold(batch)

    def _fail(self, failures: Iterable[Failure]) -> None:
        for f in failures:
            self.report.failed_total += 1
            if len(self.report.failures) < MAX_FAILURES:
                entry = {"event": f.event, "where": f.where, "worker": f.worker, "traceback": f.text}
                self.report.failures.append(entry)

    def _finish(self) -> None:
        self._fail(self._app.finish(max(self._last, 0)))
        for lo, hi in self._folder.failed:
            self._states.raise_to(lo, hi, EventState.FAILED)
        self._conclude()

    def _conclude(self) -> None:
        """Count data events: all but the start event and, where the captures are whole, the end event."""
        report = self.report
        counts = self._states.counts()
        for event in {0} if report.troubles else {0, max(self._last, 0)}:
            if state := self._states[event]:
                counts[state] -= 1
        report.events = sum(counts.values())
        report.ended, report.finished = "finished", time.time()
        report.count(counts)


class Player(Protocol):
    """Something that replays, and says how it went."""

    report: ScanReport

    @property
    def publish(self) -> Any:
        """The reducer's state as it is now."""


def replay(
    worker: str,
    reducer: str,
    files: Iterable[Path | str | Capture],
    parameters: Path | None = None,
    output: Path | None = None,
    workers: int = 1,
    progress: bool = False,
) -> ScanReport:
    """Run an app over captured streams and write what it publishes to the HDF5 file `output`.

    `files` are dumps, or raw captures as `STREAM:PROTOCOL=FILE`. Raises BeamfoldError for what makes the replay
    impossible; a file that breaks off ends it with a trouble in the report.
    """
    captures = [f if isinstance(f, Capture) else parse_capture(str(f)) for f in files]
    raw = read_parameters(parameters) if parameters is not None else {}
    player = Replay(worker, reducer, parameters=raw, workers=workers)
    return _play(player, player.run(_tolerant(events(captures), player.report)), None, output, progress)


def replay_recording(
    folder: Path,
    app: tuple[str, str] | None = None,
    parameters: Path | None = None,
    output: Path | None = None,
    progress: bool = False,
) -> ScanReport:
    """Run a recorded scan again: the same parts at the same logical workers, the same parameters, ticks and order.

    The app is the one that the recording names, unless `app` names another worker and reducer (relative to the
    present folder); `parameters` replace those that were recorded, for the whole scan. Raises BeamfoldError for what
    makes the replay impossible.
    """
    recording = read_recording(folder)
    raw = read_parameters(parameters) if parameters is not None else None
    player = RecordedReplay(recording, app, raw)
    return _play(player, player.run(), recording.report.events if recording.report else None, output, progress)


def _play(player: Player, steps: Iterable[int], total: int | None, output: Path | None, progress: bool) -> ScanReport:
    columns = (TextColumn("replay"), BarColumn(), TextColumn("{task.completed} events"), TimeElapsedColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("replay", total=total)
        for done in steps:
            bar.update(task, completed=done)
    if output is not None:
        report = player.report.to_dict()
        write_hdf5(output, snapshot(player.publish), {"beamfold_summary": report["summary"]})
        player.report.result_file = str(output)
    return player.report


def _tolerant(source: Iterator[EventData], report: ScanReport) -> Iterator[EventData]:
    """A capture that breaks off ends the replay there, with what was whole before."""
    try:
        yield from source
    except BeamfoldError as error:
        report.troubles.append(str(error))


__all__ = ["Replay", "replay", "replay_recording"]
