"""Figures for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sidebyside.figures import Figures, Sample, Spread


def heading(facts: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    """What is measured, and on what."""
    load = " ".join(f"{x:.2f}" for x in facts["load_average"])
    return (
        f"{facts['cores']} cores, {facts['cpu']}, Python {facts['python']}, load at start {load}\n"
        f"Beamfold {versions['beamfold']} ({versions['commit']}), dranspose {versions['dranspose']}"
    )


def sample_line(sample: Sample) -> str:
    """One measurement, as soon as it is there."""
    values = "  ".join(f"{number(value):>9} {quantity}" for quantity, value in sample.values.items())
    return f"{sample.repetition:>3}  {sample.label:<32}{values}"


def tables(found: Figures) -> Iterator[str]:
    """The lines of a scenario's result: medians, and in parentheses between which values they lie."""
    quantities = list(found.quantities)
    labels = dict.fromkeys(label for by_label in found.quantities.values() for label in by_label)
    if labels:
        yield "\n" + _row("", quantities)
    for label in labels:
        spreads = (found.quantities[quantity].get(label) for quantity in quantities)
        yield _row(label, [spread_text(spread) if spread else "" for spread in spreads])
    if found.ratios:
        yield "\n  ratios within a repetition"
    for name, spread in found.ratios.items():
        yield f"  {name:<60}{spread_text(spread)}"


def spread_text(spread: Spread) -> str:
    """110,000 (83,000–131,000); the median alone where there is one value."""
    span = f" ({number(spread.low)}–{number(spread.high)})" if spread.n > 1 else ""
    return number(spread.median) + span


def number(value: float) -> str:
    """With three digits or all before the point: 0.123, 1.23, 12.3, 1,234."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _row(label: str, cells: Iterable[str]) -> str:
    return f"  {label:<32}" + "".join(f"{cell:<28}" for cell in cells).rstrip()
