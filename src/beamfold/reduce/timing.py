"""How long results were on their way into the result log and into the fold, and events on the whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from beamfold.model.latency import Latencies, Stage
from beamfold.protocols.stamps import Times, stretches


class BatchTiming:
    """Of one batch of results, which was `logged` at this time; `times` must fit to it.

    `combined` (first part -> behind the last) has the parts whose result is one, so that they are folded together.
    Times are of the system's clock, in seconds since the epoch. Parts that have all in common are observed at once,
    with the mean of their durations: so their sum is right, and the cost is that of a batch.
    """

    __slots__ = ("_combined", "_ends", "_latency", "_logged", "_received")

    def __init__(
        self,
        latency: Latencies,
        times: Times,
        fresh: NDArray[np.bool_],
        logged: float,
        combined: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._latency = latency
        self._combined = combined
        self._logged = logged
        self._received = times.received
        self._ends = list(accumulate(count for count, _ in times.received))
        all_new, at = bool(fresh.all()), 0
        for count, received, each, before in stretches(times.received, times.spent):
            new = count if all_new else int(np.count_nonzero(fresh[at : at + count]))
            at += count
            if received and new:
                ended = times.began + before + each * (count + 1) / 2
                latency[Stage.RESULT].observe(logged - ended, new)

    def folded(self, index: Sequence[int], began: float, ended: float) -> None:
        """The results of these parts were folded between two times, evenly as far as is known."""
        n = len(index)
        when = began + (ended - began) * (n + 1) / (2 * n)
        counts = self._counts_combined(index) if self._combined else self._counts(index)
        for count, (_, received) in zip(counts, self._received, strict=True):
            if received and count:
                self._latency[Stage.FOLD].observe(when - self._logged, count)
                self._latency[Stage.TOTAL].observe(when - received, count)

    def _counts(self, index: Sequence[int]) -> list[int]:
        """How many of these parts are in each run of those that were received together."""
        if len(self._ends) == 1:
            return [len(index)]
        found: list[int] = np.bincount(
            np.searchsorted(self._ends, np.array(index), side="right"), minlength=len(self._ends)
        ).tolist()
        return found

    def _counts_combined(self, index: Sequence[int]) -> list[int]:
        """The same, where a result may be that of many parts."""
        found = [0] * len(self._ends)
        for part in index:
            end, run = self._combined.get(part, part + 1), bisect_right(self._ends, part)
            while part < end:
                stop = min(end, self._ends[run])
                found[run] += stop - part
                part, run = stop, run + 1
        return found
