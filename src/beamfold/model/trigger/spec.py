"""What people and scan hooks write: a sequence of parts, or a few numbers about a uniform scan.

The sequence form is the one that dranspose's clients POST: `{"parts": {name: {stream: [cell, ...]}},
"sequence": [name, ...]}`. The cells are only counted here and read by the compiler, which walks them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from beamfold.model.errors import MapError
from beamfold.model.trigger.base import GENERIC

LARGEST = 1 << 53
"""Bound of every count and number in a uniform map: exact in any client's floats, far from int64's end."""

LATEST_START = 1 << 32
"""Bound of a stream's first event. Events before every stream's first one have no frame, and yet a state each."""

START_END = "reserved_start_end"
"""The part that clients are shown at both ends of a wrapped map."""

_ERRORS_TOLD = 5

_CELL_SCHEMA = {
    "description": "null: no frame; []: a frame that is discarded; else who gets the frame. constraint null: "
    "every worker that has all the tags; otherwise one worker, always the same for one constraint.",
    "anyOf": [
        {"type": "null"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "tags": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "default": [GENERIC],
                    },
                    "constraint": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                },
            },
        },
    ],
}

Cells = Annotated[list[Any], WithJsonSchema({"type": "array", "items": _CELL_SCHEMA})]
Tags = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class SequenceSpec(BaseModel):
    """Parts, written out cell by cell, and the order in which they occur.

    Within a part all streams have equally many cells; a stream that a part does not mention has no frames
    there. Constraints are scoped to one occurrence of a part.
    """

    model_config = ConfigDict(extra="forbid")

    parts: dict[str, dict[str, Cells]]
    sequence: Annotated[list[str], Field(min_length=1)]


class UniformStream(BaseModel):
    """A stream has a frame in data events first, first + every, first + 2*every, ... (events count from
    1)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    every: Annotated[int, Field(ge=1, le=LARGEST)] = 1
    first: Annotated[int, Field(ge=1, le=LATEST_START)] = 1


def _named_streams(value: Any) -> Any:
    """A plain list of names stands for streams with a frame in every event."""
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(name, str) for name in value):
        raise ValueError("a list of streams must hold their names")
    if len(set(value)) != len(value):
        raise ValueError("a stream is named twice")
    return {name: UniformStream() for name in value}


class UniformSpec(BaseModel):
    """All data events alike: events 1..`events` between a start and an end event, `batch` of them per virtual
    worker.

    `events` None: endless, until the series end or a stop. `broadcast`: every frame to all workers with the
    tags.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    streams: Annotated[
        dict[str, UniformStream],
        BeforeValidator(_named_streams, json_schema_input_type=dict[str, UniformStream] | list[str]),
    ]
    events: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    batch: Annotated[int, Field(ge=1, le=LARGEST)] = 1
    tags: Tags = [GENERIC]
    broadcast: bool = False


Spec = TypeVar("Spec", bound=BaseModel)


def read_spec(model: type[Spec], spec: Spec | Mapping[str, Any]) -> Spec:
    """The spec as its model; raises MapError that names every place that is wrong (the first few)."""
    if isinstance(spec, model):
        return spec
    try:
        return model.model_validate(dict(spec) if isinstance(spec, Mapping) else spec)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in found[:_ERRORS_TOLD])
        more = f"; and {len(found) - _ERRORS_TOLD} more" if len(found) > _ERRORS_TOLD else ""
        raise MapError(f"trigger map: {told}{more}") from None


def _place(loc: tuple[int | str, ...]) -> str:
    """Where in the body: parts.line.eiger, sequence.3; empty for the body as a whole."""
    return ".".join(map(str, loc)) or "the body"
