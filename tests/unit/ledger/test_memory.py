"""What only the in-memory ledger can do: time as an argument, and absence on demand."""

from __future__ import annotations

import pytest

from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import LedgerUnavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_leases_run_out_exactly_when_their_time_has_come() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    ledger.announce("worker", "w", {}, 10)
    assert ledger.acquire_owner("a", 10) == 1
    clock.now += 9.5
    assert ledger.renew_owner("a", 10)
    assert list(ledger.services()) == [("worker", "w")]
    clock.now += 0.5
    assert ledger.services() == {}
    assert ledger.acquire_owner("b", 10) is None
    clock.now += 9.5
    assert not ledger.renew_owner("a", 10)
    assert ledger.acquire_owner("a", 10) == 2, "who comes back after the lease ran out is a new owner"


def test_an_absent_ledger_refuses_and_has_everything_when_it_is_back() -> None:
    ledger = MemoryLedger()
    ledger.put_scan("s", {"x": 1})
    ledger.available = False
    for attempt in (
        ledger.ping,
        ledger.services,
        ledger.scans,
        ledger.parameters,
        ledger.life,
    ):
        with pytest.raises(LedgerUnavailable):
            attempt()
    ledger.available = True
    assert ledger.scan("s") == {"x": 1}
