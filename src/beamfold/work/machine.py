"""The work machine: batches of frames in, complete parts out, in an order the user's class may rely on.

A part is complete when every stream it needs has its frame, or is known never to have one. Parts come out as they
complete, except around broadcasts: what comes after a broadcast event waits for it, and it waits for this worker's
parts before it, so that a worker's view of the broadcasts depends on the event alone. The end event waits for the
controller's word that all data events are terminal. No sockets, no clock, no user code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from beamfold.model.events import Buffer, StreamData
from beamfold.model.routes import Routes
from beamfold.model.runs import RunSet, as_runs
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.messages import Block, Run, StreamInfo

Ints: TypeAlias = NDArray[np.int64]
Positions: TypeAlias = "int | NDArray[np.int16]"
Stamps: TypeAlias = "Sequence[tuple[int, Stamp]]"

SETTLE_STEP = 8192
"""Ordinals looked at in one go when a long gap is searched for parts of this worker."""


class Stamp(NamedTuple):
    """When a frame was received from the detector by its ingester, and taken from the ingester by this worker.

    Both in seconds since the epoch, each by the clock of its host; `received` is 0 where it is not known.
    """

    received: float
    taken: float


class Part(NamedTuple):
    """What this worker gets of one event. `missing` has the bits of streams that will never come.

    `call` is False for a part with nothing to process: all of its streams are missing, or its broadcast frames
    are in another part of the same event. `stamp` is that of the frame that came first; None: its way is not timed.
    `again`: it was another worker's before, and may be done.
    """

    event: int
    k: int
    streams: dict[str, StreamData]
    missing: int
    version: int
    call: bool
    stamp: Stamp | None = None
    again: bool = False


class _Pending:
    __slots__ = ("again", "k", "missing", "remaining", "stamp", "streams", "version")

    def __init__(self, k: int, remaining: int, missing: int, version: int, stamp: Stamp | None, again: bool) -> None:
        self.k = k
        self.remaining = remaining
        self.missing = missing
        self.version = version
        self.stamp = stamp
        self.again = again
        self.streams: dict[str, StreamData] = {}


class _Batch(NamedTuple):
    stream: int
    version: int
    events: Ints
    k: Positions
    frames: Sequence[list[Buffer]]
    closed: bool
    stamps: Stamps
    again: bool


class _Gap(NamedTuple):
    stream: int
    runs: list[Run]
    tail: bool


class _Received:
    """Which frames of a durable stream came, by their position in the event: an ingester that takes the place of
    another one sends again what may have come."""

    def __init__(self) -> None:
        self._events: dict[int, RunSet] = {}

    def new(self, events: Ints, k: Positions, over: int) -> NDArray[np.bool_] | None:
        """Which of these come for the first time, and are not before event `over`; None: all of them."""
        again = events < over
        for position in [k] if isinstance(k, int) else np.unique(k).tolist():
            known = self._events.setdefault(position, RunSet())
            known.discard(0, over)
            mine = events if isinstance(k, int) else events[k == position]
            for lo, hi in as_runs(mine):
                for a, b in known.overlap(lo, hi):
                    again |= (events >= a) & (events < b) & (np.asarray(k) == position)
                known.add(lo, hi)
        return ~again if bool(again.any()) else None


class WorkMachine:
    """One scan at logical worker `me`, which belongs to the broadcast groups in the bitmask `groups`."""

    def __init__(
        self,
        trigger_map: TriggerMap,
        me: int,
        groups: int,
        streams: Iterable[StreamInfo],
        version: int = 0,
    ) -> None:
        self.map = trigger_map
        self._me = me
        self._groups = groups
        info = {s.name: s for s in streams}
        self._streams = [(name, info[name].typ) for name in trigger_map.streams]
        self._single = len(self._streams) == 1
        self._version = version
        self._deferred: list[_Batch] = []
        self._after_close: list[_Batch | _Gap] = []
        self._pending: dict[int, list[_Pending]] = {}
        self._ready: deque[Part] = deque()
        self._held: list[Part] = []
        self._gate: list[Part] = []
        self._hard = [RunSet() for _ in self._streams]
        self._gaps = [RunSet() for _ in self._streams]
        self._tails = [RunSet() for _ in self._streams]
        self._void: set[tuple[int, int]] = set()
        self._routes = Routes()
        self._assigned = 0
        self._closed = False
        self._concluded = False
        self._passed = -1
        self._settled = 0
        self._reached = -1
        self._taken: set[tuple[int, int]] = set()
        self._barrier = self.map.next_broadcast(0, groups)
        self._track = self._has_middle_broadcasts()
        self._received = [_Received() if info[name].durable else None for name in trigger_map.streams]
        self._latest = -1
        self._voided = -1
        self._limit: int | None = None

    # -- what happens ----------------------------------------------------------------------------------------

    def frames(
        self,
        stream: int,
        version: int,
        events: Ints,
        k: Positions,
        frames: Sequence[list[Buffer]],
        closed: bool = False,
        stamps: Stamps = (),
        again: bool = False,
    ) -> int:
        """A batch of one stream's frames for this worker; `events` ascend. It waits for parameters it needs.

        `closed` means that the events are those of the closed map, whose end event may have had another meaning in
        the map known here: the batch waits for `close`. `stamps` are those of the frames, in runs; empty: they are not
        timed. `again`: some are of parts that another worker had before. Returns how many were not used, because they
        had come before.
        """
        batch = _Batch(stream, version, events, k, frames, closed, stamps, again)
        if len(events):
            self._latest = max(self._latest, int(events[-1]))
        received = self._received[stream]
        new = received.new(events, k, self._over) if received is not None else None
        if new is not None:
            batch = _only(batch, new)
        if len(batch.frames):
            self._take_in(batch)
        return len(frames) - len(batch.frames)

    def _take_in(self, batch: _Batch) -> None:
        if batch.closed and not self._closed:
            self._after_close.append(batch)
        elif batch.version > self._version:
            self._deferred.append(batch)
        elif self._single:
            self._complete_run(batch)
        else:
            self._join(batch)

    def parameters(self, version: int) -> None:
        """Parameters up to `version` are known here now."""
        self._version = max(self._version, version)
        self._take_deferred()

    def _take_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for batch in deferred:
            self._take_in(batch)

    def gap(self, stream: int, runs: Iterable[Run], tail: bool, closed: bool = False) -> None:
        """These events will never have a frame of this stream; `closed` as with frames."""
        if not 0 <= stream < len(self._streams):
            return
        if closed and not self._closed:
            self._after_close.append(_Gap(stream, list(runs), tail))
            return
        for lo, hi in runs:
            if tail and self._closed:
                continue  # said before the map was closed; what is final was said again
            lo = max(lo, self._over)  # what is over needs nothing any more
            self._gaps[stream].add(lo, hi)
            self._complete_pending(stream, lo, hi)
            if tail:
                self._tails[stream].add(lo, hi)
            else:
                self._certain(stream, lo, hi)
        self._harden()

    def _certain(self, stream: int, lo: int, hi: int) -> None:
        """Events lo..hi-1 happened, and have no frame of this stream."""
        self._hard[stream].add(lo, hi)
        first, end = self._reach()
        self._settle(stream, max(lo, first), min(hi, end))

    def _harden(self) -> None:
        """What an ended stream lacks is certain as far as other streams have come."""
        for stream, tails in enumerate(self._tails):
            for lo, hi in tails.overlap(0, self._reached + 1):
                self._certain(stream, lo, hi)
            tails.discard(0, self._reached + 1)

    def assign(self, blocks: Iterable[Block], assigned: int, settled: int, reached: int = -1) -> None:
        """Virtual workers that are mine; all below `assigned` belong to somebody.

        Events below `settled` are over; up to `reached` they are known to have happened.
        """
        self._assigned = max(self._assigned, assigned)
        gaps = any(self._gaps)
        for block in blocks:
            self._routes.add(block.lo, block.hi, self._me)
            if not gaps:
                continue
            first, end = self._extent(block)
            for stream, hard in enumerate(self._hard):
                for lo, hi in hard.overlap(first, end):
                    self._settle(stream, lo, hi)
        self._reached = max(self._reached, reached)
        self._harden()
        if settled > 0:
            self._forget(settled)

    def halt(self) -> int:
        """The highest event that anything was made of, or will be: nothing is of what is beyond until `close`."""
        self._limit = max(self._latest, self._voided, self._passed)
        return self._limit

    def close(self, last_event: int) -> None:
        """The map ends with this data event. What will not come is said again, for good."""
        if self._closed:
            return
        self.map = self.map.closed_at(last_event)
        self._closed = True
        limit, self._limit = self._limit, None
        passed = self._passed
        if self.map.wrapped and self.map.n_events is not None and passed >= self.map.n_events:
            passed = last_event  # by an ingester that was lost it was further; the end is still to be seen
        self._barrier = self.map.next_broadcast(passed + 1, self._groups)
        self._gaps = [RunSet(hard.runs()) for hard in self._hard]
        self._tails = [RunSet() for _ in self._streams]
        early, self._after_close = self._after_close, []
        for item in early:
            if isinstance(item, _Gap):
                self.gap(*item)
            else:
                self._take_in(item)
        if limit is not None:
            for stream, hard in enumerate(self._hard):
                for lo, hi in hard.overlap(limit + 1, last_event + 1):
                    self._settle(stream, lo, hi)

    def conclude(self) -> None:
        """All data events are terminal everywhere."""
        self._concluded = True
        if self.map.n_events is not None:
            self._forget(self.map.n_events - 1)

    def take(self, limit: int) -> list[Part]:
        """Up to about `limit` parts to process now, in this order."""
        out: list[Part] = []
        ready = self._ready
        while len(out) < limit:
            if not ready:
                if not self._pass_barrier(out):
                    break
                continue
            part = ready.popleft()
            if over := part.event < self._settled and part.k >= 0:  # another worker was quicker
                part = part._replace(call=False)
            elif part.event <= self._passed and part.k >= 0:
                part = self._late(part)
            if self._barrier is None or part.event < self._barrier:
                out.append(part)
                if self._track and not over:
                    self._taken.add((part.event, part.k))
            elif part.event == self._barrier:
                self._gate.append(part)
            else:
                self._held.append(part)
        return out

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Its virtual workers, as far as they are remembered."""
        return self._routes.all()

    @property
    def latest(self) -> int:
        """The highest event of which a frame has come; -1: none has."""
        return self._latest

    @property
    def passed(self) -> bool:
        """Whether all that is broadcast to this worker was taken."""
        return self._barrier is None

    @property
    def assigned(self) -> int:
        """All virtual workers below this one belong to somebody."""
        return self._assigned

    @property
    def waiting(self) -> int:
        """Parts that lack a frame, or wait for a broadcast."""
        return len(self._pending) + len(self._held) + len(self._gate)

    # -- joining ---------------------------------------------------------------------------------------------

    def _complete_run(self, batch: _Batch) -> None:
        stream, version, events, k, frames, _, stamps, again = batch
        name, typ = self._streams[stream]
        make = StreamData.of
        ks = [k] * len(frames) if isinstance(k, int) else k.tolist()
        self._ready.extend(
            [
                Part(e, p, {name: make(typ, f)}, 0, version, True, s, again)
                for e, p, f, s in zip(events.tolist(), ks, frames, _each(stamps, len(frames)), strict=True)
            ]
        )

    def _join(self, batch: _Batch) -> None:
        stream, version, events, k, frames, _, stamps, again = batch
        name, typ = self._streams[stream]
        bit = 1 << stream
        ks = [k] * len(frames) if isinstance(k, int) else k.tolist()
        needs, each = self._needs(events, k), _each(stamps, len(frames))
        pending, make = self._pending, StreamData.of
        gaps = any(self._gaps)
        for event, position, need, parts, stamp in zip(events.tolist(), ks, needs, frames, each, strict=True):
            entry = _find(pending.get(event), position)
            if entry is None:
                missing = self._missing(event, need & ~bit) if gaps else 0
                remaining = need & ~bit & ~missing
                if not remaining:
                    streams = {name: make(typ, parts)}
                    self._ready.append(Part(event, position, streams, missing, version, True, stamp, again))
                    continue
                entry = _Pending(position, remaining, missing, version, stamp, again)
                pending.setdefault(event, []).append(entry)
            else:
                entry.remaining &= ~bit
                entry.version = max(entry.version, version)
                if again:
                    entry.again = True
            entry.streams[name] = make(typ, parts)
            if not entry.remaining:
                self._complete(event, entry)

    def _needs(self, events: Ints, k: Positions) -> list[int]:
        """Streams (bits) that these parts wait for; what is broadcast besides is put together at the barrier."""
        if isinstance(k, int):
            needs: list[int] = self.map.needs(events, k, self._groups if k < 0 else 0).tolist()
            return needs
        out = np.zeros(len(events), dtype=np.int64)
        for position in set(k.tolist()):
            mine = k == position
            out[mine] = self.map.needs(events[mine], position, self._groups if position < 0 else 0)
        return out.tolist()

    def _complete(self, event: int, entry: _Pending) -> None:
        entries = self._pending[event]
        entries.remove(entry)
        if not entries:
            del self._pending[event]
        e = entry
        self._ready.append(Part(event, e.k, e.streams, e.missing, e.version, True, e.stamp, e.again))

    def _complete_pending(self, stream: int, lo: int, hi: int) -> None:
        """Parts that waited for a frame of this stream in events lo..hi-1 need not wait for it any longer."""
        bit = 1 << stream
        if hi - lo <= len(self._pending):
            events = [e for e in range(lo, hi) if e in self._pending]
        else:
            events = [e for e in self._pending if lo <= e < hi]
        for event in sorted(events):
            for entry in list(self._pending[event]):
                if entry.remaining & bit:
                    entry.remaining &= ~bit
                    entry.missing |= bit
                    if not entry.remaining:
                        self._complete(event, entry)

    def _missing(self, event: int, streams: int) -> int:
        """Which of these streams (bits) will never have a frame of this event."""
        bits = 0
        for stream, gaps in enumerate(self._gaps):
            if streams >> stream & 1 and event in gaps:
                bits |= 1 << stream
        return bits

    def _reach(self) -> Run:
        """Events among which all of my parts are: a gap may be far longer, where one frame's number is wrong."""
        mine = self._routes.blocks(self._me)
        if not self.map.uniform:  # its virtual workers may interlock, and it is finite
            return 0, self.map.n_events or 0
        first, end = (mine[0][0], mine[-1][1]) if mine else (0, 0)
        if self.map.n_virtual is not None:
            end = min(end, self.map.n_virtual)
        return (self.map.span(first)[0], self.map.span(end - 1)[1] + 1) if first < end else (0, 0)

    def _extent(self, block: Block) -> Run:
        """Events among which the parts of a block are; its last virtual worker need not be the one that ends last."""
        if self.map.uniform and (self.map.n_virtual is None or block.hi <= self.map.n_virtual):
            return self.map.span(block.lo)[0], self.map.span(block.hi - 1)[1] + 1
        events, _ = self.map.parts_of(block.lo, block.hi)
        return (int(events[0]), int(events[-1]) + 1) if len(events) else (0, 0)

    def _settle(self, stream: int, lo: int, hi: int) -> None:
        """Find my parts in events lo..hi-1 that will not get a single frame: they are complete as they are."""
        if hi <= lo:
            return
        start, stop = self.map.ordinal_at(stream, lo), self.map.ordinal_at(stream, hi)
        for step in range(start, stop, SETTLE_STEP):
            rows = self.map.route(stream, step, min(stop, step + SETTLE_STEP))
            mine = self._routes.lookup(rows.virtual) == self._me
            if bool(mine.any()):
                self._void_if_missing(rows.event[mine], rows.k[mine])

    def _void_if_missing(self, events: Ints, ks: NDArray[np.int16]) -> None:
        """These parts of mine are complete as they are if nothing that they need will ever come."""
        for event, k, need in zip(events.tolist(), ks.tolist(), self._needs(events, ks), strict=True):
            if self._limit is not None and event > self._limit:
                continue
            if (event, k) not in self._void and self._missing(event, need) == need:
                self._void.add((event, k))
                self._voided = max(self._voided, event)
                self._ready.append(Part(event, k, {}, need, 0, False))

    def _forget(self, settled: int) -> None:
        """Events below `settled` are terminal: nothing of theirs will be asked for again."""
        self._settled = max(self._settled, settled)
        for gaps in (*self._gaps, *self._hard, *self._tails):
            gaps.discard(0, self._over)
        self._void = {v for v in self._void if v[0] >= settled}
        for event in [e for e in self._pending if e < settled] if self._track else ():
            for entry in [p for p in self._pending[event] if p.k >= 0]:
                self._complete(event, entry)  # others have done it: what it lacks may never come
        self._taken = {t for t in self._taken if t[0] >= settled}
        self._routes.forget_before(self.map.virtual_over(settled))

    @property
    def _over(self) -> int:
        """Nothing before this event matters here: a replacement still has to see broadcasts that others have seen."""
        return self._settled if self._barrier is None else min(self._settled, self._barrier)

    # -- broadcasts ------------------------------------------------------------------------------------------

    def _has_middle_broadcasts(self) -> bool:
        if not self.map.wrapped:
            return self.map.next_broadcast(0, self._groups) is not None
        middle = self.map.next_broadcast(1, self._groups)
        return middle is not None and (self.map.n_events is None or middle < self.map.n_events - 1)

    def _pass_barrier(self, out: list[Part]) -> bool:
        """Take the broadcast event that everything waits for, if it may be; True when something was moved on."""
        barrier = self._barrier
        if barrier is None or not self._may_pass(barrier) or (self._limit is not None and barrier > self._limit):
            return False
        here = {part.k: part for part in self._gate}
        cast = here.pop(-1 - self._me, None) or self._void_cast(barrier)
        over = barrier < self._settled  # then others have done my parts, but what was broadcast is still to be seen
        due = self._mine_at(barrier) if not over and self.map.width(barrier) else set()
        if cast is None or not due <= here.keys():
            return False
        mine = [here[k] for k in sorted(here)]
        if over or not mine:
            out += [*(part._replace(call=False) for part in mine), cast]
        else:
            out += [self._with_cast(part, cast) for part in mine]
            out.append(Part(barrier, cast.k, {}, 0, cast.version, False))
        self._gate.clear()
        self._passed = barrier
        self._taken.clear()
        self._barrier = self.map.next_broadcast(barrier + 1, self._groups)
        self._held.sort(key=lambda p: p.event)
        self._ready.extend(self._held)
        self._held.clear()
        return True

    def _void_cast(self, event: int) -> Part | None:
        """What is broadcast in this event, if none of its frames will ever come."""
        need = int(self.map.needs(np.array([event]), -1, self._groups)[0])
        if not any(event in hard for hard in self._hard) or self._missing(event, need) != need:
            return None
        return Part(event, -1 - self._me, {}, need, 0, False)

    def _with_cast(self, part: Part, cast: Part) -> Part:
        """A part of mine with what is broadcast in its event, so that it is one event with all its streams."""
        streams = {**part.streams, **cast.streams}
        stamps = [stamp for stamp in (part.stamp, cast.stamp) if stamp is not None]
        return part._replace(
            streams=streams,
            missing=(part.missing | cast.missing) & ~self._here(streams),
            version=max(part.version, cast.version),
            call=bool(streams),
            stamp=min(stamps, key=lambda stamp: stamp.taken, default=None),
        )

    def _late(self, part: Part) -> Part:
        """A part of a worker whose place was given up: what was broadcast in its event has been seen without it."""
        cast = int(self.map.needs(np.array([part.event]), -1, self._groups)[0])
        return part._replace(missing=part.missing | cast & ~self._here(part.streams)) if cast else part

    def _here(self, streams: dict[str, StreamData]) -> int:
        """These streams as bits."""
        return sum(1 << index for index, (name, _) in enumerate(self._streams) if name in streams)

    def _may_pass(self, barrier: int) -> bool:
        if self.map.wrapped:
            if barrier == 0:
                return True
            if self.map.n_events is not None and barrier == self.map.n_events - 1:
                return self._concluded
        if self.map.virtual_before(barrier + 1) > self._assigned:
            return False  # a virtual worker before it, or in its event, may yet be mine
        expected, floor = 0, max(self._passed + 1, self._settled)
        for lo, hi in self._routes.blocks(self._me):
            events, _ = self.map.parts_of(lo, hi)
            expected += int(np.searchsorted(events, barrier) - np.searchsorted(events, floor))
        return len(self._taken) >= expected

    def _mine_at(self, event: int) -> set[int]:
        """The positions of my virtual workers in this event."""
        positions: set[int] = set()
        for stream in range(len(self._streams)):
            if self.map.has_cell(stream, event):
                at = self.map.ordinal_at(stream, event)
                rows = self.map.route(stream, at, at + 1)
                mine = self._routes.lookup(rows.virtual) == self._me
                positions.update(rows.k[mine].tolist())
        return positions


def _only(batch: _Batch, mask: NDArray[np.bool_]) -> _Batch:
    """Of a batch what the mask has."""
    each, at = _each(batch.stamps, len(batch.frames)), np.flatnonzero(mask).tolist()
    return batch._replace(
        events=batch.events[mask],
        k=batch.k if isinstance(batch.k, int) else batch.k[mask],
        frames=[batch.frames[i] for i in at],
        stamps=[(1, stamp) for i in at if (stamp := each[i]) is not None],
    )


def _each(stamps: Stamps, n: int) -> Sequence[Stamp | None]:
    """The stamp of each of `n` frames."""
    if len(stamps) == 1:
        return [stamps[0][1]] * n
    return [stamp for count, stamp in stamps for _ in range(count)] or [None] * n


def _find(entries: list[_Pending] | None, k: int) -> _Pending | None:
    if entries:
        for entry in entries:
            if entry.k == k:
                return entry
    return None
