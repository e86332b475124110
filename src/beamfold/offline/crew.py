"""Who runs the parts of the logical workers in a replay: this process, or several.

A replay hands out parts in the same order whoever runs them, and gets the results of each run in the form in which they
travel live, so that what cannot travel shows here as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.model.events import Buffer
from beamfold.offline.apprun import App
from beamfold.offline.playback import Block, blocks
from beamfold.protocols.dumps import DumpEvent
from beamfold.protocols.messages import Failure
from beamfold.work.machine import Part
from beamfold.work.runner import Runner

FOREVER = 1e9
"""Seconds that a runner may take for one batch: here nothing else waits for its turn."""

Batches = Sequence[Sequence[Part]]
"""Parts that are run one batch after the other: what is combined is of one of them."""


class Ran(NamedTuple):
    """What became of parts: the envelope of their results, empty where there are none, and what else a person reads."""

    envelope: list[Buffer]
    troubles: list[str]


class Crew(Protocol):
    """Runs parts."""

    reduces: bool
    """Whether results are folded in this process."""

    combines: bool
    """Whether it matters which parts are in one batch, because results are combined here."""

    def join(self, app: App, *, ticking: bool) -> None:
        """Construct the logical workers; with `ticking` they tick as often as they want to. Raises AppError."""

    def tick_at(self, worker: int, event: int) -> None:
        """This event ticks at this logical worker."""

    def blocks(self, source: Iterable[list[DumpEvent]], troubles: list[str]) -> Iterator[Block]:
        """The blocks of captures, whose parts are then run. `source` may add to the troubles that it has found."""

    def run(self, worker: int, batches: Batches) -> Ran | None:
        """Run parts of a logical worker; None where that happens elsewhere and nothing is told."""

    def finish(self, last_event: int) -> list[Failure]:
        """Call every worker's `finish`; returns what they raised."""


class SharedFloat(Protocol):
    """A number that several processes see, as `multiprocessing.Value("d")`."""

    value: float

    def get_lock(self) -> AbstractContextManager[object]:
        """Held while it is looked at and changed."""


NOBODY = float("-inf")
"""No worker has ticked yet. Logical worker 0 is the first to, so that at least the first tick is always the same."""


class _Unshared:
    value = NOBODY

    def get_lock(self) -> AbstractContextManager[object]:
        return nullcontext()


class Ticks:
    """Decides which parts tick: one in `interval` seconds, of all logical workers together.

    `due` is when (by the monotonic clock) the next one is due, or `NOBODY`.
    """

    def __init__(self, interval: float, due: SharedFloat) -> None:
        self._interval = interval
        self._due = due

    def take(self, worker: int) -> tuple[bool, float]:
        """Whether the next part of this worker ticks, and for how many seconds none can."""
        with self._due.get_lock():
            now, due = time.monotonic(), self._due.value
            if due == NOBODY:
                ticks = worker == 0
            else:
                ticks = now >= due
            if ticks:
                due = self._due.value = now + self._interval
        return ticks, max(due - now, 0.0)


class LocalCrew:
    """Runs the parts of these logical workers here; all if none are named."""

    reduces = True
    combines = False

    def __init__(self, workers: Iterable[int] | None = None, due: SharedFloat | None = None) -> None:
        self._workers = None if workers is None else list(workers)
        self._due = due
        self._runners: dict[int, Runner] = {}
        self._names: list[str] = []
        self._ticks: Ticks | None = None

    def join(self, app: App, *, ticking: bool) -> None:
        self._names = app.names
        self._runners = {n: app.runner(n) for n in (range(len(app.names)) if self._workers is None else self._workers)}
        self.combines = any(runner.hooks.combine is not None for runner in self._runners.values())
        interval = app.tick_interval(next(iter(self._runners.values()))) if ticking else None
        self._ticks = None if interval is None else Ticks(interval, self._due or _Unshared())

    def tick_at(self, worker: int, event: int) -> None:
        if worker in self._runners:
            self._runners[worker].tick_at.add(event)

    def blocks(self, source: Iterable[list[DumpEvent]], troubles: list[str]) -> Iterator[Block]:
        return blocks(source)

    def run(self, worker: int, batches: Batches) -> Ran:
        runner = self._runners[worker]
        for batch in batches:
            self._run(worker, runner, batch)
        troubles, runner.troubles = runner.troubles, []
        return Ran(runner.results.take()[0] if len(runner.results) else [], troubles)

    def _run(self, worker: int, runner: Runner, parts: Sequence[Part]) -> None:
        if self._ticks is None:
            runner.run(parts, FOREVER)
            return
        while parts:
            runner.tick, seconds = self._ticks.take(worker)
            parts = parts[runner.run(parts, seconds) :]

    def finish(self, last_event: int) -> list[Failure]:
        failures = []
        for worker, runner in self._runners.items():
            try:
                runner.finish(last_event)
            except USER_ERRORS as error:
                failures.append(Failure(last_event, "finish", self._names[worker], user_traceback(error)))
        return failures
