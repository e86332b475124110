"""Pixel data: from a header's type, shape and compression, and a blob, to an array.

Everything is checked before a byte is reserved: type and shape come from the network, and the decompressor is
C.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from dectris.compression import decompress
from numpy.typing import NDArray

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer

_TYPE = re.compile(r"u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|bool|[<>|=]?([iu][1248]|f[248]|b1|c8|c16)")
_MAX_DIMENSIONS = 16
_HEADER_BYTES = 12
_LZ4_RATIO = 255
"""No LZ4 block expands to more than this many times its size."""
_MAX_BLOCK_BYTES = 1 << 24
"""Writers use 8 KiB; a block beyond 16 MiB is a damaged header."""


def image_array(header: Mapping[str, Any], blob: Buffer, what: str) -> NDArray[np.generic]:
    """The array that `header` (keys type, shape and perhaps compression "none" or "bslz4") says `blob` holds.

    Uncompressed data comes back as a read-only view of `blob`, compressed data as a new read-only array, in C
    order, in the dtype and shape (slowest axis first) of the header. Raises MalformedFrame, beginning with
    `what`, where the header is not usable or the bytes are not what it says.
    """
    dtype = _dtype(header.get("type"), what)
    shape = _shape(header.get("shape"), what)
    compression = header.get("compression", "none")
    size = math.prod(shape) * dtype.itemsize
    if compression == "none":
        if len(blob) != size:
            raise MalformedFrame(
                f"{what}: shape {list(shape)} of {dtype} is {size} bytes, the message part has {len(blob)}"
            )
        data: Buffer = blob
    elif compression == "bslz4":
        data = _unpack_bslz4(blob, size, dtype, what)
    else:
        raise MalformedFrame(f"{what}: compression must be 'none' or 'bslz4', found {compression!r}"[:300])
    try:
        array = np.frombuffer(data, dtype).reshape(shape) if size else np.empty(shape, dtype)
    except ValueError as error:  # no address space for an array with an axis of 0 and others huge
        raise MalformedFrame(f"{what}: no array can have shape {list(shape)} ({error})"[:300]) from None
    array.flags.writeable = False
    return array


def _dtype(name: object, what: str) -> np.dtype[Any]:
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise MalformedFrame(f"{what}: type must name a number type such as 'uint32', found {name!r}"[:300])
    return np.dtype(name)


def _shape(shape: object, what: str) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise MalformedFrame(f"{what}: shape must be a list of whole numbers, found {shape!r}"[:300])
    return tuple(shape)


def _unpack_bslz4(blob: Buffer, size: int, dtype: np.dtype[Any], what: str) -> bytes:
    """Decompress what the HDF5 bitshuffle filter writes.

    Layout (checked on frames of real detectors): uint64 BE uncompressed bytes, uint32 BE bytes per block,
    then per block uint32 BE length and an LZ4 block of bit-transposed elements; the last block holds a
    multiple of 8 elements and the remaining 0..7 elements follow as they are.
    """
    _check_bslz4(blob, size, dtype.itemsize, what)
    if not size:
        return b""
    try:
        data: bytes = decompress(blob, "bslz4", elem_size=dtype.itemsize)
    except (RuntimeError, ValueError) as error:
        raise MalformedFrame(f"{what}: the bslz4 data is damaged ({error})") from None
    if len(data) != size:
        raise MalformedFrame(f"{what}: the bslz4 data unpacks to {len(data)} bytes instead of {size}")
    return data


def _check_bslz4(blob: Buffer, size: int, itemsize: int, what: str) -> None:
    """Every length in the blob agrees with the header and with the blob's end; MalformedFrame if not."""
    if len(blob) < _HEADER_BYTES:
        raise MalformedFrame(f"{what}: bslz4 data begins with 12 bytes of header, found {len(blob)} bytes in all")
    claimed, block = int.from_bytes(blob[:8], "big"), int.from_bytes(blob[8:12], "big")
    if claimed != size:
        raise MalformedFrame(
            f"{what}: type and shape make {size} bytes, the 12-byte header of the bslz4 data says {claimed} "
            "(data written without that header cannot be read)"
        )
    if size > _LZ4_RATIO * len(blob):
        raise MalformedFrame(f"{what}: {size} bytes cannot come out of {len(blob)} bytes of bslz4 data")
    if not 0 < block <= _MAX_BLOCK_BYTES or block % (8 * itemsize):
        raise MalformedFrame(f"{what}: the bslz4 header names blocks of {block} bytes, usual are 8192")
    tail = size % (8 * itemsize)
    blocks = -(-(size - tail) // block)
    at = _HEADER_BYTES
    for index in range(blocks):
        at += 4 + int.from_bytes(blob[at : at + 4], "big")
        if at > len(blob):
            raise MalformedFrame(
                f"{what}: the bslz4 data is cut short: block {index + 1} of {blocks} ends at byte {at} of {len(blob)}"
            )
    if at + tail != len(blob):
        raise MalformedFrame(f"{what}: the bslz4 data should end at byte {at + tail}, it has {len(blob)}")
