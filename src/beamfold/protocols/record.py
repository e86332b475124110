"""The base of parsed messages: what the header says, as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer, StreamData


class Record:
    """A parsed message. Every key is an attribute (`image.frame`) and an item (`image["frame"]`), unknown
    keys too.

    A key that is not an identifier, or that has the name of something this class defines, is reached as an
    item.
    """

    _fields: dict[str, Any]
    _frames: Sequence[Buffer]

    def __init__(self, fields: Mapping[str, Any], frames: Sequence[Buffer] = ()) -> None:
        self._fields = dict(fields)
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        # only called for what neither the class nor the object has; while unpickling, that is _fields too
        fields = self.__dict__.get("_fields", {})
        try:
            return fields[name]
        except KeyError:
            has = ", ".join(map(str, fields)) or "nothing"
            raise AttributeError(f"this {type(self).__name__} has no {name!r} (it has: {has})") from None

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def keys(self) -> list[str]:
        """The keys of the message, in its order."""
        return list(self._fields)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={_short(value)}" for key, value in self._fields.items())
        return f"{type(self).__name__}({shown})"


def frames_of(stream: StreamData, typ: str, module: str) -> list[Buffer]:
    """The message parts of a stream that must be of this type; MalformedFrame, which says what to call, if
    not."""
    if stream.typ != typ:
        raise MalformedFrame(
            f"{module}.parse reads streams of type {typ!r}, this one is {stream.typ!r}: "
            "call stream.parse(), or the parse of the module that knows that type"
        )
    return stream.frames


def _short(value: object) -> str:
    if isinstance(value, str | int | float | None):
        text = repr(value)
        return text if len(text) <= 80 else text[:79] + "…"
    shape = getattr(value, "shape", None)
    return f"<{type(value).__name__}{'' if shape is None else f' {shape}'}>"
