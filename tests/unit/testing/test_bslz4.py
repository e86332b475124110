"""Compressed frames open with the decoder that reads real detectors' frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from dectris.compression import decompress
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.testing.bslz4 import BLOCK_BYTES, compress

DTYPES = ["uint8", "uint16", "int32", "uint32", "float32", "float64"]


def opened(packed: bytes, array: np.ndarray) -> bytes:
    return decompress(packed, "bslz4", elem_size=array.itemsize)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 6000),
    spread=st.sampled_from([0, 1, 5, 200]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_was_put_in_comes_out(dtype: str, count: int, spread: int, seed: int) -> None:
    array = np.random.default_rng(seed).poisson(spread, count).clip(0, 255).astype(dtype)
    assert opened(compress(array), array) == array.tobytes()


@pytest.mark.parametrize("count", [1, 7, 8, 9, BLOCK_BYTES // 2 - 1, BLOCK_BYTES // 2, BLOCK_BYTES // 2 + 9])
def test_every_length_around_a_block(count: int) -> None:
    array = np.arange(count, dtype=np.uint16) * 7919
    assert opened(compress(array), array) == array.tobytes()


def test_header_says_bytes_and_block_bytes_big_endian() -> None:
    packed = compress(np.zeros((100, 100), np.uint32))
    assert struct.unpack(">QI", packed[:12]) == (40_000, 8192)


def test_dark_frames_shrink() -> None:
    assert len(compress(np.zeros((512, 512), np.uint32))) < 512 * 512 * 4 // 100


def test_noise_survives_though_it_cannot_shrink() -> None:
    array = np.random.default_rng(1).integers(0, 2**32, 5000, dtype=np.uint32)
    assert opened(compress(array), array) == array.tobytes()


def test_an_empty_array_is_only_a_header() -> None:
    assert compress(np.zeros((0, 4), np.uint16)) == struct.pack(">QI", 0, 8192)
