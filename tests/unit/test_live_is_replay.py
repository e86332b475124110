"""Whatever the map, whatever was lost, and however messages arrived: a recorded scan gives the same results again.

The scan runs through the machines of the live path in the rig, and its recording through a real app.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app_rig import AppRig
from beamfold.dispatch.files import write_file
from beamfold.dispatch.scans import Policy
from beamfold.model.events import StreamData
from beamfold.model.report import ScanReport
from beamfold.model.routes import Routes
from beamfold.model.triggermap import WrittenMap
from beamfold.offline.digests import Digests
from beamfold.offline.partruns import PartRuns
from beamfold.offline.recorded import RecordedReplay
from beamfold.protocols.dumps import DumpWriter
from beamfold.protocols.recordings import Recording, dump_name, next_dump, read_recording
from rig import Rig
from unit.test_scan_in_memory import series
from unit.test_scan_random import RIG, build, play

PLAIN = """
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


COMBINING = """
class Worker:
    def process_event(self, event, parameters=None):
        number = event.event_number
        if number % 7 == 3:
            raise ValueError("three")
        return None if number % 5 == 4 else [number, sorted(event.streams), parameters["p"].data]

    def process_events(self, events, parameters=None):
        return [self.process_event(event, parameters) for event in events]

    def combine(self, results, parameters=None):
        assert results == sorted(results) and all(p == parameters["p"].data for _, _, p in results)
        if len(results) == 3:
            results[0][0] += 1000
            raise ValueError("not so many")
        return [results]

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"folded": [], "alone": []}

    def process_result(self, result, parameters=None):
        self.publish["folded"].append([result.event_number, result.worker, result.payload])
        self.publish["alone"].append(result.event_number)

    def process_results(self, results, parameters=None):
        assert {result.parameters_hash for result in results} == {parameters.hash}
        self.publish["folded"] += [[r.event_number, r.worker, r.payload] for r in results]
"""


_whole = BytesIO()
DumpWriter(_whole).write(9, {"a": StreamData("T", [b"frame", b"x" * 300])})
TORN = _whole.getvalue()[:-1]

_app: dict[str, Any] = {}
exec(COMBINING, _app)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the apps: the same for all scans, because to import one anew takes longer than a scan."""
    return write_apps(tmp_path_factory.mktemp("apps"))


def write_apps(folder: Path) -> Path:
    (folder / "plain.py").write_text(PLAIN)
    (folder / "combining.py").write_text(COMBINING)
    return folder


def app_of(make: type[Rig], apps: Path) -> dict[str, str]:
    name = "combining" if issubclass(make, CombiningRig) else "plain"
    return {"worker": f"{name}:Worker", "reducer": f"{name}:Reducer", "directory": str(apps)}


class CombiningRig(AppRig):
    classes = (_app["Worker"], _app["Reducer"])


def replayed(rig: Rig) -> tuple[list[Any], ScanReport, Digests]:
    """The recording written to disk, read back, and run again, its results compared with the recorded digests."""
    for file in rig.files:
        write_file(file)
    recorded = Path(rig.report["recording"])
    for stream, dumps in rig.dumps.items():
        first = recorded / dump_name(stream)
        for number, frames in enumerate(dumps.values(), 1):
            path = next_dump(first) if first.exists() else first
            with path.open("xb") as file, DumpWriter(file) as writer:
                for event, frame in frames:
                    writer.write(event, {stream: StreamData("T", frame)})
                if number < len(dumps):  # its ingester was killed while it wrote the next one
                    file.write(TORN[: rig.random.randrange(len(TORN))])
    player = RecordedReplay(read_recording(recorded))
    digests = player.compare()
    list(player.run())
    digests.finish()
    assert isinstance(player.publish, dict)
    return player.publish["folded"], player.report, digests


def compared(rig: CombiningRig) -> Digests:
    """Everything is in the replay as it was live."""
    folded, report, digests = replayed(rig)
    expected = rig.publish["folded"]
    assert (folded if rig.in_order else sorted(folded)) == (expected if rig.in_order else sorted(expected))
    for what in ("states", "events"):
        assert (what, getattr(report, what)) == (what, rig.report[what])
    assert digests.differing == []
    return digests


def live(rig: Rig) -> list[Any]:
    values = {p["version"]: p["values"]["p"].encode() for p in rig.report["parameters"]}
    assert rig.reduce_map is not None and rig.reduce_map.n_events is not None
    end = rig.reduce_map.n_events
    return [(f.event, f"w{f.worker}", f.streams, values[f.version]) for f in rig.folded if f.streams and f.event < end]


def recorded(
    data: st.DataObject, folder: Path, apps: Path, make: type[Rig] = Rig, *, deaths: Sequence[str] = ()
) -> Rig:
    """A scan that was recorded, of any kind, and in which services of these roles die and are replaced."""
    app = app_of(make, apps)
    # Where frames are only counted, nobody can go on with what an ingester began.
    kinds: dict[str, Any] = {"numbered": [True]} if "ingester" in deaths else {}
    rig, written, numbered = build(
        data, Policy(fold_patience=1e9, record=f"{folder}/recordings", app=app), make=make, **kinds
    )
    trigger_map = written.compile()
    rig.submit(trigger_map, written=written)
    rig.until(lambda: 1 in rig.replies)
    whole = data.draw(st.booleans(), label="whole")
    for s, stream in enumerate(trigger_map.streams):
        count = trigger_map.frame_count(s)
        series = play(data.draw, stream, count, trigger_map.wrapped, numbered[stream], whole)
        rig.detector(stream, series.items)
    steps = st.sampled_from(["parameter", "parameter", "stand still", "stop", *deaths, *deaths])
    deadly = bool(deaths)
    for what in data.draw(st.lists(steps, min_size=2 * deadly, max_size=3 + 2 * deadly), label="then"):
        for _ in range(data.draw(st.integers(0, 60))):
            rig.step()
        if what == "parameter":
            rig.set_parameter(b"%d" % len(rig.files))
        elif what == "stand still":
            rig.held_back = {w.name for w in rig.workers}
            rig.settle(waiting=True)
            rig.held_back.clear()
        elif what == "worker":
            who = data.draw(st.integers(0, len(rig.workers) - 1), label="who")
            rig.kill(who)
            for _ in range(data.draw(st.integers(0, 20))):
                rig.step()
            rig.replace(who)
        elif what == "ingester":
            name = data.draw(st.sampled_from(sorted(rig.process_of)), label="which")
            if not rig.process_of[name] or not rig.ingest[rig.process_of[name]]:
                continue
            rig.kill_ingester(name)
            for _ in range(data.draw(st.integers(0, 20))):
                rig.step()
            rig.replace_ingester(name)
        elif what == "controller":
            rig.kill_controller()
            for _ in range(data.draw(st.integers(0, 20))):
                rig.step()
            rig.replace_controller()
        else:
            rig.stop()
            break
    rig.settle(waiting="ingester" in deaths)
    for _ in range(10 * ("ingester" in deaths)):
        rig.settle(waiting=True)
    assume(rig.controller.reports)  # else the end of a series went with its ingester, and a person has to stop the scan
    return rig


@RIG
@given(st.data())
def test_live_is_replay(apps: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        rig = recorded(data, Path(name), apps)
        folded, report, _ = replayed(rig)
        expected = live(rig)
        assert (folded if rig.in_order else sorted(folded)) == (expected if rig.in_order else sorted(expected))
        assert report.troubles == []
        for what in ("states", "events"):
            assert (what, getattr(report, what)) == (what, rig.report[what])


@RIG
@given(st.data())
def test_live_is_replay_of_an_app_that_combines(apps: Path, data: st.DataObject) -> None:
    """What was combined live, whenever there was time to, is combined in the replay, so that even sums are the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rig = recorded(data, folder, apps, CombiningRig)
        assert isinstance(rig, CombiningRig)
        assert compared(rig).same or not rig.processed
        check_combined(rig)


@RIG
@given(st.data())
def test_live_is_replay_of_a_scan_that_lost_workers_and_controllers(apps: Path, data: st.DataObject) -> None:
    """A part is the worker's whose result was taken, though it was given to another one after that, or nobody has
    written that it was given to anybody."""
    with tempfile.TemporaryDirectory() as name:
        rig = recorded(data, Path(name), apps, CombiningRig, deaths=["worker", "controller"])
        assert isinstance(rig, CombiningRig)
        compared(rig)


@RIG
@given(st.data())
def test_live_is_replay_of_a_scan_that_lost_ingesters(apps: Path, data: st.DataObject) -> None:
    """What had come into a dump and to nobody else is not in the replay, and nothing else is missing there."""
    with tempfile.TemporaryDirectory() as name:
        rig = recorded(data, Path(name), apps, CombiningRig, deaths=["ingester"])
        assert isinstance(rig, CombiningRig)
        compared(rig)


def check_combined(rig: AppRig) -> None:
    """Every result is in what was folded once, and nothing crosses a broadcast or a change of the parameters."""
    trigger_map = rig.reduce.map if rig.reduce else rig.reduce_map
    assert trigger_map is not None and trigger_map.n_events is not None
    changes = [p["from_event"] for p in rig.report["parameters"]]
    found = []
    for event, worker, payload in rig.publish["folded"]:
        if event in rig.publish["alone"]:
            found.append((event, worker))
            continue
        numbers = [number for number, _, _ in payload[0]]
        assert numbers == sorted(numbers) and numbers[0] == event and len(numbers) != 3
        found += [(number, worker) for number in numbers]
        first, last = numbers[0], numbers[-1]
        assert not any(trigger_map.groups_of(e) for e in range(first, last + 1))
        assert not any(first < change <= last for change in changes)
    parts = [(p.event, f"w{w}") for w, p in rig.processed if p.call and p.event % 7 != 3 and p.event % 5 != 4]
    assert sorted(found) == sorted(parts)


def lossy(seed: int, folder: Path, apps: Path, *, replaced: bool = True) -> CombiningRig:
    """A recorded scan in whose middle a worker died, and was replaced or not."""
    app = app_of(CombiningRig, apps)
    policy = Policy(fold_patience=1e9, record=f"{folder}/recordings", app=app)
    rig = CombiningRig({"i": [("a", True)]}, [["generic"]] * 2, seed=seed, policy=policy)
    written = WrittenMap.of(b'{"streams": ["a"], "events": 60, "batch": 2}')
    rig.submit(written.compile(), written=written)
    rig.until(lambda: 1 in rig.replies)
    rig.detector("a", series("a", 60))
    rig.until(lambda: len(rig.processed) > 20)
    rig.kill(seed % 2)
    for _ in range(8):
        rig.step()
    if replaced:
        rig.replace(seed % 2)
    for _ in range(1 if replaced else 20):  # time passes, and the place is given up
        rig.settle()
    return rig


def test_what_a_live_worker_combines_is_never_of_parts_that_another_has_done(apps: Path, tmp_path: Path) -> None:
    """Frames that are sent again may come to a worker before it knows that these parts are its own: the rig asserts
    that no results of a live one are refused."""
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert lossy(seed, folder, apps).report["ended"] == "finished"


def combined_by_another(recording: Recording) -> int:
    """Parts in combined results of another worker than the one that they were given to last."""
    last = Routes()
    for block in recording.blocks:
        last.add(*block)
    found = 0
    for worker, parts in recording.combined:
        for virtual in range(last.end):
            events, ks = recording.map.parts_of(virtual, virtual + 1)
            there = [PartRuns([parts]).find(*part) for part in zip(events.tolist(), ks.tolist(), strict=True)]
            found += sum(each is not None for each in there if last.find(virtual) != worker)
    return found


def test_what_a_lost_worker_had_combined_is_its_own_though_others_got_its_parts(apps: Path, tmp_path: Path) -> None:
    """Its result came to the log before the controller knew, so that the history gives these parts to another one."""
    by_another = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rig = lossy(seed, folder, apps)
        folded, report, digests = replayed(rig)
        assert folded == rig.publish["folded"]
        assert report.states == rig.report["states"]
        assert digests.differing == [] and digests.same
        by_another += combined_by_another(read_recording(Path(rig.report["recording"])))
    assert by_another, "nothing was given to another worker than the one that had combined it"


@pytest.mark.parametrize("seed", range(4))
def test_what_is_broadcast_to_a_place_that_was_given_up_is_not_processed_in_a_replay(
    seed: int, apps: Path, tmp_path: Path
) -> None:
    """Its end event was never processed, so its result is not folded."""
    rig = lossy(seed, tmp_path, apps, replaced=False)
    folded, report, digests = replayed(rig)
    assert read_recording(Path(rig.report["recording"])).vacated == {seed % 2}
    assert [worker for event, worker, _ in folded if event == 61] == [f"w{1 - seed % 2}"]
    assert folded == rig.publish["folded"]
    assert report.states == rig.report["states"]
    assert digests.differing == [], "digests"
