"""Commands run as a person runs them: in processes of their own, which a test can watch and end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds that a loaded machine may take to start six processes."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The condition's value once it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return found


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has reaped yet is gone all the same."""
    return _stat(pid)[0] in "ZX"


def descendants(pid: int) -> set[int]:
    """All processes below this one that run."""
    parents = {int(p.name): _stat(int(p.name))[1] for p in Path("/proc").iterdir() if p.name.isdigit()}
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found
        found |= level
    return {p for p in found if not is_gone(p)}


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; ("X", 0) when there is none."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


class Command:
    """A running `beamfold …`, its output gathered as it comes."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BEAMFOLD_") and k != "REDIS_URL"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beamfold", *arguments],
            cwd=cwd,
            env={**clean, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.out = _Lines(self._process.stdout)
        self.err = _Lines(self._process.stderr)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ends(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns its exit code."""
        code = self._process.wait(seconds)
        self.out.close()
        self.err.close()
        return code

    def line_with(self, text: str) -> str:
        """The first line of stdout with this text."""

        def look() -> str | None:
            found = next((line for line in self.out.lines() if text in line), None)
            assert found or self.running, f"it ended:\n{self.err.text()}"
            return found

        return str(wait_for(look, f"a line with {text!r}"))


class _Lines:
    """What a pipe brings, read by a thread so that nobody ever waits for us."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            self._queue.put(line.rstrip("\n"))

    def lines(self) -> list[str]:
        while not self._queue.empty():
            self._lines.append(self._queue.get())
        return self._lines

    def text(self) -> str:
        return "\n".join(self.lines())

    def close(self) -> None:
        self._thread.join(5)
        self._pipe.close()


@contextmanager
def command(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[Command]:
    """A running `beamfold …` that is gone, with all below it, when the test ends."""
    running = Command(*arguments, cwd=cwd, env=env)
    try:
        yield running
    finally:
        below = descendants(running.pid)
        if running.running:
            running.send(signal.SIGKILL)
        running.ends()
        for pid in below:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def get(url: str) -> Any:
    """JSON of an HTTP address."""
    return json.load(_opener.open(url, timeout=10))


def post(url: str, body: Any = None) -> Any:
    """POST JSON, and what is answered."""
    data = b"" if body is None else json.dumps(body).encode()
    return json.load(_opener.open(urllib.request.Request(url, data), timeout=30))


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
