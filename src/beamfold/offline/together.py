"""Which parts a worker has to process together, so that the same results are combined as when the scan was live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from beamfold.offline.partruns import PartRuns
from beamfold.work.machine import Part


class Together:
    """Holds parts of one worker back until all are there of which one result was made.

    `combined` has for each such result its parts, as runs (k, lo, hi) of events. All other parts go alone.
    """

    def __init__(self, combined: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        self._runs = PartRuns(combined)
        self._sizes = [sum(hi - lo for _, lo, hi in parts) for parts in combined]
        self._waiting: dict[int, list[Part]] = {}

    def batches(self, parts: Iterable[Part]) -> list[list[Part]]:
        """What can be processed now that these parts have come, batch by batch."""
        found: list[list[Part]] = []
        for part in parts:
            number = self._runs.find(part.event, part.k)
            if number is None:
                found.append([part])
                continue
            waiting = self._waiting.setdefault(number, [])
            waiting.append(part)
            if len(waiting) == self._sizes[number]:
                found.append(self._waiting.pop(number))
        return found

    def rest(self) -> list[list[Part]]:
        """What waits for parts that will not come, because the recording broke off."""
        rest, self._waiting = [*self._waiting.values()], {}
        return rest
