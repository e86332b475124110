"""What a worker gets and a reducer gets: streams' frames joined to events, and results.

Users touch these three classes in every hook, so they are plain, small, and cheap to make: one event costs
one `EventData`, one dict and one `StreamData` per stream, nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from beamfold.model.errors import MalformedFrame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Buffer: TypeAlias = bytes | memoryview
"""One message part. Parts under 16 KiB are `bytes`; larger ones may be read-only flat `memoryview`s (format B) of the
buffer they arrived in, which lives as long as the view does."""


class Decoder(Protocol):
    """How one stream type turns its message parts into something a scientist can use."""

    def parse(self, frames: Sequence[Buffer]) -> Any:
        """The message as an object; raises MalformedFrame."""

    def array(self, frames: Sequence[Buffer]) -> NDArray[np.generic]:
        """The message's pixel or spectrum data; raises MalformedFrame when it carries none."""


_decoders: dict[str, Decoder] = {}


def register_decoder(typ: str, decoder: Decoder) -> None:
    """Make `StreamData.parse` and `.array` work for streams of this type (protocol modules call it)."""
    _decoders[typ] = decoder


def _decoder(typ: str) -> Decoder:
    try:
        return _decoders[typ]
    except KeyError:
        known = ", ".join(sorted(_decoders)) or "none"
        raise MalformedFrame(
            f"no decoder for streams of type {typ!r} (known: {known}); read .frames yourself, "
            "or import the protocol module that knows this type"
        ) from None


class StreamData:
    """One stream's message of one event.

    `typ` names the stream type ("STINS", "xspress", "contrast"); `frames` are the message parts exactly as the
    detector sent them. The parts are read-only and stay valid for as long as they are referenced.
    """

    __slots__ = ("frames", "typ")

    def __init__(self, typ: str, frames: Sequence[Buffer | str], length: int | None = None) -> None:
        self.typ = typ
        self.frames: list[Buffer] = [f.encode() if isinstance(f, str) else f for f in frames]
        if length is not None and length != len(self.frames):
            raise MalformedFrame(f"stream data of {len(self.frames)} parts says it has {length}")

    @classmethod
    def of(cls, typ: str, frames: list[Buffer]) -> StreamData:
        """The same, taking the list as it is: for the hot path, where its parts are known to be bytes."""
        self = cls.__new__(cls)
        self.typ = typ
        self.frames = frames
        return self

    @property
    def length(self) -> int:
        """Number of message parts."""
        return len(self.frames)

    def get_bytes(self) -> int:
        """Size of all parts in bytes."""
        return sum(map(len, self.frames))

    def parse(self) -> Any:
        """Decode the message by its protocol: an object with the header's keys as attributes.

        Raises MalformedFrame, which names what was expected and what was found.
        """
        return _decoder(self.typ).parse(self.frames)

    def array(self) -> NDArray[np.generic]:
        """The frame as an array in its own dtype and shape, read-only, without a copy where the bytes allow.

        Compressed frames (bslz4) are decompressed into a new array. Raises MalformedFrame, also for messages
        that carry no array (starts, ends).
        """
        return _decoder(self.typ).array(self.frames)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamData) and self.typ == other.typ and self.frames == other.frames

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content may be large

    def __repr__(self) -> str:
        return f"StreamData({self.typ!r}, {self.length} parts, {self.get_bytes()} bytes)"


class EventData:
    """What belongs to one trigger, as one worker sees it: at most one message per stream."""

    __slots__ = ("event_number", "streams")

    def __init__(self, event_number: int, streams: dict[str, StreamData]) -> None:
        self.event_number = event_number
        self.streams = streams

    def get_bytes(self) -> int:
        """Size of all streams' parts in bytes."""
        return sum(s.get_bytes() for s in self.streams.values())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, EventData) and self.event_number == other.event_number and self.streams == other.streams
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EventData({self.event_number}, {self.streams!r})"


class ResultData:
    """What `process_event` returned for one event, as the reducer sees it.

    Where the worker combines results, `payload` is what `combine` made of those of several events, and `event_number`
    is the first of these. `worker` is the name of the logical worker that made it; `parameters_hash` identifies the
    parameter values that were in force for this event.
    """

    __slots__ = ("event_number", "parameters_hash", "payload", "worker")

    def __init__(self, event_number: int, worker: str, payload: Any, parameters_hash: str = "") -> None:
        self.event_number = event_number
        self.worker = worker
        self.payload = payload
        self.parameters_hash = parameters_hash

    def __repr__(self) -> str:
        return f"ResultData(event_number={self.event_number}, worker={self.worker!r}, payload={self.payload!r})"
