"""The app that every system under test runs, as it stands: small results, counted and summed up.

Event numbers start at 1; a detector's start and end messages, which have one part, give no result.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np


class Worker:
    """A dict for every event."""

    EVERY = 1
    """Of so many events one has a result; 0: none has."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def process_event(self, event: Any, parameters: Any = None, *args: Any, **kwargs: Any) -> dict[str, int] | None:
        if not self.EVERY or event.event_number % self.EVERY:
            return None
        messages = [data.frames for data in event.streams.values()]
        if len(messages[0]) == 1:
            return None
        return {"count": 1, "sum": event.event_number, "frames": len(messages), "value": self.look(messages)}

    def look(self, messages: list[Any]) -> int:
        """At the message parts of every stream: the least that one can do."""
        return len(messages[0][1])


class Never(Worker):
    """No result at all."""

    EVERY = 0


class Hundredth(Worker):
    """A result of every hundredth event."""

    EVERY = 100


class Combining(Worker):
    """The same with the hooks for batches; a system without them calls `process_event`."""

    def process_events(self, events: Any, parameters: Any = None) -> list[dict[str, int]]:
        found = []
        for event in events:
            messages = [data.frames for data in event.streams.values()]
            value = len(messages[0][1])
            found.append({"count": 1, "sum": event.event_number, "frames": len(messages), "value": value})
        return found

    def combine(self, results: Any, parameters: Any = None) -> dict[str, int]:
        return {name: sum([result[name] for result in results]) for name in ("count", "sum", "frames", "value")}


class Header(Worker):
    """Reads the header of every first stream's frame, and no pixel."""

    def look(self, messages: list[Any]) -> int:
        return int(json.loads(bytes(messages[0][0]))["frame"])


class Sum(Worker):
    """Reads every pixel of the first stream."""

    def look(self, messages: list[Any]) -> int:
        return int(np.frombuffer(messages[0][1], np.uint16).sum())


class Stamped(Worker):
    """Passes on when the frame was sent: ns of the monotonic clock, which all processes of a host share."""

    def look(self, messages: list[Any]) -> int:
        return int(json.loads(bytes(messages[0][0]))["sent"])


class Reducer:
    """What it publishes tells whether an event was missed (count) and, if so, hints at which (sum of numbers)."""

    def __init__(self, **kwargs: Any) -> None:
        self.publish: dict[str, Any] = {"count": 0, "sum": 0, "frames": 0}

    def process_result(self, result: Any, parameters: Any = None, *args: Any) -> None:
        publish, payload = self.publish, result.payload
        publish["count"] += payload["count"]
        publish["sum"] += payload["sum"]
        publish["frames"] += payload["frames"]


class WrittenReducer(Reducer):
    """Writes what it has published to the file that the environment names, where nobody can ask for it."""

    def finish(self, parameters: Any = None) -> None:
        Path(os.environ["BENCH_STATE"]).write_text(json.dumps(self.publish))


class LatencyReducer(Reducer):
    """Publishes besides how long events took from being sent to here: counts in buckets of 2 %, from 1 µs on."""

    BUCKETS = 1200
    RATIO = 1.02

    SETTLED = 100
    """Events up to this one do not count: connections and caches are new."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.publish["latency"] = np.zeros(self.BUCKETS, np.int64)

    def process_result(self, result: Any, parameters: Any = None, *args: Any) -> None:
        micros = (time.monotonic_ns() - result.payload["value"]) / 1e3
        super().process_result(result, parameters)
        if result.event_number > self.SETTLED:
            bucket = int(math.log(max(1.0, micros), self.RATIO))
            self.publish["latency"][min(bucket, self.BUCKETS - 1)] += 1
