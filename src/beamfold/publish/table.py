"""Tables: a published dict whose keys are not names (positions, event numbers) as rows of keys and values.

HDF5 has no such dict, so a table is shown there as a group of columns: `keys`, (n, m) for tuples of m items
or (n,) for single ones, and one column per value field, or `values` where the values are not dicts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Column: TypeAlias = np.ndarray[Any, Any]

_SMALL = 1 << 16
"""Characters of an array of texts that may be wasted in any case."""


@dataclass(frozen=True, slots=True)
class Note:
    """Stands where something was published that cannot be shown; `text` says what and why."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """`keys[i]` belongs to `values[i]`; both are plain data, in the order in which the app added them."""

    keys: list[Any]
    values: list[Any]

    def columns(self) -> dict[str, Column]:
        """The table as HDF5 shows it, all columns with n rows.

        Numbers and times keep their dtype; a number missing from a row is NaN, a text "". Nested fields are
        named "outer.inner"; a field called "keys" becomes "keys_". What is not regular becomes text, JSON per
        row.
        """
        columns = {"keys": _key_column(self.keys)}
        for name, column in _value_columns(self.values).items():
            columns["keys_" if name == "keys" else name] = column
        return columns


def _key_column(keys: list[Any]) -> Column:
    widths = {len(key) if isinstance(key, tuple) else None for key in keys}
    if widths == {None} or (len(widths) == 1 and widths.isdisjoint((None, 0))):
        return column(keys)
    return np.array([_text(key) for key in keys], dtype=np.str_)


def _value_columns(values: list[Any]) -> dict[str, Column]:
    present = [value for value in values if value is not None]
    if not present or not all(isinstance(value, dict) for value in present):
        return {"values": column(values)}
    columns: dict[str, Column] = {}
    for field in dict.fromkeys(name for value in present for name in value):
        for inner, found in _value_columns([None if v is None else v.get(field) for v in values]).items():
            name = field if inner == "values" else f"{field}.{inner}"
            columns[name] = found
    return columns


def column(items: list[Any]) -> Column:
    """A list as one array, whatever is in it: never a ragged one, and it never raises.

    Regular numbers, times, texts and arrays of one shape are stacked; None among numbers is NaN. Anything
    else is an array of text with one JSON document per item. Texts are an object array of str where one of them is so
    long that numpy's own array, in which all are as long, would be many times larger than they are.
    """
    found = _stacked(items)
    if found is None and any(item is None for item in items):
        found = _stacked(_filled(items))
    if found is None:
        return _texts([_text(item) for item in items])
    return found


def _texts(items: list[str]) -> Column:
    lengths = list(map(len, items))
    uneven = max(lengths, default=0) * len(items) > 8 * sum(lengths) + _SMALL
    return np.array(items, dtype=object if uneven else np.str_)


def _stacked(items: list[Any]) -> Column | None:
    if items and all(type(item) is str for item in items):
        return _texts(items)
    if len({isinstance(item, str | bytes) for item in items}) > 1:
        return None  # numpy would write the numbers as text, and not as JSON has them
    try:
        array = np.asarray(items)
    except (TypeError, ValueError, OverflowError):  # ragged, or ints beyond every integer dtype
        return None
    return None if array.dtype.hasobject else array


def _filled(items: list[Any]) -> list[Any]:
    """The same with NaN (or "") in the shape of the others for every None."""
    example = next((item for item in items if item is not None), None)
    if isinstance(example, str):
        return ["" if item is None else item for item in items]
    if isinstance(example, dict):
        return items
    try:
        hole: Any = np.full(np.shape(example), np.nan) if example is not None else np.nan
    except ValueError:  # a ragged list
        return items
    return [hole if item is None else item for item in items]


def _text(item: Any) -> str:
    # jsonable needs Table; it is only needed for rows that are irregular.
    from beamfold.publish.jsonable import to_json

    return item if isinstance(item, str) else json.dumps(to_json(item), ensure_ascii=False)
