"""Events cut out of a dump's bytes are those that a decoder of any CBOR finds, whatever the bytes are."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpEvent, DumpWriter, read_dump
from beamfold.protocols.dumpscan import VIEWED, DumpScanner

WHEN = datetime(2024, 11, 20, 14, 47, 30, 591460, UTC)


def written(events: Sequence[tuple[int, dict[str, StreamData], datetime | None]]) -> bytes:
    file = BytesIO()
    with DumpWriter(file) as writer:
        for event in events:
            writer.write(*event)
    return file.getvalue()


def outcome(path: Path) -> tuple[list[DumpEvent], str]:
    """What is read, and how it ends."""
    found: list[DumpEvent] = []
    try:
        for event in read_dump(path):
            found.append(  # noqa: PERF401  # an error must not take what came before it
                DumpEvent(event.event_number, {k: _bytes(v) for k, v in event.streams.items()}, event.created_at)
            )
    except MalformedFrame as error:
        return found, str(error)
    return found, ""


def _bytes(data: StreamData) -> StreamData:
    return StreamData(data.typ, [bytes(frame) for frame in data.frames])


def nothing(_: DumpScanner, data: bytes, at: int, found: list[DumpEvent]) -> tuple[int, int]:
    """A scanner that leaves everything to cbor2."""
    return at, 0


def check(data: bytes, piece: int, zipped: bool = False) -> list[DumpEvent]:
    """Both ways of reading find the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.cbors")
        path.write_bytes(gzip.compress(data) if zipped else data)
        with patch.object(DumpScanner, "scan", nothing):
            expected = outcome(path)
        with patch("beamfold.protocols.cborseq.PIECE", piece):
            assert outcome(path) == expected
        return expected[0]


NAMES = st.sampled_from(["camera", "", "é", "n" * 23, "n" * 24, "n" * 300]) | st.text(max_size=5)
PARTS = st.lists(st.binary(max_size=40) | st.sampled_from([23, 24, 255, 256, 65536]).map(bytes), max_size=3)
STREAMS = st.dictionaries(NAMES, st.builds(StreamData, NAMES, PARTS), max_size=3)
NUMBERS = st.integers(0, 40) | st.sampled_from([250, 65_530, 2**32 - 5, 2**64 - 50])


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[int, dict[str, StreamData], datetime | None]]:
    """Events of one kind, which have other bytes in their message parts; sometimes one of them is longer."""
    streams, when = draw(STREAMS), draw(st.none() | st.just(WHEN))
    first, length = draw(NUMBERS), draw(st.integers(1, 40))
    odd = draw(st.integers(0, 2 * length))
    found = []
    for n in range(length):
        longer = b"!" * (n == odd)
        changed = {
            name: StreamData(data.typ, [bytes([n]) + bytes(part)[1:] + longer for part in data.frames])
            for name, data in streams.items()
        }
        found.append((first + n, changed, None if when is None else when + timedelta(microseconds=n)))
    return found


@settings(deadline=None, max_examples=150)
@given(st.lists(runs(), max_size=4), st.sampled_from([1, 7, 100, 5000, 1 << 18]), st.booleans(), st.data())
def test_what_is_written_is_read(files: list[Any], piece: int, zipped: bool, data: st.DataObject) -> None:
    events = list(chain.from_iterable(files))
    raw = written(events)
    if len(raw) > 1 << 17:
        piece = max(piece, 5000)
    assert check(raw, piece, zipped) == events
    cut = data.draw(st.integers(0, len(raw)), label="cut")
    check(raw[:cut], piece)


@settings(deadline=None, max_examples=300)
@given(runs(), st.data())
def test_damaged_bytes_give_the_same_events_and_the_same_error(events: Any, data: st.DataObject) -> None:
    raw = bytearray(written(events)[:3000])
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=3, unique=True), label="at"):
        raw[at] = data.draw(
            st.sampled_from([0x00, 0x1F, 0x40, 0x5B, 0x60, 0x82, 0x84, 0xC0, 0xFF]) | st.integers(0, 255)
        )
    check(bytes(raw), data.draw(st.sampled_from([1, 64, 1 << 18])))


def test_the_first_of_several_damages_counts(tmp_path: Path) -> None:
    """One of them in the streams of an event, an earlier one before the time of another."""
    events = [(n, {"camera": StreamData("t", [b"abc"])}, WHEN) for n in range(30, 60)]
    raw = bytearray(written(events))
    size = len(raw) // 30
    streams, time = raw.index(b"\xa1\x66camera"), raw.index(b"\xc0\x78\x1b")
    for where, other in [(streams, time), (time, streams)]:
        damaged = bytearray(raw)
        damaged[where + 20 * size] = damaged[other + 15 * size] = 0
        assert len(check(bytes(damaged), 1 << 18)) == 15


def _long_head(major: int, n: int) -> bytes:
    return bytes([major << 5 | 27]) + n.to_bytes(8, "big")


def _event(number: bytes, streams: bytes, more: bytes = b"", size: int = 2) -> bytes:
    return bytes.fromhex("d9d9f7d9a77d") + bytes([0x80 | size]) + number + streams + more


def _stream(parts: bytes, typ: bytes = b"\x61t", name: bytes = b"\x61s") -> bytes:
    return name + bytes.fromhex("d9a77e82") + typ + parts


UNUSUAL: dict[str, Callable[[int], bytes]] = {
    "long number": lambda n: _event(_long_head(0, n), b"\xa0"),
    "long length": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x81" + _long_head(2, 2) + bytes([n, n]))),
    "long map": lambda n: _event(b"\x18\x32", b"\xb8\x01" + _stream(b"\x81\x41" + bytes([n]))),
    "long name": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x80", name=_long_head(3, 1) + b"s")),
    "unending map": lambda n: _event(b"\x18\x32", b"\xbf" + _stream(b"\x81\x41" + bytes([n])) + b"\xff"),
    "unending parts": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x9f\x41" + bytes([n]) + b"\xff")),
    "parts in pieces": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x81\x5f\x41a\x41" + bytes([n]) + b"\xff")),
    "text for a part": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x82\x61a\x41" + bytes([n]))),
    "a stream twice": lambda n: _event(
        b"\x18\x32", b"\xa2" + _stream(b"\x81\x41" + bytes([n])) + _stream(b"\x81\x41x", b"\x61u")
    ),
    "many parts": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x98\x18" + b"\x41x" * 24)),
    "no outer tag": lambda n: _event(bytes([0x18, 50 + n]), b"\xa0")[3:],
    "another form of time": lambda n: _event(b"\x18\x32", b"\xa0", b"\xc0\x742024-11-20T14:47:30Z", 3),
    "a time in seconds": lambda n: _event(b"\x18\x32", b"\xa0", b"\xc1\x1a\x50\x00\x00" + bytes([n]), 3),
    "no such month": lambda n: _event(b"\x18\x32", b"\xa0", b"\xc0\x78\x1b2024-13-20T14:47:30.591460Z", 3),
    "no time": lambda n: _event(b"\x18\x32", b"\xa0", b"\xf6", 3),
    "negative number": lambda n: _event(b"\x38\x32", b"\xa0"),
    "no text": lambda n: _event(b"\x18\x32", b"\xa1" + _stream(b"\x80", b"\x62\xc3\x28")),
    "a message": lambda n: b"\x81\x41a",
}


@pytest.mark.parametrize("piece", [1, 50, 1 << 18])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_written_in_another_way_is_read_too(kind: str, piece: int) -> None:
    """Many of the same in a row, among usual ones of the same size as far as can be."""
    usual = b"".join(_event(bytes([0x18, 24 + n]), b"\xa1" + _stream(b"\x81\x41" + bytes([n]))) for n in range(20))
    check(usual + b"".join(map(UNUSUAL[kind], range(20))) + usual, piece)


def test_usual_events_are_not_left_to_cbor2(tmp_path: Path) -> None:
    streams = {"camera": StreamData("STINS", [b"{}", b"xy"]), "motor": StreamData("contrast", [b"1"])}
    events = [(n, streams, WHEN) for n in range(3000)]
    (tmp_path / "x.cbors").write_bytes(written(events))
    with patch.object(cbor2, "CBORDecoder", side_effect=AssertionError):
        assert list(read_dump(tmp_path / "x.cbors")) == events


def test_large_parts_are_not_copied_and_keep_little_else_alive(tmp_path: Path) -> None:
    small, large = bytes(VIEWED - 1), bytes(VIEWED)
    (tmp_path / "x.cbors").write_bytes(written([(n, {"s": StreamData("t", [small, large])}, None) for n in range(9)]))
    for event in read_dump(tmp_path / "x.cbors"):
        first, second = event.streams["s"].frames
        assert first == small and type(first) is bytes
        assert second == large and type(second) is memoryview and second.readonly
        assert type(second.obj) is bytes and len(second.obj) < 8 * VIEWED
