"""All services of a run on one host: started together, watched, started again when they end, and ended together.

The supervisor owns the control store when the run file names none, and starts it again like the services: with all that
it had, in a folder beside the results. Its children end with it, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from beamfold.app.runfile import RunFile
from beamfold.cli.guard import CURSOR_VARIABLE, Guard
from beamfold.cli.process import Child
from beamfold.cli.registry import (
    CONTROL_VARIABLE,
    STORE_VARIABLE,
    TOKEN_VARIABLE,
    claim,
    controller_address,
    is_fixed,
    shown_path,
    token_path,
)
from beamfold.cli.web import ask
from beamfold.dispatch.service import LEASE
from beamfold.ledger.embedded import EmbeddedStore
from beamfold.ledger.redis import RedisLedger
from beamfold.model.errors import BeamfoldError, ConfigError, LedgerUnavailable
from beamfold.protocols.messages import Beat, Gone, Hello, Introduce
from beamfold.protocols.tokens import proven
from beamfold.transport.control import Context, ControlChannel

GRACE = 3.0
"""Seconds that a child has to end by itself after SIGTERM."""

SCAN_GRACE = 3.0
"""Seconds that a running scan has to process what has arrived when the run is ended."""

POLL = 0.05
"""Seconds between two looks while the run comes up."""

WATCH = 0.25
"""Seconds between two looks at the store, the control channel and the workers."""

LIVED = 5.0
"""Seconds that a service must have lived for its end not to be taken for one of a series."""

AT_ONCE = 3
"""Times in a row that a service which did not live so long is started again at once."""

FIRST_PAUSE = 0.25
"""Seconds before it is started the next time; twice as many every further time."""

LONGEST_PAUSE = 10.0
"""Seconds before it at most."""

STORE_TRIES = 6
"""Times in a row that the control store is started again; then the run ends, as soon as no scan is under way."""

KEEP_GONE = 100
"""Ends of services that are told to a controller that is new."""

SHOWN_LINES = 5
"""Last lines of a child that are shown again when it ended unexpectedly."""

FIRST = "controller"

CONTROLLER_HTTP_VARIABLE = "BEAMFOLD_CONTROLLER__HTTP"
REDUCER_HTTP_VARIABLE = "BEAMFOLD_REDUCER__HTTP"


def to_stderr(line: str) -> None:
    """Show a line to the person who started us."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class Supervisor:
    """`async with Supervisor(settings)`: within it, all services are up.

    Must be entered in the main thread (the children follow the thread that started them). Raises
    BeamfoldError when a service ends before all are up. `own_store`: start one even where the settings name
    one. `resume`: take up the scan that was under way when this run was killed.
    """

    def __init__(
        self,
        settings: RunFile,
        *,
        own_store: bool = False,
        resume: bool = False,
        show: Callable[[str], None] = to_stderr,
    ) -> None:
        if settings.path is None:
            raise ConfigError("a supervisor needs a run file that its services can read")
        self.settings = settings
        self.controller_url = ""
        self.reducer_url = ""
        self.children: list[Child] = []
        self._guards: dict[Child, Guard] = {}
        self._gone: deque[Gone] = deque(maxlen=KEEP_GONE)
        self._show = show
        self._resume = resume
        self._token = uuid.uuid4().hex  # holds the controller's role; people may see it
        self._identification = settings.token()
        self._left_token = False
        self._home = None if own_store or settings.store.url is not None else self.store_path(settings)
        self._store = EmbeddedStore(self._home) if own_store or settings.store.url is None else None
        self._starting: asyncio.Task[EmbeddedStore] | None = None
        self._left = False  # whether the store's folder was there before us: a run was killed
        self._ledger: RedisLedger | None = None
        self._context: Context | None = None
        self._channel: ControlChannel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._fatal = asyncio.Event()
        self._why = ""
        self._up = False
        self._stopping = False
        self._alone = own_store
        self._lock: IO[bytes] | None = None

    # -- from outside ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait(self) -> None:
        """Never returns; BeamfoldError when the run cannot go on."""
        await self._fatal.wait()
        raise BeamfoldError(self._why)

    def hurry(self) -> None:
        """Kill what has not ended yet."""
        for child in self.children:
            child.send(signal.SIGKILL)

    async def stop(self) -> None:
        """End everything: the running scan with its report, then SIGTERM, and SIGKILL for what takes too long."""
        if self._up and not self._fatal.is_set() and not self._stopping:
            await self._end_scan()
        self._stopping = True
        for child in self.children:
            child.send(signal.SIGTERM)
        ended = [asyncio.create_task(child.wait()) for child in self.children]
        if ended:
            await asyncio.wait(ended, timeout=GRACE)
        self.hurry()
        for task in self._tasks:
            task.cancel()
        starting = [self._starting] if self._starting is not None else []
        await asyncio.gather(*ended, *self._tasks, *starting, return_exceptions=True)
        for child in self.children:
            await child.close()
        for guard in self._guards.values():
            guard.close()
        if self._channel is not None:
            self._channel.close(linger_ms=0)
        if self._context is not None:
            self._context.destroy(linger=0)
        self._leave()

    async def _end_scan(self) -> None:
        """Stop a scan that is still running: what has arrived is processed and kept, if that is done in time."""
        api = f"{self.controller_url}/api/v1"
        try:
            progress = await ask(f"{api}/progress")
            if progress["finished"] or "scan" not in progress:  # there is none, or it is not taken up yet
                return
            self._show("stopping the scan")
            for _ in range(2):  # the second word gives up what is left, and the report says so
                await ask(f"{api}/stop", {})
                deadline = time.monotonic() + SCAN_GRACE
                while not progress["finished"] and time.monotonic() < deadline:
                    await asyncio.sleep(POLL)
                    progress = await ask(f"{api}/progress")
            report = await ask(f"{api}/scans/{progress['scan']}/report")
        except BeamfoldError as error:
            self._show(f"beamfold: the scan could not be stopped: {error}")
            return
        where = f", kept in {report['result_file']}" if report["result_file"] else ""
        self._show(f"scan {report['number']} {report['ended']}: {report['summary']}{where}")

    def _leave(self) -> None:
        if self._ledger is not None:
            if self._store is None:
                with suppress(LedgerUnavailable):
                    self._ledger.release_owner(self._token)  # the controller did, unless it was killed
            self._ledger.close()
            self._ledger = None
        if self._store is not None:
            self._store.stop()
        if self._home is not None and not self._fatal.is_set() and (self._up or not self._left):
            shutil.rmtree(self._home, ignore_errors=True)  # scans have ended, and their results are stored
        if self._up:
            with suppress(OSError):
                self.note_path(self.settings).unlink(missing_ok=True)
        if self._left_token:
            with suppress(OSError):
                token_path(self.settings).unlink(missing_ok=True)
            self._forget_shown()
        if self._lock is not None:
            self._lock.close()

    def _forget_shown(self) -> None:
        """What was published in a run is shown in no other."""
        shutil.rmtree(shown_path(self.settings), ignore_errors=True)

    # -- coming up -------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        url = self.settings.store.url
        if self._store is not None:
            if not self._alone:
                self._lock = self._claim_output()
            self._left = self._home is not None and self._home.exists()
            url = self._store.start().url
        assert url is not None
        self._ledger = RedisLedger(url, self.settings.run.name)
        alone = self._store is not None
        await asyncio.to_thread(claim, self._ledger, self._token, self.settings.run.name, self._show, alone=alone)
        if self._store is not None:
            self._tasks.append(asyncio.create_task(self._keep_store(self._store)))
        if not self._identification:
            self._make_token()
        self._forget_shown()
        for role, name in self._wanted():
            await self._spawn(role, name, url)
        self._tasks += [asyncio.create_task(self._watch(child, url)) for child in self.children]
        await self._unless_fatal(self._meet_controller(self._ledger))
        self._tasks.append(asyncio.create_task(self._look_after()))
        await self._unless_fatal(self._gather_services())
        self._up = True
        self._write_note()

    def _claim_output(self) -> IO[bytes]:
        """Make sure that this run file is up once: two would share its detectors' frames between them.

        A run with a store of its own has nothing but its output folder in common with another one.
        """
        path = self.note_path(self.settings).with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("wb")
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigError(
                f"{self.settings.run.name!r} is running already with the same output folder {path.parent}: "
                "stop it first, or give this run another [run] name and other detectors"
            ) from None
        return lock

    def _make_token(self) -> None:
        """A token for this run. Services that its user starts by hand find it in a file that nobody else can read."""
        self._identification = secrets.token_hex(32)
        path = token_path(self.settings)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(self._identification)
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        self._left_token = True

    def _wanted(self) -> list[tuple[str, str]]:
        ingesters = [("ingester", name) for name in self.settings.ingesters()]
        workers = [("worker", f"worker-{n}") for n in range(self.settings.workers.count)]
        return [(FIRST, FIRST), *ingesters, *workers, ("reducer", "reducer")]

    async def _spawn(self, role: str, name: str, store: str) -> Child:
        arguments = ["beamfold", role, str(self.settings.path), "--name", name, "--parent", str(os.getpid())]
        if role == FIRST:
            kinds = ("resume", "resume-again") if self._resume else ("fresh", "again")
            start = kinds[self._up]
            arguments += ["--token", self._token, "--start", start]
        env, inherit = self._environment(store), []
        guard = None
        if role == "worker":
            guard = Guard(self.settings.workers.time_limit, self.settings.workers.lease)
            env[CURSOR_VARIABLE] = str(guard.fd)
            inherit.append(guard.fd)
        child = await Child.start(role, name, arguments, env, self._show, inherit=inherit)
        self.children.append(child)
        if guard is not None:
            self._guards[child] = guard
        return child

    def _environment(self, store: str) -> dict[str, str]:
        """What the services are told besides the run file.

        What is started again serves people at the address where the one before did. Where the run file leaves the
        control address open they get one of the kernel's (it is no file), so that they know it beforehand and need not
        look for it in the store.
        """
        env = {**os.environ, STORE_VARIABLE: store, TOKEN_VARIABLE: self._identification}
        if not is_fixed(self.settings.controller.control):
            env[CONTROL_VARIABLE] = f"ipc://@beamfold-{self._token}"
        if self._up:
            env[REDUCER_HTTP_VARIABLE] = self.reducer_url.removeprefix("http://")
            env[CONTROLLER_HTTP_VARIABLE] = self.controller_url.removeprefix("http://")
        return env

    async def _unless_fatal(self, work: Any) -> None:
        """Do this part of coming up, and give it up as soon as a service ends."""
        task = asyncio.ensure_future(work)
        fatal = asyncio.create_task(self._fatal.wait())
        try:
            await asyncio.wait({task, fatal}, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.is_set():
                raise BeamfoldError(self._why)
            await task
        finally:
            task.cancel()
            fatal.cancel()
            await asyncio.gather(task, fatal, return_exceptions=True)

    async def _meet_controller(self, ledger: RedisLedger) -> None:
        while (there := await asyncio.to_thread(controller_address, ledger)) is None:
            await asyncio.to_thread(ledger.renew_owner, self._token, LEASE)
            await asyncio.sleep(POLL)
        self.controller_url = there["http"]
        self._context = Context()
        me = (
            "supervisor",
            "supervisor",
            uuid.uuid4().hex,
            version_of("beamfold"),
            os.getpid(),
            socket.gethostname(),
        )
        self._channel = ControlChannel(self._context, there["control"], proven(Hello(*me), self._identification))

    async def _gather_services(self) -> None:
        wanted = {(role, name) for role, name in self._wanted() if role != FIRST}
        while True:
            config = await ask(f"{self.controller_url}/api/v1/config")
            here = {(role, s["name"]) for role in ("ingester", "worker") for s in config[f"{role}s"]}
            if config["reducer"] is not None:
                here.add(("reducer", config["reducer"]["name"]))
                self.reducer_url = config["reducer"]["http"]
            if wanted <= here:
                return
            await asyncio.sleep(POLL)

    # -- while it runs ---------------------------------------------------------------------------------------

    async def _watch(self, child: Child, store: str) -> None:
        """Follow a service and those that take its place: each is started again when it ends."""
        series = 0
        while True:
            began = time.monotonic()
            how = await child.wait()
            if self._stopping:
                return
            self._tell_end(child, how)
            if self._fatal.is_set():
                return
            series = series + 1 if time.monotonic() - began < LIVED else 0
            if series > AT_ONCE:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (series - AT_ONCE), LONGEST_PAUSE))
            if self._stopping:
                return
            child = await self._replace(child, store)

    def _tell_end(self, child: Child, how: str) -> None:
        guard = self._guards.get(child)
        how = f"{how}: {child.why}" if child.why else how
        text = f"{child.title} (pid {child.pid}) ended: {how}"
        last = list(child.lines)[-SHOWN_LINES:]
        self._show("\n".join([f"beamfold: {text}", *(f"    {line}" for line in last)]))
        if not self._up:
            why = last[-1].removeprefix("beamfold: ") if last and "killed" not in how else text
            self._fail(why)
        elif child.role != FIRST and self._channel is not None:
            scan, event = guard.at if guard is not None else (0, -1)
            self._gone.append(Gone(child.role, child.name, how, child.pid, scan, event))
            self._channel.send(self._gone[-1])

    async def _replace(self, child: Child, store: str) -> Child:
        """Start a service again."""
        self.children.remove(child)
        if (guard := self._guards.pop(child, None)) is not None:
            guard.close()
        await child.close()
        new = await self._spawn(child.role, child.name, store)
        self._show(f"{new.title} was started again (pid {new.pid})")
        return new

    def _fail(self, why: str) -> None:
        self._why = self._why or why
        self._fatal.set()

    async def _look_after(self) -> None:
        """Keep the control channel going, and kill workers that hang."""
        assert self._channel is not None
        while True:
            try:
                if any(isinstance(message, Introduce) for message in self._channel.receive()):
                    for gone in self._gone:  # what was told to a controller that is gone itself
                        self._channel.send(gone)
            except ConfigError as error:
                self._fail(str(error))
            self._channel.beat(Beat)
            for child, guard in self._guards.items():
                if child.running and not child.why and (why := guard.look(child.pid, time.monotonic())):
                    child.why = why
                    child.kill()
            await asyncio.sleep(WATCH)

    async def _keep_store(self, store: EmbeddedStore) -> None:
        """Start the store again when it ends: at the same address, and with all that it had."""
        series, began, why = 0, time.monotonic(), "it was ended from outside"
        while True:
            await asyncio.sleep(WATCH)
            if store.alive:
                continue
            series = series + 1 if time.monotonic() - began < LIVED else 1
            if series > STORE_TRIES and await self._idle():
                return self._fail(f"the control store does not stay up, and without it nothing is recorded: {why}")
            if series > AT_ONCE:
                await asyncio.sleep(min(FIRST_PAUSE * 2 ** (series - AT_ONCE), LONGEST_PAUSE))
            self._show("beamfold: the control store ended")
            self._starting = asyncio.create_task(asyncio.to_thread(store.start))
            try:
                await asyncio.shield(self._starting)  # a thread cannot be given up
                self._show(f"the control store was started again (pid {store.pid})")
            except ConfigError as error:
                why = str(error)
                self._show(f"beamfold: {why}")
            began = time.monotonic()

    async def _idle(self) -> bool:
        """Whether there is no scan under way that can come to its end."""
        try:
            return bool((await ask(f"{self.controller_url}/api/v1/progress"))["finished"])
        except BeamfoldError:
            return True

    # -- for `beamfold status` -------------------------------------------------------------------------------

    @staticmethod
    def note_path(settings: RunFile) -> Path:
        """Where a run with a store of its own leaves its addresses: nobody else could find them."""
        return settings.output.directory.absolute() / f".{settings.run.name}.run.json"

    @staticmethod
    def store_path(settings: RunFile) -> Path:
        """Where a run's own store keeps its files, for as long as the run is up; also after it was killed."""
        return settings.output.directory.absolute() / f".{settings.run.name}.store"

    def _write_note(self) -> None:
        path = self.note_path(self.settings)
        note = {"pid": os.getpid(), "controller": self.controller_url, "reducer": self.reducer_url}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(note), encoding="utf-8")
        except OSError as error:
            raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write to the output folder {folder}: {error.strerror}; set [output] directory")
