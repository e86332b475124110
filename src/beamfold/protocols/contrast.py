"""Contrast's StreamRecorder. Stream type "contrast". ZeroMQ PUB, one part: a pickled dict with a `status`.

Sources: contrast's recorders/StreamRecorder.py; a recorded stream, which is read in the tests.

- "started": path, scannr, description, snapshot;
- "running": dt, and one key per motor or detector: numbers, numpy arrays, nested dicts, links to files
  {"type": "Link", "filename", "path", "universal"}. There is no point number: the messages are counted;
- "finished" or "interrupted": the series is over;
- "heartbeat": every 10 s, at any time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer, StreamData, register_decoder
from beamfold.protocols.items import End, Gather, Item, Malformed, Start
from beamfold.protocols.record import Record, frames_of
from beamfold.protocols.unpickle import safe_loads

TYP = "contrast"
_ENDS = ("finished", "interrupted")
_KNOWN = ("started", "running", *_ENDS, "heartbeat")

_MEMO = rb"(?:q.|r....|\x94)?"
_RUNNING = re.compile(
    rb"(?:X\x06\0\0\0|\x8c\x06)status" + _MEMO + rb"(?:X\x07\0\0\0|\x8c\x07)running" + _MEMO + rb"[us]\.\Z",
    re.DOTALL,
)
"""How a pickle ends whose last item is status = "running": Contrast puts it last, in the outermost dict, and
only that can be on the stack when STOP follows."""
_TAIL = 48


class ContrastFramer:
    """Tells Contrast messages apart by `status`; see `items.Framer`. A data point costs a look at its last
    bytes."""

    typ = TYP
    numbered = False

    def feed(self, messages: Sequence[list[Buffer]]) -> list[Item]:
        """As `items.Framer.feed`; heartbeats are dropped."""
        gather = Gather()
        for message in messages:
            try:
                status = _status(message)
            except MalformedFrame as error:
                gather.put(Malformed(str(error), message))
                continue
            if status == "running":
                gather.counted(message)
            elif status == "started":
                gather.put(Start(message))
            elif status in _ENDS:
                gather.put(End(message))
        return gather.done()


class Message(Record):
    """A Contrast message: `status`, and every key of the dict as attribute and as item. Arrays are as they
    were."""

    status: str


def parse(stream: StreamData) -> Message:
    """A Contrast message as an object; `.status` is "started", "running", "finished", "interrupted" or
    "heartbeat".

    Raises MalformedFrame for a stream of another type and for bytes that are no such message, UnsafePickle
    where the pickle asks for anything but data.
    """
    return _parse(frames_of(stream, TYP, "contrast"))


class _Decoder:
    def parse(self, frames: Sequence[Buffer]) -> Message:
        return _parse(frames)

    def array(self, frames: Sequence[Buffer]) -> NDArray[np.generic]:
        raise MalformedFrame("a contrast message carries named values, no one array; use .parse()")


def _parse(frames: Sequence[Buffer]) -> Message:
    return Message(_load(frames), frames)


def _status(message: Sequence[Buffer]) -> str:
    if len(message) == 1 and _RUNNING.search(message[0][-_TAIL:]):
        return "running"
    status: str = _load(message)["status"]
    return status


def _load(frames: Sequence[Buffer]) -> dict[Any, Any]:
    if len(frames) != 1:
        raise MalformedFrame(f"a contrast message has 1 part, found {len(frames)}")
    fields = safe_loads(frames[0])
    if not isinstance(fields, dict):
        raise MalformedFrame(f"contrast message: expected a pickled dict, found {type(fields).__name__}")
    status = fields.get("status")
    if not isinstance(status, str) or status not in _KNOWN:  # an array, say, is not even comparable
        found = repr(status)[:100] if isinstance(status, str | None) else f"a {type(status).__name__}"
        raise MalformedFrame(f"contrast message: status must be one of {', '.join(_KNOWN)}, found {found}")
    return fields


register_decoder(TYP, _Decoder())
