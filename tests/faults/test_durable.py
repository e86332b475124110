"""Promise 2, ingesters of durable streams: only frames that were in the socket of a killed one are lost."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beamfold.testing.simulators import stins_series
from faults.harm import APP, COMPLAINTS, Sender, all_here, ask, frame, pids, undisturbed, wait_ended, wait_reached
from flow.deployment import Deployment, Stream, wait_until

BUSY = 6
"""A frame that takes a worker a moment: what comes faster waits at the ingester."""

HARDER = {
    **APP,
    "worker.py": APP["worker.py"].replace(
        "        if what == 1:", f"        if what == {BUSY}:\n            time.sleep(0.002)\n        if what == 1:"
    ),
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    streams = {"x": Stream(keys={"durable": True})}
    with Deployment(tmp_path_factory.mktemp("durable"), HARDER, streams, complaints=COMPLAINTS) as deployment:
        yield deployment


def another_ingester(deployment: Deployment, before: int = 0) -> int:
    """The process number of an ingester that is not `before`."""
    return wait_until(lambda: [pid for pid in pids(deployment, "x") if pid != before], "an ingester")[0]


def wait_known(deployment: Deployment, pid: int) -> None:
    """Until the controller knows this ingester: the detector has noticed the end of the one before by then."""
    said = f"ingester x is here (pid {pid} "
    wait_until(lambda: any(said in line for line in deployment.lines), said)


def killed_at(deployment: Deployment, frames: list[Any], rate: float | None, moments: list[int]) -> dict[str, Any]:
    """The report of a scan whose ingester is killed when so many events are done.

    Its last frame and the end come behind all that: what was in a socket last would be lost without a trace.
    """
    all_here(deployment)
    number = deployment.submit({"streams": ["x"], "events": len(frames)})
    sender = Sender(deployment, frames[:-1], rate, end=False)
    pid = 0
    for moment in moments:
        wait_reached(deployment, moment)
        pid = another_ingester(deployment, pid)
        os.kill(pid, signal.SIGKILL)
    wait_known(deployment, another_ingester(deployment, pid))
    sender.join()
    deployment.send("x", list(stins_series(frames))[-2:])
    return wait_ended(deployment, number)


def log_files(deployment: Deployment) -> list[Path]:
    return list((deployment.folder / "output" / ".durable").rglob("*.segment"))


def complete_but_for_sockets(report: dict[str, Any], n: int, kills: int) -> set[int]:
    """Events that lack what was sent and not received; the report names just those."""
    assert report["ended"] == "finished"
    assert not report["troubles"]
    lost = [loss["service"] for loss in report["losses"]]
    assert lost[:1] == ["ingester x"] and lost == ["ingester x"] * len(lost), "one may end before anybody knows of it"
    assert len(lost) <= kills
    assert sum(report["states"].values()) == n
    lacking = {e for lo, hi in report["runs"].get("incomplete (skipped)", []) for e in range(lo, hi)}
    missing = {e for lo, hi in report["streams"]["x"]["missing"] for e in range(lo, hi)}
    assert set(report["states"]) <= {"reduced", "incomplete (skipped)"}
    assert lacking == missing
    assert report["streams"]["x"]["frames"] == n - len(missing), "what was sent and not received is what is missing"
    return lacking


@pytest.mark.parametrize(("n", "rate", "kills"), [(1200, 400.0, 3), (60_000, None, 2)])
def test_killed_at_any_moment_it_loses_only_what_was_in_its_socket(
    deployment: Deployment, n: int, rate: float | None, kills: int
) -> None:
    moments = sorted(random.sample(range(20, n // 2), kills))

    report = killed_at(deployment, [frame(i) for i in range(n)], rate, moments)
    lacking = complete_but_for_sockets(report, n, kills)
    assert deployment.state() == undisturbed(n, lacking)
    assert not log_files(deployment), "its log goes with the scan"


def test_killed_when_the_detector_has_ended_the_scan_ends_by_itself_and_is_complete(deployment: Deployment) -> None:
    n = 1000
    all_here(deployment)
    number = deployment.submit({"streams": ["x"], "events": n})
    deployment.send("x", stins_series([frame(i, BUSY) for i in range(n)]))
    wait_until(
        lambda: (report := ask(deployment, f"scans/{number}/report")) and report["streams"]["x"]["phase"] == "ended",
        "the end of the series",
    )
    assert log_files(deployment)
    os.kill(another_ingester(deployment), signal.SIGKILL)
    report = wait_ended(deployment, number)
    assert not complete_but_for_sockets(report, n, 1)
    assert deployment.state() == {**undisturbed(n), "total": sum(range(n)) + BUSY * n}
