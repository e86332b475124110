"""What a reducer has told its controller of a scan, added up: a new controller is told all of it at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from beamfold.model.report import MAX_FAILURES
from beamfold.model.runs import MAX_RUNS, RunSet
from beamfold.model.states import EventState, EventStates
from beamfold.protocols.messages import Failure, PartsDone, Run


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """What was told, as a checkpoint keeps it; `states` are EventStates.to_wire()."""

    states: dict[str, Any]
    frontier: int
    failures: list[Failure]
    failed: int
    incomplete: dict[str, list[Run]]
    ticks: list[tuple[int, int]]
    duplicates: int


RECORDED = 10_000
"""Messages whose part of a recording is told again: the controller lets no more lines wait for its disk, so that what
came before them is written."""


class Told:
    """Adds up `PartsDone` messages; memory is bounded as in the controller, which keeps the same."""

    def __init__(self) -> None:
        self._states = EventStates()
        self._frontier = 0
        self._failures: list[Failure] = []
        self._failed = 0
        self._incomplete: dict[str, RunSet] = {}
        self._ticks: list[tuple[int, int]] = []
        self._duplicates = 0
        self._combined = 0
        self._recorded: deque[PartsDone] = deque(maxlen=RECORDED)
        self._closed = False
        self._finished = False

    def add(self, message: PartsDone) -> None:
        """This was told."""
        for lo, hi, state in message.completed:
            self._states.set(lo, hi, state)
        self._frontier = message.frontier
        self._failures += message.failures[: MAX_FAILURES - len(self._failures)]
        self._failed += message.failed_total
        for name, runs in message.incomplete.items():
            known = self._incomplete.setdefault(name, RunSet())
            for lo, hi in runs:
                if known.count < MAX_RUNS:
                    known.add(lo, hi)
        self._ticks += message.ticks
        self._duplicates += message.duplicates
        self._combined += message.combined_before + len(message.combined)
        if message.combined or message.logged or message.poison:
            self._recorded.append(message)
        self._closed = self._closed or message.closed
        self._finished = self._finished or message.finished  # a result may come twice after that

    def fold_failed(self, runs: Sequence[Run]) -> None:
        """Of these events, which are terminal, it was told that a result could not be folded."""
        for lo, hi in runs:
            self._states.raise_to(lo, hi, EventState.FAILED)

    def close(self, last_event: int) -> None:
        """The map came to end with this data event: what was told of those beyond it is forgotten."""
        self._states.set(last_event + 1, 1 << 62, EventState.PENDING)

    def failed_runs(self) -> list[Run]:
        """The events that have failed."""
        return self._states.runs(EventState.FAILED, limit=1 << 62)

    def to_sum(self) -> Sum:
        """All of it, for `of_sum`; not whether the map was closed, or all was folded: that is told again."""
        incomplete = {name: runs.runs() for name, runs in self._incomplete.items()}
        counted = self._failures.copy(), self._failed, incomplete, self._ticks.copy(), self._duplicates
        return Sum(self._states.to_wire(), self._frontier, *counted)

    @classmethod
    def of_sum(cls, known: Sum) -> Told:
        """Undo `to_sum`. Raises CodecError."""
        told = cls()
        told._states = EventStates.from_wire(known.states)
        told._frontier = known.frontier
        told._failures, told._failed = list(known.failures), known.failed
        told._incomplete = {name: RunSet(runs) for name, runs in known.incomplete.items()}
        told._ticks, told._duplicates = list(known.ticks), known.duplicates
        return told

    def inventory(self, scan: int) -> PartsDone:
        """All of it; but of what is only for the recording the newest, which may not have been written."""
        completed = [
            (lo, hi, int(state)) for state in EventState if state for lo, hi in self._states.runs(state, limit=1 << 62)
        ]
        combined = [each for message in self._recorded for each in message.combined]
        return PartsDone(
            scan,
            completed,
            {},
            self._frontier,
            self._failures,
            self._failed,
            {name: runs.runs() for name, runs in self._incomplete.items()},
            self._ticks,
            self._duplicates,
            self._closed,
            self._finished,
            combined,
            [batch for message in self._recorded for batch in message.logged],
            [part for message in self._recorded for part in message.poison],
            inventory=True,
            combined_before=self._combined - len(combined),
        )
