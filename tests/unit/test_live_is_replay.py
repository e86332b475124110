"""Whatever the map, whatever was lost, and however messages arrived: a recorded scan gives the same results again.

The scan runs through the machines of the live path in the rig, and its recording through a real app.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beamfold.dispatch.files import write_file
from beamfold.dispatch.machine import Policy
from beamfold.model.events import StreamData
from beamfold.model.report import ScanReport
from beamfold.offline.recorded import RecordedReplay
from beamfold.protocols.dumps import DumpWriter
from beamfold.protocols.recordings import dump_name, read_recording
from rig import Rig
from unit.test_scan_random import RIG, build, play

APP = """
class Worker:
    def process_event(self, event, parameters=None):
        return {"streams": tuple(sorted(event.streams)), "p": parameters["p"].data}

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"folded": []}
    def process_result(self, result, parameters=None):
        assert parameters["p"].data == result.payload["p"]
        found = result.payload
        self.publish["folded"].append((result.event_number, result.worker, found["streams"], found["p"]))
"""


def replayed(rig: Rig, folder: Path) -> tuple[list[Any], ScanReport]:
    """The recording written to disk, read back, and run again."""
    (folder / "app.py").write_text(APP)
    for file in rig.files:
        write_file(file)
    recorded = Path(rig.report["recording"])
    for stream, frames in rig.dumps.items():
        with DumpWriter(recorded / dump_name(stream)) as writer:
            for event, frame in frames:
                writer.write(event, {stream: StreamData("T", frame)})
    player = RecordedReplay(read_recording(recorded))
    list(player.run())
    assert isinstance(player.publish, dict)
    return player.publish["folded"], player.report


def live(rig: Rig) -> list[Any]:
    values = {p["version"]: p["values"]["p"].encode() for p in rig.report["parameters"]}
    assert rig.reduce_map is not None and rig.reduce_map.n_events is not None
    end = rig.reduce_map.n_events
    return [(f.event, f"w{f.worker}", f.streams, values[f.version]) for f in rig.folded if f.streams and f.event < end]


@RIG
@given(st.data())
def test_live_is_replay(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = {"worker": "app:Worker", "reducer": "app:Reducer", "directory": name}
        rig, written, numbered = build(data, Policy(fold_patience=1e9, record=f"{name}/recordings", app=app))
        trigger_map = written.compile()
        rig.submit(trigger_map, written=written)
        rig.until(lambda: 1 in rig.replies)
        whole = data.draw(st.booleans(), label="whole")
        for s, stream in enumerate(trigger_map.streams):
            count = trigger_map.frame_count(s)
            series = play(data.draw, stream, count, trigger_map.wrapped, numbered[stream], whole)
            rig.detector(stream, series.items)
        steps = st.sampled_from(["parameter", "parameter", "stand still", "stop"])
        for what in data.draw(st.lists(steps, max_size=3), label="then"):
            for _ in range(data.draw(st.integers(0, 60))):
                rig.step()
            if what == "parameter":
                rig.set_parameter(b"%d" % len(rig.files))
            elif what == "stand still":
                rig.held_back = {w.name for w in rig.workers}
                rig.settle(waiting=True)
                rig.held_back.clear()
            else:
                rig.stop()
                break
        rig.settle()
        folded, report = replayed(rig, folder)
        expected = live(rig)
        assert (folded if rig.in_order else sorted(folded)) == (expected if rig.in_order else sorted(expected))
        assert report.troubles == []
        for what in ("states", "events"):
            assert (what, getattr(report, what)) == (what, rig.report[what])
