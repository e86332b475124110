"""The two HTTP apps, without a server and without services behind them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from beamfold.app.declared import to_wire
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.notes import Notes
from beamfold.model.errors import AppError, LedgerUnavailable, MapError, ScanError
from beamfold.model.parameters import FloatParameter, JsonParameter
from beamfold.model.triggermap import TriggerMap, WrittenMap
from beamfold.protocols.messages import Hello
from beamfold.publish.controller_http import MAX_PARAMETER, MAX_SEQUENCE, build_controller_app
from beamfold.publish.reducer_http import build_reducer_app
from beamfold.publish.tree import snapshot
from unit.publish.played import ask, problem

UNIFORM = {"streams": ["camera"], "events": 5}
DECLARED = [
    to_wire(FloatParameter(name="gain", description="factor", default=2.0)),
    to_wire(JsonParameter(name="roi", default=[1, 2])),
]


class FakeService:
    """A controller that agrees to everything, or refuses with `refusal`."""

    def __init__(self) -> None:
        self.machine = ControllerMachine("1.0", 1)
        self.submitted: list[TriggerMap] = []
        self.refusal: Exception | None = None
        self.stops = 0
        self.store_trouble = ""
        self.reports: dict[str, dict[str, Any]] = {}
        self.asked: list[int] = []
        self.notes = Notes()
        self.notes.add(
            {"created": 1.0, "levelname": level, "name": "controller", "lineno": 0, "msg": level.lower()}
            for level in ("INFO", "ERROR")
        )

    def hello(self, role: str, name: str, **facts: Any) -> None:
        hello = Hello(role, name, f"uuid-{name}", "1.0", 1, "host", **facts)
        self.machine.receive(name.encode(), hello, 0.0)

    def _perhaps_refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def submit(self, trigger_map: TriggerMap, written: WrittenMap) -> str:
        self._perhaps_refuse()
        self.submitted.append(trigger_map)
        return "the-id"

    async def stop(self) -> None:
        self.stops += 1

    async def set_parameters(self, values: dict[str, bytes]) -> int:
        self._perhaps_refuse()
        self.machine.set_parameters(values, 0.0)
        return self.machine.version

    async def scans(self, limit: int) -> list[dict[str, Any]]:
        self._perhaps_refuse()
        self.asked.append(limit)
        return [{"id": "a", "state": "finished"}]

    async def report(self, scan_id: str) -> dict[str, Any] | None:
        return self.reports.get(scan_id)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def controller(service: FakeService) -> Callable[..., httpx.Response]:
    app = build_controller_app(service)  # type: ignore[arg-type]

    def call(method: str, path: str, **more: Any) -> httpx.Response:
        return ask(app, method, path if path == "/" or path.startswith("/open") else f"/api/v1{path}", **more)

    return call


# -- scans ---------------------------------------------------------------------------------------------------


def test_a_sequence_is_compiled_and_submitted(service: FakeService) -> None:
    cell = [{"tags": ["generic"], "constraint": 0}]
    body = {"parts": {"a": {"camera": [cell, cell]}}, "sequence": ["a"]}
    answer = controller(service)("POST", "/sequence", json=body)
    assert (answer.status_code, answer.json()) == (200, "the-id")
    assert service.submitted[0].n_events == 4  # with the start and the end event


def test_all_wrap_is_a_query_parameter(service: FakeService) -> None:
    body = {"parts": {"a": {"camera": [[{"constraint": 0}]]}}, "sequence": ["a"]}
    assert controller(service)("POST", "/sequence?all_wrap=false", json=body).json() == "the-id"
    assert service.submitted[0].n_events == 1
    assert "all_wrap" in problem(controller(service)("POST", "/sequence?all_wrap=maybe", json=body), 422)


def test_a_uniform_map_is_submitted(service: FakeService) -> None:
    assert controller(service)("POST", "/sequence", json=UNIFORM).json() == "the-id"
    assert service.submitted[0].n_events == 7


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"streams": []}',
        b'{"streams": ["a"], "events": -1}',
        b'{"streams": ["a"], "events": NaN}',
        b'{"parts": {"a": {"s": [[{"constraint": "x"}]]}}, "sequence": ["a"]}',
        b'{"parts": {"a": {"s": [7]}}, "sequence": ["a"]}',
        b'{"parts": {}, "sequence": ["a"]}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_map_is_refused_with_a_text(service: FakeService, content: bytes) -> None:
    assert problem(controller(service)("POST", "/sequence", content=content), 400)
    assert not service.submitted


@pytest.mark.parametrize("error", [MapError("streams {'x'} not available"), ScanError("no reducer")])
def test_a_scan_that_cannot_be_is_refused_with_its_reason(service: FakeService, error: Exception) -> None:
    service.refusal = error
    assert problem(controller(service)("POST", "/sequence", json=UNIFORM), 400) == str(error)


def test_bodies_are_bounded(service: FakeService) -> None:
    async def endless() -> Any:
        for _ in range(MAX_SEQUENCE // 2**20 + 1):
            yield b" " * 2**20

    said = {"content-length": str(MAX_SEQUENCE + 1)}
    assert "64 MiB" in problem(controller(service)("POST", "/sequence", content=b"{}", headers=said), 413)
    assert "64 MiB" in problem(controller(service)("POST", "/sequence", content=endless()), 413)
    large = {"content-length": str(MAX_PARAMETER + 1)}
    assert problem(controller(service)("POST", "/parameter/x", content=b"", headers=large), 413)


def test_progress_scans_and_stop(service: FakeService) -> None:
    call = controller(service)
    assert call("GET", "/progress").json() == {
        "last_assigned": 0,
        "completed_events": 0,
        "total_events": 0,
        "finished": True,
    }
    assert call("GET", "/scans?limit=7").json() == [{"id": "a", "state": "finished"}]
    assert service.asked == [7]
    for limit in ("0", "1001", "x"):
        assert "limit" in problem(call("GET", f"/scans?limit={limit}"), 422)
    assert call("POST", "/stop").json() is None
    assert service.stops == 1
    assert "finished" in call("GET", "/status").json()


def test_a_report_is_found_by_its_scan(service: FakeService) -> None:
    call = controller(service)
    service.reports["a"] = {"ended": "finished", "summary": "1 event: 1 reduced", "runs": {}}
    assert call("GET", "/scans/a/report").json()["summary"] == "1 event: 1 reduced"
    assert call("GET", "/scans/a").json() == {
        "id": "a",
        "ended": "finished",
        "summary": "1 event: 1 reduced",
    }
    for path in ("/scans/b", "/scans/b/report"):
        assert "'b'" in problem(call("GET", path), 404)


def test_without_its_store_the_controller_says_so(service: FakeService) -> None:
    service.refusal = LedgerUnavailable("the store is away")
    call = controller(service)
    assert problem(call("GET", "/scans"), 503) == "the store is away"
    assert problem(call("POST", "/parameter/free", content=b"1"), 503) == "the store is away"


# -- parameters ----------------------------------------------------------------------------------------------


def test_declared_parameters_are_listed_and_have_their_defaults(service: FakeService) -> None:
    service.hello("worker", "worker-0", parameters=DECLARED)
    call = controller(service)
    about = "Prefix of the files that ingesters dump what they receive to"
    assert call("GET", "/parameters").json() == [
        {"name": "dump_prefix", "description": about, "dtype": "str", "default": ""},
        {"name": "gain", "description": "factor", "dtype": "float", "default": 2.0},
        {"name": "roi", "description": None, "dtype": "json", "default": [1, 2]},
    ]
    answer = call("GET", "/parameter/gain")
    assert answer.content == b"2.0"
    assert answer.headers["content-type"] == "application/x.bytes"
    assert "gain, roi" in problem(call("GET", "/parameter/nothing"), 404)


def test_a_parameter_is_set_to_raw_bytes(service: FakeService) -> None:
    service.hello("worker", "worker-0", parameters=DECLARED)
    call = controller(service)
    before = call("GET", "/config").json()["parameters_hash"]
    answer = call("POST", "/parameter/gain", content=b"3.5")
    assert answer.status_code == 200
    assert answer.json() == call("GET", "/config").json()["parameters_hash"] != before
    assert call("GET", "/parameter/gain").content == b"3.5"
    assert call("POST", "/parameter/free%2Fone", content=b"\x00\xff").status_code == 200
    assert call("GET", "/parameter/free/one").content == b"\x00\xff"


@pytest.mark.parametrize(("name", "data"), [("gain", b"much"), ("roi", b"7"), ("a%00b", b"1")])
def test_a_parameter_that_does_not_fit_is_refused(service: FakeService, name: str, data: bytes) -> None:
    service.hello("worker", "worker-0", parameters=DECLARED)
    assert problem(controller(service)("POST", f"/parameter/{name}", content=data), 400)
    assert service.machine.version == 0


# -- overview ------------------------------------------------------------------------------------------------


def test_the_state_is_found_at_the_reducer(service: FakeService) -> None:
    call = controller(service)
    assert "reducer" in problem(call("GET", "/state/map"), 503)
    service.hello("reducer", "reducer", http="http://127.0.0.1:1")
    answer = call("GET", "/state/my%20map/x?a=1")
    assert (answer.status_code, answer.headers["location"]) == (
        307,
        "http://127.0.0.1:1/api/v1/state/my%20map/x?a=1",
    )
    assert call("GET", "/state").headers["location"] == "http://127.0.0.1:1/api/v1/state"


def test_logs_are_filtered_by_level(service: FakeService) -> None:
    call = controller(service)
    assert [e["msg"] for e in call("GET", "/logs").json()] == ["info", "error"]
    assert [e["msg"] for e in call("GET", "/logs?level=warning").json()] == ["error"]
    assert [e["msg"] for e in call("GET", "/logs?limit=1").json()] == ["error"]
    assert "LOUD" in problem(call("GET", "/logs?level=LOUD"), 400)


def test_the_page_escapes_what_services_say(service: FakeService) -> None:
    service.hello("worker", "<script>", error="<b>")
    page = controller(service)("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text


def test_unknown_routes_and_methods_are_problems_too(service: FakeService) -> None:
    call = controller(service)
    assert problem(call("GET", "/nothing"), 404)
    assert problem(call("DELETE", "/stop"), 405)


# -- the reducer ---------------------------------------------------------------------------------------------

PUBLISHED = {
    "image": np.array([[1.0, np.nan]]),
    "image_attrs": {"units": "counts"},
    "group": {"a": 1, "b": "text"},
    "map": {(0.5, 1.5): {"roi1": 7}},
}


def test_the_state_is_read_as_json() -> None:
    app = build_reducer_app(lambda _: snapshot(PUBLISHED))
    whole = ask(app, "GET", "/api/v1/state").json()
    assert whole["group"] == {"a": 1, "b": "text"}
    assert whole["image"] == [[1.0, None]]
    assert ask(app, "GET", "/api/v1/state/group/a").json() == 1
    assert ask(app, "GET", "/api/v1/state/map").json() == {"keys": [[0.5, 1.5]], "values": [{"roi1": 7}]}
    assert ask(app, "GET", "/api/v1/status").json() is True
    assert "/api/v1/state/image" in ask(app, "GET", "/").text


@pytest.mark.parametrize(
    ("path", "said"),
    [("nothing", "group"), ("group/c", "a, b"), ("group/a/x", "none"), ("x/y/z", "'x'")],
)
def test_a_path_that_is_not_there_names_those_that_are(path: str, said: str) -> None:
    app = build_reducer_app(lambda _: snapshot(PUBLISHED))
    assert said in problem(ask(app, "GET", f"/api/v1/state/{path}"), 404)


def test_before_the_first_scan_the_state_is_empty() -> None:
    app = build_reducer_app(lambda _: None)
    assert ask(app, "GET", "/api/v1/state").json() == {}
    assert problem(ask(app, "GET", "/api/v1/state/map"), 404)
    assert "nothing yet" in ask(app, "GET", "/").text


def test_a_reducer_that_does_not_come_back_is_unavailable() -> None:
    def read(timeout: float) -> Any:
        raise TimeoutError("process_result has not come back")

    app = build_reducer_app(read)
    assert problem(ask(app, "GET", "/api/v1/state"), 503) == "process_result has not come back"
    assert ask(app, "GET", "/").status_code == 200


def test_many_readers_share_a_read_but_never_an_older_state() -> None:
    began, go = threading.Event(), threading.Event()
    reads = 0

    def read(timeout: float) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            began.set()
            go.wait(10)
        return {"reads": reads}

    app = build_reducer_app(read)

    async def all_of_them() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.create_task(client.get("/api/v1/state/reads"))
            await asyncio.to_thread(began.wait, 10)
            later = [asyncio.create_task(client.get("/api/v1/state/reads")) for _ in range(20)]
            await asyncio.sleep(0)  # they have all asked once the loop ran
            for _ in range(50):
                await asyncio.sleep(0)
            go.set()
            return [(await answer).json() for answer in (first, *later)]

    first, *later = asyncio.run(all_of_them())
    assert first == 1
    assert min(later) >= 2  # their state was read after they asked
    assert reads < 20


def test_a_publish_that_cannot_be_read_is_said_to_everybody_who_asks() -> None:
    """And the next one who asks is answered too: whoever reads for all of them must not end by it."""

    def read(timeout: float) -> Any:
        raise AppError("reducer:R.publish is list; make it a dict")

    app = build_reducer_app(read)
    for path in ("", "/map"):
        assert problem(ask(app, "GET", f"/api/v1/state{path}"), 500) == "reducer:R.publish is list; make it a dict"
    assert ask(app, "GET", "/").status_code == 200
