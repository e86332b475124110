"""All scenarios by name, in the order in which they are run."""

from __future__ import annotations

from sidebyside.base import Setup, Stream
from sidebyside.scenarios.base import Scenario
from sidebyside.scenarios.flow import Flow
from sidebyside.scenarios.latency import Latency
from sidebyside.scenarios.length import Length
from sidebyside.scenarios.looking import Polling
from sidebyside.scenarios.replays import Replay
from sidebyside.scenarios.starting import StartUp, Submission

__all__ = ["QUICK", "SCENARIOS"]

_TINY = {1: 4000, 10: 5000, 100: 10_000}
_WIDE = {1: 4000, 100: 10_000}
_METADATA = tuple(Stream(f"metadata{n}") for n in range(1, 7))
_IMAGE = Stream("image", (512, 256))
_1_MIB = (Stream("camera", (1024, 512)),)
_8_MIB = (Stream("camera", (2048, 2048)),)


def _tiny(streams: int) -> tuple[Stream, ...]:
    return tuple(Stream(f"detector{n}") for n in range(1, streams + 1))


_ALL: tuple[Scenario, ...] = (
    Flow("tiny", "8×8 frames, a result for every event", 400_000, _TINY),
    Flow("tiny-combine", "8×8 frames, results combined by the worker", 400_000, _WIDE, Setup(worker="Combining")),
    Flow("tiny-100th", "8×8 frames, a result for every 100th", 400_000, _WIDE, Setup(worker="Hundredth", every=100)),
    Flow("tiny-never", "8×8 frames, no results", 400_000, _WIDE, Setup(worker="Never", every=0)),
    Flow("joined-2", "two streams of 8×8 frames, joined", 200_000, {1: 2000, 10: 4000, 100: 6000}, Setup(_tiny(2))),
    Flow("joined-8", "eight streams of 8×8 frames, joined", 60_000, {1: 800, 100: 2000}, Setup(_tiny(8))),
    Flow(
        "joined-image",
        "a stream of 256 KiB frames joined with six of 8×8 frames",
        15_000,
        {1: 800, 100: 2000},
        Setup((_IMAGE, *_METADATA)),
        bytes_count=True,
    ),
    Flow("1MiB-header", "1 MiB frames, headers are read", 6000, {1: 2000}, Setup(_1_MIB, "Header"), bytes_count=True),
    Flow("1MiB-sum", "1 MiB frames, pixels are summed", 6000, {1: 2000}, Setup(_1_MIB, "Sum"), bytes_count=True),
    Flow("8MiB-header", "8 MiB frames, headers are read", 800, {1: 400}, Setup(_8_MIB, "Header"), bytes_count=True),
    Flow("8MiB-sum", "8 MiB frames, pixels are summed", 800, {1: 400}, Setup(_8_MIB, "Sum"), bytes_count=True),
    Latency(100.0),
    Latency(300.0),
    Length(),
    StartUp(),
    Submission(),
    Replay(),
    Polling(),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""By name."""

QUICK = ("tiny", "joined-2", "1MiB-sum")
"""What a quick run has unless it is told otherwise."""
