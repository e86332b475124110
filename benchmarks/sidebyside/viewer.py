"""What viewers see: the state that a reducer publishes, read in the HDF-REST dialect that both systems speak."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from sidebyside.base import BenchFailure

_DOMAIN = "?domain=/live"


def published(client: httpx.Client, reducer: str) -> dict[str, Any]:
    """All datasets of the root group by name; arrays are expected to be int64. Raises BenchFailure."""
    return {name: _value(_get(client, reducer + path)) for name, path in _paths(client, reducer).items()}


def dataset_path(client: httpx.Client, reducer: str, name: str) -> str:
    """Where the value of a dataset is, with its query. Raises BenchFailure."""
    paths = _paths(client, reducer)
    if name not in paths:
        raise BenchFailure(f"{reducer} publishes no dataset {name!r}: there are {', '.join(paths) or 'none'}")
    return paths[name]


def _paths(client: httpx.Client, reducer: str) -> dict[str, str]:
    root = _get(client, f"{reducer}/{_DOMAIN}").json()["root"]
    links = _get(client, f"{reducer}/groups/{root}/links{_DOMAIN}").json()["links"]
    return {link["title"]: f"/datasets/{link['id']}/value{_DOMAIN}" for link in links}


def _value(answer: httpx.Response) -> Any:
    """dranspose answers with bytes for an array whatever it is asked for."""
    if answer.headers["content-type"].startswith("application/octet-stream"):
        return np.frombuffer(answer.content, "<i8")
    return answer.json()["value"]


def _get(client: httpx.Client, url: str) -> httpx.Response:
    try:
        return client.get(url).raise_for_status()
    except httpx.HTTPError as error:
        raise BenchFailure(f"GET {url} is not answered: {error!r}") from None
