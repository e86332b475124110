"""One published tree with every kind of value that an app may publish, for whoever reads the state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import numpy as np


class Colour(Enum):
    RED = "red"


@dataclass
class Fit:
    centre: float
    names: list[str]


def zoo() -> dict[str, Any]:
    """A new one each time, always with the same content."""
    return {
        "_attrs": {"default": "entry", "title": "Zoo å", "count": 3},
        "entry": {"_attrs": {"NX_class": "NXentry", "default": "image"}, **_nexus()},
        "python": _python(),
        "numbers": _numbers(),
        "text": _text(),
        "structured": _structured(),
        "odd": _odd(),
        "tables": _tables(),
        "empty": {},
        "fit": Fit(1.5, ["a", "b"]),
        "attributed": 1,
        "attributed_attrs": {**_python(), **_numbers(), **_text(), **_structured()},
        "large": np.arange(3),
        "large_attrs": {"long": "x" * 70_000, "many": np.zeros(10_000), "short": 1},
    }


def _nexus() -> dict[str, Any]:
    return {
        "image": {
            "roi1": np.arange(12.0).reshape(3, 4),
            "roi1_attrs": {"units": "counts", "long_name": "Intensität"},
            "x": np.array([0.0, 0.5, 1.0]),
            "x_attrs": {"units": "mm"},
            "y": np.arange(4) * 2.0,
        },
        "image_attrs": {"NX_class": "NXdata", "signal": "roi1", "axes": ["x", "y"], "x_indices": 0},
    }


def _python() -> dict[str, Any]:
    return {
        "none": None,
        "true": True,
        "int": -7,
        "int_large": 2**64 - 1,
        "int_huge": 1 << 70,
        "float": 0.1,
        "nan": float("nan"),
        "infinity": float("inf"),
        "minus_infinity": float("-inf"),
        "complex": 1 + 2j,
        "bytes": b"text",
        "bytes_none": b"",
        "list": [3, 1, 2],
        "list_floats": [0.5, float("nan"), float("inf")],
        "list_holes": [1, None, 3],
        "list_empty": [],
        "list_ragged": [[1], [2, 3]],
        "list_mixed": [1, "a", None],
        "list_nested": [[1, 2], [3, 4]],
        "set": {3, 1, 2},
        "tuple": (1.5, 2.5),
        "enum": Colour.RED,
        "datetime": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "timedelta": timedelta(seconds=1.5),
        "range": range(3),
    }


def _numbers() -> dict[str, Any]:
    kinds = [
        "i1",
        "u1",
        "<i2",
        ">i2",
        "<u2",
        ">u4",
        "<i4",
        "<i8",
        ">i8",
        "<u8",
        "<f2",
        ">f2",
        "<f4",
        ">f4",
        "<f8",
        ">f8",
    ]
    arrays = {f"n_{kind.replace('<', 'le_').replace('>', 'be_')}": np.arange(5).astype(kind) for kind in kinds}
    return arrays | {
        "n_bool": np.array([True, False, True]),
        "n_bool_2d": np.array([[True, False], [False, False]]),
        "n_c8": np.array([1 + 2j, 3, 4j], dtype=np.complex64),
        "n_be_c16": np.array([1 + 2j, complex(np.nan, np.inf)], dtype=">c16"),
        "n_longdouble": np.array([1.5, 2.5], dtype=np.longdouble),
        "n_scalar": np.float32(1.5),
        "n_scalar_bool": np.bool_(True),
        "n_0d": np.array(3, dtype=np.uint16),
        "n_nan": np.array([1.0, np.nan, np.inf, -np.inf]),
        "n_none": np.zeros((0, 3), dtype=np.int32),
        "n_cube": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
        "n_long": np.arange(120).reshape(60, 2),
        "n_fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "n_strided": np.arange(10)[::-3],
    }


def _text() -> dict[str, Any]:
    return {
        "t_text": "å ß 日本",
        "t_empty": "",
        "t_nul": "a\0b",
        "t_surrogate": "\ud800",
        "t_list": ["a", "", "日本"],
        "t_array": np.array([["x", "yy"], ["å", ""]]),
        "t_none": np.array([], dtype="U3"),
        "t_bytes": np.array([b"x", b"yz"]),
        "t_bytes_utf8": np.array(["å".encode(), b"b"]),
        "t_times": np.array(["2024-01-01T00:00:01", "NaT"], dtype="M8[s]"),
        "t_durations": np.array([1500, "NaT"], dtype="m8[ms]"),
    }


def _structured() -> dict[str, Any]:
    pair = np.array([(1, 2.5), (2, np.nan), (3, -1.0)], dtype=[("a", "<i4"), ("b", ">f8")])
    nested = np.zeros(2, dtype=[("p", [("x", "f4"), ("y", "f4")]), ("ok", "?"), ("z", "c16"), ("name", "S3")])
    nested[0] = ((1, 2), True, 1j, b"abc")
    inner = np.zeros(3, dtype=[("spectrum", "<u2", (4,)), ("grid", "f4", (2, 2)), ("n", "i8")])
    inner["spectrum"] = np.arange(12).reshape(3, 4)
    padded = np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))
    padded["b"] = 0.5
    return {
        "s_pair": pair,
        "s_pair_0d": pair[0],
        "s_pair_2d": np.stack([pair, pair]),
        "s_one": np.array([(1,), (2,)], dtype=[("only", "i4")]),
        "s_nested": nested,
        "s_inner": inner,
        "s_padded": padded,
        "s_text": np.array([(1, "x")], dtype=[("a", "i4"), ("b", "U2")]),
    }


def _odd() -> dict[str, Any]:
    return {
        "object": object(),
        "good": 1,
        "good_attrs": {"odd": object(), "dict": {"a": [1, None]}, "slash/name": 2},
        "opaque": b"\xff\0\x01",
        "opaque_attrs": {"opaque": b"\xff\0"},
        "opaque_array": np.array([b"\xff", b"\xfeab"]),
        "sub_bool": np.zeros(2, dtype=[("flags", "?", (2,))]),
        "sub_struct": np.zeros(2, dtype=[("points", [("x", "f4")], (2,))]),
        "named å": np.array([(1, 2)], dtype=[("å", "i4"), ("b:c", "i4")]),
        "a/b": {"x": 1},
        "a%2Fb": 2,
        "with space": 1,
        "quest?ion#": 1,
        "å": {"ß": [1]},
    }


def _tables() -> dict[str, Any]:
    return {
        "positions": {(0.0, 1.5): {"roi1": 1, "roi2": 2.5}, (0.5, 1.5): {"roi1": 3, "roi2": None}},
        "positions_attrs": {"NX_class": "NXdata"},
        "events": {1: 0.5, 2: 1.5, 7: 2.5},
        "mixed": {"name": 1, 3: "three"},
    }
