"""One deployment, scan after scan of every kind: each ends with a true report. (What piles up: faults/test_growth.)"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import pytest

from flow.deployment import INTERRUPTED, Deployment, Stream, wait_until
from flow.witness import APP, Row, frames, in_step, rows, seen

STREAMS = {"a": Stream(), "b": Stream()}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("row"), APP, STREAMS, parameters={"p": "0"}) as deployment:
        yield deployment


def uniform(events: int | None, **more: Any) -> dict[str, Any]:
    return {"streams": ["a", "b"], "events": events, **more}


def send_both(deployment: Deployment, part: slice, count: int) -> None:
    """Some messages of a series of both detectors."""
    for stream in STREAMS:
        deployment.send(stream, frames(count)[part])


def play(deployment: Deployment, trigger_map: dict[str, Any], count: int) -> dict[str, Any]:
    """The report of a scan in which both detectors send a whole series."""
    scan = deployment.submit(trigger_map)
    send_both(deployment, slice(None), count)
    return deployment.wait_ended(scan)


def assert_in_force(report: dict[str, Any], published: list[Row]) -> None:
    """Every result was made, and folded, with the value that the report's history has for its event."""
    history = [(entry["from_event"], entry["values"]["p"]) for entry in report["parameters"]]
    assert history[0][0] == 0
    assert [event for event, _ in history] == sorted(event for event, _ in history)
    for row in published:
        value = [p for event, p in history if event <= row.event][-1]
        assert row.p == (value, value), f"event {row.event}: {history}"


def batches(published: list[Row], size: int) -> list[set[str]]:
    """Who made the results of each batch of events."""
    makers: dict[int, set[str]] = {}
    for row in published:
        makers.setdefault((row.event - 1) // size, set()).add(row.worker)
    return list(makers.values())


def explicit_map(repeats: int) -> dict[str, Any]:
    """Ten events: pairs for one worker each; in the 5th b has no frame, the 8th goes to all workers."""

    def one(constraint: int | None) -> list[dict[str, Any]]:
        return [{"tags": ["generic"], "constraint": constraint}]

    cells: list[Any] = [one(n // 2) for n in range(10)]
    cells[7] = one(None)
    parts = {"ten": {"a": cells, "b": [None if n == 4 else cell for n, cell in enumerate(cells)]}}
    return {"parts": parts, "sequence": ["ten"] * repeats}


def test_ten_scans_in_a_row(deployment: Deployment) -> None:
    plain_scan(deployment)
    parameter_between_scans(deployment)
    parameters_during_a_scan(deployment)
    explicit_scan(deployment)
    stopped_half_way(deployment)
    stopped_before_the_detector_sent(deployment)
    superseded_in_mid_scan(deployment)  # two scans
    endless_scan(deployment)
    last = plain_scan(deployment)
    assert last["number"] == 10
    ended = deployment.get("scans").json()
    assert [scan["number"] for scan in ended] == list(range(10, 0, -1))
    assert [scan["state"] for scan in ended].count("finished") == 7


def plain_scan(deployment: Deployment) -> dict[str, Any]:
    report = play(deployment, uniform(40), 40)
    assert report["summary"] == "40 events: 40 reduced"
    assert report["ended"] == "finished"
    assert seen(deployment.state()) == in_step("ab", range(1, 41))
    assert_in_force(report, rows(deployment.state()))
    return report


def parameter_between_scans(deployment: Deployment) -> None:
    deployment.set_parameter("p", b"1")
    report = play(deployment, uniform(40, batch=8), 40)
    assert report["summary"] == "40 events: 40 reduced"
    assert [entry["values"]["p"] for entry in report["parameters"]] == ["1"]
    published = rows(deployment.state())
    assert {row.p for row in published} == {("1", "1")}
    assert all(len(makers) == 1 for makers in batches(published, 8))


def parameters_during_a_scan(deployment: Deployment) -> None:
    """Changed once between two frames, and twice in a row while frames are under way."""
    scan = deployment.submit(uniform(300, batch=3))
    send_both(deployment, slice(0, 101), 300)
    deployment.wait_reached(101)
    deployment.set_parameter("p", b"2")
    send_both(deployment, slice(101, 201), 300)
    deployment.set_parameter("p", b"3")
    deployment.set_parameter("p", b"4")
    wait_until(lambda: deployment.report(scan)["parameters"][-1]["values"]["p"] == "4", "the last value in force")
    send_both(deployment, slice(201, None), 300)
    report = deployment.wait_ended(scan)
    assert report["summary"] == "300 events: 300 reduced"
    published = rows(deployment.state())
    assert_in_force(report, published)
    values = [row.p[0] for row in published]
    assert values == sorted(values)
    assert (values[0], values[-1]) == ("1", "4")
    assert values[99] == "1", "events that were done before the change have the old value"


def explicit_scan(deployment: Deployment) -> None:
    scan = deployment.submit(explicit_map(2))
    for stream, count in (("a", 20), ("b", 18)):
        deployment.send(stream, frames(count))
    report = deployment.wait_ended(scan)
    assert report["summary"] == "20 events: 20 reduced"
    published = rows(deployment.state())
    of_b = iter(range(18))
    for event in range(1, 21):
        found = [row for row in published if row.event == event]
        everybody = event % 10 == 8
        assert len(found) == (2 if everybody else 1)
        assert {row.worker for row in found} >= ({"worker-0", "worker-1"} if everybody else set())
        b = {} if event % 10 == 5 else {"b": next(of_b)}
        assert all(row.seen == {"a": event - 1, **b} for row in found)
    whole = [row for row in published if row.event % 10 != 8]
    for pair in ((1, 2), (3, 4), (5, 6), (9, 10), (11, 12)):
        assert len({row.worker for row in whole if row.event in pair}) == 1


def stopped_half_way(deployment: Deployment) -> None:
    """What the detectors send afterwards belongs to no scan, neither to this one nor to the next."""
    scan = deployment.submit(uniform(40))
    send_both(deployment, slice(0, 16), 40)
    deployment.wait_reached(16)
    deployment.stop()
    report = deployment.wait_ended(scan)
    assert report["ended"] == "stopped"
    assert report["reason"] == "stopped by request"
    assert report["summary"] == "15 events: 15 reduced (25 of 40 planned were not reached)"
    assert seen(deployment.state()) == in_step("ab", range(1, 16))
    assert report["incomplete"] == {}
    assert {name: stream["missing"] for name, stream in report["streams"].items()} == {"a": [], "b": []}
    send_both(deployment, slice(16, None), 40)


def stopped_before_the_detector_sent(deployment: Deployment) -> None:
    scan = deployment.submit(uniform(40))
    deployment.stop()
    report = deployment.wait_ended(scan)
    assert report["ended"] == "stopped"
    assert report["summary"] == "0 events: none came (40 of 40 planned were not reached)"
    assert seen(deployment.state()) == []


def superseded_in_mid_scan(deployment: Deployment) -> None:
    first = deployment.submit(uniform(30))
    send_both(deployment, slice(0, 11), 30)
    deployment.wait_reached(11)
    deployment.set_parameter("p", b"5")
    second = deployment.submit(uniform(20, batch=5))
    send_both(deployment, slice(None), 20)
    report = deployment.wait_ended(second)
    assert report["summary"] == "20 events: 20 reduced"
    assert seen(deployment.state()) == in_step("ab", range(1, 21))
    assert {row.p for row in rows(deployment.state())} == {("5", "5")}
    report = deployment.report(first)
    assert report["ended"] == "stopped"
    assert report["reason"] == "a new scan was submitted"
    assert report["summary"] == "10 events: 10 reduced (20 of 30 planned were not reached)"


def endless_scan(deployment: Deployment) -> None:
    report = play(deployment, uniform(None), 33)
    assert report["ended"] == "finished"
    assert report["summary"] == "33 events: 33 reduced"
    assert report["planned"] is None
    assert seen(deployment.state()) == in_step("ab", range(1, 34))


def test_ctrl_c_in_mid_scan_ends_everything_and_leaves_nothing_behind(deployment: Deployment) -> None:
    deployment.submit(uniform(40))
    send_both(deployment, slice(0, 21), 40)
    deployment.wait_reached(21)
    assert deployment.interrupt() == INTERRUPTED
    assert not deployment.unannounced()
    assert not deployment.processes()
    results = deployment.folder / "output"
    found = {path for path in results.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert {path.suffix for path in found} == {".h5"}
    with h5py.File(max(found, key=lambda path: path.stat().st_mtime)) as kept:
        assert kept.attrs["beamfold_summary"] == "20 events: 20 reduced (20 of 40 planned were not reached)"
