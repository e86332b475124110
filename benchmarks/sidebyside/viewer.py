"""What viewers see: the state that a reducer publishes, read in the HDF-REST dialect that both systems speak."""

from __future__ import annotations

from typing import Any

import httpx

from sidebyside.base import BenchFailure

DOMAIN = {"domain": "/live"}


def published(client: httpx.Client, reducer: str) -> dict[str, Any]:
    """All datasets of the root group by name. Raises BenchFailure."""
    root = _get(client, f"{reducer}/")["root"]
    links = _get(client, f"{reducer}/groups/{root}/links")["links"]
    return {link["title"]: _get(client, value_url(reducer, link["id"]))["value"] for link in links}


def value_url(reducer: str, dataset: str) -> str:
    """Where a dataset's value is."""
    return f"{reducer}/datasets/{dataset}/value"


def _get(client: httpx.Client, url: str) -> Any:
    try:
        return client.get(url, params=DOMAIN).raise_for_status().json()
    except httpx.HTTPError as error:
        raise BenchFailure(f"GET {url} is not answered: {error!r}") from None
