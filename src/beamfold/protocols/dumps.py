"""Dumps: streams on disk, in the formats that dranspose writes, so that old captures and its tools go on
working.

Two formats share the suffix `.cbors`, both CBOR sequences (items one after the other, no index, maybe
gzipped):

- internal dumps hold what a worker gets, one item per event and writer:
  `55799(42877([event number, {stream: 42878([type, [part, …]])}, 0("2024-11-20T14:47:30.591460Z")]))`. Older
  writers leave out the time, some the outer tag. A sparse stream simply has fewer items;
- raw captures hold what a source receives: one array of byte strings per message.

`.pkls` are the older dumps, pickled; see `pkls`. Source: recorded files, and bytes given in the tests.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NoReturn, Self, TypeAlias, cast

from cbor2 import CBORTag

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer, StreamData
from beamfold.protocols.cborseq import (
    ARRAY,
    MAP,
    TAG,
    Items,
    byte_strings,
    head,
    open_maybe_gzip,
    read_items,
    text,
    write_pieces,
)
from beamfold.protocols.dumpscan import EVENT, SELF_DESCRIBED, STREAM, DumpScanner
from beamfold.protocols.pkls import DumpEvent, read_pickles

_OUTER = head(TAG, SELF_DESCRIBED)
_EVENT_TAG = head(TAG, EVENT)
_STREAM_ITEM = head(TAG, STREAM) + head(ARRAY, 2)

__all__ = ["DumpEvent", "DumpWriter", "RawWriter", "kind_of", "read_dump", "read_dump_batches", "read_raw"]

Kind: TypeAlias = Literal["internal", "raw", "pkls"]
PathName: TypeAlias = str | PathLike[str]


def kind_of(path: PathName) -> Kind:
    """Which format a dump has, by its first bytes; MalformedFrame if it has none of them or is empty."""
    kind = _kind(Path(path))
    if kind is None:
        raise MalformedFrame(f"{path}: nothing tells what kind of dump this is: it is empty")
    return kind


def _kind(path: Path) -> Kind | None:
    """As `kind_of`; None for a file without a byte."""
    with open_maybe_gzip(path) as file:
        try:
            first = file.read(3)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise MalformedFrame(f"{path}: not readable as gzip ({error})") from None
    if not first:
        return None
    if first in (_OUTER, _EVENT_TAG):
        return "internal"
    # 0x80 is also CBOR's empty array, but no message has no parts
    if first[0] == 0x80 and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pkls"
    if 0x80 <= first[0] <= 0x9F:
        return "raw"
    raise MalformedFrame(
        f"{path}: neither an internal dump nor a raw capture nor pickles: it begins with {first.hex(' ')}"
    )


def read_dump(path: PathName) -> Iterator[DumpEvent]:
    """The events of an internal dump (`.cbors` or `.pkls`, maybe gzipped), in file order, few in memory at a time.

    An empty file has no events. Message parts of 64 KiB and more may be views of what was read. Raises MalformedFrame
    where the file is a raw capture or damaged; it then says how many items were whole, and these have been yielded.
    """
    return chain.from_iterable(read_dump_batches(path))


def read_dump_batches(path: PathName) -> Iterator[list[DumpEvent]]:
    """As `read_dump`, with those together that were read together: there is one at least."""
    path = Path(path)
    kind = _kind(path)
    if kind is None:
        return
    if kind == "raw":
        raise MalformedFrame(f"{path} is a raw capture (messages as a source receives them), not an internal dump")
    if kind == "internal":
        yield from _read_internal(path)
        return
    for index, item in enumerate(read_pickles(path)):
        if not isinstance(item, DumpEvent):
            raise MalformedFrame(f"{path}: item {index + 1} is a message as a source receives it, not an event")
        yield [item]


def _read_internal(path: Path) -> Iterator[list[DumpEvent]]:
    scanner = DumpScanner()
    with open_maybe_gzip(path) as file:
        items = Items(path, file)
        while items.at < len(items.data) or items.more():
            found: list[DumpEvent] = []
            items.at, lacks = scanner.scan(items.data, items.at, found)
            if found:
                items.whole += len(found)
                yield found
            elif not lacks or not items.more(lacks):
                yield [_event(items.item(), path, items.whole - 1)]


def read_raw(path: PathName) -> Iterator[list[bytes]]:
    """The messages of a raw capture (`.cbors`, or `.pkls` that hold lists of bytes), as lists of parts.

    An empty file has no messages. Raises MalformedFrame as `read_dump` does.
    """
    path = Path(path)
    kind = _kind(path)
    if kind is None:
        return
    if kind == "internal":
        raise MalformedFrame(f"{path} is an internal dump, events as a worker gets them: it has no messages")
    for index, item in enumerate(read_pickles(path) if kind == "pkls" else read_items(path)):
        if not isinstance(item, list | tuple) or not all(isinstance(part, bytes) for part in item):
            raise MalformedFrame(f"{path}: item {index + 1} is not a message, that is a list of byte strings")
        yield list(item)


class _Writer:
    """A file being written: `target` is a path, whose file must not exist yet (FileExistsError: nothing
    recorded is ever overwritten; gzipped if it ends in .gz), or a binary file, which stays open. A context
    manager."""

    def __init__(self, target: PathName | BinaryIO) -> None:
        self._owned = isinstance(target, str | PathLike)
        self._file: BinaryIO = _create(Path(target)) if isinstance(target, str | PathLike) else target

    def flush(self) -> None:
        """Hand everything written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush, and close the file if it was opened here."""
        if self._owned:
            self._file.close()
        else:
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DumpWriter(_Writer):
    """Writes an internal dump, byte for byte as dranspose's newer writers do.

    `target` is a path, whose file must not exist yet, or a binary file, which stays open.
    """

    def write(self, event_number: int, streams: Mapping[str, StreamData], created_at: datetime | None = None) -> None:
        """Append one event.

        `created_at` needs a time zone; without it the older form of two elements is written.
        """
        pieces: list[Buffer] = [
            _OUTER + _EVENT_TAG + head(ARRAY, 2 if created_at is None else 3) + head(0, event_number),
            head(MAP, len(streams)),
        ]
        for name, stream in streams.items():
            pieces.append(text(name) + _STREAM_ITEM + text(stream.typ))
            pieces += byte_strings(stream.frames)
        if created_at is not None:
            pieces.append(head(TAG, 0) + text(_rfc3339(created_at)))
        write_pieces(self._file, pieces)


class RawWriter(_Writer):
    """Writes a raw capture. `target` as for `DumpWriter`."""

    def write(self, parts: Sequence[Buffer]) -> None:
        """Append one message of one or more parts."""
        if not parts:
            raise ValueError("a message has at least one part")
        write_pieces(self._file, byte_strings(list(parts)))


def _create(path: Path) -> BinaryIO:
    file: Any = gzip.open(path, "xb") if path.suffix == ".gz" else path.open("xb")  # noqa: SIM115  # close() does
    return cast(BinaryIO, file)


def _rfc3339(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("created_at needs a time zone")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _event(item: Any, path: Path, index: int) -> DumpEvent:
    """The event in one CBOR item, everything about it checked."""

    def refuse(expected: str, found: object) -> NoReturn:
        raise MalformedFrame(f"{path}: item {index + 1}: expected {expected}, found {found!r}"[:400])

    if isinstance(item, CBORTag) and item.tag == SELF_DESCRIBED:
        item = item.value
    value = item.value if isinstance(item, CBORTag) and item.tag == EVENT else None
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        refuse(f"tag {EVENT} on 2 or 3 elements", item)
    number, streams, created_at = (*value, None)[:3]
    if type(number) is not int or number < 0:
        refuse("an event number", number)
    if not isinstance(streams, Mapping):
        refuse("a map of streams", streams)
    if created_at is not None and not isinstance(created_at, datetime):
        refuse("a time", created_at)
    found: dict[str, StreamData] = {}
    for name, stream in streams.items():
        if not isinstance(name, str) or not isinstance(stream, CBORTag) or stream.tag != STREAM:
            refuse(f"stream names with tag {STREAM}", (name, stream))
        found[name] = _stream(stream.value) or refuse("a type and a list of byte strings", stream.value)
    return DumpEvent(number, found, created_at)


def _stream(value: Any) -> StreamData | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    typ, frames = value
    if not isinstance(typ, str) or not isinstance(frames, list | tuple):
        return None
    if not all(isinstance(frame, bytes | str) for frame in frames):
        return None
    return StreamData(typ, frames)
