"""A mistake is a message: a clear text where the person looks for it, and everything else goes on.

Every test leaves the deployment as it found it; that it still works is what the next test begins with, and what
`assert_still_works` shows at the end of those that attack it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from beamfold.testing.simulators import stins_series
from beamfold.testing.wire import Message
from flow.deployment import Deployment, Stream, wait_until
from flow.witness import frames, points

STREAMS = {"camera": Stream(), "motors": Stream("contrast", {"ingester": "camera"})}

WORKER = """
from beamfold.model.parameters import IntParameter


class Worker:
    @staticmethod
    def describe_parameters():
        return [IntParameter(name="threshold", default=3)]

    def process_event(self, event, parameters=None):
        for stream in event.streams.values():
            message = stream.parse()
            if getattr(message, "status", None) == "running" or getattr(message, "htype", None) == "image":
                return self.look(event.event_number, message)

    def look(self, event, message):
        return int(message.data.flat[0]) if "htype" in message else int(message.pseudo["x"][0])
"""

REDUCER = """
class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"found": []}

    def process_result(self, result, parameters=None):
        self.publish["found"].append(result.payload)
"""

GOOD = {"worker.py": WORKER, "reducer.py": REDUCER}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("mistakes"), GOOD, STREAMS, workers=1) as deployment:
        yield deployment


@pytest.fixture
def deployment(running: Deployment) -> Deployment:
    """With the app that makes no mistakes."""
    running.write(GOOD)
    return running


def camera(events: int) -> dict[str, Any]:
    return {"streams": ["camera"], "events": events}


def scan(deployment: Deployment, sent: list[Message], events: int, stream: str = "camera") -> dict[str, Any]:
    """The report of a scan in which one detector sends this."""
    number = deployment.submit({"streams": [stream], "events": events})
    deployment.send(stream, sent)
    return deployment.wait_ended(number)


def assert_still_works(deployment: Deployment) -> None:
    deployment.write(GOOD)
    assert scan(deployment, frames(5), 5)["summary"] == "5 events: 5 reduced"
    assert deployment.state("found") == [0, 1, 2, 3, 4]


def look(*lines: str) -> dict[str, str]:
    """The app with another `look`."""
    head, _, _ = WORKER.rpartition("        return")
    return {"worker.py": head + "".join(f"        {line}\n" for line in lines)}


# -- in a request ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{nonsense", "the body is not JSON"),
        (b"", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "trigger map"),
        (b'"camera"', "trigger map"),
        (b"null", "trigger map"),
        (b"{}", "trigger map"),
        (b'{"streams": "camera", "events": 3}', "streams"),
        (b'{"streams": ["camera"], "events": "many"}', "events"),
        (b'{"streams": ["camera"], "events": -1}', "events"),
        (b'{"streams": ["camera"], "event": 3}', "event"),
        (b'{"parts": {"p": {"camera": [[{"constraint": "x"}]]}}, "sequence": ["p"]}', "constraint"),
        (b'{"parts": {"p": {"camera": [null]}}, "sequence": ["q"]}', "'q'"),
    ],
)
def test_a_body_that_is_no_trigger_map_is_refused_with_what_is_wrong(
    deployment: Deployment, body: bytes, says: str
) -> None:
    detail = deployment.refused(deployment.post("sequence", content=body))
    assert says in detail
    assert len(detail) < 1000


def test_a_stream_that_nobody_has_is_named(deployment: Deployment) -> None:
    detail = deployment.refusal({"streams": ["camera", "camra"], "events": 3})
    assert "streams {'camra'} not available" in detail


def test_a_map_that_needs_more_workers_than_there_are_is_refused(deployment: Deployment) -> None:
    parts = {"p": {"camera": [[{"constraint": 0}]], "motors": [[{"constraint": 1}]]}}
    detail = deployment.refusal({"parts": parts, "sequence": ["p"]})
    assert "only 1 workers available, but 2 required" in detail


def test_a_tag_that_no_worker_has_is_named(deployment: Deployment) -> None:
    detail = deployment.refusal({**camera(3), "tags": ["gpu"]})
    assert "gpu" in detail


def test_a_parameter_that_cannot_be_what_it_is_declared_as_is_refused(deployment: Deployment) -> None:
    for value in (b"abc", b"", b"\xff"):
        detail = deployment.refused(deployment.post("parameter/threshold", content=value))
        assert "'threshold'" in detail
    assert deployment.get("parameter/threshold").content == b"3"
    deployment.set_parameter("threshold", b"4")
    assert deployment.get("parameter/threshold").content == b"4"


@pytest.mark.parametrize("path", ["parameter/nosuch", "scans/nosuch", "scans/nosuch/report"])
def test_what_is_not_there_is_said_not_to_be(deployment: Deployment, path: str) -> None:
    assert "'nosuch'" in deployment.refused(deployment.get(path), 404)


# -- in the app -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("worker.py", "class Worker:\n    def process_event(self, event)\n", "SyntaxError"),
        ("worker.py", "import nosuch\n", "No module named 'nosuch'"),
        ("worker.py", "class Wroker:\n    pass\n", "Wroker"),
        ("worker.py", "class Worker:\n    pass\n", "process_event"),
        ("reducer.py", "class Reducer:\n    pass\n", "process_result"),
        ("worker.py", WORKER + "    def __init__(self, **kwargs):\n        1 / 0\n", "ZeroDivisionError"),
        ("reducer.py", REDUCER.replace('{"found": []}', "{}[0]"), "KeyError: 0"),
        ("worker.py", WORKER + "    def __init__(self, **kwargs):\n        raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_an_app_that_cannot_be_used_refuses_the_scan_until_it_is_mended(
    deployment: Deployment, file: str, text: str, says: str
) -> None:
    deployment.write({file: text})
    detail = deployment.refusal(camera(3))
    assert says in detail
    assert file.removesuffix(".py") in detail
    assert_still_works(deployment)


def test_a_mistake_in_process_event_fails_its_events_and_no_other(deployment: Deployment) -> None:
    deployment.write(look("if event in (3, 5): raise ValueError(f'no light in {event}')", "return event"))
    report = scan(deployment, frames(9), 9)
    assert report["summary"] == "9 events: 7 reduced, 2 failed"
    assert report["runs"] == {"failed": [[3, 4], [5, 6]]}
    assert [(f["event"], f["where"], f["worker"]) for f in report["failures"]] == [
        (3, "process_event", "worker-0"),
        (5, "process_event", "worker-0"),
    ]
    text = report["failures"][0]["traceback"]
    assert text.endswith("ValueError: no light in 3")
    assert "worker.py" in text
    assert "beamfold" not in text
    assert deployment.state("found") == [1, 2, 4, 6, 7, 8, 9]


def test_an_app_that_calls_exit_fails_its_event_and_stays(deployment: Deployment) -> None:
    deployment.write(look("if event == 2: raise SystemExit", "return event"))
    assert scan(deployment, frames(3), 3)["summary"] == "3 events: 2 reduced, 1 failed"


def test_a_mistake_in_process_result_fails_its_events_and_no_other(deployment: Deployment) -> None:
    mistake = "        if result.event_number == 4:\n            raise KeyError('energy')\n"
    head, publish, tail = REDUCER.rpartition("        self.publish")
    deployment.write({"reducer.py": head + mistake + publish + tail})
    report = scan(deployment, frames(6), 6)
    assert report["summary"] == "6 events: 5 reduced, 1 failed"
    [failure] = report["failures"]
    assert (failure["event"], failure["where"]) == (4, "process_result")
    assert failure["traceback"].endswith("KeyError: 'energy'")
    assert deployment.state("found") == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("{'fit': [1, (n for n in ())]}", ["result['fit'][1]", "generator"]),
        ("message", ["Image"]),
        ("lambda: 0", ["function"]),
    ],
)
def test_a_result_that_cannot_travel_is_a_failure_that_says_what_to_return(
    deployment: Deployment, result: str, says: list[str]
) -> None:
    deployment.write(look("if event != 2: return event", f"return {result}"))
    report = scan(deployment, frames(3), 3)
    assert report["summary"] == "3 events: 2 reduced, 1 failed"
    text = report["failures"][0]["traceback"]
    assert text.startswith("process_event returned what cannot travel")
    assert all(part in text.replace('"', "'") for part in says), text


def test_a_finish_that_raises_is_in_the_report(deployment: Deployment) -> None:
    finish = "    def finish(self, parameters=None):\n        raise RuntimeError('disk is full')\n"
    deployment.write({"worker.py": WORKER + finish, "reducer.py": REDUCER + finish})
    report = scan(deployment, frames(3), 3)
    assert report["ended"] == "finished"
    assert [(f["where"], f["worker"]) for f in report["failures"]] == [("finish", "worker-0"), ("finish", "reducer")]
    assert all("disk is full" in f["traceback"] for f in report["failures"])


def test_a_class_path_that_leads_nowhere_is_told_at_the_start_and_at_every_scan(tmp_path: Path) -> None:
    classes = ("worker.py:Wroker", "nosuch.py:Reducer")
    complaints = ["Wroker", r"nosuch\.py"]
    with Deployment(
        tmp_path, GOOD, {"camera": Stream()}, classes=classes, workers=1, complaints=complaints
    ) as deployment:
        said = "\n".join(deployment.lines)
        assert re.search(r"worker-0: .*no class 'Wroker', it has Worker; did you mean .*worker.py:Worker\?", said)
        assert re.search(r"reducer: .*there is no file .*nosuch.py; .* has reducer.py, worker.py", said)
        config = deployment.get("config").json()
        assert "Wroker" in config["workers"][0]["error"]
        assert "nosuch.py" in config["reducer"]["error"]
        assert "nosuch.py" in deployment.refusal(camera(3))
        deployment.write({"nosuch.py": REDUCER})
        assert "did you mean" in deployment.refusal(camera(3))
        deployment.write({"worker.py": WORKER.replace("Worker", "Wroker")})
        assert scan(deployment, frames(3), 3)["summary"] == "3 events: 3 reduced"


# -- in the frames ----------------------------------------------------------------------------------------------


def broken(replace: dict[int, Message], count: int = 6, **more: Any) -> list[Message]:
    """A series some of whose frames are something else."""
    sent = list(stins_series((np.full((4, 4), n, "uint32") for n in range(count)), **more))
    return [replace.get(n, message) for n, message in enumerate(sent, -1)]


def image(**changes: Any) -> bytes:
    header = {"htype": "image", "frame": 2, "msg_number": 3, "shape": [4, 4], "type": "uint32", "compression": "none"}
    return json.dumps({**header, **changes}).encode()


PIXELS = np.full((4, 4), 2, "uint32").tobytes()


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ([image()], "image message has 2 parts, found 1"),
        ([image(), PIXELS, PIXELS], "image message has 2 parts, found 3"),
        ([b"{nonsense", PIXELS], "STINS header"),
        ([b"\x00\xff" * 50], "STINS header"),
        ([b""], "STINS header"),
        ([image(frame="two"), PIXELS], "frame"),
        ([image(frame=-1), PIXELS], "frame"),
        ([image(htype="picture"), PIXELS], "htype"),
    ],
)
def test_a_message_that_is_no_frame_costs_its_event_and_is_described(
    deployment: Deployment, message: Message, says: str
) -> None:
    report = scan(deployment, broken({2: message}), 6)
    assert report["states"] == {"reduced": 5, "incomplete (skipped)": 1}
    assert report["runs"] == {"incomplete (skipped)": [[3, 4]]}
    assert report["streams"]["camera"]["malformed"] == 1
    [trouble] = report["troubles"]
    assert trouble.startswith("stream camera: ")
    assert says in trouble
    assert deployment.state("found") == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ([image(shape=[5, 4]), PIXELS], ["[5, 4]", "uint32", "64"]),
        ([image(type="float64"), PIXELS], ["float64", "64"]),
        ([image(type="colour"), PIXELS], ["colour"]),
        ([image(), b""], ["0"]),
        ([image(compression="zip"), PIXELS], ["zip"]),
        ([image(compression="bslz4"), PIXELS], ["bslz4"]),
        ([image(shape=[1 << 40, 1 << 40]), PIXELS], ["image 2"]),
    ],
)
def test_pixels_that_do_not_fit_their_header_fail_their_event(
    deployment: Deployment, message: Message, says: list[str]
) -> None:
    report = scan(deployment, broken({2: message}), 6)
    assert report["summary"] == "6 events: 5 reduced, 1 failed"
    [failure] = report["failures"]
    assert failure["event"] == 3
    last = failure["traceback"].strip().splitlines()[-1]
    assert "MalformedFrame: " in last
    assert all(part in last for part in says), last
    assert deployment.state("found") == [0, 1, 3, 4, 5]


def test_a_compressed_frame_that_was_cut_off_fails_its_event(deployment: Deployment) -> None:
    whole = broken({}, compression="bslz4")
    header, data = whole[3]
    for length in (0, 5, 12, len(data) - 1):
        report = scan(deployment, broken({2: [header, data[:length]]}, compression="bslz4"), 6)
        assert report["summary"] == "6 events: 5 reduced, 1 failed"
        assert "MalformedFrame" in report["failures"][0]["traceback"]
        assert deployment.state("found") == [0, 1, 3, 4, 5]


class Hostile:
    """Unpickled, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["instead of a message", "inside a start message", "inside a point"])
def test_a_hostile_pickle_is_not_executed_and_named(deployment: Deployment, tmp_path: Path, place: str) -> None:
    """A point whose pickle ends as it should passes the ingester, which does not look inside; the worker refuses it."""
    trap = tmp_path / "trap"
    sent = points(6)
    if place == "instead of a message":
        sent[3] = [pickle.dumps(Hostile(trap), 2)]
    elif place == "inside a start message":
        sent.insert(0, [pickle.dumps({"scannr": Hostile(trap), "status": "started"}, 2)])
    else:
        sent[3] = [pickle.dumps({"pseudo": Hostile(trap), "status": "running"}, 2)]
    report = scan(deployment, sent, 6, "motors")
    assert report["ended"] == "finished"
    if place == "instead of a message":
        assert report["summary"] == "6 events: 5 unverified, 1 incomplete (skipped)"
        assert report["streams"]["motors"]["malformed"] == 1
        said = report["troubles"]
    elif place == "inside a start message":
        assert report["summary"] == "6 events: 6 reduced"
        said = report["troubles"]
    else:
        assert report["summary"] == "6 events: 5 reduced, 1 failed"
        said = [f["traceback"] for f in report["failures"]]
    assert len(said) == 1
    assert "mkdir" in said[0]
    assert not trap.exists()


# -- on the ports -----------------------------------------------------------------------------------------------


def test_junk_on_the_http_ports_changes_nothing(deployment: Deployment) -> None:
    for url in (deployment.controller_url, deployment.reducer_url):
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), 5) as stranger:
            stranger.sendall(b"\x00\xff\r\n\r\n" * 50)
            assert stranger.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert_still_works(deployment)


def test_frames_that_are_no_series_at_all_leave_the_scan_waiting_until_it_is_stopped(deployment: Deployment) -> None:
    number = deployment.submit(camera(5))
    deployment.send("camera", [[b"junk"] * 3] * 150)
    wait_until(lambda: deployment.report(number)["streams"]["camera"]["malformed"] == 150, "all junk to be counted")
    deployment.stop()
    report = deployment.wait_ended(number)
    assert report["ended"] == "stopped"
    assert report["summary"] == "0 events: none came (5 of 5 planned were not reached)"
    assert len(report["troubles"]) == 100, "described one by one at first, then only counted"
