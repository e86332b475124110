"""Scans at a fixed rate: how long an event takes from being sent until it is folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidebyside.base import OURS, PEER, Scan, Setup
from sidebyside.figures import CPU, Ratio, Side, Values
from sidebyside.scenarios.base import Measure, Options, started

SETUP = Setup(worker="Stamped", reducer="LatencyReducer")

SECONDS = 8.0
SETTLED = 100
"""Events at the beginning that the app leaves out (`LatencyReducer.SETTLED`)."""
BUCKET = 1.02
"""From one bucket of the app's histogram to the next, from 1 µs on (`LatencyReducer.RATIO`)."""

MEDIAN, LATE = "ms, p50", "ms, p99"


@dataclass(frozen=True, slots=True)
class Latency:
    """8×8 frames at `rate` per second, one event to a worker; every frame's header says when it was sent."""

    rate: float
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = ("",)

    @property
    def name(self) -> str:
        """With the rate."""
        return f"latency-{self.rate:.0f}Hz"

    @property
    def about(self) -> str:
        """In a sentence."""
        return f"8×8 frames, {self.rate:.0f} per second, from being sent until the result is folded"

    @property
    def ratios(self) -> list[Ratio]:
        """How much later the peer is."""
        return [Ratio(f"dranspose / beamfold, {q}", q, Side.one(PEER), Side.one(OURS)) for q in (MEDIAN, LATE)]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        with started(system, SETUP, options) as running:
            scan = Scan(SETTLED + options.events(round(self.rate * SECONDS)), rate=self.rate)

            def measure(variant: str) -> Values:
                measured = running.scan(scan)
                counts = measured.state["latency"]
                quantities = {MEDIAN: percentile(counts, 0.5), LATE: percentile(counts, 0.99)}
                return quantities | {CPU: measured.cpu_us}

            running.scan(Scan(SETTLED + 20, rate=self.rate))
            yield measure


def percentile(counts: Any, share: float) -> float:
    """Milliseconds that `share` (0 to 1) of the events in this histogram did not exceed, to one percent."""
    summed = np.cumsum(np.asarray(counts))
    bucket = int(np.searchsorted(summed, share * summed[-1]))
    return float(BUCKET ** (bucket + 0.5)) / 1e3
