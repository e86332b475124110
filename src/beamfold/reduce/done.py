"""What the controller is told of batches that are in the result log, gathered into one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamfold.model.runs import append_event
from beamfold.protocols.envelopes import ResultBatch, unpack_events, unpack_positions
from beamfold.protocols.messages import Failure, PartsDone, Run

MAX_DESCRIBED = 20
"""Failures of one batch that are told with their traceback; all are counted."""


class Done:
    """Gathers batches of one scan. `streams` are those of its map, `workers` the names of its logical workers."""

    def __init__(self, streams: Sequence[str], workers: Sequence[str]) -> None:
        self._streams = streams
        self._workers = workers
        self._completed: list[tuple[int, int, int]] = []
        self._parts: dict[int, int] = {}
        self._failures: list[Failure] = []
        self._failed = 0
        self._incomplete: dict[str, list[Run]] = {}
        self._ticks: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._completed or self._parts)

    def add(self, header: ResultBatch, fresh: NDArray[np.bool_], completed: Sequence[tuple[int, int, int]]) -> None:
        """A batch of which the parts in `fresh` were new, and by which these events became terminal."""
        self._completed += completed
        assigned = fresh & np.greater_equal(unpack_positions(header.k, header.n), 0)  # nobody assigned broadcasts
        self._parts[header.worker] = self._parts.get(header.worker, 0) + int(np.count_nonzero(assigned))
        self._ticks += [(event, header.worker) for event in header.ticks]
        if header.failures or header.missing:
            self._not_well(header, fresh, unpack_events(header.events, header.n))

    def _not_well(self, header: ResultBatch, fresh: NDArray[np.bool_], events: NDArray[Any]) -> None:
        name = self._workers[header.worker]
        failed = [(int(events[i]), text) for i, text in header.failures if fresh[i]]
        self._failed += len(failed)
        self._failures += [Failure(event, "process_event", name, text) for event, text in failed[:MAX_DESCRIBED]]
        for i, bits in header.missing:
            if fresh[i]:
                self._lacks(int(events[i]), bits)

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
