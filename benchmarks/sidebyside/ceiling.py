"""The ceiling: a PULL socket that throws everything away. No system can be faster on the same source."""

from __future__ import annotations

import time

import zmq

from sidebyside.base import CEILING, BenchFailure, Measured, Scan, Setup
from sidebyside.processes import free_port
from sidebyside.source import Source

LARGE = 64 << 10
"""Bytes from which it is cheaper not to copy a message."""


class Ceiling:
    """Receives in this process, from all streams with one socket: whatever a system does besides, it has to do as
    much."""

    name = CEILING

    def __init__(self, setup: Setup, *, deadline_s: float) -> None:
        self._setup = setup
        self._deadline_s = deadline_s

    def scan(self, scan: Scan) -> Measured:
        """All messages of the series: the images, and one at each end."""
        urls = [f"tcp://127.0.0.1:{free_port()}" for _ in self._setup.streams]
        with Source(self._setup, urls, scan) as source, zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.rcvtimeo = round(self._deadline_s * 1000)
            used = time.process_time()  # of all threads, ZeroMQ's too
            copy = self._setup.nbytes < LARGE
            for url in urls:
                pull.connect(url)
            try:
                for _ in range((scan.events + 2) * len(urls)):
                    pull.recv_multipart(0, copy)
            except zmq.Again:
                source.check()
                raise BenchFailure(f"ceiling: the source paused for {self._deadline_s:.0f} s") from None
            ended, used = time.time(), time.process_time() - used
            return Measured(scan.events, ended - source.started(self._deadline_s), used)
