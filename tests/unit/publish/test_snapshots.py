"""Versions rise with the state, the last few are kept, and many who ask share one read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from beamfold.model.errors import AppError
from beamfold.publish import reducer_http
from beamfold.publish.snapshots import Snapshot, SnapshotGone, Snapshots, rough_size
from beamfold.publish.table import Table
from beamfold.publish.tree import resolve, snapshot


def clock(*times: int) -> Callable[[], int]:
    """A clock that shows these, one after the other."""
    left = iter(times)
    return lambda: next(left)


def newest(snapshots: Snapshots) -> tuple[int, Any]:
    found = asyncio.run(snapshots.newest())
    return found.version, found.tree


def test_a_version_is_when_it_was_read_and_rises_whatever_the_clock_does() -> None:
    states = iter([{"a": 1}, {"a": 2}, {"a": 3}])
    snapshots = Snapshots(lambda _: next(states), clock=clock(1000, 900, 2000))
    assert [newest(snapshots) for _ in range(3)] == [(1000, {"a": 1}), (1001, {"a": 2}), (2000, {"a": 3})]


def test_what_has_not_changed_keeps_its_version() -> None:
    state = {"a": 1}
    snapshots = Snapshots(lambda _: state, clock=clock(5, 6))
    assert newest(snapshots) == newest(snapshots) == (5, state)
    assert snapshots.versions() == [5]


def test_before_the_first_scan_there_is_an_empty_state_with_a_version() -> None:
    states = iter([None, None, {"a": 1}])
    snapshots = Snapshots(lambda _: next(states), clock=clock(5, 6))
    assert [newest(snapshots) for _ in range(3)] == [(5, {}), (5, {}), (6, {"a": 1})]


def test_the_last_few_are_kept() -> None:
    states = iter([{"a": n} for n in range(5)])
    snapshots = Snapshots(lambda _: next(states), keep=3, clock=clock(*range(10, 15)))
    for _ in range(5):
        newest(snapshots)
    assert snapshots.versions() == [12, 13, 14]
    assert snapshots.pinned(13).tree == {"a": 3}
    with pytest.raises(SnapshotGone, match=r"version 10 .* 12, 13, 14"):
        snapshots.pinned(10)


def test_large_ones_are_kept_while_there_is_room_and_the_newest_always() -> None:
    states = iter([{"a": np.zeros(1000)} for _ in range(3)] + [{"a": np.zeros(100_000)}])
    snapshots = Snapshots(lambda _: next(states), keep_bytes=20_000, clock=clock(1, 2, 3, 4))
    kept = [newest(snapshots) and snapshots.versions() for _ in range(4)]
    assert kept == [[1], [1, 2], [2, 3], [4]]


def test_what_is_pinned_outlives_many_newer_ones() -> None:
    """Of a state that changes all the time, the last few are gone before a client comes back for one."""
    states = iter([{"a": n} for n in range(20)])
    snapshots = Snapshots(lambda _: next(states), keep=2, clock=clock(*range(100, 120)))
    for pinned in (100, 101, 102):
        newest(snapshots)
        snapshots.pinned(pinned)
    for _ in range(10):
        newest(snapshots)
    assert snapshots.versions() == [101, 102, 111, 112]
    assert snapshots.pinned(101).tree == {"a": 1}


def test_pinned_ones_go_too_when_there_is_no_room() -> None:
    states = iter([{"a": np.zeros(1000)} for _ in range(4)])
    snapshots = Snapshots(lambda _: next(states), keep_bytes=20_000, clock=clock(1, 2, 3, 4))
    for pinned in (1, 2, 3):
        newest(snapshots)
        snapshots.pinned(pinned)
    assert snapshots.versions() == [2, 3]
    newest(snapshots)
    assert snapshots.versions() == [3, 4]


def test_nothing_to_pin_says_so() -> None:
    with pytest.raises(SnapshotGone, match="none yet"):
        Snapshots(lambda _: None).pinned(1)


@pytest.mark.parametrize("error", [TimeoutError("busy"), AppError("no dict")])
def test_an_error_is_everybodys_and_the_next_one_is_answered(error: Exception) -> None:
    answers: list[Any] = [error, {"a": 1}]

    def read(_timeout: float) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    snapshots = Snapshots(read, clock=clock(1))
    with pytest.raises(type(error), match=str(error)):
        newest(snapshots)
    assert newest(snapshots) == (1, {"a": 1})


def test_closing_ends_who_waits_and_who_comes() -> None:
    asked, never = threading.Event(), threading.Event()

    def read(_timeout: float) -> Any:
        asked.set()
        never.wait(60)

    snapshots = Snapshots(read)

    async def wait() -> None:
        waiting = asyncio.create_task(snapshots.newest())
        await asyncio.to_thread(asked.wait, 10)
        snapshots.close()
        with pytest.raises(TimeoutError, match="about to end"):
            await waiting
        with pytest.raises(TimeoutError, match="about to end"):
            await snapshots.newest()

    asyncio.run(wait())
    never.set()


@pytest.mark.parametrize(
    ("tree", "least"),
    [
        ({"a": np.zeros(1000)}, 8000),
        ({"a": {"b": b"x" * 1000}}, 1000),
        ({"a": list(range(10_000))}, 300_000),
        (Table([(i, i) for i in range(1000)], [{"roi": i} for i in range(1000)]), 200_000),
    ],
)
def test_the_size_of_a_state_is_about_what_it_takes(tree: Any, least: int) -> None:
    assert least <= rough_size(tree) <= 2 * least + 1000


def test_the_json_that_is_kept_for_those_who_poll_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(reducer_http, "MAX_ENCODED_BYTES", 30)

    def find(of: Snapshot, path: str) -> Any:
        made.append(path)
        return resolve(of.tree, path)

    monkeypatch.setattr(reducer_http, "find", find)
    encoded = reducer_http.Encoded()
    first, second = (Snapshot(n, snapshot({"a": "x" * 20, "b": "y" * 20, "c": 1})) for n in (1, 2))
    answers = [encoded.get(first, path) for path in "aabbcc"]
    assert answers == [b'"' + letter * 20 + b'"' for letter in (b"x", b"x", b"y", b"y")] + [b"1", b"1"]
    assert made == ["a", "b", "b", "c"], "b has no room"
    assert [encoded.get(second, path) for path in "bb"] == [answers[2]] * 2
    assert made[4:] == ["b"]
