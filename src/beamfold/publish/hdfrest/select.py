"""Selections: a part of a dataset named by a text, by points, or by fields.

A `select` is one entry per dimension in brackets: "[0:10:2,3,[1,4]]". `start:stop:step` is a slice (the step, and
either end, may be left out), a number one index, whose dimension goes, and an inner list some indices. Where
several dimensions have lists, these are of one length and taken pairwise, as coordinates of points. Nothing is
counted from the end, and nothing beyond it is cut off: who asks for more than there is has an older shape in mind.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np

from beamfold.model.errors import BeamfoldError
from beamfold.publish.hdfrest.types import wire_name
from beamfold.publish.leaf import Array

MAX_RESULT = 64 << 20
"""Bytes that a selection may have in all cases; more only if the dataset has as many: indices may be repeated."""

MAX_SELECT = 16 << 20
"""Characters of a `select`: lists of a few million indices."""

Entry: TypeAlias = slice | int | list[int]

_EXPECTED = 'expected one entry per dimension, like "[0:10:2,3,[1,4]]"'
_LIST = re.compile(r"\[([0-9, ]*)\]")
_SLICE = re.compile(r"([0-9]{0,18}):([0-9]{0,18})(?::([0-9]{0,18}))?")
_INDEX = re.compile(r"[0-9]{1,18}")


class SelectError(BeamfoldError):
    """A selection that the dataset does not have; the text says what was expected."""


def parse_select(text: str, shape: tuple[int, ...]) -> list[Entry]:
    """The entries of a `select` for an array of this shape. Raises SelectError."""
    if len(text) > MAX_SELECT:
        raise SelectError(f"a select has at most {MAX_SELECT} characters; send coordinates instead")
    found = text.strip()
    if not (found.startswith("[") and found.endswith("]")):
        raise SelectError(f"select {_short(text)} is not in brackets: {_EXPECTED}")
    entries = _split(found[1:-1], text)
    if len(entries) != len(shape):
        raise SelectError(f"select {_short(text)} has {len(entries)} entries for {len(shape)} dimensions: {_EXPECTED}")
    parsed = [_entry(entry, extent, n) for n, (entry, extent) in enumerate(zip(entries, shape, strict=True))]
    if len({len(entry) for entry in parsed if isinstance(entry, list)}) > 1:
        raise SelectError(f"select {_short(text)} has lists of different lengths, which are taken pairwise")
    return parsed


def _split(inner: str, text: str) -> list[str]:
    """The entries between the brackets. By hand, because a pattern would need cubic time for a hostile text."""
    unreadable = SelectError(f"select {_short(text)} cannot be read: {_EXPECTED}")
    entries: list[str] = []
    start, inside = 0, False
    for at, sign in enumerate(f"{inner}," if inner else ""):
        if sign == "[" or sign == "]":
            if inside == (sign == "["):
                raise unreadable
            inside = not inside
        elif sign == "," and not inside:
            entry = inner[start:at].strip()
            if not entry:
                raise unreadable
            entries.append(entry)
            start = at + 1
    if inside:
        raise unreadable
    return entries


def _entry(text: str, extent: int, dimension: int) -> Entry:
    if found := _SLICE.fullmatch(text):
        start, stop = int(found[1] or 0), int(found[2] or extent)
        step = int(found[3] or 1)
        if not 0 <= start <= stop <= extent or not step:
            raise SelectError(
                f"{text!r} is no slice of dimension {dimension}, which has {extent}: expected start:stop:step "
                f"with 0 <= start <= stop <= {extent} and 1 <= step"
            )
        return slice(start, stop, step)
    if _INDEX.fullmatch(text):
        return _index(text, extent, dimension)
    if found := _LIST.fullmatch(text):
        return [_index(one.strip(), extent, dimension) for one in found[1].split(",")] if found[1].strip() else []
    raise SelectError(f"{_short(text)} selects nothing: expected start:stop:step, an index, or a list of indices")


def _index(text: str, extent: int, dimension: int) -> int:
    index = int(text) if _INDEX.fullmatch(text) else extent
    if index >= extent:
        raise SelectError(f"{_short(text)} is no index of dimension {dimension}: expected 0 <= index < {extent}")
    return index


def select(array: Array, entries: list[Entry]) -> Array:
    """The selected part: dimensions with an index go, lists share the place of the first of them."""
    _check_size(array, entries)
    simple = array[tuple(slice(None) if isinstance(entry, list) else entry for entry in entries)]
    left = [entry for entry in entries if not isinstance(entry, int)]
    axes = [axis for axis, entry in enumerate(left) if isinstance(entry, list)]
    if not axes:
        return simple
    key: list[Any] = [np.array(e, dtype=np.intp) if isinstance(e, list) else slice(None) for e in left]
    taken = simple[tuple(key)]
    # numpy puts what was indexed first where something else lies between the lists.
    apart = axes[-1] - axes[0] >= len(axes)
    return np.moveaxis(taken, 0, axes[0]) if apart else taken


def _check_size(array: Array, entries: list[Entry]) -> None:
    count, paired = 1, None
    for entry, extent in zip(entries, array.shape, strict=True):
        if isinstance(entry, slice):
            count *= len(range(*entry.indices(extent)))
        elif isinstance(entry, list):
            paired = len(entry)
    _check_count(array, count if paired is None else count * paired)


def _check_count(array: Array, count: int) -> None:
    if count * array.dtype.itemsize > max(array.nbytes, MAX_RESULT):
        raise SelectError(f"{count} elements are selected of {array.size}: expected no more than there are")


def parse_points(body: bytes, shape: tuple[int, ...]) -> Array:
    """Coordinates as h5pyd sends them, little-endian uint64 of shape (n, rank). Raises SelectError."""
    rank = len(shape)
    if not rank or len(body) % (8 * rank):
        raise SelectError(
            f"{len(body)} bytes are no points of {rank} dimensions: expected {8 * rank or 'no'} bytes for each, "
            "a little-endian unsigned 64-bit integer per dimension"
        )
    return _checked(np.frombuffer(body, dtype="<u8").reshape(-1, rank), shape)


def points_of(items: Any, shape: tuple[int, ...]) -> Array:
    """Coordinates from JSON: a list of indices (one dimension) or of lists of them. Raises SelectError."""
    rank = len(shape)
    if not rank:
        raise SelectError("a single value has no dimensions, and so no points in them")
    rows = [[item] if type(item) is int else item for item in items] if isinstance(items, list) else [None]
    for row in rows:
        if not isinstance(row, list) or len(row) != rank or not all(type(i) is int and 0 <= i < 1 << 63 for i in row):
            raise SelectError(f"points are expected as a list of lists of {rank} indices")
    return _checked(np.array(rows, dtype=np.uint64).reshape(len(rows), rank), shape)


def _checked(points: Array, shape: tuple[int, ...]) -> Array:
    beyond = points >= np.array(shape, dtype=np.uint64)
    if beyond.any():
        first = points[beyond.any(axis=1)][0].tolist()
        raise SelectError(f"point {first} lies outside of the shape {list(shape)}")
    return points.astype(np.intp)


def at_points(array: Array, points: Array) -> Array:
    """One element per point, in their order."""
    _check_count(array, len(points))
    found: Array = array[tuple(points.T)]
    return found


def fields_of(array: Array, text: str) -> Array:
    """Only these fields ("a", or "a:b") of a structured array, packed, in the array's order. Raises SelectError."""
    names = {wire_name(name): name for name in array.dtype.names or ()}
    asked = [text] if text in names else text.split(":")
    missing = [name for name in asked if name not in names]
    if missing:
        there = ", ".join(names) or "none"
        raise SelectError(f"there is no field {_short(missing[0])}: expected some of those there are ({there})")
    kept = [real for wire, real in names.items() if wire in asked]
    part = np.empty(array.shape, dtype=[(name, array.dtype[name]) for name in kept])
    for name in kept:
        part[name] = array[name]
    return part


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")
