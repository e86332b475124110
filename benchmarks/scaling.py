"""What the controller costs in a cluster of any size: the real machine, simulated services. See docs/scaling.md.

Every scan is checked as it runs: each event once, nothing given twice, no worker told what cannot be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sidebyside.machine import machine
from simulation.cluster import Cluster, Outcome
from simulation.setup import Setup

LINE_TIME = 3e-6
"""Seconds that the controller's socket takes to send or receive one small message, as measured over loopback."""

LOG_TIME, FOLD_TIME = 40e-6, 1.5e-6
"""Seconds that the reducer takes for a batch of results and for each result in it, as measured with small results."""

GATHER_TIME = 2e-3
"""Seconds between two looks of a reducer that has many workers: it is busy with results meanwhile."""

MOST_EVENTS = 4_000_000
"""Events of one scan at most: about a minute of simulation."""

SHARES = (0.02, 0.2)
"""Of the rate that the workers could do, what a slow detector gives."""


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print, write; returns the exit code."""
    options = _parser().parse_args(argv)
    facts = machine()
    print(f"{facts['cpu']}, Python {facts['python']}, load at start {facts['load_average'][0]:.2f}")
    shown = []
    for title, setups in scenarios(options):
        print(f"\n{title}\n{_head()}")
        for setup in setups:
            outcome = Cluster(setup).run()
            print(_row(outcome), flush=True)
            shown.append({"scenario": title, "setup": asdict(setup), **outcome.figures})
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": facts, "scans": shown}, indent=1))
    return 0


def scenarios(options: argparse.Namespace) -> Iterator[tuple[str, list[Setup]]]:
    """What is asked for: a title and the setups that are compared."""
    base = Setup(ingesters=options.ingesters, gather_time=GATHER_TIME, line_time=LINE_TIME, seed=options.seed)
    free = [
        _sized(replace(base, workers=workers, event_time=us * 1e-6), options.seconds)
        for workers in options.workers
        for us in options.event_us
    ]
    yield "the controller alone: a reducer that takes results every 2 ms, frames that are always there", free
    real = [replace(setup, log_time=LOG_TIME, fold_time=FOLD_TIME) for setup in free]
    yield "with a reducer that needs time", real
    long = [_sized(replace(setup, slice_time=0.05), options.seconds) for setup in real]
    yield "with a reducer that needs time, and workers that send results every 50 ms", long
    for share in SHARES:
        slow = [_sized(replace(s, rate=share * s.workers / s.event_time), options.seconds) for s in free]
        yield f"the controller alone, a detector that gives {share:.0%} of what the workers could do", slow


def _sized(setup: Setup, seconds: float) -> Setup:
    """Events for so many seconds."""
    rate = setup.rate or setup.workers / setup.event_time
    return replace(setup, events=max(10 * setup.workers, min(MOST_EVENTS, round(rate * seconds))))


_COLUMNS = {
    "events/s": ",.0f",
    "events/block": ",.1f",
    "blocks/s": ",.0f",
    "messages/event": ".3f",
    "bytes/event": ",.1f",
    "µs/event": ",.2f",
    "load": ".2f",
    "workers busy": ".0%",
    "tail": ".2f",
}


def _head() -> str:
    return "".join([f"{'workers':>8}{'streams':>9}{'an event':>11}", *(f"{name:>15}" for name in _COLUMNS)])


def _row(outcome: Outcome) -> str:
    setup, figures = outcome.setup, outcome.figures
    begin = f"{setup.workers:>8}{len(setup.streams):>9}{setup.event_time * 1e3:>8,.2f} ms"
    return "".join([begin, *(f"{figures[name]:>15{form}}" for name, form in _COLUMNS.items())])


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several: dict[str, Any] = {"type": _numbers, "metavar": "N,N"}
    parser.add_argument("--workers", default=[10, 100, 1000], help="how many, 10,100,1000", **several)
    parser.add_argument("--event-us", default=[10_000, 1000, 100], help="µs per event, 10000,1000,100", **several)
    parser.add_argument("--ingesters", type=int, default=100, help="of one stream each; a map has up to 62 (100)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of virtual time per scan, about (3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
