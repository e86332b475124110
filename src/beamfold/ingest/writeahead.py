"""What was received of durable streams, with the system before anything of it is sent on: an ingester that takes the
place of one that was killed reads it, as if it received it again.

Messages are in one log, as they came. It gets shorter from its front, by whole segments, as events become terminal;
what of that must be known for the rest of the scan is in another one: frames that were broadcast, and how far the
streams had come where the first log begins now.
"""

from __future__ import annotations

import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from beamfold.ingest.machine import Mark
from beamfold.ingest.retention import Frame
from beamfold.ingest.spill import disk_fault
from beamfold.ledger.segmentlog import SEGMENT_BYTES, Location, LogBusy, LogCorrupt, LogFull, SegmentLog
from beamfold.model.errors import BeamfoldError
from beamfold.model.events import Buffer
from beamfold.sources.base import LARGE

BUSY_S = 5.0
"""Seconds for which the process before may still hold its log: the system takes a moment to end one that was killed."""

LOOK_S = 0.02
"""Seconds between two looks whether it does."""

_MESSAGES = "messages"
_KEPT = "kept"


class _Messages(msgspec.Struct, frozen=True, tag="messages", array_like=True):
    """Header of a record of messages: taken from the socket of `stream` at `stamp`; uint32 parts of each."""

    stream: str
    stamp: float
    counts: bytes


class _Kept(msgspec.Struct, frozen=True, tag="kept", array_like=True):
    """Header of a record with a frame that was broadcast."""

    stream: str
    ordinal: int


class At(msgspec.Struct, frozen=True, tag="at", array_like=True):
    """A record that says how far a stream has come: in its place among the messages, or where these begin."""

    stream: str
    mark: Mark


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Messages | _Kept | At)


class Received(NamedTuple):
    """Messages of a stream that were taken from its socket together, at `stamp`."""

    stream: str
    stamp: float
    messages: list[list[Buffer]]


class WriteAhead:
    """The log of one scan at one ingester, in a directory of its own.

    Where there is one already it is gone on with: `begins`, `kept` and `received` have what is in it, and everything
    that `received` gives counts as appended again. A record that the end of its writer left unfinished is left out.

    Raises, here and from everything that reads or writes, BeamfoldError (LogBusy, LogCorrupt, LogFull) or OSError.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        keep: Callable[[memoryview], memoryview] = memoryview.toreadonly,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._segments: dict[int, dict[str, Mark]] = {}  # how far streams had come by the end of each
        self._unfed: dict[str, set[int]] = {}  # segments with messages that were not looked at yet
        self._opened = ExitStack()
        with ExitStack() as opened:
            self._log = opened.enter_context(SegmentLog(directory / _MESSAGES, segment_bytes, max_bytes))
            self._kept = opened.enter_context(SegmentLog(directory / _KEPT, segment_bytes))
            headers = (_read(parts[0]) for _, parts in self._kept.records())
            self.begins = {at.stream: at.mark for at in headers if isinstance(at, At)}
            """How far streams had come where the log begins; of those that are not here it has everything."""
            self._saved = {stream: mark.next for stream, mark in self.begins.items()}  # below it broadcasts are kept
            self._opened = opened.pop_all()

    # -- what is there -------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._log.size + self._kept.size

    def kept(self) -> Iterator[tuple[str, int, Frame]]:
        """Frames that were broadcast before the log begins: stream, ordinal, frame; one may come twice."""
        for _, parts in self._kept.records():
            header = _read(parts[0])
            if isinstance(header, _Kept):
                yield header.stream, header.ordinal, self._parts(parts[1:])

    def received(self) -> Iterator[Received | At]:
        """Everything in the log, in its order. What came of it is to be told by `fed`, before the next is taken."""
        for location, parts in self._log.records():
            header = _read(parts[0])
            if isinstance(header, At):
                yield header
            elif isinstance(header, _Messages):
                rest = iter(self._parts(parts[1:]))
                self._note(header.stream, location)
                yield Received(header.stream, header.stamp, [list(islice(rest, n)) for n in array("I", header.counts)])

    def _parts(self, parts: Iterable[bytes]) -> list[Buffer]:
        return [self._keep(memoryview(part)) if len(part) >= LARGE else part for part in parts]

    # -- what is added -------------------------------------------------------------------------------------------

    def append(self, stream: str, messages: Sequence[Sequence[Buffer]], stamp: float) -> None:
        """These messages were taken from the socket of a stream: one record, written before anything else is done."""
        parts = list(chain.from_iterable(messages))
        if fault := disk_fault(self._directory, sum(map(len, parts))):
            raise LogFull(fault)
        header = _Messages(stream, stamp, array("I", map(len, messages)).tobytes())
        self._note(stream, self._log.append([_encoder.encode(header), *parts]))

    def _note(self, stream: str, location: Location) -> None:
        self._segments.setdefault(location.segment, {})
        self._unfed.setdefault(stream, set()).add(location.segment)

    def fed(self, stream: str, mark: Mark) -> None:
        """All that was appended of a stream was looked at: it has come this far."""
        for segment in self._unfed.pop(stream, ()):
            self._segments[segment][stream] = mark

    def at(self, stream: str, mark: Mark) -> None:
        """What is appended of a stream from now on is behind this mark."""
        self._log.append([_encoder.encode(At(stream, mark))])

    def trim(
        self, first_open: Callable[[str], int], broadcast: Callable[[str, int, int], list[tuple[int, Frame]]]
    ) -> None:
        """Drop what nobody needs any more: segments whose events are all terminal.

        `first_open` says of a stream below which ordinal that is so, `broadcast` has the frames of such messages lo to
        hi-1 that are needed all the same.
        """
        last = self._log.end.segment
        unfed = set().union(*self._unfed.values())
        opened: dict[str, int] = {}
        over: dict[str, Mark] = {}
        end = 0
        for number, marks in self._segments.items():
            for stream in marks.keys() - opened.keys():
                opened[stream] = first_open(stream)
            # One more than what has come: a part of the next frame, or the end of the series, may be there as well.
            if number >= last or number in unfed or any(opened[s] <= mark.next for s, mark in marks.items()):
                break
            over.update(marks)
            end = number + 1
        if not end:
            return
        for stream, mark in over.items():
            for ordinal, frame in broadcast(stream, self._saved.get(stream, 0), mark.next):
                self._kept.append([_encoder.encode(_Kept(stream, ordinal)), *frame])
            self._kept.append([_encoder.encode(At(stream, mark))])
            self._saved[stream] = mark.next
        self._log.drop_before(Location(end, 0))
        for number in [n for n in self._segments if n < end]:
            del self._segments[number]

    def close(self) -> None:
        """Let go of it; what is on disk stays there."""
        self._opened.close()

    def remove(self) -> None:
        """Nobody needs it any more."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class WriteAheads:
    """Where the logs of an ingester are: below `directory`, `max_bytes` for the messages of each scan.

    `keep` says where large parts go when they are read back.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        keep: Callable[[memoryview], memoryview] = memoryview.toreadonly,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._keep = keep
        self._segment_bytes = segment_bytes

    def begin(self, scan_id: str) -> WriteAhead:
        """An empty log for a scan; those of scans that nobody goes on with are removed. Raises as `WriteAhead` does."""
        for old in self.directory.glob("*"):
            if old.name != scan_id and _abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.directory / scan_id, ignore_errors=True)
        return self._open(scan_id)

    def find(self, scan_id: str) -> WriteAhead | None:
        """The log that another process began for this scan; None where there is none. Raises as `WriteAhead` does."""
        if not (self.directory / scan_id).is_dir():
            return None
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                return self._open(scan_id)
            except LogBusy:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(LOOK_S)

    def _open(self, scan_id: str) -> WriteAhead:
        return WriteAhead(self.directory / scan_id, self._max_bytes, self._segment_bytes, self._keep)


def _abandoned(directory: Path) -> bool:
    """Whether no process has this log any more."""
    try:
        SegmentLog(directory / _MESSAGES).close()
    except LogBusy:
        return False
    except (BeamfoldError, OSError):
        pass  # damaged: all the more
    return True


def _read(header: bytes) -> _Messages | _Kept | At:
    try:
        found: _Messages | _Kept | At = _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise LogCorrupt(f"a log of received messages has a record that is none: {error}") from error
    return found


__all__ = ["At", "Received", "WriteAhead", "WriteAheads"]
