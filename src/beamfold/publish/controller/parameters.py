"""Parameters over HTTP: raw bytes in and out, checked by what worker and reducer declare."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response

from beamfold.app.declared import DUMP_PREFIX, from_wire, hash_of, to_wire
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.service import ControllerService
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import name_fault
from beamfold.publish.controller import models
from beamfold.publish.controller.answers import Json, Raw, answers
from beamfold.publish.controller.bodies import raw_body
from beamfold.publish.problems import read_body, refuse, responses

MAX_PARAMETER = 16 << 20
"""Bytes of one parameter: it is copied to every worker."""

MAX_TOGETHER = 64 << 20
"""Bytes of all parameters: every version has all of them."""

MAX_NAMES = 1000
"""Parameters that are set, declared or not."""


def add_parameters(app: FastAPI, service: ControllerService) -> None:
    """The routes about parameters."""
    machine = service.machine

    @app.get("/api/v1/parameters", responses=answers(list[models.Parameter]))
    async def parameters() -> Response:
        """What worker and reducer declare, and `dump_prefix`; sorted by name."""
        return Json([_described(p) for p in _declared(machine)])

    @app.get("/api/v1/parameter/{name:path}", response_class=Raw, responses={**responses(404, 422), 200: _BYTES})
    async def get_parameter(name: str) -> Response:
        """The parameter's raw bytes as they were last set; the declared default where nobody has set it."""
        data = machine.values.get(name)
        if data is None:
            defaults = {p["name"]: p["data"] for p in machine.declared()}
            if name not in defaults:
                known = ", ".join(sorted({*defaults, *machine.values})) or "none"
                raise refuse(HTTPStatus.NOT_FOUND, f"there is no parameter {name!r} (there are: {known})")
            data = defaults[name]
        return Raw(data)

    @app.post(
        "/api/v1/parameter/{name:path}",
        # 404: a path with a line break leads nowhere
        responses=answers(str, 400, 403, 404, 413, 422, 503, about="the hash of all parameters"),
        openapi_extra=raw_body(),
    )
    async def set_parameter(name: str, request: Request) -> str:
        """Set a parameter to the raw bytes of the body; answers the hash of all parameters.

        A list or mapping is JSON. In a running scan it takes effect at the first event that no worker can have
        begun; results carry the hash of the parameters that they were made with.
        """
        data = await read_body(request, MAX_PARAMETER)
        _check(machine, name, data)
        await service.set_parameters({name: data})
        return hash_of(machine.declared(), machine.values)


def _declared(machine: ControllerMachine) -> list[dict[str, Any]]:
    """What the app declares, and what every deployment has unless the app says otherwise."""
    known = {p["name"]: p for p in (to_wire(DUMP_PREFIX), *machine.declared())}
    return [known[name] for name in sorted(known)]


def _check(machine: ControllerMachine, name: str, data: bytes) -> None:
    """Raises ParameterError or a problem for what cannot be set."""
    fault = name_fault(name)
    if fault:
        raise ParameterError(fault)
    for described in _declared(machine):
        if described["name"] == name:
            from_wire(described).from_bytes(data)
    others = {k: v for k, v in machine.values.items() if k != name}
    if len(others) >= MAX_NAMES:
        raise refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{len(others)} parameters are set, and no more can be")
    if sum(map(len, others.values())) + len(data) > MAX_TOGETHER:
        text = f"all parameters together would be larger than {MAX_TOGETHER >> 20} MiB"
        raise refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)


def _described(wire: dict[str, Any]) -> dict[str, Any]:
    """For people. A float that JSON cannot write is text, which clients read as the number that it is."""
    described = from_wire(wire).describe()
    default = described["default"]
    if isinstance(default, float) and not math.isfinite(default):
        described["default"] = str(default)
    return described


_BYTES = {"description": "the bytes", "content": {Raw.media_type: {"schema": {"type": "string", "format": "binary"}}}}
