"""What the command line asks for, in which order it is measured, and what a failure does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from bench import _parser, _plan
from sidebyside.base import CEILING, OURS, PEER, SYSTEMS, BenchFailure, Inexact
from sidebyside.figures import RATE, Ratio, Side, Values
from sidebyside.measuring import Outcome, Plan, measure, order
from sidebyside.scenarios import QUICK, SCENARIOS
from sidebyside.scenarios.base import Measure, Options


@dataclass
class Fake:
    """Two variants, of which the ceiling has one; `failing` says what a system raises when it is measured again."""

    failing: dict[str, BenchFailure] = field(default_factory=dict)
    name: str = "fake"
    about: str = "nothing at all"
    systems: Sequence[str] = SYSTEMS
    variants: Sequence[str] = ("a", "b")
    ratios: Sequence[Ratio] = (Ratio("ours / peer", RATE, Side.one(OURS, "a"), Side.one(PEER, "a")),)
    up: list[str] = field(default_factory=list)

    @contextmanager
    def prepared(self, system: str, options: Options) -> Iterator[Measure]:
        assert options.folder.is_dir()
        self.up.append(system)
        times = 0

        def measured(variant: str) -> Values | None:
            nonlocal times
            times += 1
            if times > 1 and system in self.failing:
                raise self.failing[system]
            return None if system == CEILING and variant == "b" else {RATE: 10.0}

        try:
            yield measured
        finally:
            self.up.remove(system)


def plan(repeat: int = 1) -> Plan:
    return Plan(("fake",), SYSTEMS, repeat, scale=1.0, deadline_s=1.0)


def run(scenario: Fake, repeat: int = 1) -> tuple[Outcome, list[str]]:
    shown: list[str] = []
    return measure(scenario, plan(repeat), shown.append), shown


def test_what_is_compared_is_measured_in_turn() -> None:
    one = [(variant, system) for variant in ("a", "b") for system in (CEILING, OURS, PEER)]
    assert list(order(Fake(), plan(2))) == [(repetition, *m) for repetition in (1, 2) for m in one]


def test_every_measurement_is_shown_and_counted() -> None:
    scenario = Fake()
    outcome, shown = run(scenario, repeat=2)
    assert [(s.system, s.variant) for s in outcome.samples[:5]] == [
        (CEILING, "a"),
        (OURS, "a"),
        (PEER, "a"),
        (OURS, "b"),
        (PEER, "b"),
    ]
    assert len(shown) == len(outcome.samples) == 10
    assert outcome.figures.ratios["ours / peer"].n == 2
    assert not outcome.troubles
    assert not scenario.up


def test_a_peer_that_hangs_is_ended_and_the_others_go_on() -> None:
    scenario = Fake({PEER: BenchFailure("dranspose HANGS")})
    outcome, shown = run(scenario, repeat=2)
    assert [s.system for s in outcome.samples] == [CEILING, OURS, PEER, OURS, CEILING, OURS, OURS]
    assert outcome.troubles == ["dranspose HANGS"]
    assert "  TROUBLE: dranspose HANGS" in shown
    assert outcome.figures.ratios["ours / peer"].n == 1


@pytest.mark.parametrize("failing", [{PEER: Inexact("one was MISSED")}, {OURS: BenchFailure("beamfold HANGS")}])
def test_a_lost_event_and_a_failure_of_ours_end_it(failing: dict[str, BenchFailure]) -> None:
    scenario = Fake(failing)
    with pytest.raises(BenchFailure, match=r"MISSED|HANGS"):
        run(scenario)
    assert not scenario.up


def test_a_quick_run_is_some_scenarios_once() -> None:
    quick = _plan(_parser().parse_args(["--only", "beamfold,ceiling", "--quick"]))
    assert quick.systems == (CEILING, OURS)
    assert quick.scenarios == QUICK
    assert quick.repeat == 1
    assert quick.scale < 0.1


def test_everything_is_measured_unless_told_otherwise() -> None:
    assert _plan(_parser().parse_args([])).scenarios == tuple(SCENARIOS)
    some = _plan(_parser().parse_args(["--scenarios=replay,tiny", "--scale=0.5", "--quick"]))
    assert some.scenarios == ("replay", "tiny")
    assert some.scale == 0.5


@pytest.mark.parametrize("arguments", ["--scenarios some", "--scale 0", "--scale x", "--only us", "--repeat -1"])
def test_what_makes_no_sense_is_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(arguments.split())
