"""The reducer's OpenAPI document is true: whatever is asked, the answer is one of those that it promises."""

from __future__ import annotations

import zlib
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


@cache
def ids() -> dict[str, list[str]]:
    """Real ids, by the name of the parameter of a path that takes them."""
    root = Objects(Snapshot(1, snapshot(zoo()))).root
    groups: list[str] = []
    datasets: list[str] = []
    left: list[Any] = [root]
    while left:
        node = left.pop()
        if isinstance(node, HdfGroup):
            groups.append(object_id(node))
            left += node.members.values()
        else:
            datasets.append(object_id(node))
    return {
        "group_id": groups,
        "dataset_id": datasets,
        "object_id": groups + datasets,
        "path": [
            "numbers/n_cube",
            "structured/s_nested",
            "text/t_list",
            "tables/positions/keys",
            "odd/opaque",
            "entry",
        ],
        "name": ["image", "n_cube", "NX_class", "long_name", "a%2Fb", "opaque"],
    }


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
    """Ids that are guessed are never there, so that most cases are about objects which are."""
    chance = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode())
    if chance % 8:
        for name in case.path_parameters or {}:
            there = ids().get(name, [])
            if there:
                case.path_parameters[name] = there[chance // 8 % len(there)]
        if chance % 3:
            case.query.pop("domain", None)
            case.query.pop("select", None)
            case.query.pop("fields", None)
            if case.path.endswith("/value"):
                case.query["select"] = SELECTS[chance // 64 % len(SELECTS)]
        case.headers["Accept"] = ACCEPTS[chance // 512 % len(ACCEPTS)]
    case.call_and_validate(checks=CHECKS)


@pytest.mark.parametrize("status", ["400", "404", "410", "422", "500", "503"])
def test_errors_are_documented_as_problems(status: str) -> None:
    responses = app().openapi()["paths"]["/datasets/{dataset_id}/value"]["get"]["responses"]
    assert list(responses[status]["content"]) == ["application/problem+json"]
