"""What scan hooks and viewers that were written for dranspose do, against a whole deployment."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flow import peer
from flow.deployment import INTERRUPTED, PATIENCE, Deployment, Stream, wait_until
from flow.witness import frames

WORKER = """
import logging
from beamfold.model.parameters import BoolParameter, IntParameter, JsonParameter, StrParameter


class Worker:
    @staticmethod
    def describe_parameters():
        return [
            StrParameter(name="text", description="what to say", default="hello"),
            IntParameter(name="gain", default=2),
            JsonParameter(name="roi", default=[1, 2]),
        ]

    def __init__(self, parameters=None, **kwargs):
        self.warned = False

    def process_event(self, event, parameters=None):
        if not self.warned:
            self.warned = True
            logging.getLogger("app").warning("the first event is %d", event.event_number)
        p = {name: parameters[name].value for name in ("text", "gain", "roi", "offset")}
        return {**p, "first": parameters["roi"][0], "streams": sorted(event.streams)}
"""

REDUCER = """
from beamfold.model.parameters import FloatParameter


class Reducer:
    @staticmethod
    def describe_parameters():
        return [FloatParameter(name="offset", default=0.5)]

    def __init__(self, **kwargs):
        self.publish = {"events": [], "hashes": [], "payloads": [], "own": []}

    def process_result(self, result, parameters=None):
        self.publish["events"].append(result.event_number)
        self.publish["hashes"].append([result.parameters_hash, parameters.hash])
        self.publish["payloads"].append(result.payload)
        self.publish["own"].append(parameters["gain"].value)
"""

APP = {"worker.py": WORKER, "reducer.py": REDUCER}
STREAMS = {"eiger": Stream(), "orca": Stream()}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("older"), APP, STREAMS) as deployment:
        yield deployment


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def one(constraint: int | None) -> list[dict[str, Any]]:
    return [{"tags": ["generic"], "constraint": constraint}]


def send(deployment: Deployment, count: int, part: slice = slice(None)) -> None:
    for stream in STREAMS:
        deployment.send(stream, frames(count)[part])


def poll_until_finished(deployment: Deployment) -> dict[str, Any]:
    """As the scan macro does at the end of a scan."""

    def finished() -> dict[str, Any] | None:
        progress: dict[str, Any] = ok(deployment.get("progress"))
        assert {"last_assigned", "completed_events", "total_events", "finished"} <= set(progress)
        return progress if progress["finished"] else None

    found: dict[str, Any] = wait_until(finished, "progress says finished")
    return found


def assert_uuid(text: Any) -> str:
    assert uuid.UUID(text).version == 4
    return str(text)


def test_the_scan_macro_with_the_older_mapping(deployment: Deployment) -> None:
    config = ok(deployment.get("config"))
    streams = [name for ingester in config["ingesters"] for name in ingester["streams"]]
    assert sorted(streams) == ["eiger", "orca"]
    cells = [one(2 * n) for n in range(10)]
    scan = assert_uuid(ok(deployment.post("mapping", json=dict.fromkeys(streams, cells))))
    send(deployment, 10)
    progress = poll_until_finished(deployment)
    assert progress == {**progress, "last_assigned": 12, "completed_events": 12, "total_events": 12}
    assert deployment.report(scan)["summary"] == "10 events: 10 reduced"
    shown = ok(deployment.get("mapping"))
    assert shown["sequence"] == ["reserved_start_end", "main", "reserved_start_end"]
    assert shown["parts"]["main"]["mapping"] == dict.fromkeys(streams, cells)


def test_the_scan_macro_with_a_sequence_with_and_without_tags(deployment: Deployment) -> None:
    for target in ({"tags": ["generic"]}, {}):
        cells = [[{**target, "constraint": n}] for n in range(4)]
        part = {"eiger": cells, "orca": [cells[0], None, None, [*cells[3], {**target, "constraint": 0}]]}
        body = {"parts": {"line": part}, "sequence": ["line", "line"]}
        scan = assert_uuid(ok(deployment.post("sequence", params={"all_wrap": "true"}, json=body)))
        deployment.send("eiger", frames(8))
        deployment.send("orca", frames(4))
        assert poll_until_finished(deployment)["total_events"] == 10
        assert deployment.report(scan)["summary"] == "8 events: 8 reduced"
        shown = ok(deployment.get("sequence"))
        assert shown["sequence"] == ["reserved_start_end", "line", "line", "reserved_start_end"]
        assert shown["parts"]["line"]["mapping"]["orca"][3] == [one(3)[0], one(0)[0]]
        assert shown["parts"]["reserved_start_end"] == {"mapping": {stream: [one(None)] for stream in part}}
        again = ok(deployment.post("sequence", json=ok(deployment.get(f"scans/{scan}/map"))))
        ok(deployment.post("stop"))
        deployment.wait_ended(again)


def test_the_scan_hook_with_a_number_of_points(deployment: Deployment) -> None:
    hook = {"streams": ["eiger", "no such camera", "orca"], "scan": {"nb_points": 7, "user": "somebody"}}
    scan = assert_uuid(ok(deployment.post("sardana_hook", json=hook)))
    send(deployment, 7)
    assert poll_until_finished(deployment)["completed_events"] == 9
    assert deployment.report(scan)["summary"] == "7 events: 7 reduced"
    assert ok(deployment.post("sardana_hook", json={"streams": ["eiger"]})) == "no scan info"


def test_what_cannot_be_is_refused_in_one_text(deployment: Deployment) -> None:
    wrong = {"parts": {"p": {"pilatus": [one(0)]}}, "sequence": ["p"]}
    assert "pilatus" in deployment.refused(deployment.post("sequence", json=wrong))
    many = {"parts": {"p": {"eiger": [[*one(0), *one(1), *one(2)]]}}, "sequence": ["p"]}
    assert "only 2 workers available, but 3 required" in deployment.refused(deployment.post("sequence", json=many))
    assert "pilatus" in deployment.refused(deployment.post("mapping", json={"pilatus": [one(0)]}))


def test_parameters_are_described_and_set_as_raw_bytes(deployment: Deployment) -> None:
    described = ok(deployment.get("parameters"))
    assert [p["name"] for p in described] == ["dump_prefix", "gain", "offset", "roi", "text"]
    assert described[4] == {"name": "text", "description": "what to say", "dtype": "str", "default": "hello"}
    defaults = {"gain": b"2", "offset": b"0.5", "roi": b"[1, 2]", "text": b"hello"}
    for name, data in defaults.items():
        answer = deployment.get(f"parameter/{name}")
        assert (answer.content, answer.headers["content-type"]) == (data, "application/x.bytes")
    for name in ("dump_prefix", "nothing"):
        assert name in deployment.refused(deployment.get(f"parameter/{name}"), 404)
    before = ok(deployment.get("config"))
    for name, data, dtype in (("gain", b"two", "int"), ("offset", b"x", "float"), ("roi", b"7", "json")):
        said = deployment.refused(deployment.post(f"parameter/{name}", content=data))
        assert f"'{name}'" in said
        assert dtype in said
        assert repr(data) in said
    assert ok(deployment.get("config"))["parameters_hash"] == before["parameters_hash"]
    assert ok(deployment.post("parameter/roi", content=b'{"x": [3, 4]}')) != before["parameters_hash"]
    after = ok(deployment.get("config"))
    changed = {n for n, v in after["parameters_version"].items() if v != before["parameters_version"].get(n)}
    assert changed == {"roi"}
    assert ok(deployment.post("parameter/roi", content=b"[1, 2]")) == before["parameters_hash"]


def test_every_result_knows_the_version_that_it_was_made_with(deployment: Deployment) -> None:
    """Set in a running scan: visible at once, in force from one event on, for worker and reducer alike."""
    first = ok(deployment.post("parameter/gain", content=b"3"))
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": 200})
    send(deployment, 200, slice(0, 101))
    deployment.wait_reached(101)
    second = ok(deployment.post("parameter/gain", content=b"-4"))
    assert second != first
    assert deployment.get("parameter/gain").content == b"-4"
    third = ok(deployment.post("parameter/roi", content=b"[50]"))
    wait_until(lambda: deployment.report(scan)["parameters"][-1]["hash"] == third, "the last version in force")
    send(deployment, 200, slice(101, None))
    report = deployment.wait_ended(scan)
    assert report["summary"] == "200 events: 200 reduced"
    history = report["parameters"]
    assert history[0]["hash"] == first
    assert history[-1]["hash"] == third
    state = deployment.state()
    seen = list(zip(state["events"], state["hashes"], state["payloads"], state["own"], strict=True))
    assert {event for event, *_ in seen} >= set(range(1, 201))
    values = {first: (3, 1), second: (-4, 1), third: (-4, 50)}
    for event, (made, folded), payload, own in seen:
        entry = [e for e in history if e["from_event"] <= event][-1]
        assert made == folded == entry["hash"], f"event {event}: {history}"
        assert (payload["gain"], payload["first"]) == values[made]
        assert own == payload["gain"]
        assert (payload["text"], payload["offset"]) == ("hello", 0.5)
    assert {made for _, (made, _), *_ in seen} >= {first, third}
    ok(deployment.post("parameter/roi", content=b"[1, 2]"))


def test_dump_prefix_is_a_parameter_like_others_once_it_is_set(deployment: Deployment) -> None:
    before = ok(deployment.get("config"))
    assert "dump_prefix" not in before["parameters_version"]
    prefix = f"{deployment.folder}/dump-".encode()
    known = ok(deployment.post("parameter/dump_prefix", content=prefix))
    assert known != before["parameters_hash"]
    assert deployment.get("parameter/dump_prefix").content == prefix
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": 5})
    send(deployment, 5)
    deployment.wait_ended(scan)
    assert {made for made, _ in deployment.state()["hashes"]} == {known}
    assert ok(deployment.get("config"))["parameters_hash"] == known
    ok(deployment.post("parameter/dump_prefix", content=b""))


def test_a_scan_is_stopped(deployment: Deployment) -> None:
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": None})
    assert deployment.get("sequence").status_code == 409
    send(deployment, 10, slice(0, 6))
    deployment.wait_reached(6)
    answer = deployment.post("stop")
    assert (answer.status_code, answer.json()) == (200, None)
    assert poll_until_finished(deployment)["finished"] is True
    assert deployment.wait_ended(scan)["ended"] == "stopped"
    send(deployment, 10, slice(6, None))
    assert ok(deployment.post("stop")) is None


@peer.needed
def test_dranspose_reads_what_we_answer_before_during_and_after_a_scan(deployment: Deployment) -> None:
    names = ["worker-0", "worker-1"]

    def config() -> Any:
        found = peer.read("config", ok(deployment.get("config")))
        assert (found["streams"], found["workers"], found["url"]) == (["eiger", "orca"], names, "tcp")
        return found

    before = config()
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": 30})
    send(deployment, 30, slice(0, 11))
    deployment.wait_reached(11)
    during = config()
    assert during["mapping"] == [scan] != before["mapping"]
    send(deployment, 30, slice(11, None))
    deployment.wait_ended(scan)
    after = config()
    assert after["mapping"] == [scan]
    assert sum(after["processed"]) == 30 + 2 * len(names)
    assert after["versions"] == during["versions"]
    assert peer.read("sequence", ok(deployment.get("sequence"))) == [32, 1, ["eiger", "orca"]]
    load = peer.read("load", ok(deployment.get("load?intervals=1&intervals=10&scan=true")))
    assert sum(events for events, _ in load.values()) == 30 + 2 * len(names)
    status = ok(deployment.get("status"))
    assert sum(peer.read("times", status["processing_times"]).values()) == 30 + 2 * len(names)
    assert status["completed_events"] == list(range(32))
    assert set(status["work_completed"]["0"]) == set(names)
    # A list or mapping is a type that it does not have.
    described = [p for p in ok(deployment.get("parameters")) if p["dtype"] != "json"]
    assert peer.read("parameters", described) == [
        ["StrParameter", "dump_prefix", ""],
        ["IntParameter", "gain", 2],
        ["FloatParameter", "offset", 0.5],
        ["StrParameter", "text", "hello"],
    ]


def test_services_say_how_much_they_did(deployment: Deployment) -> None:
    """An ingester's last word about a scan may come after the scan's end."""
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": 20})
    send(deployment, 20)
    deployment.wait_ended(scan)

    def processed() -> bool:
        config = ok(deployment.get("config"))
        services = [*config["ingesters"], config["reducer"]]
        return all(s["processed_events"] >= 20 for s in services)

    wait_until(processed, "the ingesters' last beats")
    services = ok(deployment.get("status"))["services"]
    assert {"active", "total", "events"} <= set(services["worker worker-0"])
    for worker in ok(deployment.get("load")).values():
        assert 0 <= worker["intervals"]["scan"]["active"] <= worker["intervals"]["scan"]["total"]
        assert worker["last_event"] == 21


def follow(deployment: Deployment, lines: list[dict[str, Any]], ended: threading.Event) -> threading.Thread:
    """Read the log stream in a thread; `ended` when it came to its end as it should."""
    started = threading.Event()

    def run() -> None:
        take = lines.append
        url = f"{deployment.controller_url}/api/v1/log_stream"
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client, client.stream("GET", url) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            started.set()
            for line in answer.iter_lines():
                take(json.loads(line))
            ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    return thread


def test_logs_of_all_services_are_listed_and_streamed_until_the_end(deployment: Deployment) -> None:
    """The last test: what follows the log is let go, and does not hold the end up."""
    lines: list[dict[str, Any]] = []
    ended = threading.Event()
    reader = follow(deployment, lines, ended)
    scan = deployment.submit({"streams": ["eiger", "orca"], "events": 5})
    send(deployment, 5)
    deployment.wait_ended(scan)

    def warned() -> list[dict[str, Any]]:
        return [line for line in lines if line["name"] == "worker-0" and line["msg"] == "the first event is 0"]

    (line,) = wait_until(warned, "the worker's warning in the stream")
    assert set(line) == {"created", "levelname", "name", "lineno", "msg"}
    assert (line["levelname"], line["lineno"]) == ("WARNING", 1 + WORKER.split("logging.getLogger")[0].count("\n"))
    logs = ok(deployment.get("logs?level=WARNING"))
    assert line in logs
    assert all(entry["levelname"] in ("WARNING", "ERROR", "CRITICAL") for entry in logs)
    everything = ok(deployment.get("logs?level=INFO"))
    assert {"controller", "worker-0", "worker-1", "eiger", "orca", "reducer"} <= {e["name"] for e in everything}
    assert deployment.interrupt() == INTERRUPTED
    reader.join(PATIENCE)
    assert ended.is_set()
