"""A snapshot as an HDF5 file that h5py, silx, DAWN and every NeXus reader opens.

What is in it and under which names is decided in `hdftree` and `leaf`; here it is written. What this HDF5
library refuses all the same becomes an attribute `<name>_note` of its group that says so; the rest of the file
is not affected.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamfold.publish.hdftree import MAX_NOTE, HdfDataset, HdfGroup, hdf_tree
from beamfold.publish.leaf import Leaf, clean
from beamfold.publish.table import Table
from beamfold.publish.tree import Group, snapshot

if TYPE_CHECKING:
    import h5py

_REFUSED = (TypeError, ValueError, OverflowError, RuntimeError, KeyError)


def write_hdf5(
    path: Path | str, tree: Group | Table, attrs: Mapping[str, Any] | None = None, beside: Group | None = None
) -> list[str]:
    """Write a snapshot, with `attrs` as further attributes of the file (mappings in them as JSON text), and with what
    is in `beside` as further groups.

    The file appears under its name when it is whole, replacing an older one; folders are made. Returns the
    notes that were made, as "group/name: why". Raises OSError when the disk is full or the folder cannot be
    written to.
    """
    import h5py  # 0.3 s that only those who write a file should wait for

    further: Any = snapshot({str(key): value for key, value in (attrs or {}).items()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner only, and this one takes the final name.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with h5py.File(part, "x") as file:
            writer = _Writer()
            writer.group(file, hdf_tree(tree, further, beside))
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return writer.notes


class _Writer:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def group(self, group: h5py.Group, node: HdfGroup) -> None:
        self.notes += [f"{node.path}/{name}: {text}" for name, text in node.notes.items()]
        for name, child in node.members.items():
            self._member(group, name, child)
        self._attributes(group, node.attrs)

    def _member(self, group: h5py.Group, name: str, node: HdfGroup | HdfDataset) -> None:
        if isinstance(node, HdfGroup):
            self.group(group.create_group(name), node)
            return
        try:
            dataset = group.create_dataset(name, **_content(node.leaf))
        except _REFUSED as exc:
            if name in group:
                del group[name]
            self._note(group, name, f"HDF5 cannot hold this: {exc}")
        else:
            self._attributes(dataset, node.attrs)

    def _attributes(self, target: h5py.Group | h5py.Dataset, attrs: Mapping[str, Leaf]) -> None:
        for name, content in attrs.items():
            try:
                target.attrs.create(name, **_content(content))
            except _REFUSED as exc:
                self._note(target, name, f"HDF5 cannot hold this attribute: {exc}")

    def _note(self, target: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
        short = clean(text)[:MAX_NOTE]
        target.attrs[f"{name}_note"] = short
        self.notes.append(f"{target.name.rstrip('/')}/{name}: {short}")


def _content(content: Leaf) -> dict[str, Any]:
    """`data` and, where it takes one, `dtype` for create_dataset and attrs.create."""
    import h5py

    if content.array is None:
        return {"data": h5py.Empty("f4")}
    if content.text:
        array = content.array
        return {"data": array if array.ndim else array[()], "dtype": h5py.string_dtype()}
    return {"data": content.array}
