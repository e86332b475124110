"""The result file has the report as a person and a program can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import silx.io

from beamfold.model.bitmaps import Bitmap, events_in
from beamfold.model.report import ScanReport, StageLatency, StreamReport
from beamfold.publish.compare import compare
from beamfold.publish.store import FileStore

EVERY_SECOND = np.arange(40) % 2 == 0


def report() -> dict[str, Any]:
    made = ScanReport("ID", 3, ended="finished", planned=40, events=40, started=1.5, finished=2.5)
    made.states = {"reduced": 17, "no result": 3, "failed": 20}
    made.runs = {"no result": [(2, 3), (4, 5), (6, 7)]}
    made.bitmaps = {"failed": Bitmap.of(1, EVERY_SECOND)}
    made.streams = {
        "cam/1": StreamReport("numbered", "ended", 40, missing=[(2, 3)], late=1),
        "b": StreamReport("counted"),
    }
    made.failures = [
        {"event": e, "where": "process_event", "worker": "w0", "traceback": "Boom\x00 \ud800"} for e in (1, 3)
    ]
    made.incomplete = {"b": [(2, 4), (8, 9)]}
    made.troubles = ["stream b: odd", "a much longer one: " + "x" * 100]
    made.loss("worker w0", "killed", 2.0, 7)
    made.version({"version": 1, "from_event": 0, "values": {"p": "1"}, "hash": "h"})
    made.workers, made.ticks = ["w0", "w1"], [5, 9]
    made.latency = {"total": StageLatency(40, 0.1, 0.2, 0.3, 0.4)}
    return json.loads(json.dumps(made.to_dict()))


def stored(folder: Path, publish: Any = None, told: dict[str, Any] | None = None) -> Path:
    store = FileStore(folder)
    return Path(store.store("ID", store.snapshot({"total": 5} if publish is None else publish), told))


def test_a_person_finds_the_report_beside_the_state(tmp_path: Path) -> None:
    with h5py.File(stored(tmp_path, told=report())) as file:
        assert file["total"][()] == 5
        assert file.attrs["beamfold_summary"] == "40 events: 17 reduced, 3 no result, 20 failed"
        group = file["beamfold_report"]
        about = group.attrs
        assert (about["NX_class"], about["scan_id"], about["ended"]) == ("NXcollection", "ID", "finished")
        assert (about["events"], about["redone"], about["summary"]) == (40, 7, file.attrs["beamfold_summary"])
        assert dict(group["states"].attrs) == {"reduced": 17, "no result": 3, "failed": 20}
        assert group["runs/no result"][:].tolist() == [[2, 3], [4, 5], [6, 7]]
        bitmap = group["bitmaps/failed"]
        bits = np.unpackbits(bitmap[:], count=bitmap.attrs["events"])
        assert (np.flatnonzero(bits) + bitmap.attrs["first_event"]).tolist() == list(range(1, 41, 2))
        assert (group["streams/cam%2F1"].attrs["late"], group["streams/b"].attrs["matching"]) == (1, "counted")
        assert group["streams/cam%2F1/missing"][:].tolist() == [[2, 3]]
        assert group["incomplete/b"][:].tolist() == [[2, 4], [8, 9]]
        assert group["failures/event"][:].tolist() == [1, 3]
        assert group["failures/traceback"].asstr()[0].startswith("Boom")
        assert group["troubles"].asstr()[0] == "stream b: odd"
        assert (group["losses/service"].asstr()[0], group["losses/redone"][0]) == ("worker w0", 7)
        assert json.loads(group["parameters/values"].asstr()[0]) == {"p": "1"}
        assert group["workers"].asstr()[:].tolist() == ["w0", "w1"] and group["ticks"][:].tolist() == [5, 9]
        assert group["latency/total"].attrs["p50"] == 0.1
        assert "slips" not in group and "slips" not in about, "what is empty is left out"


def test_a_program_finds_it_as_json(tmp_path: Path) -> None:
    with silx.io.open(str(stored(tmp_path, told=report()))) as file:
        told = json.loads(file["beamfold_report/json"][()])
    assert told == report()
    assert events_in(told, "failed").tolist() == list(range(1, 41, 2))
    assert len(events_in(told, "reduced")) == 17


def test_before_the_scan_has_ended_there_is_no_report(tmp_path: Path) -> None:
    with h5py.File(stored(tmp_path)) as file:
        assert list(file) == ["total"] and dict(file.attrs) == {"beamfold_scan": "ID"}


def test_the_report_is_beside_a_table_too_and_an_app_may_have_its_name(tmp_path: Path) -> None:
    with h5py.File(stored(tmp_path, {(1, 2): 3.0}, report())) as file:
        assert file["values"][:].tolist() == [3.0] and file["beamfold_report"].attrs["scan_id"] == "ID"
    with h5py.File(stored(tmp_path, {"beamfold_report": 1}, report())) as file:
        assert file["beamfold_report"][()] == 1
        assert "another member has this name" in file.attrs["beamfold_report_note"]


def test_the_report_is_no_part_of_the_state_that_is_compared(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "a", told=report()), stored(tmp_path / "b")
    found = compare(one, other, ("one", "other"))
    assert (found.leaves, found.differences) == (1, [])
