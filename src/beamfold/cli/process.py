"""Processes that end with the one that started them, and say how they ended."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from beamfold.model.errors import ConfigError

KEPT_LINES = 20
"""Last lines of a process that are kept, to be shown when it ends unexpectedly."""

MAX_LINE = 8192
"""Bytes of a line after which it is shown although it has not ended."""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def follow_parent(parent: int) -> None:
    """End (SIGKILL) as soon as the parent ends, whatever becomes of it; at once when it is gone already.

    The kernel follows the parent's *thread* that started us: a parent must start us from its main thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise ConfigError(f"cannot follow the supervisor: {os.strerror(ctypes.get_errno())}; start services one by one")
    if os.getppid() != parent:
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


class Child:
    """A process of ours, and what it writes: every line of stdout and stderr goes to `show`.

    It is in a process group of its own, so that a terminal's Ctrl-C reaches us alone and we decide what it
    means. What it started itself and left behind there is killed when it ended: a copy of a service that user code
    forked would go on as that service, with its sockets.
    """

    def __init__(
        self,
        role: str,
        name: str,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
        show: Callable[[str], None],
    ) -> None:
        self.role = role
        self.name = name
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.why = ""  # we ended it
        self._process = process
        self._output = output
        self._pipe = pipe
        self._show = show
        self._ended = False
        self._reader = asyncio.create_task(self._read(), name=f"output of {role} {name}")

    @classmethod
    async def start(
        cls,
        role: str,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        show: Callable[[str], None],
        *,
        stdin: int = asyncio.subprocess.DEVNULL,
        inherit: Sequence[int] = (),
    ) -> Child:
        """Start `python -m ARGUMENTS…`; descriptors in `inherit` stay open in it, under the same numbers."""
        # A pipe of asyncio's own would be waited for as well, and whatever the process leaves behind holds it open.
        output, written = os.pipe()
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb")
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # as the console script: modules that lie where we were started shadow nothing
                "-m",
                *arguments,
                env={**env, "PYTHONUNBUFFERED": "1"},
                stdin=stdin,
                stdout=written,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,
                pass_fds=inherit,
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(written)
        return cls(role, name, process, reader, pipe, show)

    @property
    def title(self) -> str:
        return self.role if self.role == self.name else f"{self.role} {self.name}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> str:
        """Wait for its end, and for the last it wrote; returns how it ended."""
        code = await self._process.wait()
        if not self._ended:  # later its number may be another's
            self._ended = True
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        # What it left behind in a group of its own may hold the pipe open: its lines are not worth waiting for.
        await asyncio.wait([self._reader], timeout=0.5)
        return ending(code)

    def write(self, line: str) -> None:
        """A line to its stdin, when it was started with a pipe for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)

    async def close(self) -> None:
        """Forget it once it ended."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._pipe.close()
        self._process._transport.close()  # type: ignore[attr-defined]

    async def _read(self) -> None:
        rest = b""
        while chunk := await self._output.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._line(line)
            if len(rest) > MAX_LINE:
                self._line(rest)
                rest = b""
        if rest:
            self._line(rest)

    def _line(self, data: bytes) -> None:
        line = data.decode("utf-8", "replace").rstrip("\r")
        self.lines.append(line)
        self._show(line)
