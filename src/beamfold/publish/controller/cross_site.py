"""Pages of other sites may look, but not touch.

Viewers in a browser are often served from elsewhere, so any origin may GET; without credentials, because nothing
here depends on cookies. Starting and stopping scans is another matter: a page that somebody happens to have open
must not be able to, and a browser sends a plain POST to another site without asking first. It does say where the
request comes from, so such requests are refused. Programs that are no browsers say nothing and are not concerned.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from beamfold.publish.problems import document

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def guard(app: FastAPI) -> None:
    """Let other sites' pages read, and nothing else."""
    app.add_middleware(_OwnSiteOnly)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET"], allow_credentials=False)


class _OwnSiteOnly:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE and _foreign(Headers(scope=scope)):
            text = "a page of another site asked for this; only pages of this server may change anything"
            await document(HTTPStatus.FORBIDDEN, text)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _foreign(headers: Headers) -> bool:
    """Whether a browser sends this for a page that is not ours."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host", "")
    except ValueError:
        return True
