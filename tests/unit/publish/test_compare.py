"""Which leaves of two published states differ, whatever is in them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.publish.compare import MAX_SHOWN, Comparison, compare
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot

NAMES = ("live", "replayed")
NAN, OTHER_NAN = np.uint64([0x7FF8000000000000, 0x7FF8000000000001]).view(np.float64)
POINT = np.dtype([("x", "f8"), ("n", "i4")])


def compared(first: Any, second: Any, folder: Path) -> Comparison:
    for name, tree in (("a", first), ("b", second)):
        write_hdf5(folder / name, snapshot(tree), {"beamfold_summary": name, "beamfold_report": {"is": name}})
    return compare(folder / "a", folder / "b", NAMES)


def found(first: Any, second: Any, folder: Path) -> dict[str, str]:
    return {d.path: d.text for d in compared(first, second, folder).differences}


def everything() -> dict[str, Any]:
    """Made anew, so that nothing is the same only because it is one object."""
    return {
        "int": 3,
        "big": 1 << 70,
        "float": 0.1,
        "nan": float("nan"),
        "complex": 1 + 2j,
        "bool": True,
        "none": None,
        "text": "grün",
        "bytes": b"\xff\x00",
        "list": [1, 2, 3],
        "texts": ["a", "bb"],
        "ragged": [[1], [2, 3], {"a": None}],
        "empty": [],
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "array": np.array([[1.0, np.nan], [np.inf, -0.0]], "f4"),
        "points": np.array([(1.5, 2)], POINT),
        "opaque": np.array([b"\xff\x01"], "V2"),
        "cannot": object,
        "group": {"inner": {"value": np.int16(4)}, "inner_attrs": {"NX_class": "NXdata"}, "nothing": {}},
        "group_attrs": {"signal": "value", "axes": ["x", "y"], "range": np.array([0.0, np.nan])},
        "map": {(0, 1): {"sum": 1.0, "name": "p"}, (0, 2): {"sum": 2.0, "name": "q"}},
        "name@with": 1,
        "a/b": 2,
        "_attrs": {"default": "group"},
    }


def test_a_state_is_the_same_as_itself_made_again(tmp_path: Path) -> None:
    result = compared(everything(), everything(), tmp_path)
    assert result.differences == []
    assert result.leaves > len(everything())


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (3, 4, "live 3, replayed 4"),
        (3, 3.0, "live 3 (int64), replayed 3.0 (float64)"),
        (np.float32(1), np.float64(1), "live 1.0 (float32), replayed 1.0 (float64)"),
        (1 << 70, 1 << 71, "live '1180591620717411303424', replayed '2361183241434822606848'"),
        (0.0, -0.0, "live 0.0, replayed -0.0"),
        (float(NAN), float(OTHER_NAN), "live nan, replayed nan"),
        (float("nan"), 1.0, "live nan, replayed 1.0"),
        (1 + 2j, 1 - 2j, "live (1+2j), replayed (1-2j)"),
        (True, False, "live True, replayed False"),
        (None, 0, "live nothing, replayed 0"),
        ("a", "b", "live 'a', replayed 'b'"),
        ("a", ["a"], "live 'a' (text), replayed text of shape (1,)"),
        (b"\xff\x00", b"\xff\x01", None),
        ([1, 2, 3], [1, 5, 3], "1 of 3 differ, the first at [1]: live 2, replayed 5"),
        ([1, 2, 3], [1, 2], "live int64 of shape (3,), replayed int64 of shape (2,)"),
        (["a", "b"], ["a", "c"], "1 of 2 differ, the first at [1]: live 'b', replayed 'c'"),
        ([[1], [2, 3]], [[1], [2, 4]], "1 of 2 differ, the first at [1]: live '[2, 3]', replayed '[2, 4]'"),
        (
            np.array([[1.0, np.nan], [3.0, 4.0]]),
            np.array([[1.0, np.nan], [np.nan, 5.0]]),
            "2 of 4 differ, the first at [1, 0]: live 3.0, replayed nan",
        ),
        (np.array([(1.5, 2)], POINT), np.array([(1.5, 3)], POINT), None),
        (np.zeros((0, 4)), np.zeros((0, 5)), "live float64 of shape (0, 4), replayed float64 of shape (0, 5)"),
    ],
)
def test_what_differs_is_told_with_both_values(one: Any, other: Any, text: str | None, tmp_path: Path) -> None:
    told = found({"g": {"leaf": one, "same": 1}}, {"g": {"leaf": other, "same": 1}}, tmp_path)
    assert list(told) == ["g/leaf"]
    if text is not None:
        assert told["g/leaf"] == text


def test_tables_differ_by_column(tmp_path: Path) -> None:
    one = {(0, 1): {"sum": 1.0, "n": 1}, (0, 2): {"sum": 2.0, "n": 1}}
    other = {(0, 1): {"sum": 1.0, "n": 1}, (1, 2): {"sum": 2.5, "n": 1}}
    assert found({"map": one}, {"map": other}, tmp_path) == {
        "map/keys": "1 of 4 differ, the first at [1, 0]: live 0, replayed 1",
        "map/sum": "1 of 2 differ, the first at [1]: live 2.0, replayed 2.5",
    }


def test_attributes_of_datasets_groups_and_the_file_are_leaves(tmp_path: Path) -> None:
    def tree(value: Any) -> dict[str, Any]:
        return {
            "a": 1,
            "a_attrs": {"u@nit": value},
            "g": {"x": 1},
            "g_attrs": {"signal": value},
            "_attrs": {"default": value},
        }

    text = "live 's', replayed 't'"
    assert found(tree("s"), tree("t"), tmp_path) == {"@default": text, "a@u@nit": text, "g@signal": text}


def test_what_is_only_in_one_of_them_is_told(tmp_path: Path) -> None:
    assert found({"a": 1, "g": {}, "same": 0}, {"b": [1, 2], "same": 0}, tmp_path) == {
        "a": "only live: 1",
        "b": "only replayed: int64 of shape (2,)",
        "g/": "only live",
    }


def test_a_leaf_that_became_a_group_differs(tmp_path: Path) -> None:
    assert list(found({"a": 1}, {"a": {"b": 1}}, tmp_path)) == ["a", "a/", "a/b"]


def test_what_cannot_be_shown_is_compared_by_its_note(tmp_path: Path) -> None:
    assert list(found({"a": object}, {"a": print}, tmp_path)) == ["@a_note"]


def test_long_values_are_cut(tmp_path: Path) -> None:
    told = found({"a": "x" * 1000}, {"a": "y"}, tmp_path)
    assert len(told["a"]) < 2 * MAX_SHOWN


def test_a_file_that_is_no_hdf5_is_an_error(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a", snapshot({}))
    (tmp_path / "b").write_bytes(b"nothing")
    with pytest.raises(OSError, match="file signature not found"):
        compare(tmp_path / "b", tmp_path / "a", NAMES)
