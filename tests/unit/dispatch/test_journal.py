"""What waits for a store that is away is bounded, in number and in bytes, and written when it is back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from beamfold.dispatch import journal
from beamfold.dispatch.journal import LedgerWriter
from beamfold.ledger.base import Ledger
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import LedgerUnavailable


@pytest.fixture
def held() -> Iterator[tuple[LedgerWriter, Callable[[], list[int]]]]:
    """A writer whose store answers only when it is asked what it got in the end."""
    answer, asked = threading.Event(), threading.Event()
    got: list[int] = []

    class Slow:
        def first(self) -> None:
            asked.set()
            answer.wait(60)

        def note(self, number: int) -> None:
            got.append(number)

    writer = LedgerWriter(cast("Ledger", Slow()))
    writer.put(lambda ledger: cast("Any", ledger).first())
    assert asked.wait(60)

    def end() -> list[int]:
        answer.set()
        writer.close(60)
        return got

    yield writer, end
    end()


def note(number: int) -> Callable[[Ledger], object]:
    return lambda ledger: cast("Any", ledger).note(number)


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([10] * 12, range(2, 12)),
        ([0] * 12, range(12)),
        ([90, 20, 20], [1, 2]),
        ([50, 50, 500, 1], [3]),
        ([50, 50, 500], [2]),
    ],
)
def test_the_oldest_writes_are_given_up_when_those_that_wait_hold_too_much(
    held: Any, monkeypatch: pytest.MonkeyPatch, sizes: list[int], left: Any
) -> None:
    monkeypatch.setattr(journal, "MAX_WAITING_BYTES", 100)
    writer, end = held
    for number, size in enumerate(sizes):
        writer.put(note(number), size)
    assert writer.behind == len(left)
    assert end() == list(left)
    assert writer.given_up == len(sizes) - len(left)


def test_the_oldest_writes_are_given_up_when_too_many_wait(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_WAITING", 3)
    writer, end = held
    for number in range(5):
        writer.put(note(number))
    assert end() == [2, 3, 4] and writer.given_up == 2


class Switched(MemoryLedger):
    """A store that counts what it is asked for, and answers some of it too late."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.pings = threading.Semaphore(0)
        self.puts = 0

    def put_scan(self, scan_id: str, record: Any, number: int | None = None) -> None:
        self.puts += 1
        self.asked.set()
        super().put_scan(scan_id, record, number)

    def ping(self) -> None:
        self.pings.release()
        super().ping()


def test_while_the_store_is_away_it_is_asked_for_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is only stopped does everything that it was asked for when it goes on."""
    monkeypatch.setattr(journal, "RETRY", 0.001)
    ledger = Switched()
    ledger.available = False
    writer = LedgerWriter(ledger)
    for number in range(3):
        writer.put(lambda ledger, number=number: ledger.put_scan(f"s{number}", {}))  # type: ignore[misc]
    for _ in range(5):
        assert ledger.pings.acquire(timeout=60)
    assert ledger.puts == 1
    assert writer.away is not None and "switched off" in writer.away.why
    assert writer.behind == 2
    ledger.available = True
    writer.close(60)
    assert writer.away is None
    assert [scan_id for scan_id, _ in ledger.scans()] == ["s2", "s1", "s0"]
    assert ledger.puts == 4


def test_log_entries_that_wait_drive_out_older_ones_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_LOGS", 10)
    monkeypatch.setattr(journal, "MAX_WAITING", 5)
    monkeypatch.setattr(journal, "RETRY", 0.001)
    ledger = Switched()
    ledger.available = False
    writer = LedgerWriter(ledger)
    writer.log([{"msg": "first"}])
    assert ledger.pings.acquire(timeout=60)  # it is under way
    writer.put(lambda ledger: ledger.put_scan("s", {}))
    for number in range(100):
        writer.log([{"msg": f"{number}"}])
    assert writer.behind == 2
    for number in range(6):
        writer.put(lambda ledger, number=number: ledger.put_scan(f"s{number}", {}))  # type: ignore[misc]
    writer.log([{"msg": "last"}])
    assert writer.given_up == 2  # "s" and "s0": what wrote the entries went as well, but they did not
    ledger.available = True
    writer.close(60)
    assert [e["msg"] for e in ledger.logs(1000)] == [*(f"{n}" for n in range(91, 100)), "last"]
    assert writer.given_up == 2


def test_who_ends_does_not_wait_for_a_store_that_is_away() -> None:
    class Gone:
        def ping(self) -> None:
            raise LedgerUnavailable("gone")

    writer = LedgerWriter(cast("Ledger", Gone()))
    writer.put(lambda ledger: ledger.ping())
    writer.close(60)
    assert writer.away is not None
