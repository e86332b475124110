"""Promise 2, the control store: killed, stopped or wiped in mid-scan, it changes nothing and has all in the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from beamfold.ledger.embedded import EmbeddedStore
from beamfold.ledger.redis import RedisLedger
from beamfold.testing.simulators import stins_series
from faults.harm import APP, all_here, ask, frame, pids, scan, undisturbed, wait_ended, wait_reached
from flow.deployment import Deployment, Stream, wait_until

AWAY = float(os.environ.get("BEAMFOLD_TEST_AWAY", "3"))
"""Seconds for which the store is away: the promise is 30, and it must not matter how many."""

STORE = "store.sock"
N = 800
SERIES = list(stins_series([frame(i) for i in range(N)]))


def known(deployment: Deployment, number: str) -> dict[str, Any]:
    """The scan as the store has it; {} where it has not."""
    lines = ask(deployment, "scans?limit=100") or []
    return next((line for line in lines if line["id"] == number), {})


def wait_recorded(deployment: Deployment, number: str, state: str) -> None:
    wait_until(lambda: known(deployment, number).get("state") == state, f"that the store has it {state}")
    assert ask(deployment, "status")["store"] == ""


# -- the store that the run starts itself ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("own"), APP, {"x": Stream()}, complaints=["control store ended"]) as own:
        yield own


def the_store(deployment: Deployment) -> int:
    pid: int = wait_until(lambda: pids(deployment, STORE), "the store")[0]
    return pid


def test_a_killed_store_is_started_again_with_all_that_it_had(own: Deployment) -> None:
    first = scan(own, [frame(i) for i in range(10)], None)["scan_id"]
    own.set_parameter("p", b"1")

    def disturb() -> None:
        for events in (100, 400):
            wait_reached(own, events)
            os.kill(pid := the_store(own), signal.SIGKILL)
            wait_until(lambda pid=pid: the_store(own) != pid, "another store")
        wait_until(lambda: known(own, first), "that it answers")
        own.set_parameter("p", b"2")

    report = scan(own, [frame(i) for i in range(N)], 400.0, disturb)
    assert (report["ended"], report["states"], report["losses"]) == ("finished", {"reduced": N}, [])
    assert [version["values"]["p"] for version in report["parameters"]] == ["1", "2"]
    wait_recorded(own, report["scan_id"], "finished")
    assert known(own, first)["state"] == "finished"
    assert own.state() == undisturbed(N)


def test_while_the_store_is_stopped_the_scan_goes_on_and_parameters_are_refused(own: Deployment) -> None:
    all_here(own)
    number = own.submit({"streams": ["x"], "events": N})
    own.send("x", SERIES[:100])
    wait_reached(own, 90)
    os.kill(the_store(own), signal.SIGSTOP)
    back = time.monotonic() + AWAY
    try:
        away = wait_until(lambda: own.get("status").json()["store"], "that it is noticed")
        assert "the control store" in away and "records wait" in away
        refused = own.refused(own.post("parameter/p", content=b"7"), 503)
        assert "what would have to be recorded is refused" in refused
        assert "The control store is away since" in own.get("../../").text
        assert "the control store is away since" in " ".join(beamfold_status(own).split())
        own.send("x", SERIES[100:])
        report = wait_ended(own, number)
        time.sleep(max(0.0, back - time.monotonic()))
        assert own.get("scans").status_code == 503
    finally:
        os.kill(the_store(own), signal.SIGCONT)
    assert (report["ended"], report["states"], report["losses"]) == ("finished", {"reduced": N}, [])
    wait_recorded(own, number, "finished")
    own.set_parameter("p", b"8")
    assert own.state() == undisturbed(N)


# -- one of somebody's own -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def ledger(store: EmbeddedStore) -> Iterator[RedisLedger]:
    ledger = RedisLedger(store.url, "flow")
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, store: EmbeddedStore) -> Iterator[Deployment]:
    folder, sections = tmp_path_factory.mktemp("other"), {"store": {"url": store.url}}
    with Deployment(folder, APP, {"x": Stream()}, sections=sections) as other:
        yield other


def flush(store: EmbeddedStore, ledger: RedisLedger) -> None:
    ledger._redis.flushall()


def lose_files(store: EmbeddedStore, ledger: RedisLedger) -> None:
    """It is away for a while, and comes back without anything."""
    os.kill(store.pid, signal.SIGKILL)
    wait_until(lambda: not store.alive, "its end")
    assert store._keep is not None
    shutil.rmtree(store._keep / "appendonlydir")
    store.start()


@pytest.mark.parametrize("lose", [flush, lose_files])
def test_a_store_that_forgot_everything_is_told_again(
    other: Deployment, store: EmbeddedStore, ledger: RedisLedger, lose: Any
) -> None:
    all_here(other)
    before = scan(other, [frame(i) for i in range(10)], None)
    other.set_parameter("p", b"1")
    number = other.submit({"streams": ["x"], "events": N})
    other.send("x", SERIES[:100])
    wait_reached(other, 90)
    other.set_parameter("p", b"2")
    wait_until(lambda: len(other.report(number)["parameters"]) == 2, "that it is in force")
    in_force = [(v["version"], v["from_event"]) for v in other.report(number)["parameters"]]
    lose(store, ledger)
    record = wait_until(lambda: ledger.scan(number), "that the store knows the scan again")
    assert (record["state"], record["number"], record["streams"]) == ("running", before["number"] + 1, ["x"])
    assert other.get(f"scans/{number}/map").json()["events"] == N
    wait_until(lambda: ledger.parameters()[1] == {"p": b"2"}, "that it has the parameters")
    history = [(e.version, e.from_event) for e in ledger.parameter_history(number)]
    assert [entry for entry in history if entry[1] is not None] == in_force
    assert "the control store" not in beamfold_status(other)
    assert ledger.acquire_owner("somebody else", 1) is None
    other.send("x", SERIES[100:])
    report = wait_ended(other, number)
    assert (report["ended"], report["states"], report["losses"]) == ("finished", {"reduced": N}, [])
    wait_recorded(other, number, "finished")
    assert [scan_id for scan_id, _ in ledger.scans(2)] == [number, before["scan_id"]]
    assert ledger.scan(before["scan_id"])["report"]["states"] == {"reduced": 10}  # type: ignore[index]
    assert other.state() == undisturbed(N)


def beamfold_status(deployment: Deployment) -> str:
    """What `beamfold status` prints."""
    command = [sys.executable, "-m", "beamfold", "status", str(deployment.folder / "run.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
