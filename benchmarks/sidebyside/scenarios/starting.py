"""Before the first frame: starting everything, and submitting a trigger map."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sidebyside.base import OURS, PEER, Scan, Setup
from sidebyside.figures import Ratio, Side, Values
from sidebyside.processes import cpu_seconds
from sidebyside.scenarios.base import Measure, Options, serving

READY, USED = "s until ready", "CPU s until ready"
ANSWERED = "ms until submitted"

SIZES: Mapping[str, int] = {f"10^{n} events": 10**n for n in range(3, 8)}
LARGEST: Mapping[str, int] = {OURS: 10**7, PEER: 10**5}


@dataclass(frozen=True, slots=True)
class StartUp:
    """From the command until scans can be submitted."""

    name: str = "start-up"
    about: str = "from the command until scans can be submitted"
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = ("",)

    @property
    def ratios(self) -> list[Ratio]:
        """How much longer the peer takes."""
        return [Ratio(f"dranspose / beamfold, {q}", q, Side.one(PEER), Side.one(OURS)) for q in (READY, USED)]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Nothing runs between two measurements."""

        def measure(variant: str) -> Values:
            began = time.monotonic()
            with serving(system, Setup(), options) as running:
                seconds = time.monotonic() - began
                return {READY: seconds, USED: sum(cpu_seconds(running.roots()).values())}

        yield measure


@dataclass(frozen=True, slots=True)
class Submission:
    """From sending a uniform trigger map until the answer that every service has it."""

    name: str = "submission"
    about: str = "from sending a uniform trigger map until every service has it"
    systems: Sequence[str] = (OURS, PEER)
    variants: Sequence[str] = tuple(SIZES)

    @property
    def ratios(self) -> list[Ratio]:
        """Size by size, and our largest against the peer's smallest."""
        smallest, largest = self.variants[0], self.variants[-1]
        same = [Ratio(f"dranspose / beamfold, {v}", ANSWERED, Side.one(PEER, v), Side.one(OURS, v)) for v in SIZES]
        name = f"dranspose, {smallest} / beamfold, {largest}"
        return [*same, Ratio(name, ANSWERED, Side.one(PEER, smallest), Side.one(OURS, largest))]

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        with serving(system, Setup(), options) as running:

            def measure(variant: str) -> Values | None:
                if SIZES[variant] > LARGEST[system]:
                    return None
                return {ANSWERED: running.submit(Scan(SIZES[variant])) * 1e3}

            running.submit(Scan(1000))
            yield measure
