"""An array of the state as bytes, for who would rather not parse JSON: bare, or as a .npy file."""

from __future__ import annotations

import io
import json
from typing import Any, Literal, TypeAlias

import numpy as np

from beamfold.model.errors import BeamfoldError
from beamfold.publish.answers import OCTETS, Body
from beamfold.publish.leaf import Array, DType, leaf
from beamfold.publish.table import Note, Table

NPY = "application/x-npy"

Form: TypeAlias = Literal["json", "raw", "npy"]

DTYPE_HEADER = "X-Beamfold-Dtype"
SHAPE_HEADER = "X-Beamfold-Shape"


class NoArray(BeamfoldError):
    """What was asked for has no bytes of its own; the text says what it is."""


def raw(node: Any, form: Form) -> Body:
    """Body, media type and headers of an array, a number or a list of numbers. Raises NoArray.

    Elements are little-endian and in C order, whatever the app has. The headers name dtype ("<f8"; a JSON list
    of fields for a structured one, as numpy's `descr` has it) and shape ("2,3"; "" for a single number).
    """
    array = _array(node)
    array = np.ascontiguousarray(array, dtype=_little(array.dtype)).reshape(array.shape)
    described = np.lib.format.dtype_to_descr(array.dtype)
    headers = {
        DTYPE_HEADER: described if isinstance(described, str) else json.dumps(described),
        SHAPE_HEADER: ",".join(map(str, array.shape)),
    }
    if form == "raw":
        return array.tobytes(), OCTETS, headers
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue(), NPY, headers


def _array(node: Any) -> Array:
    if isinstance(node, dict | Table):
        raise NoArray("this is a group or a table, and no array: ask for one of its members, or for JSON")
    if isinstance(node, Note):
        raise NoArray(f"this is no array: {node.text}")
    content = leaf(node)
    if content.array is None or content.text:
        raise NoArray("this is text, or nothing, and no array of numbers: ask for JSON")
    return content.array


def _little(dtype: DType) -> DType:
    return dtype.newbyteorder("<")
