"""Turns: free at low rates, spaced at high ones, never later than they must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.transport.pace import Pace


class Time:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def paced(time: Time, interval: float = 0.001, burst: int = 8) -> Pace:
    return Pace(interval, burst, lambda: time.now, time.sleep)


def test_nothing_waits_at_low_rates() -> None:
    time = Time()
    pace = paced(time)
    for _ in range(1000):
        for _ in range(4):  # a frame, and what follows from it
            pace.turn()
        time.now += 0.005
    assert not time.slept


def test_turns_that_follow_one_another_for_long_are_spaced() -> None:
    time = Time()
    pace = paced(time)
    for _ in range(1008):
        pace.turn()
    assert time.now - 100 == pytest.approx(1.0)


def test_long_turns_are_never_held_up() -> None:
    time = Time()
    pace = paced(time)
    for _ in range(100):
        pace.turn()
        time.now += 0.002
    assert not time.slept


@given(st.lists(st.floats(0, 0.01), max_size=200))
def test_a_wait_is_one_interval_at_most(pauses: list[float]) -> None:
    time = Time()
    pace = paced(time)
    for pause in pauses:
        pace.turn()
        time.now += pause
    assert all(slept <= 0.0010001 for slept in time.slept)
