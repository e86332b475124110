"""What all routes of the controller share: answers as JSON, and how the API document describes them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import Query
from fastapi.responses import Response

from beamfold.publish.problems import responses

MAX_LIST = 1000
"""Entries of a list that is asked for, at most."""

NEWEST = 100
"""Events that are listed where older clients expect all of them: only the newest, whatever the scan's length."""

Limit = Annotated[int, Query(ge=1, le=MAX_LIST, description="Entries at most.")]


class Json(Response):
    """JSON written by msgspec: at once for long lists too, and a number that JSON has not (nan) is null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class Raw(Response):
    """Bytes that mean something to the app alone."""

    media_type = "application/x.bytes"


def answers(model: Any, *errors: int, about: str = "") -> dict[int | str, dict[str, Any]]:
    """In the API document: 200 with this model, and these errors as problem documents."""
    found: dict[int | str, dict[str, Any]] = {**responses(*errors)}
    found[200] = {"model": model, "description": about or HTTPStatus.OK.phrase}
    return found
