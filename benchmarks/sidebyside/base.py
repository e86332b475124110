"""What a system under test is, what comes out of a scan, and when a benchmark must not be believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STREAM = "camera"
"""The one stream that the app reads."""

APP = Path(__file__).parents[1] / "app"
"""The folder of the app, which is the same for all systems."""


class BenchFailure(Exception):
    """The benchmark ends here, with a text that says what went wrong: no figure of this run is to be trusted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One scan: `seconds` from the first frame sent until it had ended; CPU seconds of all processes of the system,
    from before the scan was asked for until its end, None where the system has none of its own."""

    frames: int
    seconds: float
    cpu_seconds: float | None = None

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.frames / self.seconds

    @property
    def cpu_us(self) -> float | None:
        """CPU microseconds per event."""
        return None if self.cpu_seconds is None else self.cpu_seconds / self.frames * 1e6


class System(Protocol):
    """Something that can be fed by the source: started once, measured scan by scan, and closed whatever happened."""

    name: str

    def start(self) -> None:
        """Return when scans can be run. Raises BenchFailure."""

    def scan(self, frames: int, batch: int) -> Measured:
        """One scan of so many frames, `batch` consecutive events to one worker at a time.

        Raises BenchFailure when an event was missed or doubled, or when it does not end in time.
        """

    def close(self) -> None:
        """Nothing of it is left. May be called twice, and when it was not started."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the app's reducer published: how many results it folded, and the sum of their event numbers."""

    count: int
    total: int


def check_tally(system: str, frames: int, tally: Tally) -> None:
    """Raises BenchFailure unless events 1 to `frames` were folded once each, as far as count and sum can tell."""
    wrong = ""
    if tally.count < frames:
        wrong = f"{frames - tally.count:,} of {frames:,} events were MISSED"
    elif tally.count > frames:
        wrong = f"{frames:,} events gave {tally.count:,} results: some were DOUBLED"
    elif tally.total != frames * (frames + 1) // 2:
        wrong = (
            f"of {frames:,} events some were MISSED and as many DOUBLED (the sum of their numbers is {tally.total:,})"
        )
    if wrong:
        raise BenchFailure(f"{system}: {wrong}")
