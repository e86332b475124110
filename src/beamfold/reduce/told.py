"""What a reducer has told its controller of a scan, added up: a new controller is told all of it at once."""

from __future__ import annotations

from beamfold.model.report import MAX_FAILURES
from beamfold.model.runs import MAX_RUNS, RunSet
from beamfold.model.states import EventState, EventStates
from beamfold.protocols.messages import Failure, PartsDone


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
        self._closed = message.closed
        self._finished = self._finished or message.finished  # what comes twice after that may be told, too

    def inventory(self, scan: int) -> PartsDone:
        """All of it. Which results were combined is in the recording, and is not told again."""
        completed = [
            (lo, hi, int(state)) for state in EventState if state for lo, hi in self._states.runs(state, limit=1 << 62)
        ]
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
            inventory=True,
        )
