"""A snapshot as what every JSON writer takes."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from beamfold.publish.table import Note, Table

_AS_IS = {type(None), bool}


def to_json(node: Any) -> Any:
    """None, bool, int, finite float, str, list and dict with string keys, all the way down.

    NaN and infinities become null (JSON has no word for them, and plots show null as a gap). Arrays become
    nested lists, structured ones a dict of them by field; complex numbers [real, imaginary]; times ISO 8601
    text, NaT null; durations seconds. Ints beyond 64 bits become text, hexadecimal where they are
    too long for Python to write them in decimals. Bytes become text where they are
    UTF-8, else "base64:" and their base64. Lone surrogates are replaced. A table becomes {"keys": [...],
    "values": [...]}; what could not be published is its note's text.
    """
    cls = type(node)
    if cls in _AS_IS:
        return node
    if cls is int:
        return node if -(1 << 63) <= node < 1 << 64 else long_int(node)
    if cls is float:
        return node if math.isfinite(node) else None
    if cls is str:
        return _text(node)
    if cls is dict:
        return {_text(key): to_json(value) for key, value in node.items()}
    if cls in (list, tuple):
        return _list(node)
    if isinstance(node, np.ndarray):
        return _array(node)
    if isinstance(node, np.generic):
        return _array(np.asarray(node))
    return _rarer(node)


def long_int(number: int) -> str:
    """A number of any length as text: Python refuses to write very long ones in decimals, hexadecimal it does not."""
    try:
        return str(number)
    except ValueError:
        return hex(number)


def _rarer(node: Any) -> Any:
    if isinstance(node, Table):
        return {"keys": _list(node.keys), "values": _list(node.values)}
    if isinstance(node, Note):
        return _text(node.text)
    if isinstance(node, complex):
        return [to_json(node.real), to_json(node.imag)]
    if isinstance(node, bytes):
        return _bytes(node)
    return _text(str(node))


def _list(items: Any) -> list[Any]:
    types = set(map(type, items))
    if types == {float} and all(map(math.isfinite, items)):
        return list(items)
    if types == {int} and min(items) >= -(1 << 63) and max(items) < 1 << 64:
        return list(items)
    return [to_json(item) for item in items]


def _text(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def _bytes(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.names is not None:
        return {name: _array(array[name]) for name in array.dtype.names}
    kind = array.dtype.kind
    if kind in "biu":
        return array.tolist()
    if kind == "f":
        return _floats(array)
    if kind == "c":
        return _floats(np.stack([array.real, array.imag], axis=-1))
    if kind == "m":
        return _floats(seconds(array))
    if kind == "M":
        return _where(iso_times(array), ~np.isnat(array))
    return _each(array.tolist())  # text, bytes, void


def _floats(array: np.ndarray[Any, Any]) -> Any:
    # A wider float would come out as numpy's own scalar type.
    values = array.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    return values.tolist() if finite.all() else _where(values, finite)


def _where(array: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> Any:
    values = array.astype(object)
    return np.where(valid, values, None).tolist()  # type: ignore[call-overload]


def _each(item: Any) -> Any:
    return [_each(one) for one in item] if isinstance(item, list) else to_json(item)


def iso_times(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """datetime64 of any unit as ISO 8601 text of the same shape; NaT as "NaT"."""
    if np.datetime_data(array.dtype)[0] == "generic":  # such an array can hold nothing but NaT
        return np.full(array.shape, "NaT")
    return np.asarray(np.datetime_as_string(array))


def seconds(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """timedelta64 as float64 seconds; NaT as NaN. Months, years and counts without a unit stay counts."""
    if np.datetime_data(array.dtype)[0] in ("generic", "M", "Y"):
        return np.where(np.isnat(array), np.nan, array.astype(np.int64).astype(np.float64))
    return np.asarray(array / np.timedelta64(1, "s"))
