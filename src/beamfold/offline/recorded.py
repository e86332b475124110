"""A recorded scan, run again: the ingest, work and reduce machines of the live scan, without sockets.

The dumps take the place of the detectors, and the recorded blocks that of the controller's assignments, so that every
logical worker gets the parts that it had, with the parameters and ticks that were in force; those results are combined
that were, and all are folded in event order. Where workers were lost, a part is processed by the one whose result was
taken, and not at all where nobody was.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamfold.dispatch.overload import Overload
from beamfold.dispatch.places import Places
from beamfold.dispatch.scan import Scan
from beamfold.ingest.machine import Action, IngestMachine, SendFrames, SendGap, StreamSpec, Tell
from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import Buffer
from beamfold.model.report import ScanReport
from beamfold.model.runs import RunSet, shown
from beamfold.model.states import EventState
from beamfold.model.triggermap import EVERYBODY
from beamfold.offline.apprun import App, fold_all
from beamfold.offline.crew import Crew, LocalCrew
from beamfold.offline.digests import Digests
from beamfold.offline.handed import Handed, in_turn, who_did
from beamfold.offline.partruns import PartRuns
from beamfold.offline.together import Together
from beamfold.protocols.dumps import DumpEvent, read_dump
from beamfold.protocols.envelopes import POISON, ResultBatch, decode_header
from beamfold.protocols.items import Data, End, Start
from beamfold.protocols.messages import (
    DROPPED,
    Block,
    Finished,
    FramesMissing,
    PartsDone,
    Release,
    StreamEnded,
    StreamInfo,
)
from beamfold.protocols.recordings import RecordedStream, Recording
from beamfold.reduce.batch import Batch
from beamfold.reduce.done import Done
from beamfold.reduce.machine import ReduceMachine
from beamfold.work.machine import Part, WorkMachine
from beamfold.work.results import ResultBuffer

WINDOW = 256
"""Events that are read, processed and folded before the next ones are read; no stream is further ahead."""

WINDOW_BYTES = 32 << 20
"""Bytes of one stream after which its window ends, however few its events."""

SCAN = 1
PLENTY = 1 << 62


class RecordedReplay:
    """One replay of a recording.

    `app` names another worker and reducer class than the recorded ones, relative to the present folder; `parameters`,
    raw values by name, are in force instead of the recorded ones. Raises BeamfoldError for what makes it impossible.
    """

    def __init__(
        self,
        recording: Recording,
        app: tuple[str, str] | None = None,
        parameters: dict[str, bytes] | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._recording, self._map = recording, recording.map
        names, tags = [n for n, _ in recording.workers], [t for _, t in recording.workers]
        recorded = recording.app
        worker_path, reducer_path = app or (recorded.worker, recorded.reducer)
        self._app = App(
            worker_path,
            reducer_path,
            Path.cwd() if app else Path(recorded.directory),
            names,
            recording.parameters if parameters is None else [(0, 0, parameters)],
            skip=recording.policy.incomplete == "skip",
            next_broadcast=lambda event: self._reduce.map.next_broadcast(event, EVERYBODY),
        )
        self._crew = crew or LocalCrew()
        self._crew.join(self._app, ticking=False)
        self._folder = self._app.folder() if self._crew.reduces else None
        streams = recording.streams
        infos = [StreamInfo(name, streams[name].typ, streams[name].numbered) for name in self._map.streams]
        groups = [self._map.groups_for(t) for t in tags]
        specs = [StreamSpec(i, name, True, retention_bytes=PLENTY) for i, name in enumerate(self._map.streams)]
        self._ingest = IngestMachine(SCAN, self._map, specs, groups)
        self._work = [WorkMachine(self._map, w, groups[w], infos) for w in range(len(names))]
        self._reduce: ReduceMachine[Batch] = ReduceMachine(
            self._map,
            self._map.targets([t for worker, t in enumerate(tags) if worker not in recording.joined]),
            patience=math.inf,
            in_order=recording.policy.fold_order != "arrival",
        )
        matching = {i.name: "numbered" if i.numbered else "counted" for i in infos}
        number = recording.report.number if recording.report else 0
        now = time.time()
        self._scan = Scan(
            number,
            recording.scan_id,
            self._map,
            None,
            Places((name, frozenset(t), name.encode()) for name, t in zip(names, tags, strict=True)),
            matching,
            0,
            now,
            {},
            frozenset(),
            overload=Overload(recording.policy.overload),
        )
        for event, worker in recording.ticks:
            self._crew.tick_at(worker, event)
        self._blocks, doers = who_did(recording)
        self._handed = Handed(doers)
        self._logged = PartRuns([batch.parts for batch in recording.logged])
        self._unknown = RunSet()  # events with parts of which the history does not say whose results were taken
        self._digests: Digests | None = None
        self._together = [
            Together([parts for worker, parts in recording.combined if worker == w]) for w in range(len(names))
        ]
        told = [batch.lacking for batch in recording.logged if batch.lacking is not None]
        self._lacking = [PartRuns([each.get(name, ()) for each in told]) for name in self._map.streams]
        self._tells_lacking = len(told) == len(recording.logged) > 0
        self._absent: dict[str, RunSet] = {name: RunSet() for name in self._map.streams}
        troubles = self._scan.report.troubles
        self._dumps = [
            _Dump(name, streams[name], recording.closed, self._map.wrapped, troubles) for name in self._map.streams
        ]
        self._assigned = 0
        self._seen = -1
        self._closed = False
        self.report: ScanReport = self._scan.report
        self.report.troubles += self._app.troubles
        if recording.report and recording.report.out_of_order:
            self.report.troubles.append("the live scan folded some events before earlier ones; here all are in order")
        elif recording.policy.fold_order == "arrival":
            text = (
                "the live scan folded results as they arrived, in an order that is not recorded; the state may differ"
            )
            self.report.troubles.append(text)

    @property
    def publish(self) -> object:
        """The reducer's state as it is now."""
        return self._folder.hooks.publish if self._folder else {}

    def run(self) -> Iterator[int]:
        """Process the scan, yielding how many events are done; afterwards `report` says how it went."""
        self._begin()
        while any(dump.next is not None for dump in self._dumps):
            self._read()
            self._process()
            yield self._scan.states.done
        self._close()
        self._finish()
        yield self._scan.states.done

    def call_timer(self) -> bool:
        """Call the reducer's `timer()` once; False where it has none. Raises what that raises."""
        if self._folder is None or self._folder.hooks.timer is None:
            return False
        self._folder.hooks.run_timer(self._folder.parameters.latest)
        return True

    def compare(self) -> Digests:
        """Compare the results that are folded from now on with the recorded digests."""
        recording = self._recording
        self._digests = Digests(recording.logged, self._app.types(), recording.closed)
        return self._digests

    # -- frames ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """The next window of every stream; one with large frames falls behind, and the others wait for it."""
        limit = min(dump.event for dump in self._dumps) + WINDOW
        for index, dump in enumerate(self._dumps):
            self._feed(index, dump, dump.take(limit))
        self._assign()

    def _feed(self, stream: int, dump: _Dump, frames: list[tuple[int, list[Buffer]]]) -> None:
        if self._scan_has_no(stream, frames):
            raise ConfigError(f"{dump.path} has frames of events that the trigger map has none for; is it this scan's?")
        ordinals = [self._map.ordinal_at(stream, event) for event, _ in frames]
        items: list[Start | Data | End] = []
        if ordinals and not ordinals[0]:
            items.append(Start(frames[0][1]))
            ordinals, frames = ordinals[1:], frames[1:]
        if frames:
            items.append(Data([ordinal - 1 for ordinal in ordinals], [frame for _, frame in frames]))
            self._seen = max(self._seen, frames[-1][0])
        if dump.ended:
            items.append(End(dump.finish()))
        self._do(self._ingest.feed(stream, items))

    def _scan_has_no(self, stream: int, frames: list[tuple[int, list[Buffer]]]) -> bool:
        return not all(self._map.has_cell(stream, event) for event, _ in frames)

    def _do(self, actions: list[Action]) -> None:
        """What the ingesters and the controller do with these actions."""
        for action in actions:
            if isinstance(action, SendFrames):
                machine = self._work[action.worker]
                machine.frames(action.stream, 0, action.events, action.k, action.frames, action.closed)
            elif isinstance(action, SendGap):
                self._work[action.worker].gap(action.stream, action.runs, action.tail, action.closed)
            elif isinstance(action, Tell):
                if isinstance(action.message, FramesMissing):
                    self._scan.missing(action.message)
                elif isinstance(action.message, StreamEnded):
                    self._scan.ended(action.message)

    # -- what the controller did -----------------------------------------------------------------------------

    def _begin(self) -> None:
        for worker in range(len(self._work)):
            for stream in range(len(self._map.streams)):
                self._do(self._ingest.grant(worker, stream, PLENTY))
        self._give([Block(*block) for block in self._blocks])

    def _give(self, blocks: list[Block]) -> None:
        self._assigned = max([self._assigned, *(b.hi for b in blocks)])
        frontier = self._reduce.frontier
        for worker, machine in enumerate(self._work):
            machine.assign([b for b in blocks if b.worker == worker], self._assigned, frontier, self._seen)
        if blocks:
            self._do(self._ingest.assign(blocks))
        for block in blocks:
            if block.worker == DROPPED:
                completed = self._reduce.drop(block.lo, block.hi)
                self._scan.done(PartsDone(SCAN, completed, {}, self._reduce.frontier, closed=self._closed), 0.0)

    def _assign(self) -> None:
        """Virtual workers whose assignment is not in the recording, because that broke off, go to all in turn."""
        wanted = self._map.virtual_before(self._seen + 1)
        self._give([Block(v, v + 1, in_turn(self._recording, v)) for v in range(self._assigned, wanted)])

    def _close(self) -> None:
        """The map has its last data event; what never came will not come."""
        last, report = self._recording.closed, self._recording.report
        ended = report.ended if report else ""
        if last is None and ended == "finished":  # without an end event a scan may end before its series do
            last = self._scan.last_data_event
        if last is None:
            last, ended = max(self._seen, int(self._map.wrapped) - 1), "stopped"
        self._scan.cut = ended == "stopped"
        self._scan.close(last, cut=self._scan.cut)
        for machine in self._work:
            machine.close(last)
        self._closed = True
        completed = self._reduce.close(self._map.closed_at(last))
        self._scan.done(PartsDone(SCAN, completed, {}, self._reduce.frontier, closed=True), 0.0)
        self._do(self._ingest.close(last))
        self._process()
        for worker, parts in self._handed.rest():
            self._do_parts(worker, parts)
        for worker, together in enumerate(self._together):
            self._run(worker, together.rest())
        for machine in self._work:
            machine.conclude()
        self._process()

    # -- workers and reducer ---------------------------------------------------------------------------------

    def _process(self) -> None:
        """Let all workers process what they can, and fold what they made of it."""
        before = self._reduce.frontier
        busy = True
        while busy:
            busy = False
            for worker, machine in enumerate(self._work):
                if parts := machine.take(WINDOW):
                    self._work_on(worker, parts)
                    busy = True
        if self._reduce.frontier > before:
            self._do(self._ingest.release(Release(SCAN, [(before, self._reduce.frontier)])))

    def _work_on(self, worker: int, parts: list[Part]) -> None:
        for doer, ready in self._handed.take(worker, self._as_live(parts)):
            self._do_parts(doer, ready)

    def _as_live(self, parts: list[Part]) -> list[Part]:
        """The parts without frames that they lacked live: those died with an ingester that had dumped them."""
        if not self._tells_lacking or not (any(self._lacking) or any(part.missing for part in parts)):
            return parts
        return [self._part_as_live(part) for part in parts]

    def _part_as_live(self, part: Part) -> Part:
        lacking = 0
        for index, runs in enumerate(self._lacking):
            lacking |= (runs.find(part.event, part.k) is not None) << index
        if part.missing & ~lacking and self._logged.find(part.event, part.k) is not None:
            for index, name in enumerate(self._map.streams):
                if part.missing & ~lacking & 1 << index:
                    self._absent[name].add(part.event, part.event + 1)
        if not lacking & ~part.missing:
            return part
        names = {name for index, name in enumerate(self._map.streams) if lacking >> index & 1}
        streams = {name: data for name, data in part.streams.items() if name not in names}
        return part._replace(streams=streams, missing=part.missing | lacking, call=part.call and bool(streams))

    def _do_parts(self, worker: int, parts: list[Part]) -> None:
        if self._recording.poison or worker in self._recording.vacated:
            parts = [part for part in parts if not self._given_up(worker, part)]
        if parts:
            self._run(worker, self._together[worker].batches(parts) if self._crew.combines else [parts])

    def _given_up(self, worker: int, part: Part) -> bool:
        """Whether this part was not processed live: it was poison, or for a worker that nobody was any more."""
        if (part.event, part.k) in self._recording.poison:
            results = ResultBuffer(SCAN, worker)
            results.fail(part, "process_event", POISON)
            self._log_envelope(results.take()[0])
            return True
        nobody = worker in self._recording.vacated and part.k < 0
        if not nobody or self._logged.find(part.event, part.k) is not None:
            return False
        self._log_envelope(_without_results(worker, [[part]]))
        return True

    def _run(self, worker: int, batches: list[list[Part]]) -> None:
        ran = self._crew.run(worker, batches)
        if ran is not None:
            self.report.troubles += [f"worker {self._app.names[worker]}: {text}" for text in ran.troubles]
        self._log_envelope(_without_results(worker, batches) if ran is None else ran.envelope)

    def _log_envelope(self, envelope: list[Buffer]) -> None:
        if envelope:
            head, *parts = envelope
            header = decode_header(head)
            assert isinstance(header, ResultBatch)
            self._log(header, Batch(header, parts))

    def _log(self, header: ResultBatch, batch: Batch) -> None:
        if self._digests:
            self._digests.add(batch)
        fresh, completed = self._reduce.logged(batch, batch.events, batch.k, batch.states, 0.0, batch.places)
        if self._recording.taken_up:
            self._note_unknown(batch, fresh)
        done = Done(self._map.streams, self._app.names)
        done.add(header, batch, fresh, completed)
        self._scan.done(done.message(SCAN, self._reduce.frontier, self._closed, 0), 0.0)
        folds = self._reduce.fold(0.0)
        if self._folder:
            fold_all(self._folder, ((fold.batch, fold.index) for fold in folds))

    def _note_unknown(self, batch: Batch, fresh: NDArray[np.bool_]) -> None:
        """Whose results of these parts were taken may be nowhere: a controller ended before it had written that."""
        parts = zip(batch.events[fresh].tolist(), np.broadcast_to(batch.k, len(fresh))[fresh].tolist(), strict=True)
        for event, k in parts:
            if self._logged.find(event, k) is None:
                self._unknown.add(event, event + 1)

    def _finish(self) -> None:
        if self._unknown:
            text = "whose results were taken, and what they were, is not in the history: lines went with a controller"
            self.report.troubles.append(f"events {shown(self._unknown.runs())}: {text}")
        for name, absent in self._absent.items():
            if absent:
                text = f"the dump lacks frames that were there live, of events {shown(absent.runs())}"
                self.report.troubles.append(f"stream {name}: {text}")
        for seen in self._ingest.progress():
            self._scan.seen(seen, 0.0)
        self._verdict_of_live()
        last = max((self._scan.map.n_events or 1) - 1, 0)
        failures = self._crew.finish(last)
        if self._folder:
            self._folder.finish(last)
            self._scan.finished(Finished(SCAN, failures + self._folder.failures, self._folder.failed.runs()))
        self._scan.conclude("finished", time.time())

    def _verdict_of_live(self) -> None:
        """Whether the total of a counted stream was right depends on what is in no dump: frames beyond the map."""
        live = self._recording.report.streams if self._recording.report else {}
        beyond = {name: dump.beyond for name, dump in zip(self._map.streams, self._dumps, strict=True)}
        for name in self._map.streams:
            if name in live and live[name].phase == "ended":
                here = self.report.streams[name]
                fewer = here.frames + beyond[name] < live[name].frames
                if self._map.wrapped and (here.phase != "ended" or fewer):
                    text = f"stream {name}: the dump has {here.frames} of {live[name].frames} frames, {here.phase}"
                    self.report.troubles.append(f"{text}: it is not whole")
                self._scan.ended(StreamEnded(SCAN, name, live[name].frames, 0, live[name].surplus))


def _without_results(worker: int, batches: list[list[Part]]) -> list[Buffer]:
    """The envelope of parts that another process runs: that they are done is all that matters in this one."""
    results = ResultBuffer(SCAN, worker)
    for batch in batches:
        for part in batch:
            results.add(part.event, part.k, part.version, EventState.NO_RESULT, b"", 0)
    return results.take()[0] if len(results) else []


class _Dump:
    """One stream's frames by event, from all files of its dump. `last` is the last data event, None where that is not
    known; in a wrapped map the end message belongs to the one behind it, and `beyond` counts what is left out.

    Another file begins where an ingester was lost, perhaps in the middle of a frame: then nobody had that. Where the
    last one breaks off the dump ends there, and `troubles` gets a line about it.
    """

    def __init__(self, name: str, stream: RecordedStream, last: int | None, wrapped: bool, troubles: list[str]) -> None:
        self.path = stream.dump
        self.beyond = 0
        self._name = name
        self._stop = math.inf if last is None else last + wrapped
        self._end = last + 1 if last is not None and wrapped else None
        self._troubles = troubles
        # A stream of which nothing came has no dump. Of what is there twice the later one counts: where the end message
        # is, an ingester before may have had a frame that nobody else knew of.
        files = [self._read(path, path == stream.dumps[-1]) for path in reversed(stream.dumps)]
        self._events = heapq.merge(*files, key=attrgetter("event_number"))
        self.next: DumpEvent | None = None
        self._advance()

    def _read(self, path: Path, last: bool) -> Iterator[DumpEvent]:
        before = -1
        try:
            for event in read_dump(path):
                if event.event_number <= before or set(event.streams) != {self._name}:
                    raise ConfigError(
                        f"{path}: event {event.event_number} after {before}, with {', '.join(event.streams)}: a "
                        f"recording's dump has the frames of {self._name!r} in order"
                    )
                before = event.event_number
                yield event
        except MalformedFrame as error:
            if last and before < 0:
                raise
            if last:
                self._troubles.append(str(error))

    def _advance(self) -> None:
        before = -1 if self.next is None else self.next.event_number
        self.next = next((event for event in self._events if event.event_number > before), None)
        if self.next is not None and self.next.event_number > self._stop:
            self.beyond += 1 + sum(1 for _ in self._events)
            self.next = None

    @property
    def event(self) -> float:
        """The event of the next frame; infinity after the last one."""
        return math.inf if self.next is None else self.next.event_number

    @property
    def ended(self) -> bool:
        """Whether only the end message is left."""
        return self.next is not None and self.next.event_number == self._end

    def take(self, below: float) -> list[tuple[int, list[Buffer]]]:
        """(event, frame) of the data before `below`, until their bytes fill a window."""
        found: list[tuple[int, list[Buffer]]] = []
        room = WINDOW_BYTES
        while self.next is not None and self.event < below and not self.ended and room > 0:
            frame = self.next.streams[self._name].frames
            found.append((self.next.event_number, frame))
            room -= sum(map(len, frame))
            self._advance()
        return found

    def finish(self) -> list[Buffer]:
        """The end message, once only that is left."""
        assert self.next is not None
        frame = self.next.streams[self._name].frames
        self._advance()
        return frame
