"""STINS ("stream1"): what MAX IV's streaming-receiver republishes for its area detectors. Stream type
"STINS".

Sources: the receiver's README; recorded streams, of which a small one is read in the tests. ZeroMQ PUSH, or
PUB.

- header, 1 or 2 parts: JSON {"htype": "header", "msg_number", "filename", …}, then perhaps another JSON part;
- image, 2 parts: JSON {"htype": "image", "msg_number", "frame", "shape": [rows, columns], "type": numpy name,
  "compression": "none" | "bslz4", …} and the pixels;
- series end, 1 part: JSON {"htype": "series_end", "msg_number"}.

Keys come in any order, with or without spaces. `frame` begins at 0 (some detectors: 1) in every series;
`msg_number` counts every message of the sender, over all series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import Buffer, StreamData, register_decoder
from beamfold.protocols import items
from beamfold.protocols.arrays import image_array
from beamfold.protocols.headers import Layouts, frame_number, load_header
from beamfold.protocols.items import Data, Item, Malformed
from beamfold.protocols.record import Record, frames_of

TYP = "STINS"
_IMAGE_PARTS = 2


class StinsFramer:
    """Tells STINS messages apart; see `items.Framer`.

    `number` names the header key that numbers the frames. With "msg_number" the numbering continues over
    series, and the start message says where: `Start.base` is its own number plus one, and `End.number` that of the
    end message. With "frame" both are None.
    """

    typ = TYP
    numbered = True

    def __init__(self, number: Literal["frame", "msg_number"] = "frame") -> None:
        if number not in ("frame", "msg_number"):
            raise ConfigError(f"stins: number must be 'frame' or 'msg_number', found {number!r}")
        self._key = number
        self._layouts = Layouts(number)

    def feed(self, messages: Sequence[list[Buffer]]) -> list[Item]:
        """As `items.Framer.feed`. An image costs one pattern match; anything else costs a json.loads."""
        out: list[Item] = []
        numbers: list[int] = []
        frames: list[list[Buffer]] = []
        match = self._layouts.match
        for message in messages:
            if len(message) == _IMAGE_PARTS and (found := match(message[0])):
                numbers.append(int(found[1]))
                frames.append(message)
                continue
            item = self._read(message)
            match = self._layouts.match
            if isinstance(item, int):
                numbers.append(item)
                frames.append(message)
                continue
            if numbers:
                out.append(Data(numbers, frames))
                numbers, frames = [], []
            out.append(item)
        if numbers:
            out.append(Data(numbers, frames))
        return out

    def _read(self, message: list[Buffer]) -> int | Item:
        """An image's number, or the item that any other message is."""
        if len(message) == _IMAGE_PARTS and (known := self._layouts.find(message[0])) is not None:
            return known
        try:
            header = _header(message)
            if header["htype"] == "image":
                return self._image(message, header)
            if header["htype"] == "series_end":
                return items.End(message, self._end(header))
            return items.Start(message, self._base(header))
        except MalformedFrame as error:
            return Malformed(str(error), message)

    def _image(self, message: list[Buffer], header: Mapping[str, Any]) -> int:
        number = frame_number(header, self._key)
        self._layouts.learn(message[0], number)
        return number

    def _base(self, header: Mapping[str, Any]) -> int | None:
        return frame_number(header, "msg_number") + 1 if self._key == "msg_number" else None

    def _end(self, header: Mapping[str, Any]) -> int | None:
        return frame_number(header, "msg_number") if self._key == "msg_number" and "msg_number" in header else None


class Header(Record):
    """The start of a series: `filename`, `msg_number` and whatever else the header says."""

    htype: str
    msg_number: int
    filename: str

    @cached_property
    def appendix(self) -> dict[str, Any] | None:
        """The second message part, a JSON object; None where there is none. Raises MalformedFrame."""
        return load_header(self._frames[1], "second part of the STINS header") if len(self._frames) > 1 else None


class Image(Record):
    """One image: `frame`, `msg_number`, `shape` [rows, columns], `type`, `compression`, … and `data`."""

    htype: str
    msg_number: int
    frame: int
    shape: list[int]
    type: str
    compression: str

    @cached_property
    def data(self) -> NDArray[np.generic]:
        """The pixels, read-only, in the header's dtype and shape; decoded when first asked for.

        Uncompressed: a view of the message part. bslz4: a new array. Raises MalformedFrame.
        """
        return image_array(self._fields, self._frames[1], f"STINS image {self._fields.get('frame')}")


class End(Record):
    """The end of a series: `msg_number`."""

    htype: str
    msg_number: int


def parse(stream: StreamData) -> Header | Image | End:
    """A STINS message as an object; told apart by class or by `.htype` ("header", "image", "series_end").

    Raises MalformedFrame for a stream of another type and for parts that are not a STINS message.
    """
    return _parse(frames_of(stream, TYP, "stins"))


class _Decoder:
    def parse(self, frames: Sequence[Buffer]) -> Header | Image | End:
        return _parse(frames)

    def array(self, frames: Sequence[Buffer]) -> NDArray[np.generic]:
        message = _parse(frames)
        if not isinstance(message, Image):
            raise MalformedFrame(f"a STINS {message.htype} message carries no image; test .parse().htype first")
        return message.data


_PARTS = {"header": (1, 2), "image": (_IMAGE_PARTS, _IMAGE_PARTS), "series_end": (1, 1)}


def _header(frames: Sequence[Buffer]) -> dict[str, Any]:
    """The JSON of a message whose `htype` and number of parts are right."""
    if not frames:
        raise MalformedFrame("STINS message: expected a JSON header, found no parts at all")
    header = load_header(frames[0], "STINS header")
    htype = header.get("htype")
    if not isinstance(htype, str) or htype not in _PARTS:
        raise MalformedFrame(f"STINS header: htype must be one of {', '.join(_PARTS)}, found {htype!r}"[:300])
    low, high = _PARTS[htype]
    if not low <= len(frames) <= high:
        parts = {(1, 1): "1 part", (2, 2): "2 parts"}.get((low, high), f"{low} or {high} parts")
        raise MalformedFrame(f"a STINS {htype} message has {parts}, found {len(frames)}")
    return header


def _parse(frames: Sequence[Buffer]) -> Header | Image | End:
    header = _header(frames)
    if header["htype"] == "image":
        return Image(header, frames)
    return Header(header, frames) if header["htype"] == "header" else End(header, frames)


register_decoder(TYP, _Decoder())
