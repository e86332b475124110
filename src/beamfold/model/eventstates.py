"""What became of every event of a scan: one state each, for any number of events in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import CodecError
from beamfold.model.runs import Run

States: TypeAlias = NDArray[np.uint8]


class EventState(IntEnum):
    """How an event, or one part of it, ended; in order of severity: an event's state is the worst of its
    parts'."""

    PENDING = 0
    NO_RESULT = 1
    REDUCED = 2
    UNVERIFIED = 3
    INCOMPLETE = 4
    INCOMPLETE_SKIPPED = 5
    DROPPED = 6
    FAILED = 7
    LOST = 8

    @property
    def label(self) -> str:
        """The state in human words."""
        return _LABELS[self]


_LABELS = {
    EventState.PENDING: "pending",
    EventState.NO_RESULT: "no result",
    EventState.REDUCED: "reduced",
    EventState.UNVERIFIED: "unverified",
    EventState.INCOMPLETE: "incomplete",
    EventState.INCOMPLETE_SKIPPED: "incomplete (skipped)",
    EventState.DROPPED: "dropped",
    EventState.FAILED: "failed",
    EventState.LOST: "lost",
}

CHUNK = 65536
"""Events per chunk: 64 KiB while open; a finished one is packed in a millisecond."""

_HOT = 4
"""Finished mixed chunks that stay unpacked: late changes come in the same places, and packing each time is
dear."""


class _Chunk:
    """CHUNK states: `same` for all of them, or `data`, or `packed`. From `fresh` on nothing was ever set."""

    __slots__ = ("data", "fresh", "packed", "pending", "same")

    def __init__(self) -> None:
        self.same: int | None = 0
        self.data: States | None = None
        self.packed = b""
        self.pending = CHUNK
        self.fresh = 0

    def view(self) -> States:
        """The states; do not change them."""
        if self.data is not None:
            return self.data
        if self.same is not None:
            return np.full(CHUNK, self.same, dtype=np.uint8)
        return np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)

    def open(self) -> States:
        """The states, to be changed."""
        if self.data is None:
            view = self.view()
            self.data = view if view.flags.writeable else view.copy()
            self.same, self.packed = None, b""
        return self.data

    def close(self) -> None:
        """Keep no more than the information: one int when all are equal, else packed bytes."""
        if self.data is None:
            return
        first = int(self.data[0])
        if bool((self.data == first).all()):
            self.same = first
        else:
            self.packed = zlib.compress(self.data.tobytes(), 1)
        self.data = None


class EventStates:
    """One state per event, for any number of events; those never set are PENDING.

    Memory follows the information: a chunk whose events all ended alike is one int, a mixed one is compressed
    when none of its events is pending any longer.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, _Chunk] = {}
        self._counts = [0] * len(EventState)  # PENDING's is not kept: there is no end to it
        self._hot: list[int] = []
        self._end = 0

    # -- setting ---------------------------------------------------------------------------------------------

    def set(self, lo: int, hi: int, state: int) -> None:
        """Events lo..hi-1 are in this state, whatever they were before."""
        if state:
            self._end = max(self._end, hi) if lo < hi else self._end
        else:
            hi = min(hi, self._end)
        if hi <= lo:
            return
        for number in range(lo // CHUNK, (hi - 1) // CHUNK + 1):
            base = number * CHUNK
            self._set_in(number, max(lo - base, 0), min(hi - base, CHUNK), state)

    def _set_in(self, number: int, a: int, b: int, state: int) -> None:
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = _Chunk()
        if a >= chunk.fresh or not bool(chunk.view()[a:b].any()):  # nothing to take back: the usual case
            self._counts[state] += b - a
            if state:
                chunk.pending -= b - a
        else:
            self._swap(chunk, chunk.view()[a:b], np.full(b - a, state, dtype=np.uint8))
        chunk.fresh = max(chunk.fresh, b)
        if b - a == CHUNK:
            chunk.same, chunk.data, chunk.packed = int(state), None, b""
            return
        chunk.open()[a:b] = state
        self._rest(number, chunk)

    def set_many(self, events: NDArray[np.int64], states: States) -> None:
        """Each event is in its state; where one is named twice the later wins. Any order."""
        if not len(events):
            return
        if bool((events[1:] <= events[:-1]).any()):
            events, states = _last_of_each(events, states)
        self._end = max(self._end, int(events[-1]) + 1)
        numbers = events // CHUNK
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(events)]
        for a, b in pairwise(cuts):
            number = int(numbers[a])
            self._put(number, events[a:b] - number * CHUNK, states[a:b])

    def raise_to(self, lo: int, hi: int, state: int) -> None:
        """Events lo..hi-1 that have a milder state get this one; pending ones stay pending."""
        hi = min(hi, self._end)
        for number in range(lo // CHUNK, (hi - 1) // CHUNK + 1):
            chunk = self._chunks.get(number)
            if chunk is None:
                continue
            base = number * CHUNK
            a, b = max(lo - base, 0), min(hi - base, CHUNK)
            now = chunk.view()[a:b]
            at = np.flatnonzero((now < state) & (now != 0))
            if len(at):
                self._put(number, at + a, np.full(len(at), state, dtype=np.uint8))

    def _put(self, number: int, at: NDArray[np.int64], states: States) -> None:
        """Set distinct places of one chunk."""
        chunk = self._chunks.setdefault(number, _Chunk())
        data = chunk.open()
        self._swap(chunk, data[at], states)
        data[at] = states
        chunk.fresh = max(chunk.fresh, int(at.max()) + 1)
        self._rest(number, chunk)

    def _swap(self, chunk: _Chunk, old: States, new: States) -> None:
        """Keep the counts when `new` replaces `old`."""
        gone = np.bincount(old, minlength=len(self._counts))
        come = np.bincount(new, minlength=len(self._counts))
        chunk.pending += int(come[0]) - int(gone[0])
        for state in np.flatnonzero(gone != come).tolist():
            self._counts[state] += int(come[state]) - int(gone[state])

    def _rest(self, number: int, chunk: _Chunk) -> None:
        """Pack what is finished, the coldest first."""
        if chunk.pending or number in self._hot:
            return
        self._hot.append(number)
        if len(self._hot) > _HOT:
            self._chunks[self._hot.pop(0)].close()

    # -- asking ----------------------------------------------------------------------------------------------

    def __getitem__(self, event: int) -> EventState:
        chunk = self._chunks.get(event // CHUNK)
        if chunk is None:
            return EventState.PENDING
        return EventState(chunk.same if chunk.same is not None else int(chunk.view()[event % CHUNK]))

    def pending(self, events: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these ascending events are pending."""
        found = np.ones(len(events), dtype=np.bool_)
        numbers = events // CHUNK
        for number in np.unique(numbers).tolist():
            if (chunk := self._chunks.get(number)) is None:
                continue
            a, b = np.searchsorted(numbers, (number, number + 1)).tolist()
            found[a:b] = chunk.view()[events[a:b] - number * CHUNK] == 0
        return found

    def counts(self) -> dict[EventState, int]:
        """How many events are in each state; states without events and PENDING are left out."""
        return {state: self._counts[state] for state in EventState if state and self._counts[state]}

    @property
    def done(self) -> int:
        """How many events are not pending."""
        return sum(self._counts[1:])

    def runs(self, state: int, limit: int = 100) -> list[Run]:
        """The first `limit` runs of events in this state, ascending; of PENDING those below the highest event
        set."""
        found: list[Run] = []
        left = self._counts[state] if state else self._end - self.done
        last = (self._end - 1) // CHUNK
        number = 0
        while left > 0 and number <= last and len(found) <= limit:
            base = number * CHUNK
            for lo, hi in self._chunk_runs(number, state):
                run = (base + lo, min(base + hi, self._end))
                if run[0] >= self._end:
                    break
                left -= run[1] - run[0]
                if found and found[-1][1] == run[0]:
                    found[-1] = (found[-1][0], run[1])
                else:
                    found.append(run)
            number += 1
        return found[:limit]

    def mask(self, state: int, lo: int, hi: int) -> NDArray[np.bool_]:
        """Which of events lo..hi-1 are in this state: one bool for each."""
        found = np.empty(hi - lo, dtype=np.bool_)
        for base in range(lo // CHUNK * CHUNK, hi, CHUNK):
            a, b = max(base, lo), min(base + CHUNK, hi)
            chunk = self._chunks.get(base // CHUNK)
            same = 0 if chunk is None else chunk.same
            if chunk is None or same is not None:
                found[a - lo : b - lo] = same == state
            else:
                found[a - lo : b - lo] = chunk.view()[a - base : b - base] == state
        return found

    def _chunk_runs(self, number: int, state: int) -> Iterable[Run]:
        chunk = self._chunks.get(number)
        same = 0 if chunk is None else chunk.same
        if chunk is None or same is not None:
            return [(0, CHUNK)] if same == state else []
        edges = np.flatnonzero(np.diff(chunk.view() == state, prepend=False, append=False))
        return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)

    # -- the wire --------------------------------------------------------------------------------------------

    def to_wire(self) -> dict[str, Any]:
        """As str keys, ints, lists and bytes: [first chunk, how many, state] or [chunk, 1, compressed
        states]."""
        while self._hot:
            self._chunks[self._hot.pop()].close()
        chunks: list[list[Any]] = []
        for number in sorted(self._chunks):
            chunk = self._chunks[number]
            if chunk.same is None:
                chunks.append([number, 1, chunk.packed or zlib.compress(chunk.view().tobytes(), 1)])
            elif chunks and chunks[-1][2] == chunk.same and sum(chunks[-1][:2]) == number:
                chunks[-1][1] += 1
            else:
                chunks.append([number, 1, chunk.same])
        return {"end": self._end, "chunks": chunks}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> EventStates:
        """Undo `to_wire`; raises CodecError for anything else."""
        states = cls()
        try:
            for number, count, content in wire["chunks"]:
                states._read(number, count, content)
            states._end = max(0, int(wire["end"]))
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise CodecError(f"these are not event states: {type(error).__name__}: {error}") from None
        return states

    def _read(self, number: int, count: int, content: int | bytes) -> None:
        if number < 0 or count < 1:
            raise ValueError(f"chunks {number} + {count}")
        if isinstance(content, int):
            self.set(number * CHUNK, (number + count) * CHUNK, EventState(content))
            return
        data = np.frombuffer(zlib.decompressobj().decompress(content, CHUNK + 1), dtype=np.uint8)
        if len(data) != CHUNK or int(data.max()) > max(EventState):
            raise ValueError("a damaged chunk")
        at = np.flatnonzero(data)
        if len(at):
            self._put(number, at, data[at])


def _last_of_each(events: NDArray[np.int64], states: States) -> tuple[NDArray[np.int64], States]:
    """Sorted, with only the last state given for each event."""
    order = np.argsort(events, kind="stable")
    events, states = events[order], states[order]
    keep = np.append(events[1:] != events[:-1], True)
    return events[keep], states[keep]
