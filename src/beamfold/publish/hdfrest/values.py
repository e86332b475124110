"""Values on the wire: JSON as h5pyd reads it back, and bytes.

JSON here is not that of /api/v1/state, where people read it: a structured element is a list and not a dict, and
NaN and the infinities are texts, "NaN", "Infinity" and "-Infinity": JSON has no word for them, and numpy, which
all clients hand the list to together with the dtype, makes of these texts the numbers that they name.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from beamfold.publish.leaf import Array, Leaf

MAX_TEXT = 1_000_000
"""Bytes of a text that h5pyd 1.0 takes among bytes."""

_WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}


def value_json(leaf: Leaf) -> Any:
    """A leaf's content as JSON: nested lists of its shape, the element alone where it is scalar, None for null."""
    if leaf.array is None:
        return None
    if leaf.text:
        return leaf.array.tolist()
    return array_json(leaf.array)


def array_json(array: Array) -> Any:
    """The same for an array of numbers, bytes or structures."""
    dtype = array.dtype
    if dtype.names is not None:
        flat = array.reshape(-1)
        columns = [array_json(flat[name]) for name in dtype.names]
        return _nested([list(row) for row in zip(*columns, strict=True)], array.shape)
    if dtype.kind == "f":
        return _floats(array)
    if dtype.kind == "c":
        return _floats(np.stack([array.real, array.imag], axis=-1))
    if dtype.kind in "SV":
        text = _ascii if dtype.kind == "S" else _base64
        return _nested([text(item, dtype.itemsize) for item in array.reshape(-1)], array.shape)
    return array.tolist()


def wire_bytes(array: Array) -> bytes:
    """The elements in C order, each as its dtype says."""
    return np.ascontiguousarray(array).tobytes()


def text_bytes(array: Array) -> bytes | None:
    """Texts in C order, each as its length in bytes (little-endian uint32) and UTF-8; None if one is too long."""
    texts = [text.encode() for text in array.reshape(-1).tolist()]
    if max(map(len, texts), default=0) > MAX_TEXT:
        return None
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))


def _floats(array: Array) -> Any:
    values = array.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return values.tolist()
    items = values.astype(object)
    items[~finite] = [_WORDS.get(value, "NaN") for value in values[~finite].tolist()]
    return items.tolist()


def _ascii(item: Any, _size: int) -> str:
    # A client makes fixed bytes of it again, and can only do so with ASCII.
    return bytes(item).decode("ascii", "replace").replace("�", "?")


def _base64(item: Any, _size: int) -> str:
    return base64.b64encode(item.tobytes()).decode()


def _nested(items: list[Any], shape: tuple[int, ...]) -> Any:
    """A flat list as nested ones of this shape."""
    return np.fromiter(items, dtype=object, count=len(items)).reshape(shape).tolist()
