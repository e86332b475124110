"""How long a worker's process may be at something, seen from outside."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from beamfold.cli import guard as module
from beamfold.cli.guard import STARTING, Guard
from beamfold.model.cursor import AT, CURSOR_BYTES, TURN, Cursor, cursor_in

PID = os.getpid()


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard(time_limit=1.0, lease=10.0)
    yield guard
    guard.close()


@pytest.fixture
def cursor(guard: Guard) -> Iterator[Cursor]:
    """The worker's own."""
    with mmap.mmap(guard.fd, CURSOR_BYTES) as memory:
        cursor = cursor_in(memoryview(memory))
        yield cursor
        cursor.release()


def test_a_process_that_starts_has_time_to_import_the_app_however_short_the_limit(guard: Guard, cursor: Cursor) -> None:
    assert guard.look(PID, 0.0) == ""
    assert guard.look(PID, STARTING - 0.1) == ""
    assert "its import within 60 s" in guard.look(PID, STARTING)


def test_one_that_has_started_has_its_limit(guard: Guard, cursor: Cursor) -> None:
    assert guard.look(PID, 0.0) == ""
    cursor[TURN] += 1
    assert guard.look(PID, 20.0) == ""
    cursor[AT] = 7
    assert guard.look(PID, 20.5) == ""
    assert guard.look(PID, 21.4) == ""
    assert "event 7 within 1 s" in guard.look(PID, 21.5)


def test_one_that_is_stopped_has_its_lease_whatever_the_limit(
    guard: Guard, cursor: Cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor[TURN] += 1
    assert guard.look(PID, 0.0) == ""
    monkeypatch.setattr(module, "_is_stopped", lambda pid: True)
    assert guard.look(PID, 0.9) == ""
    assert guard.look(PID, 9.0) == "", "the limit for an event is 1 s"
    monkeypatch.setattr(module, "_is_stopped", lambda pid: False)
    assert guard.look(PID, 9.5) == "", "it goes on where it was"
    monkeypatch.setattr(module, "_is_stopped", lambda pid: True)
    assert guard.look(PID, 9.8) == ""
    assert "stopped for 10 s" in guard.look(PID, 19.8)
