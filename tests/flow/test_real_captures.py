"""Recorded streams of real detectors, through real sockets, give exactly the numbers that are in the recordings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from beamfold.testing.stream import send_capture
from captures import capture
from flow import recordings
from flow.deployment import PATIENCE, Deployment, Stream, wait_until

APPS = Path(__file__).parents[2] / "apps"
DETECTORS = {"contrast": Stream("contrast"), "xspress3": Stream("xspress3")}
MAP = {"streams": ["contrast", "xspress3"], "events": 20}
POINTS = 20
REGION = [0, 4]
"""Bins with counts in them: the recorded detector saw almost nothing, and that at its low end."""

SEED_WORKER = """
import logging

from beamfold.model.events import EventData
from beamfold.protocols import contrast
from beamfold.protocols import xspress3 as xspress

logger = logging.getLogger(__name__)


class FluorescenceWorker:
    def __init__(self, parameters=None, **kwargs):
        self.number = 0

    def process_event(self, event: EventData, parameters=None):
        logger.debug("using parameters %s", parameters)
        if {"contrast", "xspress3"} - set(event.streams.keys()) != set():
            logger.error(
                "missing streams for this worker, only present %s", event.streams.keys()
            )
            return
        try:
            con = contrast.parse(event.streams["contrast"])
        except Exception as e:
            logger.error("failed to parse contrast %s", e.__repr__())
            return

        try:
            spec = xspress.parse(event.streams["xspress3"])
        except Exception as e:
            logger.error("failed to parse xspress3 %s", e.__repr__())
            return
        logger.error("contrast: %s", con)
        logger.error("spectrum: %s", spec)

        if con.status == "running":
            # new data
            sx, sy = con.pseudo["x"][0], con.pseudo["y"][0]
            logger.error("process position %s %s", sx, sy)

            roi1 = spec.data[3][parameters["roi1"][0] : parameters["roi1"][1]].sum()

            return {"position": (sx, sy), "concentations": {"roi1": roi1}}
"""

SEED_REDUCER = """
from beamfold.model.events import ResultData


class FluorescenceReducer:
    def __init__(self, parameters=None, **kwargs):
        self.number = 0
        self.publish = {"map": {}}

    def process_result(self, result: ResultData, parameters=None):
        print(result)
        if result.payload:
            self.publish["map"][result.payload["position"]] = result.payload[
                "concentations"
            ]
"""

SEED_NAMES = """
from reducer import FluorescenceReducer as Reducer
from worker import FluorescenceWorker as Worker
"""

MEAN_WORKER = """
from beamfold.protocols import stins


class MeanWorker:
    def process_event(self, event, parameters=None):
        image = stins.parse(event.streams["xrd"])
        if image.htype == "image":
            return image.data[:2, 8:].mean()
"""

MEAN_REDUCER = """
class MeanReducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"mean": {}, "delta": {}}
        self.last = 0

    def process_result(self, result, parameters=None):
        self.publish["mean"][result.event_number] = result.payload
        self.publish["delta"][result.event_number] = result.payload - self.last
        self.last = result.payload
"""


def play_the_mesh(deployment: Deployment) -> dict[str, Any]:
    """One scan of both recordings; its report."""
    scan = deployment.submit(MAP)
    for name in DETECTORS:
        send_capture(capture(f"{name}-dump.cbors"), deployment.senders[name])
    return deployment.wait_ended(scan)


def expected_map(lo: int, hi: int) -> list[tuple[tuple[float, float], int]]:
    """Position and sum of channel 3 between two bins, per point, from the files' bytes alone."""
    where = recordings.positions(capture("contrast-dump.cbors"))
    images = recordings.spectra(capture("xspress3-dump.cbors"))
    assert len(where) == len(images) == POINTS
    found = [(w, int(i[3, lo:hi].sum())) for w, i in zip(where, images, strict=True)]
    assert len({counts for _, counts in found}) > 1, "a map of equal numbers would prove nothing"
    return found


def table(published: dict[str, Any]) -> list[tuple[tuple[float, float], int]]:
    return [(tuple(k), v["roi1"]) for k, v in zip(published["keys"], published["values"], strict=True)]


def finished_file(report: dict[str, Any]) -> h5py.File:
    """The result file, once it has the report as well."""

    def complete() -> h5py.File | None:
        file = h5py.File(report["result_file"])
        if "beamfold_summary" in file.attrs:
            return file
        file.close()
        return None

    return wait_until(complete, "the result file with its report")


def assert_clean(report: dict[str, Any]) -> None:
    assert report["summary"] == "20 events: 20 reduced"
    assert report["ended"] == "finished"
    assert (report["failed_total"], report["troubles"], report["unreached"]) == (0, [], 0)
    assert {n: s["matching"] for n, s in report["streams"].items()} == {"contrast": "counted", "xspress3": "numbered"}
    assert {s["frames"] for s in report["streams"].values()} == {POINTS}


def test_the_shipped_app_maps_the_recorded_mesh_exactly(tmp_path: Path) -> None:
    want = expected_map(*REGION)
    classes = ("worker.py:FluorescenceWorker", "reducer.py:FluorescenceReducer")
    app = APPS / "fluorescence"
    with Deployment(tmp_path, app, DETECTORS, classes=classes, parameters={"roi1": REGION}) as deployment:
        report = play_the_mesh(deployment)
        assert_clean(report)
        assert table(deployment.state("map")) == want
        with finished_file(report) as file:
            assert [tuple(k) for k in file["map/keys"][:]] == [position for position, _ in want]
            assert file["map/roi1"][:].tolist() == [counts for _, counts in want]
            assert dict(file["image"].attrs)["NX_class"] == "NXdata"
            assert np.nansum(file["image/roi1"][:]) == sum(counts for _, counts in want)
            assert file.attrs["beamfold_summary"] == report["summary"]


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The app of the tutorial, which declares no parameters; and a diffraction camera beside it."""
    capture("contrast-dump.cbors")
    files = {
        "worker.py": SEED_WORKER,
        "reducer.py": SEED_REDUCER,
        "app.py": SEED_NAMES,
    }
    with Deployment(
        tmp_path_factory.mktemp("seed"),
        files,
        {**DETECTORS, "xrd": Stream()},
        classes=("app.py:Worker", "app.py:Reducer"),
        parameters={"roi1": REGION},
        complaints=["contrast: ", "spectrum: ", "process position"],  # what the tutorial's worker logs as errors
    ) as deployment:
        yield deployment


def test_the_tutorials_own_classes_map_the_recorded_mesh_exactly(seed: Deployment) -> None:
    want = expected_map(*REGION)
    report = play_the_mesh(seed)
    assert_clean(report)
    assert table(seed.state("map")) == want
    with finished_file(report) as file:
        assert [tuple(k) for k in file["map/keys"][:]] == [position for position, _ in want]
        assert file["map/roi1"][:].tolist() == [counts for _, counts in want]


def test_another_region_gives_another_map_of_the_same_points(seed: Deployment) -> None:
    seed.set_parameter("roi1", b"[0, 4096]")
    assert_clean(play_the_mesh(seed))
    assert table(seed.state("map")) == expected_map(0, 4096)


def means() -> dict[int, float]:
    """Mean of rows 0-1, columns 8-9 of each image of the diffraction dump, by event number."""
    parts = recordings.dumped(capture("dump_xrd.cbors"), "xrd")
    assert sorted(parts) == list(range(11))
    return {event: float(recordings.image(parts[event])[:2, 8:].mean()) for event in range(1, 10)}


def deltas(values: dict[int, float]) -> list[float]:
    return np.diff([0, *values.values()]).tolist()


def test_recorded_diffraction_frames_sent_anew_give_the_recorded_means(seed: Deployment) -> None:
    """The app's files were changed meanwhile: the next scan runs what they say now."""
    want = means()
    app = "from means import MeanReducer as Reducer, MeanWorker as Worker\n"
    seed.write({"means.py": MEAN_WORKER + MEAN_REDUCER, "app.py": app})
    scan = seed.submit({"streams": ["xrd"], "events": 9})
    seed.send("xrd", recordings.dumped(capture("dump_xrd.cbors"), "xrd").values())
    report = seed.wait_ended(scan)
    assert report["summary"] == "9 events: 9 reduced"
    assert seed.state() == {
        "mean": {"keys": list(want), "values": list(want.values())},
        "delta": {"keys": list(want), "values": deltas(want)},
    }


def test_replaying_the_diffraction_dump_gives_the_recorded_means(tmp_path: Path) -> None:
    dump, want = capture("dump_xrd.cbors"), means()
    (tmp_path / "means.py").write_text(MEAN_WORKER + MEAN_REDUCER, encoding="utf-8")
    command = [sys.executable, "-m", "beamfold", "replay", "-w", "means:MeanWorker", "-r", "means:MeanReducer"]
    done = subprocess.run(
        [*command, "-o", "out.h5", str(dump)], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "9 events: 9 reduced\n", "")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["mean/keys"][:].tolist() == list(want)
        assert file["mean/values"][:].tolist() == list(want.values())
        assert file["delta/values"][:].tolist() == deltas(want)
