"""The newest log entries of all services, and those who read along as they come."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from beamfold.dispatch.entries import Entry

MAX_NOTES = 1000
"""Log entries kept for `GET /logs`."""

MAX_BEHIND = 1000
"""Entries that wait for one reader; beyond that the oldest are left out, and it is told how many."""

MAX_READERS = 100
"""Readers along at the same time."""


class Notes:
    """The newest entries, oldest first, and their readers. For one loop: nothing here is thread-safe."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MAX_NOTES)
        self._readers: set[Reader] = set()
        self._closed = False

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def readers(self) -> int:
        """How many read along."""
        return len(self._readers)

    def add(self, entries: Iterable[Entry]) -> None:
        """New entries: kept, and shown to all who read along."""
        for entry in entries:
            self._entries.append(entry)
            for reader in self._readers:
                reader.put(entry)

    @property
    def full(self) -> bool:
        """Whether there are as many readers as may be."""
        return len(self._readers) >= MAX_READERS

    def join(self, reader: Reader) -> None:
        """This reader gets what comes from now on."""
        self._readers.add(reader)
        if self._closed:
            reader.end()

    def leave(self, reader: Reader) -> None:
        """This reader reads no more."""
        self._readers.discard(reader)

    def close(self) -> None:
        """Nothing more will come: every reader gets to its end."""
        self._closed = True
        for reader in self._readers:
            reader.end()


class Reader:
    """One who reads along, from entering this context to leaving it."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._waiting: deque[Entry] = deque()
        self._left_out = 0
        self._ended = False
        self._wake = asyncio.Event()

    def __enter__(self) -> Self:
        self._notes.join(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notes.leave(self)

    def put(self, entry: Entry) -> None:
        """An entry came."""
        if len(self._waiting) >= MAX_BEHIND:
            self._waiting.popleft()
            self._left_out += 1
        self._waiting.append(entry)
        self._wake.set()

    def end(self) -> None:
        """None will come any more."""
        self._ended = True
        self._wake.set()

    async def next(self) -> list[Entry]:
        """The entries since the last time, as soon as there are any; [] at the end."""
        while not self._waiting and not self._ended:
            self._wake.clear()
            await self._wake.wait()
        found, self._left_out, gone = list(self._waiting), 0, self._left_out
        self._waiting.clear()
        return [_gap(gone), *found] if gone else found


def _gap(count: int) -> Entry:
    text = f"{count} entries were left out here: they came faster than they were read"
    return {"created": time.time(), "levelname": "WARNING", "name": "controller", "lineno": 0, "msg": text}
