"""Figures for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sidebyside.figures import Figures, Sample, Spread, label


def scan_line(sample: Sample) -> str:
    """One scan, as soon as it is measured."""
    measured = sample.measured
    cpu = "" if measured.cpu_us is None else f"  {measured.cpu_us:>9,.1f} µs CPU/event"
    name = label(sample.system, sample.batch)
    return f"{sample.repetition:>3}  {name:<28}{measured.rate:>10,.0f} events/s{cpu}  ({measured.seconds:.1f} s)"


def tables(facts: Mapping[str, Any], versions: Mapping[str, Any], found: Figures) -> Iterator[str]:
    """The lines of the whole result."""
    load = " ".join(f"{x:.2f}" for x in facts["load_average"])
    yield f"{facts['cores']} cores, {facts['cpu']}, Python {facts['python']}, load at start {load}"
    yield f"Beamfold {versions['beamfold']} ({versions['commit']}), dranspose {versions['dranspose']}"
    yield from _table("events/s", found.rates, 0)
    yield from _table("CPU µs per event, all processes", found.cpu_us, 1)
    yield from _table("ratios within a repetition", found.ratios, 2)


def _table(title: str, spreads: Mapping[str, Spread], digits: int) -> Iterator[str]:
    if spreads:
        yield f"\n{title:<50}{'median':>10}   min – max"
    for name, spread in spreads.items():
        yield f"  {name:<48}{spread.median:>10,.{digits}f}   {spread.low:,.{digits}f} – {spread.high:,.{digits}f}"
