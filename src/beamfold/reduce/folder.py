"""The user's reducer class: every result folded once, its mistakes recorded, its timer kept.

`process_results` gets as many results as are ready and fit into the time there is, in the order of the fold; never
across a change of the parameters or a broadcast event, and what is broadcast goes through `process_result` alone. When
it raises nobody knows what of them it had folded, so that all of their events have failed: to fold them again, one by
one, could count some twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from beamfold.app.batchsize import BatchSize
from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import TIMER_DEFAULT_S, ReducerHooks
from beamfold.model.errors import CodecError
from beamfold.model.events import ResultData
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.model.runs import RunSet
from beamfold.model.stretches import NextBroadcast, Stretches, no_broadcast
from beamfold.protocols.codec import Reader, TypeTable
from beamfold.protocols.messages import Failure
from beamfold.reduce.batch import Batch

LONGEST_PAUSE = 1e6
"""Seconds that are waited at most for the next `timer()`; the system cannot wait for any number."""

MAX_FAILURES = 100
"""Failures described per scan; all are counted."""

LOOK = 32
"""Results folded between two looks at the clock."""


class Folder:
    """Folds one scan. `workers` are the names of its logical workers, which may become more; `next_broadcast` is its
    map's.

    `failed` are events of which a result could not be folded; whoever tells of them takes them out. `timing` is held
    while the app's `timer()` runs.
    """

    def __init__(
        self,
        hooks: ReducerHooks,
        parameters: ParameterHistory,
        types: TypeTable,
        workers: list[str],
        next_broadcast: NextBroadcast = no_broadcast,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hooks = hooks
        self.parameters = parameters
        self._types = types
        self.workers = workers
        self._next_broadcast = next_broadcast
        self._clock = clock
        self._size = BatchSize()
        self._stretches = Stretches(parameters, next_broadcast)
        self._gathered: list[ResultData] = []
        self._sources: list[tuple[Batch, int]] = []
        self._end = 0
        self._deadline = 0.0
        self._limit = 1
        self.timing = threading.Lock()
        self.failures: list[Failure] = []
        self.failed = RunSet()
        self.folded = 0

    def begin(self, deadline: float) -> None:
        """Results will be folded until about then, by the clock; parameters and map may have changed since."""
        self._deadline = deadline
        self._limit = self._size.within(deadline - self._clock())
        self._stretches = Stretches(self.parameters, self._next_broadcast)

    def fold(self, batch: Batch, places: Sequence[int]) -> int:
        """Fold results of one batch, in this order, until the deadline; how many, at least one.

        Their arrays are the app's own, to change as it likes. Whatever goes wrong is a failure of their events, and the
        scan goes on. `process_results` may have to wait for more: call `flush` before anybody looks.
        """
        name, decode = self.workers[batch.worker], Reader(batch.buffers, self._types, writable=True).decode
        process = self.hooks.process_result if self.hooks.process_results is None else None
        bodies, at, done = batch.bodies, self.parameters.at, 0
        for done, (place, event) in enumerate(zip(places, batch.events[places].tolist(), strict=True), 1):
            parameters = at(event)
            try:
                result = ResultData(event, name, decode(bodies[place]), parameters.hash)
            except CodecError as error:
                self._fail([(batch, place)], "result", str(error))
                continue
            if process is None:
                self._gather(result, parameters, batch, place)
            else:
                try:
                    process(result, parameters)
                except USER_ERRORS as error:
                    self._fail([(batch, place)], "process_result", user_traceback(error))
            if done % LOOK == 0 and self._clock() >= self._deadline:
                break
        self.folded += done
        return done

    def _gather(self, result: ResultData, parameters: ParameterSet, batch: Batch, place: int) -> None:
        event = result.event_number
        end = self._stretches.end(event)
        if event == end or batch.broadcast(place):
            self.flush()
            try:
                self.hooks.process_result(result, parameters)
            except USER_ERRORS as error:
                self._fail([(batch, place)], "process_result", user_traceback(error))
            return
        if end != self._end:
            self.flush()
            self._end = end
        self._gathered.append(result)
        self._sources.append((batch, place))
        if len(self._gathered) >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Let `process_results` have what was gathered."""
        results, sources = self._gathered, self._sources
        if not results:
            return
        self._gathered, self._sources = [], []
        began = self._clock()
        assert self.hooks.process_results is not None
        try:
            self.hooks.process_results(results, self.parameters.at(results[0].event_number))
        except USER_ERRORS as error:
            self._fail(sources, "process_results", user_traceback(error))
        now = self._clock()
        self._size.took(len(results), now - began)
        self._limit = self._size.within(self._deadline - now)

    def _fail(self, sources: Sequence[tuple[Batch, int]], hook: str, text: str) -> None:
        """Results could not be folded: so have failed all of the events that are in them."""
        events = [event for batch, place in sources for event in batch.events_of(place).tolist()]
        for event in events:
            self.failed.add(event, event + 1)
        if len(self.failures) < MAX_FAILURES:
            worker = self.workers[sources[0][0].worker]
            several = f"for {len(events)} events from {min(events)} to {max(events)}: " if len(events) > 1 else ""
            self.failures.append(Failure(events[0], hook, worker, f"{several}{text}"))

    def finish(self, last_event: int) -> None:
        """Call the app's `finish`, if it has one."""
        if self.hooks.finish is None:
            return
        try:
            self.hooks.finish(self.parameters.at(last_event))
        except USER_ERRORS as error:
            self.failures.append(Failure(last_event, "finish", "reducer", user_traceback(error)))


class Timer:
    """Calls the app's `timer()` in a thread of its own, as often as it asks to be called, from `start` on."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self.error = ""

    def start(self) -> None:
        """Call it, if the app has one."""
        # A thread that is kept refers to us until it has run: its state would be garbage that only a search finds.
        if self._folder.hooks.timer is not None:
            threading.Thread(target=self._run, name="timer", daemon=True).start()

    def _run(self) -> None:
        pause: float | None = 0.0
        while not self._stop.wait(min(pause or 0.0, LONGEST_PAUSE)):
            try:
                with self._folder.timing:
                    pause = self._folder.hooks.run_timer(self._folder.parameters.latest)
            except USER_ERRORS as error:
                self.error = f"timer raised: {user_traceback(error)}"
                pause = TIMER_DEFAULT_S

    def stop(self) -> None:
        """No further call; one that is under way may still end."""
        self._stop.set()
