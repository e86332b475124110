"""The reducer's HTTP: the published state while the scan runs, as JSON, as bytes, and as HDF for h5pyd and silx.

All of it is answered from `Snapshots`, the one thing that this knows of the reducer. What takes time (encoding,
indexing, packing) runs in threads, so that whoever asks for much keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import version as version_of
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from beamfold.publish.answers import (
    JSON,
    NOT_MODIFIED,
    OCTETS,
    STATE_ERRORS,
    Body,
    NoneMatch,
    answer,
    preferred,
    snapshot_of,
)
from beamfold.publish.hdfrest.models import Domain
from beamfold.publish.hdfrest.routes import domain_answer, hdf_routes
from beamfold.publish.metrics import add_metrics
from beamfold.publish.problems import install, refuse, responses
from beamfold.publish.raw import DTYPE_HEADER, NPY, SHAPE_HEADER, Form, NoArray, raw
from beamfold.publish.reducer_metrics import ReducerMetrics
from beamfold.publish.serve import HttpThread
from beamfold.publish.snapshots import Read, Snapshot, Snapshots
from beamfold.publish.tree import resolve, to_json
from beamfold.reduce.service import Progress

MAX_KEYS = 100
"""Keys named in an answer that says which there are."""

MAX_PIECES = 200
"""Slashes in a path: three times as many as the state has levels, since names may have some too."""

MAX_ENCODED = 64
"""Paths of which the newest snapshot's JSON is kept."""

MAX_ENCODED_BYTES = 64 << 20
"""Bytes of JSON that are kept together; what exceeds them is made anew for everybody who asks."""

_FORMS: dict[str, Form] = {JSON: "json", OCTETS: "raw", NPY: "npy"}


class Encoded:
    """The JSON of parts of the newest snapshot, made once for all who poll it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._known: dict[str, bytes] = {}
        self._nbytes = 0

    def get(self, snapshot: Snapshot, path: str) -> bytes:
        """JSON of the node at `path` ("" for all). LookupError, with the keys there are."""
        with self._lock:
            if snapshot.version > self._version or len(self._known) >= MAX_ENCODED:
                self._version, self._known, self._nbytes = snapshot.version, {}, 0
            data = self._known.get(path) if snapshot.version == self._version else None
            if data is None:
                data = msgspec.json.encode(to_json(find(snapshot, path)))
                if snapshot.version == self._version and self._nbytes + len(data) <= MAX_ENCODED_BYTES:
                    self._known[path] = data
                    self._nbytes += len(data)
            return data


def find(snapshot: Snapshot, path: str) -> Any:
    """The node, or a LookupError that names what there is at the last level that exists."""
    if path.count("/") > MAX_PIECES:  # every beginning of it is looked up
        raise LookupError(f"there is nothing so deep in the published state: {path[:100]!r} …")
    try:
        return resolve(snapshot.tree, path)
    except KeyError:
        pass
    names = [name for name in path.split("/") if name]
    for depth in range(len(names) - 1, -1, -1):
        above = "/".join(names[:depth])
        try:
            node = resolve(snapshot.tree, above)
        except KeyError:
            continue
        keys = [str(key) for key in node] if isinstance(node, dict) else []
        there = ", ".join(keys[:MAX_KEYS]) + (", …" if len(keys) > MAX_KEYS else "")
        where = f"below {above!r}" if above else "in the published state"
        raise LookupError(f"there is no {names[depth]!r} {where} (there are: {there or 'none'})")
    raise LookupError(f"there is no {path!r} in the published state")


def build_reducer_app(read: Read, progress: Callable[[], Progress] = Progress) -> FastAPI:
    """The app of a reducer whose `read(timeout)` gives a consistent snapshot (None before the first scan).

    `progress` gives what it has done so far; both are called in other threads than the reducer's.
    """
    app = FastAPI(title="Beamfold reducer", version=version_of("beamfold"), docs_url=None, redoc_url=None)
    install(app)
    snapshots = Snapshots(read)
    app.state.on_stop = snapshots.close
    # Viewers are pages of other origins, and no page can do more here than read what anybody who reaches this
    # address can read: nothing is changed, and no cookie or other credential is looked at or sent along.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET"],
        allow_headers=["If-None-Match"],
        expose_headers=["ETag", DTYPE_HEADER, SHAPE_HEADER],
    )
    _state(app, snapshots)
    _root(app, snapshots)
    add_metrics(app, ReducerMetrics(progress, snapshots))
    app.include_router(hdf_routes(snapshots))
    return app


def _state(app: FastAPI, snapshots: Snapshots) -> None:
    encoded = Encoded()

    async def part_of(request: Request, path: str, form: Form | None, none_match: str | None) -> Response:
        snapshot = await snapshot_of(snapshots)
        wanted = form or _FORMS[preferred(request.headers.get("accept"), tuple(_FORMS))]

        def make() -> Body:
            if wanted == "json":
                return encoded.get(snapshot, path), JSON, {}
            return raw(find(snapshot, path), wanted)

        try:
            return await answer(snapshot, none_match, make, "" if wanted == "json" else f"-{wanted}")
        except LookupError as error:
            raise refuse(HTTPStatus.NOT_FOUND, str(error.args[0])) from None
        except NoArray as error:
            status = HTTPStatus.NOT_ACCEPTABLE if form is None else HTTPStatus.BAD_REQUEST
            raise refuse(status, str(error)) from None

    @app.get("/api/v1/state", responses=_PART)
    async def whole(request: Request, form: FormQuery = None, none_match: NoneMatch = None) -> Any:
        """The published state: groups as objects, arrays as lists, tables as `keys` and `values`."""
        return await part_of(request, "", form, none_match)

    @app.get("/api/v1/state/{path:path}", responses=_PART)
    async def part(request: Request, path: str, form: FormQuery = None, none_match: NoneMatch = None) -> Any:
        """One group, table or value of the published state; an array also as bytes."""
        return await part_of(request, path, form, none_match)

    @app.get("/api/v1/status")
    async def status() -> bool:
        """Whether the reducer is there: true."""
        return True


def _root(app: FastAPI, snapshots: Snapshots) -> None:
    @app.get("/", responses=_ROOT, response_model=Domain)
    async def root(
        request: Request,
        domain: Annotated[str | None, Query(description="/live, or /live@VERSION for one that is kept")] = None,
        none_match: NoneMatch = None,
    ) -> Response:
        """For HDF clients (a `domain`, or Accept says JSON) the domain; else a plain page for a person."""
        accept = request.headers.get("accept", "").lower()
        if domain is not None or (JSON in accept and "text/html" not in accept):
            return await domain_answer(snapshots, domain, none_match)
        try:
            snapshot = await snapshot_of(snapshots)
            names = await asyncio.to_thread(_names, snapshot)
        except HTTPException:
            names = []
        return HTMLResponse(_page(names))


def _names(snapshot: Snapshot) -> list[str]:
    return list(to_json(dict.fromkeys(snapshot.tree))) if isinstance(snapshot.tree, dict) else ["keys", "values"]


def _page(names: list[str]) -> str:
    links = "".join(
        f'<li><a href="/api/v1/state/{quote(name)}">{html.escape(name)}</a></li>' for name in names[:MAX_KEYS]
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>Beamfold: published state</title>'
        "<style>body{font:16px sans-serif;margin:2em}</style><h1>Published state</h1>"
        f"<ul>{links or '<li>nothing yet</li>'}</ul>"
        '<p><a href="/api/v1/state">all of it as JSON</a> · <a href="/openapi.json">API</a></p>'
    )


FormQuery = Annotated[
    Form | None, Query(alias="format", description="json, or an array's bytes; without it Accept decides")
]

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

_PART: dict[int | str, dict[str, Any]] = {
    **STATE_ERRORS,
    **NOT_MODIFIED,
    **responses(400, 404, 406, 422),
    200: {
        "content": {OCTETS: _BINARY, NPY: _BINARY},
        "headers": {
            DTYPE_HEADER: {"schema": {"type": "string"}, "description": "of bytes: numpy's dtype"},
            SHAPE_HEADER: {"schema": {"type": "string"}, "description": "of bytes: the shape, like 2,3"},
        },
    },
}

_ROOT: dict[int | str, dict[str, Any]] = {
    **STATE_ERRORS,
    **NOT_MODIFIED,
    **responses(404, 410, 422),
    200: {"content": {"text/html": {"schema": {"type": "string"}}}},
}

__all__ = ["HttpThread", "build_reducer_app"]
