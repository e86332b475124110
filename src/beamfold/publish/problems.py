"""Errors over HTTP: problem documents (RFC 9457) whose `detail` is one text, as old clients expect."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from beamfold.model.errors import BeamfoldError, LedgerUnavailable

MAX_DETAIL = 4000
"""Characters of a detail: it may quote what somebody sent, and that may be long."""


class Problem(BaseModel):
    """What an error answers, as application/problem+json."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def refuse(status: int, detail: str) -> HTTPException:
    """The exception that answers with a problem document."""
    return HTTPException(status, detail)


def document(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem document as a response."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    shown = detail if len(detail) <= MAX_DETAIL else detail[:MAX_DETAIL] + " …"
    shown = shown.encode("utf-8", "replace").decode()  # it may quote a name of the app's that is no proper text
    body = {"type": "about:blank", "title": title, "status": status, "detail": shown}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error of this app with a problem document.

    400 for what the caller got wrong (any BeamfoldError), 422 for a query that does not validate, 503 while
    the control store is away.
    """

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return document(error.status_code, str(error.detail), dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        places = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return document(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(places))

    async def ours(_request: Request, error: Exception) -> Response:
        away = isinstance(error, LedgerUnavailable)
        return document(HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.BAD_REQUEST, str(error))

    async def left(_request: Request, error: Exception) -> Response:
        return document(HTTPStatus.BAD_REQUEST, "the client went away before its request was complete")

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(BeamfoldError, ours)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors in the OpenAPI document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; 413 as soon as it is known to be longer than `limit` bytes."""
    text = f"the body is larger than the {limit >> 20} MiB that are taken here"
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        chunks.append(chunk)
    return b"".join(chunks)
