"""Replay runs an app over captures as live does, and goes on where the app or a file fails."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest

from beamfold.model.errors import AppError, ConfigError
from beamfold.model.events import StreamData
from beamfold.offline.apprun import App
from beamfold.offline.parameters import read_parameters
from beamfold.offline.playback import Capture, parse_capture, read_captures
from beamfold.offline.replay import Replay, replay
from beamfold.protocols.dumps import DumpEvent, DumpWriter, RawWriter, read_dump
from beamfold.testing.simulators import contrast_series, stins_series
from captures import capture

APP = """
import numpy as np
from beamfold import IntParameter

class Worker:
    @staticmethod
    def describe_parameters():
        return [IntParameter(name="times", default=1)]
    def __init__(self, **kwargs):
        self.started = 0
    def process_event(self, event, parameters=None):
        image = event.streams["camera"].parse()
        if image.htype == "header":
            self.started += 1
            return {"start": True}
        if image.htype != "image":
            return None
        assert self.started == 1
        if image.frame == 3:
            raise ValueError("frame three is bad")
        return {"sum": int(image.data.sum()) * parameters["times"].value}

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"sums": [], "starts": 0, "finished": 0}
    def process_result(self, result, parameters=None):
        if "start" in result.payload:
            self.publish["starts"] += 1
        else:
            self.publish["sums"].append(result.payload["sum"])
    def finish(self, parameters=None):
        self.publish["finished"] += 1
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def frames(n: int) -> list[np.ndarray]:
    return [np.full((2, 3), i, dtype=np.uint16) for i in range(n)]


def stins(path: Path, n: int) -> Path:
    with DumpWriter(path) as writer:
        for number, message in enumerate(stins_series(frames(n))):
            writer.write(number, {"camera": StreamData("STINS", message)})
    return path


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_start_and_end_reach_every_worker_and_a_failure_is_one_event(app: Path, workers: int) -> None:
    player = Replay("app:Worker", "app:Reducer", workers=workers, base_dir=app)
    list(player.run(read_captures([Capture(stins(app / "d.cbors", 6))])))
    assert player.publish == {"sums": [0, 6, 12, 24, 30], "starts": workers, "finished": 1}
    assert player.report.summary == "6 events: 5 reduced, 1 failed"
    assert player.report.failures[0]["event"] == 4
    assert "frame three is bad" in player.report.failures[0]["traceback"]


def test_replay_writes_the_state_as_hdf5_and_takes_parameters(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app)
    (app / "p.json").write_text(json.dumps([{"name": "times", "data": "10"}]))
    report = replay("app:Worker", "app:Reducer", [stins(app / "d.cbors", 3)], app / "p.json", app / "out.h5")
    assert report.clean and report.result_file == str(app / "out.h5")
    with h5py.File(app / "out.h5") as file:
        assert file["sums"][:].tolist() == [0, 60, 120]
        assert file.attrs["beamfold_summary"] == "3 events: 3 reduced"


def test_raw_captures_are_joined_by_frame_number_and_count(tmp_path: Path) -> None:
    with RawWriter(tmp_path / "camera.cbors") as writer:
        for message in [m for i, m in enumerate(stins_series(frames(4))) if i != 2]:
            writer.write(message)
    with RawWriter(tmp_path / "motors.cbors") as writer:
        for message in contrast_series([{"x": float(i)} for i in range(4)], heartbeats=True):
            writer.write(message)
    texts = [f"camera:stins={tmp_path}/camera.cbors", f"contrast={tmp_path}/motors.cbors"]
    found = list(chain.from_iterable(read_captures(list(map(parse_capture, texts)))))
    streams = {e.event_number: set(e.streams) for e in found}
    both = {"camera", "contrast"}
    assert streams == {0: both, 1: both, 2: {"contrast"}, 3: both, 4: both, 5: both}
    assert found[3].streams["camera"].array()[0, 0] == 2 and found[3].streams["contrast"].parse().x == 2.0


def test_every_input_is_played_to_its_end_however_sparse(tmp_path: Path) -> None:
    for name, numbers in (("a", (0, 1, 2, 3)), ("b", (0, 2, 9))):
        with DumpWriter(tmp_path / f"{name}.cbors") as writer:
            for number in numbers:
                writer.write(number, {name: StreamData("T", [b"x"])})
    captures = [Capture(tmp_path / f"{n}.cbors") for n in "ab"]
    found = {e.event_number: set(e.streams) for batch in read_captures(captures) for e in batch}
    assert found == {0: {"a", "b"}, 1: {"a"}, 2: {"a", "b"}, 3: {"a"}, 9: {"b"}}


def test_a_dump_that_breaks_off_is_played_as_far_as_it_goes(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app)
    path = stins(app / "d.cbors", 3)
    path.write_bytes(path.read_bytes()[:-5])
    report = replay("app:Worker", "app:Reducer", [path])
    assert report.states == {"reduced": 3}
    assert len(report.troubles) == 1 and "d.cbors" in report.troubles[0] and not report.clean


def test_what_cannot_be_replayed_is_refused_with_the_reason(app: Path, tmp_path: Path) -> None:
    with RawWriter(tmp_path / "raw.cbors") as writer:
        writer.write([b"{}"])
    with pytest.raises(ConfigError, match="name stream and protocol"):
        list(read_captures([Capture(tmp_path / "raw.cbors")]))
    with pytest.raises(ConfigError, match="there is no file"):
        list(read_captures([Capture(tmp_path / "nowhere.cbors")]))
    with pytest.raises(ConfigError, match="known are"):
        parse_capture("camera:nonsense=file")
    with pytest.raises(AppError, match="Missing"):
        Replay("app:Missing", "app:Reducer", base_dir=app)
    twice = [Capture(stins(tmp_path / f"{n}.cbors", 1)) for n in ("one", "two")]
    with pytest.raises(ConfigError, match="two of the files"):
        list(read_captures(twice))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", b'[{"name": "roi", "data": "[1, 2]"}]'),
        ("p.toml", b"roi = [1, 2]"),
        ("run.toml", b"[parameters]\nroi = [1, 2]"),
        ("q.json", b'{"roi": [1, 2]}'),
    ],
)
def test_parameter_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_parameters(tmp_path / name) == {"roi": b"[1, 2]"}


@pytest.mark.parametrize("content", [b"[1]", b"7", b"{", b"\xff\xfe\x00", b'[{"name": 3, "data": ""}]'])
def test_a_parameter_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"p\.json"):
        read_parameters(tmp_path / "p.json")


def test_the_recorded_diffraction_run_gives_the_mean_of_its_corner(tmp_path: Path) -> None:
    path = capture("dump_xrd.cbors")
    (tmp_path / "xrd.py").write_text(
        "class W:\n"
        "    def process_event(self, event, parameters=None):\n"
        "        image = event.streams['xrd'].parse()\n"
        "        return float(image.data[:2, 8:].mean()) if image.htype == 'image' else None\n"
        "class R:\n"
        "    def __init__(self):\n"
        "        self.publish = {'means': []}\n"
        "    def process_result(self, result):\n"
        "        self.publish['means'].append((result.event_number, result.payload))\n"
    )
    player = Replay("xrd:W", "xrd:R", base_dir=tmp_path)
    list(player.run(read_captures([Capture(path)])))
    raw = {e.event_number: e.streams["xrd"].frames for e in read_dump(path)}
    expected = [(n, float(np.frombuffer(raw[n][1], "<u2").reshape(10, 10)[:2, 8:].mean())) for n in range(1, 10)]
    assert player.publish["means"] == expected


def test_an_empty_source_is_an_empty_report(app: Path) -> None:
    player = Replay("app:Worker", "app:Reducer", base_dir=app)
    nothing: list[list[DumpEvent]] = []
    list(player.run(nothing))
    assert player.report.summary == "0 events: none came"


def test_an_app_is_constructed_with_what_the_scan_was_armed_with(tmp_path: Path) -> None:
    """A parameter that was set before the first frame holds from event 0 on; the constructor has seen the older one."""
    (tmp_path / "late.py").write_text(
        "class Worker:\n"
        "    def __init__(self, parameters=None, **kwargs):\n"
        "        self.gain = parameters['gain'].data\n"
        "    def process_event(self, event, parameters=None):\n"
        "        return [self.gain, parameters['gain'].data]\n"
        "class Reducer(Worker):\n"
        "    publish = {}\n"
        "    def process_result(self, result, parameters=None):\n"
        "        pass\n"
    )
    versions = [(1, 0, {"gain": b"7"}), (2, 0, {"gain": b"700"})]
    app = App("late:Worker", "late:Reducer", tmp_path, ["worker-0"], versions)
    assert app.runner(0).hooks.instance.gain == app.folder().hooks.instance.gain == b"7"
    assert app.history.at(0)["gain"].data == b"700"


MANY = """
class Worker:
    def process_event(self, event, parameters=None):
        image = event.streams["camera"].parse()
        return image.htype if image.htype != "image" else [int(image.data[0, 0])]
    def process_events(self, events, parameters=None):
        return [self.process_event(event) for event in events]
    def combine(self, results, parameters=None):
        return sum(results, [])

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"alone": [], "together": []}
    def process_result(self, result, parameters=None):
        self.publish["alone"].append((result.event_number, result.payload))
    def process_results(self, results, parameters=None):
        self.publish["together"].append([(r.event_number, r.worker, r.payload) for r in results])
"""


def test_hooks_for_many_get_what_is_read_together(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(MANY)
    player = Replay("many:Worker", "many:Reducer", workers=2, base_dir=tmp_path)
    list(player.run(read_captures([Capture(stins(tmp_path / "d.cbors", 40))])))
    assert player.publish["alone"] == [(0, "header")] * 2 + [(41, "series_end")] * 2
    results = [result for call in player.publish["together"] for result in call]
    first, second = [*range(16), *range(32, 40)], [*range(16, 32)]
    assert results == [(1, "worker-0", first), (17, "worker-1", second)]
    assert player.report.summary == "40 events: 40 reduced"


def test_a_workers_trouble_is_no_capture_that_broke_off(tmp_path: Path) -> None:
    """The last event is the end event all the same, and does not count."""
    (tmp_path / "many.py").write_text(
        MANY.replace("return [self.process_event(event) for event in events]", "return 1")
    )
    player = Replay("many:Worker", "many:Reducer", base_dir=tmp_path)
    list(player.run(read_captures([Capture(stins(tmp_path / "d.cbors", 40))])))
    assert player.report.summary == "40 events: 40 reduced"
    assert any("process_events" in trouble for trouble in player.report.troubles)
