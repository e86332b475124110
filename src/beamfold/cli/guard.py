"""A worker's process seen from outside: what its user code is at, and whether it will ever come back.

User code may hang, hold the interpreter's lock in C, or be stopped by a signal: then the process cannot say anything
any more. So it writes down what it is at in memory that its supervisor shares, which reads it here, also after its
death.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from beamfold.model.cursor import AT, CURSOR_BYTES, IDLE, SCAN, TURN, cursor_in

CURSOR_VARIABLE = "BEAMFOLD_CURSOR"
"""The environment variable that tells a worker the descriptor of its cursor's memory."""


STARTING = 60.0
"""Seconds that a process has at least to start and to import the app, however short the limit for its work is: on a
busy host or a slow file system that takes long, and who is killed for it starts again and takes as long."""


class Guard:
    """Watches one process: a piece of user code may take `time_limit` seconds, a stop by a signal `lease` seconds."""

    def __init__(self, time_limit: float, lease: float) -> None:
        self.fd = os.memfd_create("beamfold-cursor", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, CURSOR_BYTES)
        self._memory = mmap.mmap(self.fd, CURSOR_BYTES)
        self._cursor = cursor_in(memoryview(self._memory))
        self._cursor[AT] = IDLE
        self._time_limit = time_limit
        self._lease = lease
        self._last: list[int] = []
        self._since = 0.0
        self._stopped_since: float | None = None

    @property
    def at(self) -> tuple[int, int]:
        """The scan and the event that user code is (or was, at the end) at work on; event -1: no single one."""
        return self._cursor[SCAN], max(self._cursor[AT], -1)

    def look(self, pid: int, now: float) -> str:
        """Why this process should be killed, "" when it should not."""
        last = self._cursor.tolist()
        if last != self._last:
            self._last, self._since = last, now
        if not _is_stopped(pid):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        if self._stopped_since is not None:
            self._since = now  # its user code does not take that time
            return f"it was stopped for {self._lease:g} s" if now - self._stopped_since >= self._lease else ""
        starting = not self._cursor[TURN]
        limit = max(self._time_limit, STARTING) if starting else self._time_limit
        if now - self._since >= limit:
            _, event = self.at
            what = f"event {event}" if event >= 0 else "its import" if starting else "what it was doing"
            return f"user code did not come back from {what} within {limit:g} s ([workers] time_limit)"
        return ""

    def close(self) -> None:
        """Let go of the memory."""
        self._cursor.release()
        self._memory.close()
        os.close(self.fd)


def inherited_memory() -> mmap.mmap | None:
    """The memory that a supervisor shares with this process, if it was started by one."""
    number = os.environ.get(CURSOR_VARIABLE, "")
    if not number.isdecimal():
        return None
    with suppress(OSError, ValueError):
        return mmap.mmap(int(number), CURSOR_BYTES)
    return None


def _is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal (proc(5): state T), which is not the same as having nothing to do."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] == b"T"
