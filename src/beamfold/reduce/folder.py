"""The user's reducer class: every result folded once, its mistakes recorded, its timer kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import TIMER_DEFAULT_S, ReducerHooks
from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer, ResultData
from beamfold.model.parameters import ParameterHistory
from beamfold.protocols.codec import TypeTable, decode
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

    def fold(self, event: int, worker: int, body: Buffer, buffers: Sequence[Buffer]) -> None:
        """Fold one result. Its arrays are the app's own, to change as it likes.

        Whatever goes wrong is a failure of this event, and the scan goes on.
        """
        parameters = self.parameters.at(event)
        name = self._workers[worker]
        self.folded += 1
        try:
            payload = decode(body, buffers, self._types, writable=True)
        except CodecError as error:
            self._fail(event, "result", name, str(error))
            return
        result = ResultData(event, name, payload, parameters.hash)
        try:
            self.hooks.process_result(result, parameters)
        except USER_ERRORS as error:
            self._fail(event, "process_result", name, user_traceback(error))

    def _fail(self, event: int, where: str, worker: str, text: str) -> None:
        if self.failed and self.failed[-1][1] == event:
            self.failed[-1] = (self.failed[-1][0], event + 1)
        else:
            self.failed.append((event, event + 1))
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
