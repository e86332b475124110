"""The schedule of a sender, with a clock that only moves when it is told to."""

from __future__ import annotations

import pytest

from beamfold.model.errors import ConfigError
from beamfold.testing.stream import Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pacer(clock: Clock, rate: float | None, start: float | None = None) -> Pacer:
    return Pacer(rate, start=start, clock=clock, sleep=clock.sleep)


def test_ticks_are_due_at_their_time() -> None:
    clock = Clock()
    schedule = pacer(clock, 10.0)
    for tick in range(4):
        schedule.wait(tick)
    assert clock.now == pytest.approx(100.3)
    assert clock.slept == pytest.approx([0.1, 0.1, 0.1])


def test_lateness_is_caught_up() -> None:
    clock = Clock()
    schedule = pacer(clock, 10.0)
    schedule.wait(0)
    clock.now += 0.25  # a receiver that blocked the sender
    schedule.wait(1)
    schedule.wait(2)
    assert clock.slept == []
    schedule.wait(3)
    assert clock.slept == pytest.approx([0.05])


def test_a_common_start_puts_senders_in_step() -> None:
    clock = Clock()
    pacer(clock, 2.0, start=103.0).wait(0)
    assert clock.now == pytest.approx(103.0)


def test_full_speed_never_looks_at_the_clock() -> None:
    clock = Clock()
    for rate in (None, 0.0):
        schedule = pacer(clock, rate)
        schedule.wait(0)
        schedule.wait(1_000_000)
    assert clock.slept == []


def test_moments_too_short_to_sleep_are_not_slept() -> None:
    clock = Clock()
    schedule = pacer(clock, 100_000.0)
    schedule.wait(0)
    schedule.wait(3)
    assert clock.slept == []


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive rate"):
        Pacer(-1.0)
