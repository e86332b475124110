"""The source of all frames: simulated detectors in one process, the same command for every system."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sidebyside.base import Scan, Setup
from sidebyside.processes import Script

DISTINCT_BYTES = 8 << 20
"""Of different images per stream: they take time to make."""


class Source(Script):
    """Context manager: one series of frames per stream at `urls`, sent as soon as somebody receives there."""

    def __init__(self, setup: Setup, urls: Sequence[str], scan: Scan) -> None:
        super().__init__("the source", command(setup, urls, scan))

    def started(self, seconds: float) -> float:
        """When it sent its first message, in seconds since the epoch; waits until all messages were taken."""
        return float(self.said(seconds)["started"])


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
