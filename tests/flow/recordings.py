"""Recorded streams read without a line of Beamfold, to compare with: CBOR, JSON, and numpy on the bare bytes."""

from __future__ import annotations

import json
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import numpy as np


def items(path: Path) -> Iterator[Any]:
    """The concatenated CBOR items of a file."""
    with path.open("rb") as file:
        decoder = cbor2.CBORDecoder(file)
        while file.peek(1):
            yield decoder.decode()


def positions(path: Path) -> list[tuple[float, float]]:
    """Where the points of a Contrast scan were: the elements `pseudo.x` and `pseudo.y` of its running messages."""
    return [_position(parts[0]) for parts in items(path) if parts[0].endswith(b"running" + parts[0][-4:])]


def _position(pickled: bytes) -> tuple[float, float]:
    """The two numbers, without unpickling: in a pickle of protocol 2 an array's bytes stand as a string."""
    texts = [arg for op, arg, _ in pickletools.genops(pickled) if op.name == "BINUNICODE"]
    at = texts.index("pseudo")
    found = []
    for axis in ("x", "y"):
        at = texts.index(axis, at)
        data = next(t for t in texts[at + 1 :] if len(t) == 8)
        found.append(float(np.frombuffer(data.encode("latin1"), "<f8")[0]))
    return found[0], found[1]


def spectra(path: Path) -> list[np.ndarray[Any, Any]]:
    """The images of an Xspress3 stream whose images are three messages each: uint32 [channels, bins]."""
    found = []
    shape = None
    for parts in items(path):
        if shape is not None:
            found.append(np.frombuffer(parts[0], "<u4").reshape(shape))
            shape = None
        elif parts[0][:1] == b"{" and (header := json.loads(parts[0]))["htype"] == "image":
            shape = header["shape"]
    return found


def dumped(path: Path, stream: str) -> dict[int, list[bytes]]:
    """The message parts of one stream in a dump, by event number."""
    found = {}
    for item in items(path):
        while isinstance(item, cbor2.CBORTag) and item.tag == 55799:
            item = item.value
        event, streams = item.value[:2]
        if stream in streams:
            found[int(event)] = [bytes(part) for part in streams[stream].value[1]]
    return found


def image(parts: list[bytes]) -> np.ndarray[Any, Any]:
    """An uncompressed STINS image."""
    header = json.loads(parts[0])
    return np.frombuffer(parts[1], np.dtype(header["type"])).reshape(header["shape"])
