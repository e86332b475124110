"""Which events of a scan are in a state, one bit for each: for what runs do not say shortly, such as every second one.

`events_in` and `events_lacking` read that out of a report, however the report says it.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.eventstates import EventState
from beamfold.model.runs import Run

MAX_EVENTS = 10_000_000
"""Events that one bitmap has at most: 1.25 MB before they are compressed."""


@dataclass(frozen=True, slots=True)
class Bitmap:
    """One bit for each of `events` events, from event `first` on: whether it is in the state.

    `bits` is base64 of zlib of the bits as `np.packbits` packs them: eight per byte, the first one highest.
    """

    first: int
    events: int
    bits: str

    @classmethod
    def of(cls, first: int, mask: NDArray[np.bool_]) -> Bitmap:
        """Of events first, first + 1, … those that the mask has."""
        return cls(first, len(mask), base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode())

    @property
    def packed(self) -> NDArray[np.uint8]:
        """The bits, eight per byte. Raises CodecError when they are damaged."""
        size = -(-self.events // 8)
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.bits), size + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise CodecError(f"these are not the bits of a bitmap: {error}") from None
        if len(data) != size:
            raise CodecError(f"a bitmap of {self.events} events with another number of bits")
        return np.frombuffer(data, dtype=np.uint8)

    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the events that are in it, ascending, int64. Raises CodecError when it is damaged."""
        return np.flatnonzero(np.unpackbits(self.packed, count=self.events)) + self.first


def events_in(report: Mapping[str, Any], state: str) -> NDArray[np.int64]:
    """The numbers of the data events that a report has in this state ("failed", "reduced", …), ascending, int64.

    `report` is that of an ended scan, from the controller's HTTP, a recording or a result file. Those of its
    `unlisted` events are not among them, which only scans of more than ten million events have. Raises BeamfoldError
    for a state that does not exist, and where the report does not say it.
    """
    labels = [s.label for s in EventState]
    if state not in labels:
        raise BeamfoldError(f"there is no state {state!r}; there are {', '.join(labels)}")
    bitmaps = {label: Bitmap(**bitmap) for label, bitmap in report["bitmaps"].items()}
    if state != EventState.REDUCED.label:
        return listed(state, report["runs"], bitmaps)
    if not report.get("ended") or report["unlisted"]:
        raise BeamfoldError("this report does not list all events that were not reduced, so the others are not known")
    mask = np.ones(report["events"], dtype=np.bool_)
    first = report["first_event"]
    for label in {*report["runs"], *bitmaps}:
        mask[listed(label, report["runs"], bitmaps) - first] = False
    numbers: NDArray[np.int64] = np.flatnonzero(mask) + first
    return numbers


def events_lacking(report: Mapping[str, Any], stream: str) -> NDArray[np.int64]:
    """The numbers of the data events that a report says lacked a frame of this stream, ascending, int64.

    Raises BeamfoldError for a stream that the scan did not have. `report` is as in `events_in`.
    """
    if stream not in report["streams"]:
        raise BeamfoldError(f"this scan has no stream {stream!r}; it has {', '.join(report['streams'])}")
    bitmaps = {name: Bitmap(**bitmap) for name, bitmap in report["incomplete_bitmaps"].items()}
    return listed(stream, report["incomplete"], bitmaps)


def listed(name: str, runs: Mapping[str, Sequence[Run]], bitmaps: Mapping[str, Bitmap]) -> NDArray[np.int64]:
    """The events that a report's bitmaps, or else its runs, have under this name, ascending, int64."""
    if name in bitmaps:
        return bitmaps[name].numbers()
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(*run, dtype=np.int64) for run in runs.get(name, ()))])


__all__ = ["MAX_EVENTS", "Bitmap", "events_in", "events_lacking", "listed"]
