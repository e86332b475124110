"""An app that publishes what its worker saw of every event, and detectors whose frames say which they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from beamfold.testing.simulators import contrast_series, stins_series
from beamfold.testing.wire import Message

WORKER = """
class Worker:
    def process_event(self, event, parameters=None):
        seen = {name: number(stream) for name, stream in event.streams.items()}
        seen = {name: n for name, n in seen.items() if n is not None}
        return {"seen": seen, "p": parameters["p"].data.decode()} if seen else None


def number(stream):
    message = stream.parse()
    if stream.typ == "contrast":
        return int(message.pseudo["x"][0]) if message.status == "running" else None
    return int(message.data.flat[0]) if message.htype == "image" else None
"""

REDUCER = """
class Reducer:
    def __init__(self, parameters=None, **kwargs):
        self.publish = {"event": [], "worker": [], "p": [], "seen": []}

    def process_result(self, result, parameters=None):
        self.publish["event"].append(result.event_number)
        self.publish["worker"].append(result.worker)
        self.publish["p"].append([result.payload["p"], parameters["p"].data.decode()])
        self.publish["seen"].append([[name, n] for name, n in sorted(result.payload["seen"].items())])
"""

APP = {"worker.py": WORKER, "reducer.py": REDUCER}


@dataclass(frozen=True)
class Row:
    """One result: who made it, what parameter `p` was at the worker and at the reducer, the frames it saw."""

    event: int
    worker: str
    p: tuple[str, str]
    seen: dict[str, int]


def rows(state: dict[str, Any]) -> list[Row]:
    """What the app published, in the order in which it was folded."""
    columns = zip(state["event"], state["worker"], state["p"], state["seen"], strict=True)
    return [Row(event, worker, tuple(p), dict(seen)) for event, worker, p, seen in columns]


def in_step(streams: Iterable[str], events: Iterable[int]) -> list[tuple[int, dict[str, int]]]:
    """What is to be seen when frame n belongs to event n + 1 in all streams."""
    names = list(streams)
    return [(event, dict.fromkeys(names, event - 1)) for event in events]


def seen(state: dict[str, Any]) -> list[tuple[int, dict[str, int]]]:
    """Events and the frames that were seen of them, in the order in which they were folded."""
    return [(row.event, row.seen) for row in rows(state)]


def frames(count: int, lost: Collection[int] = (), first_msg: int = 0) -> list[Message]:
    """A STINS series: frame n shows the number n. `lost` frames were numbered, but not sent."""
    images = (np.full((2, 2), n, "uint32") for n in range(count))
    messages = list(stins_series(images, first_msg=first_msg))
    return [m for n, m in enumerate(messages, -1) if n not in lost]


def points(count: int) -> list[Message]:
    """A Contrast scan: point n is at x = n."""
    return list(contrast_series({"pseudo": {"x": np.array([float(n)])}} for n in range(count)))
