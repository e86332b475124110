"""Promise 4: a command proves that a recording replays to what was published, or shows where it does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from beamfold.protocols.recordings import read_recording
from flow.deployment import Deployment, Stream
from flow.test_recordings import images
from processes import command

WORKER = """
import numpy as np

class Worker:
    def process_event(self, event, parameters=None):
        image = event.streams["camera"].parse()
        if image.htype != "image":
            return None
        return {"n": event.event_number, "sum": int(image.data.sum()), "rows": {"first", "last"}}
"""
REDUCER = """
import time
import numpy as np

class Reducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"sums": [], "total": 0, "nan": np.full(3, np.nan)}
        self.publish |= {"map": {}, "map_attrs": {"NX_class": "NXdata"}}

    def timer(self):
        self.publish["now"] = time.time()
        return 0.05

    def process_result(self, result, parameters=None):
        self.publish["sums"].append(result.payload["sum"])
        self.publish["map"][result.event_number % 7, 0] = result.payload["sum"]
        self.publish["total"] += result.payload["sum"]
"""
EVENTS = 60
CHANGED = 37


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recording` and the `app` that was live."""
    folder = tmp_path_factory.mktemp("live")
    record = {"record": {"directory": str(folder / "recordings")}}
    files = {"worker.py": WORKER, "reducer.py": REDUCER}
    with Deployment(folder, files, {"camera": Stream()}, sections=record) as d:
        scan = d.submit({"streams": ["camera"], "events": EVENTS})
        d.send("camera", images(EVENTS))
        report = d.wait_ended(scan)
        assert report["states"] == {"reduced": EVENTS}
    shutil.move(report["recording"], folder / "recording")
    return folder


@pytest.fixture
def there(recorded: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(recorded / "recording", tmp_path / "recording")
    shutil.copytree(recorded / "app", tmp_path / "app")
    change(tmp_path / "recording" / "recording.json", str(recorded / "app"), str(tmp_path / "app"))
    return tmp_path


def verify(folder: Path, *more: str) -> tuple[int | None, list[str], str]:
    """Exit code, what is said, and what is complained of."""
    with command("replay", "--verify", "recording", *more, cwd=folder) as run:
        return run.ends(), run.out.lines(), run.err.text()


def named(text: str) -> set[int]:
    """The events that are named as those of which one is the first to differ."""
    found = re.search(r"events? ([0-9, to]+), at", text)
    assert found, text
    runs = [[int(number) for number in run.split(" to ")] for run in found[1].split(", ")]
    return {event for run in runs for event in range(run[0], run[-1] + 1)}


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("more", [(), ("--processes", "2", "-o", "again.h5")])
def test_a_recording_is_proved_to_give_the_published_state_again(there: Path, more: tuple[str, ...]) -> None:
    batches = len(read_recording(there / "recording").logged)
    code, said, complaints = verify(there, *more)
    assert said == [
        f"the same: 6 leaves of the published state, the states of {EVENTS} events, and the results in {batches} "
        "batches are those of the live scan",
        "left out: now, which timer() publishes: a call of it after the replay changed them",
    ]
    assert (code, complaints) == (0, "")
    assert (there / "again.h5").is_file() == bool(more)


def test_a_worker_that_was_changed_is_found_out_with_the_first_events_that_differ(there: Path) -> None:
    change(there / "app" / "worker.py", "data.sum())", f"data.sum()) + (event.event_number >= {CHANGED})")
    code, said, _ = verify(there)
    assert code == 1
    assert said[0] == "not the same: 3 of 6 leaves of the published state differ"
    assert [line.split(":")[0] for line in said[1:4]] == ["  map/values", "  sums", "  total"]
    assert f"{EVENTS - CHANGED + 1} of {EVENTS} differ, the first at [{CHANGED - 1}]: live" in said[2]
    logged = read_recording(there / "recording").logged
    changed = [batch for batch in logged if any(k == 0 and hi > CHANGED for k, _, hi in batch.parts)]
    differing = [{event for _, lo, hi in batch.parts for event in range(lo, hi)} for batch in changed]
    assert said[5].startswith("the first difference: another result of ")
    assert CHANGED in named(said[5])
    assert named(said[5]) == {e for events in differing for e in events if e <= min(map(max, differing))}


def test_an_event_that_fails_now_is_the_first_difference(there: Path) -> None:
    change(there / "app" / "worker.py", "return {", f"return 1 / 0 if event.event_number == {CHANGED} else {{")
    code, said, _ = verify(there)
    assert code == 1
    assert f"event {CHANGED} was in order live, and failed in the replay" in "\n".join(said)
    assert said[-1].endswith("failed in the replay") or CHANGED in named(said[-1])


def test_a_reducer_that_was_changed_is_told_from_other_results(there: Path) -> None:
    change(there / "app" / "reducer.py", '"total"] +=', '"total"] -=')
    code, said, _ = verify(there)
    assert code == 1
    assert said[:2][0] == "not the same: 1 of 6 leaves of the published state differ"
    assert said[-1].startswith("the results of all events are those of the live scan: it is the reducer")


def test_a_difference_that_nobody_sees_is_told_too(there: Path) -> None:
    change(there / "app" / "worker.py", '"last"}', '"none"}')
    code, said, _ = verify(there)
    assert code == 0
    assert said[-1].startswith("the first difference: ") and "it changed nothing that is published" in said[-1]


def test_an_old_recording_without_digests_is_compared_all_the_same(there: Path) -> None:
    history = there / "recording" / "history.jsonl"
    history.write_text("".join(f"{line}\n" for line in history.read_text().splitlines() if '"logged"' not in line))
    code, said, _ = verify(there)
    assert code == 0 and "the results in 0 batches" in said[0]
    change(there / "app" / "reducer.py", '"total"] +=', '"total"] -=')
    code, said, _ = verify(there)
    assert code == 1 and said[-1].endswith("this recording has no digests of results")


def lose_line(file: Path, start: str) -> None:
    """The first line that starts so."""
    lines = file.read_text().splitlines(keepends=True)
    lines.remove(next(line for line in lines if line.startswith(start)))
    file.write_text("".join(lines))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda folder: (folder / "camera.cbors").unlink(), "camera.cbors is missing or empty"),
        (lambda folder: (folder / "result.h5").unlink(), "has no result.h5: the scan was not recorded to its end"),
        (lambda folder: (folder / "report.json").unlink(), "has no report.json: the scan was not recorded to its end"),
        (lambda folder: cut(folder / "result.h5"), "result.h5 cannot be read"),
        (lambda folder: lose_line(folder / "history.jsonl", '{"blocks"'), "given to nobody: a line is missing"),
        (lambda folder: lose_line(folder / "history.jsonl", '{"parameters"'), "with which parameters the scan began"),
    ],
)
def test_a_damaged_recording_is_an_error_that_names_the_file(there: Path, harm: Any, text: str) -> None:
    harm(there / "recording")
    code, said, complaints = verify(there)
    assert (code, said) == (1, [])
    assert text in complaints and "Traceback" not in complaints


def test_a_dump_that_breaks_off_is_not_the_same(there: Path) -> None:
    cut(there / "recording" / "camera.cbors")
    code, said, complaints = verify(there)
    assert code == 1 and said[0].startswith("not the same: ")
    assert "camera.cbors" in complaints


def test_only_a_recording_can_be_verified(there: Path) -> None:
    with command("replay", "--verify", "recording/camera.cbors", cwd=there) as run:
        assert run.ends() == 1
        assert "only a recording says what was published" in run.err.text()
