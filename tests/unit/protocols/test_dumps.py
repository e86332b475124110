"""Dump files: byte-exact writing, reading what others wrote, and files that are damaged."""

from __future__ import annotations

import gzip
import io
import pickle
import sys
import types
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpEvent, DumpWriter, RawWriter, kind_of, read_dump, read_raw
from captures import capture

WHEN = datetime(2024, 11, 20, 14, 47, 30, 591460, UTC)
EVENT = bytes.fromhex(
    "d9d9f7 d9a77d 83 07 a1 61 73 d9a77e 82 65 5354494e53 82 42 7b7d 42 6162"
    "c0 78 1b 323032342d31312d32305431343a34373a33302e3539313436305a"
)
"""Event 7 of stream "s", type STINS, parts {} and ab, as dranspose wrote it."""


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_an_event_is_written_byte_for_byte_as_dranspose_does(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "x.cbors") as writer:
        writer.write(7, {"s": StreamData("STINS", [b"{}", memoryview(b"ab")])}, WHEN)
    assert (tmp_path / "x.cbors").read_bytes() == EVENT


def test_it_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "x.cbors", EVENT)
    assert kind_of(path) == "internal"
    assert list(read_dump(str(path))) == [DumpEvent(7, {"s": StreamData("STINS", [b"{}", b"ab"])}, WHEN)]


@pytest.mark.parametrize("outer", [b"\xd9\xd9\xf7", b""])
def test_older_dumps_without_time_or_outer_tag_are_read(tmp_path: Path, outer: bytes) -> None:
    old = outer + bytes.fromhex("d9a77d 82 18 64 a0")
    assert list(read_dump(write(tmp_path / "x.cbors", old * 3))) == [DumpEvent(100, {}, None)] * 3


def test_without_a_time_the_older_form_is_written() -> None:
    file = io.BytesIO()
    DumpWriter(file).write(100, {})
    assert file.getvalue() == bytes.fromhex("d9d9f7 d9a77d 82 18 64 a0")


def test_times_are_written_in_utc_with_microseconds() -> None:
    file = io.BytesIO()
    DumpWriter(file).write(1, {}, datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    assert file.getvalue().endswith(b"\xc0\x78\x1b2023-12-31T23:00:00.000000Z")
    with pytest.raises(ValueError, match="time zone"):
        DumpWriter(file).write(1, {}, datetime(2024, 1, 1))


names = st.text(min_size=1, max_size=30)
streams = st.dictionaries(
    names, st.builds(StreamData, names, st.lists(st.binary(max_size=300), max_size=3)), max_size=3
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), streams, st.none() | st.just(WHEN)), max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, events: list[Any]) -> None:
    path = tmp_path_factory.mktemp("dump") / "x.cbors"
    with DumpWriter(path) as writer:
        for event in events:
            writer.write(*event)
    assert [(e.event_number, e.streams, e.created_at) for e in read_dump(path)] == events
    with path.open("rb") as file:  # cbor2 agrees on what was written
        decoder = cbor2.CBORDecoder(file)
        assert [decoder.decode().value[0] for _ in events] == [number for number, _, _ in events]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=30), max_size=4))
def test_raw_round_trip(tmp_path_factory: pytest.TempPathFactory, messages: list[list[bytes]]) -> None:
    path = tmp_path_factory.mktemp("raw") / "x.cbors.gz"
    with RawWriter(path) as writer:
        for message in messages:
            writer.write(message)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert list(read_raw(path)) == messages
    if messages:
        assert kind_of(path) == "raw"


def test_large_parts(tmp_path: Path) -> None:
    parts = [b"h", bytes(70_000), memoryview(bytes(300_000))]
    with RawWriter(tmp_path / "x.cbors") as writer:
        writer.write(parts)
        writer.write([b""])
        writer.flush()
    assert list(read_raw(tmp_path / "x.cbors")) == [[bytes(p) for p in parts], [b""]]
    with pytest.raises(ValueError, match="at least one part"):
        RawWriter(io.BytesIO()).write([])


def test_nothing_that_was_recorded_is_overwritten(tmp_path: Path) -> None:
    for name in ("x.cbors", "x.cbors.gz"):
        path = write(tmp_path / name, EVENT)
        with pytest.raises(FileExistsError):
            DumpWriter(path)
        assert path.read_bytes() == EVENT


def test_a_file_that_was_handed_in_stays_open() -> None:
    file = io.BytesIO()
    with DumpWriter(file) as writer:
        writer.write(1, {})
    assert not file.closed


def test_gzip_is_told_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.cbors", gzip.compress(EVENT))
    assert kind_of(path) == "internal"
    assert [e.event_number for e in read_dump(path)] == [7]
    path = write(tmp_path / "y.cbors.gz", EVENT)
    assert [e.event_number for e in read_dump(path)] == [7]


def test_the_two_kinds_are_not_confused(tmp_path: Path) -> None:
    internal, raw = write(tmp_path / "i", EVENT), write(tmp_path / "r", bytes.fromhex("81 41 61"))
    with pytest.raises(MalformedFrame, match="i is an internal dump"):
        list(read_raw(internal))
    with pytest.raises(MalformedFrame, match="r is a raw capture"):
        list(read_dump(raw))


@pytest.mark.parametrize("data", [b"hello", b"\x1f\x8b\x00", b"{}", b"\x00", b"\xd9\xd9"])
def test_what_is_no_dump_is_named(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "x", data)
    for read in (kind_of, lambda p: list(read_dump(p)), lambda p: list(read_raw(p))):
        with pytest.raises(MalformedFrame, match="x: "):
            read(path)


def test_an_empty_file_has_no_items_and_no_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "x", b"")
    assert list(read_dump(path)) == list(read_raw(path)) == []
    with pytest.raises(MalformedFrame, match="it is empty"):
        kind_of(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_cut_dump_gives_what_is_whole_and_says_how_much(tmp_path: Path, zipped: bool) -> None:
    for cut in range(1, len(EVENT)):
        data = EVENT * 3 + EVENT[:cut]
        path = write(tmp_path / "x", gzip.compress(data) if zipped else data)
        found = []
        with pytest.raises(MalformedFrame, match="the file ends inside item 4; 3 before it were read whole"):
            for event in read_dump(path):
                found.append(event.event_number)  # noqa: PERF401
        assert found == [7, 7, 7]


def test_a_cut_gzip_file_says_so(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(EVENT + bytes.fromhex("81 44") + bytes([n] * 4) for n in range(200)))
    for end in (3, 12, len(data) - 9, len(data) - 3):
        path = write(tmp_path / "x", data[:end])
        with pytest.raises(MalformedFrame):
            list(read_dump(path))


@pytest.mark.parametrize(
    "item",
    [
        "d9a77d 81 07",
        "d9a77d 84 07 a0 f6 f6",
        "d9a77d 82 20 a0",
        "d9a77d 82 f5 a0",
        "d9a77d 82 61 61 a0",
        "d9a77d 82 07 80",
        "d9a77d 82 07 a1 61 73 80",
        "d9a77d 82 07 a1 01 d9a77e 82 61 61 80",
        "d9a77d 82 07 a1 61 73 d9a77e 81 61 61",
        "d9a77d 82 07 a1 61 73 d9a77e 82 01 80",
        "d9a77d 82 07 a1 61 73 d9a77e 82 61 61 81 01",
        "d9a77d 83 07 a0 61 78",
        "d9a77d 83 07 a0 c0 61 78",
        "d9a77d 07",
        "d9a77d 9c",
        "81 41 61",
        "07",
        "ff",
    ],
)
def test_an_item_that_is_no_event_is_named_after_those_before_it(tmp_path: Path, item: str) -> None:
    path = write(tmp_path / "x", EVENT + bytes.fromhex(item))
    events = read_dump(path)
    assert next(events).event_number == 7
    with pytest.raises(MalformedFrame, match="item 2"):
        next(events)


@pytest.mark.parametrize(
    "item", ["81 61 61", "81 01", "80 01", "07", "a0", "9b00000000ffffffff 40", "5bffffffffffffffff"]
)
def test_an_item_that_is_no_message_is_named_after_those_before_it(tmp_path: Path, item: str) -> None:
    path = write(tmp_path / "x", bytes.fromhex("81 41 61" + item))
    messages = read_raw(path)
    assert next(messages) == [b"a"]
    with pytest.raises(MalformedFrame, match=r"item [23]"):
        list(messages)


def test_nesting_without_end_is_damage(tmp_path: Path) -> None:
    with pytest.raises(MalformedFrame, match="item 1 is damaged"):
        list(read_raw(write(tmp_path / "x", b"\x81" * 100_000)))


def test_items_longer_than_a_read_ahead_are_not_confused(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "x.cbors") as writer:
        for n in range(50):
            writer.write(n, {"s": StreamData("t", [bytes([n]) * (n * 397)])})
    for n, event in enumerate(read_dump(tmp_path / "x.cbors")):
        assert event == DumpEvent(n, {"s": StreamData("t", [bytes([n]) * (n * 397)])}, None)


# --- pickled dumps ------------------------------------------------------------------------------------------


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The two classes as pydantic 2 pickles them, under the names that are in old dumps."""

    class Model:
        def __init__(self, **fields: Any) -> None:
            self.fields = fields

        def __reduce_ex__(self, protocol: Any) -> Any:
            state = {
                "__dict__": self.fields,
                "__pydantic_extra__": None,
                "__pydantic_fields_set__": set(self.fields),
                "__pydantic_private__": None,
            }
            return __import__("copyreg").__newobj__, (type(self),), state

    module = types.ModuleType("dranspose.event")
    for name in ("InternalWorkerMessage", "StreamData", "EventData"):
        setattr(module, name, type(name, (Model,), {"__module__": module.__name__, "__qualname__": name}))
    monkeypatch.setitem(sys.modules, "dranspose", types.ModuleType("dranspose"))
    monkeypatch.setitem(sys.modules, "dranspose.event", module)
    return module


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_dumps_are_read_without_their_classes(
    peer: types.ModuleType, tmp_path: Path, protocol: int, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(n: int, **more: Any) -> bytes:
        streams = {"s": peer.StreamData(typ="STINS", frames=[b"{}", bytes([n]) * 90_000])}
        return pickle.dumps(peer.InternalWorkerMessage(event_number=n, streams=streams, **more), protocol=protocol)

    data = b"".join(message(n) for n in range(30)) + message(30, created_at=WHEN)
    path = write(tmp_path / "x.pkls", gzip.compress(data) if zipped else data)
    cut = write(tmp_path / "cut.pkls", data[:-5])
    monkeypatch.delitem(sys.modules, "dranspose.event")
    assert kind_of(path) == "pkls"
    events = list(read_dump(path))
    assert [e.event_number for e in events] == list(range(31))
    assert events[4].streams == {"s": StreamData("STINS", [b"{}", b"\x04" * 90_000])}
    assert [e.created_at for e in events[29:]] == [None, WHEN]
    found = []
    with pytest.raises(MalformedFrame, match="the file ends inside item 31; 30 before it were read whole"):
        for event in read_dump(cut):
            found.append(event.event_number)  # noqa: PERF401
    assert found == list(range(30))
    with pytest.raises(MalformedFrame, match="item 1 is not a message"):
        list(read_raw(path))


def test_pickled_raw_captures_are_read(tmp_path: Path) -> None:
    messages = [[b"a", b"b" * n] for n in range(5)]
    path = write(tmp_path / "x.pkls", b"".join(pickle.dumps(m, protocol=4) for m in messages))
    assert list(read_raw(path)) == messages
    with pytest.raises(MalformedFrame, match="item 1 is a message as a source receives it"):
        list(read_dump(path))


def test_a_pickled_dump_that_asks_for_anything_else_is_refused(peer: types.ModuleType, tmp_path: Path) -> None:
    evil = peer.InternalWorkerMessage(event_number=1, streams={}, more=eval)
    with pytest.raises(UnsafePickle, match=r"item 1 is damaged .*builtins\.eval"):
        list(read_dump(write(tmp_path / "x", pickle.dumps(evil, protocol=4))))
    other = pickle.dumps(peer.EventData(event_number=1), protocol=4)
    with pytest.raises(UnsafePickle, match=r"dranspose\.event\.EventData"):
        list(read_dump(write(tmp_path / "y", other)))


@pytest.mark.parametrize("fields", [{}, {"event_number": "1", "streams": {}}, {"event_number": 1, "streams": {"a": 5}}])
def test_a_pickled_event_that_is_none_is_named(peer: types.ModuleType, tmp_path: Path, fields: Any) -> None:
    path = write(tmp_path / "x", pickle.dumps(peer.InternalWorkerMessage(**fields), protocol=4))
    with pytest.raises(MalformedFrame, match="a pickled event w"):
        list(read_dump(path))
    stream = peer.StreamData(typ=1, frames=[])
    with pytest.raises(MalformedFrame, match="a pickled stream without"):
        list(read_dump(write(path, pickle.dumps(stream, protocol=4))))


# --- recorded files -----------------------------------------------------------------------------------------


def test_the_recorded_internal_dump_is_read_and_written_again_the_same(tmp_path: Path) -> None:
    path = capture("dump_xrd.cbors")
    assert kind_of(path) == "internal"
    events = list(read_dump(path))
    assert [e.event_number for e in events] == list(range(11))
    assert {e.streams["xrd"].typ for e in events} == {"STINS"}
    with DumpWriter(tmp_path / "x.cbors") as writer:
        for event in events:
            writer.write(event.event_number, event.streams, event.created_at)
    assert (tmp_path / "x.cbors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("albaem-dump.cbors", 6),
        ("contrast-dump.cbors", 26),
        ("eiger-small.cbors", 5),
        ("maui-02-continuous-3.cbor.gz", 9),
        ("pcap-zmq.cbors", 102),
        ("xspress3-dump.cbors", 62),
    ],
)
def test_the_recorded_raw_captures_are_read_and_written_again_the_same(name: str, count: int, tmp_path: Path) -> None:
    path = capture(name)
    assert kind_of(path) == "raw"
    messages = list(read_raw(path))
    assert len(messages) == count
    with RawWriter(tmp_path / "x.cbors") as writer:
        for message in messages:
            writer.write(message)
    data = path.read_bytes()
    assert (tmp_path / "x.cbors").read_bytes() == (gzip.decompress(data) if name.endswith("gz") else data)
