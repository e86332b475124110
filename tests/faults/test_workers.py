"""Promise 2, workers: whatever ends one of them in mid-scan, the published state is that of the undisturbed scan."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from beamfold.dispatch.scan import STATE_LOST
from faults.harm import ABORT, APP, COMPLAINTS, EXIT, FORK, HANG, LOCK, frame, pids, scan, undisturbed, wait_reached
from flow.deployment import Deployment, Stream


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    sections = {"workers": {"count": 2, "time_limit": 1.0, "lease": 1.0}}
    folder = tmp_path_factory.mktemp("workers")
    with Deployment(folder, APP, {"x": Stream()}, sections=sections, complaints=COMPLAINTS) as deployment:
        yield deployment


@pytest.mark.parametrize(("n", "rate"), [(400, 400.0), (20_000, None)])
def test_kill_9_of_a_worker_loses_nothing_and_doubles_nothing(
    deployment: Deployment, n: int, rate: float | None
) -> None:
    def kill() -> None:
        for seed in range(2):
            chance = random.Random(seed)
            wait_reached(deployment, int(n * (seed + chance.random()) / 2.2) + 2)
            os.kill(chance.choice(pids(deployment, "worker-")), signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(n)], rate, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
    assert report["losses"], "nobody was killed"
    assert deployment.state() == undisturbed(n)


def test_all_workers_may_be_killed_at_once(deployment: Deployment) -> None:
    def kill() -> None:
        wait_reached(deployment, 100)
        for pid in pids(deployment, "worker-"):
            os.kill(pid, signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 300})
    assert deployment.state() == undisturbed(300)


def test_a_worker_that_is_told_to_end_drains_and_nothing_is_lost(deployment: Deployment) -> None:
    def term() -> None:
        wait_reached(deployment, 100)
        os.kill(pids(deployment, "worker-")[0], signal.SIGTERM)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, term)
    assert report["states"] == {"reduced": 300}
    assert report["losses"][0]["how"].endswith("it was told to end")
    assert deployment.state() == undisturbed(300)


def test_a_worker_stopped_past_its_lease_is_replaced_and_changes_nothing(deployment: Deployment) -> None:
    def stop() -> None:
        wait_reached(deployment, 100)
        os.kill(pids(deployment, "worker-")[0], signal.SIGSTOP)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, stop)
    assert report["states"] == {"reduced": 300}
    assert "it was stopped for 1 s" in report["losses"][0]["how"]
    assert deployment.state() == undisturbed(300)


@pytest.mark.parametrize("what", [EXIT, HANG, LOCK, ABORT, FORK])
def test_an_event_whose_user_code_ends_or_hangs_its_process_fails_and_the_scan_goes_on(
    deployment: Deployment, what: int
) -> None:
    report = scan(deployment, [frame(i, what if i == 49 else 0) for i in range(200)], 400.0)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 199, "failed": 1})
    assert report["runs"]["failed"] == [[50, 51]]
    assert "was not tried again" in report["failures"][0]["traceback"]
    assert len(report["losses"]) == 2, report["losses"]
    if what in (HANG, LOCK):
        assert "did not come back from event 50 within 1 s" in report["losses"][0]["how"]
    state = deployment.state()
    state["order"].sort()  # the hole may be there for longer than folding waits for it; that is recorded
    assert state == undisturbed(200, {50})


def test_a_worker_that_keeps_something_is_replaced_with_a_warning(deployment: Deployment) -> None:
    """Its place and what is undone are taken over; what it kept is not, and the report says so."""
    deployment.write({"worker.py": APP["worker.py"].replace("class Worker:", "class Worker:\n    stateful = True\n")})

    def kill() -> None:
        wait_reached(deployment, 100)
        os.kill(pids(deployment, "worker-")[0], signal.SIGKILL)

    report = scan(deployment, [frame(i) for i in range(300)], 400.0, kill)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 300})
    assert report["losses"]
    assert [STATE_LOST in trouble for trouble in report["troubles"]] == [True]
    state = deployment.state()
    state["order"].sort()  # a process that is started for the umpteenth time within seconds is not started at once
    assert state == undisturbed(300)
