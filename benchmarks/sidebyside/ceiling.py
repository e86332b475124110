"""The ceiling: a PULL socket that throws everything away. No system can be faster on the same source."""

from __future__ import annotations

import time

import zmq

from sidebyside.base import BenchFailure, Measured
from sidebyside.processes import free_port
from sidebyside.source import Source


class Ceiling:
    """Receives in this process: whatever a system does besides, it has to do as much."""

    name = "ceiling"

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def start(self) -> None:
        """There is nothing to start."""

    def scan(self, frames: int, batch: int) -> Measured:
        """All messages of one series: the images, and one at each end."""
        url = f"tcp://127.0.0.1:{free_port()}"
        with Source(url, frames) as source, zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.rcvtimeo = round(self._deadline_s * 1000)
            pull.connect(url)
            try:
                for _ in range(frames + 2):
                    pull.recv_multipart()
            except zmq.Again:
                source.check()
                raise BenchFailure(f"ceiling: the source paused for {self._deadline_s:.0f} s") from None
            ended = time.time()
            return Measured(frames, ended - source.started(self._deadline_s))

    def close(self) -> None:
        """There is nothing to close."""
