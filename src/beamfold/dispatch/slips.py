"""Streams that slip: a detector that missed a trigger numbers its later frames one too low.

Such frames are matched to the events before theirs, and nothing in them shows it: the protocols carry numbers, and no
times that two detectors have in common. What shows it is how they come. Frames of one event come at about the same
time, so the event that a stream has reached goes along with that of another one. A stream is said to have slipped when
it falls behind by about as many events as it is short of at its end, at one place and for good; or gets ahead by as
many as it has too many. Either alone says nothing: a detector may be slow, and it may end early.

This raises an alarm and nothing else: frames stay where their numbers put them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_POINTS = 1024
"""Points kept of a track; when there are more, every second one goes."""

LEAST = 5
"""Points on either side of a slip: what was not seen that often is not told."""

TOLERANCE = 0.3
"""Of one event: as exactly the step has to be that of the end, and as steadily the streams have to go before and
after it. At rates at which frames are read many at a time they hardly ever do, and then nothing is said."""


@dataclass(frozen=True, slots=True)
class Slip:
    """`stream` came to be `frames` events behind `against` (negative: ahead of it) at about event `near`."""

    stream: str
    against: str
    frames: int
    near: int

    @property
    def text(self) -> str:
        """What a person should know of it."""
        n, side, end = abs(self.frames), "behind", "short at its end"
        if self.frames < 0:
            side, end = "ahead of", "too long at its end"
        noun = "frame" if n == 1 else "frames"
        return (
            f"it seems to have slipped by {n} {noun} at about event {self.near}: from there on it came that much "
            f"{side} stream {self.against}, and it was {n} {noun} {end}. Then its later frames belong to other events "
            "than their numbers say; they were used as they are numbered"
        )


class Track:
    """When a stream was how far: times in seconds, and the events whose frames came then. Bounded."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._every = 1
        self._count = 0

    def add(self, event: int, stamp: float) -> None:
        """The frame of this event came at this time; what is not after all before is left out."""
        if self._points and (stamp <= self._points[-1][0] or event <= self._points[-1][1]):
            return
        self._count += 1
        if self._count % self._every:
            return
        self._points.append((stamp, event))
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._every *= 2

    def arrays(self) -> tuple[Floats, Floats]:
        """Times, and the events at these times."""
        points = np.array(self._points, dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]


def slips(tracks: Mapping[str, Track], lacking: Mapping[str, int]) -> list[Slip]:
    """Which streams slipped. `lacking` has, of those that have ended, how many frames they were short of (negative:
    too long). They are compared with the stream that was closest to what was expected of it."""
    found: list[Slip] = []
    if not lacking:
        return found
    against = min(lacking, key=lambda name: abs(lacking[name]))
    for name in lacking:
        frames = lacking[name] - lacking[against]
        if not frames or name not in tracks or against not in tracks:
            continue
        near = _step(tracks[name], tracks[against], frames)
        if near is not None:
            found.append(Slip(name, against, frames, near))
    return found


def _step(one: Track, other: Track, frames: int) -> int | None:
    """The event at which one came to be so many events behind the other, in one step and for good; None: it did not."""
    times, events = one.arrays()
    there, reached = other.arrays()
    if len(there) < 2 * LEAST:
        return None
    both = (times >= there[0]) & (times <= there[-1])
    times, events = times[both], events[both]
    if len(times) < 2 * LEAST:
        return None
    behind = np.interp(times, there, reached) - events
    at = _split(behind)
    before, after = behind[:at], behind[at:]
    step = float(np.median(after) - np.median(before))
    steady = max(float(np.median(np.abs(part - np.median(part)))) for part in (before, after)) <= TOLERANCE
    return int(events[at]) if steady and abs(step - frames) <= TOLERANCE else None


def _split(values: Floats) -> int:
    """Where two constants fit best, the first one before and the second one from there on."""
    n = len(values)
    counts = np.arange(1, n)
    sums = np.cumsum(values)
    gain = sums[:-1] ** 2 / counts + (sums[-1] - sums[:-1]) ** 2 / (n - counts)
    return int(np.argmax(gain[LEAST - 1 : n - LEAST])) + LEAST


__all__ = ["Slip", "Track", "slips"]
