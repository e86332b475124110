"""Promise 2, ingesters: only frames that died with one are lost, and the report names their events."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from faults.harm import APP, COMPLAINTS, frame, pids, scan, undisturbed, wait_reached
from flow.deployment import Deployment, Stream, wait_until


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("ingester")
    with Deployment(folder, APP, {"x": Stream()}, complaints=COMPLAINTS) as deployment:
        yield deployment


@pytest.mark.parametrize(("n", "rate", "moments"), [(2000, 400.0, [200, 1000]), (60_000, None, [9000])])
def test_a_killed_ingester_loses_only_what_it_had_and_that_is_named(
    deployment: Deployment, n: int, rate: float | None, moments: list[int]
) -> None:
    def kill() -> None:
        for moment in moments:
            wait_reached(deployment, moment)
            (pid,) = wait_until(lambda: pids(deployment, "x"), "an ingester")
            os.kill(pid, signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert report["ended"] == "finished"
    assert [loss["service"] for loss in report["losses"]] == ["ingester x"] * len(moments)
    assert set(report["states"]) <= {"reduced", "incomplete (skipped)"}
    assert sum(report["states"].values()) == n
    lacking = {e for lo, hi in report["runs"].get("incomplete (skipped)", []) for e in range(lo, hi)}
    missing = {e for lo, hi in report["streams"]["x"]["missing"] for e in range(lo, hi)}
    assert lacking <= missing
    assert deployment.state() == undisturbed(n, lacking)
    if rate is not None:
        assert len(lacking) < n / 2, "it goes on with what comes"
