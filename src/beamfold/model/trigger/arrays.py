"""Small numpy helpers of the trigger maps."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamfold.model.trigger.base import Ints


def ints(values: Any) -> Ints:
    """A sequence of Python ints as int64; raises OverflowError where one does not fit."""
    return np.array(values, dtype=np.int64)


def offsets(counts: NDArray[Any]) -> Ints:
    """[0, c0, c0+c1, ...]: where each of consecutive groups of these sizes begins; then the last's end."""
    out = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def ranges(starts: Ints, counts: Ints) -> Ints:
    """starts[0]..starts[0]+counts[0]-1, starts[1]... : many ranges in one array, without a loop."""
    ends = offsets(counts)
    return np.arange(ends[-1], dtype=np.int64) + np.repeat(starts - ends[:-1], counts)


def pack(array: Ints) -> bytes:
    """int64 values for the wire: differences, little endian, deflated; steps of 1 shrink to nothing."""
    return zlib.compress(np.diff(array, prepend=np.int64(0)).astype("<i8").tobytes(), 1)


def unpack(data: bytes, count: int) -> Ints:
    """Undo `pack`, inflating no more than `count` values; raises ValueError unless there are just as many."""
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data, 8 * count + 1)
    except zlib.error as error:
        raise ValueError(f"packed integers: {error}") from None
    if len(raw) != 8 * count or not inflate.eof:
        raise ValueError(f"packed integers: {count} expected, found something else")
    return np.cumsum(np.frombuffer(raw, dtype="<i8"), dtype=np.int64)
