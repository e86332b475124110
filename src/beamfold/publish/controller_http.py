"""The controller's HTTP: start and watch scans, set parameters, read reports.

The routes under /api/v1 and their shapes are those that scan hooks and viewers written for dranspose use,
extended. All handlers run on the controller's own loop; what would hold it up (compiling a trigger map, the
control store) runs in threads.
"""

from __future__ import annotations

import asyncio
import html
from http import HTTPStatus
from importlib.metadata import version as version_of
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic.json_schema import models_json_schema

from beamfold.app.declared import from_wire
from beamfold.dispatch.machine import Service
from beamfold.dispatch.service import ControllerService
from beamfold.ledger.base import level_number, log_severity
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import ParameterSet, name_fault
from beamfold.model.triggermap import SequenceSpec, UniformSpec, WrittenMap
from beamfold.publish.problems import install, read_body, refuse, responses

MAX_SEQUENCE = 64 << 20
"""Bytes of a trigger map's JSON: a million cells are half of that, and a longer scan can be a uniform map."""

MAX_PARAMETER = 16 << 20
"""Bytes of one parameter: it is copied to every worker."""

MAX_LIST = 1000
"""Entries of a list that is asked for, at most."""

Limit = Annotated[int, Query(ge=1, le=MAX_LIST)]


def build_controller_app(service: ControllerService) -> FastAPI:
    """The app for this controller; it must be served on the loop on which `service` runs."""
    app = FastAPI(title="Beamfold controller", version=version_of("beamfold"), docs_url=None, redoc_url=None)
    install(app)
    _scans(app, service)
    _parameters(app, service)
    _overview(app, service)
    _document_bodies(app)
    return app


def _scans(app: FastAPI, service: ControllerService) -> None:
    @app.post("/api/v1/sequence", responses=responses(400, 413, 422, 503), openapi_extra=_SEQUENCE_BODY)
    async def sequence(request: Request, all_wrap: bool = True) -> str:
        """Start a scan with this trigger map; answers its id once every ingester is armed.

        A scan that still runs is stopped for it.
        """
        body = await read_body(request, MAX_SEQUENCE)
        written = await asyncio.to_thread(WrittenMap.of, body, all_wrap)
        trigger_map = await asyncio.to_thread(written.compile)
        return await service.submit(trigger_map, written)

    @app.get("/api/v1/progress")
    async def progress() -> dict[str, Any]:
        """How far the present (or last) scan is; `total_events` is null for an endless one."""
        return service.machine.progress()

    @app.get("/api/v1/scans", responses=responses(422, 503))
    async def scans(limit: Limit = 100) -> list[dict[str, Any]]:
        """The newest scans first."""
        return await service.scans(limit)

    @app.get("/api/v1/scans/{scan_id}", responses=responses(404, 503))
    async def scan(scan_id: str) -> dict[str, Any]:
        """One scan: its id, state and summary, without the lists of its report."""
        report = await _report(service, scan_id)
        short = ("number", "ended", "phase", "reason", "planned", "events", "states", "summary", "started")
        return {"id": scan_id, **{k: report[k] for k in (*short, "finished", "result_file") if k in report}}

    @app.get("/api/v1/scans/{scan_id}/report", responses=responses(404, 503))
    async def report(scan_id: str) -> dict[str, Any]:
        """What became of every event of the scan, as it stands."""
        return await _report(service, scan_id)

    @app.post("/api/v1/stop")
    async def stop() -> None:
        """Stop the running scan: what has arrived is still processed. Stopping twice gives that up too."""
        await service.stop()


async def _report(service: ControllerService, scan_id: str) -> dict[str, Any]:
    found = await service.report(scan_id)
    if found is None:
        raise refuse(HTTPStatus.NOT_FOUND, f"there is no scan {scan_id!r}; GET /api/v1/scans lists them")
    return found


def _parameters(app: FastAPI, service: ControllerService) -> None:
    machine = service.machine

    @app.get("/api/v1/parameters")
    async def parameters() -> list[dict[str, Any]]:
        """What worker and reducer declare, sorted by name."""
        return [{k: v for k, v in p.items() if k != "data"} for p in machine.declared()]

    @app.get("/api/v1/parameter/{name:path}", response_class=_Raw, responses=responses(404))
    async def get_parameter(name: str) -> Response:
        """The parameter's raw bytes; the declared default where nobody has set it."""
        data = machine.values.get(name)
        if data is None:
            declared = {p["name"]: p["data"] for p in machine.declared()}
            if name not in declared:
                known = ", ".join(sorted({*declared, *machine.values})) or "none"
                raise refuse(HTTPStatus.NOT_FOUND, f"there is no parameter {name!r} (there are: {known})")
            data = declared[name]
        return _Raw(data)

    @app.post("/api/v1/parameter/{name:path}", responses=responses(400, 413, 503), openapi_extra=_PARAMETER_BODY)
    async def set_parameter(name: str, request: Request) -> str:
        """Set a parameter to the raw bytes of the body; answers the hash of all parameters.

        In a running scan it takes effect at the first event that no worker can have begun.
        """
        data = await read_body(request, MAX_PARAMETER)
        fault = name_fault(name)
        if fault:
            raise ParameterError(fault)
        for described in machine.declared():
            if described["name"] == name:
                from_wire(described).from_bytes(data)
        await service.set_parameters({name: data})
        return _hash(service)


def _hash(service: ControllerService) -> str:
    """Hash of all parameters, defaults included, as every event's `parameters_hash` has it."""
    machine = service.machine
    declared = [from_wire(p) for p in machine.declared()]
    return ParameterSet.build(declared, machine.values, machine.version).hash


def _overview(app: FastAPI, service: ControllerService) -> None:
    machine = service.machine

    @app.get("/api/v1/status")
    async def status() -> dict[str, Any]:
        """The scan's progress, and the services with what they last said."""
        services = {
            s.key: {"gone": s.gone, "error": s.hello.error, "seen": s.seen, **s.stats}
            for s in machine.services.values()
        }
        return {**machine.progress(), "services": services, "parameters": machine.version}

    @app.get("/api/v1/config")
    async def config() -> dict[str, Any]:
        """Which services there are, with what they offer."""
        return _config(service)

    @app.get("/api/v1/logs", responses=responses(400, 422))
    async def logs(level: str = "INFO", limit: Limit = MAX_LIST) -> list[dict[str, Any]]:
        """The controller's log entries of at least this level, the newest last."""
        lowest = level_number(level)
        return [{"lineno": 0, **n} for n in service.notes if log_severity(n) >= lowest][-limit:]

    @app.get("/api/v1/state", include_in_schema=False)
    @app.get("/api/v1/state/{path:path}", status_code=307, responses=responses(503))
    async def state(request: Request, path: str = "") -> RedirectResponse:
        """The published state lives at the reducer: where to find it."""
        reducer = next((s for s in _alive(service, "reducer") if s.hello.http), None)
        if reducer is None:
            raise refuse(HTTPStatus.SERVICE_UNAVAILABLE, "no reducer is connected: start one and ask again")
        where = f"{reducer.hello.http}/api/v1/state" + (f"/{quote(path)}" if path else "")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(where + query, HTTPStatus.TEMPORARY_REDIRECT)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A plain page for a person."""
        return HTMLResponse(_page(service))


def _alive(service: ControllerService, role: str) -> list[Service]:
    found = [s for s in service.machine.services.values() if s.hello.role == role and not s.gone]
    return sorted(found, key=lambda s: s.hello.name)


def _config(service: ControllerService) -> dict[str, Any]:
    machine = service.machine
    scan = machine.scan
    mapping = scan.scan_id if scan is not None and scan.active else None
    try:
        parameters_hash: str | None = _hash(service)
    except ParameterError:
        parameters_hash = None  # worker and reducer contradict each other; a scan will say so

    def describe(s: Service) -> dict[str, Any]:
        hello = s.hello
        return {
            "name": hello.name,
            "url": hello.url,
            "service_uuid": hello.uuid,
            "mapping_uuid": mapping,
            "version": hello.version,
            "pid": hello.pid,
            "host": hello.host,
            "error": hello.error,
            "parameters_hash": parameters_hash,
        }

    ingesters = _alive(service, "ingester")
    names = [s.hello.name for s in ingesters]
    workers = _alive(service, "worker")
    reducers = [{**describe(s), "http": s.hello.http} for s in _alive(service, "reducer")]
    return {
        "ingesters": [
            {
                **describe(s),
                "streams": [i.name for i in s.hello.streams],
                "connected_workers": [w.hello.name for w in workers],
            }
            for s in ingesters
        ],
        "workers": [{**describe(s), "tags": s.hello.tags, "ingesters": names} for s in workers],
        "reducer": reducers[0] if reducers else None,
        "controller_version": version_of("beamfold"),
        "parameters_version": {name: str(machine.version) for name in sorted(machine.values)},
        "parameters_hash": parameters_hash,
    }


def _page(service: ControllerService) -> str:
    progress = service.machine.progress()
    rows = [
        (s.key, s.gone or s.hello.error or "ready", f"pid {s.hello.pid} on {s.hello.host}")
        for s in sorted(service.machine.services.values(), key=lambda s: s.key)
    ]
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    scan = progress.get("scan")
    said = "No scan yet."
    if scan:
        link = f'<a href="/api/v1/scans/{html.escape(scan)}/report">{html.escape(scan)}</a>'
        total = "?" if progress["total_events"] is None else progress["total_events"]
        said = f"Scan {link}: {progress['phase']}, {progress['completed_events']} of {total} events."
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Beamfold</title>'
        "<style>body{font:16px sans-serif;margin:2em}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>Beamfold</h1><p>{said}</p><table>{table}</table>"
        '<p><a href="/api/v1/state">published state</a> · <a href="/api/v1/scans">scans</a> · '
        '<a href="/api/v1/parameters">parameters</a> · <a href="/api/v1/logs">logs</a> · '
        '<a href="/openapi.json">API</a></p>'
    )


class _Raw(Response):
    media_type = "application/x.bytes"


# -- request bodies that FastAPI does not read by itself, so that they can be bounded and parsed in a th

_SEQUENCE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/SequenceSpec"},
                        {"$ref": "#/components/schemas/UniformSpec"},
                    ]
                }
            }
        },
    }
}

_PARAMETER_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/x.bytes": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _document_bodies(app: FastAPI) -> None:
    """Add the schemas of the trigger maps to the OpenAPI document."""
    generate = app.openapi
    _, definitions = models_json_schema(
        [(SequenceSpec, "validation"), (UniformSpec, "validation")],
        ref_template="#/components/schemas/{model}",
    )

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


__all__ = ["build_controller_app"]
