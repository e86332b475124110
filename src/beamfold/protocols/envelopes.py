"""Data-plane envelopes: many frames, or many results, as one multipart message.

A batch is `[header, blob, big part, big part, …]`. The header is msgpack; parts (or encoded results) below
`INLINE_BYTES` are concatenated in the blob, because a ZMQ part of its own costs more than copying a kilobyte; larger
ones travel as ZMQ parts of their own and are never copied here, or, where reader and writer share an arena, not at all:
then the header says in which slots they are. Event numbers travel as a range where they are one.
Reading a batch checks every length against what arrived and raises CodecError before anything is used.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.model.states import EventState
from beamfold.protocols.stamps import Runs, Times, check_runs

Events: TypeAlias = NDArray[np.int64]
Positions: TypeAlias = "int | NDArray[np.int16]"
Places: TypeAlias = NDArray[np.intp]

INLINE_BYTES = 16384
"""Parts from this size on travel as ZMQ parts of their own: about where a copy costs as much as a part does."""

POISON = (
    "this event ended the processes that worked on it, more than once, so it was not tried again: a crash in native "
    "code, too much memory, an exit, or the time limit?"
)
"""The text of the failure of a part that was given up without another try."""

_SMALL_RESULT = 1024
"""Bytes of a result, on average of a batch, up to which it is copied rather than viewed."""

_BIG = 1 << 31
_SLOT = (1 << 32) - 1
"""Stands for the size of a part that lies in an arena slot."""

_SLOT_NUMBERS = 3
Slot: TypeAlias = tuple[int, int, int]
"""Number of the lease, offset in the arena, bytes."""

_MAX_FRAMES = 1 << 20
_POSITIONS = 1 << 15  # they are int16 wherever they are kept


class FrameBatch(msgspec.Struct, frozen=True, tag="frames", array_like=True):
    """Header of a batch of one stream's frames for one worker.

    `events` is (first, step) for n events in arithmetic progression, else int64 bytes; `k` the position of each part
    in its event, one int for all or int16 bytes; `parts` the number of message parts per frame, one int for all or
    uint16 bytes; `sizes` uint32 per message part, with the top bit set for those that travel as ZMQ parts, all bits for
    those in `slots`, which has three int64 for each of them: lease, offset, bytes.
    `version` is the newest parameter version that any of these events needs; `closed` says that the events are those
    of the closed map, whose end event has a number that was another event's before. `received` has when the frames were
    taken from the detector's socket, `sent` when the batch left (see `stamps`); empty: they are not timed. `again`:
    some of these parts were another worker's before, and may be done.
    """

    scan: int
    stream: int
    n: int
    version: int
    events: tuple[int, int] | bytes
    k: int | bytes
    parts: int | bytes
    sizes: bytes
    closed: bool = False
    slots: bytes = b""
    received: Runs = []
    sent: float = 0.0
    again: bool = False


class Gap(msgspec.Struct, frozen=True, tag="gap", array_like=True):
    """Frames of a stream that will never come, as runs of events. Idempotent; goes to every worker.

    `tail`: the series ended there; nothing has shown yet that these events happened at all. `closed` as with frames.
    """

    scan: int
    stream: int
    runs: list[tuple[int, int]]
    tail: bool
    closed: bool = False


RESULTS = -1
GREETING = -2


class Grant(msgspec.Struct, frozen=True, tag="grant", array_like=True):
    """Reader to writer: `credit` more bytes of this stream may be sent to me.

    Of results the stream is RESULTS, and the credit is that of batches that are in the log, in their order; or
    GREETING: a worker is there, and the reducer answers with the first credit.
    """

    scan: int
    stream: int
    credit: int


class Attach(msgspec.Struct, frozen=True, tag="attach", array_like=True):
    """Reader to writer: this process maps your arena; large parts need not be sent to it."""

    pid: int


class LetGo(msgspec.Struct, frozen=True, tag="let-go", array_like=True):
    """Reader to writer: nothing here refers any more to the slots of these leases (int64 bytes)."""

    leases: bytes


class ResultBatch(msgspec.Struct, frozen=True, tag="results", array_like=True):
    """Header of a batch of finished parts of one worker.

    `states` is an EventState code for all, or uint8 bytes; `sizes` uint32 per part (0: nothing to reduce).
    `failures` holds (index, hook, text) of the parts whose code raised; `missing` (index, stream bits) of incomplete
    ones. `combined` has runs of parts (by index, in the order of event and k) whose results are one: the first one's.
    `times`: see `stamps`.
    """

    scan: int
    worker: int
    n: int
    version: int
    events: tuple[int, int] | bytes
    k: int | bytes
    states: int | bytes
    sizes: bytes
    failures: list[tuple[int, str, str]]
    missing: list[tuple[int, int]]
    ticks: list[int]
    combined: list[tuple[int, int]] = []
    times: Times | None = None


_encoder = msgspec.msgpack.Encoder()
Header: TypeAlias = FrameBatch | Gap | Grant | Attach | LetGo | ResultBatch
_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """The first part of an envelope."""
    return _encoder.encode(header)


def decode_header(data: Buffer) -> Header:
    """Read the first part of an envelope; CodecError when it is none."""
    try:
        header: Header = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a data envelope: {error}") from error
    return header


def pack_events(events: Events) -> tuple[int, int] | bytes:
    """Event numbers for a header: (first, step) where they are an ascending range, else their bytes.

    Results leave in the order of processing, so that numbers may repeat or descend.
    """
    n = len(events)
    first = int(events[0])
    if n == 1:
        return (first, 1)
    step = int(events[1]) - first
    if step > 0 and int(events[-1]) - first == step * (n - 1) and (n == 2 or bool((np.diff(events) == step).all())):
        return (first, step)
    return events.astype("<i8", copy=False).tobytes()


def unpack_events(packed: tuple[int, int] | bytes, n: int) -> Events:
    """Event numbers of a header, int64, shape (n,)."""
    if not 0 < n <= _MAX_FRAMES:
        raise CodecError(f"a batch of {n} events")
    if isinstance(packed, bytes):
        events = _column(packed, "<i8", n, "event numbers").astype(np.int64, copy=False)
        if int(events.min()) < 0:
            raise CodecError(f"event number {events.min()}")
        return events
    first, step = packed
    if first < 0 or step < 1 or first + step * n > 1 << 62:
        raise CodecError(f"events from {first} in steps of {step}")
    return np.arange(first, first + step * n, step, dtype=np.int64)


def pack_positions(k: Positions) -> int | bytes:
    """Positions for a header: one int where they are all alike."""
    if isinstance(k, int):
        return k
    first = int(k[0])
    return first if bool((k == first).all()) else k.astype("<i2", copy=False).tobytes()


def unpack_positions(packed: int | bytes, n: int) -> Positions:
    """Positions of a header: one int, or int16 of shape (n,)."""
    if not isinstance(packed, int):
        return _column(packed, "<i2", n, "positions").astype(np.int16)
    if not -_POSITIONS <= packed < _POSITIONS:
        raise CodecError(f"position {packed} in an event")
    return packed


def unpack_states(packed: int | bytes, n: int) -> int | NDArray[np.uint8]:
    """State codes of a result header: one for all, or uint8 of shape (n,)."""
    states = packed if isinstance(packed, int) else _column(packed, "u1", n, "states")
    lowest, highest = (states, states) if isinstance(states, int) else (int(states.min()), int(states.max()))
    if not EventState.PENDING < lowest <= highest <= max(EventState):
        raise CodecError(f"states from {lowest} to {highest} of parts that are done")
    return states


def _column(data: bytes, dtype: str, n: int, what: str) -> NDArray[Any]:
    if n < 1 or len(data) != n * np.dtype(dtype).itemsize:
        raise CodecError(f"{len(data)} bytes of {what} for {n} events")
    return np.frombuffer(data, dtype=dtype)


def encode_frames(
    scan: int,
    stream: int,
    version: int,
    events: Events,
    k: Positions,
    frames: Sequence[Sequence[Buffer]],
    closed: bool = False,
    lease: Callable[[Buffer], Slot | None] = lambda part: None,
    received: Sequence[tuple[int, float]] = (),
    sent: float = 0.0,
    again: bool = False,
) -> tuple[list[Buffer], int]:
    """A batch of frames as message parts, and its payload in bytes.

    The big parts are the given buffers themselves: they must stay unchanged until sent. `lease` is asked for each of
    them whether the reader has it in an arena slot.
    """
    n = len(frames)
    counts = list(map(len, frames))
    parts: int | bytes
    parts = counts[0] if min(counts) == max(counts) else array("H", counts).tobytes()
    flat: list[Buffer] = list(chain.from_iterable(frames))
    lengths = list(map(len, flat))  # memoryviews here are flat bytes, so len is their size
    total = sum(lengths)
    big: list[Buffer] = []
    slots = array("q")
    if lengths and max(lengths) >= INLINE_BYTES:
        small: list[Buffer] = []
        for i, part in enumerate(flat):
            if lengths[i] < INLINE_BYTES:
                small.append(part)
            elif (slot := lease(part)) is not None:
                slots.extend(slot)
                lengths[i] = _SLOT
            else:
                big.append(part)
                lengths[i] |= _BIG
        flat = small
    header = FrameBatch(
        scan,
        stream,
        n,
        version,
        pack_events(events),
        pack_positions(k),
        parts,
        array("I", lengths).tobytes(),
        closed,
        slots.tobytes(),
        list(received),
        sent,
        again,
    )
    return [_encoder.encode(header), b"".join(flat), *big], total


def slots_of(header: FrameBatch) -> list[Slot]:
    """The arena slots that a batch speaks of: every one of them is leased to its reader, whatever it does with it."""
    numbers = array("q")
    if len(header.slots) % (numbers.itemsize * _SLOT_NUMBERS):
        raise CodecError(f"{len(header.slots)} bytes of arena slots")
    numbers.frombytes(header.slots)
    it = iter(numbers)
    return list(zip(it, it, it, strict=True))


def decode_frames(header: FrameBatch, parts: Sequence[Buffer], slots: Sequence[Buffer] = ()) -> list[list[Buffer]]:
    """The frames of a batch; `parts` are the message parts after the header, `slots` what is in its arena slots.

    Small parts are copied out as `bytes`, big ones are the given buffers. CodecError when the lengths do not add up.
    """
    n = header.n
    if not 0 < n <= _MAX_FRAMES:
        raise CodecError(f"a batch of {n} frames")
    if header.received:
        check_runs([*header.received, (1, header.sent)], n + 1)
    sizes = array("I")
    if len(header.sizes) % sizes.itemsize or not parts:
        raise CodecError("a frame batch without sizes or blob")
    sizes.frombytes(header.sizes)
    flat = _split(sizes, parts, slots)
    if isinstance(header.parts, int):
        width = header.parts
        if width < 0 or width * n != len(flat):
            raise CodecError(f"{len(flat)} message parts for {n} frames of {width}")
        if width == 1:
            return [[p] for p in flat]
        if width == 2:
            it = iter(flat)
            return [[a, b] for a, b in zip(it, it, strict=True)]
        return [flat[i * width : (i + 1) * width] for i in range(n)]
    counts = _column(header.parts, "<u2", n, "part counts").tolist()
    if sum(counts) != len(flat):
        raise CodecError(f"{len(flat)} message parts, but the frames add up to {sum(counts)}")
    it = iter(flat)
    return [list(islice(it, c)) for c in counts]


def _split(sizes: array[int], parts: Sequence[Buffer], slots: Sequence[Buffer]) -> list[Buffer]:
    blob = parts[0] if isinstance(parts[0], bytes) else bytes(parts[0])
    if sizes and max(sizes) >= _BIG:
        return _split_mixed(sizes, blob, parts, slots)
    if len(parts) != 1 or slots:
        raise CodecError(f"{len(parts) - 1} message parts and {len(slots)} arena slots that no frame owns")
    ends = list(accumulate(sizes))
    if (ends[-1] if ends else 0) != len(blob):
        raise CodecError(f"a blob of {len(blob)} bytes for sizes that differ")
    start = 0
    out: list[Buffer] = []
    append = out.append
    for end in ends:
        append(blob[start:end])
        start = end
    return out


def _split_mixed(sizes: array[int], blob: bytes, parts: Sequence[Buffer], slots: Sequence[Buffer]) -> list[Buffer]:
    out: list[Buffer] = []
    start, next_big, shared = 0, 1, iter(slots)
    for size in sizes:
        if size == _SLOT:
            out.append(_next_slot(shared))
        elif size & _BIG:
            size ^= _BIG
            if next_big >= len(parts) or len(parts[next_big]) != size:
                raise CodecError(f"a message part of {size} bytes is missing or has another size")
            out.append(parts[next_big])
            next_big += 1
        else:
            out.append(blob[start : start + size])
            start += size
    if start != len(blob) or next_big != len(parts) or any(True for _ in shared):
        raise CodecError(f"a blob of {len(blob)} bytes and {len(parts) - 1} big parts for sizes that differ")
    return out


def _next_slot(slots: Iterator[Buffer]) -> Buffer:
    for slot in slots:
        return slot
    raise CodecError("an arena slot is missing")


def result_bodies(header: ResultBatch, blob: Buffer) -> list[Buffer]:
    """The encoded results of a batch, one per part (empty: nothing to reduce, or combined with an earlier one).

    Small ones are copied out as `bytes`, because a view costs more than their bytes do; large ones are views.
    """
    sizes = _sizes(header)
    at = np.flatnonzero(sizes)
    ends = list(accumulate(sizes[at].tolist(), initial=0))
    if ends[-1] != len(blob):
        raise CodecError(f"a blob of {len(blob)} bytes for results of {ends[-1]}")
    data: Buffer = bytes(blob) if len(blob) < _SMALL_RESULT * len(at) else memoryview(blob)
    found: list[Buffer] = [data[start:end] for start, end in pairwise(ends)]
    if len(found) == header.n:
        return found
    bodies: list[Buffer] = [b""] * header.n
    for i, body in zip(at.tolist(), found, strict=True):
        bodies[i] = body
    return bodies


def result_places(header: ResultBatch) -> Places | None:
    """Which parts of a batch have a result of their own to fold, by index; None: all of them."""
    sizes = _sizes(header)
    return None if bool(sizes.all()) else np.flatnonzero(sizes)


def _sizes(header: ResultBatch) -> NDArray[np.uint32]:
    if len(header.sizes) != header.n * 4 or not 0 < header.n <= _MAX_FRAMES:
        raise CodecError(f"{len(header.sizes)} bytes of sizes for {header.n} results")
    return np.frombuffer(header.sizes, dtype="<u4")


def unpack_combined(header: ResultBatch, events: Events, k: Positions) -> dict[int, int]:
    """Where combined results are, and up to where each has its parts: index of the first one -> behind the last.

    CodecError unless their parts are a worker's own, each there once, and have no other result.
    """
    if not header.combined:
        return {}
    end, sizes = 0, _sizes(header)
    for lo, hi in header.combined:
        if not end <= lo < hi <= header.n:
            raise CodecError(f"combined results of parts {lo} to {hi} of {header.n}")
        ks = k if isinstance(k, int) else k[lo:hi]
        if not sizes[lo] or bool(sizes[lo + 1 : hi].any()) or not _ascending(events[lo:hi], ks):
            raise CodecError(f"parts {lo} to {hi} do not have one result together")
        end = hi
    return dict(header.combined)


def _ascending(events: Events, k: Positions) -> bool:
    """Whether these parts are no broadcasts, and each comes behind the one before, by event and then by k."""
    step = np.diff(events)
    if isinstance(k, int):
        return k >= 0 and bool((step > 0).all())
    return bool((k >= 0).all() and ((step > 0) | ((step == 0) & (np.diff(k) > 0))).all())
