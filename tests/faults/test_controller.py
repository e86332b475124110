"""Promise 2, the controller: another one takes the scan up, and the published state is that of the undisturbed scan."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from faults.harm import APP, COMPLAINTS, Sender, all_here, ask, frame, pids, scan, undisturbed, wait_ended, wait_reached
from flow.deployment import Deployment, Stream, wait_until

KILLED = [*COMPLAINTS, r"of another controller is taken up", r"nobody knows for certain", r"cannot be reached"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("controller")
    with Deployment(folder, APP, {"x": Stream()}, complaints=KILLED) as deployment:
        yield deployment


def kill(deployment: Deployment, *names: str) -> None:
    for name in names:
        for pid in wait_until(lambda name=name: pids(deployment, name), name):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("n", "rate", "moments"), [(2400, 400.0, [200, 1200]), (60_000, None, [9000])])
def test_a_killed_controller_is_replaced_and_changes_nothing(
    deployment: Deployment, n: int, rate: float | None, moments: list[int]
) -> None:
    def disturb() -> None:
        for moment in moments:
            wait_reached(deployment, moment)
            kill(deployment, "controller")

    report = scan(deployment, [frame(i) for i in range(n)], rate, disturb)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
    assert [loss["service"] for loss in report["losses"]][:1] == ["controller"]
    assert deployment.state() == undisturbed(n)


@pytest.mark.parametrize("other", ["worker-0", "reducer", "worker-"])
def test_others_may_end_together_with_the_controller(deployment: Deployment, other: str) -> None:
    def disturb() -> None:
        wait_reached(deployment, 200)
        kill(deployment, "controller", other)

    report = scan(deployment, [frame(i) for i in range(1200)], 400.0, disturb)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": 1200})
    assert deployment.state() == undisturbed(1200)


def test_what_people_ask_of_the_new_controller_is_done(deployment: Deployment) -> None:
    """A parameter changes, and the scan is stopped, as if nothing had been."""
    all_here(deployment)
    deployment.set_parameter("p", b"1")
    number = deployment.submit({"streams": ["x"], "events": 100_000})
    sender = Sender(deployment, [frame(i) for i in range(2000)], 1000.0, end=False)
    wait_reached(deployment, 300)
    kill(deployment, "controller")
    wait_until(lambda: (ask(deployment, "progress") or {}).get("completed_events", 0) > 600, "the new controller")
    deployment.set_parameter("p", b"2")
    wait_reached(deployment, 1500)
    sender.join()
    deployment.stop()
    report = wait_ended(deployment, number)
    assert (report["ended"], report["states"]) == ("stopped", {"reduced": 2000})
    assert [version["values"]["p"] for version in report["parameters"]] == ["1", "2"]
    assert deployment.state() == undisturbed(2000)


def test_the_next_scan_has_the_next_number(deployment: Deployment) -> None:
    before = scan(deployment, [frame(i) for i in range(5)], None)["number"]
    kill(deployment, "controller")
    wait_until(lambda: not ask(deployment, "config"), "that it is gone")
    report = scan(deployment, [frame(i) for i in range(5)], None)
    assert report["number"] == before + 1
    assert report["states"] == {"reduced": 5}
