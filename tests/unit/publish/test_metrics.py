"""What Prometheus reads: in its format, by its conventions, and never less than it read before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from beamfold.model.histogram import BOUNDS
from beamfold.model.latency import Latencies, Stage
from beamfold.protocols import messages as m
from beamfold.publish.reducer_http import build_reducer_app
from beamfold.reduce.service import Progress
from unit.publish.played import Played, ask

UNIFORM = {"streams": ["a", "b"], "events": 6}


@pytest.fixture
def controller() -> Iterator[Played]:
    played = Played()
    yield played
    played.close()


def scrape(app: FastAPI) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by name, then by the values of their labels."""
    answer = ask(app, "GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name
            values = found.setdefault(sample.name, {})
            assert tuple(sample.labels.values()) not in values, f"{sample.name} has a series twice"
            values[tuple(sample.labels.values())] = sample.value
    return found


def latencies(*seconds: float, stage: Stage = Stage.PROCESS) -> Latencies:
    found = Latencies()
    for s in seconds:
        found[stage].observe(s)
    return found


def test_before_the_first_scan_there_are_the_services(controller: Played) -> None:
    found = scrape(controller.app)
    assert found["beamfold_service_up"] == {
        ("ingester", "ingester"): 1,
        ("worker", "worker-0"): 1,
        ("worker", "worker-1"): 1,
        ("reducer", "reducer"): 1,
    }
    assert "beamfold_scan_number" not in found
    assert found["process_resident_memory_bytes"][()] > 0


def test_a_service_that_is_gone_is_down(controller: Played) -> None:
    controller.hello("supervisor", "supervisor")
    controller.say("supervisor", m.Gone("worker", "worker-1", "killed by signal 9"))
    found = scrape(controller.app)
    assert found["beamfold_service_up"]["worker", "worker-1"] == 0
    assert found["beamfold_service_up"]["worker", "worker-0"] == 1


def test_a_running_scan_is_shown_as_it_stands(controller: Played) -> None:
    scan = controller.submit(UNIFORM)
    controller.say(
        "ingester",
        m.StreamSeen(1, "a", "running", 5, 5, 700, 1, 2, 3, 80, 90, 1.5, payload_bytes=5000, late=4, strangers=6),
    )
    controller.say("ingester", m.FramesMissing(1, "b", [(2, 4)]))
    controller.process(0, 4, active=0.5, total=1.0)
    controller.say("ingester", m.Beat({"scan": 1, "arena_bytes": 1 << 20}))
    controller.say("worker-0", m.Beat({"scan": 1, "waiting": 3, "events": 2, "active": 0.5, "total": 1.0}))
    controller.say("reducer", m.Beat({"scan": 1, "backlog_bytes": 99}))
    found = scrape(controller.app)
    assert found["beamfold_scan_number"] == {(): 1}
    assert [phase for (phase,), on in found["beamfold_scan_phase"].items() if on] == ["running"]
    assert found["beamfold_scan_planned_events"] == {(): 6}
    assert found["beamfold_scan_events"] == {("reduced",): 3, ("pending",): 3}
    assert found["beamfold_stream_frames_total"] == {("a",): 5, ("b",): 0}
    assert found["beamfold_stream_payload_bytes_total"]["a",] == 5000
    assert found["beamfold_stream_discarded_frames_total"]["a",] == 1
    assert found["beamfold_stream_malformed_messages_total"]["a",] == 2
    assert found["beamfold_stream_duplicate_frames_total"]["a",] == 3
    assert found["beamfold_stream_late_frames_total"]["a",] == 4
    assert found["beamfold_stream_stranger_frames_total"]["a",] == 6
    assert found["beamfold_stream_missing_frames_total"]["b",] == 2
    assert found["beamfold_stream_retained_bytes"] == {("a",): 700, ("b",): 0}
    assert found["beamfold_stream_shelved_bytes"]["a",] == 80
    assert found["beamfold_stream_spilled_bytes_total"]["a",] == 90
    assert found["beamfold_stream_paused_seconds_total"]["a",] == 1.5
    assert found["beamfold_worker_active_seconds_total"] == {("worker-0",): 0.5, ("worker-1",): 0.5}
    assert found["beamfold_worker_parts_total"] == {("worker-0",): 2, ("worker-1",): 2}
    assert found["beamfold_worker_waiting_parts"] == {("worker-0",): 3}
    assert found["beamfold_ingester_arena_bytes"] == {("ingester",): 1 << 20}
    assert found["beamfold_reducer_backlog_bytes"] == {("reducer",): 99}
    assert "beamfold_events_total" not in found, "states may still change"
    assert scan not in ask(controller.app, "GET", "/metrics").text, "ids of scans would be series without end"


def test_what_is_counted_goes_on_over_scans(controller: Played) -> None:
    shown: list[dict[str, dict[tuple[str, ...], float]]] = []
    for number in (1, 2, 3):
        controller.submit(UNIFORM)
        controller.say("ingester", m.StreamSeen(number, "a", "running", 5, 5, 100))
        shown.append(scrape(controller.app))
        controller.process(0, 8, active=1.0, total=2.0)
        for name in ("worker-0", "worker-1"):
            controller.say(name, m.Beat({"scan": number, "events": 4, "active": 1.0}, latencies(0.1, 0.2).to_wire()))
        shown.append(scrape(controller.app))
        controller.finish()
        shown.append(scrape(controller.app))
    last = shown[-1]
    assert "beamfold_stream_retained_bytes" not in last, "nothing is kept of a scan that has ended"
    assert last["beamfold_scans_total"] == {("finished",): 3}
    assert last["beamfold_events_total"] == {("reduced",): 18}
    assert last["beamfold_stream_frames_total"]["a",] == 15
    assert last["beamfold_worker_active_seconds_total"] == {("worker-0",): 3.0, ("worker-1",): 3.0}
    assert last["beamfold_stage_seconds_count"] == {("process",): 12}
    assert last["beamfold_stage_seconds_sum"]["process",] == pytest.approx(1.8)
    growing = [name for name in last if name.startswith("beamfold") and name.endswith(("_total", "_count", "_sum"))]
    assert "beamfold_stage_negative_durations_total" in growing
    for name in growing:
        for before, after in pairwise(shown):
            for labels, value in before.get(name, {}).items():
                assert after[name][labels] >= value, (name, labels)


def test_histograms_are_cumulative_and_end_with_all(controller: Played) -> None:
    controller.submit(UNIFORM)
    controller.say("worker-0", m.Beat({"scan": 1}, latencies(1e-6, 0.004, 1000.0, -1.0).to_wire()))
    found = scrape(controller.app)
    buckets = {le: n for (le, stage), n in found["beamfold_stage_seconds_bucket"].items() if stage == "process"}
    assert list(buckets) == [*map(str, BOUNDS), "+Inf"]
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["2e-05"], buckets["0.0032"], buckets["0.005"], buckets["125.0"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    assert found["beamfold_stage_negative_durations_total"] == {("process",): 1}


@pytest.mark.parametrize("latency", [{"nap": [0, 0, 0]}, {"process": [1]}, {"process": [0, 0, 0, 99, 1]}])
def test_a_service_that_says_what_cannot_be_changes_nothing(controller: Played, latency: dict[str, list[int]]) -> None:
    controller.submit(UNIFORM)
    controller.say("worker-0", m.Beat({"scan": 1}, latencies(0.1).to_wire()))
    controller.say("worker-0", m.Beat({"scan": 1, "waiting": "many"}, latency))
    controller.say("worker-1", m.Beat({"scan": 7}, latencies(0.1).to_wire()))
    controller.say("stranger", m.Beat({"scan": 1}, latencies(0.1).to_wire()))
    found = scrape(controller.app)
    assert found["beamfold_stage_seconds_count"] == {("process",): 1}
    assert "beamfold_worker_waiting_parts" not in found


def test_the_report_has_what_all_services_observed(controller: Played) -> None:
    scan = controller.submit(UNIFORM)
    controller.process(0, 8)
    controller.say("worker-0", m.Beat({"scan": 1}, latencies(0.1).to_wire()))
    controller.say("worker-0", m.Beat({"scan": 1}, latencies(0.1, 0.1, 0.1).to_wire()))  # so far: not in addition
    controller.say("worker-1", m.Beat({"scan": 1}, latencies(0.2).to_wire()))
    controller.say("reducer", m.Beat({"scan": 1}, latencies(3.0, stage=Stage.TOTAL).to_wire()))
    assert set(controller.get(f"/scans/{scan}/report")["latency"]) == {"process", "total"}
    controller.finish()
    latency = controller.get(f"/scans/{scan}/report")["latency"]
    assert list(latency) == ["process", "total"]
    assert latency["process"]["count"] == 4
    assert 0.08 <= latency["process"]["p50"] <= 0.125 <= latency["process"]["p99"] <= latency["process"]["max"] == 0.2
    assert latency["total"]["max"] == 3.0


def test_page_and_status_say_how_long_events_take_once_that_is_known(controller: Played) -> None:
    assert "from detector to state" not in ask(controller.app, "GET", "/").text
    assert controller.get("/status")["latency"] == {}
    controller.submit(UNIFORM)
    assert "from detector to state" not in ask(controller.app, "GET", "/").text
    controller.say("reducer", m.Beat({"scan": 1}, latencies(0.05, stage=Stage.TOTAL).to_wire()))
    page = ask(controller.app, "GET", "/").text
    assert re.search(r"0 of 8 events, from detector to state in 4\d ms \(99 %: (4\d|50)(\.\d)? ms\)\.", page)
    assert controller.get("/status")["latency"]["total"]["count"] == 1


def test_the_reducer_tells_of_itself() -> None:
    said = Progress(42, 1000, latencies(0.5, 0.5, stage=Stage.FOLD))
    found = scrape(build_reducer_app(lambda _timeout: {"n": 1}, lambda: said))
    assert found["beamfold_results_folded_total"] == {(): 42}
    assert found["beamfold_results_backlog_bytes"] == {(): 1000}
    assert found["beamfold_reducer_stage_seconds_sum"] == {("fold",): 1.0}
    assert found["beamfold_snapshots_kept"] == {(): 0}
    assert found["process_cpu_seconds_total"][()] > 0
