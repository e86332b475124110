"""What a person may rely on when frames are lost: every event ends in one true state, and none is misaligned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from beamfold.testing.simulators import stins_series
from flow.deployment import Deployment, Stream, wait_until
from flow.witness import APP, frames, in_step, points, rows, seen

LITTLE = {"retention_bytes": 1 << 20}
STREAMS = {"a": Stream("stins", LITTLE), "b": Stream("stins", LITTLE), "c": Stream("contrast", {"ingester": "b"})}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two cameras and a counted stream; one ingester serves two of the three."""
    folder = tmp_path_factory.mktemp("promises")
    with Deployment(folder, APP, STREAMS, parameters={"p": "0"}) as deployment:
        yield deployment


def scan(deployment: Deployment, events: int, **series: Any) -> dict[str, Any]:
    """The report of a scan in which each detector sends these messages."""
    number = deployment.submit({"streams": list(series), "events": events})
    for stream, messages in series.items():
        deployment.send(stream, messages)
    return deployment.wait_ended(number)


def test_a_frame_missing_from_one_of_two_joined_streams_is_one_incomplete_event_that_names_it(
    deployment: Deployment,
) -> None:
    report = scan(deployment, 20, a=frames(20), b=frames(20, lost={6}))
    assert report["summary"] == "20 events: 19 reduced, 1 incomplete"
    assert report["runs"] == {"incomplete": [[7, 8]]}
    assert report["incomplete"] == {"b": [[7, 8]]}
    assert report["streams"]["b"]["missing"] == [[7, 8]]
    assert report["streams"]["a"]["missing"] == []
    whole = dict(in_step("ab", range(1, 21)))
    assert seen(deployment.state()) == list((whole | {7: {"a": 6}}).items())


@pytest.mark.parametrize("lost", [0, 19])
def test_a_frame_missing_at_either_end_of_a_series_shifts_no_other(deployment: Deployment, lost: int) -> None:
    """Frames are matched by the number in their header, not by the first that arrives; the end shows the rest."""
    report = scan(deployment, 20, a=frames(20), b=frames(20, lost={lost}))
    assert report["states"] == {"reduced": 19, "incomplete": 1}
    assert report["incomplete"] == {"b": [[lost + 1, lost + 2]]}
    whole = dict(in_step("ab", range(1, 21)))
    assert sorted(seen(deployment.state())) == list((whole | {lost + 1: {"a": lost}}).items())


def test_an_event_that_lacks_the_frames_of_all_streams_is_incomplete_and_not_processed(
    deployment: Deployment,
) -> None:
    report = scan(deployment, 9, a=frames(9, lost={3, 4}), b=frames(9, lost={4, 5}))
    assert report["states"] == {"reduced": 6, "incomplete": 2, "incomplete (skipped)": 1}
    assert report["runs"] == {"incomplete": [[4, 5], [6, 7]], "incomplete (skipped)": [[5, 6]]}
    assert report["incomplete"] == {"a": [[4, 6]], "b": [[5, 7]]}
    expected = dict(in_step("ab", range(1, 10))) | {4: {"b": 3}, 6: {"a": 5}}
    del expected[5]
    assert dict(seen(deployment.state())) == expected


def test_a_stream_that_ends_early_leaves_incomplete_events_and_the_scan_ends(deployment: Deployment) -> None:
    report = scan(deployment, 20, a=frames(20), b=frames(12))
    assert report["ended"] == "finished"
    assert report["summary"] == "20 events: 12 reduced, 8 incomplete"
    assert report["incomplete"] == {"b": [[13, 21]]}
    expected = in_step("ab", range(1, 13)) + in_step("a", range(13, 21))
    assert sorted(seen(deployment.state())) == expected


def test_when_all_streams_end_early_the_report_says_from_where_on(deployment: Deployment) -> None:
    report = scan(deployment, 1000, a=frames(7), b=frames(9))
    assert report["ended"] == "finished"
    assert report["reason"] == "every series ended by event 9 of 1000"
    assert report["summary"] == "1000 events: 7 reduced, 2 incomplete, 991 incomplete (skipped)"
    assert report["incomplete"] == {"a": [[8, 1001]], "b": [[10, 1001]]}


def test_frames_beyond_the_map_are_not_used_and_counted(deployment: Deployment) -> None:
    report = scan(deployment, 10, a=frames(13), b=frames(10))
    assert report["states"] == {"reduced": 10}
    assert report["streams"]["a"]["surplus"] == 3
    assert "more frames came than the trigger map has" in report["troubles"][0]
    assert seen(deployment.state()) == in_step("ab", range(1, 11))


def test_a_frame_that_is_sent_twice_is_used_once(deployment: Deployment) -> None:
    messages = frames(10)
    report = scan(deployment, 10, a=[*messages[:5], messages[4], *messages[5:]], b=frames(10))
    assert report["states"] == {"reduced": 10}
    assert report["streams"]["a"]["duplicates"] == 1
    assert seen(deployment.state()) == in_step("ab", range(1, 11))


def test_a_counted_stream_that_comes_up_short_makes_its_events_unverified(deployment: Deployment) -> None:
    """Its frames have no numbers: when one is missing, which one that is cannot be known."""
    report = scan(deployment, 10, a=frames(10), c=points(9))
    assert report["summary"] == "10 events: 9 unverified, 1 incomplete"
    stream = report["streams"]["c"]
    assert (stream["matching"], stream["verified"], stream["frames"], stream["expected"]) == ("counted", False, 9, 10)
    assert report["streams"]["a"]["verified"] is True
    assert report["incomplete"] == {"c": [[10, 11]]}


def test_a_counted_stream_that_is_too_long_makes_its_events_unverified(deployment: Deployment) -> None:
    report = scan(deployment, 10, a=frames(10), c=points(11))
    assert report["summary"] == "10 events: 10 unverified"
    assert (report["streams"]["c"]["surplus"], report["streams"]["c"]["verified"]) == (1, False)


def test_a_counted_stream_that_is_complete_is_verified(deployment: Deployment) -> None:
    report = scan(deployment, 10, a=frames(10), b=frames(10), c=points(10))
    assert report["summary"] == "10 events: 10 reduced"
    assert {s["verified"] for s in report["streams"].values()} == {True}
    assert seen(deployment.state()) == in_step("abc", range(1, 11))


def test_a_detector_whose_start_message_was_lost_is_not_guessed_at(deployment: Deployment) -> None:
    """Nothing says to which series its frames belong. The scan is stopped, and the report says what came."""
    number = deployment.submit({"streams": ["a", "b"], "events": 10})
    deployment.send("a", frames(10))
    deployment.send("b", frames(10)[1:])
    wait_until(lambda: deployment.report(number)["streams"]["b"]["strangers"] == 11, "frames of no series")
    deployment.stop()
    report = deployment.wait_ended(number)
    assert report["ended"] == "stopped"
    assert report["states"] == {"incomplete": 10}
    assert report["incomplete"] == {"b": [[1, 11]]}


def test_a_stream_that_runs_ahead_of_the_other_waits_and_loses_nothing(deployment: Deployment) -> None:
    """Its ingester keeps a bounded number of bytes, then reads no further: the detector's own queue fills up."""

    def large(count: int) -> Iterator[Any]:
        return stins_series(np.full((128, 256), n, "uint32") for n in range(count))

    count = 400
    number = deployment.submit({"streams": ["a", "b"], "events": count})
    ahead = threading.Thread(target=deployment.send, args=("a", large(count)), daemon=True)
    ahead.start()
    wait_until(lambda: deployment.report(number)["streams"]["a"]["frames"] >= 8, "as many frames as there is room for")
    deployment.send("b", large(count))
    ahead.join()
    report = deployment.wait_ended(number)
    assert report["summary"] == "400 events: 400 reduced"
    assert seen(deployment.state()) == in_step("ab", range(1, count + 1))


def test_the_next_scan_is_clean_whatever_the_one_before_lacked(deployment: Deployment) -> None:
    report = scan(deployment, 30, a=frames(30), b=frames(30), c=points(30))
    assert report["summary"] == "30 events: 30 reduced"
    assert {row.worker for row in rows(deployment.state())} == {"worker-0", "worker-1"}
