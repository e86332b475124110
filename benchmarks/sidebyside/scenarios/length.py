"""Short and long scans: whether an event costs more, and memory grows, the longer a scan lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sidebyside.base import OURS, PEER, Scan, Setup
from sidebyside.figures import CPU, RATE, Ratio, Side, Values
from sidebyside.memory import Memory
from sidebyside.scenarios.base import Measure, Options, serving

SHORT, LONG = "short", "long"
BEFORE, MOST = "MiB before", "MiB at most"

EVENTS: Mapping[str, Mapping[str, int]] = {
    OURS: {SHORT: 10_000, LONG: 1_000_000},
    PEER: {SHORT: 1000, LONG: 15_000},
}
BATCH = 100
"""The peer's best, so that its long scan is as long as can be in the time."""


@dataclass(frozen=True, slots=True)
class Length:
    """Events of 8×8 frames with a result each, and what all processes hold in memory, shared pages counted once."""

    name: str = "length"
    about: str = "8×8 frames: 10⁴ and 10⁶ events (dranspose 10³ and 15,000), and the memory of all processes"
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = (SHORT, LONG)

    @property
    def ratios(self) -> list[Ratio]:
        """Within each system."""
        compared = ((s, q) for s in self.systems for q in (CPU, MOST))
        return [Ratio(f"{s}: {q}, long / short", q, Side.one(s, LONG), Side.one(s, SHORT)) for s, q in compared]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        with serving(system, Setup(), options) as running:

            def measure(variant: str) -> Values:
                with Memory(running.roots) as memory:
                    measured = running.scan(Scan(options.events(EVENTS[system][variant]), BATCH))
                return {RATE: measured.rate, CPU: measured.cpu_us, BEFORE: memory.before, MOST: memory.most}

            running.scan(Scan(options.events(EVENTS[system][SHORT]), BATCH))
            yield measure
