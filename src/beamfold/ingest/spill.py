"""Frames that memory has no room for, on disk until they are sent and done.

The files have no names: they are gone when this process is, however it ends. All shelves of an ingester share one
budget, and none of them takes the last of a disk's room from others.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import overload

from beamfold.ingest.retention import Frame
from beamfold.ledger.segmentlog import SEGMENT_BYTES, Location, LogFull, SegmentLog
from beamfold.model.errors import BeamfoldError
from beamfold.sources.base import LARGE

FREE_SHARE = 20
"""One part in so many of a disk is left to others."""


class SpillLost(BeamfoldError):
    """Frames that were put on disk cannot be read back."""


class Spill:
    """The room on disk that one ingester may use: `max_bytes` in `directory`, which is made when it is needed.

    `keep` says where large parts go when they are read back: into the arena, say.
    """

    def __init__(
        self, directory: Path, max_bytes: int, keep: Callable[[memoryview], memoryview] = memoryview.toreadonly
    ) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.keep = keep
        self._shelves: set[DiskShelf] = set()

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(shelf.nbytes for shelf in self._shelves)

    def open(self) -> DiskShelf:
        """A new shelf, empty; to be closed when its scan is over."""
        shelf = DiskShelf(self)
        self._shelves.add(shelf)
        return shelf

    def forget(self, shelf: DiskShelf) -> None:
        """A shelf was closed."""
        self._shelves.discard(shelf)

    @property
    def segment_bytes(self) -> int:
        """Bytes per file: small against the budget, because room comes back by files; yet not so that there are many
        of them, because all stay open."""
        return min(max(SEGMENT_BYTES, self.max_bytes >> 7), self.max_bytes >> 4)

    def fault(self, nbytes: int) -> str:
        """Why so many more bytes may not be written, "" if they may."""
        if self.nbytes + nbytes > self.max_bytes:
            return f"the {self.max_bytes} bytes that may be spilled are used up; [spill] max_bytes is the bound"
        fault = disk_fault(self.directory, nbytes)
        return fault and f"{fault}, or name another [spill] directory"


def disk_fault(directory: Path, nbytes: int) -> str:
    """Why so many more bytes may not be written to the disk of a directory, "" if they may."""
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize - nbytes < disk.f_blocks * disk.f_frsize // FREE_SHARE:
        return f"the disk of {directory} is nearly full: make room there"
    return ""


class DiskShelf:
    """Frames on disk in the order in which they were put; room comes back in that order, too."""

    def __init__(self, spill: Spill) -> None:
        self._spill = spill
        self._log: SegmentLog | None = None
        self._live: dict[Location, None] = {}
        self._last: tuple[Location, list[Frame]] | None = None
        self.fault = ""

    @property
    def nbytes(self) -> int:
        """Bytes on disk, with those that wait for others to be discarded before them."""
        return 0 if self._log is None else self._log.size

    def put(self, frames: Sequence[Frame]) -> _Spilled | None:
        """See `Shelf.put`."""
        counts = array("I", map(len, frames))
        parts = list(chain.from_iterable(frames))
        try:
            self._spill.directory.mkdir(parents=True, exist_ok=True)
            self.fault = self._spill.fault(sum(map(len, parts)))
            if self.fault:
                return None
            if self._log is None:
                self._log = SegmentLog(self._spill.directory, self._spill.segment_bytes, unnamed=True)
            location = self._log.append([counts.tobytes(), *parts])
        except LogFull as error:
            self.fault = str(error)
            return None
        except OSError as error:
            self.fault = f"{self._spill.directory} cannot be written: {error.strerror or error}"
            return None
        self._live[location] = None
        return _Spilled(self, location, len(frames))

    def read(self, location: Location) -> list[Frame]:
        """The frames of one record; the newest one that was read is at hand. Raises SpillLost."""
        if self._last is None or self._last[0] != location:
            self._last = (location, list(self._read(location)))
        return self._last[1]

    def _read(self, location: Location) -> Iterator[Frame]:
        assert self._log is not None
        try:
            head, *parts = self._log.read(location)
        except (BeamfoldError, LookupError, OSError) as error:
            raise SpillLost(f"frames that were spilled cannot be read back: {error}") from error
        counts = array("I", head)
        rest = iter(parts)
        for count in counts:
            yield [self._spill.keep(memoryview(p)) if len(p) >= LARGE else p for p in islice(rest, count)]

    def discard(self, frames: Sequence[Frame]) -> None:
        """See `Shelf.discard`."""
        assert isinstance(frames, _Spilled) and self._log is not None
        del self._live[frames.location]
        if self._last is not None and self._last[0] == frames.location:
            self._last = None
        oldest = next(iter(self._live), None)
        if oldest is None:
            self._log.close()
            self._log = None
        elif oldest > frames.location:
            self._log.drop_before(oldest)

    def close(self) -> None:
        """Nothing of it is needed any more."""
        self._live.clear()
        self._last = None
        if self._log is not None:
            self._log.close()
            self._log = None
        self._spill.forget(self)


class _Spilled(Sequence[Frame]):
    """Frames on a shelf, read back when they are asked for."""

    __slots__ = ("_n", "_shelf", "location")

    def __init__(self, shelf: DiskShelf, location: Location, n: int) -> None:
        self._shelf = shelf
        self._n = n
        self.location = location

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, at: int) -> Frame: ...

    @overload
    def __getitem__(self, at: slice) -> list[Frame]: ...

    def __getitem__(self, at: int | slice) -> Frame | list[Frame]:
        return self._shelf.read(self.location)[at]
