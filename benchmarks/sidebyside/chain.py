"""The ceiling of latency: three processes in a row that hand on what they get, and do nothing else.

Ingester, worker and reducer have to do as much.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidebyside.base import CEILING, BenchFailure, Measured, Scan, Setup, check_state
from sidebyside.histogram import SETTLED, counted
from sidebyside.processes import Script, free_port
from sidebyside.source import Source

_SCRIPT = Path(__file__).parents[1] / "relay.py"
LINKS = ("ingester", "worker", "reducer")
"""In the places of which there is a process that does nothing but receive and send."""


class Chain:
    """Started anew for every scan, of a single stream; its state is what the app's `LatencyReducer` would publish."""

    name = CEILING

    def __init__(self, setup: Setup, *, deadline_s: float) -> None:
        self._setup = setup
        self._deadline_s = deadline_s

    def scan(self, scan: Scan) -> Measured:
        """All messages of the series: the images, and one at each end."""
        urls = [f"tcp://127.0.0.1:{free_port()}" for _ in LINKS]
        with ExitStack() as stack:
            links = [stack.enter_context(link) for link in _links(scan, urls)]
            for link in links:
                link.wait_until_ready()
            source = stack.enter_context(Source(self._setup, urls[:1], scan))
            try:
                last, *others = [link.said(self._deadline_s) for link in reversed(links)]
            except BenchFailure:
                for script in (source, *links):
                    script.check()  # it says more than that somebody waited for it
                raise
            started = source.started(self._deadline_s)
        state = _state(last["images"])
        check_state(self.name, scan, self._setup, state)
        cpu = sum(link["cpu_seconds"] for link in (last, *others))
        return Measured(scan.events, last["ended"] - started, cpu, state)


def _links(scan: Scan, urls: Sequence[str]) -> Iterator[Script]:
    """The processes in their order; each takes from one of the URLs and, but for the last, sends to the next."""
    ways = [*pairwise(urls), urls[-1:]]
    for name, way in zip(LINKS, ways, strict=True):
        yield Script(f"the relay in place of the {name}", [sys.executable, str(_SCRIPT), str(scan.events + 2), *way])


def _state(images: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """From frame number, parts and ns of each image; event numbers are frame numbers from 1 on."""
    numbers = [frame + 1 for frame, _, _ in images]
    frames = sum(parts == 2 for _, parts, _ in images)
    settled = [ns / 1e3 for frame, _, ns in images if frame + 1 > SETTLED]
    return {"count": len(images), "sum": sum(numbers), "frames": frames, "latency": counted(settled)}
