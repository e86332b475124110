"""Log entries of all services over HTTP: the newest ones, and all that come, as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Response
from fastapi.responses import StreamingResponse

from beamfold.dispatch.notes import Notes, Reader
from beamfold.dispatch.service import ControllerService
from beamfold.ledger.base import level_number, log_severity
from beamfold.publish.controller import models
from beamfold.publish.controller.answers import MAX_LIST, Json, Limit, answers
from beamfold.publish.problems import refuse, responses

NDJSON = "application/x-ndjson"

Level = Annotated[str, Query(description="The lowest level shown: DEBUG, INFO, WARNING, ERROR or CRITICAL.")]


def add_logs(app: FastAPI, service: ControllerService) -> None:
    """The routes about logs. Whoever reads along is let go when the server stops."""
    notes = service.notes
    app.state.on_stop = notes.close

    @app.get("/api/v1/logs", responses=answers(list[models.LogEntry], 400, 422))
    async def logs(level: Level = "INFO", limit: Limit = MAX_LIST) -> Response:
        """The newest log entries of at least this level, the newest last, of all services."""
        lowest = level_number(level)
        return Json([entry for entry in notes if log_severity(entry) >= lowest][-limit:])

    @app.get("/api/v1/log_stream", response_class=StreamingResponse, responses={**responses(503), 200: _STREAM})
    async def log_stream() -> Response:
        """Log entries as they come, one JSON object a line, without an end.

        A reader that is too slow gets an entry that says how many were left out.
        """
        if notes.full:
            raise refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{notes.readers} clients read along, and no more can")
        return StreamingResponse(_lines(notes), media_type=NDJSON)


async def _lines(notes: Notes) -> AsyncIterator[bytes]:
    with Reader(notes) as reader:
        while entries := await reader.next():
            yield b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


_STREAM: dict[str, Any] = {
    "description": "one entry a line, as in GET /api/v1/logs",
    "content": {NDJSON: {"schema": {"type": "string"}}},
}
