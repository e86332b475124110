"""The app that every system under test runs, as it stands: a small result for every image, counted and summed up."""

from __future__ import annotations

from typing import Any


class Worker:
    """A dict for every image; nothing for the detector's start and end messages, which have one part."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def process_event(self, event: Any, parameters: Any = None, *args: Any, **kwargs: Any) -> dict[str, int] | None:
        frames = event.streams["camera"].frames
        return {"number": event.event_number, "bytes": len(frames[1])} if len(frames) > 1 else None


class Reducer:
    """What it publishes tells whether an event was missed (count) and, if so, hints at which (sum of numbers)."""

    def __init__(self, **kwargs: Any) -> None:
        self.publish = {"count": 0, "sum": 0, "bytes": 0}

    def process_result(self, result: Any, parameters: Any = None, *args: Any) -> None:
        publish = self.publish
        publish["count"] += 1
        publish["sum"] += result.payload["number"]
        publish["bytes"] += result.payload["bytes"]
