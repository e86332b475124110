"""Starting, watching and stopping scans over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from beamfold.dispatch.service import ControllerService
from beamfold.model.triggermap import TooLong, TriggerMap, WrittenMap, shown
from beamfold.publish.controller import bodies, models
from beamfold.publish.controller.answers import Json, Limit, answers
from beamfold.publish.problems import read_body, refuse

AllWrap = Annotated[
    bool | None,
    Query(
        description="Add a first and a last event that go to all workers: for the start and the end messages of the "
        "streams. Left out: true, or what the body says."
    ),
]

_SHORT = ("number", "ended", "phase", "reason", "planned", "events", "states", "summary", "started", "finished")


MOST = {"ticks": 10_000, "out_of_order": 10_000, "parameters": 1000}
"""Entries shown of a report's lists that grow with the length of a scan; others are bounded as they are made."""


def add_scans(app: FastAPI, service: ControllerService) -> None:
    """The routes about scans, their maps and their reports."""
    _add_start(app, service)
    _add_older(app, service)
    _add_map(app, service)
    _add_reports(app, service)

    @app.get("/api/v1/progress", responses=answers(models.Progress))
    async def progress() -> Response:
        """How far the present (or last) scan is."""
        return Json(service.machine.progress())

    @app.post("/api/v1/stop", responses=answers(None, 403))
    async def stop() -> None:
        """Stop the running scan: what has arrived is still processed. Stopping twice gives that up too."""
        await service.stop()


async def _submit(service: ControllerService, compiled: Callable[[], tuple[TriggerMap, WrittenMap]]) -> str:
    trigger_map, written = await asyncio.to_thread(compiled)
    return await service.submit(trigger_map, written)


def _add_start(app: FastAPI, service: ControllerService) -> None:
    @app.post(
        "/api/v1/sequence",
        responses=answers(str, 400, 403, 413, 422, about="the id of the scan"),
        openapi_extra=bodies.json_body(bodies.SequenceBody, bodies.UniformBody),
    )
    async def sequence(request: Request, all_wrap: AllWrap = None) -> str:
        """Start a scan with this trigger map; answers its id once every ingester is armed.

        The map is a sequence of parts, or a few numbers about a uniform scan; what GET /api/v1/scans/{id}/map
        answers can be sent back here as it is. A scan that still runs is stopped for it.
        """
        body = await read_body(request, bodies.MAX_SEQUENCE)
        return await _submit(service, lambda: bodies.compile_body(body, all_wrap))


def _add_older(app: FastAPI, service: ControllerService) -> None:
    @app.post(
        "/api/v1/mapping",
        deprecated=True,
        responses=answers(str, 400, 403, 413, 422, about="the id of the scan"),
        openapi_extra=bodies.cells_body(),
    )
    async def mapping(request: Request, all_wrap: bool = True) -> str:
        """Start a scan of one part: its cells by stream. POST /api/v1/sequence can do more."""
        body = await read_body(request, bodies.MAX_SEQUENCE)
        return await _submit(service, lambda: bodies.compile_mapping(body, all_wrap))

    @app.post(
        "/api/v1/sardana_hook",
        deprecated=True,
        responses=answers(str, 400, 403, 413, about="the id of the scan, or a sentence that says what is wrong"),
        openapi_extra=bodies.json_body(bodies.HookBody),
    )
    async def sardana_hook(request: Request) -> str:
        """Start a scan of so many points with those of the streams that exist.

        Hooks look at nothing but the text, so what they got wrong is a sentence with status 200.
        """
        info = WrittenMap.of(await read_body(request, bodies.MAX_HOOK)).body
        if fault := bodies.hook_fault(info):
            return fault
        there = service.machine.streams()
        streams = [name for name in dict.fromkeys(info["streams"]) if name in there]
        if not streams:
            return f"none of the streams is available (there are: {', '.join(sorted(there)) or 'none'})"
        return await _submit(service, lambda: bodies.compile_hook(streams, info["scan"]["nb_points"]))


def _add_map(app: FastAPI, service: ControllerService) -> None:
    @app.get("/api/v1/mapping", deprecated=True, responses=answers(models.ShownMap, 409))
    @app.get("/api/v1/sequence", responses=answers(models.ShownMap, 409))
    async def shown_map() -> Response:
        """The trigger map that was submitted last, as parts and their sequence; both empty before the first scan.

        A uniform map is shown as occurrences of a part. 409 when it is endless, or longer than 100 000 cells or
        names: GET /api/v1/scans/{id}/map has every map in its compact form.
        """
        scan = service.machine.newest
        if scan is None:
            return Json({"parts": {}, "sequence": []})
        written = scan.written
        if written is None:
            raise refuse(HTTPStatus.CONFLICT, "nobody wrote this scan's map down")
        try:
            return await asyncio.to_thread(lambda: Json(shown(written)))
        except TooLong as error:
            compact = f"GET /api/v1/scans/{scan.scan_id}/map for the compact form"
            raise refuse(HTTPStatus.CONFLICT, f"{error}; {compact}") from None

    @app.get("/api/v1/scans/{scan_id}/map", responses=answers(bodies.SequenceBody | bodies.UniformBody, 404, 422, 503))
    async def written(scan_id: str) -> Response:
        """The scan's trigger map as it was written, `all_wrap` and `timeout`: POST /api/v1/sequence takes it back.

        404 also for a map that is not kept any more: very long ones are kept until the next scan.
        """
        found = await service.written(scan_id)
        if found is None:
            await _report(service, scan_id)
            raise refuse(HTTPStatus.NOT_FOUND, f"the map of scan {scan_id!r} is not kept any more")
        return await asyncio.to_thread(lambda: Json(_written(found)))


def _written(found: WrittenMap) -> dict[str, Any]:
    return {**found.body, "all_wrap": found.all_wrap, **({"timeout": found.timeout} if found.timeout else {})}


def _add_reports(app: FastAPI, service: ControllerService) -> None:
    @app.get("/api/v1/scans", responses=answers(list[models.ScanLine], 422, 503))
    async def scans(limit: Limit = 100) -> Response:
        """The newest scans first."""
        return Json(await service.scans(limit))

    @app.get("/api/v1/scans/{scan_id}", responses=answers(models.ScanSummary, 404, 422, 503))
    async def scan(scan_id: str) -> Response:
        """One scan: its id, state and summary, without the lists of its report."""
        report = await _report(service, scan_id)
        return Json({"id": scan_id, **{k: report[k] for k in (*_SHORT, "result_file") if k in report}})

    @app.get("/api/v1/scans/{scan_id}/report", responses=answers(models.Report, 404, 422, 503))
    async def report(scan_id: str) -> Response:
        """What became of every event of the scan, as it stands.

        Of the longest lists the newest entries are shown; the stored result has all of them.
        """
        found = await _report(service, scan_id)
        return Json({**found, **{key: found[key][-most:] for key, most in MOST.items() if key in found}})


async def _report(service: ControllerService, scan_id: str) -> dict[str, Any]:
    found = await service.report(scan_id)
    if found is None:
        raise refuse(HTTPStatus.NOT_FOUND, f"there is no scan {scan_id!r}; GET /api/v1/scans lists them")
    return found
