"""The explicit form's raw material, and the index of its parts.

A column is what one stream has: the events of its cells that are not null, how many targets each has, and the
targets (virtual worker, or -1-group). It is all that travels; everything else is derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beamfold.model.errors import MapError
from beamfold.model.trigger.arrays import offsets, pack, unpack
from beamfold.model.trigger.base import Ints, Positions, frozen

_LARGEST_WIDTH = 1 << 15
"""Virtual workers in one event at most: k is an int16."""


@dataclass(frozen=True, slots=True)
class Column:
    """One stream, all int64: `events` of its cells, strictly ascending; `counts` of targets; `targets`."""

    events: Ints
    counts: Ints
    targets: Ints

    def cut(self, before: int) -> Column:
        """Only the cells of events < `before`."""
        n = int(self.events.searchsorted(before))
        rows = int(self.counts[:n].sum())
        return Column(self.events[:n], self.counts[:n], self.targets[:rows])

    def then(self, event: int, targets: Ints) -> Column:
        """One more cell."""
        return Column(
            np.append(self.events, event),
            np.append(self.counts, len(targets)),
            np.append(self.targets, targets),
        )

    def to_wire(self) -> list[Any]:
        """Sizes and packed arrays."""
        return [len(self.events), len(self.targets), pack(self.events), pack(self.counts), pack(self.targets)]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Column:
        """Undo `to_wire`; raises ValueError or TypeError."""
        cells, rows, events, counts, targets = wire
        column = cls(unpack(events, cells), unpack(counts, cells), unpack(targets, rows))
        if int(column.counts.sum()) != rows or bool((column.counts < 0).any()):
            raise ValueError("a column's targets do not match its cells")
        if bool((np.diff(column.events) <= 0).any()):
            raise ValueError("a column's events do not ascend")
        return column


class Rows:
    """A column laid out for routing: one row per (message, target); `k` is filled in by `PairIndex`."""

    __slots__ = ("cell_event", "event", "k", "ordinal", "start", "virtual")

    def __init__(self, column: Column) -> None:
        self.cell_event: Ints = frozen(column.events)
        self.start: Ints = frozen(offsets(column.counts))
        self.ordinal: Ints = frozen(np.repeat(np.arange(len(column.events), dtype=np.int64), column.counts))
        self.event: Ints = frozen(self.cell_event[self.ordinal])
        self.virtual: Ints = frozen(column.targets)
        self.k: Positions = frozen(np.zeros(0, dtype=np.int16))


class PairIndex:
    """The distinct (event, virtual worker) pairs, by event and then in order of first appearance.

    `event`, `virtual`, `mask` (streams, bits) per pair; `start[e]` is the first pair of event e; `k` int16.
    """

    def __init__(self, rows: Sequence[Rows], n_events: int) -> None:
        stream = np.repeat(np.arange(len(rows), dtype=np.int64), [len(r.event) for r in rows])
        event = np.concatenate([r.event for r in rows])
        virtual = np.concatenate([r.virtual for r in rows])
        own = np.flatnonzero(virtual >= 0)
        own = own[np.argsort(event[own], kind="stable")]  # by event, then stream, then place in the cell
        event, virtual, bit = event[own], virtual[own], np.int64(1) << stream[own]
        by_pair = np.lexsort((virtual, event))  # stable: the first of equals appeared first
        e, v = event[by_pair], virtual[by_pair]
        new = np.ones(len(by_pair), dtype=np.bool_)
        new[1:] = (e[1:] != e[:-1]) | (v[1:] != v[:-1])
        first = np.flatnonzero(new)
        appeared = np.argsort(by_pair[first], kind="stable")  # pairs in order of first appearance
        self.event: Ints = frozen(e[first][appeared])
        self.virtual: Ints = frozen(v[first][appeared])
        mask = np.bitwise_or.reduceat(bit[by_pair], first) if len(first) else np.zeros(0, dtype=np.int64)
        self.mask: Ints = frozen(mask[appeared])
        width = np.bincount(self.event, minlength=n_events)
        self.start: Ints = frozen(offsets(width))
        self.widest = int(width.max(initial=0))
        if self.widest >= _LARGEST_WIDTH:
            raise MapError(f"an event has {self.widest} constraints; at most {_LARGEST_WIDTH - 1} are possible")
        self.k: Positions = frozen((np.arange(len(self.event)) - self.start[self.event]).astype(np.int16))
        place = np.empty(len(first), dtype=np.int64)
        place[appeared] = np.arange(len(first))
        k = np.zeros(len(stream), dtype=np.int16)
        k[own[by_pair]] = self.k[place[np.cumsum(new) - 1]]
        at = 0
        for r in rows:
            r.k = frozen(k[at : at + len(r.event)])
            at += len(r.event)


def broadcasts(rows: Sequence[Rows], groups: int) -> list[tuple[Ints, Ints]]:
    """Per group: the events with a broadcast to it, ascending, and the streams (bits) broadcast there."""
    out: list[tuple[Ints, Ints]] = []
    for g in range(groups):
        hits = [r.event[r.virtual == -1 - g] for r in rows]
        events = np.unique(np.concatenate(hits))
        masks = np.zeros(len(events), dtype=np.int64)
        for s, hit in enumerate(hits):
            masks[events.searchsorted(hit)] |= np.int64(1) << np.int64(s)
        out.append((frozen(events), frozen(masks)))
    return out
