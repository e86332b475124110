"""Scans in which things go wrong at random: `python -m faults.chaos --scans 200 --seed 1` from the folder tests.

Every scan has a seed of its own, from which its history is drawn: map, rates, lost frames, changes of a parameter, and
which services are killed, told to end or stopped, and when. What the scan leaves behind (the published state, the one
on disk, the report) is compared with what the undisturbed scan gives. A history that fails is told with the command
that plays it again; moments are not exactly the same then, so it may take a few times.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import httpx
import numpy as np
from numpy.typing import NDArray

from beamfold.testing.simulators import stins_series
from beamfold.testing.wire import Message
from faults.checker import Row, Values, violations
from faults.harm import COMPLAINTS, cut, tcp_address
from faults.histories import CONTROLLER, INGESTER, LEASE, NETWORK, ROLES, STORE, WORKERS, Harm, History, draw
from flow.deployment import PATIENCE, Deployment, Stream, wait_until

APP = {
    "worker.py": """
import time

class Single:
    def __init__(self, **kwargs):
        self.cast = -1

    def process_event(self, event, parameters=None):
        seen, work, fold = {}, 0, 0
        for name, stream in event.streams.items():
            message = stream.parse()
            if message.htype == "image":
                number, cast, scan, work, fold = message.data[:5].tolist()
                whole = bool((message.data[5:] == number).all())
                seen[name] = [number if whole else -1, scan]
                if cast:
                    self.cast = event.event_number
        if work:
            time.sleep(work / 1e6)
        row = {"event": event.event_number, "seen": seen, "p": int(parameters["p"].data), "cast": self.cast}
        return {"rows": [row], "fold": fold}

class Combining(Single):
    def process_events(self, events, parameters=None):
        return [self.process_event(event, parameters) for event in events]

    def combine(self, results, parameters=None):
        return {"rows": [row for result in results for row in result["rows"]], "fold": results[0]["fold"]}

class Worker(Single):
    pass
""",
    "reducer.py": """
import json, time

class Reducer:
    def __init__(self, **kwargs):
        self.publish = {"rows": [], "end": -1}

    def process_result(self, result, parameters=None):
        if result.payload["fold"]:
            time.sleep(result.payload["fold"] / 1e6)
        for row in result.payload["rows"]:
            row = {"worker": result.worker, "q": int(parameters["p"].data), "at": time.time(), **row}
            self.publish["rows"].append(json.dumps(row))

    def finish(self, parameters=None):
        self.publish["end"] = len(self.publish["rows"])
""",
}
COMBINING = APP["worker.py"].replace("class Worker(Single)", "class Worker(Combining)")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
TOLD = [*COMPLAINTS, r"the control store", r"cannot be reached", r"nobody knows for certain", r"were refused"]
QUIET = 15.0
"""Seconds without progress from which on a scan is stopped whose detector's last words may have died: longer than it
waits itself for the end of a stream after those of all others."""

LATE = 0.5
"""Seconds before the end of a scan in which its reducer may have told of the end already."""

LOG_LINES = 60
"""Last lines of a deployment's log that are shown with a history that failed."""


@dataclass(frozen=True)
class Left:
    """What the app's reducer published: its rows, and how many of them it had when its `finish` was called last."""

    lines: list[str]
    end: int


@dataclass(frozen=True)
class Played:
    """What came of a scan: its report, what its app's reducer published, and when each harm was done (Unix time)."""

    report: dict[str, Any]
    left: Left
    harmed: list[float]


class Chaos:
    """`with Chaos(folder) as chaos`: a deployment that plays one history after the other. `counts` says what was done
    to it, `played` is the last scan that ended."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        sections = {"workers": {"count": len(WORKERS), "lease": LEASE}, "controller": {"control": tcp_address()}}
        streams = {name: Stream(keys={"durable": durable}) for name in ("a", "b")}
        self.deployment = Deployment(
            folder, APP, streams, parameters={"p": "0"}, sections=sections, complaints=TOLD, workers=len(WORKERS)
        )
        self.counts: Counter[str] = Counter()
        self._value = 0
        self.possible = {0}
        self._doomed: set[int] = set()
        self.played: Played | None = None

    def __enter__(self) -> Self:
        self.deployment.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.deployment.__exit__(*error)

    def play(self, history: History) -> list[str]:
        """Play a history; all that was wrong with its end."""
        try:
            wait_until(self._all_here, "all services before the scan")
            self.deployment.write({"worker.py": COMBINING if history.combines else APP["worker.py"]})
            play = _Play(self, history)
            if play.first not in self.possible:
                return [f"parameters: p is {play.first} between two scans, and was set to {self.possible}"]
            report = play.run()
        except (AssertionError, httpx.TransportError) as error:
            return [f"it does not end: {error}"]
        self.counts["scans"] += 1
        self.counts["events"] += report["events"]
        self.counts["parts done again"] += report["redone"]
        self.counts["services lost in mid-scan"] += len(report["losses"])
        values = Values(play.first, tuple(play.values), play.due)

        def wrong(where: str, left: Left) -> list[str]:
            rows = _rows(left.lines, history.seed)
            ordered = not history.combines
            found = violations(history.events, values, rows, report, ordered=ordered, lossy=history.lossy)
            if left.end != len(rows):
                found.append(f"finish: it was called after {left.end} of {len(rows)} results")
            return [f"{where}: {text}" for text in found]

        if not report["result_file"]:
            return [f"there is no result file: it ended {report['ended']!r}: {report['reason']}"]
        left = _stored(report)
        self.played = Played(report, left, play.harmed)
        found = wrong("on disk", left)
        published = self._published()
        if published is None and max(play.reducer_harmed, default=0.0) > report["finished"] - LATE:
            self.counts["states that went with their reducer"] += 1  # what is on disk stays
            return found
        return found + wrong("published", published or Left([], -1))

    def _published(self) -> Left | None:
        """What the reducer publishes; None where there is none, or one that was started after the scan."""
        with suppress(httpx.TransportError, AssertionError):
            if state := self.deployment.state():
                return Left(state["rows"], state["end"])
        return None

    # -- doing harm ------------------------------------------------------------------------------------------

    def harm(self, harm: Harm) -> bool:
        """Do it; False where there is nobody to do it to just now."""
        if harm.what == "cut":
            broken = cut(self.deployment, harm.who.partition(" ")[2])
            self.counts[f"cut {NETWORK}"] += bool(broken)
            self.counts["connections cut"] += broken
            return broken > 0
        pid = next((pid for pid, name in self.deployment.processes().items() if _is(name, harm.who)), None)
        if pid is None or pid in self._doomed:
            self.counts[f"{harm.who} was not there"] += 1
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[harm.what])
            self.counts[f"{harm.what} {harm.who.replace('-', ' ').partition(' ')[0]}"] += 1
            if harm.what != "stop":
                self._doomed.add(pid)
                return True
            time.sleep(harm.lasts)
            os.kill(pid, signal.SIGCONT)
        return True

    def set_parameter(self) -> tuple[int, bool] | None:
        """Give the parameter another value; which, and whether that was confirmed. None: it was refused."""
        self._value += 1
        try:
            answer = self.deployment.post("parameter/p", content=str(self._value).encode())
        except httpx.TransportError:
            self.possible.add(self._value)  # whether it was taken nobody knows
            return self._value, False
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 503:
            return None  # nothing can be recorded just now
        self.possible = {self._value}
        return self._value, True

    def _all_here(self) -> bool:
        """Whether all services that the controller knows of live, and nobody else is about to go."""
        try:
            config = self.deployment.get("config").json()
        except httpx.TransportError:
            return False
        living = {pid: name for pid, name in self.deployment.processes().items() if pid not in self._doomed}
        services = [*config["workers"], *config["ingesters"], *([config["reducer"]] if config["reducer"] else [])]
        return sorted(living.get(s["pid"], "") for s in services) == ["a", "b", "reducer", *WORKERS]

    def value(self) -> int:
        """The parameter's present value."""
        return int(self.deployment.get("parameter/p").content)


class _Play:
    """One scan under way: detectors and harm in threads of their own."""

    def __init__(self, chaos: Chaos, history: History) -> None:
        self._chaos, self._history, self._deployment = chaos, history, chaos.deployment
        self._sending = threading.Event()
        self._sent = threading.Event()
        self.first = chaos.value()
        self.values: list[int] = []
        self.due = 0
        self.harmed: list[float] = []
        self.reducer_harmed: list[float] = []
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        """The report of the scan, once it ended and nothing more is done to the services."""
        threads = [_thread(self._do, harm) for harm in self._history.harms]
        number = wait_until(self._submit, f"that scan {self._history.seed} is taken")
        self._sending.set()
        senders = [_thread(self._send, name) for name in self._history.counts]
        _thread(self._say_when_over, senders)
        threads.append(_thread(self._change))
        try:
            report = self._report(number)
        finally:
            for thread in threads:
                thread.join(PATIENCE)
        for sender in senders:
            sender.join(PATIENCE)
        return report

    def _submit(self) -> str | None:
        """The scan's id; None where it is refused because a service that was just harmed is not there."""
        answer = self._deployment.post("sequence", json=self._history.trigger_map)
        if answer.status_code == 200:
            return str(answer.json())
        assert "no reducer is connected" in answer.text or "workers available" in answer.text, answer.text
        self._chaos.counts["submissions refused"] += 1
        return None

    def _do(self, harm: Harm) -> None:
        refused = harm.who in (CONTROLLER, STORE) or harm.who.startswith(INGESTER) or harm.what == "cut"
        if refused or harm.in_mid_scan:  # a scan that is not armed yet is refused without them
            self._sending.wait(PATIENCE)
        time.sleep(harm.at)
        now = time.time()
        if self._chaos.harm(harm):
            self.harmed.append(now)
            if harm.who == "reducer":
                self.reducer_harmed.append(time.time())

    def _send(self, name: str) -> None:
        history = self._history
        time.sleep(history.delays[name])
        casts = {e.frames.get(name) for e in history.events if e.cast}
        frames = (_frame(n, n in casts, history) for n in range(history.counts[name]))
        messages = [m for n, m in enumerate(stins_series(frames), -1) if n not in history.lost[name]]
        self._deployment.dealers[name].send(self._noticing_the_last(messages), history.rate)

    def _noticing_the_last(self, messages: list[Message]) -> Iterable[Message]:
        yield from messages[:-2]
        self._sent.set()
        yield from messages[-2:]

    def _say_when_over(self, senders: list[threading.Thread]) -> None:
        for sender in senders:
            sender.join(PATIENCE)
        self._over.set()

    def _change(self) -> None:
        began = time.monotonic()
        for at in self._history.changes:
            time.sleep(max(0.0, began + at - time.monotonic()))
            if (done := self._chaos.set_parameter()) is not None:
                value, confirmed = done
                self.values.append(value)
                if confirmed and not self._sent.is_set():
                    self.due = value

    def _report(self, scan: str) -> dict[str, Any]:
        moved: tuple[Any, float] = (None, 0.0)

        def ended() -> dict[str, Any] | None:
            nonlocal moved
            with suppress(httpx.TransportError):
                answer = self._deployment.get(f"scans/{scan}/report")
                if answer.status_code == 200 and answer.json()["ended"]:
                    report: dict[str, Any] = answer.json()
                    return report
                if self._history.lossy and self._over.is_set() and answer.status_code == 200:
                    states = answer.json()["states"]
                    moved = moved if states == moved[0] else (states, time.monotonic())
                    if time.monotonic() - moved[1] > QUIET:
                        self._deployment.stop()
                        self._chaos.counts["scans stopped, as the end died"] += 1
                        moved = (states, time.monotonic())
            return None

        try:
            return dict(wait_until(ended, f"the end of scan {scan}"))
        except AssertionError as error:
            raise AssertionError(f"{error}; {self._deployment.report(scan)}") from error


def _frame(number: int, cast: bool, history: History) -> NDArray[np.int64]:
    """Says all over which frame it is, and of which scan, whether it is broadcast, and how long it takes."""
    frame = np.full(history.size, number, dtype=np.int64)
    frame[1:5] = cast, history.seed, round(history.work * 1e6), round(history.fold * 1e6)
    return frame


def _thread(target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _is(name: str, who: str) -> bool:
    return name == who.removeprefix(f"{INGESTER} ") or (
        who == STORE and name == "store.sock"
    )  # its title ends with its socket


def _stored(report: dict[str, Any]) -> Left:
    with h5py.File(report["result_file"]) as file:
        return Left(list(file["rows"].asstr()[:]) if len(file["rows"]) else [], int(file["end"][()]))


def _rows(lines: Iterable[str], seed: int) -> list[Row]:
    """What the app published. A frame of another scan has a number that none of this one has."""
    rows = []
    for row in map(json.loads, lines):
        seen = {name: n if scan == seed else -n - 1 for name, (n, scan) in row["seen"].items()}
        rows.append(Row(row["event"], row["worker"], (row["p"], row["q"]), seen, row["cast"]))
    return rows


def main(arguments: list[str]) -> int:
    """Play histories; 0 when nothing was wrong with any of them and harm was done."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first scan; the next ones count on")
    parser.add_argument("--harm", default="worker,reducer", help=f"roles that are harmed, of {','.join(ROLES)}")
    parser.add_argument("--all", action="store_true", help="go on after a history that fails, in a new deployment")
    options = parser.parse_args(arguments)
    roles = [role for role in options.harm.split(",") if role]
    seeds, failed = iter(range(options.seed, options.seed + options.scans)), []
    counts: Counter[str] = Counter()
    while (more := _play_until_wrong(seeds, roles, counts)) is not None:
        failed.append(more)
        if not options.all:
            break
    print("\n".join(f"{n:8} {what}" for what, n in sorted(counts.items())))
    harmed = sum(harmed_of(counts, role) for role in ROLES)
    print(f"{counts['scans']} scans, {harmed} times harmed, {len(failed)} histories went wrong {failed or ''}")
    if roles and not harmed:
        print("nothing was harmed: this says nothing")
    return 1 if failed or (roles and not harmed) else 0


class _Wrong(Exception):
    """The history of this seed went wrong: what else its deployment complains of is of no interest."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed = seed


def _play_until_wrong(seeds: Iterable[int], roles: list[str], counts: Counter[str]) -> int | None:
    """The seed of the first history that went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder))
        try:
            with chaos:
                for seed in seeds:
                    history = draw(seed, roles)
                    began = time.monotonic()
                    found = chaos.play(history)
                    print(f"{seed}: {history.title}: {'; '.join(map(_told, history.harms)) or 'no harm'}", end="")
                    print(f" ({time.monotonic() - began:.1f} s)", flush=True)
                    if found:
                        _tell(history, roles, found, chaos.deployment.lines)
                        raise _Wrong(seed)
            return None
        except _Wrong as wrong:
            return wrong.seed
        finally:
            counts.update(chaos.counts)


def _told(harm: Harm) -> str:
    return f"{harm.what} {harm.who} at {harm.at:.2f} s" + (f" for {harm.lasts:.2f} s" if harm.lasts else "")


def _tell(history: History, roles: list[str], found: list[str], log: list[str]) -> None:
    print(*(f"    {line[:1500]}" for line in log[-LOG_LINES:]), *found, sep="\n")
    print(again(history.seed, roles), flush=True)


def again(seed: int, roles: list[str]) -> str:
    """How to play a history again that went wrong."""
    return f'history {seed} went wrong; again: make chaos ARGS="--scans 1 --seed {seed} --harm {",".join(roles)}"'


def harmed_of(counts: Counter[str], role: str) -> int:
    """How often services of a role were harmed."""
    return sum(counts[f"{what} {role}"] for what in (*SIGNALS, "cut"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
