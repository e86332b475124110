"""`GET /metrics`: numbers for Prometheus, in its text format 0.0.4.

They are read from what the service knows anyway when somebody asks: nothing is counted for this alone. Names follow
Prometheus' conventions; no label has a scan's id, so that the number of series does not grow with the scans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from beamfold.model.histogram import BOUNDS, Histogram
from beamfold.model.latency import Stage

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format 0.0.4",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)

_LE = [*map(str, BOUNDS), "+Inf"]


def add_metrics(app: FastAPI, collector: Collector) -> None:
    """Serve what this collector says, and how this process does."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)

    @app.get("/metrics", response_class=Response, responses=_TEXT)
    async def metrics() -> Response:
        """Counters, gauges and histograms for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """One number that goes up and down."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """The same by a label."""
    return _labelled(GaugeMetricFamily(name, text, labels=[label]), values)


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """One number that only grows; `_total` is appended to its name."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """The same by a label."""
    return _labelled(CounterMetricFamily(name, text, labels=[label]), values)


def _labelled(family: Family, values: Mapping[str, float]) -> Family:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def stages(prefix: str, latency: Iterable[tuple[Stage, Histogram]]) -> list[Metric]:
    """The way of events: a histogram by stage, and how often clocks disagreed."""
    seconds = HistogramMetricFamily(
        f"{prefix}_stage_seconds", "Seconds that frames and parts spent in a stage of their way.", labels=["stage"]
    )
    negative = CounterMetricFamily(
        f"{prefix}_stage_negative_durations",
        "Durations below zero, taken for 0: clocks of two hosts disagreed.",
        labels=["stage"],
    )
    for stage, histogram in latency:
        ends = accumulate(histogram.counts)
        seconds.add_metric([stage], list(zip(_LE, ends, strict=True)), histogram.total)
        negative.add_metric([stage], histogram.negative)
    return [seconds, negative]
