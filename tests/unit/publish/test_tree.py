"""A snapshot is plain, complete and untouchable; as JSON it is what every reader takes."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from beamfold.protocols.codec import decode, encode
from beamfold.publish.leaf import leaf
from beamfold.publish.tree import Note, Table, attributes, members, resolve, snapshot, to_json


@dataclass
class Fit:
    peak: float
    curve: Any = None


class Model(BaseModel):
    width: float


class Shutter(Enum):
    OPEN = (1, 2)


class Mode(StrEnum):
    FLY = "fly"


class Odd:
    pass


class Array:
    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        if self.broken:
            raise RuntimeError("no data")
        return np.arange(3)


def test_no_later_change_reaches_a_snapshot() -> None:
    tree: dict[str, Any] = {
        "image": np.zeros(3),
        "map": {(1, 2): {"roi1": 3}},
        "spectra": {(0, 0): np.zeros(2)},
        "deep": {"list": [1, [2, np.zeros(1)]], "image_attrs": {"units": ["mm"]}},
        "objects": np.array([[1], None], dtype=object),
    }
    copied = snapshot(tree)
    before = to_json(copied)
    tree["image"] += 1
    tree["map"][(1, 2)]["roi1"] = 4
    tree["map"][(3, 4)] = {}
    tree["spectra"][(0, 0)] += 1
    tree["deep"]["list"][1][1] += 1
    tree["deep"]["list"].append(3)
    tree["deep"]["image_attrs"]["units"].append("um")
    tree["objects"][0].append(2)
    tree["new"] = 1
    assert to_json(copied) == before
    assert before["map"] == {"keys": [[1, 2]], "values": [{"roi1": 3}]}


def test_a_dict_of_positions_is_a_table() -> None:
    tree = snapshot({"map": {(1.0, 2.0): {"roi1": np.uint64(3)}, (1.5, 2.0): {"roi1": np.uint64(4)}}})
    assert tree["map"] == Table([(1.0, 2.0), (1.5, 2.0)], [{"roi1": 3}, {"roi1": 4}])
    columns = tree["map"].columns()
    assert columns["keys"].tolist() == [[1.0, 2.0], [1.5, 2.0]]
    assert columns["roi1"].dtype == np.uint64


def test_a_whole_tree_may_be_a_table_and_an_empty_one_is_a_group() -> None:
    assert snapshot({5: "x"}) == Table([5], ["x"])
    assert snapshot({"map": {}}) == {"map": {}}
    assert snapshot(None) == {}
    assert snapshot(3) == {"publish": 3}


def test_other_keys_beside_names_are_not_lost() -> None:
    tree = snapshot({"a": 1, 5: "x", "_others": 2})
    assert tree == {"a": 1, "_others": 2, "_others_": Table([5], ["x"])}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        (deque([1]), [1]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset([1, "a"]), ["a", 1]),
        (range(3), np.arange(3)),
        (defaultdict(int, a=1), {"a": 1}),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (Fit(1.0, (2,)), {"peak": 1.0, "curve": [2]}),
        (Model(width=2), {"width": 2.0}),
        (Shutter.OPEN, "OPEN"),
        (Mode.FLY, "fly"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (timedelta(seconds=1.5), 1.5),
        (Path("a/b"), "a/b"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), np.array([1.0, np.nan])),
        (np.array([1, None], dtype=object), [1, None]),
        (Array(), np.arange(3)),
        (np.void(b"ab"), np.array(np.void(b"ab"))),
        (True, True),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_apps_publish_becomes_plain(value: Any, plain: Any) -> None:
    copied = snapshot({"x": value})["x"]
    assert type(copied) is type(plain)
    if isinstance(plain, np.ndarray):
        assert copied.tobytes() == plain.tobytes()
    else:
        assert copied == plain


@pytest.mark.parametrize("odd", [Odd(), Odd, math, lambda: 1, Array(broken=True)], ids=repr)
def test_what_cannot_be_published_is_a_note_and_the_rest_is_there(odd: Any) -> None:
    tree = snapshot({"odd": odd, "list": [1, odd], "good": 2})
    assert isinstance(tree["odd"], Note)
    assert tree["list"][0] == 1
    assert tree["good"] == 2
    assert to_json(tree)["odd"] == tree["odd"].text


def test_a_tree_that_contains_itself_ends() -> None:
    tree: dict[str, Any] = {"a": 1}
    tree["self"] = tree
    tree["list"] = [tree["a"]]
    node = snapshot(tree)
    while isinstance(node, dict):
        node = node["self"]
    assert "contains itself" in node.text


# -- attributes and paths ------------------------------------------------------------------------------------

NEXUS = {
    "_attrs": {"default": "map"},
    "map": {"x": np.arange(3), "x_attrs": {"units": "mm"}, "_attrs": {"signal": "own", "title": "t"}},
    "map_attrs": {"NX_class": "NXdata", "signal": "x"},
    "gone_attrs": {"units": "s"},
    "my_attrs": 5,
    "orphan_attrs": {(1,): 2},
}


def test_attributes_are_told_from_members() -> None:
    tree = snapshot(NEXUS)
    assert isinstance(tree, dict)
    assert list(members(tree)) == ["map", "my_attrs", "orphan_attrs"]
    assert attributes(tree) == {"default": "map"}
    assert attributes(tree, "map") == {"NX_class": "NXdata", "signal": "x", "title": "t"}
    assert attributes(tree["map"], "x") == {"units": "mm"}
    assert attributes(tree, "my_attrs") == attributes(tree["map"], "nothing") == {}


def test_paths_reach_every_node() -> None:
    tree = snapshot({"a": {"c/e": {"d": 1}, "b": 2}, "map": {(1, 2): {"roi1": 5}}})
    assert resolve(tree, "") is resolve(tree, "/") is tree
    assert resolve(tree, "/a/b") == 2
    assert resolve(tree, "a/c/e/d") == 1
    assert resolve(tree, "map/keys") == [(1, 2)]
    assert resolve(tree, "map/values") == [{"roi1": 5}]
    assert resolve(tree, "map/roi1").tolist() == [5]
    for path in ("x", "a/x", "a/b/x", "map/x", "map/keys/0"):
        with pytest.raises(KeyError, match=path):
            resolve(tree, path)


# -- columns -------------------------------------------------------------------------------------------------


def columns(keys: list[Any], values: list[Any]) -> dict[str, Any]:
    found = Table(keys, values).columns()
    assert {len(column) for column in found.values()} <= {len(keys)}
    assert not any(column.dtype.hasobject for column in found.values())
    return {name: column.tolist() for name, column in found.items()}


def test_columns_of_regular_tables() -> None:
    assert columns([1, 2], [1.5, 2.5]) == {"keys": [1, 2], "values": [1.5, 2.5]}
    assert columns(["a", (1, 2)], [1, 2])["keys"] == ["a", "[1, 2]"]
    assert columns([(1, 2), (1, 2, 3)], [1, 2])["keys"] == ["[1, 2]", "[1, 2, 3]"]
    assert columns([(1, "a"), (2, "b")], [0, 0])["keys"] == [["1", "a"], ["2", "b"]]
    assert columns([("x", "a"), ("y", "b")], [0, 0])["keys"] == [["x", "a"], ["y", "b"]]
    assert columns([1, 2], [np.arange(2), np.arange(2)])["values"] == [[0, 1], [0, 1]]
    assert columns([], []) == {"keys": [], "values": []}


def test_columns_of_tables_with_holes() -> None:
    found = columns([1, 2, 3], [{"a": 1, "keys": 5}, {"b": "x", "n": {"m": 2}}, None])
    assert found["a"][0] == 1.0
    assert math.isnan(found["a"][1])
    assert found["keys_"][0] == 5
    assert found["b"] == ["", "x", ""]
    assert found["n.m"][1] == 2.0
    spectra = Table([1, 2], [{"s": np.arange(2)}, {}]).columns()["s"]
    assert spectra.shape == (2, 2)
    assert np.isnan(spectra[1]).all()


def test_columns_of_irregular_tables_are_text() -> None:
    assert columns([1, 2], [[1], [1, 2]])["values"] == ["[1]", "[1, 2]"]
    assert columns([1, 2], [{"a": 1}, 5])["values"] == ['{"a": 1}', "5"]
    assert columns([1, 2], [1, "a"])["values"] == ["1", "a"]
    assert columns([1, 2], [1 << 80, 1])["values"] == [f'"{1 << 80}"', "1"]
    assert columns([1, 2], [[[1], [1, 2]], None])["values"] == ["[[1], [1, 2]]", "null"]


# -- JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float32("inf"), None),
        ([1.0, math.nan], [1.0, None]),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), [[1.0, None], [None, 2.0]]),
        (np.array(np.nan), None),
        (np.array([True, False]), [True, False]),
        (np.longdouble(1.5), 1.5),
        (np.float16([1.5]), [1.5]),
        (1 + 2j, [1.0, 2.0]),
        (np.array([1 + 2j, complex(np.nan, 0)]), [[1.0, 2.0], [None, 0.0]]),
        (np.complex64(1j), [0.0, 1.0]),
        (b"text", "text"),
        (b"\xff\x00", "base64:/wA="),
        (np.array([b"a", b"\xff"]), ["a", "base64:/w=="]),
        (np.array(["å", ""]), ["å", ""]),
        (np.str_("x"), "x"),
        ("\ud800x", "?x"),
        (np.datetime64("2024-01-01T01:02:03"), "2024-01-01T01:02:03"),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), ["2024-01-01", None]),
        (np.array(["NaT"], "M8[s]"), [None]),
        (np.array([1500, "NaT"], "m8[ms]"), [1.5, None]),
        (np.array([2], "m8[M]"), [2.0]),
        (np.timedelta64(3, "s"), 3.0),
        (np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), {"a": [1], "b": [2.5]}),
        (np.array(b"\1\2", "V2"), "\1\2"),
        (1 << 70, str(1 << 70)),
        ([1, 1 << 70], [1, str(1 << 70)]),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ([True, None, "x", np.int8(1)], [True, None, "x", 1]),
        (np.zeros((0, 3)), []),
        ([], []),
    ],
    ids=repr,
)
def test_json_of(node: Any, expected: Any) -> None:
    found = to_json(node)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    msgspec.json.encode(found)


def test_an_int_too_long_for_decimals_is_hexadecimal() -> None:
    number = 1 << 20_000
    assert to_json(snapshot({"n": number, "many": [number, 1]})) == {"n": hex(number), "many": [hex(number), 1]}
    content = leaf(number).array
    assert content is not None
    assert content.item() == hex(number)


trees = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.text(),
        st.binary(),
        st.builds(np.arange, st.integers(0, 3)),
        st.builds(np.float32, st.floats(width=32)),
        st.builds(Odd),
        st.builds(Fit, st.floats()),
    ),
    lambda each: st.one_of(
        st.lists(each, max_size=3),
        st.dictionaries(st.text(max_size=4), each, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=2), st.integers(), st.tuples(st.integers(), st.text())),
            each,
            max_size=3,
        ),
        st.tuples(each, each),
        st.sets(st.integers() | st.text()),
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=4), trees, max_size=4))
def test_any_tree_has_a_snapshot_that_is_json_and_travels(tree: dict[str, Any]) -> None:
    copied = snapshot(tree)
    as_json = to_json(copied)
    msgspec.json.encode(as_json)
    buffers: list[bytes | memoryview] = []
    assert to_json(decode(encode(copied, buffers), buffers)) == as_json


class Refuses(dict[str, int]):
    """A member whose own code raises when it is copied."""

    def __iter__(self) -> Any:
        raise OSError("the file is closed")

    keys = __iter__


class Broken:
    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise KeyError("no data")


@pytest.mark.parametrize("value", [Refuses(a=1), Broken(), range(10**14)])
def test_what_cannot_be_copied_is_a_note_in_its_place(value: Any) -> None:
    copied = snapshot({"good": 1, "bad": value})
    assert copied["good"] == 1
    assert isinstance(copied["bad"], Note)
    assert "cannot be copied" in copied["bad"].text
    assert json.loads(msgspec.json.encode(to_json(copied)))["good"] == 1


def test_a_tree_that_contains_itself_more_than_once_is_copied_in_no_time() -> None:
    """Following every way round until some depth would take for ever: there are two to the power of that."""
    tree: dict[str, Any] = {"a": {}, "b": {}, "x": 1}
    tree["a"]["again"] = tree["b"]["again"] = tree
    found = snapshot(tree)
    assert isinstance(found, dict) and found["x"] == 1
    assert found["a"]["again"] == found["b"]["again"] == Note("a dict that contains itself")
    shared = [1, 2]
    assert snapshot({"a": shared, "b": [shared, shared]}) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
