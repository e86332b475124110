"""Whole series of detector messages: pure generators, no sockets, no clocks.

Each yields one list of parts per ZeroMQ message, in the order and with the bytes of the real detector. Feed
them to a framer in a unit test, or to a `StreamSender` to make a detector of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from beamfold.model.errors import ConfigError
from beamfold.testing import wire
from beamfold.testing.wire import Compression, Message

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stins_series(
    frames: Iterable[NDArray[Any]],
    *,
    first_msg: int = 0,
    base: int = 0,
    compression: Compression = "none",
    filename: str = "simulated.h5",
    meta: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Message]:
    """A STINS series: header, one image per array (any number type and shape), series_end.

    Frames are numbered from `base` (0, 1, or whatever a detector that goes on counting has reached), messages
    from `first_msg` (a receiver counts on over series: the next one starts at `first_msg` + messages of this
    one). `meta` becomes the header's optional second part, `extra` further keys of every image.
    """
    yield wire.stins_header(filename, first_msg, meta)
    templates: dict[tuple[tuple[int, ...], np.dtype[Any]], bytes] = {}
    msg = first_msg
    for index, frame in enumerate(frames):
        msg += 1
        key = (frame.shape, frame.dtype)
        template = templates.get(key)
        if template is None:
            template = templates[key] = wire.stins_template(frame.shape, frame.dtype, compression, extra)
        yield [template % (base + index, msg), wire.stins_blob(frame, compression)]
    yield wire.stins_end(msg + 1)


def xspress3_series(
    spectra: Iterable[NDArray[np.uint32]],
    *,
    filename: str = "/data/simulated/scan_000001_xspress3.hdf5",
    exptime: float = 0.1,
    base: int = 0,
    framing: Literal["single", "multipart"] = "single",
    overwritable: bool = False,
) -> Iterator[Message]:
    """An Xspress3 series: header, images of shape (channels, bins) uint32, series_end.

    `exptime` is the nominal exposure in seconds. `framing`: "single" sends an image as three messages of one
    part (older streamers; 3 N + 2 messages in all), "multipart" as one message of three parts (N + 2).
    """
    if framing not in ("single", "multipart"):
        raise ConfigError(f"unknown Xspress3 framing {framing!r}: use single or multipart")
    yield wire.xspress3_header(filename, overwritable=overwritable)
    seconds, ticks = wire.real_exposure(exptime)
    for frame, spectrum in enumerate(spectra, base):
        header = wire.xspress3_image_header(frame, spectrum.shape, seconds)
        blob = spectrum.astype("<u4", copy=False).tobytes()
        scalers = wire.xspress3_pickle(wire.xspress3_scalers(spectrum, ticks))
        if framing == "multipart":
            yield [header, blob, scalers]
        else:
            yield [header]
            yield [blob]
            yield [scalers]
    yield wire.xspress3_end()


def contrast_series(
    points: Iterable[Mapping[str, Any]],
    *,
    scannr: int = 1,
    path: str = "/data/simulated",
    description: str = "",
    snapshot: Mapping[str, Any] | None = None,
    period: float = 0.1,
    heartbeats: int = 0,
    ending: Literal["finished", "interrupted"] = "finished",
) -> Iterator[Message]:
    """A Contrast scan: started, one running record per point, finished (or interrupted).

    A point maps names of motors and detectors to what they read; `dt` (seconds since the start, one `period`
    per point) and `status` are added. `heartbeats` 0: none; n: one before the scan, one after every n points,
    one after the scan. `snapshot` holds all motors' positions.
    """
    if ending not in ("finished", "interrupted"):
        raise ConfigError(f"unknown ending {ending!r}: a Contrast scan is finished or interrupted")
    heartbeat = [wire.CONTRAST_HEARTBEAT]

    def frame_of_scan(status: str) -> Message:
        record = {"scannr": scannr, "status": status, "path": path}
        return wire.contrast_message({**record, "snapshot": dict(snapshot or {}), "description": description})

    if heartbeats:
        yield heartbeat
    yield frame_of_scan("started")
    for number, point in enumerate(points, 1):
        yield wire.contrast_message(OrderedDict(point, dt=number * period, status="running"))
        if heartbeats and number % heartbeats == 0:
            yield heartbeat
    yield frame_of_scan(ending)
    if heartbeats:
        yield heartbeat
