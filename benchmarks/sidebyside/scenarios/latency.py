"""Scans at a fixed rate: how long an event takes from being sent until it is folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sidebyside.base import CEILING, OURS, PEER, SYSTEMS, Scan, Setup
from sidebyside.chain import Chain
from sidebyside.figures import CPU, Ratio, Side, Values
from sidebyside.histogram import SETTLED, percentile
from sidebyside.scenarios.base import Measure, Options, started

SETUP = Setup(worker="Stamped", reducer="LatencyReducer")

SECONDS = 8.0

MEDIAN, LATE = "ms, p50", "ms, p99"


@dataclass(frozen=True, slots=True)
class Latency:
    """8×8 frames at `rate` per second, one event to a worker; every frame's header says when it was sent."""

    rate: float
    systems: Sequence[str] = SYSTEMS
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
        """How much later the peer is than we, and either than a bare chain of processes."""
        pairs = [(PEER, OURS), (OURS, CEILING), (PEER, CEILING)]
        named = [(f"{above} / {below}", Side.one(above), Side.one(below)) for above, below in pairs]
        return [Ratio(f"{name}, {q}", q, above, below) for name, above, below in named for q in (MEDIAN, LATE)]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        chain = Chain(SETUP, deadline_s=options.deadline_s)
        with nullcontext(chain) if system == CEILING else started(system, SETUP, options) as running:
            scan = Scan(SETTLED + options.events(round(self.rate * SECONDS)), rate=self.rate)

            def measure(variant: str) -> Values:
                measured = running.scan(scan)
                counts = measured.state["latency"]
                quantities = {MEDIAN: percentile(counts, 0.5), LATE: percentile(counts, 0.99)}
                return quantities | {CPU: measured.cpu_us}

            running.scan(Scan(SETTLED + 20, rate=self.rate))
            yield measure
