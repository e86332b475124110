"""The reducer's HTTP: the published state as JSON, while the scan runs.

`read` waits for the reducer between two folds. However many ask, one read at a time is under way, in a thread
that ends when nobody asks any more; all who asked before it began share its snapshot and what was encoded of
it.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from importlib.metadata import version as version_of
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from beamfold.model.errors import AppError
from beamfold.publish.problems import install, refuse, responses
from beamfold.publish.serve import HttpThread
from beamfold.publish.tree import resolve, to_json

READ_TIMEOUT = 5.0
"""Seconds that a request waits for the user's `process_result` to come back."""

MAX_KEYS = 100
"""Keys named in an answer that says which there are."""

ENDING = "the reducer is about to end"

Read = Callable[[float], Any]


class Snapshots:
    """Answers requests for parts of the state as JSON bytes; see the module's text."""

    def __init__(self, read: Read, timeout: float = READ_TIMEOUT) -> None:
        self._read = read
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Future[bytes]]] = []
        self._answering: list[tuple[str, Future[bytes]]] = []
        self._busy = False
        self._closed = False
        self._snapshot: Any = None
        self._encoded: dict[str, bytes] = {}

    async def get(self, path: str) -> bytes:
        """JSON of the node at `path` ("" for all). LookupError, with the keys there are; TimeoutError; AppError."""
        future: Future[bytes] = Future()
        with self._lock:
            if self._closed:
                raise TimeoutError(ENDING)
            self._waiting.append((path, future))
            start, self._busy = not self._busy, True
        if start:
            threading.Thread(target=self._serve, name="snapshots", daemon=True).start()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Answer nobody any more: those who wait get a TimeoutError, and so does whoever comes."""
        with self._lock:
            self._closed = True
            for _, future in (*self._waiting, *self._answering):
                if not future.done():
                    future.set_exception(TimeoutError(ENDING))
            self._waiting.clear()

    def _serve(self) -> None:
        while True:
            with self._lock:
                batch = [(path, f) for path, f in self._waiting if f.set_running_or_notify_cancel()]
                self._waiting, self._answering = [], batch
                if not batch or self._closed:
                    self._busy = False
                    return
            self._answer(batch)

    def _answer(self, batch: list[tuple[str, Future[bytes]]]) -> None:
        try:
            snapshot = self._read(self._timeout)
        except (TimeoutError, AppError) as error:
            for _, future in batch:
                self._give(future, error)
            return
        if snapshot is not self._snapshot:
            self._snapshot, self._encoded = snapshot, {}
        for path, future in batch:
            try:
                self._give(future, self._encode(snapshot, path))
            except (LookupError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
                self._give(future, error)

    def _give(self, future: Future[bytes], answer: bytes | Exception) -> None:
        with self._lock:
            if future.done():
                return  # closed meanwhile
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _encode(self, snapshot: Any, path: str) -> bytes:
        data = self._encoded.get(path)
        if data is None:
            tree = {} if snapshot is None else snapshot
            data = self._encoded[path] = msgspec.json.encode(to_json(_find(tree, path)))
        return data


def _find(snapshot: Any, path: str) -> Any:
    """The node, or a LookupError that names what there is at the last level that exists."""
    try:
        return resolve(snapshot, path)
    except KeyError:
        pass
    names = [name for name in path.split("/") if name]
    for depth in range(len(names) - 1, -1, -1):
        above = "/".join(names[:depth])
        try:
            node = resolve(snapshot, above)
        except KeyError:
            continue
        keys = [str(key) for key in node] if isinstance(node, dict) else []
        there = ", ".join(keys[:MAX_KEYS]) + (", …" if len(keys) > MAX_KEYS else "")
        where = f"below {above!r}" if above else "in the published state"
        raise LookupError(f"there is no {names[depth]!r} {where} (there are: {there or 'none'})")
    raise LookupError(f"there is no {path!r} in the published state")


def build_reducer_app(read: Read) -> FastAPI:
    """The app of a reducer whose `read(timeout)` gives a consistent snapshot (None before the first scan)."""
    app = FastAPI(title="Beamfold reducer", version=version_of("beamfold"), docs_url=None, redoc_url=None)
    install(app)
    snapshots = Snapshots(read)
    app.state.on_stop = snapshots.close

    async def answer(path: str) -> Response:
        try:
            return Response(await snapshots.get(path), media_type="application/json")
        except LookupError as error:
            raise refuse(HTTPStatus.NOT_FOUND, str(error.args[0])) from None
        except TimeoutError as error:
            raise refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        except AppError as error:
            raise refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None

    @app.get("/api/v1/state", responses=responses(500, 503))
    async def whole() -> Any:
        """The published state: groups as objects, arrays as lists, tables as `keys` and `values`."""
        return await answer("")

    @app.get("/api/v1/state/{path:path}", responses=responses(404, 500, 503))
    async def part(path: str) -> Any:
        """One group, table or value of the published state."""
        return await answer(path)

    @app.get("/api/v1/status")
    async def status() -> bool:
        """Whether the reducer is there: true."""
        return True

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A plain page for a person: the top of the published state."""
        try:
            top = list(msgspec.json.decode(await snapshots.get("")))
        except (TimeoutError, AppError):
            top = []
        return HTMLResponse(_page(top))

    return app


def _page(names: list[str]) -> str:
    links = "".join(
        f'<li><a href="/api/v1/state/{html.escape(name)}">{html.escape(name)}</a></li>' for name in names[:MAX_KEYS]
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>Beamfold: published state</title>'
        "<style>body{font:16px sans-serif;margin:2em}</style><h1>Published state</h1>"
        f"<ul>{links or '<li>nothing yet</li>'}</ul>"
        '<p><a href="/api/v1/state">all of it as JSON</a> · <a href="/openapi.json">API</a></p>'
    )


__all__ = ["HttpThread", "Snapshots", "build_reducer_app"]
