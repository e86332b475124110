"""What a scenario is: variants that are measured in turn, for every system that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sidebyside.base import CEILING, OURS, Service, Setup, System
from sidebyside.ceiling import Ceiling
from sidebyside.figures import Ratio, Values
from sidebyside.ours import Beamfold
from sidebyside.peer import Dranspose

Measure = Callable[[str], Values | None]
"""Measures a variant once; None where the system does not have it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure: `scale` multiplies the events of every scan, `folder` is for the scenario's files and goes after
    it."""

    deadline_s: float
    scale: float
    folder: Path

    def events(self, usual: int, least: int = 20) -> int:
        """So many events, scaled."""
        return max(least, round(usual * self.scale))


class Scenario(Protocol):
    """One thing to measure."""

    @property
    def name(self) -> str:
        """As it is asked for."""

    @property
    def about(self) -> str:
        """What is sent and done, in a sentence."""

    @property
    def systems(self) -> Sequence[str]:
        """Which systems it is for."""

    @property
    def variants(self) -> Sequence[str]:
        """What is measured one after the other in each repetition."""

    @property
    def ratios(self) -> Sequence[Ratio]:
        """What is compared."""

    def prepared(self, system: str, options: Options) -> AbstractContextManager[Measure]:
        """The system, ready to be measured; nothing of it is left afterwards. Raises BenchFailure."""


@contextmanager
def started(name: str, setup: Setup, options: Options) -> Iterator[System]:
    """Any system while it runs."""
    if name == CEILING:
        yield Ceiling(setup, deadline_s=options.deadline_s)
        return
    with serving(name, setup, options) as service:
        yield service


@contextmanager
def serving(name: str, setup: Setup, options: Options) -> Iterator[Service]:
    """A system that is more than a socket, while it runs."""
    kind = Beamfold if name == OURS else Dranspose
    service = kind(setup, deadline_s=options.deadline_s)
    try:
        service.start()
        yield service
    finally:
        service.close()
