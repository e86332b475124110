"""The user's reducer class: every result folded once, its mistakes recorded, its timer kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import TIMER_DEFAULT_S, ReducerHooks
from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer, ResultData
from beamfold.model.parameters import ParameterHistory
from beamfold.model.runs import append_event
from beamfold.protocols.codec import Reader, TypeTable
from beamfold.protocols.messages import Failure, Run

LONGEST_PAUSE = 1e6
"""Seconds that are waited at most for the next `timer()`; the system cannot wait for any number."""

MAX_FAILURES = 100
"""Failures described per scan; all are counted."""


class Folder:
    """Folds one scan. `workers` are the names of its logical workers."""

    def __init__(
        self, hooks: ReducerHooks, parameters: ParameterHistory, types: TypeTable, workers: Sequence[str]
    ) -> None:
        self.hooks = hooks
        self.parameters = parameters
        self._types = types
        self._workers = workers
        self.failures: list[Failure] = []
        self.failed: list[Run] = []
        self.folded = 0

    def of_batch(self, worker: int, buffers: Sequence[Buffer]) -> Callable[[int, Buffer], None]:
        """What folds results of one batch: call it with event and body.

        Their arrays are the app's own, to change as it likes. Whatever goes wrong is a failure of this event, and the
        scan goes on.
        """
        name = self._workers[worker]
        decode = Reader(buffers, self._types, writable=True).decode
        at, process = self.parameters.at, self.hooks.process_result

        def fold(event: int, body: Buffer) -> None:
            parameters = at(event)
            self.folded += 1
            try:
                payload = decode(body)
            except CodecError as error:
                self._fail(event, "result", name, str(error))
                return
            try:
                process(ResultData(event, name, payload, parameters.hash), parameters)
            except USER_ERRORS as error:
                self._fail(event, "process_result", name, user_traceback(error))

        return fold

    def _fail(self, event: int, where: str, worker: str, text: str) -> None:
        append_event(self.failed, event)
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(Failure(event, where, worker, text))

    def finish(self, last_event: int) -> None:
        """Call the app's `finish`, if it has one."""
        if self.hooks.finish is None:
            return
        try:
            self.hooks.finish(self.parameters.at(last_event))
        except USER_ERRORS as error:
            self.failures.append(Failure(last_event, "finish", "reducer", user_traceback(error)))


class Timer:
    """Calls the app's `timer()` in a thread of its own, as often as it asks to be called."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self.error = ""
        self._thread = threading.Thread(target=self._run, name="timer", daemon=True)
        if folder.hooks.timer is not None:
            self._thread.start()

    def _run(self) -> None:
        pause: float | None = 0.0
        while not self._stop.wait(min(pause or 0.0, LONGEST_PAUSE)):
            try:
                pause = self._folder.hooks.run_timer(self._folder.parameters.latest)
            except USER_ERRORS as error:
                self.error = f"timer raised: {user_traceback(error)}"
                pause = TIMER_DEFAULT_S

    def stop(self) -> None:
        """No further call; one that is under way may still end."""
        self._stop.set()
