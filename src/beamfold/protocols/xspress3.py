"""Xspress3 spectra as MAX IV's xspress3-streamer sends them. Stream type "xspress". ZeroMQ PUB.

Sources: recorded streams, one of which is read in the tests.

- header: JSON {"htype": "header", "filename", "overwritable"};
- image: JSON {"htype": "image", "frame", "shape": [channels, bins], "type": "uint32", "exptime",
  "compression"}, then the spectra, then a pickled list of 8 arrays of one number per channel (a ninth in
  newer senders). Older senders send the three as messages of their own, newer ones as one message of three
  parts; a stream may be either;
- series end: JSON {"htype": "series_end"}.

`frame` begins at 0 in every series.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer, StreamData, register_decoder
from beamfold.protocols import items
from beamfold.protocols.arrays import image_array
from beamfold.protocols.headers import Layouts, frame_number, load_header
from beamfold.protocols.items import Gather, Item, Malformed
from beamfold.protocols.record import Record, frames_of
from beamfold.protocols.unpickle import safe_loads

TYP = "xspress"
META_NAMES = (
    "ocr", "AllEvents", "AllGood", "ClockTicks", "TotalTicks", "ResetTicks", "event_widths", "dtc",
)  # fmt: skip
_IMAGE_PARTS = 3
_LONGEST_HEADER = 1 << 16
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")


class Xspress3Framer:
    """Tells xspress3 messages apart, and joins an image that comes as three messages; see `items.Framer`.

    A part that is lost on the way (PUB drops what a subscriber is too slow for) costs its image and no other:
    the next part that cannot follow tells, and what there is of the image comes back as Malformed.
    """

    typ = TYP
    numbered = True

    def __init__(self) -> None:
        self._layouts = Layouts("frame")
        self._number = 0
        self._parts: list[Buffer] = []

    def feed(self, messages: Sequence[list[Buffer]]) -> list[Item]:
        """As `items.Framer.feed`. An image whose three messages are not all there yet waits for the next
        call."""
        gather = Gather()
        for message in messages:
            if len(message) != 1:
                self._give_up(gather)
                self._whole(message, gather)
            elif _is_header(message[0]):
                self._give_up(gather)
                self._header(message, gather)
            elif not self._parts or not _follows(message[0], len(self._parts)):
                self._give_up(gather)
                gather.put(Malformed("part of an xspress3 image whose other parts are missing", message))
            else:
                self._parts.append(message[0])
                if len(self._parts) == _IMAGE_PARTS:
                    gather.numbered(self._number, self._parts)
                    self._parts = []
        return gather.done()

    def _whole(self, message: list[Buffer], gather: Gather) -> None:
        """A message of several parts: an image."""
        try:
            if len(message) != _IMAGE_PARTS:
                raise MalformedFrame(_parts_text(len(message)))
            gather.numbered(self._image_number(message[0]), message)
        except MalformedFrame as error:
            gather.put(Malformed(str(error), message))

    def _header(self, message: list[Buffer], gather: Gather) -> None:
        """A message that is one header: a start, an end, or the first of an image's three."""
        try:
            number = self._layouts.find(message[0])
            if number is None:
                header = _load(message[0])
                if header["htype"] != "image":
                    item = items.Start(message) if header["htype"] == "header" else items.End(message)
                    gather.put(item)
                    return
                number = self._image_number(message[0])
            self._number, self._parts = number, [message[0]]
        except MalformedFrame as error:
            gather.put(Malformed(str(error), message))

    def _image_number(self, part: Buffer) -> int:
        known = self._layouts.find(part)
        if known is not None:
            return known
        header = _load(part)
        if header["htype"] != "image":
            raise MalformedFrame(f"an xspress3 {header['htype']} message has 1 part, found more")
        number = frame_number(header, "frame")
        self._layouts.learn(part, number)
        return number

    def _give_up(self, gather: Gather) -> None:
        """What is unfinished stays so."""
        if self._parts:
            reason = f"xspress3 image {self._number}: only {len(self._parts)} of its {_IMAGE_PARTS} messages came"
            gather.put(Malformed(reason, self._parts))
            self._parts = []


class Start(Record):
    """The start of a series: `filename`, `overwritable`."""

    htype: str
    filename: str


class Image(Record):
    """One frame: `frame`, `exptime` in s, `shape` [channels, bins], `type`, `compression`, `data` and
    `meta`."""

    htype: str
    frame: int
    exptime: float
    shape: list[int]
    type: str
    compression: str

    @cached_property
    def data(self) -> NDArray[np.generic]:
        """Counts, [channels, bins], uint32 (or what the header says), a read-only view of the message
        part."""
        return image_array(self._fields, self._frames[1], f"xspress3 image {self._fields.get('frame')}")

    @cached_property
    def meta(self) -> dict[str, Any]:
        """One array [channels] for each of `META_NAMES`; what newer senders add is under "extra".

        ocr (output count rate) and dtc (dead time correction) are float64, event_widths int32, the others
        uint32. Read when first asked for; raises MalformedFrame, and UnsafePickle where the pickle holds
        anything but data.
        """
        values = safe_loads(self._frames[2])
        known = len(META_NAMES)
        if not isinstance(values, list | tuple) or len(values) not in (known, known + 1):
            found = f"{len(values)}" if isinstance(values, list | tuple) else type(values).__name__
            raise MalformedFrame(f"xspress3 metadata: expected a list of {known} or {known + 1} arrays, found {found}")
        return dict(zip((*META_NAMES, "extra"), values, strict=False))


class End(Record):
    """The end of a series."""

    htype: str


def parse(stream: StreamData) -> Start | Image | End:
    """An xspress3 message as an object; told apart by class or by `.htype` ("header", "image", "series_end").

    Raises MalformedFrame for a stream of another type and for parts that are not an xspress3 message; of an
    image the spectra are checked at once, the pickled metadata when `.meta` is asked for.
    """
    return _parse(frames_of(stream, TYP, "xspress3"))


class _Decoder:
    def parse(self, frames: Sequence[Buffer]) -> Start | Image | End:
        return _parse(frames)

    def array(self, frames: Sequence[Buffer]) -> NDArray[np.generic]:
        message = _parse(frames)
        if not isinstance(message, Image):
            raise MalformedFrame(f"an xspress3 {message.htype} message carries no spectra; test .parse().htype first")
        return message.data


def _parse(frames: Sequence[Buffer]) -> Start | Image | End:
    if not frames:
        raise MalformedFrame(_parts_text(0))
    header = _load(frames[0])
    if header["htype"] == "image":
        if len(frames) != _IMAGE_PARTS:
            raise MalformedFrame(_parts_text(len(frames)))
        image = Image(header, frames)
        _ = image.data  # a view, so it costs little to know now that it is right
        return image
    if len(frames) != 1:
        raise MalformedFrame(f"an xspress3 {header['htype']} message has 1 part, found {len(frames)}")
    return Start(header, frames) if header["htype"] == "header" else End(header, frames)


def _load(part: Buffer) -> dict[str, Any]:
    header = load_header(part, "xspress3 header")
    htype = header.get("htype")
    if htype not in ("header", "image", "series_end"):
        raise MalformedFrame(f"xspress3 header: htype must be header, image or series_end, found {htype!r}"[:300])
    return header


def _parts_text(found: int) -> str:
    return f"an xspress3 image has {_IMAGE_PARTS} parts (header, spectra, pickle), others 1; found {found}"


def _is_header(part: Buffer) -> bool:
    # spectra may begin with the byte of "{", but do not hold this key as well
    return part[:1] == b"{" and len(part) < _LONGEST_HEADER and b'"htype"' in bytes(part)


def _follows(part: Buffer, place: int) -> bool:
    """Whether a part that is no header can be the spectra (place 1) or the metadata (place 2) of an image."""
    # spectra that begin like a pickle would need hundreds of counts in the first bin and end with half a
    # billion
    pickled = part[:1] == b"\x80" and part[1:2] in _PROTOCOLS and part[-1:] == b"."
    return pickled == (place == 2)


register_decoder(TYP, _Decoder())
