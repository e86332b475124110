"""Where the time of an event goes: the stages of its way, and a histogram of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from beamfold.model.errors import CodecError
from beamfold.model.histogram import Histogram


class Stage(StrEnum):
    """A stretch of the way from a detector's socket into the reducer's state.

    INGEST and TRANSIT count frames, the others parts; broadcasts are not counted, because they wait for other events by
    design. A part is as old as the first of its frames. For a part of one stream the first six add up to TOTAL.
    """

    INGEST = "ingest"
    """Taken from the detector's socket, until sent to its worker."""

    TRANSIT = "transit"
    """Sent, until taken by the worker."""

    WAIT = "wait"
    """Its first frame taken by the worker, until `process_event` begins: joining, and waiting for user code."""

    PROCESS = "process"
    """In user code."""

    RESULT = "result"
    """Processed, until in the reducer's result log."""

    FOLD = "fold"
    """In the result log, until folded: waiting for earlier events, and user code."""

    TOTAL = "total"
    """Its first frame taken from the detector's socket, until folded."""


_STAGES = {stage.value: stage for stage in Stage}


class Latencies:
    """A histogram for every stage of which something is known."""

    def __init__(self) -> None:
        self._of: dict[Stage, Histogram] = {}

    def __getitem__(self, stage: Stage) -> Histogram:
        """The histogram of a stage, to observe into."""
        found = self._of.get(stage)
        if found is None:
            found = self._of[stage] = Histogram()
        return found

    def items(self) -> list[tuple[Stage, Histogram]]:
        """Stages that have been observed, in the order of the way."""
        return [(stage, self._of[stage]) for stage in Stage if stage in self._of]

    def add(self, other: Latencies) -> None:
        """Take in what another service observed, or another scan."""
        for stage, histogram in other.items():
            self[stage].add(histogram)

    @classmethod
    def sum(cls, many: Iterable[Latencies]) -> Latencies:
        """All of them together."""
        out = cls()
        for one in many:
            out.add(one)
        return out

    def to_wire(self) -> dict[str, list[int]]:
        """For a Beat."""
        return {stage.value: histogram.to_wire() for stage, histogram in self.items()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Sequence[int]]) -> Latencies:
        """What `to_wire` made; CodecError for anything else."""
        out = cls()
        for name, numbers in wire.items():
            stage = _STAGES.get(name)
            if stage is None:
                raise CodecError(f"there is no stage {name[:50]!r}")
            out._of[stage] = Histogram.from_wire(numbers)
        return out
