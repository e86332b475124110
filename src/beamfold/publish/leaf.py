"""What HDF5 holds for one published value: the one rule for the file and for HDF over HTTP.

Numbers, booleans, complex numbers and structured arrays of them stay what they are. Text is variable-length
UTF-8. What HDF5 has no type for is the nearest thing that it has: times are ISO 8601 text, durations seconds,
ints beyond 64 bits their digits (hexadecimal ones where they are very many), irregular lists JSON text per item, and a
structured array with text or times in it one JSON text. The conversion is total: it raises for nothing that a snapshot
holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from beamfold.publish.jsonable import iso_times, long_int, seconds, to_json
from beamfold.publish.table import column

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]

MAX_RANK = 32
"""Dimensions of an HDF5 dataspace; numpy has up to 64."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """One dataset's or attribute's content.

    `array` is None for a null dataspace; an object array of str, without NUL and lone surrogates, where `text`
    is true; else an array of kind b, i, u, f (at most 8 bytes), c (at most 16), S (ASCII), V (opaque), or
    structured and packed. It is the snapshot's own array wherever that fits, so it must not be written to.
    """

    array: Array | None
    text: bool = False

    @property
    def size(self) -> int:
        """Bytes that HDF5 needs where the content is kept in an object header."""
        if self.array is None:
            return 0
        if not self.text:
            return self.array.nbytes
        # A single text lies there itself; of many, sixteen bytes each, wherever the text itself lies.
        return len(self.array.item().encode()) if self.array.ndim == 0 else 16 * self.array.size


def leaf(value: Any) -> Leaf:
    """The HDF5 form of any value of a snapshot that is no group, table or note."""
    if value is None or (isinstance(value, bytes) and not value):
        return Leaf(None)
    if isinstance(value, str):
        return _texts(np.array(value, dtype=object))
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return _texts(np.array(long_int(value), dtype=object))
    return _array(column(list(value)) if isinstance(value, list | tuple) else np.asarray(value))


def clean(text: str) -> str:
    """Text that HDF5 can hold: no NUL, no lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _texts(array: Array) -> Leaf:
    texts = np.empty(array.shape, dtype=object)
    flat = texts.reshape(-1)
    flat[:] = [clean(str(text)) for text in array.reshape(-1).tolist()]
    return Leaf(texts, text=True)


def _bytes(value: bytes) -> Leaf:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Leaf(np.array(np.void(value)))
    return _texts(np.array(text, dtype=object))


def _array(array: Array) -> Leaf:
    kind = array.dtype.kind
    if kind == "O":  # texts of very different lengths
        return _texts(array)
    if array.ndim > MAX_RANK or not _fits(array.dtype):
        return _rarer(array, kind)
    if kind == "S":
        return _fixed(array)
    portable = _portable(array.dtype)
    if portable != array.dtype:
        with np.errstate(over="ignore"):  # beyond the range of a double is infinite
            array = array.astype(portable)
    return Leaf(array)


def _rarer(array: Array, kind: str) -> Leaf:
    if array.ndim > MAX_RANK or array.dtype.names is not None:
        return _texts(np.array(json.dumps(to_json(array), ensure_ascii=False), dtype=object))
    if kind == "M":
        return _texts(iso_times(array))
    if kind == "m":
        return Leaf(np.asarray(seconds(array)))
    if kind == "U":
        return _texts(array)
    return Leaf(np.zeros(array.shape, "S1"))  # bytes of no length


def _fixed(array: Array) -> Leaf:
    """Byte strings: of fixed length while they are ASCII, for which alone HDF5 is clear what they are."""
    packed = np.ascontiguousarray(array)
    if not packed.size or packed.reshape(-1).view(np.uint8).max() < 0x80:
        return Leaf(array)
    try:
        return _texts(np.char.decode(array, "utf-8"))
    except UnicodeDecodeError:
        return Leaf(packed.view(f"V{array.dtype.itemsize}").reshape(array.shape))


def _fits(dtype: DType) -> bool:
    """Whether HDF5 has a type for this: no text, no times, no fields or bytes of no length."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return 0 not in shape and _fits(base)
    if dtype.names is not None:
        named = all(name and "\0" not in name for name in dtype.names)  # HDF5 has them as C does
        return bool(dtype.names) and named and all(_fits_inside(dtype[name]) for name in dtype.names)
    return dtype.kind in "biufcSV" and dtype.itemsize > 0


def _fits_inside(dtype: DType) -> bool:
    return _fits(dtype) and (dtype.base.kind != "V" or dtype.base.names is not None)


def _portable(dtype: DType) -> DType:
    """The same without padding, and without the wider floats that each machine has its own of."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_portable(base), shape))
    if dtype.names is not None:
        return np.dtype([(name, _portable(dtype[name])) for name in dtype.names])
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    if dtype.kind == "c" and dtype.itemsize > 16:
        return np.dtype(np.complex128)
    return dtype
