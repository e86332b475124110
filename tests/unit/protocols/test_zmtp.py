"""ZMTP as a PULL socket speaks it: messages come out whole however the bytes were cut, and nonsense says what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame
from beamfold.protocols.zmtp import GREETING, MAX_PART_BYTES, READ_BESIDE, READ_BYTES, Inbox

LARGE = 1000
HELLO = GREETING + b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"


def wire(message: list[bytes]) -> bytes:
    """A message as a sender puts it; every second part has a long head where a short one would do, which is legal."""
    out = b""
    for at, part in enumerate(message):
        more = at < len(message) - 1
        if len(part) > 255 or at % 2:
            out += bytes([2 | more]) + len(part).to_bytes(8, "big") + part
        else:
            out += bytes([more, len(part)]) + part
    return out


def inbox() -> Inbox:
    return Inbox(lambda n: memoryview(bytearray(n)), LARGE)


def feed(box: Inbox, data: bytes, step: int = 1 << 30) -> None:
    """Put the bytes where the inbox wants them, `step` at a time at most."""
    while data:
        n = 0
        for target in box.targets():
            piece = data[n : n + min(len(target), step - n)]
            target[: len(piece)] = piece
            n += len(piece)
            if len(piece) < len(target):
                break
        data = data[n:]
        box.received(n)


def plain(box: Inbox) -> list[list[bytes]]:
    return [[bytes(part) for part in message] for message in box.messages]


PARTS = st.one_of(st.binary(max_size=300), st.integers(900, 30_000))
"""Bytes, or how many of them."""


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4), max_size=8), st.integers(1, 70_000))
def test_messages_come_out_as_they_went_in_however_they_are_cut(spec: list[list[bytes | int]], step: int) -> None:
    messages = [[bytes([p % 251]) * p if isinstance(p, int) else p for p in message] for message in spec]
    box = inbox()
    feed(box, HELLO + b"".join(map(wire, messages)), step)
    assert plain(box) == messages
    for message in box.messages:
        assert type(message[0]) is bytes
        for part in message[1:]:
            assert isinstance(part, memoryview if len(part) >= LARGE else bytes)
            assert not isinstance(part, memoryview) or part.readonly


def test_a_large_part_is_written_where_it_stays() -> None:
    rooms: list[memoryview] = []

    def room(nbytes: int) -> memoryview:
        rooms.append(memoryview(bytearray(nbytes)))
        return rooms[-1]

    box = Inbox(room, LARGE)
    feed(box, HELLO + wire([b"head", b"x" * 5000])[: 6 + 9 + 1000])
    assert box.lacking == 4000
    assert [len(t) for t in box.targets()] == [4000, READ_BESIDE]
    feed(box, b"x" * 4000)
    assert box.lacking == 1
    assert [len(t) for t in box.targets()] == [READ_BYTES]
    [[_, part]] = box.messages
    assert isinstance(part, memoryview)
    assert part.obj is rooms[0].obj


def test_pings_are_answered_and_other_commands_ignored() -> None:
    box = inbox()
    feed(box, HELLO + b"\x04\x09\x04PING\x00\x0aok" + b"\x04\x05\x04WHAT" + wire([b"a"]))
    assert box.replies == b"\x04\x07\x04PONGok"
    assert plain(box) == [[b"a"]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "does not speak ZeroMQ"),
        (b"\xff\0\0\0\0\0\0\0\1\x7e", "does not speak ZeroMQ"),
        (b"\xff\0\0\0\0\0\0\0\1\x7f\x01\x08", "version 1 of .*libzmq"),
        (GREETING.replace(b"NULL\0", b"CURVE"), "security mechanism CURVE"),
        (GREETING + wire([b"early"]), "before READY"),
        (GREETING + b"\x04\x05\x04PING", "expected READY"),
        (HELLO.replace(b"PUSH", b"PUB\0"), "not PUSH"),
        (GREETING + b"\x04\x0b\x05ERROR\x04nope", "refused: nope"),
        (HELLO + b"\x08\x00", "frame flags 8"),
        (HELLO + b"\x05\x00", "frame flags 5"),
        (HELLO + b"\x06" + (1 << 20).to_bytes(8, "big"), "a command of"),
        (HELLO + b"\x02" + (MAX_PART_BYTES + 1).to_bytes(8, "big"), "a message part of"),
        (HELLO + b"\x02" + b"\xff" * 8, "a message part of"),
    ],
)
def test_what_cannot_be_talked_to_says_why(data: bytes, why: str) -> None:
    for step in (1 << 20, 1):
        with pytest.raises(MalformedFrame, match=why):
            feed(inbox(), data, step)


@given(st.binary(max_size=200), st.integers(1, 64))
def test_no_bytes_make_it_fail_otherwise(data: bytes, step: int) -> None:
    for begin in (b"", GREETING, HELLO):
        try:
            feed(inbox(), begin + data, step)
        except MalformedFrame:
            continue
