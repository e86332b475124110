"""Scans at full speed: how many events per second, at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sidebyside.base import CEILING, OURS, PEER, SYSTEMS, Measured, Scan, Setup
from sidebyside.figures import BYTES, BYTES_PER_CORE, CPU, RATE, Ratio, Side, Values
from sidebyside.scenarios.base import Measure, Options, started

WARM_UP = {CEILING: 1000, OURS: 5000, PEER: 200}
"""Events of the untimed scan, at most: the first one of a system imports modules and opens connections."""

PLAIN = 1


@dataclass(frozen=True, slots=True)
class Flow:
    """Scans of some batch sizes.

    `events` per scan by system, of the peer by batch size: so many that a scan takes some seconds. With `bytes_count`
    the figures say bytes per second besides.
    """

    name: str
    about: str
    events: int
    peer_events: Mapping[int, int]
    setup: Setup = field(default_factory=Setup)
    systems: Sequence[str] = SYSTEMS
    bytes_count: bool = False

    @property
    def variants(self) -> list[str]:
        """The batch sizes in words."""
        return [batched(batch) for batch in self.peer_events]

    @property
    def ratios(self) -> list[Ratio]:
        """Against the ceiling, against the peer in the same variant, and against the best that the peer has."""
        plain, all_of = self.variants[0], tuple(self.variants)
        found = [Ratio(f"beamfold / ceiling, {v}", RATE, Side.one(OURS, v), Side.one(CEILING, plain)) for v in all_of]
        found += [Ratio(f"beamfold / dranspose, {v}", RATE, Side.one(OURS, v), Side.one(PEER, v)) for v in all_of]
        if len(all_of) > 1:
            best = Side(PEER, all_of)
            found.append(Ratio(f"beamfold {plain} / dranspose's best", RATE, Side.one(OURS, plain), best))
        cheapest = Side(PEER, all_of, min)
        found.append(Ratio(f"CPU per event: dranspose's best / beamfold {plain}", CPU, cheapest, Side.one(OURS, plain)))
        return found

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        """Started, and warm."""
        with started(system, self.setup, options) as running:

            def measure(variant: str) -> Values | None:
                scan = self._scan(system, variant, options)
                return None if scan is None else self._values(running.scan(scan))

            scan = self._scan(system, self.variants[0], options)
            assert scan is not None  # the first variant is for all systems
            running.scan(Scan(min(WARM_UP[system], scan.events), scan.batch))
            yield measure

    def _scan(self, system: str, variant: str, options: Options) -> Scan | None:
        """The ceiling knows no batches, and is measured once in a repetition."""
        batch = next(b for b in self.peer_events if batched(b) == variant)
        if system == CEILING and variant != self.variants[0]:
            return None
        return Scan(options.events(self.peer_events[batch] if system == PEER else self.events), batch)

    def _values(self, measured: Measured) -> Values:
        values = {RATE: measured.rate, CPU: measured.cpu_us}
        if self.bytes_count:
            sent = measured.events * self.setup.nbytes / 1e9
            values |= {BYTES: sent / measured.seconds, BYTES_PER_CORE: sent / measured.cpu_seconds}
        return values


def batched(batch: int) -> str:
    """A batch size in words."""
    return "plain" if batch == PLAIN else f"batches of {batch}"
