"""Replay: captured streams through an app's classes, in the order and with the code paths of live.

Start and end events go to every logical worker, data events to one of them, some to each in turn; results travel
through the same codec and are folded in event order. What user code raises is a failure record, and the replay goes on.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from beamfold.model.errors import BeamfoldError
from beamfold.model.report import MAX_FAILURES, ScanReport
from beamfold.model.states import EventState, EventStates
from beamfold.offline.apprun import App, fold_all
from beamfold.offline.crew import Crew, LocalCrew, Ran
from beamfold.offline.parameters import read_parameters
from beamfold.offline.playback import Block, Capture, parse_capture, read_captures
from beamfold.offline.processes import Play, ProcessCrew
from beamfold.offline.recorded import RecordedReplay
from beamfold.protocols.dumps import DumpEvent
from beamfold.protocols.envelopes import ResultBatch, decode_header
from beamfold.protocols.messages import Failure
from beamfold.protocols.recordings import Recording, read_recording
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot
from beamfold.reduce.batch import Batch
from beamfold.work.machine import Part

TURN = 16
"""Events that go to one logical worker before the next one has its turn: few, so that those of slow apps share them
evenly, but enough that what is done once for each turn does not count."""


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
        crew: Crew | None = None,
    ) -> None:
        names = [f"worker-{i}" for i in range(workers)]
        app = App(worker, reducer, base_dir or Path.cwd(), names, [(0, 0, parameters or {})])
        self._crew = crew or LocalCrew()
        self._crew.join(app, ticking=True)
        self._folder = app.folder() if self._crew.reduces else None
        self._turn = 0
        self._states = EventStates()
        self._last = -1
        self._workers_troubles: list[str] = []
        self.report = ScanReport(str(uuid.uuid4()), 0, workers=names, started=time.time())

    @property
    def publish(self) -> Any:
        """The reducer's state as it is now."""
        return self._folder.hooks.publish if self._folder else {}

    def run(self, source: Iterable[list[DumpEvent]]) -> Iterator[int]:
        """Process the events, yielding how many are done; the first and the last one of all go to every worker."""
        done = 0
        for block in self._crew.blocks(source, self.report.troubles):
            self._process(block)
            done += block.count
            yield done
        self._finish()
        yield done

    def _process(self, block: Block) -> None:
        """Let the workers process a block, and fold what they made of it in event order."""
        self._last = max(self._last, block.last)
        ran = [self._crew.run(worker, [parts]) for worker, parts in self._parts(block)]
        if self._folder:
            fold_all(self._folder, _in_order([self._taken(each) for each in ran if each is not None]))

    def _parts(self, block: Block) -> list[tuple[int, list[Part]]]:
        """What each logical worker gets of a block."""
        workers = range(len(self.report.workers))
        if block.broadcast:
            return [(worker, _parts_of(block.events, -1 - worker)) for worker in workers]
        if len(workers) == 1:
            return [(0, _parts_of(block.events, 0))]
        given: dict[int, list[DumpEvent]] = {}
        for at in range(0, block.count, TURN):
            given.setdefault(self._turn % len(workers), []).extend(block.events[at : at + TURN])
            self._turn += 1
        return [(worker, _parts_of(given[worker], 0)) for worker in sorted(given)]

    def _taken(self, ran: Ran) -> Batch:
        head, *parts = ran.envelope
        header = decode_header(head)
        assert isinstance(header, ResultBatch)
        batch = Batch(header, parts)
        states = np.broadcast_to(batch.states, len(batch.events)).astype(np.uint8)
        if len(states) == 1:  # it may be broadcast, and others may have done worse
            states = np.maximum(states, self._states[int(batch.events[0])])
        self._states.set_many(batch.events, states)
        name = self.report.workers[batch.worker]
        self._fail(Failure(int(batch.events[i]), hook, name, text) for i, hook, text in header.failures)
        self._workers_troubles += [f"worker {name}: {text}" for text in ran.troubles]
        return batch

    def _fail(self, failures: Iterable[Failure]) -> None:
        for f in failures:
            self.report.failed_total += 1
            if len(self.report.failures) < MAX_FAILURES:
                entry = {"event": f.event, "where": f.where, "worker": f.worker, "traceback": f.text}
                self.report.failures.append(entry)

    def _finish(self) -> None:
        last = max(self._last, 0)
        self._fail(self._crew.finish(last))
        if self._folder:
            self._folder.finish(last)
            self._fail(self._folder.failures)
            for lo, hi in self._folder.failed:
                self._states.raise_to(lo, hi, EventState.FAILED)
            self._conclude()

    def _conclude(self) -> None:
        """Count data events: all but the start event and, where the captures are whole, the end event."""
        report = self.report
        counts = self._states.counts()
        broken_off = bool(report.troubles)  # so far they are the captures'
        report.troubles += self._workers_troubles
        for event in {0} if broken_off else {0, max(self._last, 0)}:
            if state := self._states[event]:
                counts[state] -= 1
        report.events = sum(counts.values())
        report.ended, report.finished = "finished", time.time()
        report.count(counts)


def _parts_of(events: list[DumpEvent], k: int) -> list[Part]:
    if not events:
        return []
    numbers, streams, _ = zip(*events, strict=True)
    return list(map(Part, numbers, repeat(k), streams, repeat(0), repeat(0), repeat(True)))


def _in_order(batches: list[Batch]) -> Iterator[tuple[Batch, list[int]]]:
    """The results of these batches by event, and those of one event in the order of the batches."""
    places = [np.array(batch.all_places, np.intp) for batch in batches]
    events = np.concatenate([batch.events[at] for batch, at in zip(batches, places, strict=True)])
    source = np.repeat(np.arange(len(batches)), [len(at) for at in places])
    order = np.argsort(events, kind="stable")
    source, place = source[order], np.concatenate(places)[order]
    for run in np.split(np.arange(len(order)), np.flatnonzero(np.diff(source)) + 1):
        if len(run):
            yield batches[source[run[0]]], place[run].tolist()


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
    workers: int | None = None,
    processes: int = 1,
    progress: bool = False,
) -> ScanReport:
    """Run an app over captured streams and write what it publishes to the HDF5 file `output`.

    `files` are dumps, or raw captures as `STREAM:PROTOCOL=FILE`. `workers` logical workers (one for each process, if
    that is not said) are spread over `processes` processes; more than one are started anew (spawned), so that a script
    that wants them needs the usual `if __name__ == "__main__"`. Raises BeamfoldError for what makes the replay
    impossible; a file that breaks off ends it with a trouble in the report.
    """
    captures = [f if isinstance(f, Capture) else parse_capture(str(f)) for f in files]
    raw = read_parameters(parameters) if parameters is not None else {}
    play = partial(_play_captures, worker, reducer, captures, raw, workers or processes, Path.cwd())
    with _crew(play, processes) as crew:
        return play_through(*play(crew), None, output, progress)


def replay_recording(
    folder: Path,
    app: tuple[str, str] | None = None,
    parameters: Path | None = None,
    output: Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> ScanReport:
    """Run a recorded scan again: the same parts at the same logical workers, the same parameters, ticks and order.

    The app is the one that the recording names, unless `app` names another worker and reducer (relative to the
    present folder); `parameters` replace those that were recorded, for the whole scan. `processes` as for `replay`, at
    most as many as the recording has logical workers. Raises BeamfoldError for what makes the replay impossible.
    """
    recording = read_recording(folder)
    with playing(recording, app, parameters, processes) as (player, steps):
        return play_through(player, steps, recording.report.events if recording.report else None, output, progress)


@contextmanager
def playing(
    recording: Recording, app: tuple[str, str] | None, parameters: Path | None, processes: int
) -> Iterator[tuple[RecordedReplay, Iterator[int]]]:
    """The replay of a recording, ready, and its steps. The arguments are those of `replay_recording`."""
    raw = read_parameters(parameters) if parameters is not None else None
    play = partial(_play_recording, recording, app, raw)
    with _crew(play, processes) as crew:
        yield play(crew)


def _crew(play: Play, processes: int) -> AbstractContextManager[Crew]:
    return nullcontext(LocalCrew()) if processes == 1 else ProcessCrew(play, processes)


def _play_captures(
    worker: str,
    reducer: str,
    captures: list[Capture],
    parameters: dict[str, bytes],
    workers: int,
    base_dir: Path,
    crew: Crew,
) -> tuple[Replay, Iterator[int]]:
    player = Replay(worker, reducer, parameters=parameters, workers=workers, base_dir=base_dir, crew=crew)
    return player, player.run(_tolerant(read_captures(captures), player.report))


def _play_recording(
    recording: Recording, app: tuple[str, str] | None, parameters: dict[str, bytes] | None, crew: Crew
) -> tuple[RecordedReplay, Iterator[int]]:
    player = RecordedReplay(recording, app, parameters, crew)
    return player, player.run()


def play_through(
    player: Player, steps: Iterable[int], total: int | None, output: Path | None, progress: bool
) -> ScanReport:
    """Take all steps of a replay, with a progress bar (of `total` events) if wanted, and write what it publishes."""
    if progress:
        _with_bar(steps, total)
    else:
        deque(steps, maxlen=0)
    if output is not None:
        report = player.report.to_dict()
        write_hdf5(output, snapshot(player.publish), {"beamfold_summary": report["summary"]})
        player.report.result_file = str(output)
    return player.report


def _with_bar(steps: Iterable[int], total: int | None) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("replay"), BarColumn(), TextColumn("{task.completed} events"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("replay", total=total)
        for done in steps:
            bar.update(task, completed=done)


def _tolerant(source: Iterator[list[DumpEvent]], report: ScanReport) -> Iterator[list[DumpEvent]]:
    """A capture that breaks off ends the replay there, with what was whole before."""
    try:
        yield from source
    except BeamfoldError as error:
        report.troubles.append(str(error))


__all__ = ["Replay", "replay", "replay_recording"]
