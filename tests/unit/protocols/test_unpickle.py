"""Pickles from the network: plain data is read as pickle reads it, everything else is refused and never
happens."""

from __future__ import annotations

import builtins
import contextlib
import datetime
import os
import pickle
import struct
import subprocess
import tracemalloc
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.protocols.unpickle import TruncatedPickle, safe_loads
from beamfold.protocols.unpickle_calls import Pending
from corpus import PICKLE_BOMBS, Calls

PROTOCOLS = range(6)


# --- data
# -------------------------------------------------------------------------------------------------------

keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
plain = st.recursive(
    keys | st.complex_numbers(allow_nan=False) | st.binary(max_size=300).map(bytearray) | st.sets(keys, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_is_read_as_pickle_reads_it(value: Any, protocol: int) -> None:
    found = safe_loads(pickle.dumps(value, protocol=protocol))
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(pickle.loads(pickle.dumps(value, protocol=protocol)))


ARRAYS = [
    np.arange(6, dtype="u4").reshape(2, 3),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(4, dtype=">i2"),
    np.array(3.5),
    np.zeros((0, 3), "f4"),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array(["a", "äé"]),
    np.array([b"a", b"bc"]),
    np.array(["2024-01-02T03:04:05.678"], "M8[ms]"),
    np.array([1, 2], "m8[25us]"),
    np.array([3], "m8[s]"),
    np.array([(1, 2.5, "x", [1, 2])], [("a", "u1"), ("b", ">f8"), ("c", "U3"), ("d", "i2", (2,))]),
    np.zeros(2, np.dtype({"names": ["x"], "formats": ["u2"], "offsets": [4], "itemsize": 12})),
    np.zeros(2, np.dtype([("in", [("a", "i4"), ("b", "f2")]), ("n", "S5")], align=True)),
    np.zeros(3, "V7"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}"[:40])
def test_arrays_are_read_as_they_were_and_can_be_written_to(array: np.ndarray[Any, Any], protocol: int) -> None:
    found = safe_loads(pickle.dumps({"a": array, "b": [array.dtype, array]}, protocol=protocol))
    assert type(found["a"]) is np.ndarray
    assert found["a"].dtype == array.dtype == found["b"][0]
    assert found["a"].dtype.str == array.dtype.str
    assert found["a"].shape == array.shape
    assert found["a"].tobytes("A") == array.tobytes("A")
    assert found["a"] is found["b"][1]
    assert found["a"].flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.uint8(3),
        np.bool_(True),
        np.complex64(1j),
        np.datetime64("2024-01-01"),
        np.str_("x"),
    ],
)
def test_numpy_numbers_keep_their_type(scalar: np.generic, protocol: int) -> None:
    found = safe_loads(pickle.dumps([scalar, {scalar: scalar}], protocol=protocol))
    assert found == [scalar, {scalar: scalar}]
    assert type(found[0]) is type(scalar)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("value", [range(2, 9, 3), slice(1, None, 2), 2**3000, "\ud800", "a\nb\\u0041"])
def test_harmless_built_ins(value: Any, protocol: int) -> None:
    assert safe_loads(pickle.dumps(value, protocol=protocol)) == value


def test_old_numpy_and_new_numpy_name_their_core_differently() -> None:
    data = pickle.dumps(np.arange(3.0), protocol=2)
    for core in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        renamed = data.replace(b"numpy._core.multiarray", core).replace(b"numpy.core.multiarray", core)
        assert np.array_equal(safe_loads(renamed), np.arange(3.0))


def test_a_list_that_holds_itself() -> None:
    value: list[Any] = [1]
    value.append(value)
    found = safe_loads(pickle.dumps(value))
    assert found[1] is found


def test_memoryviews_and_bytes_after_the_end() -> None:
    assert safe_loads(memoryview(pickle.dumps([1]) + b"rest")) == [1]


def test_python_2_text() -> None:
    assert safe_loads(b"\x80\x02U\x03ab\xe9.") == "abé"
    assert safe_loads(b"\x80\x02T\x02\x00\x00\x00ab.") == "ab"


# --- what would run something
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Calls(os.system, "exit 3"), "system"),
        (Calls(builtins.eval, "1/0"), "eval"),
        (Calls(builtins.exec, "1/0"), "exec"),
        (Calls(builtins.__import__, "os"), "__import__"),
        (Calls(builtins.getattr, "x", "upper"), "getattr"),
        (Calls(getattr(builtins, "open"), "/etc/passwd"), "open"),  # noqa: B009
        (Calls(builtins.print, "x"), "print"),
        (Calls(subprocess.Popen, ["true"]), "Popen"),
        (Calls(pickle.loads, b"N."), "loads"),
        (Calls(np.load, "x.npy"), "load"),
        (Calls(datetime.date, 2024, 1, 1), "date"),
        (eval, "eval"),
        (type, "type"),
        (object(), "object|_reconstructor"),
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(evil: Any, name: str, protocol: int) -> None:
    with pytest.raises(UnsafePickle, match=name):
        safe_loads(pickle.dumps(["data", evil], protocol=protocol))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\ngetattr\n(cbuiltins\nset\nS'__class__'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__reduce__\x93.",
        b"\x80\x04\x8c\x00\x8c\x04eval\x93.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"c__main__\neval\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.",
    ],
)
def test_dotted_names_and_other_ways_to_a_function_are_refused(pickled: bytes) -> None:
    with pytest.raises(UnsafePickle, match=r"not on the list|uses STRING"):
        safe_loads(pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"Ptext\n.", b"K\x01Q.", b"(ios\nsystem\n.", b"(cbuiltins\nset\no.", b"\x82\x01.", b"\x83\x01\x00.",
        b"\x84\x01\x00\x00\x00.", b"\x97.", b"]\x98.", b"cbuiltins\nset\n)}\x92.",
    ],
)  # fmt: skip
def test_opcodes_that_reach_outside_are_refused(pickled: bytes) -> None:
    with pytest.raises(UnsafePickle, match="which is not read"):
        safe_loads(pickled)


def test_nothing_but_what_was_named_can_be_called_or_given_a_state() -> None:
    for pickled in (
        b"\x80\x04\x8c\x01x\x85R.",  # nothing below the arguments
        b"\x80\x04\x8c\x01x\x8c\x01y\x85R.",
        b"\x80\x04]\x85R.",
        b"\x80\x04]}b.",
        b"\x80\x04cbuiltins\nset\n}b.",
        b"\x80\x04cbuiltins\nset\n)\x81.",
        b"\x80\x04cbuiltins\nset\n]R.",
        b"\x80\x04cnumpy\nndarray\nK\x09\x85R.",
        b"\x80\x04)K\x01a.",
        b"\x80\x04]K\x01K\x02s.",
        b"\x80\x04cbuiltins\nset\n(K\x01\x90.",
    ):
        with pytest.raises(MalformedFrame):
            safe_loads(pickled)


@pytest.mark.parametrize("codec", ["utf-8", "hex", "rot13", "zip", "idna", "bz2", "unicode_escape", ""])
def test_codecs_encode_takes_latin1_and_nothing_else(codec: str) -> None:
    data = b"c_codecs\nencode\n(X\x01\x00\x00\x00aX" + struct.pack("<I", len(codec)) + codec.encode() + b"tR."
    with pytest.raises(UnsafePickle, match=r"_codecs\.encode"):
        safe_loads(data)
    with pytest.raises(UnsafePickle, match=r"_codecs\.encode"):
        safe_loads(b"c_codecs\nencode\n(C\x01aX\x06\x00\x00\x00latin1tR.")


# --- arrays that are not
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [np.array([1, "a", None], object), np.array([], object), np.zeros(2, [("a", "i4"), ("b", object)])],
    ids=["objects", "empty", "field"],
)
def test_arrays_of_objects_are_refused(array: np.ndarray[Any, Any], protocol: int) -> None:
    with pytest.raises(UnsafePickle):
        safe_loads(pickle.dumps(array, protocol=protocol))


def array_pickle(shape: Any, dtype: Any, raw: Any) -> bytes:
    """numpy's own pickle of an array, with another state."""

    class Array:
        def __reduce__(self) -> Any:
            make, args, _ = np.zeros(1).__reduce__()
            return make, args, (1, shape, dtype, False, raw)

    return pickle.dumps(Array(), protocol=4)


class Dtype:
    """numpy's own pickle of a dtype, with another name or state."""

    def __init__(self, name: Any, *state: Any) -> None:
        self.name, self.state = name, state

    def __reduce__(self) -> Any:
        return np.dtype, (self.name, False, True), self.state


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        ((3,), b"12345678"),
        ((2**40,), b""),
        ((2**62, 2**62), b"12345678"),
        ((0, 2**62, 2**62), b""),
        ((), b""),
    ],
)
def test_an_array_that_claims_another_size_than_its_bytes_is_refused(shape: Any, raw: bytes) -> None:
    with pytest.raises(MalformedFrame):
        safe_loads(array_pickle(shape, np.dtype("f8"), raw))


@pytest.mark.parametrize("shape", [(-1,), (True,), 3, [1], ("1",), (1,) * 70, (1.0,), None])
def test_a_shape_that_is_none_is_refused(shape: Any) -> None:
    with pytest.raises(MalformedFrame):
        safe_loads(array_pickle(shape, np.dtype("u1"), b"1"))


@pytest.mark.parametrize(
    "dtype",
    [
        Dtype("O8", 3, "|", None, None, None, -1, -1, 63),
        Dtype("i4,O", 3, "|", None, None, None, -1, -1, 0),
        Dtype("object", 3, "|", None, None, None, -1, -1, 0),
        Dtype("{'names': ['a']}", 3, "|", None, None, None, -1, -1, 0),
        Dtype([("a", "O")], 3, "|", None, None, None, -1, -1, 0),
        Dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("f8"), 2**31)}, 8, 1, 0),
        Dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("f8"), -8)}, 8, 1, 0),
        Dtype("V8", 3, "|", None, ("a",), {"b": (np.dtype("f8"), 0)}, 8, 1, 0),
        Dtype("V8", 3, "|", None, ("a",), {"a": ("f8", 0)}, 8, 1, 0),
        Dtype("V8", 3, "|", None, ("a", "a"), {"a": (np.dtype("f4"), 0)}, 8, 1, 0),
        Dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("f8"), 0)}, 2**80, 1, 0),
        Dtype("V8", 3, "|", None, None, None, 2**40, 1, 0),
        Dtype("V8", 3, "|", ("f8", (1,)), None, None, 8, 1, 0),
        Dtype("V8", 3, "|", (np.dtype("f8"), (2**62, 8)), None, None, 8, 1, 0),
        Dtype("f8", 3, "<"),
        Dtype("f8", "state"),
        Dtype("M8", 4, "<", None, None, None, -1, -1, 0, ({}, (b"parsec", 1, 1, 1))),
        Dtype("M8", 4, "<", None, None, None, -1, -1, 0, ({}, ("s]O[", 1, 1, 1))),
        Dtype("M8", 4, "<", None, None, None, -1, -1, 0, None),
        None,
        "f8",
    ],
)
def test_a_dtype_whose_state_reaches_outside_is_refused(dtype: Any) -> None:
    with pytest.raises(MalformedFrame):
        safe_loads(array_pickle((1,), dtype, b"12345678"))


def test_an_array_that_never_gets_its_state_is_refused() -> None:
    bare = pickle.dumps(Calls(*np.zeros(1).__reduce__()[:1], *np.zeros(1).__reduce__()[1]), protocol=4)
    with pytest.raises(MalformedFrame, match="in the middle of building"):
        safe_loads(bare)
    begun = bare[: bare.rindex(b".")].split(b"\x95", 1)[1][8:]
    for use in (b"]\x940h\x00.", b"2.", b"q\x09h\x09."):
        with pytest.raises(MalformedFrame):
            safe_loads(b"\x80\x04" + begun + use)


# --- memory and time
# --------------------------------------------------------------------------------------------


BOMBS = {**PICKLE_BOMBS, "elements of no bytes": array_pickle((2**40,), np.dtype("V0"), b"")}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_without_the_memory_they_ask_for(bomb: str) -> None:
    pickled = BOMBS[bomb]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFrame):
            safe_loads(pickled)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(pickled) + (8 << 20)


def test_a_memo_index_beyond_all_bounds_takes_no_memory() -> None:
    assert safe_loads(b"\x80\x02]r\xff\xff\xff\x7f.") == []
    assert safe_loads(b"]p99999999999999999999\n.") == []


def test_a_pickle_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(UnsafePickle, match="a pickle of 13 bytes; at most 12"):
        safe_loads(bytes(13), max_bytes=12)


# --- damage
# -----------------------------------------------------------------------------------------------------


def test_every_cut_is_noticed() -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps({"a": [1, 2.5, "text", np.arange(3.0)], "b": (None, True, b"x", 10**30)}, protocol=protocol)
        for end in range(len(data)):
            with pytest.raises(TruncatedPickle):
                safe_loads(data[:end])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pickles_are_errors_or_data_never_a_crash(data: st.DataObject) -> None:
    value = {
        "a": np.arange(6.0).reshape(2, 3),
        "t": np.zeros(1, [("x", "i4")]),
        "s": {1, 2},
        "n": [1.5, "x", b"y"],
    }
    pickled = bytearray(pickle.dumps(value, protocol=data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 5))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedFrame):
        safe_loads(bytes(pickled))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_error_or_data(data: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        safe_loads(data)


@pytest.mark.parametrize(
    "pickled", [b".", b"(.", b"NN.", b"K\x01(.", b"0.", b"h\x05.", b"\x80\x06N.", b"\xff", b"t.", b"}(Nu."]
)
def test_what_is_no_pickle_is_named(pickled: bytes) -> None:
    with pytest.raises(MalformedFrame, match=r"not a pickle|inside a pickle"):
        safe_loads(pickled)


# --- more names
# -------------------------------------------------------------------------------------------------


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def test_a_caller_may_allow_more_and_gets_the_arguments_and_the_state() -> None:
    class Made(Pending):
        def build(self, state: Any, charge: Any) -> Any:
            return ("made", state)

    name = (Point.__module__, "Point")
    for protocol in (2, 4):
        pickled = pickle.dumps([p := Point(3), p], protocol=protocol)
        with pytest.raises(UnsafePickle, match="Point"):
            safe_loads(pickled)
        assert safe_loads(pickled, {name: Made}) == [("made", {"x": 3})] * 2
        with pytest.raises(MalformedFrame):
            safe_loads(pickled, {name: lambda: 5})
