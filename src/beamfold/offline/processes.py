"""The parts of a replay's logical workers in processes of their own, the fold in this one.

Every process plays the whole replay: it reads the files and comes by the same parts in the same order, because that
depends on nothing else. It runs those of its own logical workers and writes what became of them into its pipe; the main
process, which runs none, reads the pipes in the order of the parts. So nothing but results travels, they are folded as
in one process, and no process is further ahead than its pipe has room for. Captures the main process need not even
read, since one of the others tells it of every block what it has to know; of a recording it keeps the report.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from beamfold.app.garbage import calm_garbage_collector
from beamfold.model.errors import BeamfoldError, ConfigError, ReplayError
from beamfold.offline.apprun import App
from beamfold.offline.crew import NOBODY, Batches, Crew, LocalCrew, Ran, SharedFloat
from beamfold.offline.playback import Block, blocks
from beamfold.protocols.dumps import DumpEvent
from beamfold.protocols.messages import Failure

Play: TypeAlias = Callable[[Crew], tuple[object, Iterable[int]]]
"""Prepares the replay with this crew: a player and its steps. It travels to the processes."""

AHEAD = 1 << 20
"""Bytes of results that a process may be ahead of the fold: on a busy machine every wait for another process can take
milliseconds, so they should be few. Linux lets everybody have so much for a pipe, by default."""

_SPAWN = multiprocessing.get_context("spawn")  # a forked process would inherit threads' locks and open files


class _Told(NamedTuple):
    """What a process writes into its pipe for every run of parts."""

    worker: int
    ran: Ran


class _End(NamedTuple):
    """There is no further block; what was wrong with the captures."""

    troubles: list[str]


class _Member:
    """One of the processes, as the main one sees it."""

    def __init__(self, play: Play, workers: list[int], due: SharedFloat) -> None:
        self.workers = workers
        self._results, theirs = _SPAWN.Pipe(duplex=False)
        with suppress(OSError):  # a user with very many pipes gets no more room, and a small pipe does as well
            fcntl.fcntl(theirs.fileno(), fcntl.F_SETPIPE_SZ, AHEAD)
        self.process: SpawnProcess = _SPAWN.Process(target=_take_part, args=(play, workers, due, theirs), daemon=True)
        # Ctrl-C reaches every process of a terminal, but it is the main one that decides what it means.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def receive(self) -> object:
        """The next that it tells. Raises what went wrong there, and EOFError when it has ended."""
        told = self._results.recv()
        if isinstance(told, BeamfoldError):
            raise told
        return told

    def ending(self) -> str:
        """How it ended, once its pipe is closed."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self._results.close()


class ProcessCrew:
    """Runs parts in `processes` processes, each of which has some of the logical workers. A context manager."""

    reduces = True
    combines = False

    def __init__(self, play: Play, processes: int) -> None:
        self._play = play
        self._processes = processes
        self._due = _SPAWN.Value("d", NOBODY)  # kept, because its lock goes with it
        self._members: list[_Member] = []
        self._names: list[str] = []
        self._where = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.close()

    def join(self, app: App, *, ticking: bool) -> None:
        self._names = app.names
        workers, processes = len(app.names), self._processes
        if processes > workers:
            raise ConfigError(
                f"{processes} processes for {workers} logical worker{'s' * (workers > 1)}: each needs one of its own, "
                f"so take no more than {workers} (--processes), or of captures more logical workers (--nworkers)"
            )
        for number in range(processes):
            self._members.append(_Member(self._play, list(range(number, workers, processes)), self._due))

    def tick_at(self, worker: int, event: int) -> None:
        """Its process knows."""

    def blocks(self, source: Iterable[list[DumpEvent]], troubles: list[str]) -> Iterator[Block]:
        self._where = "the first events"
        while isinstance(told := self._receive(self._members[0]), Block):
            self._where = f"events {told.first} to {told.last}"
            yield told
            self._where = f"the events behind {told.last}"
        assert isinstance(told, _End)
        troubles += told.troubles

    def run(self, worker: int, batches: Batches) -> Ran | None:
        member = self._members[worker % self._processes]
        if events := [part.event for batch in batches for part in batch]:
            self._where = f"events {min(events)} to {max(events)}"
        told = self._receive(member)
        assert isinstance(told, _Told)
        if told.worker != worker:
            raise ReplayError(f"{self._what(member)} found other events: were the files changed meanwhile?")
        return told.ran

    def finish(self, last_event: int) -> list[Failure]:
        failures: list[Failure] = []
        self._where = "finish()"
        for member in self._members:
            told = self._receive(member)
            assert isinstance(told, list)
            failures += told
        return sorted(failures, key=lambda failure: self._names.index(failure.worker))

    def _receive(self, member: _Member) -> object:
        try:
            return member.receive()
        except EOFError:
            what = f"{self._what(member)} {member.ending()} in {self._where}"
            raise ReplayError(f"{what}; the replay cannot go on") from None

    def _what(self, member: _Member) -> str:
        return f"the process of {', '.join(self._names[worker] for worker in member.workers)}"


class _MemberCrew:
    """The crew of one of the processes: runs the parts of its logical workers and tells the main process."""

    reduces = False
    combines = False

    def __init__(self, workers: Sequence[int], due: SharedFloat, pipe: Connection) -> None:
        self._own = frozenset(workers)
        self._local = LocalCrew(workers, due)
        self._pipe = pipe

    def join(self, app: App, *, ticking: bool) -> None:
        self._local.join(app, ticking=ticking)
        self.combines = self._local.combines

    def tick_at(self, worker: int, event: int) -> None:
        self._local.tick_at(worker, event)

    def blocks(self, source: Iterable[list[DumpEvent]], troubles: list[str]) -> Iterator[Block]:
        if 0 not in self._own:
            yield from blocks(source)
            return
        for block in blocks(source):
            self._pipe.send(replace(block, events=[]))
            yield block
        self._pipe.send(_End(troubles))

    def run(self, worker: int, batches: Batches) -> Ran | None:
        if worker in self._own:
            envelope, troubles = self._local.run(worker, batches)
            self._pipe.send(_Told(worker, Ran([bytes(part) for part in envelope], troubles)))
        return None

    def finish(self, last_event: int) -> list[Failure]:
        self._pipe.send(self._local.finish(last_event))
        return []


def _take_part(play: Play, workers: Sequence[int], due: SharedFloat, pipe: Connection) -> None:
    """What runs in such a process."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    calm_garbage_collector()
    try:
        _, steps = play(_MemberCrew(workers, due, pipe))
        for _ in steps:
            pass
    except BeamfoldError as error:
        pipe.send(error)
    except BrokenPipeError:  # the main process is gone, and with it everybody who would want to know
        pass


def _follow_parent() -> None:
    """End with the main process, even where user code is busy: nobody else would end it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
