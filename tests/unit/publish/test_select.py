"""Selections are what numpy makes of them, and what is none is refused with what was expected."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.publish.hdfrest.reading import Wanted, read_values
from beamfold.publish.hdfrest.select import (
    SelectError,
    at_points,
    fields_of,
    parse_points,
    parse_select,
    points_of,
    select,
)
from beamfold.publish.leaf import leaf

PAIR = np.array([(1, 2.5, (3, 4)), (5, 6.5, (7, 8))], dtype=[("a", ">i4"), ("b", "f8"), ("c", "u1", (2,))])


def selected(array: Any, text: str) -> Any:
    return select(array, parse_select(text, array.shape))


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def selections(draw: st.DrawFn) -> tuple[Any, str, list[Any]]:
    """An array, a text, and what it says: per dimension a slice, an index or a list."""
    shape = draw(shapes)
    length = draw(st.integers(1, 3))
    texts: list[str] = []
    keys: list[Any] = []
    for extent in shape:
        kind = draw(st.sampled_from(["slice", "open", "index", "list"]))
        if kind == "slice":
            start = draw(st.integers(0, extent))
            stop, step = draw(st.integers(start, extent)), draw(st.integers(1, 3))
            texts.append(f"{start}:{stop}:{step}" if step > 1 or draw(st.booleans()) else f"{start}:{stop}")
            keys.append(slice(start, stop, step))
        elif kind == "open":
            step = draw(st.integers(1, 3))
            texts.append(f"::{step}" if step > 1 else ":")
            keys.append(slice(None, None, step))
        elif kind == "index":
            keys.append(draw(st.integers(0, extent - 1)))
            texts.append(str(keys[-1]))
        else:
            keys.append(draw(st.lists(st.integers(0, extent - 1), min_size=length, max_size=length)))
            texts.append("[" + ",".join(map(str, keys[-1])) + "]")
    array = np.arange(int(np.prod(shape))).reshape(shape)
    return array, "[" + draw(st.sampled_from([",", ", "])).join(texts) + "]", keys


def one_by_one(array: Any, keys: list[Any]) -> Any:
    """The same selection, gathered element by element."""
    paired = next((len(key) for key in keys if isinstance(key, list)), None)
    axes: list[list[int]] = []
    seen = False
    for key, extent in zip(keys, array.shape, strict=True):
        if isinstance(key, slice):
            axes.append(list(range(extent))[key])
        elif isinstance(key, list) and not seen:
            seen = True
            axes.append(list(range(paired or 0)))
    found = []
    for place in product(*axes):
        left = list(place)
        first_list: int | None = None
        index: list[int] = []
        for key in keys:
            if isinstance(key, int):
                index.append(key)
            elif isinstance(key, slice):
                index.append(left.pop(0))
            else:
                first_list = left.pop(0) if first_list is None else first_list
                index.append(key[first_list])
        found.append(array[tuple(index)])
    return np.array(found, dtype=array.dtype).reshape([len(axis) for axis in axes])


@given(selections())
@settings(max_examples=300, deadline=None)
def test_a_selection_is_what_it_says(selection: tuple[Any, str, list[Any]]) -> None:
    array, text, keys = selection
    found = np.asarray(selected(array, text))
    expected = one_by_one(array, keys)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    if not any(isinstance(key, list) for key in keys):
        np.testing.assert_array_equal(found, array[tuple(keys)])


@given(st.text(max_size=12) | st.text(alphabet="[]0123456789,: -", max_size=12), shapes)
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_selection_or_refused(text: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape)
    try:
        found = selected(array, text)
    except SelectError as error:
        assert "expected" in str(error) or "pairwise" in str(error)
    else:
        assert np.asarray(found).size <= max(array.size, 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0:2,0:2", "not in brackets"),
        ("[0:2]", "1 entries for 2 dimensions"),
        ("[]", "0 entries for 2 dimensions"),
        ("[0:2,0:2,]", "cannot be read"),
        ("[0:2,[1]", "cannot be read"),
        ("[0:5,0]", "start <= stop <= 4"),
        ("[2:1,0]", "start <= stop <= 4"),
        ("[0:2:0,0]", "1 <= step"),
        ("[-1,0]", "selects nothing"),
        ("[4,0]", "expected 0 <= index < 4"),
        ("[[0,4],0]", "expected 0 <= index < 4"),
        ("[[0,],0]", "expected 0 <= index < 4"),
        ("[[0,1],[0]]", "different lengths"),
        ("[x,0]", "selects nothing"),
        ("[" + "9" * 5000 + ",0]", "selects nothing"),
        ("[٣,0]", "selects nothing"),
    ],
)
def test_a_selection_that_is_not_there_is_refused(text: str, said: str) -> None:
    with pytest.raises(SelectError, match=said.replace("(", r"\(")):
        selected(np.zeros((4, 3)), text)


def test_no_more_is_selected_than_there_is() -> None:
    """Else a short request could ask for all the memory there is."""
    array = np.zeros((2, 1 << 20))
    with pytest.raises(SelectError, match="expected no more than there are"):
        selected(array, "[[" + ",".join("0" * 100) + "],:]")


@given(st.data())
def test_points_are_read_in_their_order(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    array = np.arange(int(np.prod(shape))).reshape(shape)
    rows = data.draw(st.lists(st.tuples(*(st.integers(0, extent - 1) for extent in shape)), max_size=6))
    expected = [array[row] for row in rows]
    body = np.array(rows, dtype="<u8").tobytes()
    assert at_points(array, parse_points(body, shape)).tolist() == expected
    assert at_points(array, points_of([list(row) for row in rows], shape)).tolist() == expected
    if len(shape) == 1:
        assert at_points(array, points_of([row[0] for row in rows], shape)).tolist() == expected


@pytest.mark.parametrize("body", [b"x", b"\0" * 8, b"\xff" * 16, np.array([4, 0], "<u8").tobytes()])
def test_bytes_that_are_no_points_are_refused(body: bytes) -> None:
    with pytest.raises(SelectError):
        parse_points(body, (4, 3))


@pytest.mark.parametrize("points", [None, 1, "x", [[1]], [[0, 3]], [[0, -1]], [[0, True]], [[0, 1 << 64]], [[0, 0.5]]])
def test_json_that_is_no_points_is_refused(points: Any) -> None:
    with pytest.raises(SelectError):
        points_of(points, (4, 3))


def test_a_scalar_has_no_points() -> None:
    for read in (lambda: points_of([], ()), lambda: parse_points(b"", ())):
        with pytest.raises(SelectError):
            read()


@pytest.mark.parametrize(("asked", "names"), [("a", ["a"]), ("c:a", ["a", "c"]), ("a:b:c", ["a", "b", "c"])])
def test_fields_come_packed_in_the_order_of_the_array(asked: str, names: list[str]) -> None:
    found = fields_of(PAIR, asked)
    assert list(found.dtype.names or ()) == names
    assert found.dtype.itemsize == sum(PAIR.dtype[name].itemsize for name in names)
    for name in names:
        np.testing.assert_array_equal(found[name], PAIR[name])
        assert found.dtype[name] == PAIR.dtype[name]


def test_a_field_is_asked_for_by_the_name_that_its_type_shows() -> None:
    array = np.array([(1, 2)], dtype=[("å", "i4"), ("b:c", "i4")])
    assert fields_of(array, "%C3%A5")["å"].tolist() == [1]
    assert fields_of(array, "b%3Ac")["b:c"].tolist() == [2]


@pytest.mark.parametrize(("array", "asked"), [(PAIR, "d"), (PAIR, "a:d"), (PAIR, "a::b"), (np.zeros(3), "a")])
def test_a_field_that_is_not_there_is_refused_and_those_named_that_are(array: Any, asked: str) -> None:
    with pytest.raises(SelectError, match="those there are"):
        fields_of(array, asked)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "neither"),
        (b"{", "neither"),
        (b"\xff", "neither"),
        (b"[" * 100_000, "neither"),
        (b"[]", "an object"),
        (b"{}", "none of"),
        (b'{"select": 1}', "a text"),
        (b'{"fields": []}', "a text"),
    ],
)
def test_a_body_that_asks_for_nothing_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(SelectError, match=said):
        Wanted.of_body(body, "application/json")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, Wanted(select="[0]")),
        ("text", Wanted(select="[0]")),
        ([1, 2], Wanted(select="[0]", points=[0])),
        (["a", "b"], Wanted(fields="a")),
    ],
)
def test_a_part_of_what_has_no_parts_is_refused(value: Any, wanted: Wanted) -> None:
    with pytest.raises(SelectError):
        read_values(leaf(value), wanted)


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (["a", "b", "c"], Wanted(select="[1]"), "b"),
        (["a", "b", "c"], Wanted(points=[2, 0]), ["c", "a"]),
        (7, Wanted(select="[]"), 7),
        (PAIR, Wanted(select="[1]", fields="a"), (5,)),
        (PAIR, Wanted(points=[1], fields="a"), [(5,)]),
    ],
)
def test_a_part_of_any_kind_of_value(value: Any, wanted: Wanted, expected: Any) -> None:
    found = read_values(leaf(value), wanted).array
    assert found is not None
    assert found.tolist() == expected


@pytest.mark.parametrize("text", ["[" + " " * 100_000 + "x[]", "[" + " " * 100_000 + "[[]", "[" * 100_000 + "]"])
def test_a_hostile_select_takes_no_time(text: str) -> None:
    """A pattern that tries every way to share out the blanks would hold the whole reducer for hours."""
    with pytest.raises(SelectError):
        parse_select(text, (5,))
