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

PIECE = 1 << 18
"""Bytes that are read at a time: many small items, and few enough to stay in the processor's cache."""


def open_maybe_gzip(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """The file for reading, decompressed on the way if it begins as gzip does, whatever its name says."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")


class Items:
    """The items of a file, read in large pieces: `data[at:]` is in memory and not yet used.

    Whoever can tell items by their bytes takes them from there; `item` decodes any. `whole` counts those that are
    taken. Every method but the first raises MalformedFrame, which says how many were, where the file breaks off or is
    damaged; OSError where it cannot be read.
    """

    def __init__(self, path: Path, file: io.BufferedReader | gzip.GzipFile) -> None:
        self._path = path
        self._file = file
        self._damage: Exception | None = None
        self._decoding: tuple[io.BytesIO, cbor2.CBORDecoder] | None = None
        self.data = b""
        self.at = 0
        self.whole = 0

    def more(self, size: int = 1) -> bool:
        """Read on by `size` bytes at least, unless the file ends before; False when it has ended already."""
        pieces, short = [self.data[self.at :]], max(size, PIECE)
        while short > 0 and not self._damage:
            try:
                # One read of what lies below: an error of a later one would lose what this one has found.
                piece = self._file.read1(min(short, PIECE))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self._damage = error
                break
            if not piece:
                break
            pieces.append(piece)
            short -= len(piece)
        if len(pieces) > 1:
            self.data, self.at, self._decoding = b"".join(pieces), 0, None
            return True
        if self._damage:
            raise self._damaged(self._damage)
        return False

    def item(self) -> Any:
        """The next item, of which there is a byte at least, whatever it is.

        Tags 42877 and the like come as `CBORTag`, arrays as list or tuple, maps as any Mapping.
        """
        while True:
            file, decoder = self._decoding = self._decoding or _decoder(self.data)
            file.seek(self.at)
            try:
                found = decoder.decode()
            # in cbor2 5 an end of file is an EOFError, in 6 it is not
            except (cbor2.CBORDecodeEOF, EOFError):
                if not self.more(len(self.data) - self.at):
                    raise self._damaged(EOFError()) from None
                continue
            except (cbor2.CBORDecodeError, RecursionError) as error:
                raise self._damaged(error) from None
            self.at = file.tell()
            self.whole += 1
            return found

    def __iter__(self) -> Iterator[Any]:
        while self.at < len(self.data) or self.more():
            yield self.item()

    def _damaged(self, error: Exception) -> MalformedFrame:
        number, read = self.whole + 1, f"{self.whole} before it were read whole"
        if isinstance(error, EOFError):
            return MalformedFrame(f"{self._path}: the file ends inside item {number}; {read}")
        return MalformedFrame(f"{self._path}: item {number} is damaged ({error}); {read}")


def read_items(path: Path) -> Iterator[Any]:
    """Every CBOR item of a file, in order, as `Items.item` decodes them.

    Raises MalformedFrame, which says how many items were whole, after these were yielded; OSError where the file
    cannot be opened or read.
    """
    with open_maybe_gzip(path) as file:
        yield from Items(path, file)


def _decoder(data: bytes) -> tuple[io.BytesIO, cbor2.CBORDecoder]:
    """A decoder that does not look ahead, so that the file's position tells where an item ends."""
    file = io.BytesIO(data)
    try:
        return file, cbor2.CBORDecoder(file, read_size=1)
    except TypeError:  # before 5.8 none does
        return file, cbor2.CBORDecoder(file)


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
