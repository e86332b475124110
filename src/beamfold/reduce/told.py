"""What a reducer has told its controller of a scan, added up: a new controller is told all of it at once."""

from __future__ import annotations

from collections import deque

from beamfold.model.report import MAX_FAILURES
from beamfold.model.runs import MAX_RUNS, RunSet
from beamfold.model.states import EventState, EventStates
from beamfold.protocols.messages import Failure, PartsDone

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
