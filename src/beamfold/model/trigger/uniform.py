"""The closed form of a uniform map: no memory and no time per event, for any number of them, endless
included.

Event 0 is the start, data events are 1..N, N+1 is the end. The virtual worker of data event e is (e-1)//batch
and its constraint is the same number. In a map where no stream has a frame in every event a virtual worker
may have fewer parts than `batch`, or none; numbers stay (e-1)//batch there, so they are dense but some are
idle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from beamfold.model.errors import MapError
from beamfold.model.trigger.base import Ints, Positions, Route, TriggerMap, check_streams, frozen
from beamfold.model.trigger.progressions import Progressions
from beamfold.model.trigger.spec import UniformSpec, read_spec

_FOREVER = 1 << 62
_SHARED = 16384
_COUNTING: Ints = frozen(np.arange(_SHARED, dtype=np.int64))
_ZEROS: Positions = frozen(np.zeros(_SHARED, dtype=np.int16))


def _counting(n: int) -> Ints:
    """0..n-1, read-only: a view for the usual batch sizes."""
    return _COUNTING[:n] if n <= _SHARED else frozen(np.arange(n, dtype=np.int64))


def _zeros(n: int) -> Positions:
    return _ZEROS[:n] if n <= _SHARED else frozen(np.zeros(n, dtype=np.int16))


class UniformMap(TriggerMap, kind="uniform"):
    """`streams` are (name, every, first); `events` the number of data events, None when endless."""

    def __init__(
        self,
        streams: Sequence[tuple[str, int, int]],
        events: int | None,
        batch: int = 1,
        tags: Collection[str] = ("generic",),
        broadcast: bool = False,
    ) -> None:
        self.streams = check_streams([name for name, _, _ in streams])
        self.wrapped = True
        self.uniform = True
        self.n_events = None if events is None else events + 2
        self._every = [every for _, every, _ in streams]
        self._first = [first for _, _, first in streams]
        self._data = events
        self._last = _FOREVER if events is None else events  # the last data event
        self._batch = batch
        self._tags = frozenset(tags)
        self._broadcast = broadcast
        wrap = [frozenset({tag}) for tag in sorted(self._tags)]
        self._wrap_mask = (1 << len(wrap)) - 1
        own = wrap.index(self._tags) if self._tags in wrap else len(wrap)
        self._data_group = own if broadcast else -1
        self.groups = tuple(dict.fromkeys((*wrap, self._tags))) if broadcast else tuple(wrap)
        self._all_streams = (1 << len(streams)) - 1
        self._union = Progressions(list(zip(self._every, self._first, strict=True)))
        self._dense_from = _FOREVER if self._union.dense_from is None else self._union.dense_from
        self._full = all(e == 1 and f == 1 for _, e, f in streams)
        self.n_virtual = 0 if broadcast else None if events is None else -(-events // batch)
        busy = events is None or self._union.count(self._last) > 0
        self.min_workers = int(busy and not broadcast)
        self.may_be_empty = self._dense_from > 1 and (events is None or self._union.count(self._last) < self._last)

    @classmethod
    def of(cls, spec: UniformSpec) -> UniformMap:
        """The map that a checked spec describes."""
        streams = [(name, s.every, s.first) for name, s in spec.streams.items()]
        return cls(streams, spec.events, spec.batch, spec.tags, spec.broadcast)

    # -- messages --------------------------------------------------------------------------------------------

    def _frames(self, s: int) -> int:
        """Data frames of the stream."""
        return max(0, (self._last - self._first[s]) // self._every[s] + 1)

    def frame_count(self, s: int) -> int | None:
        return None if self._data is None else self._frames(s) + 2

    def events(self, s: int, lo: int, hi: int) -> Ints:
        frames = self._frames(s)
        every, first = self._every[s], self._first[s]
        lo = max(lo, 0)
        a, b = max(lo, 1), min(hi, frames + 1)
        data = np.arange(first + (a - 1) * every, first + (max(a, b) - 1) * every, every, dtype=np.int64)
        if lo >= 1 and hi <= frames + 1:
            return data
        pieces = [data]
        if lo == 0 and hi > 0:
            pieces.insert(0, np.zeros(1, dtype=np.int64))
        if lo <= frames + 1 < hi:
            pieces.append(np.array([self._last + 1], dtype=np.int64))
        return np.concatenate(pieces)

    def ordinal_at(self, s: int, event: int) -> int:
        if event <= 0:
            return 0
        if event > self._last + 1:
            return self._frames(s) + 2
        return max(0, (event - 1 - self._first[s]) // self._every[s] + 1) + 1

    def has_cell(self, s: int, event: int) -> bool:
        if event == 0 or event == self._last + 1:
            return True
        gap = event - self._first[s]
        return gap >= 0 and event <= self._last and gap % self._every[s] == 0

    def route(self, s: int, lo: int, hi: int) -> Route:
        frames = self._frames(s)
        if lo >= 1 and hi <= frames + 1:
            return self._data_route(s, lo, hi)
        lo = max(lo, 0)
        pieces = []
        if lo == 0 and hi > 0:
            pieces.append(self._wrap_route(0, 0))
        a, b = max(lo, 1), min(hi, frames + 1)
        if a < b:
            data = self._data_route(s, a, b)
            pieces.append(data._replace(index=data.index + (a - lo)))
        if lo <= frames + 1 < hi:
            pieces.append(self._wrap_route(frames + 1 - lo, self._last + 1))
        if not pieces:
            return self._data_route(s, 1, 1)
        return Route(*map(np.concatenate, zip(*pieces, strict=True)))

    def _data_route(self, s: int, lo: int, hi: int) -> Route:
        every = self._every[s]
        start = self._first[s] + (lo - 1) * every
        n = max(0, hi - lo)
        event = np.arange(start, start + n * every, every, dtype=np.int64)
        if self._broadcast:
            virtual = np.full(n, -1 - self._data_group, dtype=np.int64)
        elif self._batch == 1 and every == 1:
            virtual = np.arange(start - 1, start - 1 + n, dtype=np.int64)
        else:
            virtual = (event - 1) // self._batch
        return Route(_counting(n), event, _zeros(n), virtual)

    def _wrap_route(self, index: int, event: int) -> Route:
        """The start or end message: one row per tag."""
        n = self._wrap_mask.bit_length()
        rows = np.full(n, index, dtype=np.int64), np.full(n, event, dtype=np.int64)
        return Route(*rows, _zeros(n), -1 - _counting(n))

    # -- parts -----------------------------------------------------------------------------------------------

    def _data_busy(self, event: int) -> bool:
        """Whether it is a data event with a frame."""
        if not 1 <= event <= self._last:
            return False
        return event >= self._dense_from or self._union.next(event) == event

    def width(self, event: int) -> int:
        return int(not self._broadcast and self._data_busy(event))

    def groups_of(self, event: int) -> int:
        if event == 0 or event == self._last + 1:
            return self._wrap_mask
        return 1 << self._data_group if self._broadcast and self._data_busy(event) else 0

    def single_part(self, lo: int, hi: int) -> bool:
        if lo < 1 or hi > self._last + 1 or self._broadcast:
            return lo >= hi
        return lo >= self._dense_from or self._union.count(hi - 1) - self._union.count(lo - 1) >= hi - lo

    def needs(self, events: Ints, k: int, groups: int) -> Ints:
        data = 0
        if self._broadcast:
            data = int(bool(groups & 1 << self._data_group))
        elif k == 0:
            data = 1
        n = len(events)
        if not n:
            return np.zeros(0, dtype=np.int64)
        low, high = int(events.min()), int(events.max())
        if data and self._full:
            out = np.full(n, self._all_streams, dtype=np.int64)
        else:
            out = np.zeros(n, dtype=np.int64)
            for s in range(len(self.streams) if data else 0):
                gap = events - self._first[s]
                out |= ((gap >= 0) & (gap % self._every[s] == 0)).astype(np.int64) << s
        if low < 1 or high > self._last:
            wrap = self._all_streams if groups & self._wrap_mask else 0
            out[(events < 1) | (events > self._last)] = wrap
        return out

    def next_virtual(self, event: int) -> int | None:
        found = self._union.next(event)
        return found if found <= self._last and not self._broadcast else None

    def next_broadcast(self, event: int, groups: int) -> int | None:
        wrap = groups & self._wrap_mask
        if event <= 0 and wrap:
            return 0
        if self._broadcast and groups & 1 << self._data_group:
            found = self._union.next(event)
            if found <= self._last:
                return found
        if wrap and self._data is not None and event <= self._last + 1:
            return self._last + 1
        return None

    # -- virtual workers -------------------------------------------------------------------------------------

    def _block(self, vlo: int, vhi: int) -> tuple[int, int]:
        """Data events [lo, hi) of virtual workers vlo..vhi-1, clipped to the map."""
        if self._broadcast:
            return 1, 1
        lo = max(0, vlo) * self._batch + 1
        return lo, max(lo, min(vhi * self._batch, self._last) + 1)

    def parts_of(self, vlo: int, vhi: int) -> tuple[Ints, Positions]:
        lo, hi = self._block(vlo, vhi)
        events = np.arange(lo, hi, dtype=np.int64)
        if lo < self._dense_from:
            events = events[self.needs(events, 0, 0) != 0]
        return events, _zeros(len(events))

    def part_total(self, vlo: int, vhi: int) -> int:
        lo, hi = self._block(vlo, vhi)
        return hi - lo if lo >= self._dense_from else self._union.count(hi - 1) - self._union.count(lo - 1)

    def _check(self, v: int) -> None:
        if v < 0 or (self.n_virtual is not None and v >= self.n_virtual):
            raise IndexError(f"virtual worker {v} is not in the trigger map")

    def span(self, v: int) -> tuple[int, int]:
        self._check(v)
        return v * self._batch + 1, min((v + 1) * self._batch, self._last)

    def tags(self, v: int) -> frozenset[str]:
        self._check(v)
        return self._tags

    def constraint(self, v: int) -> int:
        self._check(v)
        return v

    def conflicts(self, v: int) -> frozenset[int]:
        self._check(v)
        return frozenset()

    def plain_run(self, v: int) -> int:
        self._check(v)
        return _FOREVER if self.n_virtual is None else self.n_virtual

    def virtual_before(self, event: int) -> int:
        if self._broadcast:
            return 0
        return -(-max(0, min(event - 1, self._last)) // self._batch)

    def virtual_over(self, event: int) -> int:
        if event > self._last or self._broadcast:
            return self.virtual_before(event)
        return max(0, event - 1) // self._batch

    # -- life ------------------------------------------------------------------------------------------------

    def closed_at(self, last_data_event: int) -> UniformMap:
        if not 0 <= last_data_event <= self._last:
            have = "no end" if self._data is None else f"data events up to {self._data}"
            raise MapError(f"cannot end the scan after event {last_data_event}: the trigger map has {have}")
        if last_data_event == self._data:
            return self
        return UniformMap(self._listed(), last_data_event, self._batch, self._tags, self._broadcast)

    def _listed(self) -> list[tuple[str, int, int]]:
        return list(zip(self.streams, self._every, self._first, strict=True))

    def to_wire(self) -> dict[str, Any]:
        return {
            "kind": "uniform",
            "streams": [list(s) for s in self._listed()],
            "events": self._data,
            "batch": self._batch,
            "tags": sorted(self._tags),
            "broadcast": int(self._broadcast),
        }

    @classmethod
    def _from_wire(cls, wire: Mapping[str, Any]) -> UniformMap:
        streams = {name: {"every": every, "first": first} for name, every, first in wire["streams"]}
        body = {key: wire[key] for key in ("events", "batch", "tags")}
        spec = read_spec(UniformSpec, {**body, "streams": streams, "broadcast": bool(wire["broadcast"])})
        return cls.of(spec)

    def _tag_sets(self) -> list[frozenset[str]]:
        return [] if self._broadcast else [self._tags]

    def _demand(self, tag_sets: Collection[int]) -> int:
        return self.min_workers if tag_sets else 0

    def __repr__(self) -> str:
        return f"UniformMap({self.to_wire()!r})"
