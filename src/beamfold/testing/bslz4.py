"""Bitshuffle + LZ4 as detectors write it: the HDF5 filter's layout with its 12-byte header.

Layout: uint64 BE uncompressed bytes, uint32 BE block bytes (8192), then for every block uint32 BE length and
an LZ4 block of the bit-shuffled elements; the last fewer than 8 elements follow as they are. Sources: the
bitshuffle HDF5 filter's file format and recorded streams.

Simulators need frames that decompress to what was put in, not speed, so this is plain NumPy and Python:
compress a few frames beforehand and send them often.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 8192

_MIN_MATCH = 4
_TAIL_LITERALS = 5  # an LZ4 block ends in at least this many literals …
_LAST_MATCH = 12  # … and no match begins in its last this many bytes
_MAX_OFFSET = 65535


def compress(array: NDArray[Any]) -> bytes:
    """The array's bytes, C order and as they lie in memory, compressed."""
    plain = array.tobytes()
    size = array.dtype.itemsize
    block = BLOCK_BYTES - BLOCK_BYTES % (8 * size)
    shuffled_end = len(plain) - len(plain) % (8 * size)
    out = bytearray(struct.pack(">QI", len(plain), block))
    for start in range(0, shuffled_end, block):
        packed = _lz4_block(_bitshuffle(plain[start : min(start + block, shuffled_end)], size))
        out += struct.pack(">I", len(packed))
        out += packed
    out += plain[shuffled_end:]
    return bytes(out)


def _bitshuffle(plain: bytes, size: int) -> bytes:
    """All first bits of all elements, then all second bits, … (a multiple of 8 elements of `size` bytes)."""
    bits = np.unpackbits(np.frombuffer(plain, np.uint8).reshape(-1, size), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little").tobytes()


def _lz4_block(data: bytes) -> bytes:
    """A valid LZ4 block: greedy matching through a table of 4-byte sequences, faster over misses."""
    out = bytearray()
    table: dict[bytes, int] = {}
    end = len(data)
    anchor = pos = 0
    misses = 0
    while pos < end - _LAST_MATCH:
        key = data[pos : pos + _MIN_MATCH]
        candidate = table.get(key)
        table[key] = pos
        if candidate is None or pos - candidate > _MAX_OFFSET:
            misses += 1
            pos += 1 + (misses >> 5)
            continue
        length = _match_length(data, candidate, pos, end - _TAIL_LITERALS)
        _sequence(out, data[anchor:pos], pos - candidate, length)
        pos += length
        anchor = pos
        misses = 0
    _sequence(out, data[anchor:], 0, 0)
    return bytes(out)


def _match_length(data: bytes, candidate: int, pos: int, limit: int) -> int:
    length = _MIN_MATCH
    # Whole stretches at a time: shuffled detector data is mostly long runs of zeros.
    for step in (1024, 64, 1):
        while (
            pos + length + step <= limit
            and data[candidate + length : candidate + length + step] == data[pos + length : pos + length + step]
        ):
            length += step
    return length


def _sequence(out: bytearray, literals: bytes, offset: int, length: int) -> None:
    """Append literals and, unless `offset` is 0 (the block's end), a match."""
    extra = length - _MIN_MATCH if offset else 0
    out.append(min(len(literals), 15) << 4 | min(extra, 15))
    _length(out, len(literals))
    out += literals
    if offset:
        out += struct.pack("<H", offset)
        _length(out, extra)


def _length(out: bytearray, value: int) -> None:
    """The bytes that continue a length of 15 and more."""
    if value < 15:
        return
    rest = value - 15
    out += b"\xff" * (rest // 255)
    out.append(rest % 255)
