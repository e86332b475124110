"""Pixel data: every size is checked before numpy or the decompressor sees it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame
from beamfold.protocols.arrays import image_array
from beamfold.testing.bslz4 import compress


def header(array: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    fields = {"type": array.dtype.name, "shape": list(array.shape), "compression": "none"}
    return {**fields, **changes}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64", "bool", "int64"])
def test_uncompressed_pixels_are_a_read_only_view(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    blob = array.tobytes()
    found = image_array(header(array), blob, "image")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert not found.flags.writeable
    assert np.shares_memory(found, np.frombuffer(blob, "u1"))


def test_a_writable_buffer_gives_a_read_only_array_all_the_same() -> None:
    blob = memoryview(bytearray(4))
    assert not image_array({"type": "uint8", "shape": [4]}, blob, "image").flags.writeable


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["uint8", "int16", "uint32", "float64"]), st.integers(0, 5000), st.booleans())
def test_bslz4_round_trip(dtype: str, n: int, noisy: bool) -> None:
    random = np.random.default_rng(n)
    array = random.integers(0, 120 if noisy else 2, n).astype(dtype)
    found = image_array(header(array, compression="bslz4"), compress(array), "image")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert not found.flags.writeable


def test_bslz4_may_be_a_memoryview() -> None:
    array = np.arange(10_000, dtype="u4").reshape(100, 100)
    found = image_array(header(array, compression="bslz4"), memoryview(compress(array)), "image")
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"type": "O"}, "type must name a number type"),
        ({"type": "object"}, "type must name a number type"),
        ({"type": "i4,O"}, "type must name a number type"),
        ({"type": "V2000000000"}, "type must name a number type"),
        ({"type": ["u4"]}, "type must name a number type"),
        ({"type": None}, "type must name a number type"),
        ({"shape": [3]}, "shape .3. of uint16 is 6 bytes, the message part has 12"),
        ({"shape": [2, -3]}, "shape must be a list of whole numbers"),
        ({"shape": [2, 3.0]}, "shape must be a list of whole numbers"),
        ({"shape": [True, 6]}, "shape must be a list of whole numbers"),
        ({"shape": "23"}, "shape must be a list of whole numbers"),
        ({"shape": [1] * 40}, "shape must be a list of whole numbers"),
        ({"shape": [2**40, 2**40]}, "the message part has 12"),
        ({"compression": "zip"}, "compression must be 'none' or 'bslz4', found 'zip'"),
        ({"compression": 4}, "compression must be"),
    ],
)
def test_a_header_that_does_not_fit_is_named(change: dict[str, Any], text: str) -> None:
    array = np.arange(6, dtype="u2").reshape(2, 3)
    with pytest.raises(MalformedFrame, match=f"^image 4: .*{text}"):
        image_array(header(array, **change), array.tobytes(), "image 4")


def test_an_axis_of_zero_beside_a_huge_one_reserves_nothing() -> None:
    with pytest.raises(MalformedFrame, match="no array can have shape"):
        image_array({"type": "uint8", "shape": [0, 2**62, 2**62]}, b"", "image")


@pytest.fixture(scope="module")
def packed() -> tuple[dict[str, Any], bytes]:
    array = np.random.default_rng(1).integers(0, 50, (70, 101)).astype("u4")  # 7070 elements: a tail of 6
    return header(array, compression="bslz4"), compress(array)


def test_every_cut_of_a_bslz4_blob_is_noticed_before_the_decompressor(
    packed: tuple[dict[str, Any], bytes],
) -> None:
    fields, blob = packed
    for end in [*range(40), *range(40, len(blob), 97), len(blob) - 1]:
        with pytest.raises(MalformedFrame, match=r"12 bytes of header|cannot come out of|cut short|should end at byte"):
            image_array(fields, blob[:end], "image")
    with pytest.raises(MalformedFrame, match="should end at byte"):
        image_array(fields, blob + b"x", "image")


@pytest.mark.parametrize("size", [0, 4, 28276, 28284, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_size_other_than_the_headers_is_refused(packed: tuple[dict[str, Any], bytes], size: int) -> None:
    fields, blob = packed
    with pytest.raises(MalformedFrame, match=f"make 28280 bytes, .* says {size} "):
        image_array(fields, struct.pack(">Q", size) + blob[8:], "image")


@pytest.mark.parametrize("block", [0, 1, 33, 2**25, 2**31, 2**32 - 1])
def test_a_block_size_that_cannot_be_is_refused(packed: tuple[dict[str, Any], bytes], block: int) -> None:
    fields, blob = packed
    with pytest.raises(MalformedFrame, match=f"blocks of {block} bytes"):
        image_array(fields, blob[:8] + struct.pack(">I", block) + blob[12:], "image")


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**31, 2**32 - 1])
def test_a_block_length_that_cannot_be_is_refused(packed: tuple[dict[str, Any], bytes], length: int) -> None:
    fields, blob = packed
    with pytest.raises(MalformedFrame):
        image_array(fields, blob[:12] + struct.pack(">I", length) + blob[16:], "image")


def test_a_small_blob_that_claims_a_huge_image_reserves_nothing() -> None:
    fields = {"type": "uint8", "shape": [2**20, 2**20], "compression": "bslz4"}
    with pytest.raises(MalformedFrame, match="cannot come out of 112 bytes"):
        image_array(fields, struct.pack(">QI", 2**40, 8192) + bytes(100), "image")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bslz4_data_is_an_error_or_an_image_never_a_crash(data: st.DataObject) -> None:
    array = np.random.default_rng(2).integers(0, 9, 3003).astype("u2")
    blob = bytearray(compress(array))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = image_array(header(array, compression="bslz4"), bytes(blob), "image")
    except MalformedFrame:
        return
    assert found.shape == array.shape
