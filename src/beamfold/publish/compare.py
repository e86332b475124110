"""Whether two HDF5 files of published states hold the same, leaf by leaf.

A leaf is a dataset or an attribute. Two are the same when shape, type and every bit of them are, so that NaN is the
same as NaN, and 0.0 is not the same as -0.0. What the file says of the scan (`beamfold_...`) is no part of the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from beamfold.publish.reported import REPORT

if TYPE_CHECKING:
    import h5py

MAX_SHOWN = 60
"""Characters of a value that are shown."""

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """A leaf that differs: its path ("group/name", "group/name@attribute"), and how."""

    path: str
    text: str


@dataclass(slots=True)
class Comparison:
    """How many leaves there are in either file, and which differ, by path."""

    leaves: int = 0
    differences: list[Difference] = field(default_factory=list)


def compare(first: Path, second: Path, names: tuple[str, str]) -> Comparison:
    """Compare two files, which are called `names` in what is told of them. Raises OSError for what is no HDF5 file."""
    import h5py

    found = Comparison()
    with h5py.File(first, "r") as one, h5py.File(second, "r") as other:
        ours, theirs = dict.fromkeys(_leaves(one)), dict.fromkeys(_leaves(other))
        for path in sorted(ours | theirs):
            is_group = path.endswith("/")
            found.leaves += not is_group
            if path not in ours or path not in theirs:
                there = names[path in theirs]
                value = "" if is_group else f": {_shown(_value(one if path in ours else other, path))}"
                found.differences.append(Difference(path, f"only {there}{value}"))
            elif not is_group and (text := _difference(_value(one, path), _value(other, path), names)):
                found.differences.append(Difference(path, text))
    return found


def _leaves(file: h5py.File) -> Iterator[str]:
    """The paths of all leaves, and with a slash behind them of all groups."""
    import h5py

    yield from (f"@{key}" for key in file.attrs if not key.startswith("beamfold_"))
    found: list[tuple[str, h5py.Group | h5py.Dataset]] = []
    file.visititems(lambda name, node: found.append((name, node)))
    for name, node in found:
        if name.split("/")[0] == REPORT:
            continue
        yield name if isinstance(node, h5py.Dataset) else f"{name}/"
        yield from (f"{name}@{key}" for key in node.attrs)


def _value(file: h5py.File, path: str) -> Array | None:
    """What a leaf holds; None for nothing (a null dataspace). A name may have an @ in it, an attribute's too."""
    import h5py

    if path in file:
        value = file[path][()]
    else:
        at = next(i for i in _ats(path) if (path[:i] or "/") in file and path[i + 1 :] in file[path[:i] or "/"].attrs)
        value = file[path[:at] or "/"].attrs[path[at + 1 :]]
    if isinstance(value, h5py.Empty):
        return None
    return np.array(value, object) if type(value) in (str, bytes) else np.asarray(value)


def _ats(path: str) -> Iterator[int]:
    return (i for i, character in enumerate(path) if character == "@")


def _difference(one: Array | None, other: Array | None, names: tuple[str, str]) -> str:
    """What differs between two values, "" for nothing."""
    if one is None or other is None:
        return "" if one is other else _both(_shown(one), _shown(other), names)
    if one.shape != other.shape or one.dtype != other.dtype:
        return _both(_described(one), _described(other), names)
    differing = _unequal(one, other)
    count = int(np.count_nonzero(differing))
    if not count:
        return ""
    if not one.shape:
        return _both(_shown(one), _shown(other), names)
    at = tuple(int(i) for i in np.argwhere(differing)[0])
    where = f"{count} of {one.size} differ, the first at [{', '.join(map(str, at))}]"
    return f"{where}: {_both(_shown(one[at]), _shown(other[at]), names)}"


def _unequal(one: Array, other: Array) -> Array:
    """Per element, whether not all bits are the same."""
    if one.dtype.hasobject:
        return np.asarray(one != other)
    shape = (*one.shape, one.dtype.itemsize)
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(shape) for array in (one, other)]
    return np.asarray((bits[0] != bits[1]).any(axis=-1))


def _both(one: str, other: str, names: tuple[str, str]) -> str:
    return f"{names[0]} {one}, {names[1]} {other}"


def _described(value: Array) -> str:
    name = "text" if value.dtype.hasobject else value.dtype.name
    return f"{name} of shape {value.shape}" if value.shape else f"{_shown(value)} ({name})"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray) and value.shape:
        return _described(value)
    plain = value[()] if isinstance(value, np.ndarray) else value
    if isinstance(plain, bytes):
        text = repr(plain.decode("utf-8", "backslashreplace"))
    else:
        text = repr(plain) if isinstance(plain, str) else str(plain)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


__all__ = ["Comparison", "Difference", "compare"]
