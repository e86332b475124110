"""Parameter descriptions between processes: what `describe_parameters` returned, as a control message carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from beamfold.model.errors import ParameterError
from beamfold.model.parameters import (
    BinaryParameter,
    BoolParameter,
    FloatParameter,
    IntParameter,
    JsonParameter,
    ParameterBase,
    ParameterSet,
    StrParameter,
)

_CLASSES: dict[str, type[ParameterBase]] = {
    cls.model_fields["dtype"].default: cls
    for cls in (StrParameter, IntParameter, FloatParameter, BoolParameter, BinaryParameter, JsonParameter)
}

DUMP_PREFIX = StrParameter(
    name="dump_prefix", description="Prefix of the files that ingesters dump what they receive to"
)
"""The parameter that every deployment has. No app declares it, so hooks see it once somebody has set it."""


def to_wire(parameter: ParameterBase) -> dict[str, Any]:
    """Its description for people, and its default as raw bytes under `data`."""
    return {**parameter.describe(), "data": parameter.to_bytes(parameter.default)}


def from_wire(described: dict[str, Any]) -> ParameterBase:
    """The parameter again. Raises ParameterError for a dtype that this version does not know, and for what is no
    description."""
    name, dtype, data = (described.get(key) for key in ("name", "dtype", "data"))
    if not isinstance(name, str):
        raise ParameterError(f"{name!r} is no name of a parameter")
    if not isinstance(dtype, str) or dtype not in _CLASSES:
        raise ParameterError(f"parameter {name!r} has dtype {dtype!r}; known are {', '.join(_CLASSES)}")
    if not isinstance(data, bytes):
        raise ParameterError(f"parameter {name!r} has no default as bytes")
    try:
        bare = _CLASSES[dtype](name=name, description=described.get("description"))
    except ValueError as error:  # pydantic's
        raise ParameterError(f"not a parameter's description: {error}") from error
    return bare.model_copy(update={"default": bare.from_bytes(data)})


def facts(own: Iterable[ParameterBase]) -> dict[str, Any]:
    """What a usable class has to say in its service's Hello."""
    return {"parameters": [to_wire(p) for p in own], "error": ""}


def declared_together(own: Iterable[ParameterBase], others: Iterable[dict[str, Any]]) -> list[ParameterBase]:
    """What this class describes, and what other services said that their classes do; its own word counts first."""
    known = {p.name: p for p in (from_wire(d) for d in others)}
    known.update((p.name, p) for p in own)
    return [known[name] for name in sorted(known)]


def hash_of(declared: Iterable[dict[str, Any]], values: Mapping[str, bytes]) -> str:
    """Hash of all parameters, defaults included, as results know it; "" while they do not fit what is declared."""
    try:
        return ParameterSet.build([from_wire(d) for d in declared], values, 0).hash
    except ParameterError:
        return ""
