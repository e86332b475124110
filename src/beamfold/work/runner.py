"""The user's worker class: made anew for every scan, called for every part, its mistakes recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import WorkerHooks
from beamfold.model.errors import CodecError
from beamfold.model.events import EventData
from beamfold.model.parameters import ParameterHistory
from beamfold.model.states import EventState
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.stamps import Runs
from beamfold.work.machine import Part
from beamfold.work.results import ResultBuffer


class Runner:
    """Runs one scan's parts with the instance that `hooks` hold; what becomes of them is collected in `results`.

    `types` are the app's own types that may travel. `skip` leaves incomplete events out instead of processing what
    there is of them.
    """

    def __init__(
        self,
        hooks: WorkerHooks,
        parameters: ParameterHistory,
        results: ResultBuffer,
        *,
        types: TypeTable | None = None,
        skip: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = hooks.process_event
        self.hooks = hooks
        self.parameters = parameters
        self.results = results
        self._types = types
        self._skip = skip
        self._clock = clock
        self.tick = False
        self.spent: Runs = []

    def run(self, parts: Sequence[Part], seconds: float) -> int:
        """Process parts, of which there is one at least, in order until `seconds` have passed; returns how many were.

        `spent` then has the seconds that they took, in runs: only the last one can have taken long, the others have
        their mean.
        """
        clock, one = self._clock, self._one
        began = now = clock()
        deadline = began + seconds
        done = 0
        for part in parts:
            one(part)
            done += 1
            before, now = now, clock()
            if now >= deadline:
                break
        self.spent = [(done - 1, (before - began) / (done - 1))] if done > 1 else []
        self.spent.append((1, now - before))
        return done

    def _one(self, part: Part) -> None:
        event, k, streams, missing, version, call, _ = part
        results = self.results
        if not call or (missing and self._skip):
            state = EventState.INCOMPLETE_SKIPPED if missing else EventState.NO_RESULT
            results.add(event, k, version, state, b"", missing)
            return
        tick, self.tick = self.tick, False
        if tick:
            results.ticks.append(event)
        try:
            payload = self._process(EventData(event, streams), self.parameters.at(event), tick)
        except USER_ERRORS as error:  # a user's mistake is one event's failure, with its traceback
            results.fail(event, k, version, user_traceback(error), missing)
            return
        if payload is None:
            state = EventState.INCOMPLETE if missing else EventState.NO_RESULT
            results.add(event, k, version, state, b"", missing)
            return
        held = len(results.buffers)
        try:
            body = encode(payload, results.buffers, types=self._types)
        except CodecError as error:
            del results.buffers[held:]
            results.fail(event, k, version, f"process_event returned what cannot travel: {error}", missing)
            return
        state = EventState.INCOMPLETE if missing else EventState.REDUCED
        results.add(event, k, version, state, body, missing)

    def finish(self, last_event: int) -> None:
        """Call the app's `finish`, if it has one; errors are the caller's to record."""
        if self.hooks.finish is not None:
            self.hooks.finish(self.parameters.at(last_event))
