"""Parts whose results are not of the worker that their virtual workers were given to last.

Where a worker was lost, others got what it had begun, though some of it was in the result log already: those results
are the lost worker's, and so a replay has to process them there. They come to it by way of the other one, perhaps after
a broadcast that was later; so it waits for them before it does what is beyond.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from beamfold.model.bitmaps import listed
from beamfold.model.routes import UNASSIGNED, Routes
from beamfold.model.runs import RunSet, as_runs
from beamfold.model.states import EventState
from beamfold.model.triggermap import TriggerMap
from beamfold.offline.partruns import PartRuns
from beamfold.protocols.messages import DROPPED
from beamfold.protocols.recordings import Recording
from beamfold.work.machine import Part


class Handed:
    """Hands parts to the workers that did them. `doers` has those (event, k) that it is another for than the last."""

    def __init__(self, doers: dict[tuple[int, int], int]) -> None:
        self._doers = doers
        self._due: dict[int, list[tuple[int, int]]] = {}
        for part, worker in sorted(doers.items()):
            self._due.setdefault(worker, []).append(part)  # ascending, so it is a heap
        self._came: set[tuple[int, int]] = set()
        self._waiting: dict[int, list[Part]] = {worker: [] for worker in self._due}

    def take(self, worker: int, parts: Sequence[Part]) -> list[tuple[int, list[Part]]]:
        """Parts of a worker came: what can be processed now, by the worker that does it."""
        if not self._due:
            return [(worker, list(parts))]
        found: dict[int, list[Part]] = {}
        for part in parts:
            doer = self._doers.get((part.event, part.k))
            if doer is not None:
                self._came.add((part.event, part.k))
                self._waiting[doer].append(part)
            elif worker in self._waiting:
                self._waiting[worker].append(part)
            else:
                found.setdefault(worker, []).append(part)
        for doer in list(self._waiting):
            if ready := self._ready(doer):
                found[doer] = ready
        return sorted(found.items())

    def _ready(self, worker: int) -> list[Part]:
        due = self._due[worker]
        while due and due[0] in self._came:
            self._came.discard(heapq.heappop(due))
        before = due[0][0] if due else math.inf
        waiting = self._waiting[worker]
        ready = [part for part in waiting if part.event < before]
        if due:
            self._waiting[worker] = [part for part in waiting if part.event >= before]
        else:
            del self._waiting[worker], self._due[worker]
        return _in_order(ready)

    def rest(self) -> list[tuple[int, list[Part]]]:
        """What waits for parts that will not come, because the recording broke off."""
        rest = [(worker, _in_order(parts)) for worker, parts in sorted(self._waiting.items()) if parts]
        self._due, self._waiting = {}, {}
        return rest


def _in_order(parts: Iterable[Part]) -> list[Part]:
    """By event, so that broadcasts are between what was before and after them."""
    return sorted(parts, key=lambda part: part.event)


def who_did(recording: Recording) -> tuple[list[tuple[int, int, int]], dict[tuple[int, int], int]]:
    """The blocks of a recording, with virtual workers all of whose results are another's than the last one's given to
    that one; and the (event, k) of the others whose results are another's, with their worker.

    A controller may have ended before it had written whose some were: where no result says it either, they go to
    workers in turn.
    """
    logged = PartRuns([batch.parts for batch in recording.logged])
    trigger_map = recording.map if recording.closed is None else recording.map.closed_at(recording.closed)
    routes = Routes()
    for block in recording.blocks:
        routes.add(*block)
    doers: dict[tuple[int, int], int] = {}
    dropped = _dropped(recording)
    for lo, hi in _looked_at(recording, trigger_map).runs():
        for virtual in range(lo, hi):
            last = routes.find(virtual)
            events, ks = trigger_map.parts_of(virtual, virtual + 1)
            if not len(events):
                continue  # all of it is beyond the last event
            parts = list(zip(events.tolist(), ks.tolist(), strict=True))
            taken = {part: recording.logged[n].worker for part in parts if (n := logged.find(*part)) is not None}
            whole = len(taken) == len(parts) and len(set(taken.values())) == 1
            if last == UNASSIGNED and not taken:
                nobody = dropped.overlap(int(events[0]), int(events[0]) + 1)
                routes.add(virtual, virtual + 1, DROPPED if nobody else in_turn(recording, virtual))
            elif last == UNASSIGNED or (whole and last not in taken.values()):
                last = min(taken.values())
                routes.add(virtual, virtual + 1, last)
            doers |= {part: worker for part, worker in taken.items() if worker != last}
    return routes.all(), doers


def in_turn(recording: Recording, virtual: int) -> int:
    """Who gets a virtual worker of whom nothing says whose it was."""
    able = [w for w, (_, tags) in enumerate(recording.workers) if recording.map.tags(virtual) <= tags]
    return able[virtual % len(able)]


def _looked_at(recording: Recording, trigger_map: TriggerMap) -> RunSet:
    """Virtual workers that were given out more than once, or perhaps so: a controller ended before it wrote that."""
    found = RunSet(recording.again)
    end = 0
    for lo, hi, _ in recording.blocks:
        found.add(end, max(lo, end))
        end = hi
    if recording.taken_up:
        last = max((hi for batch in recording.logged for k, _, hi in batch.parts if k >= 0), default=0)
        all_of_them = None if recording.closed is None else trigger_map.n_virtual
        found.add(end, max(end, trigger_map.virtual_before(last) if all_of_them is None else all_of_them))
    return found


def _dropped(recording: Recording) -> RunSet:
    """The events that the report says were dropped."""
    found, label = RunSet(), EventState.DROPPED.label
    if recording.taken_up and recording.report is not None:
        for lo, hi in as_runs(listed(label, recording.report.runs, recording.report.bitmaps)):
            found.add(lo, hi)
    return found
