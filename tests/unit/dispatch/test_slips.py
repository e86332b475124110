"""A stream that slips is told of, and one that only looks like it is not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from beamfold.dispatch.slips import LEAST, MAX_POINTS, Slip, Track, slips

PERIOD = 0.5


def track(events: int, when: Callable[[int], float], every: int = 1) -> Track:
    made = Track()
    for event in range(1, events + 1, every):
        made.add(event, 1e9 + when(event))
    return made


def steady(event: int) -> float:
    return PERIOD * event


def late_by(n: int, at: int, jitter: float = 0.0, seed: int = 1) -> Callable[[int], float]:
    """From event `at` on each frame comes when that of n events later is due."""
    random = Random(seed)
    return lambda event: PERIOD * (event + 0.1 + jitter * random.random() + (n if event >= at else 0))


@pytest.mark.parametrize("missed", [1, 3])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_missed_trigger_is_a_slip_at_about_the_place_where_it_was_missed(missed: int, every: int) -> None:
    tracks = {"a": track(200, steady, every), "b": track(200 - missed, late_by(missed, 80, 0.2), every)}
    (slip,) = slips(tracks, {"a": 0, "b": missed})
    assert (slip.stream, slip.against, slip.frames) == ("b", "a", missed)
    assert abs(slip.near - 80) <= 2 * every
    assert "behind stream a" in slip.text and "short at its end" in slip.text


def test_a_trigger_too_many_is_a_slip_ahead() -> None:
    tracks = {"a": track(100, steady), "b": track(100, late_by(-1, 40))}
    (slip,) = slips(tracks, {"a": 0, "b": -1})
    assert (slip.stream, slip.frames) == ("b", -1)
    assert "ahead of stream a" in slip.text and "1 frame too long" in slip.text


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("lacking", [0, 1, 5])
def test_a_stream_that_is_in_step_until_it_ends_has_not_slipped(seed: int, lacking: int) -> None:
    tracks = {"a": track(100, steady), "b": track(100 - lacking, late_by(0, 0, 0.9, seed))}
    assert not slips(tracks, {"a": 0, "b": lacking})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("jitter", [3.0, 30.0])
def test_where_arrivals_are_too_uneven_to_tell_nothing_is_told(seed: int, jitter: float) -> None:
    tracks = {"a": track(400, steady), "b": track(399, late_by(1, 200, jitter, seed))}
    assert not slips(tracks, {"a": 0, "b": 1})


def test_a_stream_that_is_slow_and_whole_has_not_slipped() -> None:
    tracks = {"a": track(100, steady), "b": track(100, late_by(1, 50))}
    assert not slips(tracks, {"a": 0, "b": 0})


def test_a_lag_that_grows_all_the_time_is_no_slip() -> None:
    tracks = {"a": track(200, steady), "b": track(199, lambda e: PERIOD * e * 1.05)}
    assert not slips(tracks, {"a": 0, "b": 1})


def test_a_lag_that_goes_away_is_no_slip() -> None:
    tracks = {"a": track(200, steady), "b": track(199, lambda e: PERIOD * (e + (50 <= e < 120)))}
    assert not slips(tracks, {"a": 0, "b": 1})


@pytest.mark.parametrize("at", [2, 99])
def test_what_was_seen_a_few_times_only_is_not_told(at: int) -> None:
    tracks = {"a": track(101, steady), "b": track(100, late_by(1, at))}
    assert not slips(tracks, {"a": 0, "b": 1})


def test_without_tracks_or_ends_there_is_nothing_to_tell() -> None:
    short = {"a": track(2 * LEAST - 1, steady), "b": track(2 * LEAST - 1, late_by(1, LEAST))}
    assert not slips({}, {}) and not slips({}, {"a": 0, "b": 1}) and not slips(short, {"a": 0, "b": 1})


def test_all_streams_that_are_as_short_as_each_other_are_in_step() -> None:
    tracks = {"a": track(50, steady), "b": track(50, late_by(1, 25))}
    assert not slips(tracks, {"a": 50, "b": 50})


def test_a_track_is_bounded_and_covers_the_whole_way() -> None:
    long = track(100 * MAX_POINTS, steady)
    times, events = long.arrays()
    assert MAX_POINTS // 2 <= len(times) <= MAX_POINTS
    assert events[0] <= 256 and events[-1] >= 99 * MAX_POINTS


def test_a_track_leaves_out_what_does_not_go_on() -> None:
    made = Track()
    for event, stamp in [(1, 1.0), (2, 1.0), (1, 2.0), (3, 0.5), (2, 3.0)]:
        made.add(event, stamp)
    assert [list(column) for column in made.arrays()] == [[1.0, 3.0], [1.0, 2.0]]


def test_a_slip_of_several_frames_is_said_so() -> None:
    assert "by 3 frames at about event 7" in Slip("b", "a", 3, 7).text
