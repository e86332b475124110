"""Whatever bytes come, a parser raises its documented error and no other, in memory bounded by what came.

Every parser gets the whole corpus, honest messages in which something is wrong, and any bytes at all. What a parser
makes of bytes that it takes is looked at as its users do: arrays are decoded, lazy parts are read, objects are shown.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import BeamfoldError, CodecError, ConfigError, MalformedFrame
from beamfold.model.events import StreamData
from beamfold.protocols import codec, framer, stins, xspress3
from beamfold.protocols import envelopes as e
from beamfold.protocols import messages as m
from beamfold.protocols.cborseq import read_items
from beamfold.protocols.dumps import kind_of, read_dump, read_raw
from beamfold.protocols.items import Start
from beamfold.protocols.pkls import read_pickles
from beamfold.protocols.recordings import ABOUT, HISTORY, MAP, REPORT, read_recording
from beamfold.protocols.unpickle import safe_loads
from beamfold.protocols.zmtp import GREETING, Inbox
from beamfold.reduce.batch import Batch
from corpus import Case, any_of, cases, honest, insane_messages, mutated
from unit.protocols.test_recordings import FIRST, write

LARGE = 4096
"""Bytes from which on the inbox asks for room for a part."""

ROOM = 1 << 24
"""Bytes of parts that a connection of the tests may begin: more come from nobody who is tested here."""


class Parser(NamedTuple):
    """`read` a message, in a folder of its own; it may raise `error`. `kind` is that of honest messages it takes."""

    read: Callable[[list[bytes], Path], Any]
    error: tuple[type[BeamfoldError], ...]
    kind: str
    messages: bool = False  # of msgpack


def frame(name: str, message: list[bytes], folder: Path, **options: Any) -> None:
    """A framer says what it makes of a message, and goes on."""
    made = framer(name, **options)
    made.feed([message, message])
    assert any(isinstance(item, Start) for item in made.feed(honest()[name][:2]))


def parse(typ: str, message: list[bytes], folder: Path) -> None:
    data = StreamData(typ, message)
    parsed = data.parse()
    repr(parsed)
    if isinstance(parsed, stins.Header):
        _ = parsed.appendix
    elif isinstance(parsed, xspress3.Image):
        _ = parsed.meta
    data.array()


def envelope(message: list[bytes], folder: Path) -> None:
    if not message:
        return
    header = e.decode_header(message[0])
    if isinstance(header, e.FrameBatch):
        slots = [bytes(9) for _ in e.slots_of(header)]
        e.decode_frames(header, message[1:], slots)
        e.unpack_events(header.events, header.n)
        e.unpack_positions(header.k, header.n)
    elif isinstance(header, e.ResultBatch):
        if header.times is not None:
            header.times.check(header.n)
        batch = Batch(header, message[1:])
        for place in batch.all_places:
            assert len(batch.events_of(place)) >= 1
            batch.broadcast(place)


def result(message: list[bytes], folder: Path) -> None:
    if message:
        codec.decode(message[0], message[1:])


def joined(read: Callable[[bytes], Any], message: list[bytes], folder: Path) -> None:
    read(b"".join(message))


def file(read: Callable[[Path], Any], message: list[bytes], folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"".join(message))
    for _ in read(path):
        pass


def recording(name: str, message: list[bytes], folder: Path) -> None:
    if not (folder / ABOUT).exists():
        write(folder, FIRST)
    (folder / name).write_bytes(b"".join(message) + b"\n")
    read_recording(folder)


def connection(before: bytes, message: list[bytes], folder: Path) -> None:
    begun = 0

    def room(nbytes: int) -> memoryview:
        nonlocal begun
        begun += nbytes
        if begun > ROOM:
            raise MalformedFrame("a large part begins, which is no fault")
        return memoryview(bytearray(nbytes))

    box = Inbox(room, LARGE)
    data = before + b"".join(message)
    while data:
        taken = 0
        for target in box.targets():
            piece = data[taken : taken + len(target)]
            target[: len(piece)] = piece
            taken += len(piece)
            if len(piece) < len(target):
                break
        data = data[taken:]
        box.received(taken)


MALFORMED, CODEC, CONFIG = (MalformedFrame,), (CodecError,), (ConfigError,)
READY = honest()["zmtp"][0][0]

PARSERS: dict[str, Parser] = {
    "stins framer": Parser(partial(frame, "stins"), (), "stins"),
    "stins framer by message": Parser(partial(frame, "stins", number="msg_number"), (), "stins"),
    "xspress3 framer": Parser(partial(frame, "xspress3"), (), "xspress3"),
    "contrast framer": Parser(partial(frame, "contrast"), (), "contrast"),
    "stins": Parser(partial(parse, "STINS"), MALFORMED, "stins"),
    "xspress3": Parser(partial(parse, "xspress"), MALFORMED, "xspress3"),
    "contrast": Parser(partial(parse, "contrast"), MALFORMED, "contrast"),
    "control messages to the controller": Parser(
        partial(joined, m.decode_to_controller), CODEC, "to the controller", True
    ),
    "control messages to a service": Parser(partial(joined, m.decode_to_service), CODEC, "to a service", True),
    "envelopes": Parser(envelope, CODEC, "envelopes", True),
    "results": Parser(result, CODEC, "results", True),
    "pickles": Parser(partial(joined, safe_loads), MALFORMED, "contrast"),
    "internal dumps": Parser(partial(file, read_dump), MALFORMED, "dumps"),
    "raw captures": Parser(partial(file, read_raw), MALFORMED, "dumps"),
    "pickled dumps": Parser(partial(file, read_pickles), MALFORMED, "dumps"),
    "CBOR items": Parser(partial(file, read_items), MALFORMED, "dumps"),
    "kinds of dumps": Parser(partial(file, kind_of), MALFORMED, "dumps"),
    "what a recording is": Parser(partial(recording, ABOUT), CONFIG, "stins"),
    "the map of a recording": Parser(partial(recording, MAP), CONFIG, "stins"),
    "the history of a recording": Parser(partial(recording, HISTORY), CONFIG, "stins"),
    "the report of a recording": Parser(partial(recording, REPORT), CONFIG, "stins"),
    "a connection": Parser(partial(connection, b""), MALFORMED, "zmtp"),
    "a connection after its greeting": Parser(partial(connection, GREETING), MALFORMED, "zmtp"),
    "a connection that is ready": Parser(partial(connection, READY), MALFORMED, "zmtp"),
}


def reads(parser: Parser, case: Case, folder: Path) -> None:
    """Read one case; AssertionError, with its name, for another error than the documented one."""
    try:
        parser.read(list(case.parts), folder)
    except parser.error:
        pass
    except Exception as error:
        raise AssertionError(f"{case.name}: {type(error).__name__}: {error}"[:500]) from error


@pytest.mark.parametrize("name", PARSERS)
def test_hostile_bytes_raise_the_documented_error_in_bounded_memory(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    reads(parser, Case("first", [b"x"]), tmp_path)  # what is imported and compiled once is nobody's fault
    tracemalloc.start()
    try:
        for case in [*cases(), *(insane_messages() if parser.messages else ())]:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            reads(parser, case, tmp_path)
            _, peak = tracemalloc.get_traced_memory()
            size = sum(map(len, case.parts)) + 64 * len(case.parts)
            assert peak - before < 200 * size + (4 << 20), f"{case.name}: {peak - before} bytes for {size}"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", PARSERS)
def test_honest_bytes_in_which_something_is_wrong_raise_no_other_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parser, folder = PARSERS[name], tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=60)
    @given(mutated(parser.kind) | mutated() | st.lists(st.binary(max_size=60), max_size=4))
    def holds(message: list[bytes]) -> None:
        reads(parser, Case(repr(message), message), folder)

    holds()


@settings(max_examples=300)
@given(any_of(e.Header), st.lists(st.binary(max_size=20), max_size=3))
def test_envelopes_of_any_content_raise_no_other_error(header: e.Header, parts: list[bytes]) -> None:
    reads(PARSERS["envelopes"], Case(repr(header), [e.encode_header(header), *parts]), Path())
