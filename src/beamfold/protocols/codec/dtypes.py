"""numpy dtypes as msgpack: a string for simple ones, a map for structured ones, a pair for sub-arrays.

"<f8", "|b1", "<M8[ns]", "<U7" as in `dtype.str`; {"names", "formats", "offsets", "itemsize", "titles"?,
"aligned"?}; [base, shape]. Byte order, padding and titles are kept, `dtype.metadata` is not.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from beamfold.model.errors import CodecError

# `numpy.dtype` understands far more strings than `dtype.str` writes (comma lists, Python names, object), and
# warns about some, so what a peer sent is matched first.
_SIMPLE = re.compile(r"[<>|][biufcSUVmM]\d{1,10}(\[\d{0,9}[a-zA-Zμ]{1,7}\])?", re.ASCII)
_MAX_NESTING = 16


def dtype_to_wire(dtype: np.dtype[Any]) -> Any:
    """Raises CodecError for dtypes whose elements are Python objects (object, StringDType)."""
    if dtype.hasobject:
        raise CodecError(
            f"a numpy array of dtype {dtype.str!r} holds Python objects and cannot travel; "
            "return .tolist(), or the array in a fixed dtype (.astype(float), .astype('U'))"
        )
    if dtype.names is not None:
        return _structure_to_wire(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [dtype_to_wire(base), list(shape)]
    if not _SIMPLE.fullmatch(dtype.str):
        raise CodecError(f"numpy dtype {dtype.str!r} cannot travel; convert the array to a standard dtype")
    return dtype.str


def _structure_to_wire(dtype: np.dtype[Any]) -> dict[str, Any]:
    names = dtype.names or ()
    fields: Any = dtype.fields or {}
    wire: dict[str, Any] = {
        "names": list(names),
        "formats": [dtype_to_wire(fields[name][0]) for name in names],
        "offsets": [fields[name][1] for name in names],
        "itemsize": dtype.itemsize,
    }
    titles = [fields[name][2] if len(fields[name]) > 2 else None for name in names]
    if any(title is not None for title in titles):
        if not all(title is None or type(title) is str for title in titles):
            raise CodecError("a structured dtype whose field titles are not strings cannot travel; drop the titles")
        wire["titles"] = titles
    if dtype.isalignedstruct:
        wire["aligned"] = True
    return wire


def dtype_from_wire(wire: Any, nesting: int = 0) -> np.dtype[Any]:
    """Never one with Python objects. Raises CodecError, TypeError or ValueError for what is not a dtype."""
    if type(wire) is str:
        return _simple(wire)
    if nesting >= _MAX_NESTING:
        raise CodecError("a dtype on the wire is nested too deeply")
    if type(wire) is list and len(wire) == 2 and type(wire[1]) is list:
        return np.dtype((dtype_from_wire(wire[0], nesting + 1), tuple(wire[1])))
    if type(wire) is dict and wire.keys() >= {"names", "formats", "offsets", "itemsize"}:
        return _structure_from_wire(wire, nesting)
    raise CodecError("the bytes do not describe a numpy dtype")


@lru_cache(maxsize=256)
def _simple(text: str) -> np.dtype[Any]:
    if not _SIMPLE.fullmatch(text):
        raise CodecError(f"{text[:40]!r} is not a numpy dtype that travels")
    return np.dtype(text)


def _structure_from_wire(wire: dict[str, Any], nesting: int) -> np.dtype[Any]:
    spec: dict[str, Any] = {
        "names": wire["names"],
        "formats": [dtype_from_wire(each, nesting + 1) for each in wire["formats"]],
        "offsets": wire["offsets"],
        "itemsize": wire["itemsize"],
    }
    if "titles" in wire:
        spec["titles"] = wire["titles"]
    make: Any = np.dtype
    made: np.dtype[Any] = make(spec, align=wire.get("aligned") is True)
    return made
