"""Recordings and dumps of whole deployments: replayed they give the same state, here and (dumps) in dranspose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.cli.replay import run_replay
from beamfold.offline.playback import Capture, read_captures
from beamfold.offline.replay import Replay
from beamfold.protocols.dumps import read_dump
from beamfold.protocols.recordings import RESULT, read_recording
from beamfold.testing.simulators import stins_series
from flow import peer
from flow.deployment import Deployment, Stream
from flow.witness import APP as WITNESS
from flow.witness import frames, points
from processes import command
from same import differences

WORKER = """
from beamfold import IntParameter


class Worker:
    @staticmethod
    def describe_parameters():
        return [IntParameter(name="p", default=1)]

    def __init__(self, parameters=None, context=None, state=None):
        self.name = state.name

    def get_tick_interval(self, parameters=None):
        return 0.05

    def process_event(self, event, parameters=None, tick=False):
        if event.event_number == 7:
            raise ValueError("seven")
        image = event.streams["camera"].parse() if "camera" in event.streams else None
        value = float(image.data.sum()) if image is not None and image.htype == "image" else 0.0
        return {
            "value": value * parameters["p"].value / 3,
            "row": [event.event_number, int(tick), parameters["p"].value, len(event.streams)],
            "who": self.name,
        }
"""

REDUCER = """
import numpy as np


class Reducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"rows": [], "who": [], "p": [], "total": np.float32(0), "finished": 0}

    def process_result(self, result, parameters=None):
        self.publish["rows"].append(result.payload["row"])
        self.publish["who"].append([result.worker, result.payload["who"]])
        self.publish["p"].append([parameters["p"].value, result.parameters_hash])
        # In single precision, so that the sum depends on the order.
        self.publish["total"] = np.float32(self.publish["total"] + np.float32(result.payload["value"]))

    def finish(self, parameters=None):
        self.publish["finished"] += 1
"""

STREAMS = {"camera": Stream(), "motors": Stream("contrast")}


def images(count: int) -> list[Any]:
    rng = np.random.default_rng(1)
    return list(stins_series(rng.integers(0, 1000, (8, 8), "uint16") for _ in range(count)))


def test_live_is_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two streams, lost frames, an exception, ticks, two changes of a parameter, an endless map: all the same again.

    The worker's results depend on the event, the parameters, the tick and who it is, and on nothing else: in which
    order one worker gets its parts is not promised where frames are missing or parameters change.
    """
    files = {"worker.py": WORKER, "reducer.py": REDUCER}
    record = {"record": {"directory": str(tmp_path / "recordings")}}
    with Deployment(tmp_path, files, STREAMS, sections=record, complaints=["seven"]) as d:
        scan = d.submit({"streams": ["camera", "motors"], "batch": 3})
        camera = [m for n, m in enumerate(images(300), -1) if n not in (40, 41, 299)]
        motors = points(300)
        for at, value in ((0, b"1"), (100, b"20"), (200, b"3")):
            if at:
                d.wait_reached(at - 20)
                d.set_parameter("p", value)
            d.send("camera", camera[at : at + 100 if at < 200 else None])
            d.send("motors", motors[at : at + 100 if at < 200 else None])
        report = d.wait_ended(scan)
        assert report["states"] == {"reduced": 296, "incomplete": 3, "failed": 1}
        assert len(report["parameters"]) == 3 and report["ticks"]
        folder = Path(report["recording"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "camera.cbors",
        "history.jsonl",
        "map.json",
        "motors.cbors",
        "recording.json",
        "report.json",
        "result.h5",
    ]
    assert json.loads((folder / "report.json").read_text())["states"] == report["states"]
    again = tmp_path / "again.h5"
    for processes in (1, 2):
        # an event failed, and so it does again
        assert run_replay([str(folder)], None, None, None, again, None, processes) == 1
        assert capsys.readouterr().out.strip() == report["summary"]
        assert differences(folder / RESULT, again) == []


COMBINING = {
    "worker.py": """
import numpy as np


class Worker:
    def get_tick_interval(self, parameters=None):
        return 0.05

    def process_event(self, event, parameters=None, tick=False):
        return self.process_events([event], parameters, {event.event_number} if tick else set())[0]

    def process_events(self, events, parameters=None, ticks=()):
        if any(event.event_number == 77 for event in events):
            raise ValueError("seventy-seven")
        images = [event.streams["camera"].parse() for event in events]
        gain = int(parameters["gain"].data)
        return [
            [np.float32(image.data.sum() * gain) / np.float32(3), 1, int(event.event_number in ticks)]
            if image.htype == "image"
            else None
            for event, image in zip(events, images)
        ]

    def combine(self, results, parameters=None):
        total = np.float32(0)
        for value, _, _ in results:
            total += value
        return {"total": total, "count": len(results), "ticks": sum(tick for _, _, tick in results)}
""",
    "reducer.py": """
import numpy as np


class Reducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"first": [], "worker": [], "count": [], "ticks": [], "hash": [], "total": np.float32(0)}

    def process_result(self, result, parameters=None):
        raise RuntimeError("there is process_results")

    def process_results(self, results, parameters=None):
        for result in results:
            self.publish["first"].append(result.event_number)
            self.publish["worker"].append(result.worker)
            self.publish["count"].append(result.payload["count"])
            self.publish["ticks"].append(result.payload["ticks"])
            self.publish["hash"].append(result.parameters_hash == parameters.hash)
            self.publish["total"] = np.float32(self.publish["total"] + result.payload["total"])
""",
}


def test_live_is_replay_where_workers_combine_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sum is in single precision, so that it depends on what was combined, which depends on who was how fast."""
    record = {"record": {"directory": str(tmp_path / "recordings")}}
    streams = {"camera": Stream()}
    parameters = {"gain": 1}
    with Deployment(
        tmp_path, COMBINING, streams, parameters=parameters, sections=record, complaints=["seventy-seven"]
    ) as d:
        scan = d.submit({"streams": ["camera"], "batch": 5})
        camera = [m for n, m in enumerate(images(6000), -1) if n not in (40, 41, 299)]
        d.send("camera", camera[:2000])
        d.wait_reached(1500)
        d.set_parameter("gain", b"7")
        d.send("camera", camera[2000:])
        report = d.wait_ended(scan)
        assert report["states"] == {"reduced": 5996, "incomplete (skipped)": 3, "failed": 1}
        assert [(f["event"], f["where"]) for f in report["failures"]] == [(77, "process_event")]
        assert report["ticks"] and report["combined"]
        state = d.state()
        folder = Path(report["recording"])
    assert sum(state["count"]) == 5996
    assert max(state["count"]) > 10, "there was nothing to combine"
    assert state["first"] == sorted(state["first"])
    assert all(state["hash"])
    assert sum(state["ticks"]) == len([event for event in report["ticks"] if event not in (0, 77, 6001)])
    again = tmp_path / "again.h5"
    for processes in (1, 2):
        # an event failed, and so it does again
        assert run_replay([str(folder)], None, None, None, again, None, processes) == 1
        assert capsys.readouterr().out.strip() == report["summary"]
        assert differences(folder / RESULT, again) == []


def test_the_recorded_demo_replays_to_the_same_state(tmp_path: Path) -> None:
    arguments = ("--points", "60", "--rate", "300", "--record", "recordings")
    with command("demo", *arguments, cwd=tmp_path, env={"BEAMFOLD_RUN__NAME": "recorded"}) as demo:
        assert demo.ends() == 0, demo.err.text()
        (folder,) = (tmp_path / "recordings").iterdir()
        assert str(folder) in demo.out.text()
    with command("replay", str(folder), "-o", "again.h5", cwd=tmp_path) as replay:
        assert replay.ends() == 0, replay.err.text()
        assert replay.out.lines() == ["60 events: 60 reduced"]
    assert differences(folder / RESULT, tmp_path / "again.h5") == []
    assert read_recording(folder).report is not None


def test_a_scan_is_dumped_where_the_parameter_says_and_refused_where_that_cannot_be(tmp_path: Path) -> None:
    """The names are dranspose's. Two streams of one ingester get a file each."""
    streams = {"camera": Stream("stins", {"ingester": "i"}), "motors": Stream("contrast", {"ingester": "i"})}
    with Deployment(tmp_path, WITNESS, {**streams, "b": Stream()}, parameters={"p": "0"}) as d:
        d.set_parameter("dump_prefix", b"/proc/no/folder/x-")
        text = d.refusal({"streams": ["b"], "events": 2})
        assert "cannot dump to /proc/no" in text and "name another place" in text
        d.set_parameter("dump_prefix", f"{tmp_path}/dumps/x-".encode())
        scan = d.submit({"streams": ["camera", "motors", "b"], "events": 4})
        for stream in ("camera", "b"):
            d.send(stream, frames(4))
        d.send("motors", points(4))
        assert d.wait_ended(scan)["states"] == {"reduced": 4}
    found = {p.name.replace(scan, "ID"): p for p in (tmp_path / "dumps").iterdir()}
    names = {"x-b-ID.cbors", "x-i-camera-ID.cbors", "x-i-motors-ID.cbors", "x-mapping-ID.json", "x-parameters-ID.json"}
    assert set(found) == names
    for name in names:
        if name.endswith(".cbors"):
            assert [e.event_number for e in read_dump(found[name])] == list(range(6))
    mapping = json.loads(found["x-mapping-ID.json"].read_text())
    assert mapping["sequence"] == ["reserved_start_end", "uniform", "reserved_start_end"]
    assert len(mapping["parts"]["uniform"]["mapping"]["b"]) == 4
    parameters = json.loads(found["x-parameters-ID.json"].read_text())
    assert {"name": "p", "data": "0"} in parameters


BOTH = {
    "worker.py": """
import json


class Worker:
    def __init__(self, parameters=None, context=None, state=None):
        self.gain = int(parameters["gain"].data)

    def process_event(self, event, parameters=None, tick=False):
        frames = [bytes(frame) for frame in event.streams["camera"].frames]
        header = json.loads(frames[0])
        total = sum(frames[1]) * self.gain if len(frames) > 1 else 0
        return {"event": event.event_number, "htype": header["htype"], "total": total}
""",
    "reducer.py": """
class Reducer:
    def __init__(self, parameters=None, context=None, state=None):
        self.publish = {"rows": []}

    def process_result(self, result, parameters=None):
        payload = result.payload
        self.publish["rows"].append([payload["event"], payload["htype"], payload["total"]])
""",
}


@peer.needed
def test_dranspose_replays_what_we_dumped(tmp_path: Path) -> None:
    with Deployment(tmp_path, BOTH, {"camera": Stream()}, workers=1, parameters={"gain": 3}) as d:
        d.set_parameter("dump_prefix", b"dumps/")
        scan = d.submit({"streams": ["camera"], "events": 20})
        d.send("camera", images(20))
        assert d.wait_ended(scan)["states"] == {"reduced": 20}
        live = d.state("rows")
    dumps = tmp_path / "output" / "dumps"
    parameters = dumps / f"parameters-{scan}.json"
    files = [dumps / f"camera-{scan}.cbors"]
    found = peer.replay("worker:Worker", "reducer:Reducer", files, tmp_path / "app", parameters)
    assert found["rows"] == live
    assert len(live) == 22


@peer.needed
def test_we_replay_what_dranspose_dumped(tmp_path: Path) -> None:
    for name, text in BOTH.items():
        (tmp_path / name).write_text(text)
    dump, parameters = tmp_path / "camera.cbors", tmp_path / "parameters.json"
    peer.dump(dump, "camera", "STINS", images(20))
    parameters.write_text(json.dumps([{"name": "gain", "data": "2"}]))
    ours = Replay("worker:Worker", "reducer:Reducer", parameters={"gain": b"2"}, base_dir=tmp_path)
    list(ours.run(read_captures([Capture(dump)])))
    assert ours.report.summary == "20 events: 20 reduced"
    theirs = peer.replay("worker:Worker", "reducer:Reducer", [dump], tmp_path, parameters)
    assert ours.publish["rows"] == theirs["rows"]
