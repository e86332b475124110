"""Beamfold beside a bare PULL socket and beside dranspose: one source, one app, in turn. See docs/benchmarks.md.

Exit code 1: an event was missed or doubled, or a system failed or hung; no figure of that run counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidebyside.base import BenchFailure, System
from sidebyside.ceiling import Ceiling
from sidebyside.figures import CEILING, OURS, PEER, Figures, Sample, figures
from sidebyside.machine import machine, versions
from sidebyside.ours import Beamfold
from sidebyside.peer import Dranspose
from sidebyside.tables import scan_line, tables

WORKERS = 2
SYSTEMS = (CEILING, OURS, PEER)
WARM_UP = {CEILING: 1000, OURS: 5000, PEER: 200}
"""Frames of the untimed scan: the first one of a system imports modules and opens connections."""

JSON = Path(__file__).parents[1] / "build" / "bench.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: which systems, how often, and frames per scan (for the peer by batch size)."""

    systems: tuple[str, ...]
    repeat: int
    batches: tuple[int, ...]
    frames: int
    peer_frames: Mapping[int, int]
    deadline_s: float

    def scans(self) -> Iterator[tuple[int, str, int, int]]:
        """Repetition, system, batch size and frames of every scan, in order: what is compared lies close in time."""
        for repetition in range(1, self.repeat + 1):
            for batch in self.batches:
                for system in self.systems:
                    yield repetition, system, batch, self.peer_frames[batch] if system == PEER else self.frames


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    options = _parser().parse_args(argv)
    plan = _plan(options)
    signal.signal(signal.SIGTERM, _interrupted)
    facts, about = machine(), versions()
    try:
        samples = measure(plan, lambda sample: print(scan_line(sample), flush=True))
    except BenchFailure as failure:
        print(f"\nBENCHMARK FAILED: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    found = figures(samples)
    print("\n" + "\n".join(tables(facts, about, found)))
    _write(options.json, document(plan, facts, about, samples, found))
    print(f"\nno event was missed or doubled; all figures are in {options.json}")
    return 0


def measure(plan: Plan, show: Callable[[Sample], None]) -> list[Sample]:
    """All scans of the plan. Whatever happens, every process of every system is gone afterwards."""
    samples = []
    with ExitStack() as stack:
        systems = {name: _make(name, plan.deadline_s) for name in plan.systems}
        for system in systems.values():
            stack.callback(system.close)
        for name, system in systems.items():
            system.start()
            system.scan(WARM_UP[name], plan.batches[0])
        for repetition, name, batch, frames in plan.scans():
            sample = Sample(repetition, name, batch, systems[name].scan(frames, batch))
            samples.append(sample)
            show(sample)
    return samples


def document(
    plan: Plan, facts: Mapping[str, Any], about: Mapping[str, Any], samples: Sequence[Sample], found: Figures
) -> dict[str, Any]:
    """Everything that was measured, for machines."""
    scans = [
        {
            "repetition": s.repetition,
            "system": s.system,
            "batch": s.batch,
            **dataclasses.asdict(s.measured),
            "events_per_s": s.measured.rate,
            "cpu_us_per_event": s.measured.cpu_us,
        }
        for s in samples
    ]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "versions": about,
        "plan": {**dataclasses.asdict(plan), "workers": WORKERS},
        "scans": scans,
        **dataclasses.asdict(found),
    }


def _make(name: str, deadline_s: float) -> System:
    if name == CEILING:
        return Ceiling(deadline_s=deadline_s)
    if name == OURS:
        return Beamfold(workers=WORKERS, deadline_s=deadline_s)
    return Dranspose(workers=WORKERS, deadline_s=deadline_s)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _plan(options: argparse.Namespace) -> Plan:
    """What was asked for, with what was left open filled in."""
    quick = options.quick
    batches = options.batches or ((1, 10) if quick else (1, 10, 100))
    given = options.peer_frames or (200 if quick else None)
    return Plan(
        systems=tuple(name for name in SYSTEMS if name in options.only),
        repeat=options.repeat or (1 if quick else 5),
        batches=batches,
        frames=options.frames or (5000 if quick else 400_000),
        peer_frames={batch: given or _peer_frames(batch) for batch in batches},
        deadline_s=options.deadline,
    )


def _peer_frames(batch: int) -> int:
    """So many that its scan takes some seconds, like those of the others: it is faster with larger batches."""
    return 4000 if batch < 10 else 5000 if batch < 100 else 10_000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=_count, help="repetitions (default 5)")
    parser.add_argument("--frames", type=_count, help="frames per scan of the ceiling and Beamfold (default 400000)")
    parser.add_argument("--peer-frames", type=_count, help="of dranspose (default 4000 to 10000, by batch size)")
    parser.add_argument("--batches", type=_batches, help="events that share a virtual worker (default 1,10,100)")
    parser.add_argument("--only", type=_systems, default=SYSTEMS, help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--deadline", type=float, default=60.0, metavar="S", help="seconds per scan (default 60)")
    parser.add_argument("--json", type=Path, default=JSON, metavar="FILE", help="where all figures go")
    parser.add_argument(
        "--quick", action="store_true", help="a few frames, to see that it works; the rates mean nothing"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _batches(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_count, text.split(","))))


def _systems(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = set(names) - set(SYSTEMS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such system: {', '.join(sorted(unknown))}")
    return tuple(names)


if __name__ == "__main__":
    sys.exit(main())
