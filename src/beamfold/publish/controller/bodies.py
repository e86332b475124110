"""Bodies of requests: trigger maps in the forms that are POSTed, read and compiled where the loop is not held up.

FastAPI does not read these, so that they can be bounded and parsed in a thread; so they are described here too.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from beamfold.model.errors import MapError
from beamfold.model.triggermap import LARGEST, SequenceSpec, TriggerMap, UniformSpec, WrittenMap, compile_map

MAX_SEQUENCE = 64 << 20
"""Bytes of a trigger map's JSON: a million cells are half of that, and a longer scan can be a uniform map."""

MAX_HOOK = 1 << 20
"""Bytes of a scan hook's JSON: names and a few numbers."""

MAX_TIMEOUT = 1e9
"""Seconds: thirty years."""

AllWrap = Annotated[bool, Field(description="as in the query, which counts where both are given")]
Timeout = Annotated[
    float | None,
    Field(
        gt=0,
        le=MAX_TIMEOUT,
        description="seconds without a frame of any stream that has not ended, after which the scan is stopped; null "
        "or left out: as the run file says",
    ),
]


class SequenceBody(SequenceSpec):
    """A trigger map as parts, written out cell by cell."""

    all_wrap: AllWrap = True
    timeout: Timeout = None


class UniformBody(UniformSpec):
    """A trigger map whose data events are all alike; it always has a start and an end event."""

    all_wrap: AllWrap = True
    timeout: Timeout = None


class HookScan(BaseModel):
    """What a scan hook says about the scan."""

    nb_points: Annotated[int, Field(ge=0, le=LARGEST)]


class HookBody(BaseModel):
    """What a scan hook sends: streams that it would like, of which those that exist are used."""

    streams: list[str]
    scan: HookScan


def compile_body(body: bytes, all_wrap: bool | None) -> tuple[TriggerMap, WrittenMap]:
    """The map in this body, compiled and as written. Raises MapError.

    `all_wrap` None: what the body says, else True. Takes seconds for the largest bodies.
    """
    written = WrittenMap.of(body)
    value = written.body
    timeout = None
    if isinstance(value, dict) and {"all_wrap", "timeout"} & value.keys():
        said, timeout = value.pop("all_wrap", True), value.pop("timeout", None)
        if not isinstance(said, bool):
            raise MapError(f"all_wrap is true or false, not {str(said)[:40]!r}")
        if not (timeout is None or (type(timeout) in (int, float) and 0 < timeout <= MAX_TIMEOUT)):
            raise MapError(f"timeout is a number of seconds above 0, or null, not {str(timeout)[:40]!r}")
        all_wrap = said if all_wrap is None else all_wrap
        body = msgspec.json.encode(value)
    wrap = all_wrap is not False
    return compile_map(value, wrap), WrittenMap.of(body, wrap, timeout)


def compile_mapping(body: bytes, all_wrap: bool) -> tuple[TriggerMap, WrittenMap]:
    """The older form, one part alone: {stream: cells}. Raises MapError."""
    part = WrittenMap.of(body).body
    whole = {"parts": {"main": part}, "sequence": ["main"]}
    return compile_map(whole, all_wrap), WrittenMap.of(msgspec.json.encode(whole), all_wrap)


def compile_hook(streams: list[str], points: int) -> tuple[TriggerMap, WrittenMap]:
    """A frame of every stream in every point. Raises MapError."""
    whole = {"streams": streams, "events": points}
    return compile_map(whole), WrittenMap.of(msgspec.json.encode(whole))


def hook_fault(info: Any) -> str:
    """What is wrong with a scan hook's body, in a sentence; "" when nothing is."""
    if not isinstance(info, dict) or not isinstance(info.get("scan"), dict):
        return "no scan info"
    if "nb_points" not in info["scan"]:
        return "no nb_points in scan"
    streams, points = info.get("streams"), info["scan"]["nb_points"]
    if not isinstance(streams, list) or not all(isinstance(s, str) for s in streams):
        return "streams required: a list of names"
    if not isinstance(points, int) or isinstance(points, bool) or not 0 <= points <= LARGEST:
        return f"nb_points is a number of points, 0 or more, not {str(points)[:40]!r}"
    return ""


# -- in the API document -------------------------------------------------------------------------------------


def json_body(*models: type[BaseModel]) -> dict[str, Any]:
    """A JSON body in any of these shapes."""
    schemas = [{"$ref": f"#/components/schemas/{m.__name__}"} for m in models]
    return _body("application/json", schemas[0] if len(schemas) == 1 else {"anyOf": schemas})


def cells_body() -> dict[str, Any]:
    """A JSON body of cells by stream, as a part of a sequence has them."""
    cells = SequenceSpec.model_json_schema()["properties"]["parts"]["additionalProperties"]
    return _body("application/json", cells)


def raw_body() -> dict[str, Any]:
    """Bytes as they are."""
    return _body("application/x.bytes", {"type": "string", "format": "binary"})


def _body(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media: {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Add the models of the bodies to the API document."""
    generate = app.openapi
    _, definitions = models_json_schema(
        [(model, "validation") for model in (SequenceBody, UniformBody, HookBody)],
        ref_template="#/components/schemas/{model}",
    )

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
