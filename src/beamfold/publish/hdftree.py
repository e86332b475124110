"""A snapshot as HDF5 shows it: groups with attributes, and datasets. The file and HDF over HTTP both show this.

Groups are groups, tables groups of columns, leaves datasets; attributes belong to what they are beside. Names
are made such as HDF5 takes them. What cannot be shown is an attribute `<name>_note` of its group that says why.
Attributes too large for HDF5 are datasets of a group `<name>_attrs` (`_attrs` for the file's own).

Nothing of it is computed before it is asked for: a table's columns and a list's array cost more than the
snapshot itself. Nodes may be shared by threads; two that ask for the same at once may both compute it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

from beamfold.publish.jsonable import to_json
from beamfold.publish.leaf import Leaf, clean, leaf
from beamfold.publish.table import Note, Table
from beamfold.publish.tree import Group, attributes, members

MAX_ATTRIBUTE = 60_000
"""Bytes of an attribute: HDF5 keeps small ones in the object header, whose messages end at 64 KiB."""

MAX_NOTE = 2000
"""Characters of a note."""

Attributes: TypeAlias = dict[str, Leaf]


class HdfDataset:
    """A dataset at `path` with the attributes `attrs`."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.attrs: Attributes = {}
        self._value = value

    @cached_property
    def leaf(self) -> Leaf:
        """What it holds."""
        return leaf(self._value)


class HdfGroup:
    """A group at `path`, which is "" for the top and begins with a slash below it."""

    def __init__(
        self, path: str, node: Group | Table, further: Mapping[str, Any] | None = None, beside: Group | None = None
    ) -> None:
        self.path = path
        self._node = node
        self._given: Attributes = {}
        self._further = further or {}
        self._beside = beside or {}

    @cached_property
    def _content(self) -> _Content:
        content = _Content(self.path)
        if isinstance(self._node, Table):
            for name, data in self._node.columns().items():
                content.add(name, data)
        else:
            for name, child in members(self._node).items():
                added = content.add(name, child)
                if added is not None:
                    content.attribute(added, name, attributes(self._node, name))
        for name, child in self._beside.items():
            if (added := content.add(name, child)) is not None:
                content.attribute(added, name, attributes(self._beside, name))
        if not self.path:
            own = attributes(self._node) if isinstance(self._node, dict) else {}
            content.attribute(None, "", {**own, **self._further})
        return content

    @property
    def members(self) -> dict[str, HdfGroup | HdfDataset]:
        """Groups and datasets by name, in the order in which the app has them."""
        return self._content.members

    @property
    def attrs(self) -> Attributes:
        """Its attributes: notes on members that cannot be shown, and the app's own."""
        return self._content.attrs | self._given

    @property
    def notes(self) -> dict[str, str]:
        """Of each member that cannot be shown, why."""
        return self._content.notes

    def give(self, attrs: Attributes) -> None:
        """Add attributes that stand beside it in its parent. Only while that one is made."""
        self._given |= attrs


class _Content:
    def __init__(self, path: str) -> None:
        self._path = path
        self.members: dict[str, HdfGroup | HdfDataset] = {}
        self.attrs: Attributes = {}
        self.notes: dict[str, str] = {}

    def add(self, name: str, node: Any) -> HdfGroup | HdfDataset | None:
        """Add a member; None, and a note, where it cannot be shown."""
        safe = safe_name(name)
        if isinstance(node, Note):
            self.note(safe, node.text)
            return None
        if safe in self.members:
            self.note(safe, "HDF5 cannot hold this: another member has this name already")
            return None
        path = f"{self._path}/{safe}"
        made = HdfGroup(path, node) if isinstance(node, dict | Table) else HdfDataset(path, node)
        self.members[safe] = made
        return made

    def attribute(self, target: HdfGroup | HdfDataset | None, name: str, attrs: Mapping[str, Any]) -> None:
        """Set attributes of a member that is called `name`; None is the group itself."""
        found: Attributes = {}
        large: Group = {}
        for key, value in attrs.items():
            safe = clean(str(key)) or "_"
            plain = json.dumps(to_json(value)) if isinstance(value, dict | Table) else value
            content = leaf(plain.text if isinstance(plain, Note) else plain)
            if content.size <= MAX_ATTRIBUTE:
                found[safe] = content
            elif safe_name(f"{name}_attrs") in self.members:
                found[f"{safe}_note"] = leaf("HDF5 cannot hold this attribute: it is too large")
            else:
                large[safe] = plain
        if large:
            self.add(f"{name}_attrs", large)
        if target is None:
            self.attrs |= found
        elif isinstance(target, HdfGroup):
            target.give(found)
        else:
            target.attrs |= found

    def note(self, name: str, text: str) -> None:
        short = clean(text)[:MAX_NOTE]
        self.attrs[f"{name}_note"] = leaf(short)
        self.notes[name] = short


def hdf_tree(tree: Group | Table, attrs: Mapping[str, Any] | None = None, beside: Group | None = None) -> HdfGroup:
    """The top of a snapshot's tree, with `attrs` (plain data too) as further attributes of it, and with what is in
    `beside`, another tree, unless the first one has that name itself."""
    return HdfGroup("", tree, attrs, beside)


def safe_name(name: str) -> str:
    """A link name: HDF5 reserves the slash, and takes "." for the group itself."""
    cleaned = clean(name).replace("/", "%2F")
    return {"": "%", ".": "%2E", "..": "%2E%2E"}.get(cleaned, cleaned)
