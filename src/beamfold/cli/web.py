"""A few requests to our own services, without the weight of an HTTP client library."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

from beamfold.model.errors import BeamfoldError

TIMEOUT = 30.0
"""Seconds for one answer; arming a scan may construct large things."""

# Proxies of the environment are for the world outside, not for services on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refusal(BeamfoldError):
    """An answer that is an error: `status`, and the problem document's detail as the text."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def call(url: str, body: Any = None, timeout: float = TIMEOUT) -> Any:
    """GET, or POST where there is a body (sent as JSON); returns the answer's JSON.

    Raises Refusal for an error, BeamfoldError when nobody answers at that address.
    """
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        raise BeamfoldError(f"{url!r} is not an HTTP address: give one like http://127.0.0.1:5000")
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (checked above)
    try:
        with _opener.open(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refusal(error.code, _detail(error)) from None
    except (OSError, ValueError) as error:
        raise BeamfoldError(f"no answer from {url}: {getattr(error, 'reason', None) or error}") from error


async def ask(url: str, body: Any = None) -> Any:
    """The same, beside a running loop."""
    return await asyncio.to_thread(call, url, body)


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
