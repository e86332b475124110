"""The source of all frames: simulated detectors in one process, the same command for every system."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from sidebyside.base import BenchFailure, Scan, Setup
from sidebyside.processes import clean_environment, guarded

DISTINCT_BYTES = 8 << 20
"""Of different images per stream: they take time to make."""

ENDING_S = 10.0
"""Seconds in which the last words of a source that has ended must be there."""


class Source:
    """Context manager: one series of frames per stream at `urls`, sent as soon as somebody receives there."""

    def __init__(self, setup: Setup, urls: Sequence[str], scan: Scan) -> None:
        self._process = subprocess.Popen(
            guarded(command(setup, urls, scan)),
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
            self.started(ENDING_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()


def command(setup: Setup, urls: Sequence[str], scan: Scan) -> list[str]:
    """What is run; every frame of a single stream says when it was sent, where they are sent at a rate."""
    largest = max(stream.nbytes for stream in setup.streams)
    shapes = [f"{rows}x{columns}" for rows, columns in (stream.shape for stream in setup.streams)]
    several = ["--hwm", setup.hwm, "--frames", scan.events, "--distinct", max(2, min(16, DISTINCT_BYTES // largest))]
    if scan.rate is not None:
        several += ["--rate", scan.rate]
    if len(urls) == 1:
        kind = ["stins", "--url", urls[0], "--shape", shapes[0], *(["--stamp", "sent"] if scan.rate else [])]
    else:
        kind = ["joined", *(f"{shape}={url}" for shape, url in zip(shapes, urls, strict=True))]
    return [sys.executable, "-m", "beamfold.testing.simulate", *kind, *map(str, several)]
