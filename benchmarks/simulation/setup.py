"""What is simulated: a cluster, a detector, and one scan of a uniform map."""

from __future__ import annotations

from dataclasses import dataclass

from beamfold.model.trigger.base import MAX_STREAMS
from beamfold.work.service import SLICE


@dataclass(frozen=True, slots=True)
class Setup:
    """All times in seconds.

    An event takes a worker `event_time`; workers differ by a factor exp(N(0, `spread`)), and each of them from slice to
    slice by exp(N(0, `jitter`)). `rate` is the detector's in events/s, 0: its frames are always there already. Every
    ingester has one stream; a map has as many as it can have (62), ingesters beyond take no part in the scan.

    A worker sends its results every `slice_time`. The reducer takes all that are there every `gather_time`, or when it
    is done with those before: it needs `log_time` for a batch of them and `fold_time` for each. A turn of the
    controller takes `turn_time`, or (None) the CPU time that it really took, and `line_time` for each message received
    or sent. Parameters change once `change_at` events are done.
    """

    workers: int = 100
    ingesters: int = 10
    events: int = 100_000
    batch: int = 1
    event_time: float = 1e-3
    spread: float = 0.3
    jitter: float = 0.2
    rate: float = 0.0
    delay: float = 200e-6
    slice_time: float = SLICE
    gather_time: float = 0.0
    log_time: float = 0.0
    fold_time: float = 0.0
    turn_time: float | None = None
    line_time: float = 0.0
    change_at: int | None = None
    seed: int = 0

    @property
    def streams(self) -> list[str]:
        """The streams of the map, one for each ingester that takes part."""
        return [f"s{i:03}" for i in range(min(self.ingesters, MAX_STREAMS))]
