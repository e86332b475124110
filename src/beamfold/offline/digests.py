"""Whether a replay's results are those of the live scan, batch by batch, by the digests that were recorded.

What a batch says of its parts does not depend on when it was made, but how large arrays are numbered in it depends on
what else is in it. So results are gathered until all those of a recorded batch are there, and put together as it was.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beamfold.model.events import Buffer
from beamfold.offline.partruns import PartRuns
from beamfold.protocols.codec import Reader, TypeTable, encode
from beamfold.protocols.recordings import Logged, digest
from beamfold.reduce.batch import Batch


class _Outcome(NamedTuple):
    """What became of a part: `body` is its result, which `payload` is (again) where it has large arrays."""

    state: int
    body: Buffer
    payload: Any


class Digests:
    """Compares. `logged` are the recorded batches, `types` the app's, `end` the last data event (None: not known).

    Call `finish` once nothing more comes: then `differing` are the batches that came out otherwise or were not
    processed again, `same` counts the others, and `without` those that cannot be compared.
    """

    def __init__(self, logged: Sequence[Logged], types: TypeTable, end: int | None = None) -> None:
        self._logged = logged
        self._types = types
        # Of what lies beyond the end nothing was folded, and the end event may have the number of one that was there.
        self._open = {
            number: sum(hi - lo for _, lo, hi in batch.parts)
            for number, batch in enumerate(logged)
            if batch.digest and (end is None or all(k < 0 or hi <= end + 1 for k, _, hi in batch.parts))
        }
        self._runs = PartRuns([b.parts if n in self._open else [] for n, b in enumerate(logged)])
        self._gathered: dict[int, dict[tuple[int, int], _Outcome]] = {}
        self.without = len(logged) - len(self._open)
        self.same = 0
        self.differing: list[Logged] = []

    def add(self, batch: Batch) -> None:
        """These parts were processed in the replay."""
        n = len(batch.events)
        reader = Reader(batch.buffers, self._types, False) if batch.buffers else None
        columns = batch.events, np.broadcast_to(batch.k, n), np.broadcast_to(batch.states, n)
        for event, k, state, body in zip(*(column.tolist() for column in columns), batch.bodies, strict=True):
            number = self._runs.find(event, k)
            if number is None or self._logged[number].worker != batch.worker:
                continue
            outcome = _Outcome(state, body, reader.decode(body) if reader and body else None)
            gathered = self._gathered.setdefault(number, {})
            gathered[event, k] = outcome
            if len(gathered) == self._open[number]:
                del self._open[number]
                self._compare(self._logged[number], self._gathered.pop(number))

    def finish(self) -> None:
        """Nothing more comes."""
        self.differing += [self._logged[number] for number in self._open]
        self.differing.sort(key=first_event)
        self._open, self._gathered = {}, {}

    def _compare(self, batch: Logged, gathered: dict[tuple[int, int], _Outcome]) -> None:
        buffers: list[Buffer] = []
        found = [gathered[event, k] for k, lo, hi in batch.parts for event in range(lo, hi)]
        bodies = [
            outcome.body if outcome.payload is None else encode(outcome.payload, buffers, types=self._types)
            for outcome in found
        ]
        states = np.array([outcome.state for outcome in found], np.uint8)
        sizes = array("I", map(len, bodies)).tobytes()
        if digest(states, sizes, [b"".join(bodies), *buffers]) == batch.digest:
            self.same += 1
        else:
            self.differing.append(batch)


def first_event(batch: Logged) -> int:
    """The first event of which a batch has a part."""
    return min(lo for _, lo, _ in batch.parts)
