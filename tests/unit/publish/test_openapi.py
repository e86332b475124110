"""The reducer's OpenAPI document is true: whatever is asked, the answer is one of those that it promises."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from beamfold.publish.hdfrest.objects import Objects, object_id
from beamfold.publish.hdftree import HdfGroup
from beamfold.publish.reducer_http import build_reducer_app
from beamfold.publish.snapshots import Snapshot
from beamfold.publish.tree import snapshot
from zoo import zoo

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]

SELECTS = ["[0:2]", "[1]", "[[0,1]]", "[0:2,::2]", "[0:1,0,[1]]", "[:]", "[0:99]", "[", ""]
ACCEPTS = ["application/json", "application/octet-stream", "application/x-npy", "*/*"]


@cache
def app() -> FastAPI:
    tree = snapshot(zoo())
    return build_reducer_app(lambda _timeout: tree)


@dataclass
class There:
    """What is there, so that questions can be about it: (id, name) of links and attributes, ids, paths."""

    links: list[tuple[str, str]] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@cache
def there() -> There:
    found = There(paths=["numbers/n_cube", "structured/s_nested", "text/t_list", "tables/positions/keys", "entry", ""])
    left: list[Any] = [Objects(Snapshot(1, snapshot(zoo()))).root]
    while left:
        node = left.pop()
        found.attributes += [(object_id(node), name) for name in node.attrs]
        if isinstance(node, HdfGroup):
            found.links += [(object_id(node), name) for name in node.members]
            left += node.members.values()
        else:
            found.datasets.append(object_id(node))
    return found


def about_what_is_there(case: schemathesis.Case, chance: random.Random) -> None:
    """Guessed ids are never there: put those of an object into the question."""
    parameters = case.path_parameters or {}
    group, link = chance.choice(there().links)
    owner, attribute = chance.choice(there().attributes)
    collection = "groups" if owner.startswith("g") else "datasets"
    known = {
        "path": chance.choice(there().paths),
        "dataset_id": chance.choice(there().datasets),
        "group_id": group,
        "object_id": owner,
        "collection": collection,
        "name": attribute if "object_id" in parameters else link,
    }
    for name in known.keys() & parameters.keys():
        case.path_parameters[name] = known[name]
    if chance.random() < 0.8:
        case.query.pop("domain", None)
    if chance.random() < 0.8 and case.path.endswith("/value") and case.method == "GET":
        case.query = {"select": chance.choice(SELECTS)} if chance.random() < 0.5 else {}


schemathesis_app = schemathesis.openapi.from_asgi("/openapi.json", app())
load_all_checks()


@schemathesis_app.parametrize()
@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_those_that_are_documented(case: schemathesis.Case) -> None:
    chance = random.Random(repr((case.path_parameters, case.query, case.body)))
    if chance.random() < 0.8:
        about_what_is_there(case, chance)
    case.call_and_validate(checks=CHECKS, headers={"Accept": chance.choice(ACCEPTS)})


@pytest.mark.parametrize("status", ["400", "404", "410", "422", "500", "503"])
def test_errors_are_documented_as_problems(status: str) -> None:
    responses = app().openapi()["paths"]["/datasets/{dataset_id}/value"]["get"]["responses"]
    assert list(responses[status]["content"]) == ["application/problem+json"]
