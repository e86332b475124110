"""Latencies as the app counts them (`LatencyReducer` in tally.py), for whoever else counts some and is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SETTLED = 100
"""Events at the beginning that the app leaves out (`LatencyReducer.SETTLED`)."""
BUCKETS = 1200
"""How many there are; the last one has what is longer, too (`LatencyReducer.BUCKETS`)."""
BUCKET = 1.02
"""From one bucket of the app's histogram to the next, from 1 µs on (`LatencyReducer.RATIO`)."""


def counted(micros: Sequence[float]) -> NDArray[np.int64]:
    """The counts (BUCKETS,) of latencies in µs."""
    buckets = (np.log(np.maximum(1.0, micros)) / np.log(BUCKET)).astype(np.int64)
    return np.bincount(np.minimum(buckets, BUCKETS - 1), minlength=BUCKETS).astype(np.int64)


def percentile(counts: Any, share: float) -> float:
    """Milliseconds that `share` (0 to 1) of the events in this histogram did not exceed, to one percent."""
    summed = np.cumsum(np.asarray(counts))
    bucket = int(np.searchsorted(summed, share * summed[-1]))
    return float(BUCKET ** (bucket + 0.5)) / 1e3
