"""The controller's routes over a real controller, whose services answer at once."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beamfold.app.declared import to_wire
from beamfold.model.parameters import FloatParameter, JsonParameter, ParameterSet, StrParameter
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols import messages as m
from beamfold.publish.controller import parameters as parameters_module
from beamfold.publish.controller import scans as scans_module
from beamfold.publish.controller.answers import NEWEST
from beamfold.publish.controller.config import uuid_of
from unit.publish.played import WORKERS, Played, ask, problem

DECLARED = [FloatParameter(name="gain", default=2.0), JsonParameter(name="roi", default=[1, 2])]
CELL = [{"tags": ["generic"], "constraint": 0}]
SEQUENCE = {"parts": {"p": {"a": [CELL, None]}}, "sequence": ["p", "p"]}
UNIFORM = {"streams": ["a", "b"], "events": 6}


@pytest.fixture
def controller() -> Iterator[Played]:
    played = Played([to_wire(p) for p in DECLARED])
    yield played
    played.close()


# -- maps ----------------------------------------------------------------------------------------------------


def test_before_the_first_scan_there_is_no_map(controller: Played) -> None:
    assert controller.get("/sequence") == controller.get("/mapping") == {"parts": {}, "sequence": []}


def test_the_map_is_shown_as_clients_know_it(controller: Played) -> None:
    controller.submit(SEQUENCE)
    ends = [{"tags": ["generic"], "constraint": None}]
    expected = {
        "parts": {"p": {"mapping": {"a": [CELL, None]}}, "reserved_start_end": {"mapping": {"a": [ends]}}},
        "sequence": ["reserved_start_end", "p", "p", "reserved_start_end"],
    }
    assert controller.get("/sequence") == controller.get("/mapping") == expected
    controller.process(0, 6)
    controller.finish()
    assert controller.get("/progress")["finished"] is True
    assert controller.get("/sequence") == expected


def test_the_map_that_was_submitted_last_is_shown_while_an_older_scan_is_drained(controller: Played) -> None:
    controller.submit(SEQUENCE)
    controller.armed = False
    body = {"parts": {"q": {"b": [CELL]}}, "sequence": ["q"]}
    asyncio.run(submit_and_leave(controller, body))
    assert "q" in controller.get("/sequence")["parts"]


async def submit_and_leave(controller: Played, body: Any) -> None:
    """A client that does not wait until its scan is armed."""
    written = WrittenMap.of(json.dumps(body).encode())
    request = asyncio.create_task(controller.service.submit(written.compile(), written))
    await asyncio.sleep(0)
    request.cancel()


@pytest.mark.parametrize("body", [SEQUENCE, UNIFORM], ids=["sequence", "uniform"])
def test_a_scan_may_be_given_a_timeout_with_its_map(controller: Played, body: dict[str, Any]) -> None:
    scan = controller.submit({**body, "timeout": 2.5})
    assert controller.machine.scan is not None and controller.machine.scan.timeout == 2.5
    assert controller.get(f"/scans/{scan}/map")["timeout"] == 2.5
    scan = controller.submit({**body, "timeout": None})
    assert "timeout" not in controller.get(f"/scans/{scan}/map")


@pytest.mark.parametrize("timeout", [0, -1, "60", True, 1e99])
def test_a_timeout_that_is_none_is_refused(controller: Played, timeout: Any) -> None:
    said = problem(controller.ask("POST", "/sequence", json={**UNIFORM, "timeout": timeout}), 400)
    assert "timeout is a number of seconds above 0, or null" in said


def test_status_and_page_say_which_stream_is_waited_for(controller: Played) -> None:
    assert "Waiting for" not in ask(controller.app, "GET", "/").text
    controller.submit(UNIFORM)
    assert controller.get("/status")["waiting_for"] == ["stream a", "stream b"]
    controller.say("ingester", m.StreamSeen(1, "a", "running", 1, 1, 0))
    assert controller.get("/progress")["waiting_for"] == ["stream b"]
    assert "Waiting for stream b." in ask(controller.app, "GET", "/").text
    controller.say("ingester", m.StreamSeen(1, "b", "running", 1, 1, 0))
    assert controller.get("/progress")["waiting_for"] == []


def test_status_says_which_service_is_waited_for(controller: Played) -> None:
    controller.armed = False
    asyncio.run(submit_and_leave(controller, SEQUENCE))
    assert controller.get("/progress")["waiting_for"] == ["ingester ingester"]


@pytest.mark.parametrize("all_wrap", [True, False])
def test_tags_may_be_left_out_and_all_wrap_is_a_query(controller: Played, all_wrap: bool) -> None:
    body = {"parts": {"p": {"a": [[{"constraint": 0}]]}}, "sequence": ["p"]}
    controller.submit(body, f"/sequence?all_wrap={str(all_wrap).lower()}")
    shown = controller.get("/sequence")
    assert shown["parts"]["p"] == {"mapping": {"a": [CELL]}}
    assert ("reserved_start_end" in shown["sequence"]) is all_wrap
    assert controller.get("/progress")["total_events"] == 1 + 2 * all_wrap


def test_what_is_too_long_to_be_shown_is_a_conflict_that_says_where_the_compact_form_is(controller: Played) -> None:
    scan = controller.submit({"streams": ["a"], "events": None})
    for path in ("/sequence", "/mapping"):
        assert f"/api/v1/scans/{scan}/map" in problem(controller.ask("GET", path), 409)
    assert controller.get(f"/scans/{scan}/map") == {"streams": ["a"], "events": None, "all_wrap": True}


@pytest.mark.parametrize("query", ["", "?all_wrap=false", "?all_wrap=true"])
@pytest.mark.parametrize("body", [SEQUENCE, UNIFORM])
def test_the_compact_map_can_be_sent_back(controller: Played, body: Any, query: str) -> None:
    scan = controller.submit(body, "/sequence" + query)
    compact = controller.get(f"/scans/{scan}/map")
    assert compact == {**body, "all_wrap": query != "?all_wrap=false"}
    again = controller.submit(compact)
    assert controller.get(f"/scans/{again}/map") == compact
    assert again != scan


def test_the_query_counts_where_the_body_says_otherwise(controller: Played) -> None:
    scan = controller.submit({**SEQUENCE, "all_wrap": True}, "/sequence?all_wrap=false")
    assert controller.get(f"/scans/{scan}/map")["all_wrap"] is False
    assert "all_wrap" in problem(controller.ask("POST", "/sequence", json={**SEQUENCE, "all_wrap": 1}), 400)


def test_maps_that_are_not_known_are_not_found(controller: Played) -> None:
    assert "no scan 'x'" in problem(controller.ask("GET", "/scans/x/map"), 404)
    controller.ledger.put_scan("old", {"report": {"scan_id": "old"}})
    assert "not kept" in problem(controller.ask("GET", "/scans/old/map"), 404)


def test_the_older_form_is_one_part(controller: Played) -> None:
    controller.submit({"a": [CELL, None], "b": [None, CELL]}, "/mapping")
    shown = controller.get("/mapping")
    assert shown["parts"]["main"] == {"mapping": {"a": [CELL, None], "b": [None, CELL]}}
    assert shown["sequence"] == ["reserved_start_end", "main", "reserved_start_end"]
    controller.submit({"a": [CELL]}, "/mapping?all_wrap=false")
    assert controller.get("/mapping")["sequence"] == ["main"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"[]", "parts.main"),
        (b'{"a": 7}', "parts.main.a"),
        (b"{}", "no streams"),
        (b'{"z": [[{"constraint": 0}]]}', "not available"),
        (b'{"a": [[{"constraint": 0}, {"constraint": 1}, {"constraint": 2}]]}', "only 2 workers available"),
        (b'{"a": []}},"sequence":["main"],"x":{"b":{}', "JSON"),
    ],
)
def test_an_older_form_that_cannot_be_is_refused(controller: Played, body: bytes, said: str) -> None:
    assert said in problem(controller.ask("POST", "/mapping", content=body), 400)
    assert controller.machine.scan is None


def test_the_scan_hook_uses_the_streams_that_there_are(controller: Played) -> None:
    hook = {"streams": ["b", "nobody", "a", "b"], "scan": {"nb_points": 4, "title": "ascan"}}
    scan = controller.submit(hook, "/sardana_hook")
    assert str(uuid.UUID(scan)) == scan
    assert controller.get("/progress")["total_events"] == 6
    assert controller.get(f"/scans/{scan}/map") == {"streams": ["b", "a"], "events": 4, "all_wrap": True}


def test_a_refusal_quotes_no_more_than_can_be_read(controller: Played) -> None:
    assert len(problem(controller.ask("POST", "/mapping", json={"a": ["x" * (1 << 20)]}), 400)) < 5000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"streams": ["a"]}, "no scan info"),
        ([], "no scan info"),
        ({"scan": 5, "streams": ["a"]}, "no scan info"),
        ({"streams": ["a"], "scan": {}}, "no nb_points in scan"),
        ({"scan": {"nb_points": 3}}, "streams required"),
        ({"streams": "a", "scan": {"nb_points": 3}}, "streams required"),
        ({"streams": [1], "scan": {"nb_points": 3}}, "streams required"),
        ({"streams": ["x"], "scan": {"nb_points": 3}}, "none of the streams is available (there are: a, b)"),
        ({"streams": ["a"], "scan": {"nb_points": -1}}, "nb_points"),
        ({"streams": ["a"], "scan": {"nb_points": True}}, "nb_points"),
        ({"streams": ["a"], "scan": {"nb_points": "12"}}, "nb_points"),
        ({"streams": ["a"], "scan": {"nb_points": 1 << 60}}, "nb_points"),
    ],
)
def test_a_scan_hook_that_is_wrong_is_answered_with_a_sentence(controller: Played, body: Any, said: str) -> None:
    answer = controller.ask("POST", "/sardana_hook", json=body)
    assert answer.status_code == 200
    assert answer.json().startswith(said)
    assert controller.machine.scan is None


def test_a_scan_hook_that_cannot_be_read_is_a_problem(controller: Played) -> None:
    assert "JSON" in problem(controller.ask("POST", "/sardana_hook", content=b"{"), 400)
    large = {"content-length": str(1 << 30)}
    assert "1 MiB" in problem(controller.ask("POST", "/sardana_hook", content=b"", headers=large), 413)


def test_the_lists_of_a_report_that_grow_with_the_scan_are_cut(
    controller: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = controller.submit(UNIFORM)
    controller.say("reducer", m.PartsDone(controller.number, [], {}, 0, ticks=[(n, 0) for n in (1, 2, 3, 4)]))
    assert controller.get(f"/scans/{scan}/report")["ticks"] == [1, 2, 3, 4]
    monkeypatch.setitem(scans_module.MOST, "ticks", 2)
    assert controller.get(f"/scans/{scan}/report")["ticks"] == [3, 4]


# -- services ------------------------------------------------------------------------------------------------


def test_config_lists_the_services_as_clients_know_them(controller: Played) -> None:
    config = controller.get("/config")
    (ingester,), workers, reducer = config["ingesters"], config["workers"], config["reducer"]
    assert (ingester["name"], ingester["streams"], ingester["url"]) == ("ingester", ["a", "b"], "tcp://127.0.0.1:1")
    connected = ingester["connected_workers"]
    assert {c["name"] for c in connected.values()} == set(WORKERS)
    assert all(c["service_uuid"] == known and c["last_seen"] == 1000.0 for known, c in connected.items())
    assert [w["name"] for w in workers] == list(WORKERS)
    for worker in workers:
        assert worker["tags"] == ["generic"]
        (fetched,) = worker["ingesters"]
        assert list(fetched["connected_workers"]) == [worker["service_uuid"]]
        assert {**fetched, "connected_workers": connected} == ingester
    assert (reducer["url"], reducer["http"]) == ("tcp://127.0.0.1:2", "http://127.0.0.1:3")
    for service in (ingester, reducer, *workers):
        assert uuid.UUID(service["service_uuid"]).version == 4
        assert service["mapping_uuid"] is None
        assert service["mapreduce_version"] is None
        assert service["dranspose_version"] == "1.0"
        assert service["parameters_hash"] == config["parameters_hash"]


def test_the_scan_of_a_service_is_known_until_the_next_one(controller: Played) -> None:
    scan = controller.submit(UNIFORM)
    controller.process(0, 8)
    assert {s["mapping_uuid"] for s in everybody(controller)} == {scan}
    assert [w["processed_events"] for w in controller.get("/config")["workers"]] == [4, 4]
    controller.finish()
    assert {s["mapping_uuid"] for s in everybody(controller)} == {scan}
    controller.hello("worker", "late", tags=["generic"])
    assert [s["mapping_uuid"] for s in everybody(controller) if s["name"] == "late"] == [None]
    again = controller.submit(UNIFORM)
    assert {s["mapping_uuid"] for s in everybody(controller)} == {again}
    assert [w["processed_events"] for w in controller.get("/config")["workers"]] == [0, 0, 0]


def everybody(controller: Played) -> list[dict[str, Any]]:
    config = controller.get("/config")
    return [*config["ingesters"], *config["workers"], config["reducer"]]


def test_a_service_has_a_uuid_for_clients_that_does_not_tell_its_identity() -> None:
    """Whoever knew that could take its connection over."""
    identities = ["", "worker", str(uuid.uuid1()), uuid.uuid4().hex]
    told = [uuid_of(identity) for identity in identities]
    assert {uuid.UUID(text).version for text in told} == {4}
    assert len({*told, *identities}) == 2 * len(identities)
    assert told == [uuid_of(identity) for identity in identities]


def test_the_version_of_a_parameter_changes_exactly_when_its_value_does(controller: Played) -> None:
    def versions() -> dict[str, str]:
        found: dict[str, str] = controller.get("/config")["parameters_version"]
        assert all(uuid.UUID(v).version == 4 for v in found.values())
        return found

    first = versions()
    assert set(first) == {"gain", "roi"}
    controller.ask("POST", "/parameter/gain", content=b"2.0")
    assert versions() == first
    controller.ask("POST", "/parameter/gain", content=b"3")
    second = versions()
    assert second["gain"] != first["gain"]
    assert second["roi"] == first["roi"]
    controller.ask("POST", "/parameter/gain", content=b"2.0")
    assert versions() == first


def test_status_has_the_shapes_that_clients_know(controller: Played) -> None:
    controller.submit(UNIFORM)
    controller.process(0, 8, active=0.5, total=2.0)
    status = controller.get("/status")
    assert status["finished"] is False
    assert status["completed_events"] == list(range(8))
    assert set(status["work_completed"]) == {str(e) for e in range(8)}
    assert status["work_completed"]["0"] == status["work_completed"]["7"] == list(WORKERS)
    (assigned,) = status["assignment"]
    assert set(assigned) == {str(v) for v in range(len(assigned))}
    assert assigned
    assert all(status["work_completed"][str(int(v) + 1)] == [w] for v, w in assigned.items())
    times = {"get_assignments": 0, "get_messages": 1.5, "assemble_event": 0, "custom_code": 0.5, "send_result": 0}
    assert status["processing_times"]["worker-0"] == {"7": {**times, "no_events": 4}}
    assert status["services"]["worker worker-0"]["events"] == 4
    assert (status["phase"], status["streams"]) == ("running", {"a": "waiting", "b": "waiting"})


def test_status_lists_the_newest_events_alone(controller: Played) -> None:
    controller.submit({"streams": ["a"], "events": 10_000, "batch": 1000})
    controller.process(0, 5000)
    status = controller.get("/status")
    assert status["completed_events"] == list(range(5000 - NEWEST, 5000))
    assert len(status["work_completed"]) == NEWEST
    assert controller.get("/progress")["completed_events"] == 5000


@pytest.mark.parametrize(
    "body",
    [
        {"streams": ["a", "b"], "events": None, "batch": 3},
        {"streams": {"a": {"every": 2, "first": 4}, "b": {"every": 3}}, "events": 50},
        {"streams": ["a"], "events": 50, "broadcast": True},
        {"parts": {"p": {"a": [[], None, CELL, *[[{"constraint": 1}, {}]] * 5]}}, "sequence": ["p"] * 4},
    ],
    ids=["endless", "sparse", "broadcast", "explicit"],
)
def test_status_is_there_for_every_kind_of_map_also_when_it_was_cut_short(controller: Played, body: Any) -> None:
    controller.submit(body)
    for events in (1, 7, 20):
        controller.process(0, events)
        status = controller.get("/status")
        assert status["completed_events"] == list(range(events))
        assert status["work_completed"]["0"] == list(WORKERS)
    assert controller.ask("POST", "/stop").status_code == 200
    controller.finish()
    assert controller.get("/progress")["finished"] is True
    assert controller.get("/status")["completed_events"][:1] == [0]
    assert set(controller.get("/load")) == set(WORKERS)


def test_load_is_told_in_seconds(controller: Played) -> None:
    assert controller.get("/load") == {}
    controller.submit(UNIFORM)
    for second in range(1, 13):
        controller.now += 1.0
        controller.process(0, 2 * second, active=second / 4, total=float(second))
    load = controller.get("/load?intervals=1&intervals=10&scan=true")
    assert set(load) == set(WORKERS)
    assert load["worker-0"] == {
        "last_event": 23,
        "intervals": {
            "1": {"total": 1.0, "active": 0.25, "events": 1},
            "10": {"total": 10.0, "active": 2.5, "events": 10},
            "scan": {"total": 12.0, "active": 3.0, "events": 12},
        },
    }
    assert controller.get("/load") == load
    assert set(controller.get("/load?intervals=5&scan=false")["worker-0"]["intervals"]) == {"5"}
    for wrong in ("0", "-1", "1000000", "x", "1" * 30):
        assert "intervals" in problem(controller.ask("GET", f"/load?intervals={wrong}"), 422)
    assert problem(controller.ask("GET", "/load?" + "intervals=1&" * 21), 422)


def test_a_service_that_says_nonsense_of_itself_does_no_harm(controller: Played) -> None:
    controller.submit(UNIFORM)
    wrong = {"scan": controller.number, "events": -5, "active": float("nan"), "text": "x" * 10_000, "more": [1]}
    controller.say("worker-0", m.Beat(wrong))
    for path in ("/status", "/load", "/config"):
        controller.get(path)


# -- parameters ----------------------------------------------------------------------------------------------


def test_dump_prefix_is_there_for_everybody_and_changes_nothing_until_it_is_set(controller: Played) -> None:
    names = [p["name"] for p in controller.get("/parameters")]
    assert names == ["dump_prefix", "gain", "roi"]
    assert "gain, roi" in problem(controller.ask("GET", "/parameter/dump_prefix"), 404)
    assert [p["name"] for p in controller.machine.declared()] == ["gain", "roi"]
    before = controller.get("/config")["parameters_hash"]
    assert before == ParameterSet.build(DECLARED, {}, 0).hash
    assert "dump_prefix" in problem(controller.ask("POST", "/parameter/dump_prefix", content=b"\xff"), 400)
    after = controller.ask("POST", "/parameter/dump_prefix", content=b"/data/x").json()
    assert after == ParameterSet.build(DECLARED, {"dump_prefix": b"/data/x"}, 0).hash != before
    assert controller.ask("GET", "/parameter/dump_prefix").content == b"/data/x"


def test_an_app_may_declare_dump_prefix_itself(controller: Played) -> None:
    own = to_wire(StrParameter(name="dump_prefix", description="mine", default="/x"))
    controller.hello("worker", "other", parameters=[own])
    described = next(p for p in controller.get("/parameters") if p["name"] == "dump_prefix")
    assert (described["description"], described["default"]) == ("mine", "/x")
    assert controller.ask("GET", "/parameter/dump_prefix").content == b"/x"


def test_a_value_that_does_not_fit_is_refused_by_name_type_and_what_was_got(controller: Played) -> None:
    said = problem(controller.ask("POST", "/parameter/gain", content=b"much"), 400)
    assert "'gain'" in said
    assert "float" in said
    assert "b'much'" in said
    assert "'roi'" in problem(controller.ask("POST", "/parameter/roi", content=b"7"), 400)
    assert controller.machine.version == 0


def test_a_list_or_mapping_is_json(controller: Played) -> None:
    for data in (b"[5, 6]", b'{"a": [1]}'):
        assert controller.ask("POST", "/parameter/roi", content=data).status_code == 200
        answer = controller.ask("GET", "/parameter/roi")
        assert (answer.content, answer.headers["content-type"]) == (data, "application/x.bytes")
    assert next(p for p in controller.get("/parameters") if p["name"] == "roi")["default"] == [1, 2]


@pytest.mark.parametrize("default", [float("nan"), float("-inf")])
def test_a_default_that_json_cannot_write_is_text_that_reads_as_the_number(default: float) -> None:
    controller = Played([to_wire(FloatParameter(name="gain", default=default))])
    described = controller.get("/parameters")[1]
    assert repr(float(described["default"])) == repr(default)
    controller.close()


def test_parameters_are_bounded_together(controller: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters_module, "MAX_NAMES", 3)
    monkeypatch.setattr(parameters_module, "MAX_TOGETHER", 1 << 20)
    for name in ("x", "y", "z"):
        assert controller.ask("POST", f"/parameter/{name}", content=b"1").status_code == 200
    assert "3 parameters" in problem(controller.ask("POST", "/parameter/w", content=b"1"), 413)
    assert controller.ask("POST", "/parameter/x", content=b"2").status_code == 200
    assert "1 MiB" in problem(controller.ask("POST", "/parameter/x", content=b"2" * (1 << 20)), 413)


def test_a_report_says_from_which_event_a_version_with_which_hash_is_in_force(controller: Played) -> None:
    first = controller.get("/config")["parameters_hash"]
    scan = controller.submit(UNIFORM)
    second = controller.ask("POST", "/parameter/gain", content=b"5").json()
    assert controller.ask("GET", "/parameter/gain").content == b"5"
    controller.say("ingester", m.FenceReached(controller.number, controller.machine.version, 3))
    history = controller.get(f"/scans/{scan}/report")["parameters"]
    assert [(e["from_event"], e["hash"], e["values"]) for e in history] == [(0, first, {}), (4, second, {"gain": "5"})]


# -- logs ----------------------------------------------------------------------------------------------------


def test_logs_are_those_of_all_services(controller: Played) -> None:
    controller.say("worker-1", m.Logs([m.LogLine(5.0, "WARNING", 12, "hot"), m.LogLine(6.0, "INFO", 13, "well")]))
    entry = {"created": 5.0, "levelname": "WARNING", "name": "worker-1", "lineno": 12, "msg": "hot"}
    assert controller.get("/logs?level=WARNING") == [entry]
    assert [e["name"] for e in controller.get("/logs?limit=3")] == ["controller", "worker-1", "worker-1"]
    controller.service._writer.close()
    assert controller.ledger.logs(10, "WARNING") == [entry]


class Stream:
    """A request for the log stream, without a server: what was sent, and a client that can leave."""

    def __init__(self, controller: Played) -> None:
        self.leaving = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.requested = False
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/v1/log_stream",
            "raw_path": b"/api/v1/log_stream",
            "query_string": b"",
            "headers": [],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        self.task = asyncio.create_task(controller.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self.requested:
            self.requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    def lines(self) -> list[dict[str, Any]]:
        body = b"".join(s.get("body", b"") for s in self.sent[1:])
        return [json.loads(line) for line in body.splitlines()]


async def until(true: Callable[[], bool]) -> None:
    """Give others their turn until this is so."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


def test_the_log_stream_has_new_entries_as_they_come_until_the_service_stops(controller: Played) -> None:
    async def run() -> None:
        notes = controller.service.notes
        stream = Stream(controller)
        await until(lambda: notes.readers == 1)
        controller.say("worker-0", m.Logs([m.LogLine(5.0, "ERROR", 12, "one\ntwo")]))
        await until(lambda: len(stream.sent) > 1)
        assert dict(stream.sent[0]["headers"])[b"content-type"] == b"application/x-ndjson"
        line = {"created": 5.0, "levelname": "ERROR", "name": "worker-0", "lineno": 12, "msg": "one\ntwo"}
        assert stream.lines() == [line]
        controller.app.state.on_stop()
        await stream.task
        assert stream.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert notes.readers == 0

    asyncio.run(run())


def test_a_client_that_leaves_the_log_stream_is_forgotten(controller: Played) -> None:
    async def run() -> None:
        stream = Stream(controller)
        await until(lambda: controller.service.notes.readers == 1)
        stream.leaving.set()
        await stream.task
        assert controller.service.notes.readers == 0

    asyncio.run(run())


def test_readers_along_are_not_taken_without_end(controller: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamfold.dispatch.notes.MAX_READERS", 0)
    assert "read along" in problem(controller.ask("GET", "/log_stream"), 503)


# -- other sites' pages --------------------------------------------------------------------------------------


def test_a_page_of_another_site_may_read_without_credentials(controller: Played) -> None:
    answer = controller.ask("GET", "/progress", headers={"origin": "http://elsewhere"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    preflight = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    assert controller.ask("OPTIONS", "/stop", headers=preflight).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://elsewhere"},
        {"origin": "null"},
        {"origin": "http://test:81"},
        {"origin": "http://["},
        {"origin": "http://test", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/stop", "/sequence", "/mapping", "/sardana_hook", "/parameter/gain"])
def test_a_page_of_another_site_can_neither_start_nor_stop_nor_set_anything(
    controller: Played, path: str, headers: dict[str, str]
) -> None:
    scan = controller.submit(UNIFORM)
    text = {"content-type": "text/plain", **headers}
    body = json.dumps(SEQUENCE).encode()
    assert "another site" in problem(controller.ask("POST", path, content=body, headers=text), 403)
    assert controller.get("/progress")["scan"] == scan
    assert controller.get("/progress")["phase"] == "running"
    assert controller.machine.version == 0


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://test"}, {"origin": "http://elsewhere", "sec-fetch-site": "same-origin"}],
    ids=["program", "own page", "own page behind a proxy"],
)
def test_programs_and_our_own_pages_may(controller: Played, headers: dict[str, str]) -> None:
    controller.submit(UNIFORM)
    assert controller.ask("POST", "/stop", headers=headers).status_code == 200
    assert ask(controller.app, "GET", "/").status_code == 200
