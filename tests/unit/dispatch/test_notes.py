"""Log entries of all services, and those who read along."""

from __future__ import annotations

import asyncio
from typing import Any

from beamfold.dispatch.entries import MAX_LINES, MAX_TEXT, entries_of
from beamfold.dispatch.notes import MAX_BEHIND, MAX_NOTES, MAX_READERS, Notes, Reader
from beamfold.protocols.messages import LogLine


def entry(number: int) -> dict[str, Any]:
    return {"created": 0.0, "levelname": "INFO", "name": "x", "lineno": 1, "msg": str(number)}


def texts(entries: list[dict[str, Any]]) -> list[str]:
    return [e["msg"] for e in entries]


def test_the_newest_entries_are_kept() -> None:
    notes = Notes()
    notes.add(entry(n) for n in range(MAX_NOTES + 5))
    assert texts(list(notes)) == [str(n) for n in range(5, MAX_NOTES + 5)]


def test_who_reads_along_gets_what_comes_and_then_the_end() -> None:
    async def run() -> None:
        notes = Notes()
        notes.add([entry(0)])
        with Reader(notes) as reader:
            waiting = asyncio.create_task(reader.next())
            await asyncio.sleep(0)
            assert not waiting.done()
            notes.add([entry(1), entry(2)])
            assert texts(await waiting) == ["1", "2"]
            notes.add([entry(3)])
            notes.close()
            assert texts(await reader.next()) == ["3"]
            assert await reader.next() == []
        with Reader(notes) as late:
            assert await late.next() == []

    asyncio.run(run())


def test_a_slow_reader_costs_a_bounded_memory_and_is_told_what_it_missed() -> None:
    async def run() -> None:
        notes = Notes()
        with Reader(notes) as reader:
            notes.add(entry(n) for n in range(MAX_BEHIND + 7))
            first, *found = await reader.next()
            assert first["levelname"] == "WARNING"
            assert first["msg"].startswith("7 entries were left out")
            assert texts(found) == [str(n) for n in range(7, MAX_BEHIND + 7)]
            notes.add([entry(0)])
            assert texts(await reader.next()) == ["0"]

    asyncio.run(run())


def test_readers_are_counted_and_forgotten_when_they_leave() -> None:
    async def run() -> None:
        notes = Notes()
        readers = [Reader(notes) for _ in range(MAX_READERS)]
        assert notes.readers == 0
        for reader in readers:
            reader.__enter__()
        assert notes.full
        for reader in readers:
            reader.__exit__(None, None, None)
        assert (notes.full, notes.readers) == (False, 0)

    asyncio.run(run())


def test_what_a_service_logged_is_put_right() -> None:
    lines = [
        LogLine(5.0, "WARNING", 12, "text"),
        LogLine(float("nan"), "LOUD", -1, "x" * (10 * MAX_TEXT)),
    ]
    good, odd = entries_of("worker-0", lines, 7.0)
    assert good == {"created": 5.0, "levelname": "WARNING", "name": "worker-0", "lineno": 12, "msg": "text"}
    assert (odd["created"], odd["levelname"], odd["lineno"]) == (7.0, "INFO", 0)
    assert len(odd["msg"]) < MAX_TEXT + 100
    assert len(entries_of("x", lines * MAX_LINES, 0.0)) == MAX_LINES
