"""Single detector messages, byte for byte as the real detectors write them.

Checked against recorded streams: the order of JSON keys, the separators, the pickle protocols, and the way
NumPy arrays are written inside pickles. Detectors run older NumPy versions than their readers do, so arrays
are named as NumPy 1 names them (`numpy.core.multiarray`), whatever version is installed here.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from beamfold.model.errors import ConfigError
from beamfold.testing.bslz4 import compress

if TYPE_CHECKING:
    from numpy.typing import NDArray

Message: TypeAlias = list[bytes]
"""One ZeroMQ message: its parts."""

Compression: TypeAlias = Literal["none", "bslz4"]

CLOCK_HZ = 80_000_000
"""Xspress3 counts time in ticks of 12.5 ns."""

_TICK_S = 12.5e-9
_EVENT_WIDTH = 6  # ticks that one event keeps the channel busy, as recorded
_RESET_TICKS = 91  # length of one preamplifier reset, as recorded

_NUMPY_2 = b"numpy._core.multiarray"
_NUMPY_1 = b"numpy.core.multiarray"

CONTRAST_HEARTBEAT = pickle.dumps({"status": "heartbeat"}, 4)


# --- STINS --------------------------------------------------------------------------------------------------


def stins_header(filename: str, msg_number: int, meta: Mapping[str, Any] | None = None) -> Message:
    """The message that starts a series; `meta` makes a second part of JSON."""
    parts = [_json({"htype": "header", "filename": filename, "msg_number": msg_number})]
    return parts if meta is None else [*parts, _json(meta)]


def stins_template(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    compression: Compression = "none",
    extra: Mapping[str, Any] | None = None,
    stamp: str | None = None,
) -> bytes:
    """An image's first part with two holes: `template % (frame, msg_number)`.

    `extra` keys (exposure_time, …) come before msg_number; `stamp` names a key after it, with a third hole. Raises
    ConfigError for a dtype that is no number.
    """
    if dtype.kind not in "uif":
        raise ConfigError(f"a detector cannot stream {dtype} frames: use integers or floats")
    before = {"htype": "image", "frame": 0}
    after = {
        "shape": list(shape),
        "type": dtype.newbyteorder("=").name,
        "compression": compression,
        **(extra or {}),
    }
    tail = _json(after)[1:-1].replace(b"%", b"%%")
    stamped = b"" if stamp is None else b", " + _json(stamp).replace(b"%", b"%%") + b": %d"
    return _json(before)[:-2] + b"%d, " + tail + b', "msg_number": %d' + stamped + b"}"


def stins_blob(frame: NDArray[Any], compression: Compression = "none") -> bytes:
    """An image's second part: little-endian pixels in C order, or bslz4 with its 12-byte header."""
    plain = np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<"))
    if compression == "none":
        return plain.tobytes()
    if compression == "bslz4":
        return compress(plain)
    raise ConfigError(f"unknown compression {compression!r}: use none or bslz4")


def stins_end(msg_number: int) -> Message:
    """The message that ends a series."""
    return [_json({"htype": "series_end", "msg_number": msg_number})]


# --- Xspress3 -----------------------------------------------------------------------------------------------


def xspress3_header(filename: str, *, overwritable: bool = False) -> Message:
    """The message that starts a series."""
    return [_compact({"htype": "header", "filename": filename, "overwritable": overwritable})]


def xspress3_image_header(frame: int, shape: Sequence[int], exptime: float) -> bytes:
    """The JSON before a spectrum. `shape` is (channels, bins), `exptime` the real exposure in seconds."""
    rows, bins = shape
    return b'{"htype":"image","exptime":%a,"frame":%d,"shape":[%d,%d],"type":"uint32","compression":"none"}' % (
        exptime,
        frame,
        rows,
        bins,
    )


def xspress3_end() -> Message:
    """The message that ends a series."""
    return [_compact({"htype": "series_end"})]


def real_exposure(exptime: float) -> tuple[float, int]:
    """What the detector reports for a nominal exposure in seconds: (seconds, ticks), ten ticks short."""
    ticks = max(1, round(exptime * CLOCK_HZ) - 10)
    return ticks / CLOCK_HZ, ticks


def xspress3_scalers(spectra: NDArray[np.uint32], ticks: int) -> list[NDArray[Any]]:
    """The 8 arrays of shape (channels,) that belong to these spectra, in the order of the wire.

    ocr float64, AllEvents, AllGood, ClockTicks, TotalTicks, ResetTicks uint32, event_widths int32, dtc
    float64. The formulas for ocr and dtc give exactly the recorded values for the recorded counts. (The
    recorded ocr is too small by the square of the tick: the streamer multiplies where it should divide. We
    send what it sends.)
    """
    good = spectra.sum(axis=1, dtype=np.uint32)
    events = good + good // np.uint32(50)
    # A real detector's dead time stays below its exposure; ours must too, however many counts are asked for.
    limit = np.uint32(ticks // 20)
    busy = np.minimum(events, limit)
    resets = (busy + np.uint32(19)) // np.uint32(20) * np.uint32(_RESET_TICKS)
    resets = np.minimum(resets, np.uint32(ticks // 4))
    total = np.full(len(good), ticks, np.uint32)
    widths = np.full(len(good), _EVENT_WIDTH, np.int32)
    ocr = good / total * _TICK_S
    dtc = total / (total - resets - busy * (widths + 1.0))
    return [ocr, events, good, total, total.copy(), resets, widths, dtc]


def xspress3_pickle(scalers: Sequence[NDArray[Any]]) -> bytes:
    """The third part of an image: a protocol 3 pickle of the list of arrays."""
    out = io.BytesIO()
    _OldDtypePickler(out, 3).dump(list(scalers))
    return _as_numpy_1(out.getvalue())


class _OldDtypePickler(pickle.Pickler):
    """Writes a dtype's two flags as the integers 0 and 1, as the NumPy beside the detector does."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.dtype):
            return NotImplemented
        reduced: Any = obj.__reduce__()
        constructor, args, state = reduced
        return constructor, (args[0], *map(int, args[1:])), state


# --- Contrast -----------------------------------------------------------------------------------------------


def contrast_message(record: Mapping[str, Any]) -> Message:
    """One record as Contrast sends it: a protocol 2 pickle of the mapping itself (dict or OrderedDict)."""
    return [_as_numpy_1(pickle.dumps(record, 2))]


def _as_numpy_1(pickled: bytes) -> bytes:
    # The name stands once, before the first array's bytes: later arrays refer to it. So the first match is
    # it.
    return pickled.replace(_NUMPY_2, _NUMPY_1, 1)


def _json(value: Mapping[str, Any] | str) -> bytes:
    return json.dumps(value).encode()


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
