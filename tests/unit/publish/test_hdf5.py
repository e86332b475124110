"""The file holds what HDF5 can hold, says what it could not, and is either whole or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beamfold.publish import hdf5
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot


def written(path: Path, publish: Any, attrs: dict[str, Any] | None = None) -> tuple[Any, list[str]]:
    """The file's content: nested dicts of values, attributes under "@name"."""
    notes = write_hdf5(path, snapshot(publish), attrs)
    with h5py.File(path) as file:
        return read(file), notes


def read(node: Any) -> Any:
    if isinstance(node, h5py.Dataset):
        if node.shape is None:
            return None
        return node.asstr()[()] if h5py.check_string_dtype(node.dtype) else node[()]
    found = {name: read(child) for name, child in node.items()}
    found |= {f"@{key}": value for key, value in node.attrs.items()}
    for name, child in node.items():
        if isinstance(child, h5py.Dataset):
            found |= {f"{name}@{key}": value for key, value in child.attrs.items()}
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "scan.h5"


def test_a_nexus_tree_is_plottable(path: Path) -> None:
    publish = {
        "_attrs": {"default": "entry"},
        "entry": {
            "_attrs": {"NX_class": "NXentry"},
            "data": {"image": np.ones((2, 3)), "image_attrs": {"long_name": "Intensität"}, "x": [1, 2, 3]},
            "data_attrs": {"NX_class": "NXdata", "signal": "image", "axes": [".", "x"], "x_indices": 1},
        },
    }
    found, notes = written(path, publish, {"scan": "id", "report": {"n": 1}})
    assert notes == []
    assert (found["@default"], found["@scan"], json.loads(found["@report"])) == ("entry", "id", {"n": 1})
    data = found["entry"]["data"]
    assert found["entry"]["@NX_class"] == "NXentry"
    assert (data["@NX_class"], data["@signal"], data["@axes"].tolist(), data["@x_indices"]) == (
        "NXdata", "image", [".", "x"], 1,
    )  # fmt: skip
    assert data["image@long_name"] == "Intensität"
    assert data["image"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_table_is_a_group_of_columns(path: Path) -> None:
    publish = {"map": {(1.0, 2.0): {"roi1": 3}, (1.5, 2.0): {"roi1": 4}}, "map_attrs": {"NX_class": "NXdata"}}
    found, notes = written(path, publish)
    assert notes == []
    assert found["map"]["keys"].tolist() == [[1.0, 2.0], [1.5, 2.0]]
    assert found["map"]["roi1"].tolist() == [3, 4]
    assert found["map"]["@NX_class"] == "NXdata"


def test_the_top_may_be_a_table(path: Path) -> None:
    found, _ = written(path, {1: "a", 2: "b"}, {"scan": "id"})
    assert (found["keys"].tolist(), found["values"].tolist(), found["@scan"]) == ([1, 2], ["a", "b"], "id")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (True, True),
        (1.5, 1.5),
        (1 + 2j, 1 + 2j),
        ("å", "å"),
        (None, None),
        (1 << 70, str(1 << 70)),
        (2**64 - 1, 2**64 - 1),
        (b"text", "text"),
        (b"", None),
        ("", ""),
        ("a\0b", "a�b"),
        ("\ud800", "?"),
        (np.float32(1.5), 1.5),
        (np.str_("x"), "x"),
        (np.array("x"), "x"),
        (np.array(3), 3),
        ([1, 2], [1, 2]),
        (["a", "b"], ["a", "b"]),
        ([1, None], [1.0, "nan"]),
        ([], []),
        ([[1], [1, 2]], ["[1]", "[1, 2]"]),
        ([1, "a"], ["1", "a"]),
        ([{"a": 1}], ['{"a": 1}']),
        (np.array(["x", "å\0z"]), ["x", "å�z"]),
        (np.array([], "U3"), []),
        (np.array([b"x"]), ["x"]),
        (np.array([], "S"), []),
        (np.array([True, False]), [True, False]),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), ["2024-01-01", "NaT"]),
        (np.timedelta64(1500, "ms"), 1.5),
        (np.float16([1]), [1]),
        (np.arange(3, dtype=">i4"), [0, 1, 2]),
        (np.zeros((0, 2)), []),
        (np.longdouble([1]), [1]),
        (np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), [(1, 2.5)]),
        (np.array([(1, "x")], dtype=[("a", "i4"), ("b", "U2")]), '{"a": [1], "b": ["x"]}'),
    ],
    ids=repr,
)
def test_a_value_is_written_as(path: Path, value: Any, expected: Any) -> None:
    found, notes = written(path, {"v": value, "x": 1, "x_attrs": {"v": value}})
    assert notes == []
    content = found["v"].tolist() if isinstance(found["v"], np.ndarray | np.generic) else found["v"]
    assert ([c if c == c else "nan" for c in content] if isinstance(content, list) else content) == expected
    attribute = found["x@v"]
    if expected is not None and not isinstance(expected, list):
        assert attribute == expected


def test_bytes_that_are_no_text_are_opaque(path: Path) -> None:
    found, _ = written(path, {"v": b"\xff\0", "n": b"a\0"})
    assert (found["v"].tobytes(), found["n"].tobytes()) == (b"\xff\0", b"a\0")


def test_what_does_not_fit_is_a_note_and_the_rest_is_there(path: Path) -> None:
    publish = {
        "odd": object(),
        "odd_attrs": {"units": "mm"},
        "group": {"bad": lambda: 1, "good": 1, "good_attrs": {"odd": object(), "units": "s"}},
        "empty": np.zeros(3, dtype=[]),
        "last": 2,
    }
    found, notes = written(path, publish)
    assert (found["last"], found["group"]["good"], found["group"]["good@units"]) == (2, 1, "s")
    assert "cannot be published" in found["@odd_note"]
    assert "cannot be published" in found["group"]["@bad_note"]
    assert "cannot be published" in found["group"]["good@odd"]
    assert [note.split(":")[0] for note in notes] == ["/odd", "/group/bad"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a/b", "a%2Fb"), ("", "%"), (".", "%2E"), ("..", "%2E%2E"), ("å\0", "å�"), ("\ud800", "?")],
)
def test_names_that_hdf5_reserves_are_escaped(path: Path, name: str, safe: str) -> None:
    found, notes = written(path, {name: 1, "g": {name: {"x": 1}}})
    assert notes == []
    assert found[safe] == 1
    assert found["g"][safe]["x"] == 1


def test_two_names_that_become_one_keep_the_first_and_a_note(path: Path) -> None:
    found, notes = written(path, {"a/b": {"x": 1}, "a%2Fb": 2})
    assert found["a%2Fb"] == {"x": 1}
    assert len(notes) == 1


def test_attributes_too_large_for_hdf5_become_datasets(path: Path) -> None:
    long = "x" * 100_000
    publish = {"a": 1, "a_attrs": {"long": long, "array": np.zeros(10_000), "names": ["n"] * 5000}}
    found, notes = written(path, publish, {"report": {"text": long}})
    assert notes == []
    assert found["a_attrs"]["long"] == long
    assert found["a_attrs"]["array"].shape == (10_000,)
    assert found["a_attrs"]["names"].shape == (5000,)
    assert json.loads(found["_attrs"]["report"])["text"] == long


def test_the_file_replaces_the_old_one_whole_and_is_readable_by_others(path: Path) -> None:
    written(path, {"a": 1})
    with h5py.File(path) as reader:  # keeps seeing what it opened
        found, _ = written(path, {"b": 2})
        assert list(reader) == ["a"]
    assert list(found) == ["b"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_os_error_and_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, {"a": 1})

    def full(*_args: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        write_hdf5(path, {"b": 2})
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == [path]
    with h5py.File(path) as file:
        assert list(file) == ["a"]


def test_h5py_is_imported_only_to_write() -> None:
    assert "h5py" not in vars(hdf5)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.builds(np.arange, st.integers(0, 3)),
        st.builds(object),
    ),
    lambda each: st.one_of(
        st.lists(each, max_size=3),
        st.dictionaries(st.text(max_size=4), each, max_size=3),
        st.dictionaries(st.integers() | st.tuples(st.floats(), st.text()), each, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.dictionaries(st.text(max_size=4), values, max_size=3),
)
def test_any_tree_can_be_written(path: Path, publish: dict[str, Any], attrs: dict[str, Any]) -> None:
    write_hdf5(path, snapshot(publish | {"x": 1, "x_attrs": attrs}), attrs)
    with h5py.File(path) as file:
        assert file["x"][()] == 1
