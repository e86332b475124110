"""A map that was written out cell by cell: arrays, indexed once so that every question is O(1) or O(log
n)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from beamfold.model.errors import MapError
from beamfold.model.trigger.arrays import offsets, pack, ranges, unpack
from beamfold.model.trigger.base import Ints, Positions, Route, TriggerMap, bits, check_streams, frozen
from beamfold.model.trigger.columns import Column, PairIndex, Rows, broadcasts

MAX_GROUPS = 62
"""Distinct tag sets that are broadcast to: their bitmask has to fit an int64."""

MAX_CELLS = 1 << 26
"""Events, and cells or targets of all streams together, of a map that is written out: some 100 bytes each in
memory."""


class SequenceMap(TriggerMap, kind="sequence"):
    """`columns[s]` are the cells of stream s; `tag_sets` the distinct tags of virtual workers, `virtual_tags`
    int64 the number of each virtual worker's set there, `constraints` int64 what they were called in the
    specification.

    Raises ValueError where the numbers do not fit together (the compiler's do; the wire's may not).
    """

    def __init__(
        self,
        streams: Sequence[str],
        wrapped: bool,
        n_events: int,
        groups: Sequence[frozenset[str]],
        tag_sets: Sequence[frozenset[str]],
        virtual_tags: Ints,
        constraints: Ints,
        columns: Sequence[Column],
    ) -> None:
        self.streams = check_streams(streams)
        self.wrapped = wrapped
        self.uniform = False
        self.n_events: int = n_events
        self.n_virtual: int = len(constraints)
        self.groups = tuple(groups)
        if len(self.groups) > MAX_GROUPS:
            raise MapError(f"{len(self.groups)} different tag sets are broadcast to; at most {MAX_GROUPS} are possible")
        self._columns = tuple(columns)
        self._sets = tuple(tag_sets)
        self._virtual_tags: Ints = frozen(virtual_tags)
        self._constraints: Ints = frozen(constraints)
        self._check()
        self._rows = [Rows(c) for c in columns]
        self._pairs = PairIndex(self._rows, n_events)
        self._broadcasts = broadcasts(self._rows, len(self.groups))
        self.min_workers = self._pairs.widest
        self._index_events()
        self._index_virtual()

    def _check(self) -> None:
        if not 0 <= self.n_events <= MAX_CELLS:
            raise ValueError(f"a map of {self.n_events} events cannot be")
        if len(self._columns) != len(self.streams) or len(self._virtual_tags) != self.n_virtual:
            raise ValueError("streams, columns and virtual workers do not match")
        if any(not 0 <= t < len(self._sets) for t in np.unique(self._virtual_tags).tolist()):
            raise ValueError("a virtual worker's tags are unknown")
        for c in self._columns:
            if len(c.events) and not 0 <= int(c.events[0]) <= int(c.events[-1]) < self.n_events:
                raise ValueError("a cell lies outside the map")
            if self.wrapped and (len(c.events) < 2 or c.events[0] != 0 or c.events[-1] != self.n_events - 1):
                raise ValueError("a stream has no start or end")
            low, high = int(c.targets.min(initial=0)), int(c.targets.max(initial=-1))
            if low < -len(self.groups) or high >= self.n_virtual:
                raise ValueError("a cell's target is unknown")

    def _index_events(self) -> None:
        """Which events have a part of any kind, and which have exactly one."""
        group_bits = np.zeros(self.n_events, dtype=np.int64)
        for g, (events, _) in enumerate(self._broadcasts):
            group_bits[events] |= np.int64(1) << np.int64(g)
        width = np.diff(self._pairs.start)
        self._cast_events: Ints = np.flatnonzero(group_bits)
        self._cast_groups: Ints = group_bits[self._cast_events]
        self._odd: Ints = offsets((width != 1) | (group_bits != 0))  # events before e with other than one part
        self.may_be_empty = bool(((width == 0) & (group_bits == 0)).any())

    def _index_virtual(self) -> None:
        """Pairs by virtual worker. They are in that order already unless virtual workers interleave."""
        virtual = self._pairs.virtual
        peak = np.maximum.accumulate(virtual) if len(virtual) else virtual
        if bool((np.diff(peak, prepend=-1) > 1).any()) or int(virtual.max(initial=-1)) + 1 != self.n_virtual:
            raise ValueError("virtual workers are not numbered in order of appearance")
        self._order: Ints | None = None
        if bool((virtual != peak).any()):
            self._order = np.argsort(virtual, kind="stable")
        by_virtual = self._pairs.event if self._order is None else self._pairs.event[self._order]
        self._by_virtual: Ints = by_virtual
        self._virtual_start: Ints = offsets(np.bincount(virtual, minlength=self.n_virtual))
        first, last = by_virtual[self._virtual_start[:-1]], by_virtual[self._virtual_start[1:] - 1]
        self._first: Ints = first
        self._latest: Ints = np.maximum.accumulate(last) if len(last) else last
        crowded = (np.diff(self._pairs.start) > 1)[self._pairs.event]
        self._crowded = np.bincount(virtual[crowded], minlength=self.n_virtual) > 0
        self._plain = ~self._crowded
        self._plain[:-1] &= last[:-1] < first[1:]
        broken = ~(self._plain[1:] & self._plain[:-1]) | (np.diff(self._virtual_tags) != 0)
        self._breaks: Ints = np.append(np.flatnonzero(broken) + 1, self.n_virtual)

    # -- messages --------------------------------------------------------------------------------------------

    def frame_count(self, s: int) -> int:
        return len(self._rows[s].cell_event)

    def events(self, s: int, lo: int, hi: int) -> Ints:
        return self._rows[s].cell_event[max(lo, 0) : max(hi, 0)]

    def ordinal_at(self, s: int, event: int) -> int:
        return int(self._rows[s].cell_event.searchsorted(event))

    def has_cell(self, s: int, event: int) -> bool:
        cells = self._rows[s].cell_event
        at = int(cells.searchsorted(event))
        return at < len(cells) and int(cells[at]) == event

    def route(self, s: int, lo: int, hi: int) -> Route:
        rows = self._rows[s]
        n = len(rows.cell_event)
        lo = max(lo, 0)
        part = slice(int(rows.start[min(lo, n)]), int(rows.start[max(0, min(hi, n))]))
        return Route(rows.ordinal[part] - lo, rows.event[part], rows.k[part], rows.virtual[part])

    # -- parts -----------------------------------------------------------------------------------------------

    def width(self, event: int) -> int:
        if not 0 <= event < self.n_events:
            return 0
        start = self._pairs.start
        return int(start[event + 1]) - int(start[event])

    def groups_of(self, event: int) -> int:
        at = int(self._cast_events.searchsorted(event))
        return int(self._cast_groups[at]) if at < len(self._cast_events) and self._cast_events[at] == event else 0

    def single_part(self, lo: int, hi: int) -> bool:
        if lo < 0 or hi > self.n_events:
            return lo >= hi
        return lo >= hi or int(self._odd[lo]) == int(self._odd[hi])

    def needs(self, events: Ints, k: int, groups: int) -> Ints:
        out = self._own_needs(events, k)
        if not groups or not len(events) or not self._cast_within(int(events.min()), int(events.max())):
            return out
        for g in bits(groups & ((1 << len(self.groups)) - 1)):
            cast, masks = self._broadcasts[g]
            at = cast.searchsorted(events)
            at[at == len(cast)] = 0
            hit = cast[at] == events if len(cast) else np.zeros(len(events), dtype=np.bool_)
            if bool(hit.any()):
                out[hit] |= masks[at[hit]]
        return out

    def _cast_within(self, first: int, last: int) -> bool:
        """Whether anything is broadcast in events first..last; usually not, which costs less."""
        cast = self._cast_events
        return bool(cast.searchsorted(first) < cast.searchsorted(last, side="right"))

    def _own_needs(self, events: Ints, k: int) -> Ints:
        """Streams whose cell lists the k-th virtual worker of the event."""
        if k < 0 or k >= self._pairs.widest:
            return np.zeros(len(events), dtype=np.int64)
        at = self._pairs.start[events] + k
        there = at < self._pairs.start[events + 1]
        if bool(there.all()):
            return self._pairs.mask[at]
        out = np.zeros(len(events), dtype=np.int64)
        out[there] = self._pairs.mask[at[there]]
        return out

    def next_virtual(self, event: int) -> int | None:
        return _from(self._owned, event)

    @cached_property
    def _owned(self) -> Ints:
        """Events with a virtual worker."""
        return np.flatnonzero(np.diff(self._pairs.start))

    def next_broadcast(self, event: int, groups: int) -> int | None:
        found = [_from(self._broadcasts[g][0], event) for g in bits(groups & ((1 << len(self.groups)) - 1))]
        return min((e for e in found if e is not None), default=None)

    # -- virtual workers -------------------------------------------------------------------------------------

    def _clip(self, v: int) -> int:
        return max(0, min(v, self.n_virtual))

    def parts_of(self, vlo: int, vhi: int) -> tuple[Ints, Positions]:
        part = slice(int(self._virtual_start[self._clip(vlo)]), int(self._virtual_start[self._clip(vhi)]))
        if self._order is None:
            return self._pairs.event[part], self._pairs.k[part]
        pairs = np.sort(self._order[part])
        return self._pairs.event[pairs], self._pairs.k[pairs]

    def part_total(self, vlo: int, vhi: int) -> int:
        return max(0, int(self._virtual_start[self._clip(vhi)]) - int(self._virtual_start[self._clip(vlo)]))

    def _known(self, v: int) -> int:
        if not 0 <= v < self.n_virtual:
            raise IndexError(f"virtual worker {v} is not in the trigger map")
        return v

    def span(self, v: int) -> tuple[int, int]:
        start = self._virtual_start
        return int(self._first[self._known(v)]), int(self._by_virtual[int(start[v + 1]) - 1])

    def tags(self, v: int) -> frozenset[str]:
        return self._sets[int(self._virtual_tags[self._known(v)])]

    def constraint(self, v: int) -> int:
        return int(self._constraints[self._known(v)])

    def conflicts(self, v: int) -> frozenset[int]:
        if not self._crowded[self._known(v)]:
            return frozenset()
        events = self._by_virtual[int(self._virtual_start[v]) : int(self._virtual_start[v + 1])]
        start = self._pairs.start[events]
        shared = self._pairs.virtual[ranges(start, self._pairs.start[events + 1] - start)]
        return frozenset(np.unique(shared).tolist()) - {v}

    def plain_run(self, v: int) -> int:
        if not self._plain[self._known(v)]:
            return v
        return int(self._breaks[int(self._breaks.searchsorted(v, side="right"))])

    def virtual_before(self, event: int) -> int:
        return int(self._first.searchsorted(event))

    def virtual_over(self, event: int) -> int:
        return int(self._latest.searchsorted(event))

    # -- life ------------------------------------------------------------------------------------------------

    def closed_at(self, last_data_event: int) -> SequenceMap:
        highest = self.n_events - 2 if self.wrapped else self.n_events - 1
        if not (0 if self.wrapped else -1) <= last_data_event <= highest:
            raise MapError(
                f"cannot end the scan after event {last_data_event}: the trigger map has data events up to {highest}"
            )
        if last_data_event == highest:
            return self
        columns = [c.cut(last_data_event + 1) for c in self._columns]
        if self.wrapped:
            ends = self._columns[0].targets[: int(self._columns[0].counts[0])]
            columns = [c.then(last_data_event + 1, ends) for c in columns]
        left = self.virtual_before(last_data_event + 1)
        return SequenceMap(
            self.streams,
            self.wrapped,
            last_data_event + 1 + self.wrapped,
            self.groups,
            self._sets,
            self._virtual_tags[:left],
            self._constraints[:left],
            columns,
        )

    def to_wire(self) -> dict[str, Any]:
        return {
            "kind": "sequence",
            "streams": list(self.streams),
            "wrapped": int(self.wrapped),
            "events": self.n_events,
            "virtual": self.n_virtual,
            "groups": [sorted(g) for g in self.groups],
            "tag_sets": [sorted(t) for t in self._sets],
            "virtual_tags": pack(self._virtual_tags),
            "constraints": pack(self._constraints),
            "columns": [c.to_wire() for c in self._columns],
        }

    @classmethod
    def _from_wire(cls, wire: Mapping[str, Any]) -> SequenceMap:
        n: int = wire["virtual"]
        return cls(
            wire["streams"],
            bool(wire["wrapped"]),
            wire["events"],
            [frozenset(g) for g in wire["groups"]],
            [frozenset(t) for t in wire["tag_sets"]],
            unpack(wire["virtual_tags"], n),
            unpack(wire["constraints"], n),
            [Column.from_wire(c) for c in wire["columns"]],
        )

    @cached_property
    def _used_sets(self) -> list[int]:
        used: list[int] = np.unique(self._virtual_tags).tolist()
        return used

    def _tag_sets(self) -> list[frozenset[str]]:
        return [self._sets[i] for i in self._used_sets]

    def _demand(self, tag_sets: Collection[int]) -> int:
        wanted = np.isin(self._virtual_tags, [self._used_sets[i] for i in tag_sets])
        return int(np.bincount(self._pairs.event[wanted[self._pairs.virtual]]).max(initial=0))

    def __repr__(self) -> str:
        return f"<SequenceMap {self.streams!r}: {self.n_events} events, {self.n_virtual} virtual workers>"


def _from(events: Ints, event: int) -> int | None:
    """The first of these ascending events that is >= `event`."""
    at = int(events.searchsorted(event))
    return int(events[at]) if at < len(events) else None
