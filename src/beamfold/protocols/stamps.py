"""Times that travel with batches, so that every frame's way can be timed at the cost of a few numbers per batch.

A stamp is a time of the system's clock in seconds since the epoch, because it is read in another process than the one
that took it, on another host perhaps. Frames that were drained together have one stamp: stamps go in runs, a count and
a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from beamfold.model.errors import CodecError

T = TypeVar("T")

Runs: TypeAlias = list[tuple[int, float]]
"""How many, one after the other, and the number that each of them has."""

UNTIMED = 0.0
"""The stamp of what has none: broadcasts, which wait for other events by design, and parts without a frame."""

LATEST = 1e10
"""Seconds since the epoch that are believed, into the 23rd century: what is reckoned from them stays finite."""


class Times(msgspec.Struct, frozen=True, array_like=True):
    """Of a batch of results: when user code `began` with the first part, the seconds it `spent` on each, one after the
    other, and when the first frame of each part was `received` from a detector."""

    began: float
    spent: Runs
    received: Runs

    def check(self, n: int) -> None:
        """CodecError unless these are the times of `n` parts."""
        check_runs([(1, self.began)], 1)
        check_runs(self.spent, n)
        check_runs(self.received, n)


def check_runs(runs: Runs, n: int) -> None:
    """CodecError unless these are `n` numbers that can be times."""
    counts = [count for count, _ in runs]
    if sum(counts) != n or not counts or min(counts) < 1 or not all(0 <= x <= LATEST for _, x in runs):
        raise CodecError(f"{len(runs)} runs of times for {n}")


def stretches(runs: Sequence[tuple[int, T]], spent: Runs) -> Iterator[tuple[int, T, float, float]]:
    """Parts that have a number of `runs` in common and took the same time each.

    Yields how many, that number, the seconds that each took, and the seconds that all before them took together.
    """
    times, before = iter(spent), 0.0
    left, each = 0, 0.0
    for count, number in runs:
        while count:
            if not left:
                left, each = next(times)
            n = min(count, left)
            yield n, number, each, before
            before += n * each
            count, left = count - n, left - n
