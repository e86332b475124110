"""HDF types and shapes in the words of the HDF REST API.

The API is described at https://github.com/HDFGroup/hdf-rest-api. h5pyd 0.24 and 1.0 differ in what they take:
an enum needs `mapping` for the one and `members` for the other, both want ASCII names of fields, and 0.24 takes
arrays within a compound of numbers and texts only.
"""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np

from beamfold.publish.leaf import DType, Leaf

Json: TypeAlias = dict[str, Any]

TEXT: Json = {
    "class": "H5T_STRING",
    "charSet": "H5T_CSET_UTF8",
    "strPad": "H5T_STR_NULLTERM",
    "length": "H5T_VARIABLE",
}

NULL_TYPE: Json = {"class": "H5T_FLOAT", "base": "H5T_IEEE_F32LE"}
"""What a null dataspace is said to have no values of; h5py.Empty("f4") in the file."""

_BYTE: Json = {"class": "H5T_INTEGER", "base": "H5T_STD_I8LE"}

_PREFIXES = {"i": ("H5T_INTEGER", "H5T_STD_I"), "u": ("H5T_INTEGER", "H5T_STD_U"), "f": ("H5T_FLOAT", "H5T_IEEE_F")}


def shape_json(leaf: Leaf) -> Json:
    """The dataspace: null, scalar, or simple with `dims`."""
    if leaf.array is None:
        return {"class": "H5S_NULL"}
    if not leaf.array.ndim:
        return {"class": "H5S_SCALAR"}
    return {"class": "H5S_SIMPLE", "dims": list(leaf.array.shape)}


def type_json(leaf: Leaf) -> Json:
    """The type of a leaf's elements."""
    if leaf.array is None:
        return NULL_TYPE
    return TEXT if leaf.text else dtype_json(leaf.array.dtype)


def dtype_json(dtype: DType) -> Json:
    """The type for a numpy dtype as a `Leaf` may have it; byte order is told, not changed."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        # Neither client takes an array of enums; its bytes are those of an array of small integers.
        of = _BYTE if base.kind == "b" else dtype_json(base)
        return {"class": "H5T_ARRAY", "base": of, "dims": list(shape)}
    if dtype.names is not None:
        fields = [{"name": wire_name(name), "type": dtype_json(dtype[name])} for name in dtype.names]
        return {"class": "H5T_COMPOUND", "fields": fields}
    kind, size = dtype.kind, dtype.itemsize
    if kind in _PREFIXES:
        found, prefix = _PREFIXES[kind]
        return {"class": found, "base": f"{prefix}{8 * size}{_order(dtype)}"}
    if kind == "b":
        return _bool()
    if kind == "c":
        part = {"class": "H5T_FLOAT", "base": f"H5T_IEEE_F{4 * size}{_order(dtype)}"}
        return {"class": "H5T_COMPOUND", "fields": [{"name": name, "type": part} for name in ("r", "i")]}
    if kind == "S":
        return {"class": "H5T_STRING", "charSet": "H5T_CSET_ASCII", "strPad": "H5T_STR_NULLPAD", "length": size}
    return {"class": "H5T_OPAQUE", "size": size}


def wire_name(name: str) -> str:
    """A field's name in a type: percent-encoded where clients would not take it, or could not ask for it."""
    # The colon stands between names when several fields are asked for.
    return name if name.isascii() and ":" not in name else quote(name, safe=" !#$&'()*+,/;=?@[]")


def _bool() -> Json:
    return {
        "class": "H5T_ENUM",
        "base": _BYTE,
        "mapping": {"FALSE": 0, "TRUE": 1},
        "members": [{"name": "FALSE", "value": 0}, {"name": "TRUE", "value": 1}],
    }


def _order(dtype: DType) -> str:
    # dtype.str has the order in full, where dtype.byteorder says "native" or, of single bytes, nothing.
    return "BE" if np.dtype(dtype).str[0] == ">" else "LE"
