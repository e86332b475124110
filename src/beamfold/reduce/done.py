"""What the controller is told of batches that are in the result log, gathered into one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from beamfold.model.events import Buffer
from beamfold.model.runs import append_event, as_runs
from beamfold.protocols.envelopes import POISON, ResultBatch
from beamfold.protocols.messages import Combined, Failure, Logged, PartsDone, Run
from beamfold.protocols.recordings import digest
from beamfold.reduce.batch import Batch

MAX_DESCRIBED = 20
"""Failures of one batch that are told with their traceback; all are counted."""


class Done:
    """Gathers batches of one scan. `streams` are those of its map, `workers` the names of its logical workers.

    With `recorded` the controller wants to know whose results were taken, what they were, and which were combined.
    """

    def __init__(self, streams: Sequence[str], workers: Sequence[str], *, recorded: bool = False) -> None:
        self._streams = streams
        self._workers = workers
        self._completed: list[tuple[int, int, int]] = []
        self._parts: dict[int, int] = {}
        self._failures: list[Failure] = []
        self._failed = 0
        self._incomplete: dict[str, list[Run]] = {}
        self._ticks: list[tuple[int, int]] = []
        self._recorded = recorded
        self._combined: list[Combined] = []
        self._logged: list[Logged] = []
        self._poison: list[tuple[int, int]] = []

    @property
    def count(self) -> int:
        """Parts done that somebody was assigned."""
        return sum(self._parts.values())

    def __bool__(self) -> bool:
        return bool(self._completed or self._parts)

    def add(
        self,
        header: ResultBatch,
        batch: Batch,
        fresh: NDArray[np.bool_],
        completed: Sequence[tuple[int, int, int]],
        payload: Sequence[Buffer] = (),
    ) -> None:
        """A batch of which the parts in `fresh` were new, and by which these events became terminal.

        `payload` is its envelope behind the header.
        """
        self._completed += completed
        assigned = fresh & np.greater_equal(batch.k, 0)  # nobody assigned broadcasts
        self._parts[batch.worker] = self._parts.get(batch.worker, 0) + int(np.count_nonzero(assigned))
        if header.ticks:
            new = set(batch.events[fresh].tolist())
            self._ticks += [(event, batch.worker) for event in header.ticks if event in new]
        if self._recorded:
            together = [(lo, hi) for lo, hi in batch.combined.items() if fresh[lo]]
            self._combined += [Combined(batch.worker, _by_position(batch, lo, hi)) for lo, hi in together]
            if fresh.any():
                whole = digest(batch.states, header.sizes, payload) if fresh.all() else ""
                parts = _in_order(batch, fresh)
                lacking = self._lacking(header, batch, fresh) if header.missing else {}
                self._logged.append(Logged(batch.worker, parts, whole, lacking))
        if header.failures or header.missing:
            self._not_well(header, batch, fresh)

    def add_completed(self, completed: Iterable[tuple[int, int, int]]) -> None:
        """These events became terminal although nobody has done their parts."""
        self._completed += completed

    def _not_well(self, header: ResultBatch, batch: Batch, fresh: NDArray[np.bool_]) -> None:
        name, events = self._workers[batch.worker], batch.events
        failed = [(int(events[i]), hook, text) for i, hook, text in header.failures if fresh[i]]
        self._failed += len(failed)
        self._failures += [Failure(event, hook, name, text) for event, hook, text in failed[:MAX_DESCRIBED]]
        if self._recorded:
            poison = [i for i, _, text in header.failures if text == POISON and fresh[i]]
            ks = np.broadcast_to(batch.k, len(events))
            self._poison += [(int(events[i]), int(ks[i])) for i in poison]
        for i, bits in header.missing:
            if fresh[i]:
                self._lacks(int(events[i]), bits)

    def _lacking(
        self, header: ResultBatch, batch: Batch, fresh: NDArray[np.bool_]
    ) -> dict[str, list[tuple[int, int, int]]]:
        """The new parts of a batch that lacked a stream, by stream."""
        found = {}
        for index, name in enumerate(self._streams):
            mask = np.zeros(len(fresh), np.bool_)
            mask[[i for i, bits in header.missing if bits >> index & 1]] = True
            if (mask := mask & fresh).any():
                found[name] = _in_order(batch, mask)
        return found

    def _lacks(self, event: int, bits: int) -> None:
        for index, name in enumerate(self._streams):
            if bits >> index & 1:
                append_event(self._incomplete.setdefault(name, []), event)

    def message(self, scan: int, frontier: int, closed: bool, duplicates: int) -> PartsDone:
        """All of it, for the controller."""
        return PartsDone(
            scan,
            _merged(self._completed),
            self._parts,
            frontier,
            self._failures,
            self._failed,
            self._incomplete,
            self._ticks,
            duplicates,
            closed,
            combined=self._combined,
            logged=self._logged,
            poison=self._poison,
        )


def _merged(completed: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Adjacent runs of the same state as one."""
    out: list[tuple[int, int, int]] = []
    for lo, hi, state in completed:
        if out and out[-1][1] == lo and out[-1][2] == state:
            out[-1] = (out[-1][0], hi, state)
        else:
            out.append((lo, hi, int(state)))
    return out


def _in_order(batch: Batch, which: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """These parts of a batch in its order, as runs (k, lo, hi)."""
    events, ks = batch.events[which], np.broadcast_to(batch.k, len(batch.events))[which]
    last = np.flatnonzero((np.diff(events) != 1) | (np.diff(ks) != 0))
    columns = np.append(ks[last], ks[-1]), events[np.append(0, last + 1)], events[np.append(last, -1)] + 1
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _by_position(batch: Batch, lo: int, hi: int) -> list[tuple[int, int, int]]:
    """Parts lo..hi-1 of a batch as runs of events at one position: (k, first event, behind the last)."""
    events = batch.events[lo:hi]
    if isinstance(batch.k, int):
        return [(batch.k, *run) for run in as_runs(events)]
    ks = batch.k[lo:hi]
    return [(k, *run) for k in np.unique(ks).tolist() for run in as_runs(events[ks == k])]
