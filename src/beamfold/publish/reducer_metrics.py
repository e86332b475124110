"""What the reducer tells Prometheus of itself; the controller tells of it as one of all services."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from beamfold.publish.metrics import counter, gauge, stages
from beamfold.publish.snapshots import Snapshots
from beamfold.reduce.service import Progress


class ReducerMetrics(Collector):
    """Reads what the reducer said of itself last, in another thread than the reducer's."""

    def __init__(self, progress: Callable[[], Progress], snapshots: Snapshots) -> None:
        self._progress = progress
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """The metric families of Prometheus."""
        progress = self._progress()
        yield counter("beamfold_results_folded", "Results folded.", progress.folded)
        yield gauge("beamfold_results_backlog_bytes", "Results logged and not folded yet.", progress.backlog_bytes)
        kept = len(self._snapshots.versions())
        yield gauge("beamfold_snapshots_kept", "Versions of the published state that can be read.", kept)
        yield from stages("beamfold_reducer", progress.latency.items())
