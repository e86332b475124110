"""Hostile bytes, one list for everybody who reads bytes: broken, and well formed but insane.

A case is a name and the parts of a message: what our simulators and encoders make, damaged, and what a stranger may
think of. Whoever reads one kind of bytes gets all kinds, because nobody knows what comes in on a port.
"""

from __future__ import annotations

import json
import pickle
import random
import struct
import types
import typing
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from io import BytesIO
from typing import Any, NamedTuple, get_args, get_origin

import cbor2
import msgspec
import numpy as np
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from beamfold.model.events import StreamData
from beamfold.protocols import codec
from beamfold.protocols import envelopes as e
from beamfold.protocols import messages as m
from beamfold.protocols.cborseq import byte_strings
from beamfold.protocols.codec import codes
from beamfold.protocols.dumps import DumpWriter
from beamfold.protocols.stamps import Times
from beamfold.protocols.zmtp import GREETING
from beamfold.testing.simulators import contrast_series, stins_series, xspress3_series

DEEP = 100_000
"""Levels of nesting that no parser needs, and that a recursive one dies of."""

MANY = 10_000
"""Message parts that no message has."""

WHOLE: list[int] = [-1, 0, 1, 1 << 31, 1 << 40, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
"""Whole numbers that are in msgpack and insane almost everywhere."""


class Case(NamedTuple):
    """A message that no honest peer sends."""

    name: str
    parts: list[bytes]


# -- what honest peers send -----------------------------------------------------------------------------------------

TO_CONTROLLER: list[Any] = [
    m.Hello("worker", "w0", "uuid", "1", 7, "here", streams=[m.StreamInfo("a", "STINS", True)]),
    m.Beat({"rate": 1.5, "scan": 3}, {"ingest": [1, 2, 0, 3, 4]}),
    m.Logs([m.LogLine(1.5, "INFO", 7, "text")]),
    m.Armed(3, tick_interval=0.5),
    m.StreamSeen(3, "a", "running", 5, 5, 100),
    m.StreamEnded(3, "a", 5, 5, 1),
    m.FramesMissing(3, "a", [(2, 4)]),
    m.Trouble(3, "stream a", "text"),
    m.Halted(3, {"a": (4, True)}),
    m.FenceReached(3, 2, -1),
    m.PartsDone(
        3,
        [(1, 2, 2)],
        {0: 1},
        2,
        [m.Failure(1, "process_event", "w0", "trace")],
        incomplete={"a": [(1, 2)]},
        combined=[m.Combined(0, [(0, 1, 2)])],
    ),
    m.FoldFailed(3, [(1, 2)]),
    m.Torn(3, 0, "w0", "refused"),
    m.Failed(3, "the disk is full"),
    m.Gone("worker", "w0", "killed"),
    m.Finished(3, out_of_order=[(3, 4)]),
]
TO_SERVICE: list[Any] = [
    m.Welcome(1),
    m.Introduce(),
    m.Refused("no"),
    m.Arm(3, "id", {"kind": "uniform"}, [m.WorkerInfo("w0", ["generic"])], [], "tcp://x", 0, {"p": b"1"}),
    m.Assign(3, [m.Block(0, 4, 1), m.Block(4, 5, 0, 2)], 5, 2),
    m.Fill(3, 2, "uuid", m.WorkerInfo("w2", ["generic"], joined=True)),
    m.Release(3, [(1, 9)]),
    m.Drop(3, [(1, 9)]),
    m.Waits(3, ["a"]),
    m.Halt(3),
    m.Close(3, -1),
    m.Conclude(3),
    m.Fence(3, 1),
    m.Parameters(3, 1, {"p": b"\xff"}, 12),
    m.Tick(3),
    m.Finish(3),
    m.End(3, {"events": 1}),
    m.Shutdown(),
]

POINTS: list[dict[str, Any]] = [{"sx": 0.5, "pseudo": {"x": np.array([1.0])}, "n": 3}] * 2


@cache
def honest() -> dict[str, list[list[bytes]]]:
    """Messages as honest peers send them, by kind."""
    images = [np.arange(12, dtype="u2").reshape(3, 4)] * 2
    spectra = [np.arange(64, dtype="u4").reshape(4, 16)] * 2
    return {
        "stins": list(stins_series(images, meta={"name": "sample"})),
        "stins bslz4": list(stins_series([np.arange(3003, dtype="u2")], compression="bslz4"))[1:2],
        "xspress3": list(xspress3_series(spectra, framing="multipart")),
        "xspress3 singly": list(xspress3_series(spectra))[1:4],
        "contrast": list(contrast_series(POINTS, heartbeats=1)),
        "to the controller": [[m.encode_message(message)] for message in TO_CONTROLLER],
        "to a service": [[m.encode_message(message)] for message in TO_SERVICE],
        "envelopes": _envelopes(),
        "results": [_result()],
        "dumps": [[_dump()], [_raw_dump()], [pickle.dumps([b"a", b"b"]) * 2]],
        "zmtp": [[GREETING + b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH" + b"\x00\x01a"]],
    }


def _envelopes() -> list[list[bytes]]:
    frames = [[b"head", b"x" * 20], [b"head", b"y" * e.INLINE_BYTES]]
    stamps: Any = {"received": [(2, 100.0)], "sent": 101.0}
    batch, _ = e.encode_frames(3, 0, 1, np.array([4, 5]), 0, frames, **stamps)
    leased, _ = e.encode_frames(3, 0, 1, np.array([4, 9]), np.array([0, 1], "i2"), frames, lease=lambda _: (1, 4096, 9))
    sizes = array("I", [1, 0, 2]).tobytes()
    times = Times(100.0, [(3, 0.1)], [(3, 99.0)])
    results = e.ResultBatch(
        3, 0, 3, 1, (4, 1), 0, 2, sizes, [(1, "process_event", "no")], [(1, 1)], [4], [(0, 2)], times
    )
    headers: list[e.Header] = [e.Gap(3, 0, [(4, 9)], True), e.Grant(3, 0, 1 << 20), e.Attach(7)]
    headers.append(e.LetGo(array("q", [1, 2]).tobytes()))
    return [
        [bytes(part) for part in batch],
        [bytes(part) for part in leased],
        [e.encode_header(results), b"abc"],
        *([e.encode_header(header)] for header in headers),
    ]


def _result() -> list[bytes]:
    buffers: list[Any] = []
    value = {"a": (1, 2.5, 1j), "b": np.arange(3), "c": {1, 2}, "d": b"x" * 9, "e": 1 << 70, "f": np.zeros(2000)}
    return [codec.encode(value, buffers), *map(bytes, buffers)]


def _dump() -> bytes:
    file = BytesIO()
    with DumpWriter(file) as writer:
        for number in range(3):
            writer.write(number, {"a": StreamData("STINS", [b"head", b"x" * 30]), "b": StreamData("T", [b""])})
    return file.getvalue()


def _raw_dump() -> bytes:
    return b"".join(byte_strings([b"head", b"x" * 300])) * 2


# -- damage ---------------------------------------------------------------------------------------------------------


def damaged(name: str, message: Sequence[bytes], chance: random.Random) -> Iterator[Case]:
    """This message cut short, with bits that are wrong, and with parts lost, doubled, empty and in another order."""
    parts = list(message)
    for place, part in enumerate(parts):
        rest = parts[place + 1 :]
        ends = {0, 1, len(part) // 2, len(part) - 1, *(chance.randrange(len(part) + 1) for _ in range(4))}
        for end in sorted(end for end in ends if 0 <= end < len(part)):
            yield Case(f"{name}: part {place} cut to {end} bytes", [*parts[:place], part[:end], *rest])
        for flipped in {chance.randrange(8 * len(part)) for _ in range(8)} if part else ():
            wrong = bytearray(part)
            wrong[flipped // 8] ^= 1 << flipped % 8
            yield Case(f"{name}: bit {flipped} of part {place} is wrong", [*parts[:place], bytes(wrong), *rest])
        yield Case(f"{name}: part {place} goes on", [*parts[:place], part + b"\0" * 9, *rest])
        yield Case(f"{name}: part {place} is missing", [*parts[:place], *rest])
        yield Case(f"{name}: part {place} came twice", [*parts[:place], part, part, *rest])
    if len(parts) > 1:
        yield Case(f"{name}: the parts backwards", parts[::-1])
    yield Case(f"{name}: an empty part before it", [b"", *parts])


@st.composite
def mutated(draw: st.DrawFn, kind: str | None = None) -> list[bytes]:
    """An honest message, of this kind or of any, in which something is wrong."""
    name = kind or draw(st.sampled_from(sorted(honest())))
    parts = list(draw(st.sampled_from(honest()[name])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(parts) - 1))
        part = bytearray(parts[place])
        at = draw(st.integers(0, len(part)))
        change = draw(st.sampled_from(["byte", "cut", "insert", "splice", "part", "no part"]))
        if change == "byte" and at < len(part):
            part[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del part[at : at + draw(st.integers(1, 16))]
        elif change == "insert":
            part[at:at] = draw(st.binary(min_size=1, max_size=9) | st.sampled_from(FRAGMENTS))
        elif change == "splice":
            part[at:] = part[draw(st.integers(0, len(part))) :]
        parts[place] = bytes(part)
        if change == "part":
            parts.insert(place, draw(st.binary(max_size=20)))
        elif change == "no part" and len(parts) > 1:
            del parts[place]
    return parts


# -- what is well formed, and insane --------------------------------------------------------------------------------

INSANE_JSON: dict[str, bytes] = {
    "minus one": b"-1",
    "a frame number of 2^63": str(1 << 63).encode(),
    "a number of 30 digits": b"9" * 30,
    "a number of 5000 digits": b"9" * 5000,
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "infinity by its exponent": b"1e999",
    "a fraction": b"1.5",
    "null": b"null",
    "true": b"true",
    "text": b'"5"',
    "text with half a character": b'"\\ud800"',
    "text that is not UTF-8": b'"\xff\xfe"',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list of everything": b'[null, "x", {}, [], 1e999]',
    "a negative shape": b"[-2, 3]",
    "a shape of infinity": b"[Infinity, NaN]",
    "a shape of truth": b"[true, 6]",
    "a shape of 2^124": f"[{1 << 62}, {1 << 62}]".encode(),
    "a shape whose product is 0 in 64 bits": f"[{1 << 32}, {1 << 32}]".encode(),
    "a shape of nothing by everything": f"[0, {1 << 63}]".encode(),
    "a shape of ten thousand axes": json.dumps([1] * MANY).encode(),
    "nested lists": b"[" * DEEP + b"]" * DEEP,
    "nested objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "lists without end": b"[" * DEEP,
    "type O": b'"O"',
    "type object": b'"object"',
    "a type that nobody knows": b'"float12"',
    "a type of gigabytes": b'"V2000000000"',
    "a type of text": b'"U4"',
    "a compression that nobody knows": b'"zip"',
}
"""JSON values for the place of any other."""

_IMAGE = {"htype": b'"image"', "frame": b"3", "msg_number": b"4", "shape": b"[2, 3]", "type": b'"uint16"'}
_IMAGE["compression"] = b'"none"'


def header_of(fields: Mapping[str, bytes]) -> bytes:
    """A JSON object of values that are JSON already."""
    return b"{" + b", ".join(b'"%s": %s' % (key.encode(), value) for key, value in fields.items()) + b"}"


def _headers() -> Iterator[Case]:
    """Image headers with one insane value, as STINS and xspress3 have them."""
    for key in _IMAGE:
        for name, value in INSANE_JSON.items():
            header = header_of({**_IMAGE, key: value})
            yield Case(f"image: {key} is {name}", [header, bytes(12)])
            if key in ("htype", "frame", "shape"):
                yield Case(f"image of three parts: {key} is {name}", [header, bytes(12), pickle.dumps([])])
    for depth in range(900, 1000, 3):  # json can just read it, and what quotes it may not
        lists = b"[" * depth + b"]" * depth
        yield Case(f"image: shape is lists {depth} deep", [header_of({**_IMAGE, "shape": lists}), bytes(12)])
    twice = b"{" + header_of(_IMAGE)[1:-1] + b", " + header_of({"frame": b"-7", "shape": b"[-1]"})[1:]
    yield Case("image: keys twice", [twice, bytes(12)])
    yield Case("image: UTF-16", [header_of(_IMAGE).decode().encode("utf-16"), bytes(12)])
    for claimed, block in (((1 << 64) - 1, 8192), (12, 0), (12, (1 << 32) - 1), (1 << 40, 8192)):
        packed = header_of({**_IMAGE, "compression": b'"bslz4"', "shape": f"[{claimed // 2}]".encode()})
        blob = struct.pack(">QI", claimed, block)
        yield Case(f"image: bslz4 of {claimed} bytes in blocks of {block}", [packed, blob + bytes(100)])
    for name, value in INSANE_JSON.items():
        yield Case(f"JSON: {name}", [value])


def ext(code: int, content: Any) -> Ext:
    """A msgpack extension with this content, packed unless it is bytes."""
    return Ext(code, content if isinstance(content, bytes) else msgspec.msgpack.encode(content))


INSANE_MSGPACK: dict[str, bytes] = {
    "nothing": b"",
    "a byte that means nothing": b"\xc1",
    "two values": b"\x01\x02",
    "a list of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
    "text of 2^32 - 1 bytes": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32 - 1": b"\xc6\xff\xff\xff\xff",
    "an extension of 2^32 - 1 bytes": b"\xc9\xff\xff\xff\xff\x05",
    "nested lists": b"\x91" * DEEP + b"\x01",
    "nested maps": b"\x81\xa1a" * DEEP + b"\x01",
    "lists without end": b"\x91" * DEEP,
    "a map with a list as a key": b"\x81\x90\x01",
    "text that is not UTF-8": b"\xa3\xff\xfe\xfd",
    "a type that is not UTF-8": b"\x81\xa4type\xa3\xff\xfe\xfd",
    "a tag that is not UTF-8": b"\x92\xa3\xff\xfe\xfd\x01",
    "a type that is nested lists": b"\x81\xa4type" + b"\x91" * DEEP + b"\x01",
    "keys twice": b"\x84\xa4type\xa5Armed\xa4type\xa4Gone\xa4scan\x01\xa4scan\xc0",
    "a key that is nested lists": b"\x82\xa4type\xa4Beat\xa5stats\x81\xa1a" + b"\x91" * DEEP + b"\x01",
    "a time": msgspec.msgpack.encode(Ext(-1, b"\xff" * 12)),
    "an extension that nobody knows": msgspec.msgpack.encode(ext(99, b"")),
    "nested extensions": msgspec.msgpack.encode(reduce(lambda inner, _: ext(codes.TUPLE, [inner]), range(500), 1)),
}
"""Whole messages that are msgpack or look like it."""

_VALUES: list[Any] = [
    *WHOLE,
    None,
    True,
    float("nan"),
    float("inf"),
    -1e308,
    "",
    "\0",
    "x" * 70_000,
    b"",
    b"\xff" * 24,
    [],
    {},
    [(-1, 1 << 63)],
    [(1 << 53, 1)],
    [(0, (1 << 63) - 1, 2)],
    [[[]]],
    {"": []},
    {-1: 1 << 63},
]
"""Values for the place of any other in a message of msgpack."""


def _packed(kind: str, message: bytes, scan: int) -> Iterator[Case]:
    """A message about this scan with one insane value: by its keys if it has some, by its places if it is a list."""
    fields = msgspec.msgpack.decode(message)
    if isinstance(fields, list) and len(fields) > 2:
        fields[1] = scan
    elif isinstance(fields, dict) and "scan" in fields:
        fields["scan"] = scan
    for key in fields if isinstance(fields, dict) else range(len(fields)):
        for number, value in enumerate(_VALUES):
            wrong = fields.copy()
            wrong[key] = value
            yield Case(f"{kind}: {key} is insane value {number}", [msgspec.msgpack.encode(wrong), b""])
        if isinstance(fields, dict):
            less = {k: v for k, v in fields.items() if k != key}
            yield Case(f"{kind}: without {key}", [msgspec.msgpack.encode(less)])
    if isinstance(fields, list):
        yield Case(f"{kind}: ten thousand fields", [msgspec.msgpack.encode(fields * MANY)])


INSANE_CBOR: dict[str, bytes] = {
    "bytes of 2^63": b"\x5b" + struct.pack(">Q", 1 << 63),
    "bytes of 2^62": b"\x5b" + struct.pack(">Q", 1 << 62) + b"x",
    "text of 2^40 bytes": b"\x7b" + struct.pack(">Q", 1 << 40) + b"x",
    "a list of 2^63": b"\x9b" + struct.pack(">Q", 1 << 63),
    "a list of 2^40": b"\x9b" + struct.pack(">Q", 1 << 40) + b"\x00",
    "a map of 2^63": b"\xbb" + struct.pack(">Q", 1 << 63),
    "a map of 2^32": b"\xbb" + struct.pack(">Q", 1 << 32) + b"\x00\x00",
    "a tag of 2^64 - 1": b"\xdb" + b"\xff" * 8 + b"\x00",
    "nested lists": b"\x81" * DEEP + b"\x00",
    "nested maps": b"\xa1\x61a" * DEEP + b"\x00",
    "nested tags": b"\xc6" * DEEP + b"\x00",
    "lists without end": b"\x9f" * DEEP,
    "text that is not UTF-8": b"\x81\x63\xff\xfe\xfd",
    "text in pieces of something else": b"\x81\x7f\x01\xff",
    "a break": b"\xff",
    "a message of no parts": b"\x80",
    "a message of ten thousand parts": cbor2.dumps([b""] * MANY),
    "a reference to nothing": b"\x81\xd8\x1d\x05",
    "a value that refers to itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a decimal number of 2^62 digits": b"\x81\xc4\x82\x1b" + struct.pack(">Q", 1 << 62) + b"\x01",
    "a binary number of 2^62 bits": b"\x81\xc5\x82\x1b" + struct.pack(">Q", 1 << 62) + b"\x01",
    "a fraction by zero": b"\x81\xd8\x1e\x82\x01\x00",
    "a regular expression of catastrophes": b"\x81\xd8\x23" + cbor2.dumps("(((" * 50),
    "a date that is none": b"\x81\xc0" + cbor2.dumps("2024-13-45T99:99:99Z"),
    "a time of infinity": b"\x81\xc1\xfb\x7f\xf0" + bytes(6),
    "a time far away": b"\x81\xc1\x1b" + struct.pack(">Q", 1 << 62),
    "an address of seven bytes": b"\x81\xd9\x01\x04" + cbor2.dumps(b"1234567"),
    "a list as a key": b"\xa1\x80\x00",
}
"""CBOR items, whole or claimed to be."""

_EVENT = b"\xd9\xd9\xf7\xd9\xa7\x7d"


def _cbor() -> Iterator[Case]:
    for name, item in INSANE_CBOR.items():
        yield Case(f"CBOR: {name}", [item])
        yield Case(f"CBOR: an event whose number is {name}", [_EVENT + b"\x82" + item + b"\xa0"])
        yield Case(f"CBOR: an event whose streams are {name}", [_EVENT + b"\x82\x01" + item])
        yield Case(f"CBOR: a stream that is {name}", [_EVENT + b"\x82\x01\xa1\x61a\xd9\xa7\x7e" + item])
        parts = _EVENT + b"\x82\x01\xa1\x61a\xd9\xa7\x7e\x82\x61T\x81" + item
        yield Case(f"CBOR: a message part that is {name}", [parts])
        yield Case(f"CBOR: after an honest event, {name}", [_dump() + item])


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def repeated(prefix: bytes, unit: bytes, times: int) -> bytes:
    """A pickle that does one thing many times."""
    return b"\x80\x04" + prefix + unit * times + b"."


_SET_OF_MEMO = b"cbuiltins\nset\nh\x00\x85R0"
PICKLE_BOMBS: dict[str, bytes] = {
    "bytes8": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text8": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "text4": b"\x80\x04X\xff\xff\xff\xff.",
    "long4": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "bytearray of a number": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "bytes of a number": b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "list of a range": b"cbuiltins\nlist\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R.",
    "text of a huge number": b"cbuiltins\nint\n(X\x10\x27\x00\x00" + b"9" * 10_000 + b"tR.",
    "digits": b"I" + b"9" * 100_000 + b"\n.",
    "sets of one list": repeated(b"](" + b"K\x01" * 50_000 + b"e\x94", _SET_OF_MEMO, 5_000),
    "copies of one text": repeated(
        b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"\x940",
        b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR0",
        2_000,
    ),
    "many steps": repeated(b"", b"}0", 600_000),
    "tuples of tuples as a key": b"\x80\x02)" + b"2\x86" * 60 + b"q\x00}h\x00Ns.",
    "tuples of tuples in a set": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "a key a million deep": b"\x80\x02})" + b"\x85" * 900_000 + b"Ns.",
}
"""Pickles that ask for far more memory or time than they have bytes, or have very many."""

LONG = 200_000
"""Bytes from which on a pickle is for those alone who read pickles: for others it is junk that takes long."""


def _pickles() -> Iterator[Case]:
    for name, bomb in PICKLE_BOMBS.items():
        if len(bomb) < LONG:
            yield Case(f"pickle: {name}", [bomb])
    yield Case("pickle: of a command", [pickle.dumps({"status": "running", "f": Calls(exec, "1/0")})])
    yield Case("pickle: a status that cannot be hashed", [pickle.dumps({"status": ["running"]})])
    yield Case("pickle: a status that is many", [pickle.dumps({"status": np.zeros(3)}, 2)])
    yield Case("pickle: a status of 5000 digits", [pickle.dumps({"status": 10**5000}, 2)])
    yield Case("pickle: a status deep below", [b"\x80\x02}X\x06\0\0\0status" + b"]" * 5000 + b"a" * 4999 + b"s."])
    yield Case("pickle: a dtype of what is deep below", [b"cnumpy\ndtype\n)" + b"\x85" * 5000 + b"\x85R."])
    metadata = pickle.dumps(["x" * 10] * 8)
    yield Case("pickle: metadata of text", [header_of(_IMAGE), bytes(12), metadata])


def _shapes() -> Iterator[Case]:
    """Messages that are odd by their parts alone."""
    yield Case("no parts", [])
    yield Case("an empty part", [b""])
    yield Case("ten thousand empty parts", [b""] * MANY)
    yield Case("ten thousand parts", [b"x"] * MANY)
    for name, data in (("HTTP", b"GET / HTTP/1.1\r\n\r\n"), ("zeros", bytes(300)), ("ones", b"\xff" * 300)):
        yield Case(name, [data])


@cache
def cases() -> list[Case]:
    """All of them; always the same."""
    chance = random.Random(7)
    found = [*_shapes(), *_headers(), *_cbor(), *_pickles()]
    for kind, messages in honest().items():
        for number, message in enumerate(messages):
            found += damaged(f"{kind} {number}", message, chance)
    found += [Case(f"msgpack: {name}", [data]) for name, data in INSANE_MSGPACK.items()]
    return found


@cache
def insane_messages(scan: int = 3) -> list[Case]:
    """Control messages and envelopes about a scan, well formed but for one insane value each: for who reads such."""
    kinds = ("to the controller", "to a service", "envelopes")
    messages = [(f"{kind} {number}", message[0]) for kind in kinds for number, message in enumerate(honest()[kind])]
    return [case for name, message in messages for case in _packed(name, message, scan)]


# -- well formed messages of any content ----------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "w0", "w1", "i", "r", "", "\0", "running", "worker", "ingester", "reducer"])
FRAGMENTS = [b"", b"\0", b"\xff" * 8, b"\x9b\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"[" * 50, b"NaN", b"1e999"]

_INTS = st.integers(-2, 8) | st.sampled_from(WHOLE)
_PAIRS = st.tuples(_INTS, _INTS)
_RUNS = st.tuples(st.integers(0, 6), st.integers(1, 6) | st.sampled_from([1 << 40, 1 << 53])).map(
    lambda run: (run[0], max(run))
)
"""Half-open runs that could be: what is checked has to get beyond the checks now and then."""

_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: _INTS,
    tuple[int, int]: _RUNS | _PAIRS,
    tuple[int, int, int]: st.one_of(
        st.tuples(_RUNS, st.integers(0, 9)).map(lambda found: (*found[0], found[1])),
        st.tuples(st.integers(-1, 1), _RUNS).map(lambda found: (found[0], *found[1])),
        st.tuples(_INTS, _INTS, _INTS),
    ),
    float: st.floats(0, 3) | st.sampled_from([float("nan"), float("inf"), -1.0, 1e308, 0.0]),
    bool: st.booleans(),
    str: NAMES | st.text(max_size=5).filter(lambda text: text.isprintable()),
    bytes: st.binary(max_size=24),
    type(None): st.none(),
    Any: st.recursive(
        st.none() | st.booleans() | st.sampled_from(WHOLE) | st.floats() | NAMES | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=5,
    ),
}


@cache
def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of this type as a message may have it: numbers are small or insane, names known or not."""
    if kind in _LEAVES:
        return _LEAVES[kind]
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: any_of(hints[name]) for name in kind.__struct_fields__})
    if origin in (typing.Union, types.UnionType):
        return st.one_of([any_of(each) for each in args])
    if origin is list:
        return st.lists(any_of(args[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(any_of, args))
    if origin is dict:
        return st.dictionaries(any_of(args[0]), any_of(args[1]), max_size=3)
    raise TypeError(f"no message has a {kind}")
