"""An app's classes, constructed for one replay: a worker for every logical worker, and the reducer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import ReducerHooks, WorkerHooks
from beamfold.app.loading import load_class, modules_of
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import ParameterBase, ParameterHistory, ParameterSet, merge_declared
from beamfold.model.report import ServiceState
from beamfold.model.stretches import NextBroadcast, no_broadcast
from beamfold.protocols.codec import TypeTable
from beamfold.protocols.messages import Failure
from beamfold.reduce.batch import Batch
from beamfold.reduce.folder import Folder
from beamfold.work.results import ResultBuffer
from beamfold.work.runner import Runner

FOREVER = 1e9
"""Seconds that a runner may take for one batch: here nothing else waits for its turn."""

Version = tuple[int, int, dict[str, bytes]]
"""Parameters as they are recorded: version, the first event that they are valid for, raw values by name."""


class AppRun:
    """The app, ready to process. `parameters` are its versions, the first of them from event 0 on.

    `skip` leaves incomplete events out; `next_broadcast` is the map's, if there is one. What goes wrong on the way is
    in `troubles`. Raises AppError and ParameterError for what makes a replay impossible.
    """

    def __init__(
        self,
        worker: str,
        reducer: str,
        base: Path,
        names: Sequence[str],
        parameters: Sequence[Version],
        *,
        skip: bool = False,
        next_broadcast: NextBroadcast = no_broadcast,
    ) -> None:
        worker_class = load_class(worker, base)
        reducer_class = load_class(reducer, base, beside=worker_class)
        hooks = [WorkerHooks(worker_class) for _ in names]
        reducer_hooks = ReducerHooks(reducer_class)
        declared = merge_declared(hooks[0].describe_parameters(), reducer_hooks.describe_parameters())
        self.names = list(names)
        self.troubles: list[str] = []
        self.history = self._history(declared, parameters)
        # As live: constructed with what the scan was armed with, though a change may hold from event 0 on, too.
        first, version = self.history.entries()[0][1], version_of("beamfold")
        for name, each in zip(names, hooks, strict=True):
            each.construct(parameters=first, context={}, state=ServiceState(name, version))
        travelling = TypeTable(modules_of(worker_class))
        self.runners = [
            Runner(each, self.history, ResultBuffer(0, n), types=travelling, skip=skip, next_broadcast=next_broadcast)
            for n, each in enumerate(hooks)
        ]
        reducer_hooks.construct(parameters=first, context={}, state=ServiceState("reducer", version))
        types = TypeTable({*modules_of(worker_class), *modules_of(reducer_class)})
        self.folder = Folder(reducer_hooks, self.history, types, self.names, next_broadcast)
        self.tick_interval = hooks[0].tick_interval(first)

    def _history(self, declared: Sequence[ParameterBase], versions: Sequence[Version]) -> ParameterHistory:
        (number, _, raw), *later = versions
        history = ParameterHistory([(0, ParameterSet.build(declared, raw, number))])
        for number, event, raw in later:
            try:
                history.append(event, ParameterSet.build(declared, raw, number))
            except ParameterError as error:  # live it was not applied either
                self.troubles.append(f"parameter version {number} was not applied: {error}")
                history.append(event, history.latest.renumbered(number))
        return history

    def fold(self, results: Iterable[tuple[Batch, Sequence[int]]]) -> None:
        """Fold results: of these batches, those of these parts."""
        self.folder.begin(math.inf)
        for batch, places in results:
            self.folder.fold(batch, places)
        self.folder.flush()

    @property
    def publish(self) -> Any:
        """The reducer's state as it is now."""
        return self.folder.hooks.publish

    def finish(self, last_event: int) -> list[Failure]:
        """Call everybody's `finish`, the reducer's last; returns what they raised, and what folding did."""
        failures = []
        for name, runner in zip(self.names, self.runners, strict=True):
            try:
                runner.finish(last_event)
            except USER_ERRORS as error:
                failures.append(Failure(last_event, "finish", name, user_traceback(error)))
        self.folder.finish(last_event)
        return failures + self.folder.failures
