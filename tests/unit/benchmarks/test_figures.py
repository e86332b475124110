"""Ratios are taken within a repetition, and only of what was measured."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sidebyside.base import Measured
from sidebyside.figures import CEILING, OURS, PEER, Sample, Spread, figures, ratios


def sample(repetition: int, system: str, batch: int, rate: float, cpu_us: float | None = None) -> Sample:
    """A scan of 1000 frames at this rate, with so many CPU microseconds per event."""
    cpu = None if cpu_us is None else cpu_us * 1000 / 1e6
    return Sample(repetition, system, batch, Measured(1000, 1000 / rate, cpu))


def run(repetition: int, ours: float, plain: float, batched: float) -> Iterable[Sample]:
    for batch in (1, 10):
        yield sample(repetition, CEILING, batch, 1000.0)
        yield sample(repetition, OURS, batch, ours, cpu_us=20.0)
        yield sample(repetition, PEER, batch, plain if batch == 1 else batched, cpu_us=2000.0 / batch)


def test_a_scan_has_a_rate_and_a_cost_per_event() -> None:
    measured = Measured(frames=2000, seconds=4.0, cpu_seconds=0.1)
    assert measured.rate == 500.0
    assert measured.cpu_us == pytest.approx(50.0)
    assert Measured(frames=2000, seconds=4.0).cpu_us is None


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0, 1)


def test_a_ratio_pairs_scans_of_one_repetition() -> None:
    """The machine was twice as fast the second time. The ratio of the medians would be 12.5."""
    found = ratios([*run(1, ours=100.0, plain=10.0, batched=20.0), *run(2, ours=200.0, plain=20.0, batched=40.0)])
    assert found["beamfold / dranspose, plain"] == pytest.approx([10.0, 10.0])
    assert found["beamfold / dranspose, batches of 10"] == pytest.approx([5.0, 5.0])
    assert found["beamfold / ceiling, plain"] == pytest.approx([0.1, 0.2])


def test_the_peer_is_compared_at_its_best_too() -> None:
    found = ratios(run(1, ours=100.0, plain=10.0, batched=20.0))
    assert found["beamfold plain / dranspose's best batched"] == pytest.approx([5.0])
    assert found["CPU per event: dranspose's best / beamfold plain"] == pytest.approx([10.0])


def test_the_order_of_scans_does_not_matter() -> None:
    scans = [*run(2, 200.0, 20.0, 40.0), *run(1, 100.0, 25.0, 20.0)]
    assert ratios(reversed(scans)) == ratios(sorted(scans, key=lambda s: s.repetition))


def test_what_was_not_measured_has_no_figure() -> None:
    found = figures([s for s in run(1, 100.0, 10.0, 20.0) if s.system != PEER])
    assert set(found.rates) == {"ceiling", "beamfold, plain", "beamfold, batches of 10"}
    assert set(found.cpu_us) == {"beamfold, plain", "beamfold, batches of 10"}
    assert set(found.ratios) == {"beamfold / ceiling, plain", "beamfold / ceiling, batches of 10"}
    assert not figures([]).ratios


def test_the_ceiling_is_one_figure_over_all_batch_sizes() -> None:
    assert figures([*run(1, 1.0, 1.0, 1.0)]).rates["ceiling"].n == 2
