"""How parts of a snapshot are answered over HTTP: which form, whether at all, and how packed."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeAlias

from fastapi import Header, Request
from fastapi.responses import Response

from beamfold.model.errors import AppError
from beamfold.publish.problems import refuse, responses
from beamfold.publish.snapshots import Snapshot, SnapshotGone, Snapshots

JSON = "application/json"
OCTETS = "application/octet-stream"

GZIP_LEAST = 4096
"""Bytes below which packing costs more than it saves."""

GZIP_SAMPLE = 65536
"""Bytes at the beginning that tell whether the rest packs well: detector noise does not."""

GZIP_WORTH = 0.7
"""Packed to unpacked size up to which a client is sent the packed one."""

Body: TypeAlias = tuple[bytes, str, dict[str, str]]
"""A body, its media type, and further headers."""

Make: TypeAlias = Callable[[], Body]

NoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="ETag of an answer that is at hand")]

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed since that ETag"}}

STATE_ERRORS: dict[int | str, dict[str, Any]] = responses(500, 503)
"""What reading the state may answer at any time: user code raised, or did not come back yet."""


async def snapshot_of(snapshots: Snapshots, version: int | None = None) -> Snapshot:
    """The newest snapshot, or a pinned one. HTTPException 410, 500 or 503."""
    try:
        return await snapshots.newest() if version is None else snapshots.pinned(version)
    except SnapshotGone as error:
        raise refuse(HTTPStatus.GONE, str(error)) from None
    except TimeoutError as error:
        raise refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
    except AppError as error:
        raise refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None


async def answer(snapshot: Snapshot, none_match: str | None, make: Make, form: str = "") -> Response:
    """What `make` makes in a thread; 304 for who has it already.

    The ETag is the snapshot's version and, where one address answers in several forms, the `form`.
    """
    tag = f'"{snapshot.version}{form}"'
    # no-cache lets a browser keep it, but ask each time whether it is still the newest.
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding"}
    if none_match is not None and tag in [one.strip().removeprefix("W/") for one in none_match.split(",")]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    body, media_type, more = await asyncio.to_thread(make)
    return Response(body, media_type=media_type, headers={**headers, **more})


def preferred(accept: str | None, offers: Sequence[str]) -> str:
    """Of the media types that we have, the first one if nothing else is asked for by name and as much.

    Wildcards and types that we do not have are no reason to leave the first.
    """
    weights = dict(_weighted(one) for one in (accept or "").lower().split(","))
    best = offers[0]
    for offer in offers[1:]:
        if weights.get(offer, 0.0) > weights.get(best, 0.0):
            best = offer
    return best


def takes_gzip(request: Request) -> bool:
    """Whether the client says that it unpacks gzip."""
    weights = dict(_weighted(one) for one in request.headers.get("accept-encoding", "").lower().split(","))
    return weights.get("gzip", 0.0) > 0


def _weighted(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and its headers, gzipped where that is worth the time."""
    if len(body) < GZIP_LEAST:
        return body, {}
    sample = body[:GZIP_SAMPLE]
    if len(gzip.compress(sample, compresslevel=1)) > GZIP_WORTH * len(sample):
        return body, {}
    return gzip.compress(body, compresslevel=1, mtime=0), {"Content-Encoding": "gzip"}
