"""A dataset's values, or a part of them, as the body of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from beamfold.publish.answers import JSON, OCTETS, Body, packed
from beamfold.publish.hdfrest.select import (
    SelectError,
    at_points,
    fields_of,
    parse_points,
    parse_select,
    points_of,
    select,
)
from beamfold.publish.hdfrest.values import text_bytes, value_json, wire_bytes
from beamfold.publish.leaf import Array, Leaf


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which values: a `select` text, coordinates (bytes or JSON), some fields; None for all of each."""

    select: str | None = None
    points: Any = None
    fields: str | None = None

    @classmethod
    def of_body(cls, body: bytes, media_type: str) -> Wanted:
        """What a POST asks for: coordinates as bytes, or a JSON object with the names of this class."""
        if media_type.lower().startswith(OCTETS):
            return cls(points=body)
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SelectError(f"the body is neither {OCTETS} nor JSON: {error}") from None
        if not isinstance(found, dict):
            raise SelectError('the body is expected to be an object with "select", "points" or "fields"')
        select_, fields = found.get("select"), found.get("fields")
        for name, value in (("select", select_), ("fields", fields)):
            if value is not None and not isinstance(value, str):
                raise SelectError(f'"{name}" is expected to be a text')
        if found.get("points") is None and select_ is None and fields is None:
            raise SelectError('the body names none of "select", "points" and "fields"')
        return cls(select_, found.get("points"), fields)


def read_values(content: Leaf, wanted: Wanted) -> Leaf:
    """The wanted part. Raises SelectError."""
    if wanted == Wanted():
        return content
    if content.array is None:
        raise SelectError("this dataset is null: it has no values to select from")
    part = content.array
    if wanted.points is not None and wanted.select:
        raise SelectError("either points or a select can be asked for")
    if wanted.points is not None:
        part = at_points(part, _points(wanted.points, part))
    elif wanted.select:
        part = select(part, parse_select(wanted.select, part.shape))
    # One element comes without its array, and one text even without a dtype.
    array: Array = np.asarray(part, dtype=content.array.dtype)
    return Leaf(fields_of(array, wanted.fields) if wanted.fields else array, content.text)


def _points(points: Any, array: Array) -> Array:
    return parse_points(points, array.shape) if isinstance(points, bytes) else points_of(points, array.shape)


def values_body(content: Leaf, wanted: Wanted, octets: bool, gzip: bool) -> Body:
    """Body, media type and headers. Raises SelectError.

    What is null or has no elements is JSON in any case: h5pyd takes an answer of no bytes for a broken one.
    """
    found = read_values(content, wanted)
    bare = _bytes(found, wanted.points is not None) if octets else None
    if bare is not None:
        body, media_type = bare, OCTETS
    else:
        body, media_type = msgspec.json.encode({"value": value_json(found)}), JSON
    packed_body, headers = packed(body) if gzip else (body, {})
    return packed_body, media_type, headers


def _bytes(found: Leaf, points: bool) -> bytes | None:
    """The values as bytes, None where they had better be JSON."""
    if found.array is None or not found.array.size:
        return None
    if not found.text:
        return wire_bytes(found.array)
    # Of points, h5pyd 0.24 reads elements of one size only. A text that is no array is as good as JSON, and any
    # length of it is taken then; the JSON of an array is not, because clients want other dimensions in it than
    # they have asked for.
    return None if points or not found.array.ndim else text_bytes(found.array)
