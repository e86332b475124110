"""From single scans to figures: medians with their spread, and ratios that are taken within one repetition."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sidebyside.base import Measured

CEILING, OURS, PEER = "ceiling", "beamfold", "dranspose"


@dataclass(frozen=True, slots=True)
class Sample:
    """One scan of a run. The ceiling is measured once for every batch size too, so that all pairs are close in time."""

    repetition: int
    system: str
    batch: int
    measured: Measured


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, their extremes, and how many they are."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a run by name: per system and batch size, and the ratios."""

    rates: dict[str, Spread]
    """Events per second."""
    cpu_us: dict[str, Spread]
    """CPU microseconds per event."""
    ratios: dict[str, Spread]


def figures(samples: Sequence[Sample]) -> Figures:
    """Everything that can be said about these scans; what was not measured has no figure."""
    rates: dict[str, list[float]] = {}
    cpus: dict[str, list[float]] = {}
    for sample in samples:
        name = label(sample.system, sample.batch)
        rates.setdefault(name, []).append(sample.measured.rate)
        if sample.measured.cpu_us is not None:
            cpus.setdefault(name, []).append(sample.measured.cpu_us)
    return Figures(_spreads(rates), _spreads(cpus), _spreads(ratios(samples)))


def label(system: str, batch: int) -> str:
    """How a figure is named: `beamfold, batches of 10`. The ceiling knows no batches."""
    return system if system == CEILING else f"{system}, {batched(batch)}"


def batched(batch: int) -> str:
    """A batch size in words."""
    return "plain" if batch == 1 else f"batches of {batch}"


def ratios(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """Every ratio by name: one value per repetition, of scans of that repetition only.

    Machines drift, so a ratio of two medians would compare what was measured minutes apart.
    """
    found: dict[str, list[float]] = {}
    ordered = sorted(samples, key=lambda s: s.repetition)
    for _, group in groupby(ordered, key=lambda s: s.repetition):
        for name, value in _within(_Repetition(list(group))):
            found.setdefault(name, []).append(value)
    return found


class _Repetition:
    """The scans of one repetition, asked for by system and batch size."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by = {(s.system, s.batch): s.measured for s in samples}
        self.batches = sorted({s.batch for s in samples})

    def rate(self, system: str, batch: int) -> float | None:
        measured = self._by.get((system, batch))
        return None if measured is None else measured.rate

    def cpu(self, system: str, batch: int) -> float | None:
        measured = self._by.get((system, batch))
        return None if measured is None else measured.cpu_us

    def best(
        self,
        value: Callable[[str, int], float | None],
        pick: Callable[[Iterable[float]], float],
        batches: Iterable[int],
    ) -> float | None:
        """The peer's best value over the batch sizes."""
        values = [v for b in batches if (v := value(PEER, b)) is not None]
        return pick(values) if values else None


def _within(one: _Repetition) -> Iterable[tuple[str, float]]:
    """All ratios of a repetition for which both sides were measured."""
    plain = one.rate(OURS, 1)
    several = [b for b in one.batches if b > 1]
    wanted = [
        *((f"beamfold / ceiling, {batched(b)}", one.rate(OURS, b), one.rate(CEILING, b)) for b in one.batches),
        *((f"beamfold / dranspose, {batched(b)}", one.rate(OURS, b), one.rate(PEER, b)) for b in one.batches),
        ("beamfold plain / dranspose's best batched", plain, one.best(one.rate, max, several)),
        ("CPU per event: dranspose's best / beamfold plain", one.best(one.cpu, min, one.batches), one.cpu(OURS, 1)),
    ]
    return [(name, above / below) for name, above, below in wanted if above is not None and below]


def _spreads(values: dict[str, list[float]]) -> dict[str, Spread]:
    return {name: Spread.of(v) for name, v in values.items()}
