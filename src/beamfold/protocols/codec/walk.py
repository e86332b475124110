"""What one encoding carries along, and how it says what cannot travel and where that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from beamfold.model.events import Buffer
from beamfold.protocols.codec.codes import MAX_DEPTH
from beamfold.protocols.codec.types import TypeTable

pack = msgspec.msgpack.Encoder().encode

ALWAYS_PLAIN = frozenset({type(None), bool, float})
USUALLY_PLAIN = ALWAYS_PLAIN | {int, str}


class Walk:
    """One encoding. `plain` are the types that msgpack takes as they are and that need no look."""

    __slots__ = ("buffers", "copy", "plain", "types")

    def __init__(self, buffers: list[Buffer], types: TypeTable | None, copy: bool, plain: frozenset[type]) -> None:
        self.buffers = buffers
        self.types = types
        self.copy = copy
        self.plain = plain


Lower: TypeAlias = Callable[[Any, Walk, int], Any]
"""Turns one object into what msgpack takes: (object, walk, depth) -> plain value or Ext."""


class Refused(Exception):
    """Something cannot travel. Collects the way to it while it passes through the containers around it."""

    def __init__(self, culprit: object, reason: str) -> None:
        super().__init__(reason)
        self.culprit = culprit
        self.steps: list[str] = []

    def inside(self, container: object, entries: Iterable[tuple[str, object]]) -> None:
        """Add one step: the trouble is in this container; `entries` are its parts by how they are written."""
        self.steps.append(next((step for step, value in entries if value is self.culprit), "[?]"))
        self.culprit = container

    def text(self) -> str:
        steps = self.steps[::-1]
        if len(steps) > 12:
            steps = [*steps[:8], " … ", *steps[-2:]]
        return f"result{''.join(steps)}: {self}"


def too_deep(obj: object) -> Refused:
    """For a container at depth MAX_DEPTH."""
    return Refused(
        obj,
        f"this {type(obj).__name__} is nested deeper than {MAX_DEPTH} levels, or contains itself; "
        "return a flatter structure",
    )


def type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
