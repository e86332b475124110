"""How long frames were on their way to a worker, and parts in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from beamfold.model.latency import Latencies, Stage
from beamfold.protocols.envelopes import FrameBatch
from beamfold.protocols.stamps import UNTIMED, Runs, Times, stretches
from beamfold.work.machine import Part, Stamp

_NONE = Stamp(UNTIMED, UNTIMED)
_stamp = attrgetter("stamp")


class Timing:
    """Of one scan. Times are of the system's clock, in seconds since the epoch."""

    def __init__(self) -> None:
        self.latency = Latencies()

    def taken(self, batch: FrameBatch, now: float) -> list[tuple[int, Stamp]]:
        """A batch of frames is here, whose stamps were checked; returns those of its frames, in runs."""
        if isinstance(batch.k, int) and batch.k < 0:
            return []
        timed = [(count, received) for count, received in batch.received if received]
        for count, received in timed:
            self.latency[Stage.INGEST].observe(batch.sent - received, count)
        if timed:
            self.latency[Stage.TRANSIT].observe(now - batch.sent, sum(count for count, _ in timed))
        return [(count, Stamp(received, now)) for count, received in batch.received]

    def processed(self, stamps: Sequence[tuple[int, Stamp]], times: Times) -> None:
        """User code ran over the parts that have these stamps, and took these times.

        Parts that have all in common are observed at once, with the mean of their durations.
        """
        for count, stamp, each, before in stretches(stamps, times.spent):
            if stamp.taken:
                self.latency[Stage.WAIT].observe(times.began + before + each * (count - 1) / 2 - stamp.taken, count)
                self.latency[Stage.PROCESS].observe(each, count)


def stamps_of(parts: Sequence[Part]) -> list[tuple[int, Stamp]]:
    """The stamps of parts, of which there is one at least, in runs.

    Parts come out of joining as frames went in: where the first and the last have the same, so have those in between.
    """
    first = parts[0].stamp
    if parts[-1].stamp is first:
        return [(len(parts), first or _NONE)]
    return [(len(list(same)), stamp or _NONE) for stamp, same in groupby(parts, _stamp)]


def times_of(stamps: Sequence[tuple[int, Stamp]], began: float, spent: Runs) -> Times:
    """What the reducer is told of parts that were processed one after the other."""
    return Times(began, spent, [(n, stamp.received) for n, stamp in stamps])
