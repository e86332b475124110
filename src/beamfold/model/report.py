"""What became of a scan: every event in exactly one recorded state, and everything a person should know besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from beamfold.model.bitmaps import Bitmap
from beamfold.model.histogram import Histogram
from beamfold.model.states import EventState

MAX_FAILURES = 100
"""Failures kept with their traceback; all of them are counted."""

MAX_LOSSES = 1000
"""Losses of services kept in a report."""

MAX_TICKS = 10_000
"""Ticks named in a report; all of them are counted."""

MAX_VERSIONS = 1000
"""Versions of the parameters kept in a report, the first one and the newest; all of them are counted."""

MAX_KEPT_BITMAPS = 256 << 10
"""Characters of the bitmaps of a report that the ledger keeps, which keeps it for a thousand scans."""

MAX_VERSIONS_CHARACTERS = 1 << 20
"""Characters of names and values in these, unless the first and the newest one alone have more."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a hook gets as `state`: who runs it, and which versions of Beamfold and of the app (None: not known)."""

    name: str
    version: str
    mapreduce_version: Any = None

    @property
    def dranspose_version(self) -> str:
        """The same as `version`, under the name that older apps use."""
        return self.version


@dataclass(slots=True)
class StreamReport:
    """One stream of a scan: `numbered` when frames were matched by their own numbers, else `counted`.

    `expected` data frames by the trigger map (None: endless and never closed). `frames` came and were used; of those
    that came and were not, `surplus` ones were beyond the map, `duplicates` had come before, `late` ones came when
    their event had been declared to lack them, `strangers` are of another series (from before the start message, or
    behind a second one), `discarded` ones came after the series end, or after the scan was stopped; `malformed`
    messages could not be read. `out_of_order` counts how often a number was lower than the one before it.
    `missing` are runs of events whose frame did not come in time, of which there is a bound, and `missing_total` counts
    them all. `payload_bytes` are those of the frames that were used. The ingester retains `retained` bytes in memory
    and `shelved` bytes on disk, `spilled` ones were ever put there; the detector was held back (`paused`) for so many
    seconds.
    """

    matching: str
    phase: str = "waiting"
    frames: int = 0
    payload_bytes: int = 0
    expected: int | None = None
    missing: list[tuple[int, int]] = field(default_factory=list)
    missing_total: int = 0
    surplus: int = 0
    discarded: int = 0
    malformed: int = 0
    duplicates: int = 0
    late: int = 0
    strangers: int = 0
    out_of_order: int = 0
    retained: int = 0
    shelved: int = 0
    spilled: int = 0
    paused: float = 0.0
    verified: bool = True


@dataclass(frozen=True, slots=True)
class StageLatency:
    """Seconds that a stage of the way took: estimates of quantiles, and the longest.

    `negative` counts durations below zero, which are taken for 0: clocks of two hosts disagreed.
    """

    count: int
    p50: float
    p90: float
    p99: float
    max: float
    negative: int = 0

    @classmethod
    def of(cls, histogram: Histogram) -> StageLatency:
        """The numbers of a histogram, to the microsecond."""
        p50, p90, p99 = (round(histogram.quantile(q), 6) for q in (0.5, 0.9, 0.99))
        return cls(histogram.count, p50, p90, p99, round(histogram.largest, 6), histogram.negative)


@dataclass(slots=True)
class ScanReport:
    """The report of one scan; `to_dict` is its JSON form.

    `events` is how many data events the scan has had (its planned number, or fewer when it was stopped or its series
    ended early: then `unreached` counts the rest of a finite plan), and `first_event` is the first of them. `states`
    counts them by state; their sum is `events`. `runs` lists the events of every state but "reduced" (those without a
    result at the end of the scan), as half-open runs; where there are too many, `bitmaps` has the state instead once
    the scan has ended, and `beamfold.events_in` reads either. `unlisted` counts, by state, the events of these states
    that neither has. `incomplete` lists by stream the events that lacked it, or at the end `incomplete_bitmaps` does
    (`beamfold.events_lacking`).

    `workers` are the logical workers by their numbers, of which the `joined` ones came in mid-scan: the results that
    those made of what is broadcast are left out.

    `losses` are the services that were lost in mid-scan, `redone` counts the parts that were assigned again for that,
    and `duplicates` the parts whose results came again and were not folded again. `slips` are streams that seem to be
    out of step with another one. `recording` is the folder with the scan's recording, "" where none was made, and
    `combined` counts the results in it that workers made of several; `overload` is the policy by which events were
    dropped, if any were. `latency` has the stages (`beamfold.model.latency.Stage`) of the way of every event.
    """

    scan_id: str
    number: int
    ended: str = ""
    reason: str = ""
    planned: int | None = None
    first_event: int = 1
    events: int = 0
    unreached: int = 0
    states: dict[str, int] = field(default_factory=dict)
    runs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    bitmaps: dict[str, Bitmap] = field(default_factory=dict)
    unlisted: dict[str, int] = field(default_factory=dict)
    streams: dict[str, StreamReport] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    failed_total: int = 0
    incomplete: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    incomplete_bitmaps: dict[str, Bitmap] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    slips: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    redone: int = 0
    duplicates: int = 0
    out_of_order: list[tuple[int, int]] = field(default_factory=list)
    parameters: list[dict[str, Any]] = field(default_factory=list)
    parameters_total: int = 0
    ticks: list[int] = field(default_factory=list)
    ticks_total: int = 0
    combined: int = 0
    workers: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    latency: dict[str, StageLatency] = field(default_factory=dict)
    started: float = 0.0
    finished: float | None = None
    result_file: str = ""
    recording: str = ""
    overload: str = "spill"

    def loss(self, service: str, how: str, when: float, parts: int) -> None:
        """A service was lost, and so many parts are to be done again for that."""
        self.redone += parts
        if len(self.losses) < MAX_LOSSES:
            self.losses.append({"service": service, "how": how, "when": when, "redone": parts})

    def tick(self, events: Iterable[int]) -> None:
        """Workers ticked at these events."""
        for event in events:
            self.ticks_total += 1
            if len(self.ticks) < MAX_TICKS:
                self.ticks.append(event)

    def version(self, record: dict[str, Any]) -> None:
        """A version of the parameters is in force."""
        self.parameters_total += 1
        self.parameters.append(record)
        sizes = [sum(len(name) + len(value) for name, value in v["values"].items()) for v in self.parameters]
        surplus = sum(sizes) - MAX_VERSIONS_CHARACTERS
        while len(self.parameters) > MAX_VERSIONS or (surplus > 0 and len(self.parameters) > 2):
            del self.parameters[1]
            surplus -= sizes.pop(1)

    def count(self, counts: Mapping[EventState, int]) -> None:
        """Fill `states` from counts per state, in order of severity, leaving out states that did not occur."""
        self.states = {s.label: counts[s] for s in sorted(EventState) if counts.get(s)}

    @property
    def summary(self) -> str:
        """One line for a terminal: "20 events: 20 reduced"."""
        noun = "event" if self.events == 1 else "events"
        what = ", ".join(f"{n} {label}" for label, n in self.states.items()) or "none came"
        more = f" ({self.unreached} of {self.planned} planned were not reached)" if self.unreached else ""
        return f"{self.events} {noun}: {what}{more}"

    @property
    def clean(self) -> bool:
        """Whether every event was processed as it should be: reduced, or without a result."""
        good = {EventState.REDUCED.label, EventState.NO_RESULT.label}
        return set(self.states) <= good and not self.failed_total and not self.troubles

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the summary."""
        return {**asdict(self), "summary": self.summary}


def for_ledger(report: dict[str, Any]) -> dict[str, Any]:
    """A report as the ledger keeps it: without bitmaps where those are large. The result file has them."""
    bitmaps: dict[str, dict[str, Any]] = report.get("bitmaps", {})
    lacking: dict[str, dict[str, Any]] = report.get("incomplete_bitmaps", {})
    if sum(len(bitmap["bits"]) for bitmap in (*bitmaps.values(), *lacking.values())) <= MAX_KEPT_BITMAPS:
        return report
    unlisted = {**report["unlisted"], **{state: report["states"][state] for state in bitmaps}}
    return {**report, "bitmaps": {}, "incomplete_bitmaps": {}, "unlisted": unlisted}
