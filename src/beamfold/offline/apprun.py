"""An app's classes and parameters, as one replay has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version as version_of
from pathlib import Path

from beamfold.app.hooks import ReducerHooks, WorkerHooks
from beamfold.app.loading import load_class, modules_of
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import ParameterBase, ParameterHistory, ParameterSet, merge_declared
from beamfold.model.report import ServiceState
from beamfold.model.stretches import NextBroadcast, no_broadcast
from beamfold.protocols.codec import TypeTable
from beamfold.reduce.batch import Batch
from beamfold.reduce.folder import Folder
from beamfold.work.results import ResultBuffer
from beamfold.work.runner import Runner

Version = tuple[int, int, dict[str, bytes]]
"""Parameters as they are recorded: version, the first event that they are valid for, raw values by name."""


class App:
    """The app, ready to be constructed. `parameters` are its versions, the first of them from event 0 on.

    `names` are those of the logical workers. `skip` leaves incomplete events out; `next_broadcast` is the map's, if
    there is one. What goes wrong on the way is in `troubles`. Raises AppError and ParameterError for what makes a
    replay impossible.
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
        self.names = list(names)
        self.troubles: list[str] = []
        self._worker = load_class(worker, base)
        self._reducer = load_class(reducer, base, beside=self._worker)
        self._skip = skip
        self._next_broadcast = next_broadcast
        workers, reducers = WorkerHooks(self._worker), ReducerHooks(self._reducer)
        declared = merge_declared(workers.describe_parameters(), reducers.describe_parameters())
        self.history = self._history(declared, parameters)
        # As live: constructed with what the scan was armed with, though a change may hold from event 0 on, too.
        self._first = self.history.entries()[0][1]

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

    def runner(self, worker: int) -> Runner:
        """Construct a logical worker. Raises AppError."""
        hooks = WorkerHooks(self._worker)
        hooks.construct(parameters=self._first, context={}, state=_state(self.names[worker]))
        return Runner(
            hooks,
            self.history,
            ResultBuffer(0, worker),
            types=TypeTable(modules_of(self._worker)),
            skip=self._skip,
            next_broadcast=self._next_broadcast,
        )

    def tick_interval(self, runner: Runner) -> float | None:
        """Seconds between ticks as this worker wants them, None = no ticks."""
        return runner.hooks.tick_interval(self._first)

    def folder(self) -> Folder:
        """Construct the reducer. Raises AppError."""
        hooks = ReducerHooks(self._reducer)
        hooks.construct(parameters=self._first, context={}, state=_state("reducer"))
        return Folder(hooks, self.history, self.types(), self.names, self._next_broadcast)

    def types(self) -> TypeTable:
        """The app's own types that results may be of."""
        return TypeTable({*modules_of(self._worker), *modules_of(self._reducer)})


def _state(name: str) -> ServiceState:
    return ServiceState(name, version_of("beamfold"))


def fold_all(folder: Folder, results: Iterable[tuple[Batch, Sequence[int]]]) -> None:
    """Fold results: of these batches, those of these parts."""
    folder.begin(math.inf)
    for batch, places in results:
        folder.fold(batch, places)
    folder.flush()
