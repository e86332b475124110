"""A snapshot as an HDF5 file that h5py, silx, DAWN and every NeXus reader opens.

Groups are groups, tables groups of columns, leaves datasets; attributes go onto what they belong to, so an
app that publishes NX_class, signal and axes gets a plottable NXdata. Text is variable-length UTF-8. What HDF5
has no type for is written as the nearest thing that it has (times as ISO 8601 text, irregular lists as JSON
text), and what it cannot hold at all becomes an attribute `<name>_note` of its group that says so; the rest
of the file is not affected.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beamfold.publish.jsonable import iso_times, seconds, to_json
from beamfold.publish.table import Note, Table, column
from beamfold.publish.tree import Group, attributes, members, snapshot

if TYPE_CHECKING:
    import h5py

# HDF5 keeps small attributes in the object header, whose messages end at 64 KiB.
_MAX_ATTRIBUTE = 60_000


def write_hdf5(path: Path | str, tree: Group | Table, attrs: Mapping[str, Any] | None = None) -> list[str]:
    """Write a snapshot, with `attrs` as further attributes of the file (mappings in them as JSON text).

    The file appears under its name when it is whole, replacing an older one; folders are made. Attributes too
    large for HDF5 become datasets of a group `<name>_attrs` (`_attrs` for the file's). Returns the notes that
    were made, as "group/name: why". Raises OSError when the disk is full or the folder cannot be written to.
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
            writer.group(file, tree)
            own = attributes(tree) if isinstance(tree, dict) else {}
            writer.attributes(file, file, "", {**own, **further})
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

    def group(self, group: h5py.Group, node: Group | Table) -> None:
        if isinstance(node, Table):
            for name, data in node.columns().items():
                self._member(group, name, data)
            return
        for name, child in members(node).items():
            written = self._member(group, name, child)
            if written is not None:
                self.attributes(group, written, name, attributes(node, name))

    def _member(self, group: h5py.Group, name: str, node: Any) -> h5py.Group | h5py.Dataset | None:
        """Write one member; None, and a note, where HDF5 cannot hold it."""
        safe = _safe_name(name)
        if isinstance(node, Note):
            self._note(group, safe, node.text)
            return None
        before = set(group)
        try:
            if isinstance(node, dict | Table):
                written = group.create_group(safe)
                self.group(written, node)
                return written
            return group.create_dataset(safe, **_hdf_value(node))
        except (TypeError, ValueError, OverflowError, RuntimeError, KeyError) as exc:
            if safe in group and safe not in before:
                del group[safe]
            self._note(group, safe, f"HDF5 cannot hold this {type(node).__name__}: {exc}")
            return None

    def attributes(
        self, parent: h5py.Group, target: h5py.Group | h5py.Dataset, name: str, attrs: Mapping[str, Any]
    ) -> None:
        """Set attributes of `target`, which is called `name` in `parent`."""
        for key, value in attrs.items():
            safe = _clean(str(key)) or "_"
            plain = json.dumps(to_json(value)) if isinstance(value, dict | Table) else value
            try:
                content = _hdf_value(plain.text if isinstance(plain, Note) else plain)
                if _size(content["data"]) > _MAX_ATTRIBUTE:
                    self._member(parent.require_group(_safe_name(f"{name}_attrs")), safe, plain)
                else:
                    target.attrs.create(safe, **content)
            except (TypeError, ValueError, OverflowError, RuntimeError, KeyError) as exc:
                self._note(target, safe, f"HDF5 cannot hold this attribute: {exc}")

    def _note(self, group: h5py.Group | h5py.Dataset, name: str, text: str) -> None:
        short = _clean(text)[:2000]
        group.attrs[f"{name}_note"] = short
        self.notes.append(f"{group.name.rstrip('/')}/{name}: {short}")


def _safe_name(name: str) -> str:
    """A link name: HDF5 reserves the slash, and takes "." for the group itself."""
    cleaned = _clean(name).replace("/", "%2F")
    return {"": "%", ".": "%2E", "..": "%2E%2E"}.get(cleaned, cleaned)


def _clean(text: str) -> str:
    """Text that HDF5 can hold: no NUL, no lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def _size(data: Any) -> int:
    if isinstance(data, str):
        return len(data.encode())
    if isinstance(data, np.ndarray) and data.dtype.hasobject:
        # Sixteen bytes in the header for each text, wherever the text itself lies.
        return 16 * data.size
    return int(getattr(data, "nbytes", 0))


def _hdf_value(value: Any) -> dict[str, Any]:
    """`data` and, where it takes one, `dtype` for create_dataset and attrs.create."""
    import h5py

    if value is None or (isinstance(value, bytes) and not value):
        return {"data": h5py.Empty("f4")}
    if isinstance(value, str):
        return {"data": _clean(value), "dtype": h5py.string_dtype()}
    if isinstance(value, bytes):
        return _hdf_bytes(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return {"data": str(value), "dtype": h5py.string_dtype()}
    return _hdf_array(column(list(value)) if isinstance(value, list | tuple) else np.asarray(value))


def _hdf_bytes(value: bytes) -> dict[str, Any]:
    import h5py

    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"data": np.void(value)}
    return {"data": np.void(value)} if "\0" in text else {"data": text, "dtype": h5py.string_dtype()}


def _hdf_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    import h5py

    kind = array.dtype.kind
    if array.dtype.names is not None and not _fields_fit(array.dtype):
        array, kind = np.array(json.dumps(to_json(array))), "U"
    elif kind == "M":
        array, kind = iso_times(array), "U"
    elif kind == "m":
        array = seconds(array)
    elif kind == "S" and array.dtype.itemsize == 0:
        array = array.astype("S1")
    if kind == "U":
        texts = np.empty(array.shape, dtype=object)
        texts[...] = np.vectorize(_clean, otypes=[object])(array) if array.size else array
        return {"data": texts if array.ndim else str(texts[()]), "dtype": h5py.string_dtype()}
    return {"data": array}


def _fields_fit(dtype: np.dtype[Any]) -> bool:
    """Whether HDF5 has a compound type for this: no text, no times, at least one field."""
    if dtype.subdtype is not None:
        return _fields_fit(dtype.subdtype[0])
    if dtype.names is not None:
        fields: Any = dtype.fields
        return bool(dtype.names) and all(_fields_fit(fields[name][0]) for name in dtype.names)
    return dtype.kind in "biufcS" and dtype.itemsize > 0
