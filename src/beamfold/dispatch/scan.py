"""One scan as the controller sees it: its phase, who it waits for, and the report that grows with it."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from beamfold.dispatch.blocks import Dispatcher
from beamfold.dispatch.entries import cut
from beamfold.dispatch.noted import Noted
from beamfold.dispatch.overload import Overload
from beamfold.dispatch.places import Places
from beamfold.dispatch.slips import Track, slips
from beamfold.model.bitmaps import MAX_EVENTS, Bitmap
from beamfold.model.latency import Latencies
from beamfold.model.report import MAX_FAILURES, ScanReport, StageLatency, StreamReport
from beamfold.model.runs import MAX_RUNS, RunSet, as_runs
from beamfold.model.states import EventState, EventStates
from beamfold.model.triggermap import EVERYBODY, TriggerMap, WrittenMap
from beamfold.protocols.messages import (
    Block,
    Failure,
    Finished,
    FramesMissing,
    IngesterInfo,
    Parameters,
    PartsDone,
    Run,
    Series,
    StreamEnded,
    StreamSeen,
)

MAX_TROUBLES = 200
"""Troubles described in one report."""

MAX_NAME = 200
"""Characters of the name of what a trouble or a failure is about."""

MAX_TRACEBACK = 10_000
"""Characters of the text of a failure: more than workers send of one."""

LISTED = tuple(s for s in EventState if s not in (EventState.PENDING, EventState.NO_RESULT, EventState.REDUCED))
"""States whose events are listed while a scan runs; at its end those without a result are, too."""

DEATHS = 2
"""Processes that ended while they worked on one event, from which on it is not tried again."""

SILENCE = 10.0
"""Seconds for which a stream whose ingester was lost may be silent while all others have ended."""

MAX_JOINED = 1000
"""Workers that may join one scan, one after the other: each has a number, for as long as the scan lasts."""

STATE_LOST = (
    "it was lost, and with it what it had kept from its events (its class says stateful = True): results of events "
    "that came to it, or to another in its place, after that may differ from those of an undisturbed scan"
)

MAX_RECENT = 1000
"""Blocks of assignments that are remembered for people; more than are under way at once."""

VERIFY_STEP = 1 << 20
"""Frames of a stream whose events are made unverified in one go: bounds the arrays that are made of them."""


_COUNTED = (
    "discarded", "malformed", "duplicates", "late", "strangers", "out_of_order", "spilled", "paused", "payload_bytes",
)  # fmt: skip
"""What `StreamSeen` and `StreamReport` count under the same name, beside the frames."""


class Standing(NamedTuple):
    """What workers hear of a scan with their blocks; the words are those of `Assign`."""

    assigned: int
    settled: int
    reached: int


UNTOLD = Standing(0, 0, -1)


class Phase(StrEnum):
    """Where a scan is; it only ever moves down this list."""

    ARMING = "arming"
    RUNNING = "running"
    HALTING = "halting"
    DRAINING = "draining"
    FINISHING = "finishing"
    REDUCING = "reducing"
    ENDED = "ended"


@dataclass(slots=True)
class Plan:
    """What was asked for: a scan before it starts. `written` is its map as somebody wrote it, where somebody did."""

    scan_id: str
    map: TriggerMap
    request: int
    written: WrittenMap | None = None


@dataclass(slots=True)
class Scan:
    """A scan from its arming to its end. `workers[w]` names logical worker w; `tags[w]` are its tags.

    Frames have `shown` events up to this one. All workers were `told` how the scan stood, at `told_at`. Since parts
    done were last answered, there are `unanswered` ones, and by them the events in `over` became terminal.

    With a `timeout` it is stopped when nothing has come for so many seconds. `stateful`: its worker class says that it
    keeps something from event to event. `tracks` are made of numbered streams.

    `services` are the keys of those that take part, `places` who fills the logical workers; `values` the raw parameters
    at `version`, with which all of them are armed, `changes` the messages about later ones. Processes that ended at
    work on an event are counted in `deaths`, and events that ended too many are `poison`. `record` is the folder of
    the recording, `dump_prefix` what the paths of other dumps begin with, or "". `latencies` are what each peer has
    said of this scan last.
    """

    number: int
    scan_id: str
    map: TriggerMap
    request: int | None
    places: Places
    matching: dict[str, str]
    version: int
    started: float
    values: dict[str, bytes]
    services: frozenset[str]
    written: WrittenMap | None = None
    record: str = ""
    dump_prefix: str = ""
    overload: Overload = field(default_factory=Overload)
    changes: list[Parameters] = field(default_factory=list)
    reducer_lost: float | None = None
    reducer_ends: list[float] = field(default_factory=list)
    seating: set[str] = field(default_factory=set)  # reducer and ingesters that are armed in mid-scan
    ingesters: dict[str, IngesterInfo] = field(default_factory=dict)  # also of those that are lost
    ingesters_lost: dict[str, float] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    recorded_series: dict[str, Any] = field(default_factory=dict)
    recorded_noted: tuple[int, int, int] = (0, 0, 0)
    bereft: set[str] = field(default_factory=set)  # streams of ingesters that were lost
    counts_before: dict[str, dict[str, float]] = field(default_factory=dict)  # what those had counted, but the frames
    heard: dict[str, float] = field(default_factory=dict)  # when a stream went on the last time
    tracks: dict[str, Track] = field(default_factory=dict)  # how the frames of numbered streams came
    timeout: float | None = None
    stateful: bool = False
    watched: float | None = None  # since when silence is counted
    finishing: float | None = None  # since when workers are waited for that are to call `finish()`
    deaths: dict[int, int] = field(default_factory=dict)
    poison: list[int] = field(default_factory=list)
    phase: Phase = Phase.ARMING
    unarmed: list[str] = field(default_factory=lambda: ["ingester", "reducer", "worker"])
    planned: int | None = None
    waiting: set[str] = field(default_factory=set)
    waiting_since: float = math.inf
    errors: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    halted: dict[str, tuple[int, bool]] = field(default_factory=dict)
    cut: bool = False  # it ends where it was stopped
    witnesses_asked: bool = False  # workers and reducer, what has come to them of ingesters that were lost
    ended_streams: dict[str, StreamEnded] = field(default_factory=dict)
    stopped: bool = False
    concluded: bool = False
    closing: bool = False
    closed: bool = False
    reason: str = ""
    tick_interval: float | None = None
    next_tick: float = 0.0
    frontier: int = 0
    reached: int = 0
    shown: int = -1
    told: Standing = UNTOLD
    told_at: float = -math.inf
    told_event: int = 0  # the event up to which all workers know that everything is assigned
    unanswered: bool = False
    over: RunSet = field(default_factory=RunSet)
    reduced: bool = False
    last: dict[str, int] = field(default_factory=dict)  # the highest event that a stream that sends has a frame of
    waiting_streams: list[str] = field(default_factory=list)
    short: Run | None = None
    recent: deque[Block] = field(default_factory=lambda: deque(maxlen=MAX_RECENT))
    lost: Run | None = None  # not one by one: a plan may have any number of events
    dispatcher: Dispatcher = field(init=False)
    states: EventStates = field(default_factory=EventStates)
    lacking: defaultdict[str, Noted] = field(default_factory=lambda: defaultdict(Noted))
    absent: defaultdict[str, Noted] = field(default_factory=lambda: defaultdict(Noted))
    lacking_ends: set[tuple[int, str]] = field(default_factory=set)  # start and end event, by stream
    latencies: dict[bytes, Latencies] = field(default_factory=dict)
    report: ScanReport = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.map, [p.tags for p in self.places], self.overload, self.states)
        self.planned = self.data_events
        self.report = ScanReport(
            self.scan_id, self.number, planned=self.planned, started=self.started, workers=self.workers
        )
        self.report.recording = self.record
        self.report.overload = self.overload.policy
        for index, name in enumerate(self.map.streams):
            self.report.streams[name] = StreamReport(self.matching[name], expected=self._expected(index))

    @property
    def data_events(self) -> int | None:
        """Data events of the map: without its start and end event where it is wrapped."""
        n = self.map.n_events
        return None if n is None else n - 2 if self.map.wrapped else n

    @property
    def workers(self) -> list[str]:
        """The names of the logical workers, by their numbers."""
        return [place.name for place in self.places]

    @property
    def active(self) -> bool:
        return self.phase is not Phase.ENDED

    @property
    def assigning(self) -> bool:
        """Whether virtual workers are given out."""
        return self.phase in (Phase.RUNNING, Phase.HALTING, Phase.DRAINING)

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return Standing(self.dispatcher.all_before, self.frontier, self.shown)

    def passes_broadcast(self) -> bool:
        """Whether everything before a broadcast, or in its event, is assigned since this was last asked.

        Workers wait for that at the broadcast, also those that have no part among what is assigned.
        """
        at = self.dispatcher.next_event
        before, self.told_event = self.told_event, (self.map.n_events or 0) if at is None else at
        cast = self.map.next_broadcast(before, EVERYBODY) if self.told_event > before else None
        return cast is not None and cast <= self.told_event

    def _expected(self, stream: int) -> int | None:
        count = self.map.frame_count(stream)
        return None if count is None else max(count - 2, 0)

    # -- what the services say -------------------------------------------------------------------------------

    def seen(self, message: StreamSeen, now: float) -> None:
        """A stream's counters."""
        stream = self.report.streams.get(message.stream)
        before = self.counts_before.get(message.stream, {})
        held_back = stream is not None and stream.paused != message.paused + before.get("paused", 0)
        if message.last_event != self.last.get(message.stream) or held_back:
            self.heard[message.stream] = now
        self.shown = max(self.shown, message.last_event)
        if stream is not None:
            stream.phase, stream.frames = message.phase, message.frames
            for name in _COUNTED:
                setattr(stream, name, getattr(message, name) + before.get(name, 0))
            stream.retained, stream.shelved = message.retained, message.shelved
            if message.arrived is not None and stream.matching == "numbered":
                self.tracks.setdefault(message.stream, Track()).add(*message.arrived)
            self.overload.seen(message.stream, message.full)
            if message.phase != "waiting":
                self.bases[message.stream] = message.base
                self.last[message.stream] = message.last_event

    def lose_ingester(self, key: str, how: str, now: float, streams: Iterable[str]) -> None:
        """Frames that it had are gone; another one is to go on with its streams."""
        self.ingesters_lost[key] = now
        self.report.loss(key, how, now, 0)
        for name in streams:
            if (stream := self.report.streams.get(name)) is not None:
                self.bereft.add(name)
                self.heard.setdefault(name, now)
                self.counts_before[name] = {what: getattr(stream, what) for what in _COUNTED}

    def series(self, streams: Iterable[str]) -> dict[str, Series]:
        """Where these streams are, for an ingester that goes on with them."""
        found = {}
        done = self._terminal()
        for name in streams:
            if name not in self.map.streams:
                continue
            frames = self.report.streams[name].frames
            if name not in self.bases or self.report.streams[name].phase == "waiting":
                found[name] = Series(0, None, None, frames, done)
                continue
            ended, last = self.ended_streams.get(name), self.last.get(name, 0)
            over = ended is not None or last >= self._last_cell(self.map.streams.index(name)) > 0
            found[name] = Series(self.frontier, self.bases[name], last if over else None, frames, done)
        return found

    def _terminal(self) -> list[Run]:
        """All terminal events; what follows too many pending ones is left out."""
        done = RunSet([(0, self.frontier)])
        pending = self.states.runs(EventState.PENDING, MAX_RUNS)
        end = pending[-1][0] if len(pending) == MAX_RUNS else self.reached
        for lo, hi in RunSet(pending).missing(self.frontier, end):
            done.add(lo, hi)
        return done.runs()

    def later_versions(self) -> list[tuple[int, dict[str, bytes], int]]:
        """(version, values, first event) of the parameters after those with which all were armed."""
        return [(change.version, change.values, change.from_event) for change in self.changes]

    def ended(self, message: StreamEnded) -> None:
        """A series end."""
        stream = self.report.streams.get(message.stream)
        if stream is None:
            return
        self.shown = max(self.shown, message.last_event)
        stream.phase, stream.frames, stream.surplus = "ended", message.frames, message.surplus
        self.ended_streams[message.stream] = message

    def complete(self) -> int:
        """Up to this event every stream has come that has not ended; -1: not even to the start event."""
        found = self.shown
        for index, name in enumerate(self.map.streams):
            if name not in self.ended_streams:
                at = self.map.ordinal_at(index, self.last.get(name, -1) + 1)
                following = self.map.events(index, at, at + 1)
                found = min(found, int(following[0]) - 1) if len(following) else found
        return found

    def held_up(self) -> list[str]:
        """Full streams that have what the first unfinished event needs of them, where it lacks that of another one."""
        if self.complete() >= self.frontier:
            return []
        return sorted(name for name in self.overload.full if self.last.get(name, -1) >= self.frontier)

    def all_came(self, now: float) -> bool:
        """Whether all that can come has come, although the end of a series has not: it went with its ingester.

        All events of the plan are terminal, or all other series have ended and those are silent.
        """
        if not self.bereft:
            return False
        last = self.last_data_event
        if last is not None and self.frontier > last:
            return True
        open_ = [name for name in self.map.streams if name not in self.ended_streams]
        silent = all(name in self.bereft and now - self.heard.get(name, now) >= SILENCE for name in open_)
        return bool(self.ended_streams) and silent

    def timed_out(self, now: float) -> str:
        """Why the scan is to be stopped, where it has a timeout and nothing came for so long; "" where it is not.

        A detector that is held back is not silent, nor is a stream that has ended. Streams wait for one another, so it
        takes the silence of all that are left.
        """
        if self.timeout is None or self.phase is not Phase.RUNNING:
            return ""
        self.watched = since = now if self.watched is None else self.watched
        open_ = [name for name in self.map.streams if name not in self.ended_streams]
        silent = [name for name in open_ if now - max(self.heard.get(name, since), since) >= self.timeout]
        if not silent or len(silent) < len(open_):
            return ""
        return f"nothing came from {', '.join(open_)} for {self.timeout:g} s, which is the timeout of this scan"

    def waiting_for(self) -> list[str]:
        """What has to come before the scan goes on: services, or streams of which nothing has come yet."""
        if self.phase is Phase.RUNNING:
            return [f"stream {name}" for name, s in self.report.streams.items() if s.phase == "waiting"]
        return sorted(self.waiting) if self.active else []

    def last_reached(self) -> int:
        """Every series ended: the last data event that happened. All of the plan when every stream served it whole.

        Where frames went with an ingester nobody can say what they were of: then it is all of a plan, and all that is
        done of an endless map.
        """
        last = self.last_data_event
        if self.bereft:
            ends = [end.last_event for end in self.ended_streams.values()]
            return last if last is not None else max([*ends, *self.last.values(), self.reached - 1])
        ends = [self.ended_streams[name].last_event for name in self.map.streams]
        if last is not None and all(end >= self._last_cell(index) for index, end in enumerate(ends)):
            return last
        return max(ends)

    def _last_cell(self, stream: int) -> int:
        """The last data event that the map has for a stream; 0 where it has none."""
        count = self.map.frame_count(stream) or 0
        at = count - 1 - int(self.map.wrapped)
        return int(self.map.events(stream, at, at + 1)[0]) if at >= int(self.map.wrapped) else 0

    @property
    def last_data_event(self) -> int | None:
        """The number of the map's last data event; None when it is endless."""
        n = self.map.n_events
        return None if n is None else n - 1 - int(self.map.wrapped)

    def missing(self, message: FramesMissing) -> None:
        """Frames that will not come."""
        if message.stream in self.report.streams:
            self.absent[message.stream].add(message.runs)

    def done(self, message: PartsDone, now: float) -> None:
        """Parts are durably done."""
        self.unanswered = True
        if message.inventory:
            self._forget_done()
        self.reduced = self.reduced or message.finished
        for lo, hi, state in self.completed(message):
            self.over.add(lo, hi)
            self.states.set(lo, hi, state)
            self.reached = max(self.reached, hi)
        if message.closed and not self.closed:
            self.closed, self.frontier = True, message.frontier
        elif self.closing == message.closed:
            self.frontier = max(self.frontier, message.frontier)
        for worker, parts in message.parts.items():
            self.dispatcher.done(worker, parts, now)
        for name, runs in message.incomplete.items():
            self.lacking[name].add(runs)
            self._note_ends(name, runs)
        self.report.tick(event for event, _ in message.ticks)
        self.report.combined += message.combined_before + len(message.combined)
        self.report.duplicates += message.duplicates
        self.fail(message.failures, message.failed_total)

    def _note_ends(self, name: str, runs: Sequence[Run]) -> None:
        """Parts of the start or end event lacked this stream, if these events are among the runs."""
        if self.map.wrapped:
            ends = [0] if self.map.n_events is None else [0, self.map.n_events - 1]
            self.lacking_ends |= {(event, name) for event in ends if any(lo <= event < hi for lo, hi in runs)}

    def _forget_done(self) -> None:
        """All that a reducer has told will be told again: what was added up begins anew."""
        report = self.report
        report.failures, report.failed_total, report.duplicates, report.combined = [], 0, 0, 0
        report.ticks, report.ticks_total = [], 0
        self.lacking.clear()
        self.lacking_ends.clear()
        self.dispatcher.recount()

    def completed(self, message: PartsDone) -> list[tuple[int, int, int]]:
        """Events that became terminal. A reducer that does not know of the map's end may name some beyond it."""
        if message.closed or not self.closing:
            return message.completed
        end = (self.last_data_event or 0) + 1
        return [(lo, min(hi, end), state) for lo, hi, state in message.completed if lo < end]

    def finished(self, message: Finished) -> None:
        """A service ran its `finish()`."""
        self.fail(message.failures, len(message.failures))
        self.fold_failed(message.failed)
        extend_runs(self.report.out_of_order, message.out_of_order)
        self.report.result_file = message.result_file or self.report.result_file
        if message.error:
            self.add_trouble(message.error)

    def fold_failed(self, runs: Sequence[Run]) -> None:
        """The reducer's code raised for these events, which had come that far."""
        for lo, hi in runs:
            self.states.raise_to(lo, hi, EventState.FAILED)

    def fail(self, failures: Sequence[Failure], total: int) -> None:
        """User code raised: keep the first ones with their traceback, count them all."""
        self.report.failed_total += total
        room = MAX_FAILURES - len(self.report.failures)
        self.report.failures.extend(
            {
                "event": f.event,
                "where": cut(f.where, MAX_NAME),
                "worker": cut(f.worker, MAX_NAME),
                "traceback": cut(f.text, MAX_TRACEBACK),
            }
            for f in failures[:room]
        )

    def trouble(self, where: str, text: str) -> None:
        """Something that a person should read in the report."""
        self.add_trouble(f"{cut(where, MAX_NAME)}: {text}")

    def add_trouble(self, text: str) -> None:
        """The same, where the text says what it is about."""
        if len(self.report.troubles) < MAX_TROUBLES:
            self.report.troubles.append(cut(text))

    def join(self, name: str, tags: frozenset[str]) -> int:
        """There is one logical worker more, from now on; its number."""
        worker = self.places.add(name, tags)
        self.dispatcher.join(tags)
        self.services |= {f"worker {name}"}
        self.report.workers.append(name)
        self.report.joined.append(name)
        return worker

    def lose(self, worker: int, how: str, now: float, event: int) -> None:
        """The process that filled this place is lost; `event`: it was at work on it (-1: nobody knows)."""
        self.places.lose(worker, now)
        parts = self.dispatcher.lose(worker, keep=self.stateful)
        name = f"worker {self.places[worker].name}"
        self.report.loss(name, how, now, parts)
        if self.stateful:
            self.trouble(name, STATE_LOST)
        if event < 0:
            return
        self.deaths[event] = self.deaths.get(event, 0) + 1
        if self.deaths[event] == DEATHS:
            self.poison.append(event)

    def close(self, last_event: int, *, cut: bool) -> None:
        """The map ends with this data event: because the scan was `cut`, or because no series goes any further.

        What a finite plan has beyond is not reached when it was cut, and lacks every frame when the series ended.
        """
        planned = self.last_data_event
        if planned is not None and last_event < planned:
            if not cut:
                self.short = (last_event + 1, planned + 1)
                self.reason = self.reason or f"every series ended by event {last_event} of {planned}"
                for name in self.map.streams:
                    self.lacking[name].add([self.short])
            self.states.set(last_event + 1, self.reached, EventState.PENDING)
            self.map = self.map.closed_at(last_event)
        elif planned is None:
            self.map = self.map.closed_at(last_event)
        self.closing = True
        self.dispatcher.close(self.map)
        if cut or planned is None:
            for index, name in enumerate(self.map.streams):
                self.report.streams[name].expected = self._expected(index)

    # -- the report ------------------------------------------------------------------------------------------

    def data_range(self) -> Run:
        """The data events that the scan has: half-open. Of an endless one, those that are known of so far."""
        first = 1 if self.map.wrapped else 0
        n = self.data_events
        return (first, first + (n if n is not None else max(self.reached - first, 0)))

    def conclude(self, ended: str, now: float) -> dict[str, Any]:
        """The final report: verify counted streams, name what never became terminal, count."""
        lo, hi = self.data_range()
        self._verify()
        self._find_slips()
        self._name_ends()
        if ended != "finished":
            self._lose(lo, hi)
        self.refresh()
        self._list_all(lo, hi)
        self.report.ended, self.report.reason, self.report.finished = ended, cut(self.reason), now
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """The report as it stands."""
        self.refresh()
        report = self.report.to_dict()
        return report if self.report.ended else {**report, "phase": str(self.phase)}

    def refresh(self) -> None:
        """Bring the report up to date; that of an ended scan is."""
        report = self.report
        if report.ended:
            return
        lo, hi = self.data_range()
        counts = self._counts(lo, hi)
        report.first_event, report.events = lo, hi - lo
        if self.short is not None:
            more = self.short[1] - self.short[0]
            report.events += more
            counts[EventState.INCOMPLETE_SKIPPED] = counts.get(EventState.INCOMPLETE_SKIPPED, 0) + more
        if self.lost is not None:
            more = self.lost[1] - self.lost[0]
            counts[EventState.LOST] = counts.get(EventState.LOST, 0) + more
            counts[EventState.PENDING] -= more
        end = self.short[1] if self.short is not None else hi
        lacking = {name: events.runs(lo, end) for name, events in sorted(self.lacking.items())}
        report.incomplete = {name: runs for name, runs in lacking.items() if runs}
        for name, absent in self.absent.items():
            stream = report.streams[name]
            stream.missing, stream.missing_total = absent.runs(lo, hi), absent.total(lo, hi)
        report.unreached = max((self.planned or 0) - report.events, 0)
        report.count(counts)
        report.latency = self.latency_by_stage()
        report.runs = {s.label: self._runs(s, lo, hi) for s in LISTED if counts.get(s)}
        report.unlisted = self._unlisted()

    def _unlisted(self) -> dict[str, int]:
        """How many events of each state that is listed are not in its runs."""
        states = self.report.states
        rest = {label: states[label] - sum(b - a for a, b in runs) for label, runs in self.report.runs.items()}
        return {label: events for label, events in rest.items() if events}

    def _list_all(self, lo: int, hi: int) -> None:
        """The scan has ended: list every event but those that were reduced, in bitmaps where there are many runs."""
        report = self.report
        if (nothing := EventState.NO_RESULT).label in report.states:
            report.runs[nothing.label] = self._runs(nothing, lo, hi)
        report.unlisted = self._unlisted()
        end = min(lo + report.events, lo + MAX_EVENTS)
        for state in (s for s in EventState if s.label in report.unlisted):
            mask = self.states.mask(state, lo, end)
            for beyond in self._beyond(state):
                mask[max(beyond[0] - lo, 0) : max(beyond[1] - lo, 0)] = True
            report.bitmaps[state.label] = Bitmap.of(lo, mask)
            del report.runs[state.label]
            report.unlisted[state.label] = report.states[state.label] - int(np.count_nonzero(mask))
        report.unlisted = {label: events for label, events in report.unlisted.items() if events}
        for name, lacking in self.lacking.items():
            if (bitmap := lacking.bitmap(lo, lo + report.events)) is not None:
                report.incomplete_bitmaps[name] = bitmap
                report.incomplete.pop(name, None)

    def latency(self) -> Latencies:
        """Of all services, as far as they have said so."""
        return Latencies.sum(self.latencies.values())

    def latency_by_stage(self) -> dict[str, StageLatency]:
        """The same in a few numbers."""
        return {stage.value: StageLatency.of(histogram) for stage, histogram in self.latency().items()}

    def _runs(self, state: EventState, lo: int, hi: int) -> list[Run]:
        """Data events in a state; bounded."""
        runs = [(max(a, lo), min(b, hi)) for a, b in self.states.runs(state, MAX_RUNS) if a < hi and b > lo]
        extend_runs(runs, self._beyond(state))
        return runs

    def _beyond(self, state: EventState) -> list[Run]:
        """Events in a state that are not kept one by one, because a plan may have any number of them."""
        run = {EventState.INCOMPLETE_SKIPPED: self.short, EventState.LOST: self.lost}.get(state)
        return [] if run is None else [run]

    def _counts(self, lo: int, hi: int) -> dict[EventState, int]:
        """Data events by state; the start and end event are not among them."""
        counts = self.states.counts()
        if self.map.wrapped:
            for event in (lo - 1, hi):
                if state := self.states[event]:
                    counts[state] -= 1
        counts[EventState.PENDING] = max(hi - lo - sum(counts.values()), 0)
        return counts

    def _lose(self, lo: int, hi: int) -> None:
        """What is pending when a scan is given up is lost."""
        for a, b in self.states.runs(EventState.PENDING, limit=1 << 30):
            self.states.set(max(a, lo), min(b, hi), EventState.LOST)
        if (beyond := max(self.reached, lo)) < hi:
            self.lost = (beyond, hi)

    def _find_slips(self) -> None:
        """Say which streams seem to be out of step with another one. Nothing is matched otherwise because of that."""
        lacking = {}
        for index, name in enumerate(self.map.streams):
            stream, end = self.report.streams[name], self.ended_streams.get(name)
            if end is not None and stream.matching == "numbered" and stream.expected is not None and not stream.paused:
                came = self.map.ordinal_at(index, end.last_event + 1) - int(self.map.wrapped)
                lacking[name] = stream.expected - came - end.surplus
        for slip in slips(self.tracks, lacking):
            self.report.slips.append({**asdict(slip), "text": slip.text})
            self.trouble(f"stream {slip.stream}", slip.text)

    def _name_ends(self) -> None:
        """Say which start and end messages not all workers had: the lists of the report are of data events alone.

        That a stream that was stopped has no end message needs no saying, unless that may have gone with an ingester.
        """
        for event, name in sorted(self.lacking_ends):
            if self.cut and name not in self.ended_streams and name not in self.bereft:
                continue
            what = "the end message" if event else "the start message, and so what its header says of the series"
            why = "it went with a lost ingester" if name in self.bereft else "it did not come"
            self.trouble(f"stream {name}", f"event {event} lacks {what}, at one worker at least: {why}")

    def _verify(self) -> None:
        """Frames of a counted stream are matched by their place alone: when the total is wrong, none is certain."""
        for index, name in enumerate(self.map.streams):
            stream, end = self.report.streams[name], self.ended_streams.get(name)
            if stream.matching != "counted" or end is None or stream.expected is None:
                continue
            if end.frames + end.surplus == stream.expected:
                continue
            stream.verified = False
            had = min(stream.expected, self._expected(index) or 0)  # fewer where all series ended early
            stop = min(1 + had, self.map.ordinal_at(index, self.reached))
            for at in range(1, stop, VERIFY_STEP):
                for lo, hi in as_runs(self.map.events(index, at, min(at + VERIFY_STEP, stop))):
                    self.states.raise_to(lo, hi, EventState.UNVERIFIED)


def extend_runs(runs: list[Run], more: Sequence[Run]) -> None:
    """Append runs, merging with the last one where they touch; bounded."""
    for lo, hi in more:
        if runs and runs[-1][1] == lo:
            runs[-1] = (runs[-1][0], hi)
        elif len(runs) < MAX_RUNS:
            runs.append((lo, hi))
