"""Ticks are given to one part at a time, whoever runs the parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from beamfold.offline import crew
from beamfold.offline.crew import NOBODY, Ticks


class Shared:
    """As a `multiprocessing.Value`; counts how often it was locked."""

    value = NOBODY
    locked = 0

    @contextmanager
    def get_lock(self) -> Iterator[None]:
        self.locked += 1
        yield


def test_one_part_of_all_workers_ticks_in_an_interval_and_the_first_is_that_of_worker_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(crew.time, "monotonic", lambda: now)
    due = Shared()
    first, second = Ticks(10.0, due), Ticks(10.0, due)
    assert second.take(1) == (False, 0.0)
    assert first.take(0) == (True, 10.0)
    assert second.take(1) == (False, 10.0)
    now = 109.0
    assert first.take(0) == (False, 1.0)
    now = 110.0
    assert second.take(1) == (True, 10.0)
    assert first.take(0) == (False, 10.0)
    assert due.locked == 6


def test_with_an_interval_of_0_every_part_ticks() -> None:
    ticks = Ticks(0.0, Shared())
    assert [ticks.take(0) for _ in range(3)] == [(True, 0.0)] * 3
