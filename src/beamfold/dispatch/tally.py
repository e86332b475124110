"""What is counted over all scans since the controller started: numbers that only grow, whatever scans come and go."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from beamfold.dispatch.load import LoadHistory
from beamfold.dispatch.scan import Scan
from beamfold.model.latency import Latencies


class Count(StrEnum):
    """What is counted; the comment says by what."""

    SCANS = "scans"  # how they ended
    EVENTS = "events"  # state, of scans that ended: the state of an event may still get worse before
    FRAMES = "frames"  # stream, and so are the next ten
    PAYLOAD_BYTES = "payload_bytes"
    MISSING = "missing"
    MALFORMED = "malformed"
    DUPLICATES = "duplicates"
    LATE = "late"
    STRANGERS = "strangers"
    DISCARDED = "discarded"
    SURPLUS = "surplus"
    SPILLED_BYTES = "spilled_bytes"
    PAUSED_SECONDS = "paused_seconds"
    PARTS = "parts"  # worker
    ACTIVE_SECONDS = "active_seconds"  # worker
    REPEATED_RESULTS = "repeated_results"  # nothing: ""


class Tally:
    """`counts` by what is counted and for whom; `latency` of all services."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Count, str], float] = {}
        self.latency = Latencies()

    def add(self, other: Tally) -> None:
        """Take in what was counted elsewhere."""
        for key, number in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + number
        self.latency.add(other.latency)


def tally_of(scan: Scan, workers: Iterable[tuple[str, LoadHistory]]) -> Tally:
    """What one scan adds; `workers` are all that there are, by name. It brings the scan's report up to date."""
    tally = Tally()
    counts = tally.counts
    scan.refresh()
    report = scan.report
    if not scan.active:
        counts[Count.SCANS, report.ended] = 1
        counts.update({(Count.EVENTS, state): n for state, n in report.states.items()})
    for name, stream in report.streams.items():
        counts[Count.FRAMES, name] = stream.frames
        counts[Count.PAYLOAD_BYTES, name] = stream.payload_bytes
        counts[Count.MISSING, name] = stream.missing_total
        counts[Count.MALFORMED, name] = stream.malformed
        counts[Count.DUPLICATES, name] = stream.duplicates
        counts[Count.LATE, name] = stream.late
        counts[Count.STRANGERS, name] = stream.strangers
        counts[Count.DISCARDED, name] = stream.discarded
        counts[Count.SURPLUS, name] = stream.surplus
        counts[Count.SPILLED_BYTES, name] = stream.spilled
        counts[Count.PAUSED_SECONDS, name] = stream.paused
    for name, load in workers:
        if load.scan == scan.number:
            counts[Count.PARTS, name] = load.whole.events
            counts[Count.ACTIVE_SECONDS, name] = load.whole.active
    counts[Count.REPEATED_RESULTS, ""] = report.duplicates
    tally.latency = scan.latency()
    return tally
