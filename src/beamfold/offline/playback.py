"""Captured streams as events: internal dumps as they are, raw captures through their protocol's framer."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from operator import attrgetter, lt
from pathlib import Path

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import StreamData
from beamfold.protocols import FRAMERS, framer
from beamfold.protocols.dumps import DumpEvent, kind_of, read_dump, read_dump_batches, read_raw
from beamfold.protocols.items import Data, End, Malformed, Start

LAST = 1 << 62
"""Sorts the end messages of raw captures behind every data event; their number is known when all is read."""

BLOCK = 256
"""Events of a block."""

BLOCK_BYTES = 32 << 20
"""Bytes of message parts that fill a block, however few its events."""

GATHERED = 32
"""Events of several captures that are handed on together: few, because they may be large."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured stream. `stream` and `protocol` are needed for raw captures, which do not say what they are."""

    path: Path
    stream: str = ""
    protocol: str = ""
    base: int = 0


def parse_capture(text: str) -> Capture:
    """`FILE`, or for a raw capture `STREAM:PROTOCOL=FILE` (or `PROTOCOL=FILE` for a stream of the same name)."""
    what, equals, path = text.rpartition("=")
    if not equals or Path(text).exists():
        return Capture(Path(text))
    stream, _, protocol = what.rpartition(":")
    if protocol not in FRAMERS:
        raise ConfigError(f"{text}: no protocol {protocol!r}; known are {', '.join(sorted(FRAMERS))}")
    return Capture(Path(path), stream or protocol, protocol)


def read_captures(captures: Sequence[Capture]) -> Iterator[list[DumpEvent]]:
    """The events of all captures together, by number, some at a time; every capture is played to its end.

    Raises ConfigError for files that cannot be played, and MalformedFrame where one breaks off (all that is whole
    before was played).
    """
    for capture in captures:
        if not capture.path.is_file():
            raise ConfigError(f"there is no file {capture.path}")
    if len(captures) == 1 and kind_of(captures[0].path) != "raw":
        yield from _united(read_dump_batches(captures[0].path))
    else:
        merged = heapq.merge(*map(_numbered, captures), key=lambda event: event.event_number)
        yield from _united(_gathered(merged))


def _numbered(capture: Capture) -> Iterator[DumpEvent]:
    return _raw(capture) if kind_of(capture.path) == "raw" else read_dump(capture.path)


def _gathered(events: Iterator[DumpEvent]) -> Iterator[list[DumpEvent]]:
    """So many at a time that it costs little, and what came before an error."""
    found: list[DumpEvent] = []
    try:
        for event in events:
            found.append(event)
            if len(found) == GATHERED:
                yield found
                found = []
    except MalformedFrame:
        if found:
            yield found
        raise
    if found:
        yield found


def _united(batches: Iterator[list[DumpEvent]]) -> Iterator[list[DumpEvent]]:
    """What comes one after the other of the same event as one, and the end with its number."""
    held: list[DumpEvent] = []
    last = -1
    try:
        for batch in batches:
            events = held + batch
            numbers = [event.event_number for event in events]
            if not all(map(lt, numbers, islice(numbers, 1, None))):
                events = [_joined(list(same)) for _, same in groupby(events, attrgetter("event_number"))]
            held = [events.pop()]
            if events:
                last = events[-1].event_number
                yield events
    except MalformedFrame:
        yield from _rest(held, last)
        raise
    yield from _rest(held, last)


def _joined(same: list[DumpEvent]) -> DumpEvent:
    if len(same) == 1:
        return same[0]
    number, streams = same[0].event_number, dict[str, StreamData]()
    for event in same:
        if twice := streams.keys() & event.streams.keys():
            what = "the end" if number == LAST else f"event {number}"
            raise ConfigError(f"{what}: stream {', '.join(sorted(twice))} is in two of the files")
        streams |= event.streams
    return DumpEvent(number, streams)


def _rest(held: list[DumpEvent], last: int) -> Iterator[list[DumpEvent]]:
    if held:
        (event,) = held
        yield [event._replace(event_number=last + 1) if event.event_number == LAST else event]


@dataclass(frozen=True, slots=True)
class Block:
    """Events that are processed and folded together. What is `broadcast` goes to every logical worker.

    There are `count` of them, with numbers from `first` to `last`. A process that only folds knows no more of them: it
    has no `events`.
    """

    first: int
    last: int
    count: int
    broadcast: bool
    events: list[DumpEvent] = field(default_factory=list)

    @classmethod
    def of(cls, events: list[DumpEvent], broadcast: bool) -> Block:
        """A block of these events, of which there is one at least."""
        numbers = [event.event_number for event in events]
        return cls(min(numbers), max(numbers), len(events), broadcast, events)


def blocks(batches: Iterable[list[DumpEvent]]) -> Iterator[Block]:
    """The first and the last event by themselves, as broadcasts, and those between in blocks.

    A block ends with `BLOCK` events, or with the one that fills `BLOCK_BYTES`, however they came.
    """
    waiting: list[DumpEvent] = []
    begun = False
    for batch in batches:
        events = batch
        if not begun and events:
            yield Block.of(events[:1], True)
            begun, events = True, events[1:]
        waiting += events
        size = _bytes(waiting)  # an upper bound for what is left once blocks were cut off
        while 0 < (n := BLOCK if size < BLOCK_BYTES else _full(waiting)) < len(waiting):
            yield Block.of(waiting[:n], False)
            del waiting[:n]
    if waiting[:-1]:
        yield Block.of(waiting[:-1], False)
    if waiting:
        yield Block.of(waiting[-1:], True)


def _bytes(events: Iterable[DumpEvent]) -> int:
    return sum(map(len, chain.from_iterable([data.frames for event in events for data in event.streams.values()])))


def _full(events: Sequence[DumpEvent]) -> int:
    """How many of these make a block, 0 if they are too few."""
    size = 0
    for n, event in enumerate(events, 1):
        size += _bytes([event])
        if n == BLOCK or size >= BLOCK_BYTES:
            return n
    return 0


def _raw(capture: Capture) -> Iterator[DumpEvent]:
    """Messages of a raw capture as numbered events: 0 the start, 1… the data, LAST the end."""
    if not capture.protocol:
        raise ConfigError(
            f"{capture.path} holds raw messages, which do not say what they are: name stream and protocol, "
            f"as in detector:stins={capture.path} (protocols: {', '.join(sorted(FRAMERS))})"
        )
    reader = framer(capture.protocol)
    running, count = False, 0
    for message in read_raw(capture.path):
        for item in reader.feed([list(message)]):
            if isinstance(item, Malformed):
                raise MalformedFrame(f"{capture.path}: {item.reason}")
            if isinstance(item, Start) and not running:
                running, base = True, capture.base if item.base is None else item.base
                yield DumpEvent(0, {capture.stream: StreamData.of(reader.typ, item.frames)})
            elif isinstance(item, Data) and running:
                for i, frame in enumerate(item.frames):
                    number = item.numbers[i] - base + 1 if item.numbers is not None else count + 1
                    count += 1
                    yield DumpEvent(number, {capture.stream: StreamData.of(reader.typ, frame)})
            elif isinstance(item, End) and running:
                yield DumpEvent(LAST, {capture.stream: StreamData.of(reader.typ, item.frames)})
                return
