"""How long results were on their way into the result log and into the fold, and events on the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beamfold.model.latency import Latencies, Stage
from beamfold.protocols.stamps import UNTIMED, Runs, Times, spread


class BatchTiming:
    """Of one batch of results, which was `logged` at this time; `times` must fit to it.

    Times are of the system's clock, in seconds since the epoch.
    """

    __slots__ = ("_latency", "_logged", "_received")

    def __init__(self, latency: Latencies, times: Times, fresh: NDArray[np.bool_], logged: float) -> None:
        self._latency = latency
        self._logged = logged
        self._received: Runs = times.received
        timed = fresh & (spread(times.received) > UNTIMED)
        if timed.any():
            ended = times.began + np.cumsum(spread(times.spent))
            latency[Stage.RESULT].observe_many((logged - ended)[timed])

    def _of(self, index: Sequence[int]) -> NDArray[np.float64]:
        """When the first frames of these parts were received."""
        if len(self._received) == 1:
            return np.full(len(index), self._received[0][1])
        return spread(self._received)[np.array(index, dtype=np.intp)]

    def folded(self, index: Sequence[int], began: float, ended: float) -> None:
        """These parts of the batch were folded between two times, evenly as far as is known."""
        received = self._of(index)
        timed = received > UNTIMED
        if timed.any():
            when = np.linspace(began, ended, len(index) + 1)[1:][timed]
            self._latency[Stage.FOLD].observe_many(when - self._logged)
            self._latency[Stage.TOTAL].observe_many(when - received[timed])
