"""Processes of the systems under test: started so that they end with us, and what CPU time they have used."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from beamfold.ledger import launcher
from sidebyside.base import BenchFailure

T = TypeVar("T")

START_S = 120.0
"""Seconds in which a system must be up: a loaded machine takes its time to start seven processes, and to compile
modules that are new."""

POLL_S = 0.02
"""Between two looks at something that is not being measured."""

ENDING_S = 10.0
"""Seconds in which the last words of a process that has ended must be there."""

LOWEST_PORT = 10_000
"""Below it are those that services are known by."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TAIL_BYTES = 20_000


def wait_for(condition: Callable[[], T | None], seconds: float, late: Callable[[], str], poll: float = POLL_S) -> T:
    """The condition's value once it has one; BenchFailure with the text of `late` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise BenchFailure(late())
        time.sleep(poll)
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on.

    Some are only listened on when a scan begins, so it is none that an outgoing connection could be given meanwhile.
    """
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(LOWEST_PORT, max(outgoing, LOWEST_PORT + 1000))
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchFailure(f"no port from {LOWEST_PORT} on is free")


def guarded(command: Sequence[str]) -> list[str]:
    """The command, killed by the kernel when we end: whatever becomes of the benchmark, nothing outlives it.

    The first word must be a path. For the main thread only: the kernel watches the thread that started the process.
    """
    return [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command]


def clean_environment(**more: str) -> dict[str, str]:
    """Ours without what would configure a system from outside, with what is given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BEAMFOLD_") and k not in _CONFIGURING}
    return {**kept, **more}


_CONFIGURING = {"REDIS_URL", "SERVICE_REDIS_DSN", "LOG_LEVEL", "DUMP_PATH"}


class Process:
    """One process of a system; what it prints goes to a file. It starts a session of its own, so that Ctrl-C in the
    terminal comes to us alone and the order of ending is ours."""

    def __init__(self, name: str, command: Sequence[str], *, folder: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                guarded(command),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def output(self) -> str:
        """What it printed, or the end of it."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 8) -> str:
        """Its last lines, for a person; the path to all of it would be of no use, since the folder goes."""
        return "".join(f"\n    | {line}" for line in self.output().splitlines()[-lines:]) or " nothing"

    def check(self) -> None:
        """Raises BenchFailure when it has ended."""
        code = self._process.poll()
        if code is not None:
            raise BenchFailure(f"{self.name} ended with exit code {code}; its last words:{self.tail()}")

    def end(self, number: signal.Signals, patience_s: float) -> None:
        """Send the signal, and SIGKILL when it is still there after so many seconds."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


class Script:
    """Context manager: a process of the benchmark's own, which says last, in a line of JSON, what it did, and is gone
    after it. The command's first word must be a path."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            guarded(command),
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Until it has printed a line. Raises BenchFailure when it ends without one."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.said(ENDING_S)

    def said(self, seconds: float) -> Any:
        """What it said last; its stdin ends now. Raises BenchFailure when it has not ended after so many seconds, and
        when it failed or complained."""
        try:
            out, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BenchFailure(f"{self.name} has not ended after {seconds:.0f} s") from None
        if self._process.returncode or err:
            code = self._process.returncode
            raise BenchFailure(f"{self.name} ended with exit code {code}: {err.strip()[-1000:]}")
        return json.loads(out.splitlines()[-1])

    def check(self) -> None:
        """Raises BenchFailure when it has failed, so that nobody waits for it."""
        if self._process.poll():
            self.said(ENDING_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()


def parse_stat(text: str) -> tuple[int, float]:
    """Parent, and CPU seconds used so far, of a process by its /proc/PID/stat.

    The name in parentheses may hold spaces and parentheses itself.
    """
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def cpu_seconds(roots: Iterable[int]) -> dict[int, float]:
    """CPU seconds used so far (user and system, all threads) by these processes and all below them, by pid."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)], used[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except OSError:
                continue  # it ended while we looked
    return {pid: used[pid] for pid in family(set(roots), parents) if pid in used}


def family(roots: set[int], parents: Mapping[int, int]) -> set[int]:
    """The roots and all their descendants."""
    found, level = set(roots), set(roots)
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - found
        found |= level
    return found


def spent(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds between two looks. Raises BenchFailure when a process is gone, and its share with it."""
    gone = before.keys() - after.keys()
    if gone:
        raise BenchFailure(f"processes ended during a scan: {sorted(gone)}")
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
