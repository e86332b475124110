"""Promise 2, the reducer: whatever ends it in mid-scan, the published state is that of the undisturbed scan."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from faults.harm import APP, COMPLAINTS, frame, pids, scan, undisturbed, wait_reached
from flow.deployment import Deployment, Stream, wait_until


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("reducer")
    with Deployment(folder, APP, {"x": Stream()}, complaints=COMPLAINTS) as deployment:
        yield deployment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("n", "rate", "moments"), [(1200, 400.0, [200, 600]), (30_000, None, [9000])])
def test_a_reducer_that_ends_is_replaced_and_every_part_is_folded_once(
    deployment: Deployment, n: int, rate: float | None, moments: list[int], number: signal.Signals
) -> None:
    def kill() -> None:
        for moment in moments:
            wait_reached(deployment, moment)
            (pid,) = pids(deployment, "reducer")
            os.kill(pid, number)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
    assert {loss["service"] for loss in report["losses"]} == {"reducer reducer"}
    assert deployment.state() == undisturbed(n)


def test_reducer_and_workers_may_end_together(deployment: Deployment) -> None:
    def kill() -> None:
        wait_reached(deployment, 100)
        for pid in [*pids(deployment, "reducer"), *pids(deployment, "worker-")]:
            os.kill(pid, signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 300})
    assert deployment.state() == undisturbed(300)


def test_nothing_is_left_of_result_logs(deployment: Deployment) -> None:
    scan(deployment, [frame(i) for i in range(10)], None)
    logs = deployment.folder / "output" / ".results"
    wait_until(lambda: not [*logs.iterdir()], "no result log")
