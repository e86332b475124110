"""The source of all frames: a simulated detector, the same command for every system."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Self

from sidebyside.base import BenchFailure
from sidebyside.processes import clean_environment, guarded

SHAPE = "8x8"
DTYPE = "uint16"
HWM = 5000
"""Messages that the source may be ahead of its receiver, so that a short stall of either is no pause of both."""


class Source:
    """Context manager: one series of frames at `url`, sent at full speed as soon as somebody receives there."""

    def __init__(self, url: str, frames: int) -> None:
        self._process = subprocess.Popen(
            guarded([*_command(url), "--frames", str(frames)]),
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def started(self, seconds: float) -> float:
        """When it sent its first message, in seconds since the epoch; waits until all messages were taken."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BenchFailure(f"not all frames were taken from the source within {seconds:.0f} s") from None
        if self._process.returncode:
            raise BenchFailure(f"the source ended with exit code {self._process.returncode}: {err.strip()}")
        return float(json.loads(out.splitlines()[-1])["started"])

    def check(self) -> None:
        """Raises BenchFailure when it has failed, so that nobody waits for its frames."""
        if self._process.poll():
            self.started(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()


def _command(url: str) -> list[str]:
    kind = [sys.executable, "-m", "beamfold.testing.simulate", "stins"]
    return [*kind, "--url", url, "--shape", SHAPE, "--dtype", DTYPE, "--hwm", str(HWM)]
