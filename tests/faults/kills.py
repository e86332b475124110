"""One kill per scan, of every kind of service: `python -m faults.kills --times 30` from the folder tests.

Scans are played (at a few hundred Hz and as fast as it goes) until so many of them had a service killed with SIGKILL at
a random moment after the first frame and before their end. The published state of each is compared with that of the
undisturbed scan. Of an ingester's scan, frames that were sent are received or named in the report: no third way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from beamfold.cli.supervisor import LIVED
from faults.chaos import Chaos, Played
from faults.checker import in_runs
from faults.histories import INGESTER, ROLES, STORE, History, draw_kill

AFTER = 3.0
"""Seconds after a kill in which a stall is looked for."""

FEW = 0.2
"""Seconds between two results: what a scan at hundreds of events per second does not take undisturbed."""


@dataclass
class Kills:
    """The scans of one role at one rate: how many kills met their scan, frames that were lost, what went wrong, and the
    longest time (s) without a new result after each kill, where a rate is given."""

    role: str
    rate: float | None
    durable: bool
    scans: int = 0
    kills: int = 0
    events: int = 0
    redone: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)

    def play(self, chaos: Chaos, seed: int) -> None:
        """One more scan."""
        if self.role == STORE and self.scans:
            time.sleep(LIVED)  # else it is taken for one that does not stay up, and is started again later and later
        history = draw_kill(seed, self.role, self.rate)
        found = chaos.play(history)
        self.scans += 1
        played, chaos.played = chaos.played, None
        if played is not None:
            (at,) = played.harmed or [0.0]
            self.kills += played.report["started"] < at < played.report["finished"]
            self.events += played.report["events"]
            self.redone += played.report["redone"]
            self.lost += sum(_named(played, name) for name in history.lossy)
            if self.durable:
                found += _unaccounted(history, played)
            # A reducer's results get new times; a broadcast waits for the process that takes the lost one's place.
            if self.rate is not None and self.role != "reducer" and history.kind != "broadcasts":
                self.stalls += _stall(played, at)
        self.wrong += [f"{self.title}, seed {seed}: {text}" for text in found]
        print(f"{self.title}, seed {seed}: {history.title}", *found, sep="\n    ", flush=True)

    @property
    def title(self) -> str:
        """Who was killed in what."""
        rate = "full speed" if self.rate is None else f"{self.rate:g} Hz"
        return f"{self.role}{' (durable)' if self.durable else ''}, {rate}"

    def row(self) -> str:
        """A line of the table."""
        stalls = sorted(self.stalls)
        stall = f"{stalls[len(stalls) // 2]:.2f} {stalls[-1]:.2f} s" if stalls else "-"
        return (
            f"{self.title:30}{self.kills:7}{self.scans:7}{self.events:10}{self.redone:9}{self.lost:7}"
            f"{len(self.wrong):7}  {stall}"
        )


HEAD = f"{'killed':30}{'kills':>7}{'scans':>7}{'events':>10}{'redone':>9}{'lost':>7}{'wrong':>7}  stall: median, worst"


def _named(played: Played, name: str) -> int:
    return len(in_runs(played.report["streams"][name]["missing"]))


def _unaccounted(history: History, played: Played) -> Iterator[str]:
    """Frames that a detector sent and that were neither received nor named, or both."""
    report = played.report
    reached = history.events[: report["events"]]
    for name in history.lossy:
        sent = sum(name in event.frames for event in reached)
        received, missing = report["streams"][name]["frames"], _named(played, name)
        if received + missing != sent:
            yield f"of {name} {sent} frames were sent, {received} received and {missing} are named as missing"


def _stall(played: Played, at: float) -> list[float]:
    """The longest time without a result after a kill; nothing for a scan that was about to end.

    Not of the end event, which goes to all workers and so waits for a new process.
    """
    rows = map(json.loads, played.left.lines)
    times = sorted(row["at"] for row in rows if row["event"] <= played.report["events"])
    if not times or times[-1] < at + FEW:
        return []
    after = [at, *(time for time in times if time > at)]
    return [max(later - earlier for earlier, later in pairwise(after) if earlier < at + AFTER)]


def main(arguments: Sequence[str]) -> int:
    """Kill; 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--times", type=int, default=30, help="kills of each kind that meet their scan")
    parser.add_argument("--roles", default="worker,reducer,controller,store,ingester", help=f"of {','.join(ROLES)}")
    parser.add_argument("--rates", default="300,full", help="events per second, or `full`")
    parser.add_argument("--seed", type=int, default=1, help="of the first scan of each kind")
    options = parser.parse_args(arguments)
    rates = [None if rate == "full" else float(rate) for rate in options.rates.split(",")]
    began, tables = time.monotonic(), []
    for role in options.roles.split(","):
        for durable in (False, True) if role == INGESTER else (False,):
            with tempfile.TemporaryDirectory() as folder, Chaos(Path(folder), durable=durable) as chaos:
                for rate in rates:
                    tables.append(kills := Kills(role, rate, durable))
                    seed = options.seed
                    while kills.kills < options.times and len(kills.wrong) < options.times:
                        kills.play(chaos, seed)
                        seed += 1
    print(HEAD, *(kills.row() for kills in tables), sep="\n")
    wrong = [text for kills in tables for text in kills.wrong]
    print(*wrong, f"{sum(k.kills for k in tables)} kills in {time.monotonic() - began:.0f} s", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
