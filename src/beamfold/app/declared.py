"""Parameter descriptions between processes: what `describe_parameters` returned, as a control message carries it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beamfold.model.errors import ParameterError
from beamfold.model.parameters import (
    BinaryParameter,
    BoolParameter,
    FloatParameter,
    IntParameter,
    JsonParameter,
    ParameterBase,
    StrParameter,
)

_CLASSES: dict[str, type[ParameterBase]] = {
    cls.model_fields["dtype"].default: cls
    for cls in (StrParameter, IntParameter, FloatParameter, BoolParameter, BinaryParameter, JsonParameter)
}


def to_wire(parameter: ParameterBase) -> dict[str, Any]:
    """Its description for people, and its default as raw bytes under `data`."""
    return {**parameter.describe(), "data": parameter.to_bytes(parameter.default)}


def from_wire(described: dict[str, Any]) -> ParameterBase:
    """The parameter again. Raises ParameterError for a dtype that this version does not know."""
    name, dtype = described["name"], described["dtype"]
    if dtype not in _CLASSES:
        raise ParameterError(f"parameter {name!r} has dtype {dtype!r}; known are {', '.join(_CLASSES)}")
    cls = _CLASSES[dtype]
    bare = cls(name=name, description=described.get("description"))
    return bare.model_copy(update={"default": bare.from_bytes(described["data"])})


def facts(own: Iterable[ParameterBase]) -> dict[str, Any]:
    """What a usable class has to say in its service's Hello."""
    return {"parameters": [to_wire(p) for p in own], "error": ""}


def declared_together(own: Iterable[ParameterBase], others: Iterable[dict[str, Any]]) -> list[ParameterBase]:
    """What this class describes, and what other services said that their classes do; its own word counts first."""
    known = {p.name: p for p in (from_wire(d) for d in others)}
    known.update((p.name, p) for p in own)
    return [known[name] for name in sorted(known)]
