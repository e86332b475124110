"""The one rule for what HDF5 holds for a value: it is total, and the file and the wire both take what it gives."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.hdfrest.types import shape_json, type_json
from beamfold.publish.hdfrest.values import value_json, wire_bytes
from beamfold.publish.leaf import MAX_RANK, leaf
from beamfold.publish.table import Table, column
from beamfold.publish.tree import snapshot, to_json


def array_of(value: Any) -> Any:
    found = leaf(value)
    assert found.array is not None
    assert not found.text
    return found.array


def texts_of(value: Any) -> Any:
    found = leaf(value)
    assert found.array is not None
    assert found.text
    return found.array.tolist()


def test_an_array_that_fits_is_not_copied() -> None:
    array = np.zeros((2, 3), dtype=">f4")
    assert leaf(array).array is array


@pytest.mark.parametrize("value", [None, b""])
def test_nothing_is_null(value: Any) -> None:
    assert leaf(value).array is None
    assert leaf(value).size == 0


def test_what_only_numpy_has_dimensions_for_is_text() -> None:
    assert json.loads(texts_of(np.zeros((1,) * (MAX_RANK + 1)))) is not None
    assert array_of(np.zeros((1,) * MAX_RANK)).ndim == MAX_RANK


def test_wider_floats_become_doubles_also_within_a_structure() -> None:
    large = np.array([np.finfo(np.longdouble).max, 1.5], dtype=np.longdouble)
    assert array_of(large).dtype == np.float64
    assert array_of(large)[1] == 1.5
    pair = np.zeros(2, dtype=[("a", np.longdouble, (2,)), ("b", [("c", np.clongdouble)])])
    assert array_of(pair).dtype == np.dtype([("a", "f8", (2,)), ("b", [("c", "c16")])])


def test_a_structure_is_packed() -> None:
    padded = np.array([(1, 2.5)], dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))
    assert array_of(padded).dtype.itemsize == 9
    assert array_of(padded).tolist() == [(1, 2.5)]


@pytest.mark.parametrize(
    "dtype", [[("a", "U2")], [("a", "M8[s]")], [("a", "f8", (0,))], [("a", "V3")], [("a", [("b", "S0")])], []]
)
def test_a_structure_that_hdf5_has_no_type_for_is_one_text(dtype: Any) -> None:
    json.loads(texts_of(np.zeros(2, dtype=dtype)))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([b"ab", b"c"]), "S"),
        (np.array([b"", b""]), "S"),
        (np.array(["å".encode()]), "text"),
        (np.array([b"\xff", b"ab"]), "V"),
        (np.zeros(2, "V3"), "V"),
        (np.zeros(2, "V0"), "S"),
        (b"abc", "text"),
        (b"a\0", "V"),
        (b"\xff", "V"),
    ],
)
def test_bytes_are_text_where_they_can_be(value: Any, kind: str) -> None:
    found = leaf(value)
    assert found.array is not None
    assert ("text" if found.text else found.array.dtype.kind) == kind
    assert found.text or found.array.dtype.itemsize > 0


def test_the_size_of_an_attribute_is_what_its_header_takes() -> None:
    assert leaf("å").size == 2
    assert leaf(["a" * 1000, "b"]).size == 32
    assert leaf(np.zeros(3)).size == 24


flat = (
    nps.boolean_dtypes()
    | nps.integer_dtypes(endianness="?")
    | nps.floating_dtypes(endianness="?", sizes=(16, 32, 64, 128))
    | nps.complex_number_dtypes(endianness="?", sizes=(64, 128, 256))
    | nps.byte_string_dtypes(max_len=3)
    | nps.unicode_string_dtypes(max_len=3)
    | nps.datetime64_dtypes(max_period="Y", min_period="us")
    | nps.timedelta64_dtypes(max_period="h", min_period="us")
)
dtypes = flat | nps.array_dtypes(flat, max_size=3) | nps.nested_dtypes(flat, max_leaves=4)


def arrays() -> Any:
    shapes = nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    return nps.arrays(dtypes, shapes)


@given(arrays())
@example(np.zeros(2, [("\0", "i4"), ("a", "i4")]))
@settings(max_examples=200, deadline=None)
def test_any_array_is_taken_by_the_file_and_by_the_wire(tmp_path_factory: Any, array: Any) -> None:
    published = snapshot({"a": array, "b": 1, "b_attrs": {"a": array}})
    assert isinstance(published, dict)
    found = leaf(published["a"])
    path = tmp_path_factory.mktemp("any") / "any.h5"
    assert write_hdf5(path, published) == []
    with h5py.File(path) as file:
        dataset = file["a"]
        assert dataset.shape == (None if found.array is None else found.array.shape)
        if found.array is not None and not found.text:
            assert dataset.dtype == found.array.dtype
            assert wire_bytes(dataset[()]) == wire_bytes(found.array) or found.array.ndim == 0
        assert "a" in file["b"].attrs
    json.dumps([shape_json(found), type_json(found), value_json(found)], allow_nan=False)


@given(st.text())
def test_any_text_is_text(text: str) -> None:
    assert texts_of(text) == text.replace("\0", "�").encode("utf-8", "replace").decode()


def test_one_long_text_among_many_short_ones_costs_no_more_than_itself() -> None:
    """numpy makes all texts of an array as long as the longest: of these it would be eighty gigabytes."""
    texts = ["x"] * 20_000 + ["y" * 1_000_000]
    for value, found in ((texts, leaf(texts)), (texts, leaf(column(texts)))):
        assert found.text and found.array is not None and found.array.tolist() == value
    ragged = [["x"]] * 20_000 + [["y" * 1_000_000, "z"]]
    irregular = leaf(ragged)
    assert irregular.array is not None and irregular.array.shape == (20_001,)
    table = Table([(n,) for n in range(20_001)], texts)
    assert to_json(table.columns()["values"]) == texts
