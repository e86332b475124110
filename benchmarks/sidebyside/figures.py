"""From single measurements to figures: medians with their spread, and ratios that are taken within one repetition."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sidebyside.base import CEILING

RATE, CPU = "events/s", "CPU µs per event"
BYTES, BYTES_PER_CORE = "GB/s", "GB/s per core"

Values = Mapping[str, float]
"""What was measured once, by the name of the quantity, with its unit."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: a system, in one variant of a scenario, in one repetition."""

    repetition: int
    system: str
    variant: str
    values: Values

    @property
    def label(self) -> str:
        """How its figures are named: `beamfold, batches of 10`."""
        return label(self.system, self.variant)


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
class Side:
    """One side of a ratio: a system in one variant, or in the `best` of several (max or min)."""

    system: str
    variants: tuple[str, ...]
    best: Callable[[Iterable[float]], float] = max

    @classmethod
    def one(cls, system: str, variant: str = "") -> Side:
        """In this variant alone."""
        return cls(system, (variant,))

    def value(self, samples: Iterable[Sample], quantity: str) -> float | None:
        """Of the samples of one repetition; None where it was not measured."""
        mine = (s for s in samples if s.system == self.system and s.variant in self.variants)
        found = [s.values[quantity] for s in mine if quantity in s.values]
        return self.best(found) if found else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """One quantity of `above` over the same of `below`."""

    name: str
    quantity: str
    above: Side
    below: Side


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a scenario: quantities by name and label, and ratios by name."""

    quantities: dict[str, dict[str, Spread]]
    ratios: dict[str, Spread]


def label(system: str, variant: str) -> str:
    """A system in a variant, in words. The ceiling is the same in all of them."""
    return f"{system}, {variant}" if variant and system != CEILING else system


def figures(samples: Sequence[Sample], wanted: Sequence[Ratio]) -> Figures:
    """Everything that can be said about these; what was not measured has no figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for quantity, value in sample.values.items():
            found.setdefault(quantity, {}).setdefault(sample.label, []).append(value)
    quantities = {quantity: _spreads(by_label) for quantity, by_label in found.items()}
    return Figures(quantities, _spreads(ratios(samples, wanted)))


def ratios(samples: Iterable[Sample], wanted: Sequence[Ratio]) -> dict[str, list[float]]:
    """Every ratio by name: one value per repetition, of measurements of that repetition only.

    Machines drift, so a ratio of two medians would compare what was measured minutes apart.
    """
    found: dict[str, list[float]] = {}
    ordered = sorted(samples, key=lambda s: s.repetition)
    for _, group in groupby(ordered, key=lambda s: s.repetition):
        for name, value in _within(list(group), wanted):
            found.setdefault(name, []).append(value)
    return found


def _within(samples: Sequence[Sample], wanted: Sequence[Ratio]) -> Iterator[tuple[str, float]]:
    for ratio in wanted:
        above, below = ratio.above.value(samples, ratio.quantity), ratio.below.value(samples, ratio.quantity)
        if above is not None and below:
            yield ratio.name, above / below


def _spreads(values: dict[str, list[float]]) -> dict[str, Spread]:
    return {name: Spread.of(v) for name, v in values.items()}
