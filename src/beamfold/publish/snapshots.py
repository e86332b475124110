"""What HTTP knows of the reducer: immutable snapshots with versions, and nothing else.

`read` waits for the reducer between two folds. However many ask, one read at a time is under way, in a thread
that ends when nobody asks any more; all who asked before it began share its snapshot. The last few snapshots
are kept, so that a client whose questions belong together can pin one; and so are the last few that somebody
was told of or has pinned, since of the others there may be very many in a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from beamfold.model.errors import AppError, BeamfoldError
from beamfold.publish.table import Table
from beamfold.publish.tree import Group

READ_TIMEOUT = 5.0
"""Seconds that a request waits for the user's `process_result` to come back."""

KEEP = 8
"""Snapshots that are kept because they are new, and as many because they are pinned."""

KEEP_BYTES = 256 << 20
"""Bytes of them together, roughly; the newest is kept however large it is."""

ENDING = "the reducer is about to end"

Read: TypeAlias = Callable[[float], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The published state at one time, plain data that nobody changes any more.

    `version` rises whenever what the reducer gives has changed. It is the time at which the state was read, in
    milliseconds of Unix time (or one more than the last, if that is later), so that a reducer that was started
    anew never gives another state under a version that somebody has noted. `derived` holds what readers have
    made of the tree by some name, so that it is made once and goes with it.
    """

    version: int
    tree: Group | Table
    derived: dict[str, Any] = field(default_factory=dict, repr=False)


class SnapshotGone(BeamfoldError):
    """A version that is not kept (any more); the text says which are."""


def wall_ms() -> int:
    """Milliseconds of Unix time."""
    return time.time_ns() // 1_000_000


class Snapshots:
    """The last few snapshots of a reducer's state; see the module's text."""

    def __init__(
        self,
        read: Read,
        timeout: float = READ_TIMEOUT,
        *,
        keep: int = KEEP,
        keep_bytes: int = KEEP_BYTES,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self._read = read
        self._timeout = timeout
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Future[Snapshot]] = []
        self._answering: list[Future[Snapshot]] = []
        self._busy = False
        self._closed = False
        self._given: Any = None
        self._newest: Snapshot | None = None
        self._sizes: dict[int, int] = {}
        self._recent: dict[int, Snapshot] = {}
        self._held: dict[int, Snapshot] = {}  # what was asked for last comes last

    async def newest(self) -> Snapshot:
        """The state as it is now. TimeoutError when the reducer does not come back or ends; AppError."""
        future: Future[Snapshot] = Future()
        with self._lock:
            if self._closed:
                raise TimeoutError(ENDING)
            self._waiting.append(future)
            start, self._busy = not self._busy, True
        if start:
            threading.Thread(target=self._serve, name="snapshots", daemon=True).start()
        return await asyncio.wrap_future(future)

    def pinned(self, version: int) -> Snapshot:
        """A kept snapshot, which is then kept for longer. SnapshotGone."""
        with self._lock:
            found = self._held.pop(version, None) or self._recent.get(version)
            if found is None:
                there = ", ".join(map(str, self._versions())) or "none yet"
                raise SnapshotGone(f"version {version} of the published state is not kept (there are: {there})")
            self._held[version] = found
            self._drop()
            return found

    def versions(self) -> list[int]:
        """The versions that are kept, oldest first."""
        with self._lock:
            return self._versions()

    def close(self) -> None:
        """Answer nobody any more: those who wait get a TimeoutError, and so does whoever comes."""
        with self._lock:
            self._closed = True
            for future in (*self._waiting, *self._answering):
                if not future.done():
                    future.set_exception(TimeoutError(ENDING))
            self._waiting.clear()

    def _serve(self) -> None:
        while True:
            with self._lock:
                batch = [f for f in self._waiting if f.set_running_or_notify_cancel()]
                self._waiting, self._answering = [], batch
                if not batch or self._closed:
                    self._busy = False
                    return
            self._answer(batch)

    def _answer(self, batch: list[Future[Snapshot]]) -> None:
        answer: Snapshot | Exception
        try:
            answer = self._versioned(self._read(self._timeout))
        except (TimeoutError, AppError, MemoryError) as error:
            answer = error
        with self._lock:
            for future in batch:
                if future.done():
                    continue  # closed meanwhile
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _versioned(self, given: Any) -> Snapshot:
        """The snapshot of what `read` gave (None: nothing yet). The same again means that nothing has changed."""
        if self._newest is not None and given is self._given:
            return self._newest
        last = 0 if self._newest is None else self._newest.version
        made = Snapshot(max(self._clock(), last + 1), {} if given is None else given)
        size = rough_size(made.tree)
        with self._lock:
            self._given, self._newest = given, made
            self._recent[made.version], self._sizes[made.version] = made, size
            self._drop()
        return made

    def _versions(self) -> list[int]:
        return sorted({*self._recent, *self._held})

    def _drop(self) -> None:
        """Let go of what is more than may be kept; the newest stays."""
        for kept in (self._recent, self._held):
            while len(kept) > self._keep:
                del kept[next(iter(kept))]
        while self._too_large():
            kept = self._recent if len(self._recent) > 1 else self._held
            del kept[next(iter(kept))]

    def _too_large(self) -> bool:
        there = self._versions()
        self._sizes = {version: self._sizes[version] for version in there}
        return sum(self._sizes.values()) > self._keep_bytes and len(self._recent) + len(self._held) > 1


def rough_size(node: Any) -> int:
    """Bytes that a snapshot takes in memory, to within a factor of two or so."""
    if isinstance(node, np.ndarray):
        return 128 + node.nbytes
    if isinstance(node, str | bytes):
        return 64 + len(node)
    if isinstance(node, dict):
        return 64 + sum(100 + rough_size(value) for value in node.values())
    if isinstance(node, Table):
        return rough_size(node.keys) + rough_size(node.values)
    if isinstance(node, list | tuple):
        return 64 + _rough_items(node)
    return 32


def _rough_items(items: list[Any] | tuple[Any, ...]) -> int:
    """Of many items only some are looked at: they are mostly alike, and a table has very many."""
    some = items[:: max(1, len(items) // 100)]
    return sum(8 + rough_size(item) for item in some) * len(items) // len(some) if some else 0


__all__ = ["ENDING", "KEEP", "KEEP_BYTES", "READ_TIMEOUT", "Snapshot", "SnapshotGone", "Snapshots", "rough_size"]
