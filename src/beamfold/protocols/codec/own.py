"""Beamfold's own types on the wire: a short tag and a list of their parts, independent of any app's modules.

Apps may return what they were given: the event, one stream's data, the parameters. Parsed messages and other
shipped types join through `register_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer, EventData, ResultData, StreamData
from beamfold.model.parameters import ParameterSet, WorkParameter
from beamfold.protocols.codec.codes import INLINE_BYTES

T = TypeVar("T")


class OwnType(NamedTuple):
    """How one type travels: `parts` takes it apart into encodable values, `restore` gets that list back."""

    tag: str
    parts: Callable[[Any], list[Any]]
    restore: Callable[[list[Any]], Any]


by_type: dict[type, OwnType] = {}
by_tag: dict[str, OwnType] = {}


def register_type(tag: str, cls: type[T], parts: Callable[[T], list[Any]], restore: Callable[[list[Any]], T]) -> None:
    """Let instances of exactly `cls` travel under `tag`.

    `restore` gets what a peer sent: it must check it, and may raise a BeamfoldError, TypeError, ValueError,
    KeyError or IndexError, which all become CodecError. It must not act on it.
    """
    if tag in by_tag and by_type.get(cls) is not by_tag[tag]:
        raise CodecError(f"the wire tag {tag!r} is taken by another type")
    by_type[cls] = by_tag[tag] = OwnType(tag, parts, restore)


def _expect(what: str, value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise CodecError(f"the bytes say {what} is a {type(value).__name__}")
    return value


def _stream_parts(stream: StreamData) -> list[Any]:
    # A view decodes to the buffer that arrived, where bytes would have to be copied out of it.
    return [stream.typ, [memoryview(f) if len(f) >= INLINE_BYTES else f for f in stream.frames]]


def _stream(parts: list[Any]) -> StreamData:
    typ, frames = parts
    checked: list[Buffer] = [_expect("a frame", f, bytes, memoryview) for f in _expect("frames", frames, list)]
    return StreamData(_expect("a stream's type", typ, str), checked)


def _event(parts: list[Any]) -> EventData:
    number, streams = parts
    for name, stream in _expect("streams", streams, dict).items():
        _expect("a stream's name", name, str)
        _expect("a stream", stream, StreamData)
    return EventData(_expect("an event number", number, int), streams)


def _result(parts: list[Any]) -> ResultData:
    number, worker, payload, digest = parts
    return ResultData(
        _expect("an event number", number, int),
        _expect("a worker's name", worker, str),
        payload,
        _expect("a parameters hash", digest, str),
    )


def _parameter(parts: list[Any]) -> WorkParameter:
    name, data, value = parts
    return WorkParameter(_expect("a name", name, str), _expect("parameter data", data, bytes), value)


def _parameters(parts: list[Any]) -> ParameterSet:
    members, version = parts
    for member in _expect("parameters", members, list):
        _expect("a parameter", member, WorkParameter)
    return ParameterSet(members, _expect("a version", version, int))


register_type("stream", StreamData, _stream_parts, _stream)
register_type("event", EventData, lambda e: [e.event_number, e.streams], _event)
register_type("result", ResultData, lambda r: [r.event_number, r.worker, r.payload, r.parameters_hash], _result)
register_type("parameter", WorkParameter, lambda p: [p.name, p.data, p.value], _parameter)
register_type("parameters", ParameterSet, lambda p: [list(p.values()), p.version], _parameters)
