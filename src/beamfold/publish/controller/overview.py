"""The services and the scan at a glance: for clients, and as a page for a person."""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from beamfold.dispatch.load import KEPT
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.service import ControllerService
from beamfold.model.latency import Stage
from beamfold.publish.controller import models
from beamfold.publish.controller.answers import Json, answers
from beamfold.publish.controller.config import alive, config
from beamfold.publish.controller.status import load, status
from beamfold.publish.problems import refuse, responses

MAX_INTERVALS = 20
"""Intervals that are asked for at once."""

Intervals = Annotated[
    list[Annotated[int, Query(ge=1, le=KEPT)]],
    Query(max_length=MAX_INTERVALS, description="In seconds; `total` says how many seconds one really covers."),
]


_ELSEWHERE: dict[int | str, dict[str, Any]] = {**responses(404, 422, 503), 307: {"description": "where the state is"}}


def add_overview(app: FastAPI, service: ControllerService) -> None:
    """The routes that show how things are."""
    machine = service.machine

    @app.get("/api/v1/config", responses=answers(models.Config))
    async def get_config() -> Response:
        """Which services there are, with what they offer and how fast they are."""
        return Json(config(machine))

    @app.get("/api/v1/status", responses=answers(models.Status))
    async def get_status() -> Response:
        """The scan in detail, and the services with what they last said."""
        return Json(status(machine))

    @app.get("/api/v1/load", responses=answers(dict[str, models.WorkerLoad], 422))
    async def get_load(intervals: Intervals = [1, 10], scan: bool = True) -> Response:  # noqa: B006 (FastAPI copies it)
        """How busy the workers of the present (or last) scan are: in the last so many seconds, and in the scan.

        Workers say so about once a second.
        """
        return Json(load(machine, intervals, scan))

    _add_state(app, machine)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A plain page for a person."""
        return HTMLResponse(_page(machine))


def _add_state(app: FastAPI, machine: ControllerMachine) -> None:
    @app.get("/api/v1/state", include_in_schema=False)
    @app.get("/api/v1/state/{path:path}", status_code=307, response_class=RedirectResponse, responses=_ELSEWHERE)
    async def state(request: Request, path: str = "") -> RedirectResponse:
        """The published state lives at the reducer: where to find it."""
        reducer = next((s for s in alive(machine, "reducer") if s.hello.http), None)
        if reducer is None:
            raise refuse(HTTPStatus.SERVICE_UNAVAILABLE, "no reducer is connected: start one and ask again")
        where = f"{reducer.hello.http}/api/v1/state" + (f"/{quote(path)}" if path else "")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(where + query, HTTPStatus.TEMPORARY_REDIRECT)


def _way(machine: ControllerMachine) -> str:
    """How long events take, in words; "" where nobody knows."""
    total = {} if machine.scan is None else machine.scan.latency_by_stage()
    if Stage.TOTAL not in total:
        return ""
    way = total[Stage.TOTAL]
    return f", from detector to state in {1000 * way.p50:.3g} ms (99 %: {1000 * way.p99:.3g} ms)"


def _page(machine: ControllerMachine) -> str:
    progress = machine.progress()
    rows = [
        (s.key, s.gone or s.hello.error or "ready", f"pid {s.hello.pid} on {s.hello.host}")
        for s in sorted(machine.services.values(), key=lambda s: s.key)
    ]
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    scan = progress.get("scan")
    said = "No scan yet."
    if scan:
        link = f'<a href="/api/v1/scans/{html.escape(scan)}/report">{html.escape(scan)}</a>'
        total = "?" if progress["total_events"] is None else progress["total_events"]
        said = f"Scan {link}: {progress['phase']}, {progress['completed_events']} of {total} events{_way(machine)}."
        if progress["waiting"]:
            said += f" Waiting for {html.escape(', '.join(progress['waiting']))}."
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Beamfold</title>'
        "<style>body{font:16px sans-serif;margin:2em}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>Beamfold</h1><p>{said}</p><table>{table}</table>"
        '<p><a href="/api/v1/state">published state</a> · <a href="/api/v1/scans">scans</a> · '
        '<a href="/api/v1/parameters">parameters</a> · <a href="/api/v1/logs">logs</a> · '
        '<a href="/metrics">metrics</a> · <a href="/openapi.json">API</a></p>'
    )
