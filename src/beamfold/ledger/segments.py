"""The files of a segment log: their format, and reading them.

Files are `0000000001.segment`, … in one directory. Each begins with 16 bytes: `BFSEGLOG`, format version
(u32), its own number (u32). A record is a header of 24 bytes, `BFRC`, CRC-32 of the rest of the header (u32),
CRC-32 of the body (u32), number of frames (u32), bytes of the body (u64); and its body, the length of each
frame (u32 each) and then the frames. All numbers are little-endian.

The header has a checksum of its own because it says where the next record begins: only where it holds can a
record that reaches past the end of its file be called torn, and not damaged.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from beamfold.model.errors import BeamfoldError
from beamfold.model.events import Buffer

_FILE = struct.Struct("<8sII")
_FILE_MAGIC, _VERSION = b"BFSEGLOG", 1
FILE_HEADER = _FILE.size

_RECORD = struct.Struct("<4sI")
_RECORD_MAGIC = b"BFRC"
_COVERED = struct.Struct("<IIQ")  # the rest of the record's header, which its checksum covers
_RECORD_HEADER = _RECORD.size + _COVERED.size
_MAX_FRAME = 2**32 - 1
_MAX_OPEN = 8  # read descriptors kept open; logs are read back in order, so few are in use at once


class LogCorrupt(BeamfoldError):
    """A log's file is not what was written to it."""


class Location(NamedTuple):
    """Where a record begins: number of the segment, offset in bytes. Later records compare greater."""

    segment: int
    offset: int


class Record(NamedTuple):
    """The header of one record: where its body is, and what that must be like."""

    body: int
    end: int
    frames: int
    checksum: int


def nbytes(frame: Buffer) -> int:
    """Bytes of a frame."""
    return len(frame) if isinstance(frame, bytes) else frame.nbytes


def file_header(segment: int) -> bytes:
    """The first bytes of a segment's file."""
    return _FILE.pack(_FILE_MAGIC, _VERSION, segment)


def record_header(frames: Sequence[Buffer]) -> bytes:
    """What precedes the frames of a record in the file. ValueError without frames, or where one is too
    large."""
    lengths = [nbytes(frame) for frame in frames]
    if not lengths or max(lengths) > _MAX_FRAME:
        raise ValueError("a record has at least one frame, and each frame less than 4 GiB")
    table = struct.pack(f"<{len(lengths)}I", *lengths)
    checksum = zlib.crc32(table)
    for frame in frames:
        checksum = zlib.crc32(frame, checksum)
    covered = _COVERED.pack(checksum, len(lengths), len(table) + sum(lengths))
    return _RECORD.pack(_RECORD_MAGIC, zlib.crc32(covered)) + covered + table


class SegmentFiles:
    """Reads the segments of one directory. Raises LogCorrupt, naming file and offset, and OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[int, int] = {}  # segment -> descriptor, least recently used first

    def path(self, segment: int) -> Path:
        """Where a segment is, or would be."""
        return self._directory / f"{segment:010d}.segment"

    def sizes(self) -> dict[int, int]:
        """Bytes of every segment by number, in order; none may be missing in between."""
        found = {int(p.stem): p.stat().st_size for p in self._directory.glob("[0-9]" * 10 + ".segment")}
        numbers = sorted(found)
        for number, expected in zip(numbers, range(numbers[0] if numbers else 0, 2**63), strict=False):
            if number != expected:
                raise LogCorrupt(f"{self.path(expected)} is missing; restore it, or move the later ones away")
        return {number: found[number] for number in numbers}

    def check_file(self, segment: int, *, torn_allowed: bool) -> None:
        """Refuse a file that is not this segment; its very beginning may be torn where that is allowed."""
        found = os.pread(self._descriptor(segment), FILE_HEADER, 0)
        expected = file_header(segment)
        if found != expected and not (torn_allowed and expected.startswith(found)):
            raise self.corrupt(segment, 0, f"this is not segment {segment} of a log of version {_VERSION}")

    def find_end(self, segment: int, size: int) -> int:
        """Where the last whole record of the newest segment ends; what follows is torn."""
        at = FILE_HEADER
        while at < size:
            record = self._header(segment, at, size)
            if record is None or record.end > size:
                return at
            body = self._bytes(segment, record.body, record.end)
            if zlib.crc32(body) != record.checksum:
                if record.end < size:
                    raise self.corrupt(segment, at, "the frames do not match their checksum")
                return at
            at = record.end
        return min(at, size)

    def record(self, location: Location, size: int) -> Record:
        """The header of the record at `location` in a segment of `size` bytes."""
        record = self._header(*location, size)
        if record is None or record.end > size:
            raise self.corrupt(*location, "the record reaches past the end of its segment")
        return record

    def frames(self, location: Location, record: Record) -> list[bytes]:
        """The frames of a record."""
        body = self._bytes(location.segment, record.body, record.end)
        if zlib.crc32(body) != record.checksum:
            raise self.corrupt(*location, "the frames do not match their checksum")
        at = 4 * record.frames
        found = []
        for length in struct.unpack_from(f"<{record.frames}I", body):
            found.append(body[at : at + length])
            at += length
        return found

    def adopt(self, segment: int, descriptor: int) -> None:
        """Read this segment, which has no name, by this descriptor."""
        self._open[segment] = descriptor

    def forget(self, segment: int) -> None:
        """Close what is open of a segment."""
        descriptor = self._open.pop(segment, -1)
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Close everything."""
        for segment in list(self._open):
            self.forget(segment)

    def corrupt(self, segment: int, offset: int, what: str) -> LogCorrupt:
        """The error that names the place."""
        return LogCorrupt(f"{self.path(segment)} at {offset}: {what}; the log can be read up to there")

    def _header(self, segment: int, offset: int, size: int) -> Record | None:
        """None where the file ends within the header; LogCorrupt where what is there is not one."""
        found = self._bytes(segment, offset, min(offset + _RECORD_HEADER, size))
        if not found[:4].startswith(_RECORD_MAGIC[: len(found)]):
            if not any(found) and not any(self._bytes(segment, offset, size)):
                return None  # zeros up to the end: what a host that lost its power leaves behind
            raise self.corrupt(segment, offset, "no record begins here")
        if len(found) < _RECORD_HEADER:
            return None
        covered = found[_RECORD.size :]
        if _RECORD.pack(_RECORD_MAGIC, zlib.crc32(covered)) != found[: _RECORD.size]:
            raise self.corrupt(segment, offset, "the record's header does not match its checksum")
        checksum, frames, length = _COVERED.unpack(covered)
        body = offset + _RECORD_HEADER
        return Record(body, body + length, frames, checksum)

    def _bytes(self, segment: int, start: int, end: int) -> bytes:
        descriptor = self._descriptor(segment)
        data = os.pread(descriptor, end - start, start)
        while len(data) < end - start:  # one call gives 2 GiB at most
            more = os.pread(descriptor, end - start - len(data), start + len(data))
            if not more:
                raise self.corrupt(segment, start + len(data), "the file ends here, but it was longer")
            data += more
        return data

    def _descriptor(self, segment: int) -> int:
        descriptor = self._open.pop(segment, -1)
        if descriptor < 0:
            if len(self._open) >= _MAX_OPEN:
                self.forget(next(iter(self._open)))
            descriptor = os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
        self._open[segment] = descriptor
        return descriptor
