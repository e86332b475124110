"""When a service that no supervisor watches is taken for lost, and when it is not."""

from __future__ import annotations

import pytest

from beamfold.dispatch.scan import Phase
from beamfold.dispatch.scans import Policy
from beamfold.dispatch.silence import Silence
from beamfold.protocols import messages as m
from unit.dispatch.test_controller_machine import Bench, to

LEASE, LIMIT = 1.0, 20.0
STEP = LEASE / 4


def silent_for(seconds: float, role: str, *, connected: bool, seen: float = 0.0) -> tuple[float, str]:
    """After how long a service that says nothing is lost, and why: (seconds, "") when it is not."""
    silence, now = Silence(LEASE, LIMIT), 100.0
    silence.look([(b"p", role, seen)], now)
    asked: list[bytes] = []
    for _ in range(int(seconds / STEP)):
        now += STEP
        if asked and not connected:
            silence.unreachable(b"p")
        asked, lost = silence.look([(b"p", role, seen)], now)
        if lost:
            return now - 100.0, lost[0][1]
    return seconds, ""


@pytest.mark.parametrize("role", ["ingester", "worker", "reducer"])
def test_who_is_silent_for_three_leases_and_not_connected_is_lost(role: str) -> None:
    after, why = silent_for(100.0, role, connected=False)
    assert after == 3 * LEASE
    assert "not connected any more" in why


def test_a_worker_that_is_connected_has_its_time_limit_first() -> None:
    after, why = silent_for(100.0, "worker", connected=True)
    assert after == LIMIT + 3 * LEASE
    assert "time_limit" in why


@pytest.mark.parametrize("role", ["ingester", "reducer"])
def test_others_that_are_connected_are_waited_for(role: str) -> None:
    assert silent_for(1000.0, role, connected=True) == (1000.0, "")


def test_a_connection_that_comes_back_was_not_the_end() -> None:
    silence, now, asked = Silence(LEASE, LIMIT), 0.0, 0
    for turn in range(int(LIMIT / STEP)):
        now += STEP
        if turn % 4:  # it is away for less than a lease, again and again
            silence.unreachable(b"p")
        ask, lost = silence.look([(b"p", "worker", 0.0)], now)
        asked += len(ask)
        assert not lost
    assert asked


def test_time_in_which_the_controller_did_not_look_does_not_count() -> None:
    silence = Silence(LEASE, LIMIT)
    for now in (0.0, 1000.0, 2000.0, 1500.0, 3000.0):  # a host that slept, and a clock that was set
        _, lost = silence.look([(b"p", "worker", 0.0)], now)
        assert not lost
        assert silence.due(now - 1) and silence.due(now + LEASE) and not silence.due(now)


def pass_time(bench: Bench, seconds: float, *gone: str) -> list[m.Message]:
    """Time passes in which nobody says anything, and these are not connected."""
    actions = []
    for _ in range(int(seconds / STEP) + 2):
        bench.now += STEP
        for name in gone:
            bench.machine.unreachable(name.encode())
        actions += bench.do(bench.machine.tick(bench.now))
    return actions


def test_the_work_of_a_worker_that_vanished_is_done_by_others_and_it_is_refused_when_it_comes_back() -> None:
    bench = Bench(policy=Policy(lease=LEASE, time_limit=LIMIT)).run()
    actions = pass_time(bench, 3 * LEASE, "w1")
    assert bench.machine.services["worker w1"].gone
    assert not bench.machine.services["worker w0"].gone
    assert set(to(actions, m.Welcome)) >= {"i", "j", "r", "w0", "w1"}  # to see whether it goes
    assert {"i", "j", "r"} <= set(to(actions, m.Fill))
    assert bench.phase is Phase.RUNNING
    assert to(bench.say("w1", m.Beat()), m.Introduce) == ["w1"]
    assert to(bench.hello("worker", "w1", tags=["generic"]), m.Refused) == ["w1"]


def test_nobody_whose_supervisor_is_here_is_taken_for_lost() -> None:
    bench = Bench(policy=Policy(lease=LEASE, time_limit=LIMIT))
    bench.hello("worker", "w2", tags=["generic"], parent=1)  # the supervisor's number in Bench
    bench.hello("worker", "w3", tags=["generic"], parent=2)
    pass_time(bench, 3 * LEASE, "w2", "w3")
    assert [bool(bench.machine.services[f"worker {name}"].gone) for name in ("w2", "w3")] == [False, True]
    bench.say("s", m.Gone("supervisor", "s", "killed"))
    pass_time(bench, 3 * LEASE, "w2")
    assert bench.machine.services["worker w2"].gone
