"""Whether two HDF5 files hold the same, leaf by leaf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamfold.publish.reported import REPORT


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two results: members, shapes, dtypes, bytes and attributes, but for the file's own ones and
    the report."""
    with h5py.File(a) as one, h5py.File(b) as other:
        first, second = _leaves(one), _leaves(other)
    names = sorted(first.keys() | second.keys())
    return [f"{n}: {first.get(n)} and {second.get(n)}" for n in names if first.get(n) != second.get(n)]


def _leaves(file: h5py.File) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if name.split("/")[0] == REPORT:
            return
        found[name] = _content(node) if isinstance(node, h5py.Dataset) else "group"
        found.update((f"{name}@{key}", _plain(value)) for key, value in node.attrs.items())

    file.visititems(visit)
    return found


def _content(dataset: h5py.Dataset) -> Any:
    return dataset.shape, str(dataset.dtype), None if dataset.shape is None else _plain(dataset[()])


def _plain(value: Any) -> Any:
    """Bytes where that is possible, so that not even the sign of a zero is overlooked."""
    if isinstance(value, h5py.Empty):
        return "empty"
    array = np.asarray(value)
    return array.tolist() if array.dtype.hasobject else array.tobytes()
