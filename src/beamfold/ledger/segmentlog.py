"""An append-only log of records in files of bounded size; the recording, spill and the result log are kept in
it.

A record is one or more frames (byte strings). What `append` returned for survives the death of the process
(it is with the kernel), not that of the host. The format is described in `segments`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from beamfold.ledger.segments import (
    FILE_HEADER,
    Location,
    LogCorrupt,
    SegmentFiles,
    file_header,
    nbytes,
    record_header,
)
from beamfold.model.errors import BeamfoldError
from beamfold.model.events import Buffer

__all__ = ["SEGMENT_BYTES", "Location", "LogBusy", "LogCorrupt", "LogFull", "SegmentLog"]

SEGMENT_BYTES = 64 * 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IOV_MAX = 1000  # Linux takes 1024 buffers in one call


class LogFull(BeamfoldError):
    """The record was not written: the disk, a quota or the log's own bound is full. The log stays usable."""


class LogBusy(BeamfoldError):
    """Another process writes to this log."""


class SegmentLog:
    """One log in one directory, with one writer at a time; not for use by several threads at once.

    A new segment begins where a record would carry the present one past `segment_bytes` (a larger record gets
    a segment to itself). `max_bytes` bounds the whole log; its segments are then at most a quarter of that,
    since space comes back by whole segments.

    Opening finds the end: a record that the death of the writer left unfinished is cut off, and its bytes are
    counted in `torn_bytes`. With `readonly` nothing is locked or changed, a torn end is only left out, and
    the log is seen as it was when it was opened. An `unnamed` log begins empty and its files have no names:
    nobody else reads it, and it is gone with this process, whatever ends that.

    Raises LogBusy, LogCorrupt (naming file and offset), LogFull; OSError where the directory cannot be used
    at all.
    """

    def __init__(
        self,
        directory: Path | str,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int | None = None,
        *,
        readonly: bool = False,
        unnamed: bool = False,
    ) -> None:
        self._directory = Path(directory)
        self._unnamed = unnamed
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes if max_bytes is None else min(segment_bytes, max_bytes // 4)
        self._files = SegmentFiles(self._directory)
        self._writing = self._lock = -1
        self.torn_bytes = 0
        try:
            if not readonly:
                self._directory.mkdir(parents=True, exist_ok=True)
            if not (readonly or unnamed):
                self._lock = _lock(self._directory)
            self._sizes = {} if unnamed else self._files.sizes()
            self._find_end()
            if not readonly:
                self._open_last()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._total

    @property
    def end(self) -> Location:
        """Where the next record would begin, were it to fit in the newest segment: later than every
        record."""
        last = next(reversed(self._sizes), 0)
        return Location(last, self._sizes.get(last, 0))

    def append(self, frames: Sequence[Buffer]) -> Location:
        """Write one record with one system call. The frames are not kept.

        Frames are C-contiguous buffers of less than 4 GiB each. Raises LogFull or another OSError, and the
        log is as it was before; ValueError without frames.
        """
        self._refuse_unless_writable()
        head = record_header(frames)
        length = len(head) + sum(map(nbytes, frames))
        if self._max_bytes is not None and self._total + FILE_HEADER + length > self._max_bytes:
            raise LogFull(
                f"the log {self._directory} has {self._total} bytes and may have {self._max_bytes}: "
                f"no room for {length}"
            )
        segment, offset = self.end
        if offset > FILE_HEADER and offset + length > self._segment_bytes:
            self._roll()
            segment, offset = self.end
        self._write(self._writing, [head, *frames], offset)
        self._sizes[segment] = offset + length
        self._total += length
        return Location(segment, offset)

    def read(self, location: Location) -> list[bytes]:
        """The frames of the record at `location`. LookupError where no record is, or none is any more."""
        size = self._sizes.get(location.segment, 0)
        if not FILE_HEADER <= location.offset < size:
            raise LookupError(f"{self._directory} has no record at {location}: dropped, or never written")
        return self._files.frames(location, self._files.record(location, size))

    def records(self, start: Location | None = None) -> Iterator[tuple[Location, list[bytes]]]:
        """Every record from the one at `start` (None: the first), in order, with those appended meanwhile.

        Raises as `read` does, also where records not yet given were dropped; can be abandoned at any point.
        """
        at = start or Location(next(iter(self._sizes), 0), FILE_HEADER)
        while at < self.end:
            size = self._sizes.get(at.segment)
            if size is None:
                raise LookupError(f"the records of {self._directory} from {at} on were dropped")
            if at.offset < size:
                record = self._files.record(at, size)
                yield at, self._files.frames(at, record)
                at = Location(at.segment, record.end)
            else:
                at = Location(at.segment + 1, FILE_HEADER)

    def drop_before(self, location: Location) -> None:
        """Give back the segments that lie wholly before `location`; with `log.end` the log becomes empty."""
        self._refuse_unless_writable()
        last = self.end.segment
        self._unlink_before(min(location.segment, last))  # at once: a full disk then has room for a new segment
        if location >= self.end and self.end.offset > FILE_HEADER:
            self._roll()
            self._unlink_before(last + 1)

    def close(self) -> None:
        """Close the files and let another writer in. Closing twice is no error."""
        self._files.close()
        for descriptor in (self._writing, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._writing = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_end(self) -> None:
        last = self.end.segment
        for segment in self._sizes:
            self._files.check_file(segment, torn_allowed=segment == last)
        if last:
            end = self._files.find_end(last, self._sizes[last])
            self.torn_bytes = self._sizes[last] - (end if end >= FILE_HEADER else 0)
            self._sizes[last] = max(end, FILE_HEADER)
        self._total = sum(self._sizes.values())

    def _open_last(self) -> None:
        segment, end = self.end
        if not segment:
            self._roll()
            return
        self._writing = os.open(self._files.path(segment), os.O_WRONLY | os.O_CLOEXEC)
        if end == FILE_HEADER:  # the file's header may itself be missing or torn
            self._write(self._writing, [file_header(segment)], 0)
        if self.torn_bytes:
            os.ftruncate(self._writing, end)

    def _refuse_unless_writable(self) -> None:
        if self._writing < 0:
            raise ValueError(f"the log {self._directory} was closed, or opened only to be read")

    def _roll(self) -> None:
        """Begin a new segment; raising leaves everything as it was."""
        segment = self.end.segment + 1
        try:
            descriptor = self._create(segment)
        except OSError as error:
            self._refuse(error)
        try:
            self._write(descriptor, [file_header(segment)], 0)
        except BaseException:
            os.close(descriptor)
            self._remove(segment)
            raise
        if self._writing >= 0:
            os.close(self._writing)
        self._writing = descriptor
        self._sizes[segment] = FILE_HEADER
        self._total += FILE_HEADER

    def _create(self, segment: int) -> int:
        """The descriptor of a new, empty file; one without a name can only be read by what is open of it."""
        if not self._unnamed:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            return os.open(self._files.path(segment), flags, 0o644)
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
            descriptor = os.dup(file.fileno())
        self._files.adopt(segment, os.dup(descriptor))
        return descriptor

    def _remove(self, segment: int) -> None:
        self._files.forget(segment)
        self._files.path(segment).unlink(missing_ok=True)

    def _write(self, descriptor: int, parts: list[Buffer], offset: int) -> None:
        """Write all of it at `offset`, the end of the file, or nothing."""
        if len(parts) > _IOV_MAX:
            parts = [b"".join(parts)]
        total = sum(map(nbytes, parts))
        try:
            done = os.pwritev(descriptor, parts, offset)
            if done < total:  # the disk is nearly full, or it is 2 GiB and more
                rest = memoryview(b"".join(parts))
                while done < total:
                    done += os.pwrite(descriptor, rest[done:], offset + done)
        except OSError as error:
            os.ftruncate(descriptor, offset)
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        if error.errno in _FULL:
            raise LogFull(
                f"the log {self._directory} cannot grow ({error.strerror}): make room on that disk"
            ) from error
        raise error

    def _unlink_before(self, end: int) -> None:
        for segment in [number for number in self._sizes if number < end]:
            self._remove(segment)
            self._total -= self._sizes.pop(segment)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LogBusy(f"another process writes to the log {directory}; end it first") from None
    return descriptor
