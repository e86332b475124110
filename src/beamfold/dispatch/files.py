"""Files that the controller writes for a scan, in order, by a thread of its own, so that a slow disk stalls no scan."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import cbor2

from beamfold.dispatch.recording import WriteFile

MAX_WAITING = 10_000
"""Files and lines that may wait for the disk; beyond that they are given up."""

MAX_WAITING_BYTES = 256 << 20
"""Bytes that these may have together, those counted that are bytes already; beyond that they are given up."""


class FileWriter:
    """Carries out `WriteFile` actions one after the other. `faults` tells which could not be."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "files")
        self._under_way: deque[tuple[WriteFile, Future[None]]] = deque()
        self._bytes = 0
        self._given_up: WriteFile | None = None

    def put(self, action: WriteFile) -> None:
        """Write it soon."""
        if len(self._under_way) < MAX_WAITING and self._bytes + _size(action) <= MAX_WAITING_BYTES:
            self._bytes += _size(action)
            self._under_way.append((action, self._executor.submit(write_file, action)))
        else:
            self._given_up = action

    def faults(self) -> list[tuple[WriteFile, OSError]]:
        """What could not be written since the last call, and why. What nobody foresaw is raised."""
        found = []
        if self._given_up is not None:
            late = OSError("the disk is so slow that too many files and lines wait for it")
            found.append((self._given_up, late))
            self._given_up = None
        while self._under_way and self._under_way[0][1].done():
            action, future = self._under_way.popleft()
            self._bytes -= _size(action)
            error = future.exception()
            if isinstance(error, OSError):
                found.append((action, error))
            elif error is not None:
                raise error
        return found

    async def settle(self, patience: float) -> None:
        """Until what waits now was written, or for `patience` seconds."""
        if self._under_way:
            await asyncio.to_thread(wait, [self._under_way[-1][1]], patience)

    def close(self) -> None:
        """Write what waits, and end."""
        self._executor.shutdown()


def _size(action: WriteFile) -> int:
    return len(action.content) if isinstance(action.content, bytes) else 0


def write_file(action: WriteFile) -> None:
    """Carry one out. Folders are made. Raises OSError."""
    path = Path(action.path)
    content = action.content() if callable(action.content) else action.content
    if not isinstance(content, bytes):
        content = cbor2.dumps(content) if path.suffix == ".cbor" else json.dumps(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if action.append:
        with path.open("ab") as file:
            file.write(content + b"\n")
        return
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


__all__ = ["FileWriter", "WriteFile", "write_file"]
