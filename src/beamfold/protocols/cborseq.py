"""CBOR item by item: a file's items one after the other, and the few heads that our dumps are written with.

Source: RFC 8949. Reading uses cbor2; it changed how it reads from files in 5.8 and 6 (it looks ahead, has a
new end of file error, and gives tuples and frozen dicts inside tags), so nothing else in the project reads
CBOR from files.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cbor2

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer

GZIP_MAGIC = b"\x1f\x8b"
TEXT, BYTES, ARRAY, MAP, TAG = 3, 2, 4, 5, 6
"""Major types."""


def open_maybe_gzip(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """The file for reading, decompressed on the way if it begins as gzip does, whatever its name says."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")


def read_items(path: Path) -> Iterator[Any]:
    """Every CBOR item of a file, in order, one in memory at a time.

    Tags 42877 and the like come as `CBORTag`, arrays as list or tuple, maps as any Mapping. Raises
    MalformedFrame, which says how many items were whole, after these were yielded; OSError where the file
    cannot be opened or read.
    """
    whole = 0
    with open_maybe_gzip(path) as file:
        decoder = _decoder(file)
        while True:
            try:
                if not file.peek(1):
                    return
                item = decoder.decode()
            # in cbor2 5 an end of file is an EOFError, in 6 it is not; gzip raises it too
            except (cbor2.CBORDecodeEOF, EOFError):
                raise MalformedFrame(f"{path}: the file ends inside item {whole + 1}; {_read(whole)}") from None
            except (cbor2.CBORDecodeError, RecursionError, zlib.error, gzip.BadGzipFile) as error:
                reason = f"{path}: item {whole + 1} is damaged ({error}); {_read(whole)}"
                raise MalformedFrame(reason) from None
            yield item
            whole += 1


def _read(whole: int) -> str:
    return f"{whole} before it were read whole"


def _decoder(file: io.BufferedReader | gzip.GzipFile) -> cbor2.CBORDecoder:
    """One decoder per file: a decoder that looks ahead holds bytes of the next item. With a look-ahead of 1
    it does not, so that the file's own position tells a clean end from a cut item; before 5.8 none looks
    ahead."""
    reader: Any = file
    try:
        return cbor2.CBORDecoder(reader, read_size=1)
    except TypeError:
        return cbor2.CBORDecoder(reader)


def head(major: int, number: int) -> bytes:
    """The head of an item in its shortest form: a major type and its number (length, count, tag or value)."""
    kind = major << 5
    if number < 24:
        return bytes((kind | number,))
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes((kind | code,)) + number.to_bytes(size, "big")
    raise ValueError(f"CBOR has no head for {number}")


def text(value: str) -> bytes:
    """A text item."""
    data = value.encode()
    return head(TEXT, len(data)) + data


def byte_strings(parts: list[Buffer]) -> list[Buffer]:
    """An array of byte strings, as pieces to be written one after the other; the parts are not copied."""
    pieces: list[Buffer] = [head(ARRAY, len(parts))]
    for part in parts:
        pieces += (head(BYTES, len(part)), part)
    return pieces


def write_pieces(file: BinaryIO, pieces: list[Buffer]) -> None:
    """Write them all, small ones in one go."""
    if sum(map(len, pieces)) <= io.DEFAULT_BUFFER_SIZE:
        file.write(b"".join(pieces))
    else:
        file.writelines(pieces)
