"""`.pkls`: older dumps, pickles one after the other, maybe gzipped.

Each is a `dranspose.event.InternalWorkerMessage`, a pydantic model of (event_number, streams), or, in raw
captures, a plain list of byte strings. Only these two classes are known here, by name; nothing is imported or
called for them. Source: recorded files.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, NamedTuple

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.model.events import StreamData
from beamfold.protocols.cborseq import open_maybe_gzip
from beamfold.protocols.unpickle import TruncatedPickle, load_at
from beamfold.protocols.unpickle_calls import Charge, Pending

_CHUNK = 1 << 20
_MAX_BYTES = 1 << 30
"""Largest single pickle: an event of a few very large images."""


class DumpEvent(NamedTuple):
    """One item of an internal dump: an event, or the part of it that one ingester had.

    `created_at` is when the ingester made it, with time zone; None where the dump does not say.
    """

    event_number: int
    streams: dict[str, StreamData]
    created_at: datetime | None = None


def read_pickles(path: Path) -> Iterator[Any]:
    """The pickled items of a file: `DumpEvent`s, or lists of bytes.

    Raises MalformedFrame, which says how many items were whole, after these were yielded.
    """
    whole = 0
    with open_maybe_gzip(path) as file:
        data, at, chunk = b"", 0, _CHUNK
        while True:
            try:
                if at == len(data):
                    data, at = file.read(_CHUNK), 0
                    if not data:
                        return
                item, at = load_at(data, at, _EXTRA)
            except TruncatedPickle:
                # the pickle goes on in the file; twice as much each time, so that a large one is not read
                # often
                more = _more(file, len(data) - at, chunk)
                if not more:
                    reason = f"{path}: the file ends inside item {whole + 1}; {whole} before it were read whole"
                    raise MalformedFrame(reason) from None
                data, at, chunk = data[at:] + more, 0, 2 * chunk
                continue
            except (MalformedFrame, EOFError, zlib.error, BadGzipFile) as error:
                reason = f"{path}: item {whole + 1} is damaged ({error}); {whole} before it were read whole"
                kind = UnsafePickle if isinstance(error, UnsafePickle) else MalformedFrame
                raise kind(reason) from None
            yield item
            whole += 1
            chunk = _CHUNK


def _more(file: Any, have: int, chunk: int) -> bytes:
    if have > _MAX_BYTES:
        raise UnsafePickle(f"a pickle of more than {_MAX_BYTES} bytes")
    try:
        more: bytes = file.read(chunk)
    except (EOFError, zlib.error):
        return b""
    return more


class _Model(Pending):
    """A pydantic model being built; `state` is pydantic 2's, of which only the fields matter."""

    def build(self, state: Any, charge: Charge) -> Any:
        fields = state.get("__dict__") if type(state) is dict else None
        if type(fields) is not dict:
            raise MalformedFrame("a pickled event without fields")
        return self.made(fields)

    def made(self, fields: dict[Any, Any]) -> Any:
        raise NotImplementedError


class _Message(_Model):
    def made(self, fields: dict[Any, Any]) -> DumpEvent:
        number, streams, created = fields.get("event_number"), fields.get("streams"), fields.get("created_at")
        if type(number) is not int or number < 0 or type(streams) is not dict:
            raise MalformedFrame("a pickled event without a number or streams")
        for name, stream in streams.items():
            if type(name) is not str or not isinstance(stream, StreamData):
                raise MalformedFrame(f"a pickled event whose stream {name!r} is a {type(stream).__name__}"[:300])
        return DumpEvent(number, streams, created if isinstance(created, datetime) else None)


class _Stream(_Model):
    def made(self, fields: dict[Any, Any]) -> StreamData:
        typ, frames = fields.get("typ"), fields.get("frames")
        if type(typ) is not str or type(frames) is not list or not all(type(f) in (bytes, str) for f in frames):
            raise MalformedFrame("a pickled stream without a type or frames")
        return StreamData(typ, frames)


def _datetime(state: bytes, zone: timezone | None = None) -> datetime:
    if type(state) is not bytes or len(state) != 10:
        raise MalformedFrame("a pickled time that is none")
    make: Callable[..., datetime] = datetime  # takes this too: it is how datetime reads its own pickles
    return make(state, zone)


_EXTRA: dict[tuple[str, str], Callable[..., Any]] = {
    ("dranspose.event", "InternalWorkerMessage"): _Message,
    ("dranspose.event", "StreamData"): _Stream,
    ("datetime", "datetime"): _datetime,
    ("datetime", "timezone"): timezone,
    ("datetime", "timedelta"): timedelta,
}
