"""The reduce machine: which results are new, what is durably done, and what may be folded next.

A batch of results is first offered: the machine says which of its parts are new (everything else is a duplicate and
is never folded). The service then appends the batch to the result log, which is the moment its parts are done, and
`logged` says what to tell the controller. `fold` hands out what may be folded, in event order: everything below the
first event that is not terminal yet. A hole is waited for at most `patience` seconds; then what lies beyond is folded
all the same and its order is recorded. The start event is always folded first. No files, no clock, no user code.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from beamfold.model.states import PartTracker
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.messages import Run

T = TypeVar("T")
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold(Generic[T]):
    """Fold these parts of a batch now: `index` are their places in it, in order."""

    batch: T
    index: Sequence[int]


@dataclass(slots=True, eq=False)
class _Cursor(Generic[T]):
    """What is left to fold of a batch: parts sorted by (event, k), from `at` on."""

    batch: T
    order: list[int]
    events: Ints
    since: float
    at: int = 0

    def cut(self, end: int) -> None:
        """Leave out what is left of events from `end` on."""
        stop = max(int(np.searchsorted(self.events, end)), self.at)
        self.order, self.events = self.order[:stop], self.events[:stop]

    def __lt__(self, other: _Cursor[T]) -> bool:
        return int(self.events[self.at]) < int(other.events[other.at])


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
        self._frontier = 0
        self.out_of_order: list[Run] = []
        self.duplicates = 0

    @property
    def frontier(self) -> int:
        """Every event below is terminal."""
        return self._tracker.frontier

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

    def logged(
        self, batch: T, events: Ints, k: int | NDArray[np.int16], states: int | NDArray[np.uint8], now: float
    ) -> tuple[NDArray[np.bool_], list[tuple[int, int, int]]]:
        """A batch is in the result log. Returns which of its parts are new, and the events that became terminal."""
        fresh, completed = self._tracker.add(events, k, states)
        if bool(fresh.all()):
            order: list[int] = list(range(len(events)))
            sorted_events = events
        else:
            self.duplicates += int(len(events) - np.count_nonzero(fresh))
            order = np.flatnonzero(fresh).tolist()
            sorted_events = events[fresh]
        if order and len(order) > 1 and bool((np.diff(sorted_events) < 0).any()):
            by = np.argsort(sorted_events, kind="stable")
            order = [order[i] for i in by.tolist()]
            sorted_events = sorted_events[by]
        if order:
            heapq.heappush(self._heap, _Cursor(batch, order, sorted_events, now))
        return fresh, completed

    def fold(self, now: float) -> list[Fold[T]]:
        """What to fold now, in this order."""
        out: list[Fold[T]] = []
        frontier = self._tracker.frontier
        if frontier != self._frontier or not self._heap:
            self._frontier = frontier
            self._stalled_since = None
        while self._heap:
            cursor = self._heap[0]
            first = int(cursor.events[cursor.at])
            limit = frontier
            if first >= frontier and not self._beyond(frontier, now):
                break
            if first >= frontier:
                limit = first + 1
                if self._in_order:
                    _extend(self.out_of_order, first)
            heapq.heappop(self._heap)
            if self._heap:
                limit = min(limit, max(int(self._heap[0].events[self._heap[0].at]), first + 1))
            stop = int(np.searchsorted(cursor.events, limit))
            out.append(Fold(cursor.batch, cursor.order[cursor.at : stop]))
            cursor.at = stop
            if stop < len(cursor.events):
                heapq.heappush(self._heap, cursor)
        if self._heap and self._stalled_since is None:
            self._stalled_since = now
        return out

    def deadline(self) -> float | None:
        """When `fold` should be called again although nothing arrived."""
        if self._stalled_since is None or not self._heap or self._holds_start():
            return None
        return self._stalled_since + self._patience

    def _holds_start(self) -> bool:
        return self._wrapped and self._tracker.frontier == 0

    def _beyond(self, frontier: int, now: float) -> bool:
        """Whether what lies beyond the first hole may be folded."""
        if self._wrapped and frontier == 0 and int(self._heap[0].events[self._heap[0].at]) > 0:
            return False
        if not self._in_order:
            return True
        return self._stalled_since is not None and now - self._stalled_since >= self._patience


def _extend(runs: list[Run], event: int) -> None:
    if runs and runs[-1][1] == event:
        runs[-1] = (runs[-1][0], event + 1)
    elif not runs or not runs[-1][0] <= event < runs[-1][1]:
        runs.append((event, event + 1))
