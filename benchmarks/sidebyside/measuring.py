"""A scenario from its first process to its figures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidebyside.base import PEER, BenchFailure, Inexact
from sidebyside.figures import Figures, Sample, figures
from sidebyside.scenarios.base import Measure, Options, Scenario
from sidebyside.tables import sample_line


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: which scenarios and systems, how often, with how many of the usual events."""

    scenarios: tuple[str, ...]
    systems: tuple[str, ...]
    repeat: int
    scale: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario gave; `troubles` are the peer's, which has no figures from there on."""

    samples: list[Sample]
    troubles: list[str]
    figures: Figures


def measure(scenario: Scenario, plan: Plan, show: Callable[[str], None]) -> Outcome:
    """All measurements of a scenario; whatever happens, every process of every system is gone afterwards.

    Raises BenchFailure, but not for what the peer cannot do: that is a trouble, unless it went on and lost an event.
    """
    samples: list[Sample] = []
    troubles: list[str] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="beamfold-bench-"))
        options = Options(plan.deadline_s, plan.scale, Path(folder))
        stacks = {name: stack.enter_context(ExitStack()) for name in plan.systems if name in scenario.systems}
        measures: dict[str, Measure] = {}

        @contextmanager
        def forgiving(system: str) -> Iterator[None]:
            """The peer is ended at once when it cannot go on: it would only take time from the others."""
            try:
                yield
            except BenchFailure as failure:
                if system != PEER or isinstance(failure, Inexact):
                    raise
                troubles.append(str(failure))
                show(f"  TROUBLE: {failure}")
                measures.pop(system, None)
                stacks[system].close()

        for system in stacks:
            with forgiving(system):
                measures[system] = stacks[system].enter_context(scenario.prepared(system, options))
        for repetition, variant, system in order(scenario, plan):
            if system not in measures:
                continue
            with forgiving(system):
                values = measures[system](variant)
                if values is not None:
                    samples.append(Sample(repetition, system, variant, values))
                    show(sample_line(samples[-1]))
    return Outcome(samples, troubles, figures(samples, scenario.ratios))


def order(scenario: Scenario, plan: Plan) -> Iterator[tuple[int, str, str]]:
    """Repetition, variant and system of every measurement: what is compared lies close in time."""
    for repetition in range(1, plan.repeat + 1):
        for variant in scenario.variants:
            for system in plan.systems:
                yield repetition, variant, system
