"""The reduce machine: which results are new, what is durably done, and what may be folded next.

A batch of results is first offered: combined results of which a part is done already cannot be taken apart, so that the
machine may refuse it. The service then appends it to the result log, which is the moment its parts are done, and
`logged` says which of them are new (everything else is a duplicate and is never folded) and what to tell the
controller. `fold` hands out what may be folded: everything below the first event that is not terminal yet, in event
order, and within an event by position, broadcasts after those by worker, so that the order depends on nothing else; a
combined result has the place of its first part. A hole is waited for at most `patience` seconds; then what lies beyond
is folded all the same and its order is recorded. The start event is always folded first. No files, no clock, no user
code.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from beamfold.model.runs import MAX_RUNS, append_event
from beamfold.model.states import EventState, PartTracker
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.messages import Run

_BROADCAST = 1 << 15
"""The rank of a broadcast to worker 0: beyond every position, which are int16."""

T = TypeVar("T")
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold(Generic[T]):
    """Fold these parts of a batch now: `index` are their places in it, in order."""

    batch: T
    index: Sequence[int]


@dataclass(slots=True, eq=False)
class _Cursor(Generic[T]):
    """What is left to fold of a batch, from `at` on: parts sorted by event and rank. `ranks`: one for all, or int64."""

    batch: T
    order: list[int]
    events: Ints
    ranks: int | Ints
    since: float
    at: int = 0

    def first(self) -> tuple[int, int]:
        """Event and rank of the next part."""
        return int(self.events[self.at]), self.ranks if isinstance(self.ranks, int) else int(self.ranks[self.at])

    def below(self, event: int, rank: int) -> int:
        """Up to where the parts of `event`, which is the next one, rank below `rank`."""
        stop = int(np.searchsorted(self.events, event + 1))
        if isinstance(self.ranks, int):
            return stop
        return self.at + int(np.searchsorted(self.ranks[self.at : stop], rank))

    def cut(self, end: int) -> None:
        """Leave out what is left of events from `end` on."""
        stop = max(int(np.searchsorted(self.events, end)), self.at)
        self.order, self.events = self.order[:stop], self.events[:stop]

    def __lt__(self, other: _Cursor[T]) -> bool:
        return self.first() < other.first()


class ReduceMachine(Generic[T]):
    """One scan at the reducer. `targets[g]` is the bitmask of logical workers in broadcast group g.

    `patience` in seconds; `in_order` False folds at once, as results arrive.
    """

    def __init__(
        self,
        trigger_map: TriggerMap,
        targets: Sequence[int],
        *,
        patience: float = 2.0,
        in_order: bool = True,
    ) -> None:
        self._tracker = PartTracker(trigger_map, targets)
        self._wrapped = trigger_map.wrapped
        self._patience = patience
        self._in_order = in_order
        self._heap: list[_Cursor[T]] = []
        self._stalled_since: float | None = None
        self._held_until = -math.inf
        self._frontier = 0
        self.out_of_order: list[Run] = []
        self.duplicates = 0

    @property
    def map(self) -> TriggerMap:
        """The map, closed once it is."""
        return self._tracker.map

    @property
    def frontier(self) -> int:
        """Every event below is terminal."""
        return self._tracker.frontier

    @property
    def highest(self) -> int:
        """The last event of which any part is done; -1: none is."""
        return self._tracker.highest

    @property
    def finished(self) -> bool:
        """Every part of every event is done and folded."""
        return self._tracker.finished and not self._heap

    def close(self, trigger_map: TriggerMap) -> list[tuple[int, int, int]]:
        """The map got its last event; returns events that became terminal by that.

        What was logged of events that the map does not have any more is not folded.
        """
        end = trigger_map.n_events
        if end is not None:
            for cursor in self._heap:
                cursor.cut(end)
            self._heap = [c for c in self._heap if c.at < len(c.events)]
            heapq.heapify(self._heap)
        return self._tracker.close(trigger_map)

    def torn(self, events: Ints, k: int | NDArray[np.int16], combined: Mapping[int, int]) -> tuple[int, int] | None:
        """A combined result of a batch (its first part -> behind its last) of which some parts are done and some not.

        Such a batch must not be logged: the result can be neither folded nor left out. All parts done is no harm. A
        part that is in the batch twice counts as done where it comes again.
        """
        again = _again(events, k) if combined else None
        for lo, hi in combined.items():
            if again is not None and bool(again[lo:hi].any()):
                return lo, hi
            done = self._tracker.count(events[lo:hi], k if isinstance(k, int) else k[lo:hi])
            if 0 < done < hi - lo:
                return lo, hi
        return None

    def logged(
        self,
        batch: T,
        events: Ints,
        k: int | NDArray[np.int16],
        states: int | NDArray[np.uint8],
        now: float,
        places: NDArray[np.intp] | None = None,
    ) -> tuple[NDArray[np.bool_], list[tuple[int, int, int]]]:
        """A batch is in the result log. Returns which of its parts are new, and the events that became terminal.

        `places` are those of its parts that there is something to fold of (None: all), ascending.
        """
        fresh, completed = self._tracker.add(events, k, states)
        if not bool(fresh.all()):
            self.duplicates += int(len(events) - np.count_nonzero(fresh))
            places = np.flatnonzero(fresh) if places is None else places[fresh[places]]
        self.enqueue(batch, events, k, now, places)
        return fresh, completed

    def enqueue(
        self, batch: T, events: Ints, k: int | NDArray[np.int16], now: float, places: NDArray[np.intp] | None = None
    ) -> None:
        """Parts of a batch, which are known to be done, wait to be folded: those at `places` (None: all), ascending."""
        ranks = _ranks(k)
        if places is None:
            order = list(range(len(events)))
        else:
            order = places.tolist()
            events = events[places]
            ranks = ranks if isinstance(ranks, int) else ranks[places]
        if len(order) > 1 and bool((np.diff(events) <= 0).any()):
            by = np.lexsort((np.broadcast_to(ranks, len(events)), events))
            order = [order[i] for i in by.tolist()]
            events = events[by]
            ranks = ranks if isinstance(ranks, int) else ranks[by]
        if order:
            heapq.heappush(self._heap, _Cursor(batch, order, events, ranks, now))

    def held(self) -> list[tuple[T, list[int]]]:
        """What waits to be folded: batches, with the places of these parts, ascending."""
        return [(cursor.batch, sorted(cursor.order[cursor.at :])) for cursor in self._heap]

    def to_wire(self) -> dict[str, Any]:
        """Which parts are done, for `restore`."""
        return self._tracker.to_wire()

    def restore(self, wire: Mapping[str, Any], duplicates: int) -> None:
        """Go on where these parts were done and so many were duplicates. The map has to be as it was then.

        What waited to be folded has to be enqueued.
        """
        self._tracker.restore(wire)
        self.duplicates = duplicates

    def drop(self, lo: int, hi: int) -> list[tuple[int, int, int]]:
        """Nobody will process the parts of virtual workers lo..hi-1. Returns events that became terminal by that."""
        events, k = self._tracker.map.parts_of(lo, hi)
        return self._tracker.add(events, k, EventState.DROPPED)[1]

    def vacate(self, worker: int) -> list[tuple[int, int, int]]:
        """Nobody is this logical worker any more; returns events that became terminal by that."""
        return self._tracker.vacate(worker)

    def fold(self, now: float) -> list[Fold[T]]:
        """What to fold now, in this order."""
        out: list[Fold[T]] = []
        frontier = self._tracker.frontier
        if frontier != self._frontier or not self._heap:
            self._frontier = frontier
            self._stalled_since = None
        while self._heap:
            cursor = self._heap[0]
            first, _ = cursor.first()
            limit = frontier
            if first >= frontier and not self._beyond(frontier, now):
                break
            if first >= frontier:
                limit = first + 1
                if self._in_order and len(self.out_of_order) < MAX_RUNS:
                    append_event(self.out_of_order, first)
            heapq.heappop(self._heap)
            event, rank = self._heap[0].first() if self._heap else (limit, 0)
            if event == first:
                stop = cursor.below(event, rank)
            else:
                stop = int(np.searchsorted(cursor.events, min(limit, event)))
            out.append(Fold(cursor.batch, cursor.order[cursor.at : stop]))
            cursor.at = stop
            if stop < len(cursor.events):
                heapq.heappush(self._heap, cursor)
        if self._heap and self._stalled_since is None:
            self._stalled_since = now
        return out

    def hold(self, until: float) -> None:
        """What is missing is being done again: wait for it until then, whatever the patience."""
        self._held_until = max(self._held_until, until)

    def deadline(self) -> float | None:
        """When `fold` should be called again although nothing arrived."""
        if self._stalled_since is None or not self._heap or self._holds_start():
            return None
        return max(self._stalled_since + self._patience, self._held_until)

    def _holds_start(self) -> bool:
        return self._wrapped and self._tracker.frontier == 0

    def _beyond(self, frontier: int, now: float) -> bool:
        """Whether what lies beyond the first hole may be folded."""
        if self._wrapped and frontier == 0 and self._heap[0].first()[0] > 0:
            return False
        if not self._in_order:
            return True
        if now < self._held_until:
            return False
        return self._stalled_since is not None and now - self._stalled_since >= self._patience


def _again(events: Ints, k: int | NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """Which of these parts were there before; None where all are different."""
    if bool((np.diff(events) > 0).all()):
        return None
    parts = np.stack((events, np.broadcast_to(k, len(events))))
    _, first, place = np.unique(parts, axis=1, return_index=True, return_inverse=True)
    return np.asarray(first[place.reshape(-1)] < np.arange(len(events)))


def _ranks(k: int | NDArray[np.int16]) -> int | Ints:
    """The place of parts within their event: by position, then broadcasts (k < 0) by worker."""
    if isinstance(k, int):
        return k if k >= 0 else _BROADCAST - 1 - k
    wide = k.astype(np.int64)
    return np.where(wide >= 0, wide, _BROADCAST - 1 - wide)
