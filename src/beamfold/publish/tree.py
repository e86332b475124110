"""Snapshots of what an app publishes: plain data that no later change of the app's own tree can alter.

A group is a dict with string keys. `name_attrs` beside `name`, if it is a dict, holds the attributes of
`name`; `_attrs` inside a group holds the group's own (at the top: the file's). Attributes stay where the app
put them in a snapshot; `members` and `attributes` tell them from the data. A dict with other keys is a
`Table`; where strings and other keys are mixed, the others are a table called "_others". What cannot be shown
is a `Note`. Leaves are None, bool, int, float, complex, str, bytes, numpy scalars, numpy arrays and lists of
such.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from itertools import chain
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np

from beamfold.protocols.codec import register_type
from beamfold.publish.jsonable import to_json
from beamfold.publish.table import Note, Table

__all__ = ["Group", "Note", "Table", "attributes", "members", "resolve", "snapshot", "to_json"]

Group: TypeAlias = dict[str, Any]

_Trail: TypeAlias = tuple[int, ...]
"""The containers around a value, by id: one that is among them again would be copied for ever."""

_ATTRS = "_attrs"
_MAX_DEPTH = 64
_USER_ERRORS = (Exception, SystemExit)
_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})
_NUMPY_SCALARS = frozenset(set(np.sctypeDict.values()) - {np.object_, np.void})
_IMMUTABLE = _SCALARS | _NUMPY_SCALARS


def snapshot(publish: Any) -> Group | Table:
    """A deep copy of a publish tree as plain data. Arrays are copied; never raises for what is in the tree.

    The caller holds the app's `publish_rlock` meanwhile, if it has one. Dataclasses and pydantic models
    become groups, tuples and sets lists (sets sorted where they can be), enums their plain value or else
    their name, times ISO 8601 text, durations seconds, masked numbers NaN.
    """
    copied = _copy(publish, ())
    if isinstance(copied, dict | Table):
        return copied
    return {} if copied is None else {"publish": copied}


def members(group: Group) -> Group:
    """A group's groups, tables and datasets, without what are attributes of them."""
    return {name: node for name, node in group.items() if not _is_attributes(name, node)}


def _is_attributes(name: str, node: Any) -> bool:
    return name.endswith(_ATTRS) and isinstance(node, dict)


def attributes(group: Group, name: str = "") -> Group:
    """The attributes of one member: its `name_attrs` sibling and, if it is a group, its own `_attrs`.

    Without a name those that the group states itself, which is all there is for the top of the tree.
    """
    beside = group.get(name + _ATTRS)
    inside = group.get(name) if name else None
    found: Group = dict(inside[_ATTRS]) if isinstance(inside, dict) and isinstance(inside.get(_ATTRS), dict) else {}
    return found | beside if isinstance(beside, dict) else found


def resolve(tree: Group | Table, path: str) -> Any:
    """The node at "group/subgroup/name"; "" and "/" are the top. KeyError names a path that is missing.

    A table has "keys" and "values", the lists, and its columns by name. A name that itself has a slash is
    found too.
    """
    node: Any = tree
    pieces = [piece for piece in path.split("/") if piece]
    while pieces:
        node, pieces = _step(node, pieces, path)
    return node


def _step(node: Any, pieces: list[str], path: str) -> tuple[Any, list[str]]:
    inner: Mapping[str, Any] = {}
    if isinstance(node, Table):
        inner = {**node.columns(), "keys": node.keys, "values": node.values}
    elif isinstance(node, dict):
        inner = node
    for n in range(1, len(pieces) + 1):
        name = "/".join(pieces[:n])
        if name in inner:
            return inner[name], pieces[n:]
    raise KeyError(path)


# -- copying -------------------------------------------------------------------------------------------------


def _copy(value: Any, trail: _Trail) -> Any:
    cls = type(value)
    if cls in _IMMUTABLE:
        return value
    if id(value) in trail:
        return Note(f"a {_name(value)} that contains itself")
    if len(trail) > _MAX_DEPTH:
        return Note(f"nested deeper than {_MAX_DEPTH} levels")
    try:
        return _copy_any(value, (*trail, id(value)))
    except _USER_ERRORS as exc:  # copying runs code of the app's own types: what it raises is shown in their place
        why = "".join(traceback.format_exception_only(exc)).strip()
        return Note(f"a {_name(value)} cannot be copied ({why})")


def _copy_any(value: Any, trail: _Trail) -> Any:
    cls = type(value)
    if isinstance(value, np.ndarray):
        return _array(value, trail)
    if isinstance(value, Mapping):
        # One atomic step where it matters, so that the app's timer thread may add keys meanwhile.
        return _mapping(dict(value), trail)
    if cls in (list, tuple, deque):
        return _items(list(value), trail)
    return _rarer(value, trail)


def _items(items: list[Any], trail: _Trail) -> list[Any]:
    if _IMMUTABLE.issuperset(map(type, items)):
        return items
    return [_copy(item, trail) for item in items]


def _array(array: np.ndarray[Any, Any], trail: _Trail) -> Any:
    if isinstance(array, np.ma.MaskedArray):
        array = array.filled(np.nan) if array.dtype.kind in "fc" else array.filled()
    if array.dtype.hasobject:
        return _copy(array.tolist(), trail)
    return np.array(array)


def _mapping(mapping: dict[Any, Any], trail: _Trail) -> Group | Table:
    if {str}.issuperset(map(type, mapping)):
        return {key: _copy(value, trail) for key, value in mapping.items()}
    names = [key for key in mapping if isinstance(key, str)]
    named: Group = {str(name): _copy(mapping[name], trail) for name in names}
    others = {key: mapping[key] for key in mapping if not isinstance(key, str)} if names else mapping
    if not others:
        return named
    table = Table(_keys(list(others), trail), _rows(list(others.values()), trail))
    if not named:
        return table
    name = "_others"
    while name in named:
        name += "_"
    return named | {name: table}


def _keys(keys: list[Any], trail: _Trail) -> list[Any]:
    """The keys of a table. Positions, which are tuples of numbers, stay as they are."""
    if set(map(type, keys)) == {tuple} and _IMMUTABLE.issuperset(map(type, chain.from_iterable(keys))):
        return keys
    return [tuple(_items(list(key), trail)) if type(key) is tuple else _copy(key, trail) for key in keys]


def _rows(values: list[Any], trail: _Trail) -> list[Any]:
    """The values of a table. Dicts of scalars, which a map has very many of, are copied unseen."""
    if set(map(type, values)) == {dict}:
        fields = chain.from_iterable(values)
        inner = chain.from_iterable(map(dict.values, values))
        if {str}.issuperset(map(type, fields)) and _IMMUTABLE.issuperset(map(type, inner)):
            return list(map(dict.copy, values))
    return _items(values, trail)


def _rarer(value: Any, trail: _Trail) -> Any:
    for types, plain in _PLAIN_FORMS:
        if isinstance(value, types):
            return _copy(plain(value), trail)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return _mapping({name: getattr(value, name) for name in fields if hasattr(value, name)}, trail)
    if hasattr(type(value), "__pydantic_fields__"):
        return _mapping(dict(vars(value)), trail)
    if hasattr(type(value), "__array__"):
        return _array(np.array(value), trail)
    return Note(f"a {_name(value)} cannot be published; publish numbers, text, arrays, lists and dicts of them")


def _name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _sorted(items: Any) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


_PLAIN_FORMS: list[tuple[Any, Callable[[Any], Any]]] = [
    (Enum, lambda v: v.value if isinstance(v.value, str | int | float) else v.name),
    (bool, bool),
    (int, int),
    (float, float),
    (complex, complex),
    (str, str),
    (bytes | bytearray, bytes),
    (memoryview, bytes),
    (list | tuple | deque, list),
    (set | frozenset, _sorted),
    (range, lambda v: np.arange(v.start, v.stop, v.step)),
    (datetime | date | time, lambda v: v.isoformat()),
    (timedelta, timedelta.total_seconds),
    (PurePath, str),
    (np.void, np.asarray),
]


# -- on the wire, from the reducer to the publisher's process ------------------------------------------------


def _table(parts: list[Any]) -> Table:
    keys, values = parts
    if type(keys) is not list or type(values) is not list or len(keys) != len(values):
        raise ValueError("a table needs as many values as keys")
    return Table(keys, values)


def _note(parts: list[Any]) -> Note:
    (text,) = parts
    if type(text) is not str:
        raise TypeError("a note is text")
    return Note(text)


register_type("table", Table, lambda table: [table.keys, table.values], _table)
register_type("note", Note, lambda note: [note.text], _note)
