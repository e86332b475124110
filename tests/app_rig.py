"""The rig with a real app: its classes run as in the services, and results travel in their envelopes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from beamfold.app.hooks import ReducerHooks, WorkerHooks
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.model.triggermap import EVERYBODY
from beamfold.protocols import messages as m
from beamfold.protocols.codec import TypeTable
from beamfold.protocols.envelopes import ResultBatch, decode_header
from beamfold.reduce.batch import Batch
from beamfold.reduce.done import Done
from beamfold.reduce.folder import Folder
from beamfold.work.results import JoinedBuffer, ResultBuffer
from beamfold.work.runner import Runner
from rig import Rig, RigWorker


class AppRig(Rig):
    """Runs a worker and a reducer class, `classes`. One envelope of results in ten is delivered twice."""

    classes: ClassVar[tuple[type, type]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.runners: dict[str, Runner] = {}
        self.folder_of_results: Folder
        self.folds: list[Any] = []
        self.troubles: list[str] = []
        super().__init__(*args, **kwargs)

    @property
    def publish(self) -> Any:
        return self.folder_of_results.hooks.publish

    def _construct(self, hooks: WorkerHooks | ReducerHooks, arm: m.Arm) -> ParameterHistory:
        first = ParameterSet.build([], arm.parameters, arm.version)
        hooks.construct(parameters=first, context={}, state=None)
        return ParameterHistory([(0, first)])

    def _to_worker(self, w: RigWorker, src: str, payload: Any) -> None:
        if isinstance(payload, m.Parameters) and w.machine is not None and payload.scan == w.scan:
            values = ParameterSet.build([], payload.values, payload.version)
            self.runners[w.name].parameters.append(payload.from_event, values)
        super()._to_worker(w, src, payload)
        if isinstance(payload, m.Arm):
            hooks, machine = WorkerHooks(self.classes[0]), w.machine
            history = self._construct(hooks, payload)
            assert machine is not None
            self.runners[w.name] = Runner(
                hooks,
                history,
                JoinedBuffer(payload.scan, w.me, self.troubles.append)
                if w.joined
                else ResultBuffer(payload.scan, w.me),
                next_broadcast=lambda event: machine.map.next_broadcast(event, EVERYBODY),
            )

    def _work(self, w: RigWorker) -> None:
        if w.machine is None:
            return
        parts, runner = w.machine.take(self.random.choice([1, 3, 50])), self.runners[w.name]
        while parts:
            done = runner.run(parts, self.random.choice([0.0, 1e9]))
            self.processed += [(w.me, p) for p in parts[:done]]
            parts = parts[done:]
            envelope = runner.results.take()[0] if len(runner.results) else []
            for _ in range(self.random.choice([1] * 9 + [2]) if envelope else 0):
                self.post(w.name, "reducer", (w.scan, envelope))
            if not parts:
                self.post("self", w.name, "work")

    def _to_reducer(self, src: str, payload: Any) -> None:
        if isinstance(payload, m.Parameters) and self.reduce is not None:
            values = ParameterSet.build([], payload.values, payload.version)
            self.folder_of_results.parameters.append(payload.from_event, values)
            self._fold()
        elif isinstance(payload, tuple):
            scan, envelope = payload
            if scan == self.reduce_scan and self.reduce is not None:
                self._take_results(src, envelope)
                self._fold()
        else:
            super()._to_reducer(src, payload)
            if isinstance(payload, m.Fill) and payload.joined is not None and self.reduce is not None:
                names = self.folder_of_results.workers
                names += [payload.joined.name] * (payload.worker == len(names))
            if isinstance(payload, m.Arm):
                self._new_folder(payload)

    def _new_folder(self, arm: m.Arm) -> None:
        hooks, machine = ReducerHooks(self.classes[1]), self.reduce
        history = self._construct(hooks, arm)
        assert machine is not None
        self.folds = []
        self.folder_of_results = Folder(
            hooks,
            history,
            TypeTable([]),
            [w.name for w in arm.workers],
            lambda event: machine.map.next_broadcast(event, EVERYBODY),
        )

    def _take_results(self, src: str, envelope: list[Any]) -> None:
        header, reduce = decode_header(envelope[0]), self.reduce
        assert isinstance(header, ResultBatch) and reduce is not None and self.reduce_map is not None
        batch = Batch(header, envelope[1:])
        if self.fillers[batch.worker] != src:
            return
        if reduce.torn(batch.events, batch.k, batch.combined) is not None:
            assert all(w.dead for w in self.workers if w.name == src), "only what a lost one said at last is too late"
            self.post(self.reducer, "controller", m.Torn(self.reduce_scan, batch.worker, src, "refused"))
            return
        before = reduce.duplicates
        fresh, completed = reduce.logged(batch, batch.events, batch.k, batch.states, self.now, batch.places)
        done = Done(self.reduce_map.streams, [w.place for w in self.workers], recorded=True)
        done.add(header, batch, fresh, completed, envelope[1:])
        told = done.message(self.reduce_scan, reduce.frontier, self.closed, reduce.duplicates - before)
        self._tell(told)

    def _fold(self) -> None:
        if self.reduce is None:
            return
        folder = self.folder_of_results
        self.folds += self.reduce.fold(self.now)
        folder.begin(math.inf)
        while self.folds and self.folds[0].batch.version <= folder.parameters.latest.version:
            fold = self.folds.pop(0)
            folder.fold(fold.batch, fold.index)
        folder.flush()
        if not self.folds:
            self._tell_finished()
