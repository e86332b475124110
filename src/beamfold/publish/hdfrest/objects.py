"""A snapshot's groups and datasets with their ids, and the documents that describe them.

An id is "g-" or "d-" and the UUID (version 5) of the path, so it is the same in every snapshot and after a
restart. Documents are plain dicts, in the shapes of `models`.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

from beamfold.model.errors import BeamfoldError
from beamfold.publish.hdfrest.types import Json, shape_json, type_json
from beamfold.publish.hdfrest.values import value_json
from beamfold.publish.hdftree import HdfDataset, HdfGroup, hdf_tree, safe_name
from beamfold.publish.leaf import Leaf
from beamfold.publish.snapshots import Snapshot

Node: TypeAlias = HdfGroup | HdfDataset

LIVE = "/live"
"""The domain of the newest snapshot; "/" is the same."""

_PATHS = uuid.UUID("b5a4ad4b-2f0c-5bb0-9f5e-6f0d3d5d7c11")
"""The namespace of our paths' UUIDs. Another one would change every id."""

_DOMAIN = re.compile(r"/*(?:live)?(?:@([0-9]{1,18}))?/*", re.IGNORECASE)


class NotThere(BeamfoldError):
    """There is no such object, link, attribute or domain; the text says what there is."""


def version_of(domain: str | None) -> int | None:
    """The version that a domain pins; None for the newest. NotThere."""
    found = _DOMAIN.fullmatch(domain or "")
    if found is None:
        shown = repr((domain or "")[:100])
        raise NotThere(f"there is no domain {shown}: expected {LIVE}, or {LIVE}@VERSION for one that is kept")
    return None if found[1] is None else int(found[1])


def object_id(node: Node) -> str:
    """The id of a group or dataset."""
    return f"{'g' if isinstance(node, HdfGroup) else 'd'}-{_uuid(node.path)}"


@lru_cache(maxsize=1 << 16)
def _uuid(path: str) -> uuid.UUID:
    return uuid.uuid5(_PATHS, path)


class Objects:
    """The objects of one snapshot, for any number of threads."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self.root = hdf_tree(snapshot.tree)
        self._lock = threading.Lock()
        self._found: dict[str, Node] = {}
        self._left: Iterator[Node] = _walk(self.root)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Objects:
        """Those of this snapshot, made once for it."""
        made: Objects = snapshot.derived.setdefault("objects", cls(snapshot))
        return made

    def group(self, group_id: str) -> HdfGroup:
        """NotThere."""
        node = self._node(group_id)
        if isinstance(node, HdfGroup):
            return node
        raise NotThere(f"there is no group {group_id[:100]!r} in the published state")

    def dataset(self, dataset_id: str) -> HdfDataset:
        """NotThere."""
        node = self._node(dataset_id)
        if isinstance(node, HdfDataset):
            return node
        raise NotThere(f"there is no dataset {dataset_id[:100]!r} in the published state")

    def _node(self, wanted: str) -> Node | None:
        with self._lock:  # the walk is one, so that a table's columns are not computed by two
            if wanted not in self._found:
                for node in self._left:
                    found = object_id(node)
                    self._found[found] = node
                    if found == wanted:
                        break
            return self._found.get(wanted)

    # -- documents -------------------------------------------------------------------------------------------

    def domain_json(self) -> Json:
        """What a client opens."""
        return {
            "root": object_id(self.root),
            "class": "domain",
            "owner": "beamfold",
            "domain": LIVE,
            "pinned": f"{LIVE}@{self.version}",
            "beamfold_version": self.version,
            **self._times(),
        }

    def group_json(self, node: HdfGroup, links: bool = False, attrs: bool = False) -> Json:
        """A group, with what it contains where that is asked for."""
        found = {**self._object(node), "linkCount": len(node.members), "attributeCount": len(node.attrs)}
        if links:
            found["links"] = {name: self._link(name, child) for name, child in sorted(node.members.items())}
        return found | self._embedded(node, attrs)

    def dataset_json(self, node: HdfDataset, attrs: bool = False) -> Json:
        """A dataset without its values."""
        found = {
            **self._object(node),
            "shape": shape_json(node.leaf),
            "type": type_json(node.leaf),
            "attributeCount": len(node.attrs),
            "creationProperties": {},
        }
        return found | self._embedded(node, attrs)

    def links_json(self, node: HdfGroup, creation: bool, limit: int | None, marker: str | None) -> Json:
        """A group's links, by name or in the app's order; `limit` of them after the one called `marker`."""
        names = _page(node.members, creation, limit, marker)
        return {"links": [self._link(name, node.members[name]) for name in names]}

    def link_json(self, node: HdfGroup, name: str) -> Json:
        """One link. NotThere."""
        # A client decodes "%2F" on its way here.
        for known in (name, safe_name(name)):
            if known in node.members:
                return {"link": self._link(known, node.members[known]), **self._times()}
        raise NotThere(f"there is no link {name[:100]!r} in {node.path or '/'!r}")

    def attributes_json(self, node: Node, creation: bool, limit: int | None, marker: str | None, values: bool) -> Json:
        """An object's attributes, like `links_json`; with their values if asked for."""
        attrs = node.attrs
        names = _page(attrs, creation, limit, marker)
        return {"attributes": [self._attribute(name, attrs[name], values) for name in names]}

    def attribute_json(self, node: Node, name: str) -> Json:
        """One attribute with its value. NotThere."""
        attrs = node.attrs
        for known in (name, name.replace("/", "%2F")):
            if known in attrs:
                return self._attribute(known, attrs[known], values=True)
        raise NotThere(f"there is no attribute {name[:100]!r} on {node.path or '/'!r}")

    def _times(self) -> Json:
        # The state knows no other time than when it was read.
        return {"created": self.version / 1000, "lastModified": self.version / 1000}

    def _object(self, node: Node) -> Json:
        return {"id": object_id(node), "root": object_id(self.root), "domain": LIVE, **self._times()}

    def _embedded(self, node: Node, attrs: bool) -> Json:
        if not attrs:
            return {}
        return {"attributes": {name: self._attribute(name, a, True) for name, a in sorted(node.attrs.items())}}

    def _link(self, name: str, node: Node) -> Json:
        collection = "groups" if isinstance(node, HdfGroup) else "datasets"
        return {
            "class": "H5L_TYPE_HARD",
            "collection": collection,
            "id": object_id(node),
            "title": name,
            **self._times(),
        }

    def _attribute(self, name: str, leaf: Leaf, values: bool) -> Json:
        found = {"name": name, "shape": shape_json(leaf), "type": type_json(leaf), **self._times()}
        return {**found, "value": value_json(leaf)} if values else found


def _walk(root: HdfGroup) -> Iterator[Node]:
    """All objects, those near the top first."""
    level: list[Node] = [root]
    while level:
        yield from level
        level = [child for node in level if isinstance(node, HdfGroup) for child in node.members.values()]


def _page(names: Iterable[str], creation: bool, limit: int | None, marker: str | None) -> list[str]:
    ordered = list(names) if creation else sorted(names)
    if marker is not None:
        ordered = ordered[ordered.index(marker) + 1 :] if marker in ordered else []
    return ordered[:limit]
