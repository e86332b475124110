"""How busy and how fast a service is, from what it says once a second."""

from __future__ import annotations

from typing import Any

import pytest

from beamfold.dispatch.load import KEPT, MAX_STATS, MAX_TEXT, Load, LoadHistory, plain_stats


def beat(scan: int, events: int, active: float, total: float) -> dict[str, Any]:
    return {"scan": scan, "events": events, "last_event": events, "active": active, "total": total}


def steady(seconds: int) -> LoadHistory:
    """Ten events a second, for which half of the time is needed."""
    history = LoadHistory()
    for n in range(1, seconds + 1):
        history.add(beat(1, 10 * n, n / 2, float(n)), 1000.0 + n)
    return history


def test_intervals_are_seconds_back_from_the_last_beat() -> None:
    history = steady(20)
    assert history.newest(1) == Load(10, 0.5, 1.0)
    assert history.newest(10) == Load(100, 5.0, 10.0)
    assert history.newest(1000) == history.whole == Load(200, 10.0, 20.0)
    assert history.last_event == 200


def test_the_scan_is_known_as_a_whole_when_its_first_beats_are_forgotten() -> None:
    history = steady(10 * KEPT)
    assert history.whole == Load(100 * KEPT, 5.0 * KEPT, 10.0 * KEPT)
    assert history.newest(100 * KEPT).total == KEPT - 1


def test_another_scan_begins_anew() -> None:
    history = steady(20)
    history.add(beat(2, 5, 0.1, 0.5), 1030.0)
    assert (history.scan, history.whole, history.newest(60)) == (2, Load(5, 0.1, 0.5), Load(5, 0.1, 0.5))


def test_the_rate_is_that_of_the_last_seconds_and_none_when_nothing_is_said() -> None:
    history = steady(20)
    assert history.rate(1020.5) == pytest.approx(10.0)
    assert history.rate(1030.0) == 0.0
    for n in range(5):
        history.add(beat(1, 200, 10.0, 21.0 + n), 1021.0 + n)
    assert history.rate(1025.0) == 0.0
    assert LoadHistory().rate(0.0) == 0.0


def test_a_scan_that_was_short_has_a_rate_as_well() -> None:
    history = LoadHistory()
    history.add(beat(1, 10, 0.1, 0.5), 1000.0)
    assert history.rate(1000.0) == pytest.approx(20.0)
    history.add(beat(2, 10, 0.0, 0.0), 1000.0)
    assert history.rate(1000.0) == 0.0


def test_steps_are_the_newest_intervals_in_which_something_happened() -> None:
    history = steady(3)
    history.add(beat(1, 30, 1.5, 4.0), 1004.0)
    assert list(history.steps(2)) == [(30, Load(10, 0.5, 1.0))]
    assert [last for last, _ in history.steps(10)] == [10, 20, 30]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"scan": 0, "events": 1},
        {"scan": "1", "events": 1},
        {"scan": 1, "events": -1},
        {"scan": 1, "events": 1.5},
        {"scan": 1, "events": True},
        {"scan": 1, "events": 1, "active": float("nan")},
        {"scan": 1, "events": 1, "total": "long"},
        {"scan": 1, "events": 1, "total": -1.0},
        {"scan": 1, "events": 1, "last_event": None},
    ],
)
def test_numbers_that_cannot_be_change_nothing(wrong: dict[str, Any]) -> None:
    history = steady(2)
    history.add(wrong, 1003.0)
    assert history.whole == Load(20, 1.0, 2.0)


def test_of_what_a_service_says_only_what_can_be_shown_is_kept() -> None:
    said = {"a": 1, "b": 1.5, "c": "x" * 1000, "d": float("inf"), "e": [1], "f": {"g": 1}, "h": None, "i": True}
    assert plain_stats(said) == {"a": 1, "b": 1.5, "c": "x" * MAX_TEXT, "i": True}
    assert len(plain_stats({str(n): n for n in range(1000)})) == MAX_STATS
