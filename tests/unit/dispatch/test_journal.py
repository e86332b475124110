"""What waits for a store that is away is bounded, in number and in bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from beamfold.dispatch import journal
from beamfold.dispatch.journal import LedgerWriter
from beamfold.ledger.base import Ledger


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
