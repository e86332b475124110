"""The ingest machine: frames of one scan in, batches for workers out. No sockets, no clock.

It numbers frames by their headers, keeps them until they are done, routes them by the controller's assignments and
sends what the workers' credit allows. Every call takes a batch and returns the actions it causes; the cost is per
batch. A frame that will never come is told to all workers as a run of events (see the decision record on missing
frames); it is shown by a later frame or by the series end, never by silence.

The machine serves one scan. `feed` must get the items of a stream in the order its framer gave them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from beamfold.ingest.arrivals import Arrivals
from beamfold.ingest.retention import Frame, Retention, Shelf, fit
from beamfold.model.routes import UNASSIGNED, Routes
from beamfold.model.runs import MAX_RUNS, RunSet, as_runs
from beamfold.model.triggermap import EVERYBODY, Route, TriggerMap
from beamfold.protocols.items import Data, End, Item, Start, Stray
from beamfold.protocols.messages import (
    PARKED,
    Block,
    FenceReached,
    FramesMissing,
    Halted,
    Message,
    Release,
    Run,
    Series,
    StreamEnded,
    StreamSeen,
    Trouble,
)
from beamfold.protocols.stamps import UNTIMED, Runs

Ints: TypeAlias = NDArray[np.int64]
Positions: TypeAlias = "int | NDArray[np.int16]"

ROUTE_STEP = 8192
"""Ordinals routed in one go: bounds the numpy temporaries, large enough that their fixed cost vanishes."""

BATCH_FRAMES = 2048
"""Frames per batch at most: a worker should get its first work of a burst before the burst is over."""

BATCH_BYTES = 16 << 20
"""Payload per batch at most (one frame may be larger): keeps credit flowing in steps of a few milliseconds."""

MISSING_RUNS = 1000
"""Runs of missing frames from which on those are forgotten that lie before all that is still to be routed."""

FOREVER = 1 << 62
"""An event beyond all others."""

LONGEST_GAP = 1 << 20
"""Frames that may be missing in one go. A number that leaps further is believed once the next one is close behind it:
each of the events between would be processed, and one damaged number can claim more of them than anybody lives."""

MAX_TROUBLES = 100
"""Malformed messages described one by one; beyond that they are only counted."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a stream had come: the ordinal `next`, with so many `frames` and `payload_bytes` before it.

    `base` is None as long as no start has come; `unsure`: perhaps it went to an ingester that is gone.
    """

    next: int
    frames: int
    payload_bytes: int
    base: int | None
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream this ingester reads: its number in the map, its name, and how its frames are numbered.

    `base` is the number of the first data frame of a series (0, 1) or None when the start message gives it.
    `retention_bytes` bounds its frames in memory.
    """

    index: int
    name: str
    numbered: bool
    base: int | None = 0
    retention_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class SendFrames:
    """Send these frames of a stream to a logical worker; they all need parameter version `version` or older.

    `closed`: the events are those of the closed map, whose end event has a number that was another event's before.
    `received` has the stamps of the frames, in runs. `again`: they are of blocks that somebody else had before.
    """

    worker: int
    stream: int
    version: int
    events: Ints
    k: Positions
    frames: list[Frame]
    closed: bool = False
    received: Runs = field(default_factory=list)
    again: bool = False


@dataclass(frozen=True, slots=True)
class SendGap:
    """Tell a worker which events will never have a frame of this stream; `closed` as with frames."""

    worker: int
    stream: int
    runs: list[Run]
    tail: bool
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Dump:
    """These frames of a stream have their events now: write them to its dump. `events` ascend from dump to dump."""

    stream: int
    events: Ints
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the controller."""

    message: Message


@dataclass(frozen=True, slots=True)
class Pause:
    """Retention is full and may not spill: do not read this stream until Resume (back-pressure to the detector)."""

    stream: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Read this stream again."""

    stream: int


Action: TypeAlias = SendFrames | SendGap | Dump | Tell | Pause | Resume


@dataclass(slots=True)
class _Segment:
    """Frames of one stream on their way to one worker; `at` is how many of them are sent. `again`: as in SendFrames."""

    ordinals: Ints
    events: Ints
    k: Positions
    again: bool = False
    at: int = 0

    def positions(self) -> Positions:
        """`k` of what is left to send."""
        return self.k if isinstance(self.k, int) else self.k[self.at :]


@dataclass(slots=True)
class _Stream:
    spec: StreamSpec
    retention: Retention
    phase: str = "waiting"
    base: int = 0
    next: int = 0  # the ordinal expected next
    leapt: int = -1  # the ordinal of a frame whose number leapt too far to be believed
    cursor: int = 0  # everything before is routed
    begins: int = 0  # what came before this ordinal went with another ingester, but for what is kept
    frames: int = 0
    end_frame: Frame | None = None
    missing: RunSet = field(default_factory=RunSet)  # ordinals
    awaited: RunSet = field(default_factory=RunSet)  # of these, those that have not come since
    behind: int | None = None  # the ordinal that came last, where that was not the one before `next`
    gaps: deque[tuple[list[Run], bool]] = field(default_factory=deque)  # events, as told to the workers
    cast_gaps: list[tuple[list[Run], bool]] = field(default_factory=list)  # of these, settled ones with broadcasts
    payload_bytes: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)
    paused: bool = False
    full: bool = False
    waits: bool = False
    unsure: bool = False  # whether its start has come, perhaps to another ingester
    restarted: bool = False  # a second start message came
    foreign: bool = False  # another series has begun in this one: what comes is of that
    discarded: int = 0
    surplus: int = 0
    malformed: int = 0
    duplicates: int = 0
    late: int = 0
    strangers: int = 0
    out_of_order: int = 0

    def unused(self, messages: int) -> None:
        """So many messages came that are of no use: outside of the series."""
        if self.phase == "waiting" or self.foreign:
            self.strangers += messages
        else:
            self.discarded += messages


class IngestMachine:
    """One scan at one ingester.

    `workers[w]` is the bitmask of broadcast groups that logical worker w belongs to. `dump` asks for a Dump of every
    frame that the map has a place for, whoever gets it.

    `shelf` makes shelves for what exceeds the bounds in memory. With `spill` all of that goes there; else only what
    cannot wait does, which are broadcast frames, and frames that wait for other streams. What finds no room there
    pauses its stream until parts are done.
    """

    def __init__(
        self,
        scan: int,
        trigger_map: TriggerMap,
        streams: Iterable[StreamSpec],
        workers: Sequence[int],
        *,
        version: int = 0,
        dump: bool = False,
        shelf: Callable[[], Shelf] | None = None,
        spill: bool = False,
    ) -> None:
        self.scan = scan
        self.map = trigger_map
        self._workers = list(workers)
        self._streams = {
            s.index: _Stream(s, Retention(s.retention_bytes, *((shelf(), shelf()) if shelf else ()))) for s in streams
        }
        self._routes = Routes()
        self._assigned_again = RunSet()  # virtual workers that were assigned more than once
        self._outbox: dict[tuple[int, int], deque[_Segment]] = {}
        self._credit: dict[tuple[int, int], int] = {}
        self._versions: list[tuple[int, int]] = [(0, version)]
        self._dump = dump
        self.spills = spill
        self._sent_up_to = -1
        self._hold_above: int | None = None
        self._halted = False
        self._closed = False
        self._troubles = 0
        self._no_room = False
        self._replaying = False
        self._over = RunSet()  # events that are terminal
        self._logged: set[int] = set()  # streams that another ingester had begun to send

    # -- what happens ----------------------------------------------------------------------------------------

    def resume(self, series: Mapping[str, Series]) -> list[Action]:
        """Go on where another ingester ended, whose frames are gone. Before anything else is said.

        A frame that comes next shows what lies between; where nothing more is to come all of that is missing.
        """
        actions: list[Action] = []
        for index, state in self._streams.items():
            known = series.get(state.spec.name)
            if known is None:
                continue
            state.frames = known.frames
            for lo, hi in known.done:
                self._over.add(lo, hi)
            if known.base is None:
                state.unsure = True
                continue
            state.base, state.phase = known.base, "running"
            # What was broadcast is gone, too: a worker that joins later need not wait for it.
            state.cast_gaps.append(([(0, known.event)], False))
            end = self._data_end(state)
            state.next = state.cursor = max(self.map.ordinal_at(index, known.event), 1)
            if end is not None:
                state.next = state.cursor = min(state.next, end)
            if known.event == 0 and state.next:  # without start events a stream may have no message at all
                self._gap(state, 0, 1, False, actions)
            if known.last is not None:
                state.phase = "ended"
                last = self.map.ordinal_at(index, known.last + 1)
                if state.next < last:
                    self._gap(state, state.next, last, False, actions)
                    state.next = last
                if end is None or state.next < end:
                    self._gap(state, state.next, end, True, actions)
        self._route_all_streams()
        return actions

    def take_up(self, series: Mapping[str, Series]) -> None:
        """Go on where another ingester ended whose log is there: what these streams had received is fed again next.
        Where it does not begin with the series, `go_on` comes first, and `keep`; at the end comes `taken_up`.
        """
        self._replaying = True
        for index, state in self._streams.items():
            if (known := series.get(state.spec.name)) is None:
                continue
            for lo, hi in known.done:
                self._over.add(lo, hi)
                state.retention.release(self.map.ordinal_at(index, lo), self.map.ordinal_at(index, hi))
            state.cursor = self.first_open(index)
            state.retention.release(0, state.cursor)

    def go_on(self, stream: int, mark: Mark) -> list[Action]:
        """What is fed again of a stream, or comes next, is behind this mark; events before it are terminal."""
        actions: list[Action] = []
        state = self._streams[stream]
        state.next = state.begins = mark.next
        state.frames, state.payload_bytes, state.unsure = mark.frames, mark.payload_bytes, mark.unsure
        if mark.base is not None:
            state.base, state.phase = mark.base, "running"
        if state.cursor < mark.next:  # who says what is done has forgotten some of it: it cannot be had again
            self._gap(state, state.cursor, mark.next, False, actions)
            state.cursor = mark.next
        return actions

    def keep(self, stream: int, ordinal: int, frame: Frame) -> None:
        """This was broadcast before the log of a stream begins, while that is taken up."""
        retention = self._streams[stream].retention
        if not retention.keeps(ordinal):
            retention.put(ordinal, frame)

    def taken_up(self, series: Mapping[str, Series]) -> list[Action]:
        """All that these streams had received was fed again; what comes now is new.

        Nobody knows which workers have what was broadcast: all get it again, and use what is new to them.
        """
        self._replaying = False
        for index, state in self._streams.items():
            if state.spec.name not in series:
                continue
            state.unsure = state.unsure or state.phase == "waiting"
            if state.begins and (gone := self._casts_gone(index, state)):
                state.cast_gaps.append((gone, False))
            self._logged.add(index)
            self._cast_done(index, state, 0)
        return self._everything()

    def _skip_done(self, index: int, state: _Stream) -> None:
        """What another ingester sent has become terminal: who it was assigned to may be forgotten by now."""
        routed, state.cursor = state.cursor, max(state.cursor, min(self.first_open(index), state.next))
        self._cast_done(index, state, routed)
        self._route(state)

    def _cast_done(self, index: int, state: _Stream, lo: int) -> None:
        """What was broadcast of messages from `lo` on that are not routed any more goes to all workers once again."""
        if lo < state.cursor:
            for worker in range(len(self._workers)):
                self._cast_again(worker, index, state, lo)

    def _casts_gone(self, stream: int, state: _Stream) -> list[Run]:
        """What never came of that which was broadcast before the log begins: who joins later need not wait for it."""
        kept = {self._event(stream, ordinal) for ordinal in state.retention.kept()}
        end = self._event(stream, state.begins - 1) + 1
        gone: list[Run] = []
        cast = self.map.next_broadcast(0, EVERYBODY)
        while cast is not None and cast < end:
            if cast not in kept:
                gone.append((cast, cast + 1))
            cast = self.map.next_broadcast(cast + 1, EVERYBODY)
        return gone

    def mark(self, stream: int) -> Mark:
        """How far a stream has come."""
        state = self._streams[stream]
        base = None if state.phase == "waiting" else state.base
        return Mark(state.next, state.frames, state.payload_bytes, base, state.unsure)

    def first_open(self, stream: int) -> int:
        """The ordinal of the first message of a stream whose event is not terminal."""
        event = 0
        while True:
            ordinal = self.map.ordinal_at(stream, self._over.first_gap(event))
            following = self.map.events(stream, ordinal, ordinal + 1)
            if not len(following) or (event := int(following[0])) not in self._over:
                return ordinal

    def _event(self, stream: int, ordinal: int) -> int:
        return int(self.map.events(stream, ordinal, ordinal + 1)[0])

    def kept(self, stream: int, lo: int, hi: int) -> list[tuple[int, Frame]]:
        """What was broadcast of a stream's messages lo..hi-1. Raises what a shelf raises that cannot be read."""
        retention = self._streams[stream].retention
        return [(o, retention.pick(np.array([o]))[0]) for o in retention.kept() if lo <= o < hi]

    def _route_all_streams(self) -> None:
        for state in self._streams.values():
            self._route(state)

    def feed(self, stream: int, items: Iterable[Item], stamp: float = UNTIMED) -> list[Action]:
        """Frames of one stream arrived; `stamp` says when they were taken from the detector's socket."""
        actions: list[Action] = []
        state = self._streams[stream]
        state.arrivals.add(state.next, stamp)
        for item in items:
            if isinstance(item, Stray):
                state.strangers += len(item.frames)
            elif self._halted:
                state.discarded += len(item.frames) if isinstance(item, Data) else 1
            elif isinstance(item, Data):
                self._data(state, item, actions)
            elif isinstance(item, Start):
                self._start(state, item, actions)
            elif isinstance(item, End):
                self._end(state, item, actions)
            else:
                state.malformed += 1
                self._trouble(state, item.reason, actions)
        self._route(state)
        self._flush(actions)
        self._make_room(state, actions)
        self._tell_full(state, actions)
        if not (state.paused or self._halted) and state.retention.full:
            state.paused = True
            actions.append(Pause(stream))
        return actions

    def assign(self, blocks: Sequence[Block], settled: int = 0) -> list[Action]:
        """The controller gave virtual workers to workers, some of them perhaps for the second time.

        Events below `settled` are terminal: a worker that attaches later need not learn what they lack, unless
        something was broadcast there.
        """
        for state in self._streams.values():
            while state.gaps and state.gaps[0][0][-1][1] <= settled:
                gap = state.gaps.popleft()
                if any(self._casts(lo, hi) for lo, hi in gap[0]):
                    state.cast_gaps.append(gap)
        for block in blocks:
            news = RunSet(self._routes.blocks(block.worker)).missing(block.lo, block.hi) if block.attempt else ()
            self._routes.add(block.lo, block.hi, block.worker)
            for lo, hi in news:  # the rest it has got: a new controller only says so again
                self._assigned_again.add(lo, hi)
                self._send_again(Block(lo, hi, block.worker))
        return self._everything()

    def grant(self, worker: int, stream: int, credit: int) -> list[Action]:
        """A worker takes `credit` more bytes of a stream. Its first grant attaches it: it learns of all gaps."""
        actions: list[Action] = []
        state = self._streams.get(stream)
        if state is None or not 0 <= worker < len(self._workers) or credit < 0:
            return actions
        key = (worker, stream)
        if key not in self._credit:
            self._credit[key] = 0
            gaps = (*state.cast_gaps, *state.gaps)
            actions.extend(SendGap(worker, stream, runs, tail, self._closed) for runs, tail in gaps)
        self._credit[key] += credit
        self._send(key, actions)
        return actions

    def join(self, groups: int) -> None:
        """There is one logical worker more, which belongs to these broadcast groups (bits); nobody fills it yet."""
        self._workers.append(groups)

    def fill(self, worker: int, here: bool) -> list[Action]:
        """Another process fills the place of this logical worker, or (not `here`) none does.

        Nothing more goes to the one before. The new one will attach by its first grant; what was broadcast to the place
        goes to it from the beginning. What its virtual workers need is sent when they are assigned again.
        """
        for key in [key for key in self._credit if key[0] == worker]:
            del self._credit[key]
        for key in [key for key in self._outbox if key[0] == worker]:
            del self._outbox[key]
        for lo, hi in self._routes.blocks(worker):
            self._routes.add(lo, hi, PARKED - worker)
        if here:
            for index, state in self._streams.items():
                self._cast_again(worker, index, state)
        return []

    def _cast_again(self, worker: int, stream: int, state: _Stream, lo: int = 0) -> None:
        for ordinal in state.retention.kept():
            if not lo <= ordinal < state.cursor:
                continue
            rows = self.map.route(stream, ordinal, ordinal + 1)
            groups = sum(1 << (-1 - g) for g in set(rows.virtual[rows.virtual < 0].tolist()))
            if self._workers[worker] & groups:
                self._post(worker, stream, np.array([ordinal]), rows.event[:1], -1 - worker)

    def _casts(self, lo: int, hi: int) -> bool:
        """Whether something is broadcast in events lo..hi-1."""
        cast = self.map.next_broadcast(lo, EVERYBODY)
        return cast is not None and cast < hi

    def release(self, message: Release) -> list[Action]:
        """Events are done for good: their frames go."""
        actions: list[Action] = []
        for index, state in self._streams.items():
            for lo, hi in message.runs:
                state.retention.release(self.map.ordinal_at(index, lo), self.map.ordinal_at(index, hi))
        for lo, hi in message.runs:
            self._over.add(lo, hi)
        for index in self._logged:
            self._skip_done(index, self._streams[index])
        if self._logged:
            self._flush(actions)
        self._resume(actions)
        if message.runs:
            needed = self._first_virtual_needed()
            self._routes.forget_before(needed)
            self._assigned_again.discard(0, needed)
        return actions

    def waits(self, streams: Sequence[str]) -> list[Action]:
        """What is retained of these streams, and of no others, waits for other streams and not for workers."""
        for state in self._streams.values():
            state.waits = state.spec.name in streams
        return self.look()

    def look(self) -> list[Action]:
        """Time passed: there may be room again where there was none."""
        actions: list[Action] = []
        self._resume(actions)
        return actions

    def room(self, stream: int) -> int:
        """Bytes that the stream may still bring into memory."""
        retention = self._streams[stream].retention
        return max(retention.limit - retention.nbytes, 0)

    def halt(self) -> list[Action]:
        """Stop taking frames; say how far each stream came."""
        self._halted = True
        seen = {s.spec.name: (self._last_event(s), s.phase == "ended") for s in self._streams.values()}
        actions: list[Action] = [Tell(Halted(self.scan, seen))]
        self._resume(actions)
        return actions

    def close(self, last_event: int) -> list[Action]:
        """The map ends with this data event: streams that have not ended by then never will."""
        self.map = self.map.closed_at(last_event)
        self._halted = self._closed = True
        actions: list[Action] = []
        for state in self._streams.values():
            state.gaps = deque(gap for gap in state.gaps if not gap[1])  # told anew, now for good
            self._finish_series(state, actions)
        return actions + self._everything()

    def fence(self, version: int) -> list[Action]:
        """Parameters are about to change: send nothing beyond what may already have been sent."""
        self._hold_above = self._sent_up_to
        return [Tell(FenceReached(self.scan, version, self._sent_up_to))]

    def set_version(self, version: int, from_event: int) -> list[Action]:
        """From this event on, batches need this version; sending goes on."""
        if version <= self._versions[-1][1]:
            return []  # said again, by a controller that cannot know who knows it
        self._versions.append((from_event, version))
        self._hold_above = None
        return self._everything()

    def inventory(self) -> dict[str, Any]:
        """What a new controller has to know; the words are those of `Inventory`."""
        streams = self._streams.values()
        ended = [StreamEnded(self.scan, s.spec.name, s.frames, self._last_event(s), s.surplus) for s in streams]
        missing = [
            FramesMissing(self.scan, s.spec.name, [run for lo, hi in s.missing for run in self._events(s, lo, hi)])
            for s in streams
            if s.missing
        ]
        return {
            "blocks": self._routes.all(),
            "halted": self._halted,
            "holding": self._hold_above is not None,
            "ended": [e for e, s in zip(ended, streams, strict=True) if s.phase == "ended"],
            "missing": missing,
        }

    def _events(self, state: _Stream, lo: int, hi: int) -> list[Run]:
        """The events of the stream's messages lo..hi-1; between them there may be some that have none of it."""
        first, end = (int(self.map.events(state.spec.index, at, at + 1)[0]) for at in (lo, hi - 1))
        if end - first == hi - 1 - lo:
            return [(first, end + 1)]  # however many: as long as the map is
        return as_runs(self.map.events(state.spec.index, lo, hi))[:MAX_RUNS]

    def progress(self) -> list[StreamSeen]:
        """How far every stream has come, for status and page."""
        return [self._seen(s) for s in self._streams.values()]

    def _seen(self, state: _Stream) -> StreamSeen:
        retention = state.retention
        return StreamSeen(
            self.scan,
            state.spec.name,
            state.phase,
            state.frames,
            self._last_event(state),
            retention.nbytes + retention.kept_bytes,
            state.discarded,
            state.malformed,
            state.duplicates,
            retention.shelved_bytes,
            retention.spilled_bytes,
            full=state.full,
            payload_bytes=state.payload_bytes,
            base=state.base,
            late=state.late,
            strangers=state.strangers,
            out_of_order=state.out_of_order,
            arrived=self._arrived(state),
        )

    def _arrived(self, state: _Stream) -> tuple[int, float] | None:
        """The event of the first data frame that was drained last, and when that was; None where nobody knows."""
        newest, end = state.arrivals.newest, self._data_end(state)
        if newest is None or newest[1] == UNTIMED:
            return None
        ordinal, stamp = newest
        there = int(self.map.wrapped) <= ordinal < (state.next if end is None else min(state.next, end))
        if not there or ordinal in state.missing:
            return None
        return int(self.map.events(state.spec.index, ordinal, ordinal + 1)[0]), stamp

    # -- numbering -------------------------------------------------------------------------------------------

    def _start(self, state: _Stream, item: Start, actions: list[Action]) -> None:
        if state.phase != "waiting":
            self._trouble(state, f"a start message while the series is {state.phase}; it was ignored", actions)
            if state.phase == "running":
                self._start_again(state, item, actions)
            return
        state.base = item.base if item.base is not None else (state.spec.base or 0)
        state.phase = "running"
        state.next = 1
        self._hold(state, 0, [item.frames], actions)

    def _start_again(self, state: _Stream, item: Start, actions: list[Action]) -> None:
        """A second start message: it came twice, or another series begins."""
        if state.next == 1:  # the detector was started anew before it sent a frame
            state.base = item.base if item.base is not None else state.base
        elif not state.spec.numbered or (item.base is not None and item.base != state.base):
            self._break_off(state, actions)
        else:
            state.restarted = True  # the next number shows which

    def _data(self, state: _Stream, item: Data, actions: list[Action]) -> None:
        frames = item.frames
        if state.unsure and item.numbers is not None:
            self._begin(state, actions)
        if state.restarted and item.numbers is not None and state.phase == "running":
            state.restarted = False
            if item.numbers[0] - state.base + 1 < state.next:
                self._break_off(state, actions)
        if state.phase != "running":
            state.unused(len(frames))
            return
        limit = self._data_end(state)
        lo = state.next
        if item.numbers is not None:
            first = item.numbers[0] - state.base + 1
            n = len(frames)
            if first != lo or item.numbers[-1] - item.numbers[0] != n - 1 or not _consecutive(item.numbers):
                self._irregular(state, item, limit, actions)
                return
        if limit is not None and lo + len(frames) > limit:
            surplus = min(lo + len(frames) - limit, len(frames))  # there may be no cell even for the start
            self._surplus(state, surplus, actions)
            frames = frames[: len(frames) - surplus]
        if frames:
            self._keep(state, lo, frames, actions)
            state.next, state.behind = lo + len(frames), None

    def _break_off(self, state: _Stream, actions: list[Action]) -> None:
        """Another series has begun where this one was not over: nothing more of this one comes, and that one is not of
        this scan, whatever its numbers are."""
        text = "another series began before the end of this one; nothing of it was used: submit a scan for it"
        self._trouble(state, text, actions)
        state.foreign = True
        self._ended(state, actions)

    def _keep(self, state: _Stream, lo: int, frames: list[Frame], actions: list[Action]) -> None:
        """Data of ordinals `lo`, `lo + 1`, … is there: keep it until it is done."""
        if frames:
            state.frames += len(frames)
            self._hold(state, lo, frames, actions)

    def _hold(self, state: _Stream, lo: int, frames: list[Frame], actions: list[Action]) -> None:
        """Messages of ordinals `lo`, `lo + 1`, …: keep them until they are done, and dump them if asked to."""
        if self._replaying:
            self._hold_again(state, lo, frames)
        else:
            state.payload_bytes += state.retention.append(lo, frames)
        if self._dump:  # also of what is fed again: the one before may have ended before it had written it
            events = self.map.events(state.spec.index, lo, lo + len(frames))
            if len(events):  # a map without a start event may have no cell even for the start message
                actions.append(Dump(state.spec.index, events, frames))

    def _hold_again(self, state: _Stream, lo: int, frames: list[Frame]) -> None:
        """The same for what another ingester had: some of that is done, and what was broadcast is kept anyhow."""
        index, retention = state.spec.index, state.retention
        rows = self.map.route(index, lo, lo + len(frames))
        for at in np.unique(rows.index[rows.virtual < 0]).tolist():
            self.keep(index, lo + at, frames[at])
            retention.release(lo + at, lo + at + 1)
        for first, end in retention.needed(lo, lo + len(frames)):
            retention.append(first, frames[first - lo : end - lo])
        state.payload_bytes += sum(map(len, chain.from_iterable(frames)))

    def _irregular(self, state: _Stream, item: Data, limit: int | None, actions: list[Action]) -> None:
        """Numbers that are not simply the next ones: gaps, repeats, late frames, frames beyond the map."""
        assert item.numbers is not None
        surplus = 0
        run: list[Frame] = []  # of ordinals that end before `state.next`
        gaps: list[Run] = []
        for number, frame in zip(item.numbers, item.frames, strict=True):
            ordinal = number - state.base + 1
            if ordinal < 1:
                state.strangers += 1  # numbers run on from series to series, and this is of an older one
                continue
            if ordinal < state.next:
                if not self._replaying:
                    self._again(state, ordinal)
                continue
            if limit is not None and ordinal >= limit:
                surplus += 1
                continue
            if ordinal - state.next > LONGEST_GAP and not 0 < ordinal - state.leapt <= LONGEST_GAP:
                state.leapt = ordinal
                state.malformed += 1
                expected = state.next - 1 + state.base
                self._trouble(state, f"frame {number} came where {expected} was expected; it was not used", actions)
                continue
            if ordinal > state.next:
                self._keep(state, state.next - len(run), run, actions)
                run = []
                self._lack(state, state.next, ordinal)
                gaps.append((state.next, ordinal))
            run.append(frame)
            state.next, state.behind = ordinal + 1, None
        self._keep(state, state.next - len(run), run, actions)
        if gaps:
            self._tell_missing(state, gaps, actions)
        if surplus:
            self._surplus(state, surplus, actions)
        if state.missing.count > MISSING_RUNS:
            state.missing.discard(0, min(state.cursor, state.next - 1))

    @staticmethod
    def _again(state: _Stream, ordinal: int) -> None:
        """A frame came that is not beyond all before: for the second time, or too late."""
        state.out_of_order += ordinal < (state.next - 1 if state.behind is None else state.behind)
        state.behind = ordinal
        if ordinal in state.awaited:
            state.awaited.discard(ordinal, ordinal + 1)
            state.late += 1
        else:
            state.duplicates += 1

    def _surplus(self, state: _Stream, frames: int, actions: list[Action]) -> None:
        """Frames that the trigger map has no place for: said once, counted all."""
        if not state.surplus:
            self._trouble(
                state, "more frames came than the trigger map has for this stream: they were not used", actions
            )
        state.surplus += frames

    def _begin(self, state: _Stream, actions: list[Action]) -> None:
        """The start went to an ingester that is gone: go on if the first frame's number is known all the same."""
        if state.phase == "waiting" and state.spec.base is not None:
            state.base, state.phase, state.next, state.cursor = state.spec.base, "running", 1, max(state.cursor, 1)
            self._gap(state, 0, 1, False, actions)

    def _end(self, state: _Stream, item: End, actions: list[Action]) -> None:
        if state.unsure:
            self._begin(state, actions)
        if state.phase != "running":
            state.unused(1)
            return
        if self.map.wrapped:
            state.end_frame = item.frames  # it belongs to the end event, whose number is certain once the map is closed
        elif state.next < (self.map.frame_count(state.spec.index) or 0):
            self._hold(state, state.next, [item.frames], actions)
            state.next += 1
        self._ended(state, actions)

    def _ended(self, state: _Stream, actions: list[Action]) -> None:
        """Nothing more comes."""
        state.phase = "ended"
        ended = StreamEnded(self.scan, state.spec.name, state.frames, self._last_event(state), state.surplus)
        actions.append(Tell(ended))
        end = self._data_end(state)
        if end is None or state.next < end:
            # Joined streams that go on need not wait for this one; whether the scan goes on is the controller's word.
            self._gap(state, state.next, end, True, actions)

    def _finish_series(self, state: _Stream, actions: list[Action]) -> None:
        """The map is closed: place the end message, and say what will never come."""
        count = self.map.frame_count(state.spec.index) or 0
        if state.next >= count:
            return
        last = count - 1 if state.end_frame is not None else count
        if state.next < last:
            self._gap(state, state.next, last, False, actions)
        if state.end_frame is not None:
            state.retention.put(last, state.end_frame)
            if self._dump:
                actions.append(
                    Dump(state.spec.index, self.map.events(state.spec.index, last, count), [state.end_frame])
                )
        state.next = count

    def _data_end(self, state: _Stream) -> int | None:
        """Data frames have ordinals below this one. None when the map is endless."""
        count = self.map.frame_count(state.spec.index)
        return None if count is None else count - int(self.map.wrapped)

    def _gap(self, state: _Stream, lo: int, hi: int | None, tail: bool, actions: list[Action]) -> None:
        """The stream's messages lo..hi-1 will not come; `hi` None: nor will any after them, however many there were."""
        if hi is not None and not tail:
            self._lack(state, lo, hi)
            self._tell_missing(state, [(lo, hi)], actions)
            return
        index = state.spec.index
        end = FOREVER if hi is None else self._event(index, hi - 1) + 1
        self._send_gap(state, [(self._event(index, lo), end)], tail, actions)

    @staticmethod
    def _lack(state: _Stream, lo: int, hi: int) -> None:
        state.missing.add(lo, hi)
        if state.awaited.count < MAX_RUNS:
            state.awaited.add(lo, hi)

    def _tell_missing(self, state: _Stream, gaps: Sequence[Run], actions: list[Action]) -> None:
        """Tell all of these gaps (runs of messages that the stream lacks) together: there may be thousands at once."""
        index, name = state.spec.index, state.spec.name
        self._send_gap(
            state, [(self._event(index, lo), self._event(index, hi - 1) + 1) for lo, hi in gaps], False, actions
        )
        runs = [run for lo, hi in gaps for run in self._events(state, lo, hi)]
        steps = range(0, len(runs), MAX_RUNS)
        actions += [Tell(FramesMissing(self.scan, name, runs[at : at + MAX_RUNS])) for at in steps]

    def _send_gap(self, state: _Stream, runs: list[Run], tail: bool, actions: list[Action]) -> None:
        index = state.spec.index
        state.gaps.append((runs, tail))
        attached = [w for w in range(len(self._workers)) if (w, index) in self._credit]
        actions.extend(SendGap(worker, index, runs, tail, self._closed) for worker in attached)

    def _last_event(self, state: _Stream) -> int:
        """Highest event with a data frame of this stream; 0 when there is none.

        In a map without start and end event their messages are like any other.
        """
        end = self._data_end(state)
        last = (state.next if end is None else min(state.next, end)) - 1
        if last in state.missing:
            last = next(lo for lo, hi in state.missing if lo <= last < hi) - 1
        return int(self.map.events(state.spec.index, last, last + 1)[0]) if last >= int(self.map.wrapped) else 0

    def _trouble(self, state: _Stream, text: str, actions: list[Action]) -> None:
        if self._replaying:
            return  # it was told
        self._troubles += 1
        if self._troubles <= MAX_TROUBLES:
            actions.append(Tell(Trouble(self.scan, f"stream {state.spec.name}", text)))

    # -- routing ---------------------------------------------------------------------------------------------

    def _everything(self) -> list[Action]:
        actions: list[Action] = []
        self._route_all_streams()
        self._flush(actions)
        self._resume(actions)
        return actions

    def _resume(self, actions: list[Action]) -> None:
        """Read on where there is room again, or where what comes is discarded anyway."""
        for index, state in self._streams.items():
            if state.paused and (self._halted or self._has_room(state, actions)):
                state.paused = False
                actions.append(Resume(index))
            self._tell_full(state, actions)

    def _has_room(self, state: _Stream, actions: list[Action]) -> bool:
        """Whether a paused stream may go on: there is some room in memory, or what is too much could be spilled."""
        if state.retention.nbytes <= state.retention.limit * 3 // 4:
            return True
        return self._make_room(state, actions) and not state.retention.full

    def _make_room(self, state: _Stream, actions: list[Action]) -> bool:
        """Spill what is too much in memory, where that is the policy or must be; False where it may not be."""
        retention = state.retention
        may = self.spills or state.waits
        if may:
            retention.spill()
        if not self._no_room and retention.fault:
            self._no_room = True
            self._trouble(
                state, f"frames could not be spilled, so its detector may be held back: {retention.fault}", actions
            )
        return may

    def _tell_full(self, state: _Stream, actions: list[Action]) -> None:
        """Say so at once when a stream comes close to its bound, and when it is well below it again."""
        retention = state.retention
        if self.spills or state.full == (retention.nbytes * 4 > retention.limit * (2 if state.full else 3)):
            return
        state.full = not state.full
        actions.append(Tell(self._seen(state)))

    def _route(self, state: _Stream) -> None:
        """Put what has arrived into the outboxes of its workers, up to the first frame that has no worker yet."""
        while state.cursor < state.next:
            stop = min(state.next, state.cursor + ROUTE_STEP)
            for lo, hi in state.missing.missing(state.cursor, stop) if state.missing else [(state.cursor, stop)]:
                state.cursor = lo + self._route_run(state, lo, hi)
                if state.cursor < hi:
                    return
            state.cursor = stop

    def _route_run(self, state: _Stream, lo: int, hi: int) -> int:
        """Route ordinals lo..hi-1, all of them held; returns how many could be."""
        rows = self.map.route(state.spec.index, lo, hi)
        done = self._route_all(state.spec.index, lo, hi - lo, rows) if len(rows.index) else hi - lo
        if not self.map.uniform:
            self._discard(state, lo, done, rows.index)
        return done

    def _route_all(self, stream: int, lo: int, count: int, rows: Route) -> int:
        """Stretches without broadcasts in one go each, messages with broadcasts one by one."""
        broadcast = rows.virtual < 0
        casts = np.unique(rows.index[broadcast]).tolist() if bool(broadcast.any()) else []
        at = 0
        for cast in [*casts, count]:
            stop = int(np.searchsorted(rows.index, cast))
            if at < stop:
                part = slice(at, stop)
                columns = rows.index[part], rows.event[part], rows.k[part], rows.virtual[part]
                done = self._route_rows(stream, lo, cast, *columns)
                if done < cast:
                    return done
            if cast == count:
                break
            at = int(np.searchsorted(rows.index, cast, side="right"))
            if not self._route_cast(stream, lo + cast, int(rows.event[stop]), rows.k[stop:at], rows.virtual[stop:at]):
                return int(cast)
        return count

    def _discard(self, state: _Stream, lo: int, count: int, index: Ints) -> None:
        """Of these messages those that the map gives to nobody (they have no row in `index`) are not kept."""
        edges = np.concatenate(([-1], index[index < count], [count]))
        for at in np.flatnonzero(np.diff(edges) > 1).tolist():
            state.retention.release(lo + int(edges[at]) + 1, lo + int(edges[at + 1]))

    def _route_rows(
        self, stream: int, lo: int, count: int, index: Ints, events: Ints, k: NDArray[np.int16], virtual: Ints
    ) -> int:
        """Rows without broadcasts, of messages before `lo + count`; returns how many messages are dealt with."""
        more = self._assigned_again
        again = bool(more) and bool(more.overlap(int(virtual.min()), int(virtual.max()) + 1))
        if len(virtual) == 1:  # at low rates every frame comes alone
            worker = self._routes.find(int(virtual[0]))
            if worker >= 0:
                self._post(worker, stream, index + lo, events, int(k[0]), again)
            return count if worker != UNASSIGNED else int(index[0])
        workers = self._routes.lookup(virtual)
        done = count
        first = int(workers[0])
        if first != UNASSIGNED and bool((workers == first).all()):
            if first >= 0:
                self._post(first, stream, index + lo, events, k, again)
            return done
        blank = workers == UNASSIGNED
        if bool(blank.any()):
            done = int(index[int(np.argmax(blank))])
            keep = int(np.searchsorted(index, done))
            if not keep:
                return done
            index, events, k, workers = index[:keep], events[:keep], k[:keep], workers[:keep]
        for worker in np.flatnonzero(np.bincount(workers[workers >= 0])).tolist():
            mine = workers == worker
            self._post(worker, stream, index[mine] + lo, events[mine], k[mine], again)
        return done

    def _route_cast(self, stream: int, ordinal: int, event: int, k: NDArray[np.int16], virtual: Ints) -> bool:
        """Put out one message for the virtual workers of its cell and every worker of its groups.

        A worker gets what is broadcast once, whatever else it has of the event: it puts both together itself.
        """
        own = virtual >= 0
        workers = self._routes.lookup(virtual[own])
        if bool((workers == UNASSIGNED).any()):
            return False
        targets = [target for target in zip(workers.tolist(), k[own].tolist(), strict=True) if target[0] >= 0]
        groups = sum(1 << (-1 - g) for g in set(virtual[~own].tolist()))
        targets += [(worker, -1 - worker) for worker, mine in enumerate(self._workers) if mine & groups]
        where, what = np.array([ordinal]), np.array([event])
        for worker, position in targets:
            self._post(worker, stream, where, what, position)
        self._streams[stream].retention.keep(ordinal)
        return True

    def _post(self, worker: int, stream: int, ordinals: Ints, events: Ints, k: Positions, again: bool = False) -> None:
        if not isinstance(k, int):
            first = int(k[0])
            if bool((k == first).all()):
                k = first
        self._outbox.setdefault((worker, stream), deque()).append(_Segment(ordinals, events, k, again))

    def _send_again(self, block: Block) -> None:
        """A block was assigned anew: what was routed before and is still held goes to the new worker."""
        events, ks = self.map.parts_of(block.lo, block.hi)
        if not len(events):
            return
        for index, state in self._streams.items():
            for key, box in self._outbox.items():
                if key[1] == index:
                    _forget(box, events, ks)
            first = self.map.ordinal_at(index, int(events[0]))
            end = min(self.map.ordinal_at(index, int(events[-1]) + 1), state.cursor)
            for lo, hi in state.retention.held(first, end):
                rows = self.map.route(index, lo, hi)
                own = (rows.virtual >= block.lo) & (rows.virtual < block.hi)
                if bool(own.any()):
                    self._post(block.worker, index, rows.index[own] + lo, rows.event[own], rows.k[own], True)

    def _first_virtual_needed(self) -> int:
        """Virtual workers below this one are routed in all streams (a spanning one keeps its block longer)."""
        lowest = None
        for index, state in self._streams.items():
            events = self.map.events(index, state.cursor, state.cursor + 1)
            if len(events):
                event = int(events[0])
                lowest = event if lowest is None else min(lowest, event)
        if lowest is None:
            return 0
        return self.map.virtual_over(lowest)

    # -- sending ---------------------------------------------------------------------------------------------

    def _flush(self, actions: list[Action]) -> None:
        for key, box in self._outbox.items():
            if box:
                self._send(key, actions)

    def _send(self, key: tuple[int, int], actions: list[Action]) -> None:
        """Send as much of one outbox as credit, fence and batch size allow."""
        box = self._outbox.get(key)
        credit = self._credit.get(key)
        if credit is None:
            return  # not attached: its first grant will find what there is for it
        worker, stream = key
        retention = self._streams[stream].retention
        while box and credit > 0:
            segment = box[0]
            stop = min(len(segment.ordinals), segment.at + BATCH_FRAMES)
            version, until = self._version(int(segment.events[segment.at]))
            stop = _below(segment, stop, until)
            if self._hold_above is not None:
                stop = _below(segment, stop, self._hold_above + 1)
            if stop == segment.at:
                break
            part = slice(segment.at, stop)
            try:
                frames = retention.pick(segment.ordinals[part])
            except KeyError:  # an earlier attempt's result came after all, and its frames are released
                _drop_released(box, retention)
                continue
            frames, size = fit(frames, min(credit, BATCH_BYTES))
            stop = segment.at + len(frames)
            part = slice(segment.at, stop)
            events = segment.events[part]
            k = segment.k if isinstance(segment.k, int) else segment.k[part]
            received = self._streams[stream].arrivals.of(segment.ordinals[part])
            actions.append(
                SendFrames(worker, stream, version, events, k, frames, self._closed, received, segment.again)
            )
            self._sent_up_to = max(self._sent_up_to, int(events[-1]))
            credit -= size
            segment.at = stop
            if stop == len(segment.ordinals):
                box.popleft()
        self._credit[key] = credit

    def _version(self, event: int) -> tuple[int, int | None]:
        """The parameter version for an event, and the first event that has a later one."""
        at = bisect_right(self._versions, event, key=lambda v: v[0]) - 1
        until = self._versions[at + 1][0] if at + 1 < len(self._versions) else None
        return self._versions[at][1], until


def _consecutive(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _below(segment: _Segment, stop: int, event: int | None) -> int:
    """How far a segment goes before it reaches `event`."""
    if event is None or int(segment.events[stop - 1]) < event or stop == segment.at:
        return stop
    return segment.at + int(np.searchsorted(segment.events[segment.at : stop], event))


def _forget(box: deque[_Segment], events: Ints, ks: NDArray[np.int16]) -> None:
    """Take these parts out of an outbox: they are somebody else's now."""
    parts = _part_keys(events, ks)
    kept = [_only(s, ~np.isin(_part_keys(s.events[s.at :], s.positions()), parts)) for s in box]
    box.clear()
    box.extend(s for s in kept if len(s.ordinals))


def _part_keys(events: Ints, ks: Positions) -> Ints:
    """One number per part."""
    keys: Ints = (events << 16) + (np.asarray(ks, dtype=np.int64) & 0xFFFF)
    return keys


def _drop_released(box: deque[_Segment], retention: Retention) -> None:
    """Take out of the first segment of an outbox what is not held any more."""
    segment = box.popleft()
    held = [bool(retention.held(o, o + 1)) for o in segment.ordinals[segment.at :].tolist()]
    if any(held):
        box.appendleft(_only(segment, np.array(held)))


def _only(segment: _Segment, mask: NDArray[np.bool_]) -> _Segment:
    """What is left to send of a segment, and of that what the mask has."""
    k = segment.positions()
    k = k if isinstance(k, int) else k[mask]
    return _Segment(segment.ordinals[segment.at :][mask], segment.events[segment.at :][mask], k, segment.again)


__all__ = [
    "Action",
    "Dump",
    "IngestMachine",
    "Mark",
    "Pause",
    "Resume",
    "SendFrames",
    "SendGap",
    "StreamSpec",
    "Tell",
]
