"""Beamfold beside a bare PULL socket and beside dranspose: one source, one app, in turn. See docs/benchmarks.md.

Exit code 1: an event was missed or doubled, or Beamfold failed or hung; no figure of that run counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidebyside.base import PEER, SYSTEMS, WORKERS, BenchFailure
from sidebyside.machine import machine, versions
from sidebyside.measuring import Outcome, Plan, measure
from sidebyside.peer import PYTHON
from sidebyside.scenarios import QUICK, SCENARIOS
from sidebyside.tables import heading, tables

JSON = Path(__file__).parents[1] / "build" / "bench.json"

QUICK_SCALE = 1 / 40


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{name:<16}{scenario.about}" for name, scenario in SCENARIOS.items()))
        return 0
    plan = _plan(options)
    signal.signal(signal.SIGTERM, _interrupted)
    facts, about = machine(), versions()
    outcomes: dict[str, Outcome] = {}
    try:
        if PEER in plan.systems and not PYTHON.exists():
            raise BenchFailure(
                f"there is no dranspose at {PYTHON}: `make bench` puts it there, or leave it out (--only)"
            )
        print(heading(facts, about), flush=True)
        for name in plan.scenarios:
            print(f"\n{name}: {SCENARIOS[name].about}", flush=True)
            outcomes[name] = measure(SCENARIOS[name], plan, _show)
            print("\n".join(tables(outcomes[name].figures)), flush=True)
    except BenchFailure as failure:
        print(f"\nBENCHMARK FAILED: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    _write(options.json, document(plan, facts, about, outcomes))
    troubled = [name for name, outcome in outcomes.items() if outcome.troubles]
    if troubled:
        print(f"\ndranspose had troubles, and lacks figures, in {', '.join(troubled)}: see above")
    print(f"\nno event was missed or doubled; all figures are in {options.json}")
    return 0


def document(
    plan: Plan, facts: Mapping[str, Any], about: Mapping[str, Any], outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Everything that was measured, for machines."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "versions": about,
        "plan": {**dataclasses.asdict(plan), "workers": WORKERS},
        "scenarios": {
            name: {"about": SCENARIOS[name].about, **dataclasses.asdict(outcome)} for name, outcome in outcomes.items()
        },
    }


def _show(line: str) -> None:
    print(line, flush=True)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _plan(options: argparse.Namespace) -> Plan:
    """What was asked for, with what was left open filled in."""
    quick = options.quick
    return Plan(
        scenarios=options.scenarios or (QUICK if quick else tuple(SCENARIOS)),
        systems=tuple(name for name in SYSTEMS if name in options.only),
        repeat=options.repeat or (1 if quick else 3),
        scale=options.scale or (QUICK_SCALE if quick else 1.0),
        deadline_s=options.deadline,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--scenarios", type=_names(SCENARIOS, "scenario"), metavar="NAMES", help="some only: A,B,…")
    parser.add_argument("--only", type=_names(SYSTEMS, "system"), default=SYSTEMS, help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--repeat", type=_count, help="repetitions (default 3)")
    parser.add_argument("--scale", type=_factor, help="times the usual number of events (default 1)")
    parser.add_argument("--deadline", type=float, default=60.0, metavar="S", help="seconds per scan (default 60)")
    parser.add_argument("--json", type=Path, default=JSON, metavar="FILE", help="where all figures go")
    parser.add_argument(
        "--quick", action="store_true", help="few scenarios and events, to see that it works; its rates mean nothing"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor between 0 and 1000")
    return factor


def _names(known: Sequence[str] | Mapping[str, Any], what: str) -> Callable[[str], tuple[str, ...]]:
    """Reads a list of known names."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
