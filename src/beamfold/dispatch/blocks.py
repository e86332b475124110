"""How many virtual workers go to whom, and when: block sizes that follow the measured rate.

Virtual workers are assigned in order of their first event, ahead of the frames. A worker gets new ones while it has
less than its window of work outstanding; the window is what it did lately in `WINDOW` seconds, so it grows within a
few round trips to what the machine can do, and is one or two events at low rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from beamfold.dispatch.overload import Overload
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.messages import DROPPED, Block

WINDOW = 0.1
"""Seconds of work a worker has ahead: several control round trips, and still short against human patience."""

BLOCKS_PER_WINDOW = 4
"""Blocks in a window, so that a block is 10 to 50 ms of work."""

FIRST_WINDOW = 4
"""Parts ahead before anything was measured: events may take minutes each, or come before a first word is back."""

LEAST_WINDOW = 2
"""Parts ahead where an event takes long: more of them would wait behind a slow one while other workers are free."""

LARGEST_WINDOW = 65536
"""Parts ahead at most, whatever the rate."""

RATE_INTERVAL = 0.02
"""Seconds over which parts done are counted into a rate."""


@dataclass(slots=True)
class _Worker:
    tags: frozenset[str]
    alive: bool = True
    assigned: int = 0
    done: int = 0
    window: int = FIRST_WINDOW
    counted: int = 0
    since: float | None = None
    virtual: set[int] = field(default_factory=set)  # only those that conflict with others


class Dispatcher:
    """One scan's assignments. `tags[w]` are the tags of logical worker w; `overload` says what is dropped."""

    def __init__(
        self, trigger_map: TriggerMap, tags: Sequence[frozenset[str]], overload: Overload | None = None
    ) -> None:
        self.map = trigger_map
        self._overload = overload or Overload()
        self._workers = [_Worker(t) for t in tags]
        self._long: list[tuple[int, int, int]] = []  # (virtual worker, logical worker, parts counted so far)
        self.next_virtual = 0

    def done(self, worker: int, parts: int, now: float) -> None:
        """A worker's parts are durably done."""
        if not 0 <= worker < len(self._workers):
            return
        w = self._workers[worker]
        w.done += parts
        w.counted += parts
        if w.since is None:
            w.since = now
            w.counted = 0
        elif now - w.since >= RATE_INTERVAL:
            rate = w.counted / (now - w.since)
            w.window = max(LEAST_WINDOW, min(LARGEST_WINDOW, round((w.window + rate * WINDOW) / 2)))
            w.since, w.counted = now, 0

    def close(self, trigger_map: TriggerMap) -> None:
        """The map got its last event."""
        self.map = trigger_map

    def assign(self) -> list[Block]:
        """New blocks for workers that have room, and of what is dropped, in the order of the virtual workers."""
        blocks: list[Block] = []
        self._count_long()
        total = self.map.n_virtual
        while total is None or self.next_virtual < total:
            virtual = self.next_virtual
            if (end := self._overload.drop_end(self.map, virtual)) > virtual:
                self.next_virtual = end
                blocks.append(Block(virtual, end, DROPPED))
                continue
            worker = self._choose(virtual)
            if worker is None:
                break
            size = self._overload.assigned(self._size(virtual, worker, total))
            self.next_virtual = virtual + size
            self._take(virtual, virtual + size, worker)
            if blocks and blocks[-1].worker == worker and blocks[-1].hi == virtual:
                blocks[-1] = Block(blocks[-1].lo, virtual + size, worker)
            else:
                blocks.append(Block(virtual, virtual + size, worker))
        return blocks

    def _choose(self, virtual: int) -> int | None:
        """The worker with most room among those that may take this virtual worker."""
        tags = self.map.tags(virtual)
        conflicts = self.map.conflicts(virtual)
        able = [i for i, w in enumerate(self._workers) if w.alive and tags <= w.tags]
        free = [i for i in able if not conflicts & self._workers[i].virtual] if conflicts else able
        best, room = None, 0
        for i in free or able:
            w = self._workers[i]
            left = w.window - (w.assigned - w.done)
            if left > room:
                best, room = i, left
        return best

    def _size(self, virtual: int, worker: int, total: int | None) -> int:
        """Virtual workers in one block: a share of the window, less near the end, one where they interlock."""
        w = self._workers[worker]
        plain = self.map.plain_run(virtual) - virtual
        if plain <= 1:
            return 1
        per = self.map.part_total(virtual, virtual + 1)
        if not per:
            return self._idle(virtual, plain)
        size = max(1, min(w.window // BLOCKS_PER_WINDOW, w.window - (w.assigned - w.done)) // per)
        if total is not None:
            size = min(size, max(1, (total - virtual) // (2 * len(self._workers))))
        return min(size, plain)

    def _idle(self, virtual: int, plain: int) -> int:
        """How many virtual workers from this one on have no part at all: they cost one block, however many."""
        busy = self.map.next_virtual(self.map.span(virtual)[0])
        return plain if busy is None else min(plain, self.map.virtual_over(busy) - virtual)

    def _take(self, lo: int, hi: int, worker: int) -> None:
        w = self._workers[worker]
        if self.map.plain_run(lo) >= hi:
            w.assigned += self.map.part_total(lo, hi)
            return
        if self.map.conflicts(lo):
            w.virtual.add(lo)
        self._long.append((lo, worker, 0))
        self._count_long()

    def _event_of(self, virtual: int) -> int | None:
        """The first event of a virtual worker, None beyond the last one."""
        if self.map.n_virtual is not None and virtual >= self.map.n_virtual:
            return None
        return self.map.span(virtual)[0]

    def _count_long(self) -> None:
        """Virtual workers that reach beyond the next one to assign: count only what is due before that one.

        Counting all of it would make a worker look full for the whole scan and starve the virtual workers after.
        """
        following = self._event_of(self.next_virtual)
        kept: list[tuple[int, int, int]] = []
        for virtual, worker, counted in self._long:
            due = self.map.part_total(virtual, virtual + 1)
            if following is not None and self.map.span(virtual)[1] >= following:
                events, _ = self.map.parts_of(virtual, virtual + 1)
                due = int(np.searchsorted(events, following))
                kept.append((virtual, worker, due))
            self._workers[worker].assigned += due - counted
        self._long = kept
