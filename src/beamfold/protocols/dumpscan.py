"""Events of an internal dump cut out of its bytes, where they are written as all known writers write them.

`dumps` has the format. What one ingester writes differs from event to event by little more than the number and the
bytes of the frames, so the rest is compared with that of the event before, and not decoded; events of one size that
follow one another are even taken many at a time. Whatever is written in another way, valid or not, is left to a decoder
of any CBOR; for what is taken here both find the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from beamfold.model.events import Buffer, StreamData
from beamfold.protocols.cborseq import ARRAY, BYTES, MAP, PIECE, TAG, TEXT, head
from beamfold.protocols.pkls import DumpEvent

SELF_DESCRIBED, EVENT, STREAM = 55799, 42877, 42878
"""The tags: of anything in CBOR, of an event, and of the data of a stream."""

VIEWED = PIECE // 4
"""Bytes of a message part from which on it is a view of what was read: no copy, and it keeps only a few times its size
alive."""

_BEGIN = head(TAG, SELF_DESCRIBED) + head(TAG, EVENT)
_STREAM_TAG = head(TAG, STREAM) + head(ARRAY, 2)
_UNTIMED, _TIMED = head(ARRAY, 2)[0], head(ARRAY, 3)[0]
_MAP, _ARRAY, _BYTES, _TEXT = MAP << 5, ARRAY << 5, BYTES << 5, TEXT << 5
_SHORT = 24
"""Numbers, lengths and counts below this are in the head itself; for others that says how many bytes they have."""
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}

_TIME_HEAD = b"\xc0\x78\x1b"
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_TIME_SIZE = 27

_ALIKE = PIECE // 16
"""Bytes of an event up to which it is worth while to take many at a time."""
_FEW, _MANY = 8, 1024
"""Events that are taken at a time: at first, while it is not known how many are alike, and at most."""


class _Stream(NamedTuple):
    """What stands before the message parts of a stream: its name, type, and how many they are."""

    data: bytes
    name: str
    typ: str
    parts: int


class _Unusual(Exception):
    """The item is not written as expected."""


class DumpScanner:
    """Takes the events of one dump."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []
        self._size = 0

    def scan(self, data: bytes, at: int, found: list[DumpEvent]) -> tuple[int, int]:
        """Append the events from `at` on to `found`; returns where the first begins that is not taken, and why.

        That is 0 where it is written in another way, else the bytes that `data` lacks of it, at least. Message parts of
        `VIEWED` bytes and more are views of `data`.
        """
        begin, size, known, add = at, len(data), self._streams, found.append
        try:
            while True:
                if at - begin == self._size and found:
                    at = self._alike(data, begin, at, found)
                self._size, begin = at - begin, at
                if not data.startswith(_BEGIN, at):
                    return begin, len(_BEGIN) if size - at < len(_BEGIN) else 0
                at += len(_BEGIN)
                elements, number = data[at], data[at + 1]
                at += 2
                if number >= _SHORT:
                    width = _WIDTHS[number]
                    number = int.from_bytes(data[at : at + width], "big")
                    at += width
                count = data[at] - _MAP
                if not 0 <= count < _SHORT or not _UNTIMED <= elements <= _TIMED:
                    return begin, 0
                at += 1
                streams = {}
                for index in range(count):
                    if index >= len(known) or not data.startswith(known[index].data, at):
                        known[index : index + 1] = [_stream(data, at)]
                    before, name, typ, parts = known[index]
                    at += len(before)
                    frames: list[Buffer] = []
                    for _ in range(parts):
                        length = data[at] - _BYTES
                        at += 1
                        if length >= _SHORT:
                            width = _WIDTHS[length]
                            length = int.from_bytes(data[at : at + width], "big")
                            at += width
                        end = at + length
                        if end > size or length < 0:
                            return begin, max(end - size, 0)
                        frames.append(data[at:end] if length < VIEWED else memoryview(data)[at:end])
                        at = end
                    streams[name] = StreamData.of(typ, frames)
                if elements == _UNTIMED:
                    add(DumpEvent(number, streams))
                    continue
                if not data.startswith(_TIME_HEAD, at):
                    return begin, 1 if size - at < len(_TIME_HEAD) else 0
                at += len(_TIME_HEAD)
                text = data[at : at + _TIME_SIZE]
                if len(text) < _TIME_SIZE:
                    return begin, 1
                add(DumpEvent(number, streams, _time(text)))
                at += _TIME_SIZE
        except IndexError:
            return begin, 1
        except (_Unusual, KeyError, ValueError):
            return begin, 0

    def _alike(self, data: bytes, begin: int, at: int, found: list[DumpEvent]) -> int:
        """Take the events from `at` on that are laid out as the last one, which is from `begin` to there."""
        size, limit = at - begin, _FEW
        layout = _Layout.of(found[-1], self._streams, data[begin:at]) if size <= _ALIKE else None
        while layout is not None and (n := min((len(data) - at) // size, limit)):
            events = layout.take(memoryview(data)[at : at + n * size])
            found += events
            at += len(events) * size
            if len(events) < n:
                break
            limit = min(2 * limit, _MANY)
        return at


def _stream(data: bytes, at: int) -> _Stream:
    """IndexError where `data` ends too early, ValueError for text that is none."""
    begin = at
    name, at = _text(data, at)
    end = at + len(_STREAM_TAG)
    if data[at:end] != _STREAM_TAG:
        raise IndexError if len(data) < end else _Unusual
    typ, at = _text(data, end)
    parts = data[at] - _ARRAY
    if not 0 <= parts < _SHORT:
        raise _Unusual
    return _Stream(data[begin : at + 1], name, typ, parts)


def _text(data: bytes, at: int) -> tuple[str, int]:
    size = data[at] - _TEXT
    at += 1
    if size == _SHORT:
        size = data[at]
        at += 1
    elif not 0 <= size < _SHORT:
        raise _Unusual
    end = at + size
    if len(data) < end:
        raise IndexError
    return data[at:end].decode(), end


def _time(text: bytes) -> datetime:
    """ValueError for what is no time."""
    if not _TIME.fullmatch(text):
        raise _Unusual
    return datetime.fromisoformat(text.decode())


class _Layout:
    """Where the variable fields of an event are: its number, the message parts, and the time if there is one.

    Before each of them is a constant one.
    """

    def __init__(self, data: bytes, fields: Sequence[int], streams: Sequence[_Stream], timed: bool) -> None:
        self._struct = Struct("".join([f"{size}s" for size in fields]))
        self._constants: tuple[bytes, ...] = self._struct.unpack(data)[::2]
        self._streams = streams
        self._timed = timed

    @classmethod
    def of(cls, event: DumpEvent, streams: Sequence[_Stream], data: bytes) -> _Layout | None:
        """The layout of an event that was written to these bytes; None for one of which it is not known for sure."""
        fields, before = [len(_BEGIN) + 2, len(head(0, event.event_number)) - 1], 1
        streams = streams[: len(event.streams)]
        for stream, found in zip(streams, event.streams.values(), strict=True):
            before += len(stream.data)
            for part in found.frames:
                fields += (before + len(head(BYTES, len(part))), len(part))
                before = 0
        if event.created_at is not None:
            fields += (before + len(_TIME_HEAD), _TIME_SIZE)
            before = 0
        # A head may be longer than it has to be. A number in its head, and what is behind the last field, would vary.
        if sum(fields) != len(data) or not fields[1] or before:
            return None
        return cls(data, fields, streams, event.created_at is not None)

    def take(self, data: memoryview) -> list[DumpEvent]:
        """The events, up to the first that is laid out in another way."""
        columns = list(zip(*self._struct.iter_unpack(data), strict=True))
        n = all_of_them = len(columns[0])
        for constant, column in zip(self._constants, columns[::2], strict=True):
            if column.count(constant) < all_of_them:
                n = min(n, next(i for i, value in enumerate(column) if value != constant))
        times: list[datetime | None] = []
        if self._timed:
            try:
                times += map(_time, columns.pop()[:n])
            except (_Unusual, ValueError):
                n = len(times)
        numbers, *parts = columns[1::2]
        streams = self._joined([column[:n] for column in parts], n)
        return list(map(DumpEvent, map(int.from_bytes, numbers[:n]), streams, times if self._timed else repeat(None)))

    def _joined(self, parts: list[tuple[bytes, ...]], n: int) -> list[dict[str, StreamData]]:
        """The streams of n events; `parts` has one column for every message part of all streams."""
        make = StreamData.of
        if len(self._streams) == 1 and parts:
            ((_, name, typ, _),) = self._streams
            return [{name: make(typ, list(message))} for message in zip(*parts, strict=True)]
        joined, at = [dict[str, StreamData]() for _ in range(n)], 0
        for _, name, typ, count in self._streams:
            messages = zip(*parts[at : at + count], strict=True) if count else repeat((), n)
            at += count
            for streams, message in zip(joined, messages, strict=True):
                streams[name] = make(typ, list(message))
        return joined
