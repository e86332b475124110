"""What is asked of a system under test, what comes out of a scan, and when a benchmark must not be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

APP = Path(__file__).parents[1] / "app"
"""The folder of the app, which is the same for all systems."""

CEILING, OURS, PEER = "ceiling", "beamfold", "dranspose"
SYSTEMS = (CEILING, OURS, PEER)

WORKERS = 2

HWM_BYTES = 64 << 20
HWM = 5000
"""What the source may be ahead of its receiver per stream, in bytes and in messages, so that a short stall of either is
no pause of both."""


class BenchFailure(Exception):
    """The benchmark ends here, with a text that says what went wrong: no figure of this run is to be trusted."""


class Inexact(BenchFailure):
    """A system has missed or doubled an event."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of images, uint16 of this shape (rows, columns), in STINS messages."""

    name: str
    shape: tuple[int, int] = (8, 8)

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return 2 * math.prod(self.shape)


CAMERA = Stream("camera")


@dataclass(frozen=True, slots=True)
class Setup:
    """What systems are started for: the streams that are joined, and classes of the app."""

    streams: tuple[Stream, ...] = (CAMERA,)
    worker: str = "Worker"
    reducer: str = "Reducer"
    every: int = 1
    """Of so many events the worker returns a result of one; 0: it never does."""

    @property
    def names(self) -> list[str]:
        """Of the streams."""
        return [stream.name for stream in self.streams]

    @property
    def nbytes(self) -> int:
        """Bytes of the images of one event."""
        return sum(stream.nbytes for stream in self.streams)

    @property
    def hwm(self) -> int:
        """Messages that the source may be ahead, on each stream."""
        return max(4, min(HWM, HWM_BYTES // max(stream.nbytes for stream in self.streams)))


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan: events 1 to `events`, `batch` consecutive ones to one worker at a time, sent at `rate` per second
    (None: as fast as they are taken)."""

    events: int
    batch: int = 1
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One scan as it went: `seconds` from the first frame sent until it had ended; CPU seconds of all processes of the
    system, from before the scan was asked for until its end; what its reducer published."""

    events: int
    seconds: float
    cpu_seconds: float
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per event."""
        return self.cpu_seconds / self.events * 1e6


class System(Protocol):
    """Something that can be fed by the source.

    Every method of it may raise BenchFailure: when an event was missed or doubled, or when something does not end in
    time.
    """

    name: str

    def scan(self, scan: Scan) -> Measured:
        """Run one and check that its events were all processed, once each."""


class Service(System, Protocol):
    """A system that is more than a socket: started once, measured scan by scan, and closed whatever happened."""

    def start(self) -> None:
        """Return when scans can be run."""

    def submit(self, scan: Scan) -> float:
        """Seconds from asking for a scan until every service knows of it; it is then stopped before anything is
        sent."""

    def roots(self) -> list[int]:
        """The processes that it was started as; others are below them."""

    def viewed(self) -> tuple[str, str]:
        """Where its reducer and its controller listen, as http://host:port."""

    def close(self) -> None:
        """Nothing of it is left. May be called twice, and when it was not started."""


def check_state(system: str, scan: Scan, setup: Setup, state: Mapping[str, Any]) -> None:
    """Raises Inexact unless every event that has a result was folded once and with all its streams, as far as
    the count of results, the sum of their event numbers and the count of frames can tell."""
    every = setup.every
    events = scan.events // every if every else 0
    count, total, frames = state["count"], state["sum"], state["frames"]
    expected = every * events * (events + 1) // 2
    wrong = ""
    if count < events:
        wrong = f"{events - count:,} of {events:,} events were MISSED"
    elif count > events:
        wrong = f"{events:,} events gave {count:,} results: some were DOUBLED"
    elif total != expected:
        wrong = f"of {events:,} events some were MISSED and as many DOUBLED (the sum of their numbers is {total:,})"
    elif frames != events * len(setup.streams):
        wrong = f"{events:,} events of {len(setup.streams)} streams had {frames:,} frames: some were MISSED or DOUBLED"
    if wrong:
        raise Inexact(f"{system}: {wrong}")
