"""Envelopes: what goes in comes out, and hostile bytes raise CodecError before anything of them is used."""

from __future__ import annotations

import contextlib
from array import array
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.protocols.envelopes import (
    INLINE_BYTES,
    FrameBatch,
    Gap,
    Grant,
    ResultBatch,
    decode_frames,
    decode_header,
    encode_frames,
    encode_header,
    pack_events,
    pack_positions,
    result_bodies,
    result_places,
    unpack_combined,
    unpack_events,
    unpack_positions,
    unpack_states,
)
from beamfold.protocols.zmtp import MAX_PART_BYTES

SIZES = st.one_of(st.integers(0, 40), st.sampled_from([INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1]))
BYTES = st.builds(lambda n, fill: bytes([fill]) * n, SIZES, st.integers(0, 255))
FRAMES = st.lists(st.lists(BYTES, min_size=0, max_size=4), min_size=1, max_size=6)
EVENTS = st.lists(st.integers(0, 1 << 60), min_size=1, max_size=12)


def buffers(parts: list[Any]) -> list[Any]:
    """Message parts as they arrive: the header as bytes, big ones as memoryviews."""
    return [bytes(p) if i < 2 else memoryview(bytes(p)) for i, p in enumerate(parts)]


# -- round trips ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(FRAMES, st.data())
def test_frames_come_out_as_they_went_in(frames: list[list[bytes]], data: st.DataObject) -> None:
    n = len(frames)
    events = np.array(sorted(data.draw(st.lists(st.integers(0, 99), min_size=n, max_size=n))))
    k: Any = data.draw(
        st.one_of(st.integers(-3, 3), st.lists(st.integers(-3, 3), min_size=n, max_size=n).map(np.int16))
    )
    parts, size = encode_frames(7, 2, 5, events, k, frames)
    header = decode_header(bytes(parts[0]))
    assert isinstance(header, FrameBatch)
    assert (header.scan, header.stream, header.version, header.n) == (7, 2, 5, n)
    got = decode_frames(header, buffers(parts)[1:])
    assert [[bytes(p) for p in f] for f in got] == frames
    assert size == sum(len(p) for f in frames for p in f)
    assert unpack_events(header.events, n).tolist() == events.tolist()
    assert np.broadcast_to(unpack_positions(header.k, n), n).tolist() == np.broadcast_to(k, n).tolist()


def test_stamps_come_out_as_they_went_in_and_must_be_as_many_as_the_frames() -> None:
    frames = [[b"a"], [b"b"], [b"c"]]
    for received, fits in ([(2, 100.5), (1, 0.0)], True), ([], True), ([(2, 100.5)], False), ([(3, -1.0)], False):
        parts, _ = encode_frames(1, 0, 0, np.arange(3), 0, frames, received=received, sent=101.25)
        header = decode_header(bytes(parts[0]))
        assert isinstance(header, FrameBatch)
        assert (header.received, header.sent) == (received, 101.25)
        with contextlib.nullcontext() if fits else pytest.raises(CodecError, match="runs of times"):
            assert decode_frames(header, parts[1:]) == frames


def test_big_parts_are_not_copied() -> None:
    big = bytearray(INLINE_BYTES)
    parts, _ = encode_frames(1, 0, 0, np.array([4]), 0, [[b"head", memoryview(big)]])
    assert len(parts) == 3
    big[0] = 9
    assert bytes(parts[2])[0] == 9


@settings(max_examples=200, deadline=None)
@given(st.one_of(EVENTS, EVENTS.map(sorted), st.lists(st.integers(0, 5), min_size=1, max_size=6)))
def test_event_numbers_in_any_order_and_repeated_come_out_as_they_went_in(events: list[int]) -> None:
    packed = pack_events(np.array(events, dtype=np.int64))
    assert unpack_events(packed, len(events)).tolist() == events


@pytest.mark.parametrize("events", [[6, 6], [7, 5], [3, 3, 3], [9, 6, 3], [0], [0, 1], [5, 8, 11]])
def test_repeated_and_descending_event_numbers(events: list[int]) -> None:
    """Results leave in the order in which parts were processed, a part and its broadcast one after the other."""
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(pack_events(np.array(events))), type=tuple[int, int] | bytes)
    assert unpack_events(wire, len(events)).tolist() == events


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_a_range_of_events_is_two_numbers_on_the_wire(n: int) -> None:
    assert pack_events(np.arange(10, 10 + 3 * n, 3)) == (10, 3 if n > 1 else 1)


@given(st.lists(st.integers(-(1 << 15), (1 << 15) - 1), min_size=1, max_size=8))
def test_positions_come_out_as_they_went_in(ks: list[int]) -> None:
    packed = pack_positions(np.array(ks, dtype=np.int16))
    assert np.broadcast_to(unpack_positions(packed, len(ks)), len(ks)).tolist() == ks
    assert isinstance(packed, int) == (len(set(ks)) == 1)


@pytest.mark.parametrize("header", [Gap(3, 1, [(4, 9), (12, 13)], True), Grant(3, -1, 1 << 40)])
def test_small_headers_come_out_as_they_went_in(header: Any) -> None:
    assert decode_header(encode_header(header)) == header


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9))
def test_result_bodies_are_cut_where_they_were_joined(bodies: list[bytes]) -> None:
    header = results(len(bodies), sizes=array("I", map(len, bodies)).tobytes())
    assert [bytes(b) for b in result_bodies(header, b"".join(bodies))] == bodies


# -- hostile bytes ------------------------------------------------------------------------------------------------


def results(n: int, **more: Any) -> ResultBatch:
    fields: dict[str, Any] = {
        "scan": 1,
        "worker": 0,
        "n": n,
        "version": 0,
        "events": (0, 1),
        "k": 0,
        "states": 2,
        "sizes": b"",
        "failures": [],
        "missing": [],
        "ticks": [],
    }
    return ResultBatch(**{**fields, **more})


WORD = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([1 << 15, -(1 << 15) - 1, (1 << 20) + 1, 1 << 31, 1 << 62, (1 << 64) - 1, -(1 << 63)]),
)
COLUMN = st.one_of(WORD, st.binary(max_size=24))
SPAN = st.one_of(st.tuples(WORD, WORD), st.binary(max_size=24))
LENGTHS = st.one_of(
    st.binary(max_size=20),
    st.lists(st.sampled_from([0, 1, 5, 1 << 31, (1 << 31) + 3, (1 << 32) - 1]), max_size=5).map(
        lambda v: array("I", v).tobytes()
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_header_raise_a_codec_error(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode_header(data)


@settings(max_examples=200, deadline=None)
@given(st.recursive(
    st.one_of(WORD, st.binary(max_size=5), st.text(max_size=3), st.none(), st.booleans(), st.just("frames")),
    lambda inner: st.lists(inner, max_size=9),
))  # fmt: skip
def test_msgpack_that_is_no_header_raises_a_codec_error(value: Any) -> None:
    for tag in ("frames", "gap", "grant", "results"):
        body = value if isinstance(value, list) else [value]
        with contextlib.suppress(CodecError):
            decode_header(msgspec.msgpack.encode([tag, *body]))


def test_a_header_with_text_that_is_not_utf_8_raises_a_codec_error() -> None:
    with pytest.raises(CodecError):
        decode_header(b"\x92\xa3\xff\xfe\xfd\x01")


@settings(max_examples=200, deadline=None)
@given(WORD, SPAN, COLUMN, COLUMN, LENGTHS, st.lists(st.binary(max_size=6), max_size=4))
def test_a_frame_batch_whose_numbers_do_not_add_up_raises_a_codec_error(
    n: int, events: Any, k: Any, counts: Any, sizes: bytes, parts: list[bytes]
) -> None:
    header = FrameBatch(1, 0, n, 0, events, k, counts, sizes)
    try:
        frames = decode_frames(header, parts)
        assert len(frames) == n
        numbers, ks = unpack_events(events, n), unpack_positions(k, n)
    except CodecError:
        return
    assert sum(len(p) for f in frames for p in f) == sum(map(len, parts))
    assert numbers.shape == (n,) and int(numbers.min()) >= 0
    assert np.broadcast_to(ks, n).astype(np.int16).tolist() == np.broadcast_to(ks, n).tolist()


@settings(max_examples=200, deadline=None)
@given(WORD, SPAN, COLUMN, COLUMN, LENGTHS, st.binary(max_size=12))
def test_a_result_batch_whose_numbers_do_not_add_up_raises_a_codec_error(
    n: int, events: Any, k: Any, states: Any, sizes: bytes, blob: bytes
) -> None:
    header = results(n, events=events, k=k, states=states, sizes=sizes)
    try:
        bodies = result_bodies(header, blob)
        numbers, ks, codes = unpack_events(events, n), unpack_positions(k, n), unpack_states(states, n)
    except CodecError:
        return
    assert sum(map(len, bodies)) == len(blob)
    assert len(bodies) == n == len(numbers) and int(numbers.min()) >= 0
    assert -(1 << 15) <= int(np.min(ks)) <= int(np.max(ks)) < 1 << 15
    assert 0 < int(np.min(codes)) <= int(np.max(codes)) <= 8, "an event state, and not PENDING"


SIZES_OF_THREE = np.array([1, 0, 2], "<u4").tobytes()


@pytest.mark.parametrize(
    ("events", "k", "sizes", "combined"),
    [
        ((4, 1), 0, SIZES_OF_THREE, [(0, 4)]),
        ((4, 1), 0, SIZES_OF_THREE, [(-1, 2)]),
        ((4, 1), 0, SIZES_OF_THREE, [(2, 2)]),
        ((4, 1), 0, SIZES_OF_THREE, [(0, 2), (1, 3)]),
        ((4, 1), 0, SIZES_OF_THREE, [(0, 3)]),  # another result within
        ((4, 1), 0, SIZES_OF_THREE, [(1, 2)]),  # no result
        ((4, 1), -1, SIZES_OF_THREE, [(0, 2)]),
        (np.array([4, 4, 5], "<i8").tobytes(), 0, SIZES_OF_THREE, [(0, 2)]),
        (np.array([5, 4, 5], "<i8").tobytes(), 0, SIZES_OF_THREE, [(0, 2)]),
        (np.array([4, 4, 5], "<i8").tobytes(), np.array([1, 0, 0], "<i2").tobytes(), SIZES_OF_THREE, [(0, 2)]),
        (np.array([4, 4, 5], "<i8").tobytes(), np.array([0, -1, 0], "<i2").tobytes(), SIZES_OF_THREE, [(0, 2)]),
    ],
)
def test_combined_results_whose_parts_cannot_be_raise_a_codec_error(
    events: Any, k: Any, sizes: bytes, combined: list[tuple[int, int]]
) -> None:
    header = results(3, events=events, k=k, sizes=sizes, combined=combined)
    with pytest.raises(CodecError):
        unpack_combined(header, unpack_events(events, 3), unpack_positions(k, 3))


def test_combined_results_are_those_of_their_first_part() -> None:
    k = np.array([0, 1, 0], "<i2").tobytes()
    header = results(3, events=np.array([4, 4, 5], "<i8").tobytes(), k=k, sizes=SIZES_OF_THREE, combined=[(0, 2)])
    parts = unpack_events(header.events, 3), unpack_positions(k, 3)
    assert unpack_combined(header, *parts) == {0: 2}
    assert result_bodies(header, b"abc") == [b"a", b"", b"bc"]
    places = result_places(header)
    assert places is not None and places.tolist() == [0, 2]


@pytest.mark.parametrize("missing", ["blob", "big part"])
def test_a_message_that_lost_a_part_raises_a_codec_error(missing: str) -> None:
    parts, _ = encode_frames(1, 0, 0, np.array([4, 5]), 0, [[b"a", b"x" * INLINE_BYTES], [b"b", b"c"]])
    header = decode_header(bytes(parts[0]))
    assert isinstance(header, FrameBatch)
    with pytest.raises(CodecError):
        decode_frames(header, parts[1:1] if missing == "blob" else parts[1:-1])


def test_the_size_of_the_largest_part_is_not_taken_for_a_slot() -> None:
    """Without the memory that it would take."""

    class Large(bytes):
        def __len__(self) -> int:
            return MAX_PART_BYTES

    part = Large()
    message, _ = encode_frames(1, 0, 1, np.array([5]), 0, [[part]])
    header = decode_header(message[0])
    assert isinstance(header, FrameBatch)
    assert decode_frames(header, [b"", part]) == [[part]]
