"""`beamfold run --resume`: the run is killed with all of its services, and the next one takes its scan up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from beamfold.testing.simulators import stins_series
from faults.harm import APP, COMPLAINTS, Sender, all_here, frame, scan, undisturbed, wait_ended, wait_reached
from flow.deployment import Deployment, Stream, wait_until

N = 800
SERIES = list(stins_series([frame(i) for i in range(N)]))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("resume"), APP, {"x": Stream()}, complaints=COMPLAINTS) as deployment:
        yield deployment


def test_a_scan_that_is_taken_up_ends_as_if_nothing_had_been(deployment: Deployment) -> None:
    deployment.set_parameter("p", b"1")
    number = deployment.submit({"streams": ["x"], "events": N})
    before = deployment.report(number)
    deployment.send("x", SERIES[:301])
    wait_reached(deployment, 301)
    deployment.set_parameter("p", b"2")
    wait_until(lambda: len(deployment.report(number)["parameters"]) == 2, "that it is in force")
    deployment.run_again("--resume")
    wait_reached(deployment, 301)
    assert deployment.progress()["scan"] == number
    deployment.send("x", SERIES[301:])
    report = wait_ended(deployment, number)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": N})
    assert (report["number"], report["started"]) == (before["number"], before["started"])
    assert [version["values"]["p"] for version in report["parameters"]] == ["1", "2"]
    assert [loss["service"] for loss in report["losses"]] == ["run", "ingester x"]
    assert report["streams"]["x"]["frames"] == N and not report["streams"]["x"]["missing"]
    assert deployment.state() == undisturbed(N)


def test_frames_that_die_with_it_are_named(deployment: Deployment) -> None:
    all_here(deployment)
    number = deployment.submit({"streams": ["x"], "events": 1600})
    sender = Sender(deployment, [frame(i) for i in range(1600)], 400.0)
    wait_reached(deployment, 300)
    deployment.run_again("--resume")
    report = wait_ended(deployment, number)
    sender.join()
    assert report["ended"] == "finished"
    assert set(report["states"]) <= {"reduced", "incomplete (skipped)"}
    assert sum(report["states"].values()) == 1600
    lacking = {e for lo, hi in report["runs"].get("incomplete (skipped)", []) for e in range(lo, hi)}
    missing = {e for lo, hi in report["streams"]["x"]["missing"] for e in range(lo, hi)}
    assert lacking <= missing
    assert deployment.state() == undisturbed(1600, lacking)


def test_without_it_the_scan_has_failed_and_the_next_one_is_an_ordinary_one(deployment: Deployment) -> None:
    all_here(deployment)
    number = deployment.submit({"streams": ["x"], "events": N})
    deployment.send("x", SERIES[:101])
    wait_reached(deployment, 101)
    before = deployment.report(number)["number"]
    deployment.run_again()
    report = wait_ended(deployment, number)
    assert (report["ended"], report["number"]) == ("failed", before)
    assert "started again without --resume" in report["reason"]
    assert deployment.progress()["finished"]
    assert deployment.get(f"scans/{number}").json()["finished"] <= time.time()
    report = scan(deployment, [frame(i) for i in range(20)], None)
    assert (report["number"], report["states"]) == (before + 1, {"reduced": 20})


def test_where_no_scan_was_under_way_it_just_starts(deployment: Deployment) -> None:
    before = scan(deployment, [frame(i) for i in range(20)], None)
    deployment.run_again("--resume")
    assert deployment.report(before["scan_id"])["states"] == {"reduced": 20}
    report = scan(deployment, [frame(i) for i in range(20)], None)
    assert (report["number"], report["states"]) == (before["number"] + 1, {"reduced": 20})
