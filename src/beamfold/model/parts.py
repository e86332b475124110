"""Which parts are done, each exactly once, and which events became terminal by it.

Parts arrive in any order and as often as they like. In the usual case, one part per event and ranges in
order, a batch costs a few numpy calls; an event of several parts costs a dict entry until its last part is
in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from beamfold.model.eventstates import EventState
from beamfold.model.runs import RunSet
from beamfold.model.trigger.base import Ints, Positions, TriggerMap, frozen, targets_of

Completed: TypeAlias = list[tuple[int, int, int]]
"""Events lo..hi-1 became terminal in this state (the ints are EventStates)."""

_STATES = tuple(EventState)
_SHARED = 8192
_ALL: NDArray[np.bool_] = frozen(np.ones(_SHARED, dtype=np.bool_))


class _Open:
    """An event some of whose parts are done."""

    __slots__ = ("parts", "seen", "targets", "width", "worst")

    def __init__(self, width: int, targets: int) -> None:
        self.width = width
        self.targets = targets
        self.parts = width + targets.bit_count()
        self.seen: set[int] = set()
        self.worst = 0


class PartTracker:
    """`targets[g]` is the bitmask of logical workers in broadcast group g of the map.

    Events without any part are terminal by themselves (NO_RESULT). They are passed, and reported, when
    something behind them is done or when nothing but the end event is left behind them; not before, because
    the scan may be stopped among them.
    """

    def __init__(self, trigger_map: TriggerMap, targets: Sequence[int]) -> None:
        self.map = trigger_map
        self._frontier = 0
        self._done = RunSet()  # terminal events beyond the frontier
        self._open: dict[int, _Open] = {}
        self._set_targets(targets)

    def _set_targets(self, targets: Sequence[int]) -> None:
        self._targets = tuple(targets)
        self._live = sum(1 << g for g, workers in enumerate(self._targets) if workers)
        self._may_skip = self.map.may_be_empty or not all(self._targets)

    @property
    def frontier(self) -> int:
        """The first event that is not terminal (or not passed, where it has no parts)."""
        return self._frontier

    @property
    def highest(self) -> int:
        """The last event of which any part is done; -1: none is."""
        runs = self._done.runs()
        return max([self._frontier - 1, *(hi - 1 for _, hi in runs[-1:]), *self._open])

    @property
    def finished(self) -> bool:
        """Whether the map is finite and all of its events are terminal."""
        return self.map.n_events is not None and self._frontier >= self.map.n_events

    def add(
        self, events: Ints, ks: int | Positions, states: int | NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], Completed]:
        """These parts are done. Returns which of them are new, and the events that became terminal.

        `ks` and `states` (never PENDING) are one for all or one per part. Parts that the map does not have
        are never new. The first array may be read-only. The second result is in no particular order, and it
        also has the events without parts that were passed; with empty arrays only those (`settle`).
        """
        n = len(events)
        if not n:
            return _all(0), self.settle()
        completed: Completed = []
        lo, hi = int(events[0]), int(events[-1]) + 1
        if _is_zero(ks) and _consecutive(events, lo, hi) and self.map.single_part(lo, hi):
            fresh = self._add_run(lo, hi, states, completed)
        else:
            fresh = self._add_mixed(events, ks, states, completed)
        self._advance(completed)
        return fresh, completed

    def settle(self) -> Completed:
        """Pass events without parts that stand at the frontier; for maps that begin with, or only have,
        such."""
        completed: Completed = []
        self._advance(completed)
        return completed

    def close(self, trigger_map: TriggerMap) -> Completed:
        """Go on with the map's `closed_at` version: what lay behind its last data event is forgotten.

        Returns the events without parts that are passed by that.
        """
        changed = trigger_map.n_events != self.map.n_events
        self.map = trigger_map
        if changed and trigger_map.n_events is not None:
            first = trigger_map.n_events - int(trigger_map.wrapped)
            for event in [e for e in self._open if e >= first]:
                del self._open[event]
            for lo, hi in self._done.overlap(first, 1 << 62):
                self._done.discard(lo, hi)
            self._frontier = min(self._frontier, first)
        self._may_skip = trigger_map.may_be_empty or not all(self._targets)
        return self.settle()

    def vacate(self, worker: int) -> Completed:
        """Nobody is logical worker `worker` any more: its broadcasts' parts that are not done will not be.

        Returns the events that became terminal by that.
        """
        mask = ~(1 << worker)
        self._set_targets([targets & mask for targets in self._targets])
        completed: Completed = []
        for event, entry in sorted(self._open.items()):
            if entry.targets >> worker & 1 and -1 - worker not in entry.seen:
                entry.targets &= mask
                entry.parts -= 1
                if len(entry.seen) >= entry.parts:
                    del self._open[event]
                    self._complete(event, event + 1, entry.worst, completed)
        self._advance(completed)
        return completed

    def to_wire(self) -> dict[str, Any]:
        """What is done, as str keys, ints, lists and text; bitmasks, which may be long, are hexadecimal."""
        return {
            "frontier": self._frontier,
            "done": self._done.runs(),
            "targets": [hex(targets) for targets in self._targets],
            "open": [[event, hex(e.targets), sorted(e.seen), e.worst] for event, e in self._open.items()],
        }

    def restore(self, wire: Mapping[str, Any]) -> None:
        """Undo `to_wire`; the map has to be as it was then."""
        self._frontier, self._done = wire["frontier"], RunSet(wire["done"])
        self._set_targets([int(targets, 16) for targets in wire["targets"]])
        self._open = {}
        for event, targets, seen, worst in wire["open"]:
            entry = self._open[event] = _Open(self.map.width(event), int(targets, 16))
            entry.seen, entry.worst = set(seen), worst

    def has(self, event: int, k: int) -> bool:
        """Whether this part is done. Of an event that is terminal every part is."""
        if event < self._frontier or event in self._done:
            return True
        entry = self._open.get(event)
        return entry is not None and k in entry.seen

    def count(self, events: Ints, ks: int | Positions) -> int:
        """How many of these parts are done, each of them given once; `events` ascend."""
        lo, hi = int(events[0]), int(events[-1]) + 1
        done = events < self._frontier
        for a, b in self._done.overlap(max(lo, self._frontier), hi):
            done |= (events >= a) & (events < b)
        total = int(np.count_nonzero(done))
        if self._open:
            left = ~done
            positions = np.broadcast_to(ks, len(events))
            for event, k in zip(events[left].tolist(), positions[left].tolist(), strict=True):
                entry = self._open.get(event)
                total += entry is not None and k in entry.seen
        return total

    # -- adding ----------------------------------------------------------------------------------------------

    def _add_run(self, lo: int, hi: int, states: int | NDArray[np.uint8], completed: Completed) -> NDArray[np.bool_]:
        """Events lo..hi-1 of one part each are done."""
        if lo >= self._frontier and not self._done:
            gaps = [(lo, hi)]
        else:
            gaps = self._done.missing(max(lo, self._frontier), hi)
        for a, b in gaps:
            self._complete(a, b, states if isinstance(states, int) else states[a - lo : b - lo], completed)
        if gaps == [(lo, hi)]:
            return _all(hi - lo)
        fresh = np.zeros(hi - lo, dtype=np.bool_)
        for a, b in gaps:
            fresh[a - lo : b - lo] = True
        return fresh

    def _complete(self, lo: int, hi: int, states: int | NDArray[np.uint8], completed: Completed) -> None:
        """These events are terminal now, and were not before."""
        if lo == self._frontier:
            self._frontier = hi
        else:
            self._done.add(lo, hi)
        if isinstance(states, int):
            completed.append((lo, hi, _STATES[states]))
            return
        first = int(states[0])
        if states.tobytes().count(first) == len(states):  # several times faster than comparing in numpy
            completed.append((lo, hi, _STATES[first]))
            return
        edges = [0, *(np.flatnonzero(states[1:] != states[:-1]) + 1).tolist(), hi - lo]
        completed.extend((lo + a, lo + b, _STATES[int(states[a])]) for a, b in pairwise(edges))

    def _add_mixed(
        self, events: Ints, ks: int | Positions, states: int | NDArray[np.uint8], completed: Completed
    ) -> NDArray[np.bool_]:
        """Anything else: runs of single-part events go as ranges, the rest part by part."""
        n = len(events)
        positions = np.full(n, ks, dtype=np.int16) if isinstance(ks, int) else ks
        fresh = np.zeros(n, dtype=np.bool_)
        breaks = np.flatnonzero((events[1:] != events[:-1] + 1) | (positions[1:] != positions[:-1])) + 1
        edges = [0, *breaks.tolist(), n]
        starts, at_k = events[edges[:-1]].tolist(), positions[edges[:-1]].tolist()
        for a, b, lo, k in zip(edges[:-1], edges[1:], starts, at_k, strict=True):
            own = states if isinstance(states, int) else states[a:b]
            if k == 0 and self.map.single_part(lo, lo + b - a):
                fresh[a:b] = self._add_run(lo, lo + b - a, own, completed)
                continue
            each = [own] * (b - a) if isinstance(own, int) else own.tolist()
            for i, state in enumerate(each):
                fresh[a + i] = self._add_part(lo + i, k, state, completed)
        return fresh

    def _add_part(self, event: int, k: int, state: int, completed: Completed) -> bool:
        """One part of an event that may have several; whether it is new."""
        if event < self._frontier or event in self._done:
            return False
        entry = self._open.get(event)
        if entry is None:
            groups = self.map.groups_of(event)
            entry = _Open(self.map.width(event), targets_of(groups, self._targets) if groups else 0)
        elif k in entry.seen:
            return False
        if not (k < entry.width if k >= 0 else entry.targets >> (-1 - k) & 1):
            return False
        entry.seen.add(k)
        entry.worst = max(entry.worst, state)
        if len(entry.seen) < entry.parts:
            self._open[event] = entry
            return True
        self._open.pop(event, None)
        self._complete(event, event + 1, entry.worst, completed)
        return True

    # -- the frontier ----------------------------------------------------------------------------------------

    def _advance(self, completed: Completed) -> None:
        """Move the frontier over what is terminal, and over events without parts where they may be passed."""
        if not self._done and not self._may_skip:
            return
        while True:
            self._frontier = self._done.first_gap(self._frontier)
            self._done.discard(0, self._frontier)
            if not self._may_skip:
                break
            stop = self._next_with_parts()
            if stop == self._frontier or not self._may_pass(stop):
                break
            completed.append((self._frontier, stop, EventState.NO_RESULT))
            self._frontier = stop

    def _next_with_parts(self) -> int:
        """The first event from the frontier on that has a part; the map's end where there is none."""
        own = self.map.next_virtual(self._frontier)
        cast = self.map.next_broadcast(self._frontier, self._live)
        found = [event for event in (own, cast) if event is not None]
        return min(found) if found else max(self._frontier, self.map.n_events or 0)

    def _may_pass(self, stop: int) -> bool:
        """Whether the events without parts before `stop` are over."""
        end = self.map.n_events
        return bool(self._done) or (end is not None and stop >= end - int(self.map.wrapped))


def _is_zero(ks: int | Positions) -> bool:
    return ks == 0 if isinstance(ks, int) else not bool(ks.any())


def _consecutive(events: Ints, lo: int, hi: int) -> bool:
    """Whether these are lo, lo+1, ..., hi-1."""
    n = len(events)
    return hi - lo == n and (n == 1 or bool((events[1:] - events[:-1] == 1).all()))


def _all(n: int) -> NDArray[np.bool_]:
    return _ALL[:n] if n <= _SHARED else np.ones(n, dtype=np.bool_)
