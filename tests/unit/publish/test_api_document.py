"""The API document says the truth: whatever a client sends, answers are as it says, and never a failure of ours."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from beamfold.app.declared import to_wire
from beamfold.model.parameters import BoolParameter, FloatParameter, IntParameter, JsonParameter
from beamfold.model.triggermap import WrittenMap
from corpus import INSANE_JSON, header_of
from unit.publish.played import Played, ask

DECLARED = [
    to_wire(FloatParameter(name="gain", default=float("nan"))),
    to_wire(IntParameter(name="count", description="how many", default=1 << 70)),
    to_wire(BoolParameter(name="on")),
    to_wire(JsonParameter(name="roi", default={"a": [1, 2]})),
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def played() -> tuple[Played, str, str]:
    """A controller with a scan that ended and one that runs; their ids."""
    controller = Played(DECLARED)

    async def scans() -> tuple[str, str]:
        written = WrittenMap.of(b'{"parts": {"p": {"a": [[{"constraint": 1}], null, []]}}, "sequence": ["p", "p"]}')
        ended = await controller.service.submit(written.compile(), written)
        controller.process(0, 8, active=1.0, total=2.0)
        controller.finish()
        written = WrittenMap.of(b'{"streams": ["a", "b"], "events": 100}')
        running = await controller.service.submit(written.compile(), written)
        controller.process(0, 10, active=0.5, total=1.0)
        return ended, running

    return controller, *asyncio.run(scans())


@schemathesis.serializer("application/x.bytes")
def as_they_are(_context: Any, value: Any) -> bytes:
    """The body of a parameter: bytes, or whatever else was thought of."""
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode()


CONTROLLER, ENDED, RUNNING = played()

api = schemathesis.openapi.from_asgi("/openapi.json", CONTROLLER.app)


# Log entries as they come have no end; they have a test of their own.
@api.exclude(path="/api/v1/log_stream").parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_documented(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


@pytest.mark.parametrize("scan", [ENDED, RUNNING], ids=["ended", "running"])
@pytest.mark.parametrize("what", ["", "/report", "/map"])
def test_answers_about_scans_that_exist_are_as_documented(scan: str, what: str) -> None:
    """Their ids are nothing that could be guessed."""
    operation = api["/api/v1/scans/{scan_id}" + what]["GET"]
    case = operation.Case(path_parameters={"scan_id": scan})
    answer = case.call()
    assert answer.status_code == 200
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize("path", ["sequence", "mapping", "config", "status", "load", "parameters", "logs", "scans"])
def test_answers_with_something_in_them_are_as_documented(path: str) -> None:
    case = api[f"/api/v1/{path}"]["GET"].Case()
    answer = case.call()
    assert answer.status_code == 200
    assert answer.json()
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/parameter/{name}"), ("GET", "/api/v1/state/{path}")])
def test_a_path_with_a_line_break_leads_nowhere_as_documented(method: str, path: str) -> None:
    answer = ask(CONTROLLER.app, method, re.sub("{.*}", "a%0Ab", path), content=b"1")
    assert answer.status_code == 404
    assert "404" in CONTROLLER.app.openapi()["paths"][path][method.lower()]["responses"]


MAP = {"streams": b'["a"]', "events": b"5", "batch": b"1", "tags": b'["generic"]', "broadcast": b"false"}
SEQUENCE = b'{"parts": {"p": {"a": [%s]}}, "sequence": ["p"]}'
BODIES = {
    **INSANE_JSON,
    **{f"{key} is {name}": header_of({**MAP, key: value}) for key in MAP for name, value in INSANE_JSON.items()},
    **{f"a cell is {name}": SEQUENCE % value for name, value in INSANE_JSON.items()},
    **{f"a constraint is {name}": SEQUENCE % (b'[{"constraint": %s}]' % value) for name, value in INSANE_JSON.items()},
}


@pytest.mark.parametrize("path", ["sequence", "mapping", "sardana_hook"])
def test_insane_bodies_are_taken_or_refused_and_never_a_failure_of_ours(path: str) -> None:
    controller = Played(DECLARED)
    for name, body in BODIES.items():
        answer = controller.ask("POST", f"/{path}", content=body)
        assert answer.status_code in (200, 400, 409, 413, 422), f"{name}: {answer.status_code} {answer.text[:300]}"
    controller.close()


def test_every_operation_is_described_and_its_references_lead_somewhere() -> None:
    document = ask(CONTROLLER.app, "GET", "/openapi.json").json()
    text = json.dumps(document)
    for reference in {r.split('"')[0] for r in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], (method, path)
            documented(operation, method, path)


def documented(operation: dict[str, Any], method: str, path: str) -> None:
    """Every answer has a schema, every POST with a body says which, and may be refused to another site's page."""
    for status, answer in operation["responses"].items():
        if status == "307":
            continue
        (content,) = answer["content"].values()
        assert content["schema"] or content["schema"] == {}, (method, path, status)
        if status == "200" and path != "/api/v1/stop":
            assert content["schema"], (method, path)
    if method == "post":
        assert "403" in operation["responses"]
        assert "requestBody" in operation or path == "/api/v1/stop"
