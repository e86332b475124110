"""Ratios are taken within a repetition, and only of what was measured."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sidebyside.base import CEILING, OURS, PEER, Measured
from sidebyside.figures import CPU, RATE, Sample, Spread, figures, ratios
from sidebyside.scenarios.flow import Flow
from sidebyside.tables import number, spread_text, tables

FLOW = Flow("some", "frames", 1000, {1: 100, 10: 100})


def run(repetition: int, ours: float, plain: float, batched: float) -> Iterable[Sample]:
    yield Sample(repetition, CEILING, "plain", {RATE: 1000.0})
    for variant, peer, cpu in (("plain", plain, 2000.0), ("batches of 10", batched, 200.0)):
        yield Sample(repetition, OURS, variant, {RATE: ours, CPU: 20.0})
        yield Sample(repetition, PEER, variant, {RATE: peer, CPU: cpu})


def test_a_scan_has_a_rate_and_a_cost_per_event() -> None:
    measured = Measured(events=2000, seconds=4.0, cpu_seconds=0.1)
    assert measured.rate == 500.0
    assert measured.cpu_us == pytest.approx(50.0)


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0, 1)


def test_a_ratio_pairs_measurements_of_one_repetition() -> None:
    """The machine was twice as fast the second time. The ratio of the medians would be 12.5."""
    samples = [*run(1, ours=100.0, plain=10.0, batched=20.0), *run(2, ours=200.0, plain=20.0, batched=40.0)]
    found = ratios(samples, FLOW.ratios)
    assert found["beamfold / dranspose, plain"] == pytest.approx([10.0, 10.0])
    assert found["beamfold / dranspose, batches of 10"] == pytest.approx([5.0, 5.0])
    assert found["beamfold / ceiling, plain"] == pytest.approx([0.1, 0.2])
    assert found["beamfold / ceiling, batches of 10"] == pytest.approx([0.1, 0.2])


def test_the_peer_is_compared_at_its_best_too() -> None:
    found = ratios(run(1, ours=100.0, plain=10.0, batched=20.0), FLOW.ratios)
    assert found["beamfold plain / dranspose's best"] == pytest.approx([5.0])
    assert found["CPU per event: dranspose's best / beamfold plain"] == pytest.approx([10.0])


def test_the_order_of_measurements_does_not_matter() -> None:
    samples = [*run(2, 200.0, 20.0, 40.0), *run(1, 100.0, 25.0, 20.0)]
    ordered = sorted(samples, key=lambda s: s.repetition)
    assert ratios(reversed(samples), FLOW.ratios) == ratios(ordered, FLOW.ratios)


def test_what_was_not_measured_has_no_figure() -> None:
    found = figures([s for s in run(1, 100.0, 10.0, 20.0) if s.system != PEER], FLOW.ratios)
    assert set(found.quantities[RATE]) == {"ceiling", "beamfold, plain", "beamfold, batches of 10"}
    assert set(found.quantities[CPU]) == {"beamfold, plain", "beamfold, batches of 10"}
    assert set(found.ratios) == {"beamfold / ceiling, plain", "beamfold / ceiling, batches of 10"}
    assert not figures([], FLOW.ratios).quantities


def test_a_person_reads_medians_and_ranges() -> None:
    assert [number(x) for x in (110_000.4, 12.34, 1.234, 0.1234)] == ["110,000", "12.3", "1.23", "0.123"]
    assert spread_text(Spread(5.0, 4.0, 60.0, 3)) == "5.00 (4.00–60.0)"
    assert spread_text(Spread.of([5.0])) == "5.00"


def test_a_table_has_a_row_for_every_system_and_a_column_for_every_quantity() -> None:
    lines = list(tables(figures([*run(1, 100.0, 10.0, 20.0)], FLOW.ratios)))
    rows = {line.split("  ")[1]: line.split() for line in lines if line.startswith("  ")}
    assert lines[0].split("  ")[-1].strip() == CPU
    assert rows["ceiling"][1:] == ["1,000"]
    assert rows["beamfold, plain"][2:] == ["100", "20.0"]
    assert rows["beamfold / dranspose, plain"][-1] == "10.0"
