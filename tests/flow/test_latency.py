"""The way of every event is timed, and no stretch of it is left out: asserted by sums, never by a time."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flow.deployment import Deployment, Stream
from flow.witness import APP, frames

STREAMS = {"a": Stream(), "b": Stream("stins", {"ingester": "other"})}
WAY = ["ingest", "transit", "wait", "process", "result", "fold", "total"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("latency"), APP, STREAMS, parameters={"p": "0"}) as deployment:
        yield deployment


def scan(deployment: Deployment, streams: str, events: int) -> dict[str, int]:
    """How often each stage was observed in a scan of these streams, by its report."""
    number = deployment.submit({"streams": list(streams), "events": events})
    for stream in streams:
        deployment.send(stream, frames(events))
    latency = deployment.wait_ended(number)["latency"]
    assert list(latency) == WAY
    for way in latency.values():
        assert way["negative"] == 0
        assert 0 <= way["p50"] <= way["p90"] <= way["p99"] <= way["max"]
    return {stage: way["count"] for stage, way in latency.items()}


def sums(deployment: Deployment) -> dict[str, float]:
    """Seconds spent in each stage since the controller started."""
    text = httpx.get(f"{deployment.controller_url}/metrics", trust_env=False).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {s.labels["stage"]: s.value for s in samples if s.name == "beamfold_stage_seconds_sum"}


def test_every_event_of_a_short_scan_is_timed_and_the_stages_add_up_to_the_way(deployment: Deployment) -> None:
    """A scan that is over before anybody would have asked: its last numbers come with its end."""
    before = dict.fromkeys(WAY, 0.0) | sums(deployment)
    assert scan(deployment, "a", 300) == dict.fromkeys(WAY, 300)
    after = sums(deployment)
    spent = {stage: after[stage] - before[stage] for stage in WAY}
    total = spent.pop("total")
    assert total > 0
    assert sum(spent.values()) == pytest.approx(total, rel=1e-4)


def test_of_joined_streams_frames_and_parts_are_counted_each(deployment: Deployment) -> None:
    counts = scan(deployment, "ab", 200)
    assert counts == dict.fromkeys(WAY, 200) | {"ingest": 400, "transit": 400}
