"""Captured streams as events: internal dumps as they are, raw captures through their protocol's framer."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import EventData, StreamData
from beamfold.protocols import FRAMERS, framer
from beamfold.protocols.dumps import kind_of, read_dump, read_raw
from beamfold.protocols.items import Data, End, Malformed, Start

LAST = 1 << 62
"""Sorts the end messages of raw captures behind every data event; their number is known when all is read."""


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


def events(captures: Iterable[Capture]) -> Iterator[EventData]:
    """The events of all captures together, by number; every capture is played to its end.

    Raises ConfigError for files that cannot be played, and MalformedFrame where one breaks off (all that is whole
    before was played).
    """
    current: EventData | None = None
    last, ending = -1, False
    merged = heapq.merge(*[_numbered(capture) for capture in captures], key=lambda item: item[0])
    try:
        for number, streams in merged:
            if current is not None and number != (LAST if ending else current.event_number):
                yield current
                last, current = current.event_number, None
            if current is None:
                ending = number == LAST
                current = EventData(last + 1 if ending else number, {})
            if twice := set(streams) & set(current.streams):
                names = ", ".join(sorted(twice))
                raise ConfigError(f"event {current.event_number}: stream {names} is in two of the files")
            current.streams.update(streams)
    except MalformedFrame:
        if current is not None:
            yield current
        raise
    if current is not None:
        yield current


def _numbered(capture: Capture) -> Iterator[tuple[int, dict[str, StreamData]]]:
    path = capture.path
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    if kind_of(path) == "raw":
        return _raw(capture)
    return ((e.event_number, e.streams) for e in read_dump(path))


def _raw(capture: Capture) -> Iterator[tuple[int, dict[str, StreamData]]]:
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
                yield 0, {capture.stream: StreamData.of(reader.typ, item.frames)}
            elif isinstance(item, Data) and running:
                for i, frame in enumerate(item.frames):
                    number = item.numbers[i] - base + 1 if item.numbers is not None else count + 1
                    count += 1
                    yield number, {capture.stream: StreamData.of(reader.typ, frame)}
            elif isinstance(item, End) and running:
                yield LAST, {capture.stream: StreamData.of(reader.typ, item.frames)}
                return
