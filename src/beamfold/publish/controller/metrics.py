"""What the controller tells Prometheus of itself and of all services, which have no HTTP of their own.

Services say once a second how they do, and once more when a scan ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version as version_of

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.tally import Count
from beamfold.publish.metrics import counter, counters, gauge, gauges, stages

_COUNTED: dict[Count, tuple[str, str, str]] = {
    Count.SCANS: ("beamfold_scans", "Scans by how they ended.", "ended"),
    Count.EVENTS: ("beamfold_events", "Data events of scans that ended, by their state.", "state"),
    Count.FRAMES: ("beamfold_stream_frames", "Data frames received.", "stream"),
    Count.PAYLOAD_BYTES: ("beamfold_stream_payload_bytes", "Bytes of frames received.", "stream"),
    Count.MISSING: ("beamfold_stream_missing_frames", "Frames that never came.", "stream"),
    Count.MALFORMED: ("beamfold_stream_malformed_messages", "Messages that do not follow their protocol.", "stream"),
    Count.DUPLICATES: ("beamfold_stream_duplicate_frames", "Frames that came again.", "stream"),
    Count.LATE: ("beamfold_stream_late_frames", "Frames that came after they were taken for missing.", "stream"),
    Count.STRANGERS: ("beamfold_stream_stranger_frames", "Frames of another series.", "stream"),
    Count.DISCARDED: (
        "beamfold_stream_discarded_frames",
        "Frames that came after the series' end, or a stop.",
        "stream",
    ),
    Count.SURPLUS: ("beamfold_stream_surplus_frames", "Frames that the trigger map had no place for.", "stream"),
    Count.SPILLED_BYTES: ("beamfold_stream_spilled_bytes", "Bytes of frames that were put on disk.", "stream"),
    Count.PAUSED_SECONDS: ("beamfold_stream_paused_seconds", "Seconds for which the detector was held back.", "stream"),
    Count.PARTS: ("beamfold_worker_parts", "Parts processed, broadcasts included.", "worker"),
    Count.ACTIVE_SECONDS: ("beamfold_worker_active_seconds", "Seconds in user code.", "worker"),
}

_SAID: dict[str, tuple[str, str, str, str]] = {
    "ingester": ("arena_bytes", "beamfold_ingester_arena_bytes", "Shared memory in use by frames.", "ingester"),
    "worker": (
        "waiting",
        "beamfold_worker_waiting_parts",
        "Parts that lack a frame, or wait for a broadcast.",
        "worker",
    ),
    "reducer": ("backlog_bytes", "beamfold_reducer_backlog_bytes", "Results logged and not folded yet.", "reducer"),
}


class ControllerMetrics(Collector):
    """Reads the machine when it is asked, on the loop on which the machine runs."""

    def __init__(self, machine: ControllerMachine) -> None:
        self._machine = machine

    def collect(self) -> Iterator[Metric]:
        """The metric families of Prometheus."""
        yield InfoMetricFamily("beamfold_build", "What runs here.", value={"version": version_of("beamfold")})
        yield from self._services()
        yield gauge("beamfold_parameters_version", "Version of the parameters.", self._machine.version)
        yield from self._counted()
        if self._machine.scan is not None:
            yield from _scan(self._machine.scan)

    def _services(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("beamfold_service_up", "1: the service is there.", labels=["role", "service"])
        services = list(self._machine.services.values())
        for service in services:
            up.add_metric([service.hello.role, service.hello.name], float(not service.gone))
        yield up
        for role, (key, name, text, label) in _SAID.items():
            there = [s for s in services if s.hello.role == role and not s.gone]
            said = {s.hello.name: s.stats.get(key) for s in there}
            yield gauges(name, text, label, {n: value for n, value in said.items() if isinstance(value, int | float)})

    def _counted(self) -> Iterator[Metric]:
        tally = self._machine.tally()
        for what, (name, text, label) in _COUNTED.items():
            found = {by: number for (count, by), number in tally.counts.items() if count is what}
            yield counters(name, text, label, found)
        repeated = tally.counts.get((Count.REPEATED_RESULTS, ""), 0)
        yield counter("beamfold_repeated_results", "Results that came again; each part is folded once.", repeated)
        yield from stages("beamfold", tally.latency.items())


def _scan(scan: Scan) -> Iterator[Metric]:
    """The present (or last) scan, whose report has just been brought up to date."""
    report = scan.report
    yield gauge("beamfold_scan_number", "Number of the present (or last) scan.", scan.number)
    phases = {phase.value: float(phase is scan.phase) for phase in Phase}
    yield gauges("beamfold_scan_phase", "1: the scan is in this phase.", "phase", phases)
    yield gauge("beamfold_scan_start_time_seconds", "When it started, in seconds since the epoch.", scan.started)
    yield gauges("beamfold_scan_events", "Its data events by their state now.", "state", report.states)
    if scan.planned is not None:
        yield gauge(
            "beamfold_scan_planned_events", "Data events by its trigger map; an endless one has none.", scan.planned
        )
    held = scan.report.streams if scan.active else {}
    retained, shelved = ({name: getattr(s, what) for name, s in held.items()} for what in ("retained", "shelved"))
    yield gauges("beamfold_stream_retained_bytes", "Frames kept in memory until they are done.", "stream", retained)
    yield gauges("beamfold_stream_shelved_bytes", "Frames kept on disk until they are done.", "stream", shelved)
