"""Viewers that look at a run while it is measured: `poll.py`, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from sidebyside.base import BenchFailure
from sidebyside.processes import Script

_SCRIPT = Path(__file__).parents[1] / "poll.py"
PATIENCE_S = 60.0


class Pollers(Script):
    """Context manager: `count` viewers that look `hz` times a second each; afterwards `rate` is how many answers they
    got per second. Raises BenchFailure at the end when a request failed."""

    def __init__(self, reducer: str, controller: str, count: int, hz: float) -> None:
        self.rate = 0.0
        super().__init__("the viewers", [sys.executable, str(_SCRIPT), reducer, controller, str(count), str(hz)])

    def __enter__(self) -> Self:
        self.wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._conclude()
        finally:
            super().__exit__(kind, error, trace)

    def _conclude(self) -> None:
        said = self.said(PATIENCE_S)
        if said["others"]:
            raise BenchFailure(f"viewers were answered with errors (status: how often): {said['others']}")
        self.rate = said["answers"] / said["seconds"]
