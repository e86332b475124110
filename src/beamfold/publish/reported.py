"""A scan's report as a tree that can be written beside the published state: for people who open the result file.

Numbers and texts are attributes, lists datasets, mappings groups, under the names that they have in the report. Of a
list of entries every key is a dataset, all of the same length; runs of events are integers of shape (n, 2), each half
open. A bitmap is a dataset of its bytes, to be read with `np.unpackbits`. What is empty is left out. Programs that know
the report as JSON find that under `json`, whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beamfold.model.bitmaps import Bitmap
from beamfold.publish.tree import Group

REPORT = "beamfold_report"
"""The group's name."""

_BITMAPS = ("bitmaps", "incomplete_bitmaps")

_PLAIN = str | int | float


def report_tree(report: Mapping[str, Any]) -> Group:
    """The report, which is JSON-able, as such a tree."""
    plain = {key: value for key, value in report.items() if key not in _BITMAPS}
    tree = _group(plain)
    tree["_attrs"] = {"NX_class": "NXcollection", **tree["_attrs"]}
    for key in _BITMAPS:
        if bitmaps := {name: Bitmap(**bitmap) for name, bitmap in report.get(key, {}).items()}:
            about = {f"{name}_attrs": {"first_event": b.first, "events": b.events} for name, b in bitmaps.items()}
            tree[key] = {**{name: bitmap.packed for name, bitmap in bitmaps.items()}, **about}
    tree["json"] = json.dumps(report)
    return tree


def _group(mapping: Mapping[str, Any]) -> Group:
    attrs = {key: value for key, value in mapping.items() if isinstance(value, _PLAIN)}
    groups = {key: _group(value) for key, value in mapping.items() if isinstance(value, Mapping) and value}
    lists = {key: _listed(value) for key, value in mapping.items() if isinstance(value, list | tuple) and value}
    return {"_attrs": attrs, **groups, **lists}


def _listed(items: Sequence[Any]) -> Any:
    if isinstance(items[0], Mapping):
        return {key: _column([item[key] for item in items]) for key in items[0]}
    return np.array(items, dtype=np.int64) if not isinstance(items[0], str) else list(items)


def _column(values: Sequence[Any]) -> list[Any]:
    return [value if isinstance(value, _PLAIN) else json.dumps(value) for value in values]


__all__ = ["REPORT", "report_tree"]
