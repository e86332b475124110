"""Which shape a client believes a dataset to have.

h5pyd 1.0 (and silx with it) notes a dataset's shape when it first meets it, and then asks for all values without
saying how many it expects; it fails where the dataset has grown meanwhile. So the shapes that were told are noted by
connection, and a client that asks for all gets as many as it was told of, with the values of now.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeAlias

from fastapi import Request

from beamfold.publish.leaf import Leaf

KEEP = 1 << 14
"""Shapes that are noted, some hundred bytes each."""

Shape: TypeAlias = tuple[int, ...]


class Told:
    """The shapes of datasets that were told lately, by connection. May be used from several threads."""

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._shapes: OrderedDict[tuple[object, str], Shape] = OrderedDict()

    def tell(self, request: Request, dataset: str, leaf: Leaf) -> None:
        """The client of this request is told of this dataset now."""
        if request.client is None or leaf.array is None:
            return
        key = (request.client, dataset)
        with self._lock:
            self._shapes[key] = leaf.array.shape
            self._shapes.move_to_end(key)
            while len(self._shapes) > self._keep:
                self._shapes.popitem(last=False)

    def select(self, request: Request, dataset: str, leaf: Leaf) -> str | None:
        """The part that this client takes for all of the dataset; None where that is all of it, or cannot be given."""
        with self._lock:
            told = self._shapes.get((request.client, dataset))
        if told is None or leaf.array is None or told == leaf.array.shape or len(told) != leaf.array.ndim:
            return None
        if any(n > now for n, now in zip(told, leaf.array.shape, strict=True)):
            return None
        return f"[{','.join(f'0:{n}' for n in told)}]"
