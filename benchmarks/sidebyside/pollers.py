"""Viewers that look at a run while it is measured: `poll.py`, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from sidebyside.base import BenchFailure
from sidebyside.processes import clean_environment, guarded

_SCRIPT = Path(__file__).parents[1] / "poll.py"
PATIENCE_S = 60.0


class Pollers:
    """Context manager: `count` viewers that look `hz` times a second each; afterwards `rate` is how many answers they
    got per second. Raises BenchFailure at the end when a request failed."""

    def __init__(self, reducer: str, controller: str, count: int, hz: float) -> None:
        self.rate = 0.0
        self._process = subprocess.Popen(
            guarded([sys.executable, str(_SCRIPT), reducer, controller, str(count), str(hz)]),
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            try:
                if error is None:
                    self._conclude()
            finally:
                self._process.kill()

    def _conclude(self) -> None:
        try:
            out, err = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise BenchFailure(f"the viewers had no answer for {PATIENCE_S:.0f} s") from None
        if self._process.returncode or err:
            raise BenchFailure(f"a viewer was not answered: {err.strip()[-1000:]}")
        said = json.loads(out)
        if said["others"]:
            raise BenchFailure(f"viewers were answered with errors (status: how often): {said['others']}")
        self.rate = said["answers"] / said["seconds"]
