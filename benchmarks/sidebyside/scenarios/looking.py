"""Scans that people look at: how much slower they are for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sidebyside.base import OURS, PEER, Scan, Setup
from sidebyside.figures import CPU, RATE, Ratio, Side, Values
from sidebyside.pollers import Pollers
from sidebyside.scenarios.base import Measure, Options, serving

COUNT, EACH_HZ = 20, 10.0
QUIET, WATCHED = "nobody looks", f"{COUNT} look"
ANSWERS = "answers/s"

EVENTS = {OURS: 400_000, PEER: 4000}


@dataclass(frozen=True, slots=True)
class Polling:
    """Viewers that ask for a dataset of the reducer and for the controller's progress."""

    name: str = "polling"
    about: str = f"8×8 frames, while {COUNT} viewers ask {EACH_HZ:.0f} times a second for the count and the progress"
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = (QUIET, WATCHED)

    @property
    def ratios(self) -> list[Ratio]:
        """Within each system."""
        return [Ratio(f"{s}: watched / quiet", RATE, Side.one(s, WATCHED), Side.one(s, QUIET)) for s in self.systems]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        with serving(system, Setup(), options) as running:
            scan = Scan(options.events(EVENTS[system]))

            def measure(variant: str) -> Values:
                watched = variant == WATCHED
                with Pollers(*running.viewed(), COUNT, EACH_HZ) if watched else nullcontext() as pollers:
                    measured = running.scan(scan)
                values = {RATE: measured.rate, CPU: measured.cpu_us}
                return values | ({ANSWERS: pollers.rate} if pollers else {})

            running.scan(Scan(min(scan.events, 1000)))
            yield measure
