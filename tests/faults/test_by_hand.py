"""Services that are started by hand, without a supervisor: who they are has to be known, and their end is noticed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from beamfold.testing.simulators import stins_series
from faults.harm import APP, COMPLAINTS, LOCK, ask, frame, tcp_address, undisturbed, wait_reached
from flow.deployment import Deployment, Stream, wait_until
from processes import Command, command

LEASE = 0.2
HOLDING = (4, 5, 6, 7)
"""Frames whose user code keeps the interpreter to itself for a while."""

BUSY = {"worker.py": APP["worker.py"].replace("ctypes.PyDLL(None).sleep(3600)", "ctypes.PyDLL(None).sleep(1)")}
"""Holds the interpreter's lock for longer than a service without a connection may be silent."""


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    sections = {"controller": {"control": tcp_address()}, "workers": {"count": 1, "lease": LEASE}}
    complaints = [*COMPLAINTS, "the token of this deployment"]
    with Deployment(tmp_path, APP | BUSY, {"x": Stream()}, sections=sections, complaints=complaints) as deployment:
        yield deployment


def extra(deployment: Deployment, **env: str) -> AbstractContextManager[Command]:
    """Another worker, started by hand."""
    return command("worker", "run.toml", "--name", "extra", cwd=deployment.folder, env=env)


def wait_for_extra(deployment: Deployment, *, here: bool) -> None:
    def seen() -> bool:
        return ("extra" in [worker["name"] for worker in ask(deployment, "config")["workers"]]) is here

    wait_until(seen, f"worker extra {'here' if here else 'gone'}")


def test_a_worker_with_another_token_is_refused_and_told_what_to_do(deployment: Deployment) -> None:
    with extra(deployment, BEAMFOLD_CONTROLLER__TOKEN="not the one of this deployment") as worker:
        assert worker.ends() == 1
        assert "give all its services the same [controller] token_file" in worker.err.text()


def test_promise_2_a_worker_without_a_supervisor_is_missed_when_it_is_gone_and_not_when_it_is_busy(
    deployment: Deployment,
) -> None:
    n = 60
    with extra(deployment) as worker:
        wait_for_extra(deployment, here=True)
        scan = deployment.submit({"streams": ["x"], "events": n})
        messages = list(stins_series([frame(i, LOCK if i in HOLDING else 0) for i in range(n)]))
        deployment.send("x", messages[: n // 2])
        wait_reached(deployment, n // 3)
        assert deployment.report(scan)["losses"] == []
        worker.send(signal.SIGKILL)
        worker.ends()
        wait_for_extra(deployment, here=False)
        assert "not connected any more" in deployment.get("status").json()["services"]["worker extra"]["gone"]
        deployment.send("x", messages[n // 2 :])
        with extra(deployment):
            report = deployment.wait_ended(scan)
    assert (report["ended"], report["states"]) == ("finished", {"reduced": n})
    assert [loss["service"] for loss in report["losses"]] == ["worker extra"]
    expected = undisturbed(n)
    expected["total"] += LOCK * len(HOLDING)  # it is one of the pixels
    assert deployment.state() == expected
