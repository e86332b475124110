"""Replay: captured streams through an app's classes in this process, in the order and with the code paths of live.

Start and end events go to every logical worker, data events to one each in turn, batch by batch; results travel through
the same codec and are folded in event order. What user code raises is a failure record, and the replay goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
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
"""Events that are read before they are processed and folded."""

BATCH_BYTES = 32 << 20
"""Bytes of events that are read before they are processed, however few they are."""


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
        self._parts: list[list[Part]] = [[] for _ in names]
        self._gathered = self._bytes = 0
        self._next_tick = 0.0
        self._states = EventStates()
        self._last = -1
        self.report = ScanReport(str(uuid.uuid4()), 0, workers=names, started=time.time())

    @property
    def publish(self) -> Any:
        """The reducer's state as it is now."""
        return self._app.publish

    def run(self, source: Iterable[EventData]) -> Iterator[int]:
        """Process the events, yielding how many are done; the first and the last one of all go to every worker."""
        stream = iter(source)
        held = next(stream, None)
        done, first = 0, True
        while held is not None:
            following = next(stream, None)
            if first or following is None:
                self._process()
                self._broadcast(held)
            else:
                self._gather(held)
            held, first, done = following, False, done + 1
            if self._gathered >= BATCH or self._bytes >= BATCH_BYTES:
                self._process()
                yield done
        self._finish()
        yield done

    def _gather(self, event: EventData) -> None:
        """A data event waits for more: what hooks for many get, and what is combined, is of one batch."""
        worker = event.event_number % len(self._runners)
        self._parts[worker].append(self._part(worker, event, 0))
        self._gathered += 1
        self._bytes += event.get_bytes()

    def _broadcast(self, event: EventData) -> None:
        for worker in range(len(self._runners)):
            self._parts[worker].append(self._part(worker, event, -1 - worker))
        self._process()

    def _part(self, worker: int, event: EventData, k: int) -> Part:
        now, interval = time.monotonic(), self._app.tick_interval
        if interval is not None and now >= self._next_tick:
            self._next_tick = now + interval
            self._runners[worker].tick_at.add(event.event_number)
        self._last = max(self._last, event.event_number)
        return Part(event.event_number, k, event.streams, 0, 0, True)

    def _process(self) -> None:
        """Let every worker process what was gathered for it, and fold what they made of it in event order."""
        batches = []
        for runner, parts in zip(self._runners, self._parts, strict=True):
            if parts:
                runner.run(parts, FOREVER)
                batches.append(self._taken(runner))
        self._parts = [[] for _ in self._runners]
        self._gathered = self._bytes = 0
        results = sorted((int(b.events[i]), n, i) for n, b in enumerate(batches) for i in b.all_places)
        self._app.fold((batches[n], [i for _, _, i in run]) for n, run in groupby(results, lambda result: result[1]))

    def _taken(self, runner: Runner) -> Batch:
        """Results take the way they take live, through the codec, so that what cannot travel shows here as well."""
        (head, *parts), _ = runner.results.take()
        header = decode_header(head)
        assert isinstance(header, ResultBatch)
        batch = Batch(header, parts)
        states = np.broadcast_to(batch.states, len(batch.events)).astype(np.uint8)
        if len(states) == 1:  # it may be broadcast, and others may have done worse
            states = np.maximum(states, self._states[int(batch.events[0])])
        self._states.set_many(batch.events, states)
        name = self.report.workers[batch.worker]
        self._fail(Failure(int(batch.events[i]), hook, name, text) for i, hook, text in header.failures)
        self.report.troubles += [f"worker {name}: {text}" for text in runner.troubles]
        runner.troubles.clear()
        return batch

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
