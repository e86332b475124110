"""Detectors that repeat, delay, shuffle, skip and break off: each message is counted as what it is, and nothing is
guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import pytest

import beamfold
from beamfold.testing.wire import Message
from flow.deployment import Deployment, Stream, wait_until
from flow.witness import APP, frames, in_step, rows, seen

ALARMS = [r"stream b: it seems to have slipped", r"is stopped: nothing came from"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    streams = {"a": Stream(), "b": Stream()}
    folder = tmp_path_factory.mktemp("astray")
    with Deployment(folder, APP, streams, parameters={"p": "0"}, complaints=ALARMS) as deployment:
        yield deployment


def filed(report: dict[str, Any]) -> dict[str, Any]:
    """The report as it is in the result file, once it is there."""

    def there() -> Any:
        with h5py.File(report["result_file"]) as file:
            return json.loads(file["beamfold_report/json"][()]) if "beamfold_report" in file else None

    found: dict[str, Any] = wait_until(there, "the report in the result file")
    return found


def test_what_goes_astray_on_one_scan_is_counted_by_what_it_is(deployment: Deployment) -> None:
    """The scan before was stopped half way, and its detector sends the rest of that series into this one."""
    first = deployment.submit({"streams": ["a", "b"], "events": 40})
    old = frames(40)
    for stream in "ab":
        deployment.send(stream, old[:21])
    deployment.wait_reached(21)
    deployment.stop()
    deployment.wait_ended(first)

    scan = deployment.submit({"streams": ["a", "b"], "events": 40})
    deployment.send("a", old[21:])
    start, *images, end = frames(40)
    order = [0, 1, 2, 2, 3, 5, 4, 7, 8, 9, 10, 6, *range(11, 20), *range(21, 40)]
    broken: Message = [b'{"htype": "image", "frame"', b"x"]
    deployment.send("a", [start, *(images[n] for n in order), broken, end])
    deployment.send("b", frames(40))

    report = deployment.wait_ended(scan)
    a, b = report["streams"]["a"], report["streams"]["b"]
    counted = ("frames", "strangers", "duplicates", "late", "out_of_order", "malformed", "discarded", "surplus")
    assert {what: a[what] for what in counted} == {
        "frames": 37,
        "strangers": len(old[21:]),
        "duplicates": 1,
        "late": 2,
        "out_of_order": 2,
        "malformed": 1,
        "discarded": 0,
        "surplus": 0,
    }
    assert [b[what] for what in counted] == [40, 0, 0, 0, 0, 0, 0, 0]
    assert report["summary"] == "40 events: 37 reduced, 3 incomplete"
    assert a["missing"] == report["runs"]["incomplete"] == report["incomplete"]["a"] == [[5, 6], [7, 8], [21, 22]]
    whole = dict(in_step("ab", range(1, 41)))
    assert sorted(seen(deployment.state())) == sorted((whole | {e: {"b": e - 1} for e in (5, 7, 21)}).items())
    in_file = filed(report)
    assert beamfold.events_in(in_file, "incomplete").tolist() == [5, 7, 21]
    assert beamfold.events_in(in_file, "reduced").tolist() == sorted(set(range(1, 41)) - {5, 7, 21})


def test_a_detector_that_is_started_anew_in_mid_scan_brings_nothing_more_into_it(deployment: Deployment) -> None:
    scan = deployment.submit({"streams": ["a", "b"], "events": 20})
    deployment.send("a", [*frames(20)[:9], *frames(20)])
    wait_until(lambda: deployment.report(scan)["streams"]["a"]["strangers"] == 21, "all of the other series")
    deployment.send("b", frames(20))
    report = deployment.wait_ended(scan)
    assert report["summary"] == "20 events: 8 reduced, 12 incomplete"
    assert report["incomplete"] == {"a": [[9, 21]]}
    assert report["streams"]["a"]["frames"] == 8
    assert any("another series began before the end of this one" in trouble for trouble in report["troubles"])
    assert sorted(seen(deployment.state())) == in_step("ab", range(1, 9)) + in_step("b", range(9, 21))


def test_a_stream_that_never_starts_is_named_and_ends_the_scan_at_its_timeout(deployment: Deployment) -> None:
    scan = deployment.submit({"streams": ["a", "b"], "events": 5, "timeout": 2})
    deployment.send("a", frames(5))
    wait_until(lambda: deployment.progress()["waiting_for"] == ["stream b"], "the stream that is waited for")
    report = deployment.wait_ended(scan)
    assert (report["ended"], report["summary"]) == ("stopped", "5 events: 5 incomplete")
    assert "nothing came from b for 2 s" in report["reason"]


def test_a_detector_that_missed_a_trigger_is_an_alarm_and_nothing_is_matched_otherwise(deployment: Deployment) -> None:
    """From event 9 on, a frame of b comes with that of a which is one further."""
    events, missed = 18, 9
    scan = deployment.submit({"streams": ["a", "b"], "events": events})
    whole, short = frames(events), frames(events - 1)
    deployment.send("a", whole[:1])
    deployment.send("b", short[:1])
    for event in range(1, events + 1):
        of_b = event if event < missed else event - 1
        deployment.send("a", [whole[event]])
        if event != missed:
            deployment.send("b", [short[of_b]])

        def arrived(a: int = event, b: int = of_b) -> bool:
            streams = deployment.report(scan)["streams"]
            return (streams["a"]["frames"], streams["b"]["frames"]) == (a, b)

        wait_until(arrived, f"the frames of event {event}")
    deployment.send("a", whole[-1:])
    deployment.send("b", short[-1:])
    report = deployment.wait_ended(scan)
    (slip,) = report["slips"]
    assert (slip["stream"], slip["against"], slip["frames"]) == ("b", "a", 1)
    assert abs(slip["near"] - missed) <= 3
    assert report["troubles"] == [f"stream b: {slip['text']}"]
    assert report["incomplete"] == {"b": [[events, events + 1]]}
    assert all(number == row.event - 1 for row in rows(deployment.state()) for number in row.seen.values())
