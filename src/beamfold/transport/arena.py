"""Shared memory of one host: frames that are written once and read by other processes where they lie.

An ingester makes an arena and puts large message parts into its slots; workers on the same host map it read-only and
are told slots by number instead of bytes. The arena is a memory file without a name: it is reached through the
ingester's entry in /proc, its size does not depend on /dev/shm, and the system frees it when the last process that
maps it has ended, however it ended.

A slot is used again when nobody holds a reference to it any more. In the writer that is a matter of Python's reference
counts: retention, messages that ZeroMQ has not sent yet, and leases, one for every time that a reader was told of the
slot. A reader gives a lease back when the last view of the slot is gone in it, or by ending.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.transport.extents import GRAIN, Extents

_TOKEN_BYTES = 16
_FIRST_PAGE = GRAIN
"""The first page holds the token by which a reader knows that this is the arena it was told of."""

KEPT_BYTES = 256 << 20
"""Memory that an arena keeps between scans; the rest goes back to the system (to fetch it anew costs time)."""


class NotShared(Exception):
    """An arena cannot be mapped from here; the text says why, for people."""


class Lease(NamedTuple):
    """What a reader is told of a slot: the number to give back, and where the bytes are."""

    number: int
    offset: int
    nbytes: int


class _Slot(np.ndarray[Any, np.dtype[np.uint8]]):
    """The one array that all views of a slot refer to in the end: when it goes, all of them are gone."""

    offset: int


class _Watch(weakref.ref[_Slot]):
    """Tells, in whichever thread the last view goes, which slot or lease that was."""

    __slots__ = ("key",)
    key: int


class Arena:
    """The writer's side, with room for `nbytes` of frames. Memory is taken from the system as it is first written to.

    `address` is what readers attach to. Not thread-safe, but the views it gives out may be dropped in any thread.
    Raises OSError where the system has no such memory.
    """

    def __init__(self, nbytes: int) -> None:
        size = _FIRST_PAGE + nbytes
        self._fd = os.memfd_create("beamfold-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, size)
        # A reader could otherwise be killed by its file shrinking under it.
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self._fd, size)
        token = os.urandom(_TOKEN_BYTES)
        self._map[:_TOKEN_BYTES] = token
        self.address = f"{_here()}/{os.getpid()}/{self._fd}/{token.hex()}"
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)[_FIRST_PAGE:]
        self._extents = Extents(nbytes)
        self._watches: dict[int, _Watch] = {}
        self._gone: deque[int] = deque()
        self._leases: dict[int, dict[int, Buffer]] = {}
        self._last_lease = 0
        self._touched = 0
        self.refused = 0

    def room(self, nbytes: int) -> memoryview:
        """A slot of so many bytes, to be written to; it is used again once no view of it is left.

        Where there is no room it is other memory, and `refused` counts one more.
        """
        self._reclaim()
        offset = self._extents.take(nbytes) if nbytes else None
        if offset is None:
            self.refused += 1
            return elsewhere(nbytes)
        self._touched = max(self._touched, offset + nbytes)
        slot = self._bytes[offset : offset + nbytes].view(_Slot)
        slot.offset = offset
        self._watches[offset] = _watch(slot, offset, self._gone)
        return slot.data

    def keep(self, part: memoryview) -> memoryview:
        """The bytes of `part` in a slot, or in other memory where there is no room; read-only."""
        room = self.room(len(part))
        room[:] = part
        return room.toreadonly()

    def lease(self, part: Buffer, reader: int) -> Lease | None:
        """Keep the slot of this part until `reader` gives the lease back; None for what is no slot of this arena."""
        slot: Any = part.obj if isinstance(part, memoryview) else None
        if not isinstance(slot, _Slot) or len(part) != slot.nbytes:
            return None
        watch = self._watches.get(slot.offset)
        if watch is None or watch() is not slot:
            return None
        self._last_lease += 1
        self._leases.setdefault(reader, {})[self._last_lease] = part
        return Lease(self._last_lease, slot.offset, slot.nbytes)

    def give_back(self, reader: int, leases: Iterable[int]) -> None:
        """A reader let go of these; of others than its own nothing happens."""
        held = self._leases.get(reader, {})
        for number in leases:
            held.pop(number, None)

    def forget(self, reader: int) -> None:
        """A reader has ended: it holds nothing any more."""
        self._leases.pop(reader, None)

    @property
    def used(self) -> int:
        """Bytes of slots in use."""
        self._reclaim()
        return self._extents.used

    def trim(self) -> None:
        """Give memory that no slot uses back to the system, but for `KEPT_BYTES`."""
        self._reclaim()
        lo = -(-max(self._extents.top, KEPT_BYTES) // GRAIN) * GRAIN
        hi = -(-self._touched // GRAIN) * GRAIN
        if lo < hi:
            self._map.madvise(mmap.MADV_REMOVE, _FIRST_PAGE + lo, hi - lo)
            self._touched = lo

    def close(self) -> None:
        """Nobody can attach any more; memory goes with the last view of it."""
        os.close(self._fd)

    def _reclaim(self) -> None:
        gone, extents, watches = self._gone, self._extents, self._watches
        while gone:
            offset = gone.popleft()
            del watches[offset]
            extents.give(offset)


class ArenaReader:
    """The reader's side. Raises NotShared where the arena is not of this host, or cannot be mapped."""

    def __init__(self, address: str) -> None:
        try:
            boot, namespace, pid, fd, token = address.split("/")
            path = Path("/proc") / str(int(pid)) / "fd" / str(int(fd))
        except ValueError:
            raise NotShared("it has none") from None
        if boot != _boot():
            raise NotShared("it is on another host")
        if namespace != _namespace():
            raise NotShared("it is in another container: let them share one process namespace")
        try:
            # Whatever may be there by now, opening it must not wait.
            mine = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise NotShared(f"its memory cannot be opened: {error.strerror}") from None
        try:
            self._nbytes = os.fstat(mine).st_size - _FIRST_PAGE
            if self._nbytes < 0 or os.pread(mine, _TOKEN_BYTES, 0).hex() != token:
                raise NotShared("it is gone")
            self._bytes = np.frombuffer(mmap.mmap(mine, 0, prot=mmap.PROT_READ), dtype=np.uint8)[_FIRST_PAGE:]
        except OSError as error:
            raise NotShared(f"its memory cannot be mapped: {error.strerror}") from None
        finally:
            os.close(mine)
        self._writer = Path("/proc") / str(int(pid))
        self._watches: dict[int, _Watch] = {}
        self._gone: deque[int] = deque()

    @property
    def lives(self) -> bool:
        """Whether there is still a writer to give leases back to."""
        return self._writer.exists()

    def part(self, number: int, offset: int, nbytes: int) -> memoryview:
        """The bytes of a leased slot, read-only, in place. They stay as they are while any view of them is left.

        Raises CodecError for a slot that the arena cannot have.
        """
        if offset < 0 or nbytes <= 0 or offset + nbytes > self._nbytes:
            raise CodecError(f"a slot of {nbytes} bytes at {offset} in an arena of {self._nbytes}")
        slot = self._bytes[offset : offset + nbytes].view(_Slot)
        self._watches[number] = _watch(slot, number, self._gone)
        return slot.data

    @property
    def gone(self) -> bool:
        """Whether there are leases to give back."""
        return bool(self._gone)

    def let_go(self) -> list[int]:
        """The leases whose views are all gone since this was last asked: to be given back to the writer."""
        gone = self._gone
        numbers = [gone.popleft() for _ in range(len(gone))]
        for number in numbers:
            del self._watches[number]
        return numbers


def _watch(slot: _Slot, key: int, gone: deque[int]) -> _Watch:
    """Append `key` to `gone` when the last view of the slot goes. Only a watch that is kept watches."""
    watch = _Watch(slot, lambda dead: gone.append(dead.key))
    watch.key = key
    return watch


def _here() -> str:
    return f"{_boot()}/{_namespace()}"


def _boot() -> str:
    """Names this run of this host's kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    """Names the world of process numbers that this process lives in: a container has its own."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def elsewhere(nbytes: int) -> memoryview:
    """Memory of this process alone, whatever is in it."""
    return np.empty(nbytes, dtype=np.uint8).data


def process_of(pid: int) -> int | None:
    """A descriptor that becomes readable when this process ends; None where there is no such process."""
    with suppress(OSError, OverflowError):
        return os.pidfd_open(pid)
    return None
