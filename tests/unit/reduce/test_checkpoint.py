"""A reducer that goes on from a checkpoint ends as one that was never disturbed, or that folded everything again."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from beamfold.model.states import EventState
from beamfold.model.triggermap import compile_map
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.envelopes import ResultBatch
from beamfold.protocols.messages import (
    Armed,
    Close,
    Drop,
    End,
    Failed,
    Finish,
    Finished,
    FoldFailed,
    Introduce,
    Inventory,
    Parameters,
    PartsDone,
)
from beamfold.publish.store import FileStore
from beamfold.reduce import checkpoint as checkpoint_module
from beamfold.reduce import service as service_module
from beamfold.reduce.service import ReducerService
from beamfold.reduce.told import Told
from scripted import Control, Hub, Step, Until, arm

EVENTS = 12
MAP = compile_map({"streams": ["camera"], "events": EVENTS}, True)


@pytest.fixture(autouse=True, scope="module")
def _without_pauses() -> Iterator[None]:
    """As many checkpoints as there can be; and what was lost does not come late."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "SHARE", 0)
        patch.setattr(service_module, "LOSS_PATIENCE", 0.0)
        yield


class ByAttributes:
    """Publishes an array that it also has itself, in the order of the fold; and raises for some."""

    def __init__(self, parameters: Any = None) -> None:
        self.bins = np.zeros(4)
        self.order: list[Any] = []
        self.publish: dict[str, Any] = {"bins": self.bins, "order": self.order}
        self.publish_rlock = threading.RLock()

    def process_result(self, result: Any, parameters: Any = None) -> None:
        event, value = result.event_number, result.payload
        self.bins[event % 4] = self.bins[event % 4] * 1.5 + value
        self.order.append([event, result.worker, value, parameters.version])
        if value == 13:
            raise ValueError("unlucky")


class ByHooks(ByAttributes):
    def checkpoint(self) -> Any:
        return {"publish": self.publish, "bins": self.bins}

    def restore(self, state: Any) -> None:
        self.publish, self.bins = state["publish"], state["bins"]
        self.order = self.publish["order"]


class Many(ByHooks):
    """Raises for none: all that were in the same call would have failed, and which these are is chance."""

    def process_results(self, results: Any, parameters: Any = None) -> None:
        for result in results:
            with suppress(ValueError):
                self.process_result(result, parameters)


class Life:
    """One reducer's process: a script, and what it came to."""

    def __init__(
        self, folder: Path, app: type, steps: list[Any], *, settle: bool = True, idle: bool = False, **arming: Any
    ) -> None:
        self.hub = Hub()
        self.control = Control() if idle else Control(arm(MAP, **arming))
        self.service = ReducerService(
            lambda: app,
            self.control,  # type: ignore[arg-type]
            self.hub,  # type: ignore[arg-type]
            FileStore(folder, hdf5=False),
            folder / "results",
            types=lambda cls: TypeTable([]),
            shown=folder / ".shown",
            checkpoint_any=app.__name__ != "ByHooks",
            checkpoint_pause=1e-9,
        )
        for step in steps:
            self.control.steps += [step(self) if callable(step) else step, *([self._wait] if settle else [])]
        self.inventory: PartsDone | None = None
        try:
            self.service.run()
            if (scan := self.service._scan) is not None:
                self.inventory = scan.told_all.inventory(1)
        finally:
            self.service.close()
            self.control.close()
            self.hub.close()

    def _wait(self) -> None:
        """Until what is being saved is on the disk."""
        scan = self.service._scan
        if scan is not None and scan.checkpoints is not None:
            scan.checkpoints.wait()

    @property
    def publish(self) -> Any:
        return self.service._snapshot()

    def said(self, kind: type) -> list[Any]:
        return self.control.said(kind)


Script = Callable[[Life], Step | Until]


@dataclass(frozen=True)
class Results:
    """These results arrive."""

    header: ResultBatch
    values: list[int]

    def __call__(self, life: Life) -> Callable[[], None]:
        bodies = [encode(value, []) for value in self.values]
        if self.header.combined:
            bodies[1:] = [b""] * (len(bodies) - 1)
        sizes = np.array([len(body) for body in bodies], "<u4").tobytes()
        return life.hub.put(
            f"w{self.header.worker}", msgspec.structs.replace(self.header, sizes=sizes), b"".join(bodies)
        )


def batch(first: int, n: int = 1, worker: int = 0, version: int = 1, **more: Any) -> ResultBatch:
    facts = {"events": (first, 1), "k": 0, "states": int(EventState.REDUCED), **more}
    return ResultBatch(1, worker, n, version, sizes=b"", failures=[], missing=[], ticks=[], **facts)


def broadcast(event: int, worker: int, version: int = 1) -> Results:
    return Results(batch(event, worker=worker, version=version, k=-1 - worker), [event])


def data(first: int, n: int = 1, worker: int = 0, version: int = 1, **more: Any) -> Results:
    return Results(batch(first, n, worker, version, **more), [10 + e for e in range(first, first + n)])


@dataclass(frozen=True)
class Said:
    """Until the reducer has said this."""

    kind: type

    def __call__(self, life: Life) -> Until:
        return Until(lambda: life.said(self.kind))


def folded(count: int) -> Script:
    def reached(life: Life) -> bool:
        scan = life.service._scan
        return scan is not None and scan.folder.folded >= count

    return lambda life: Until(lambda: reached(life))


START: list[Any] = [broadcast(0, 0), broadcast(0, 1)]


def saved(folder: Path) -> list[Path]:
    return sorted((folder / "results").glob("scan-1/checkpoint.*"))


def undisturbed(events: range, change: int = 1 << 40) -> dict[str, Any]:
    """What ByAttributes publishes of these data events, of worker 0, and the start event."""
    reducer = ByAttributes()
    rows = [(0, "w0", 0), (0, "w1", 0), *((e, "w0", 10 + e) for e in events)]
    for event, worker, value in rows:
        reducer.bins[event % 4] = reducer.bins[event % 4] * 1.5 + value
        reducer.order.append([event, worker, value, 2 if event >= change else 1])
    return reducer.publish


def equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a["bins"], b["bins"]) and a["order"] == b["order"])


@pytest.mark.parametrize("app", [ByAttributes, ByHooks, Many])
@pytest.mark.parametrize("record", [False, True])
def test_what_is_in_a_checkpoint_is_not_folded_again(
    tmp_path: Path, app: type, record: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"record": str(tmp_path)} if record else {}
    Life(tmp_path, app, [*START, data(1, 5), folded(7)], **more)
    assert len(saved(tmp_path)) == checkpoint_module.KEEP
    again: list[int] = []
    process = ByAttributes.process_result

    def counted(self: Any, result: Any, parameters: Any = None) -> None:
        again.append(result.event_number)
        process(self, result, parameters)

    monkeypatch.setattr(ByAttributes, "process_result", counted)
    second = Life(tmp_path, app, [data(1, 5), data(6, 2), folded(9)], **more)
    assert again == [6, 7]
    assert equal(second.publish, undisturbed(range(1, 8)))
    (inventory,) = [m for m in second.said(PartsDone) if m.inventory]
    assert inventory.frontier == 6
    assert inventory.completed == [(0, 6, EventState.REDUCED)]
    assert (len(inventory.logged) > 0) is record
    assert second.service.progress.folded == 2


def test_parts_that_wait_behind_a_hole_are_folded_after_it_was_filled(tmp_path: Path) -> None:
    Life(tmp_path, ByHooks, [*START, data(3, 3), data(7, 1), data(1, 1), folded(3)], fold_patience=1000.0)
    assert saved(tmp_path)
    second = Life(tmp_path, ByHooks, [data(2, 1), data(6, 1), folded(9)], fold_patience=1000.0)
    assert equal(second.publish, undisturbed(range(1, 8)))


def test_parameters_are_those_of_the_event_before_and_after(tmp_path: Path) -> None:
    change = Parameters(1, 2, {}, 3)
    Life(tmp_path, ByHooks, [*START, change, data(1, 4, version=2), folded(6)])
    second = Life(tmp_path, ByHooks, [data(5, 1, version=2), change, data(6, 1, version=2), folded(8)])
    assert equal(second.publish, undisturbed(range(1, 7), change=3))


def test_results_whose_parameters_never_come_end_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "PARAMETERS_PATIENCE", 0.0)
    life = Life(tmp_path, ByHooks, [*START, data(1, version=7), Said(Failed)])
    (failed,) = life.said(Failed)
    assert "version 7 of the parameters" in failed.reason and "version 1 only" in failed.reason
    assert equal(life.publish, undisturbed(range(0)))


NOTES = "beamfold.reduce.checkpoint"


def cut_off(folder: Path) -> None:
    for segment in folder.glob("*/scan-1/checkpoint.*/*.segment"):
        segment.write_bytes(segment.read_bytes()[:-1])


def flip(folder: Path) -> None:
    for segment in folder.glob("*/scan-1/checkpoint.*/*.segment"):
        whole = bytearray(segment.read_bytes())
        whole[-3] ^= 1
        segment.write_bytes(whole)


def empty(folder: Path) -> None:
    for segment in folder.glob("*/scan-1/checkpoint.*/*.segment"):
        segment.unlink()


def newest_only(folder: Path) -> None:
    (segment,) = saved(folder)[-1].glob("*.segment")
    segment.write_bytes(b"nonsense")


def of_another(folder: Path) -> None:
    """Checkpoints that another scan has left."""
    scan = folder / "results" / "scan-1"
    kept = folder / "kept"
    shutil.move(scan, kept)
    Life(folder, ByHooks, [*START, folded(2)], scan_id="other")
    other = folder / "results" / "other"
    for path in kept.glob("checkpoint.*"):
        shutil.rmtree(path)
    for path in other.glob("checkpoint.*"):
        shutil.move(path, kept / path.name)
    shutil.move(kept, scan)


@pytest.mark.parametrize("harm", [cut_off, flip, empty, of_another, newest_only])
def test_a_checkpoint_that_is_not_whole_or_of_another_scan_is_not_used(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    Life(tmp_path, ByHooks, [*START, data(1, 5), folded(7)])
    harm(tmp_path)
    with caplog.at_level(logging.WARNING, NOTES):
        second = Life(tmp_path, ByHooks, [data(6, 1), folded(8)])
    assert equal(second.publish, undisturbed(range(1, 7)))
    assert [r for r in caplog.records if "is not used" in r.message]


def test_a_checkpoint_of_other_code_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "reducer.py"
    source.write_text("one")
    monkeypatch.setattr(checkpoint_module, "files_of", lambda types: {str(source): checkpoint_module._digest(source)})
    Life(tmp_path, ByHooks, [*START, data(1, 5), folded(7)])
    source.write_text("two")
    with caplog.at_level(logging.WARNING, NOTES):
        second = Life(tmp_path, ByHooks, [data(6, 1), folded(8)])
    assert equal(second.publish, undisturbed(range(1, 7)))
    assert f"{source} was changed since" in caplog.text


def test_a_log_that_lacks_what_is_in_a_checkpoint_outranks_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Life(tmp_path, ByHooks, [*START, data(1, 5), folded(7)])
    (segment,) = (tmp_path / "results" / "scan-1").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])
    shutil.rmtree(saved(tmp_path)[0])
    with caplog.at_level(logging.WARNING, NOTES):
        second = Life(tmp_path, ByHooks, [data(1, 5), folded(7)])
    assert equal(second.publish, undisturbed(range(1, 6)))
    assert "the result log does not reach as far" in caplog.text


def test_a_restore_that_raises_leaves_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(ByHooks):
        def restore(self, state: Any) -> None:
            super().restore(state)
            raise RuntimeError("not today")

    Life(tmp_path, ByHooks, [*START, data(1, 5), folded(7)])
    with caplog.at_level(logging.WARNING, NOTES):
        second = Life(tmp_path, Fails, [data(6, 1), folded(8)])
    assert equal(second.publish, undisturbed(range(1, 7)))
    assert "not today" in caplog.text


class Locked(ByAttributes):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Raises(ByHooks):
    def checkpoint(self) -> Any:
        raise RuntimeError("no state today")


class Remembers(ByAttributes):
    def __init__(self, context: Any) -> None:
        super().__init__()
        self.context = context
        context["n"] = 0


@pytest.mark.parametrize(
    ("app", "text"), [(Locked, "_thread.lock"), (Raises, "no state today"), (Remembers, "the context")]
)
def test_a_state_that_cannot_be_saved_is_said_once_and_folded_again(
    tmp_path: Path, app: type, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, NOTES):
        Life(tmp_path, app, [*START, *[data(n) for n in range(1, 6)], folded(7)])
    (note,) = caplog.records
    assert text in note.message and "cannot be saved" in note.message
    assert not saved(tmp_path)
    assert equal(Life(tmp_path, app, [data(6), folded(8)]).publish, undisturbed(range(1, 7)))


def test_no_checkpoint_is_made_while_the_timer_runs_nor_the_timer_called_while_one_is_made(tmp_path: Path) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    class Timed(ByHooks):
        inside = 0

        def timer(self) -> float:
            type(self).inside += 1
            at_work.set()
            assert go_on.wait(20)
            self.inside -= 1
            type(self).inside = 0
            return 1000.0

        def checkpoint(self) -> Any:
            assert not type(self).inside
            return super().checkpoint()

    before: list[Path] = []
    life = [
        *START,
        lambda life: at_work.wait,
        data(1, 3),
        folded(5),
        lambda life: lambda: before.extend(saved(tmp_path)),
        lambda life: go_on.set,
        lambda life: Until(lambda: saved(tmp_path) != before),
    ]
    Life(tmp_path, Timed, life, settle=False)
    second = Life(tmp_path, Timed, [data(4), folded(6)])
    assert equal(second.publish, undisturbed(range(1, 5)))


def test_after_finish_none_is_made_and_what_was_published_is_shown_again(tmp_path: Path) -> None:
    class Finishes(ByHooks):
        def finish(self) -> None:
            self.publish["finished"] = self.publish.get("finished", 0) + 1

    finish = [Finish(1), Said(Finished)]
    Life(tmp_path, Finishes, [*START, data(1, 5), folded(7), *finish, data(6), folded(8)])
    second = Life(tmp_path, Finishes, [*finish])
    assert second.publish["finished"] == 1
    third = Life(tmp_path, Finishes, [*finish, End(1)])
    assert third.publish["finished"] == 1
    assert not [*(tmp_path / "results").iterdir()]
    idle = Life(tmp_path, Finishes, [], idle=True)
    assert equal(idle.publish, third.publish) and idle.publish["finished"] == 1
    Life(tmp_path, Finishes, [Said(Armed)], scan_id="next")
    assert Life(tmp_path, Finishes, [], idle=True).publish is None


# -- anything may happen ---------------------------------------------------------------------------------------------


@st.composite
def scans(draw: Any) -> tuple[list[list[Any]], dict[str, Any]]:
    """The steps of a reducer's lives one after the other, and how it is armed.

    Every batch may come again in a later life, as from a worker that has not heard that it was logged.
    """
    change = draw(st.integers(1, EVENTS + 1))
    versions = [Parameters(1, 2, {}, change)] if draw(st.booleans()) else []
    version = 1 + len(versions)
    dropped = draw(st.sampled_from([(0, 0), (0, 2), (3, 4), (EVENTS - 2, EVENTS)]))  # virtual workers: event - 1
    batches: list[Any] = [broadcast(event, worker, version) for event in (0, EVENTS + 1) for worker in (0, 1)]
    first = 1
    while first <= EVENTS:
        if dropped[0] <= first - 1 < dropped[1]:
            first += 1
            continue
        limit = dropped[0] + 1 - first if first <= dropped[0] else EVENTS + 1 - first
        n = draw(st.integers(1, min(4, limit)))
        together = draw(st.booleans())
        if first < change < first + n and versions:
            n = change - first  # no batch of combined results goes across a change
        batches.append(data(first, n, draw(st.integers(0, 1)), version, combined=[(0, n)] if together else []))
        first += n
    steps: list[Any] = draw(st.permutations(batches))
    if dropped[1]:
        steps.insert(draw(st.integers(0, len(steps))), Drop(1, [dropped]))
    cuts = sorted(draw(st.lists(st.integers(0, len(steps)), max_size=3)))
    lives = [steps[a:b] for a, b in zip([0, *cuts], [*cuts, len(steps)], strict=True)]
    for number, life in enumerate(lives):
        if number and lives[number - 1]:
            life[:0] = draw(st.lists(st.sampled_from(lives[number - 1]), max_size=2))
        for change_of_parameters in versions:
            life.insert(draw(st.integers(0, len(life))), change_of_parameters)
    closing = [Close(1, EVENTS), Finish(1), Said(Finished)]
    lives[-1] += closing
    patience = draw(st.sampled_from([1000.0, 0.0]))
    return lives, {"fold_patience": patience}


def run(lives: list[list[Any]], app: type, arming: dict[str, Any], *, keep: bool = True) -> list[Life]:
    with TemporaryDirectory() as name:
        folder, found = Path(name), []
        for steps in lives:
            found.append(Life(folder, app, steps, **arming))
            if not keep:
                for path in saved(folder):
                    shutil.rmtree(path)
        return found


def world(lives: list[Life]) -> PartsDone:
    """What a controller knows in the end that heard only the last of them."""
    told = Told()
    for message in lives[-1].control.sent:
        if isinstance(message, PartsDone):
            told.add(message)
        elif isinstance(message, FoldFailed | Finished):
            told.fold_failed(message.failed)
    return told.inventory(1)


@settings(max_examples=40, deadline=None)
@given(
    scans(),
    st.sampled_from([ByAttributes, ByHooks, Many]),
    st.booleans(),
    st.sampled_from([1, 10_000]),
    st.sampled_from([1e-9, 1.0]),
)
def test_whenever_it_dies_the_state_and_the_report_are_those_of_a_reducer_that_folds_all_again(
    scan: tuple[list[list[Any]], dict[str, Any]], app: type, recorded: bool, told_from: int, slice_s: float
) -> None:
    lives, arming = scan
    for life in lives:
        note(f"{app.__name__} {life} {arming}")
    if recorded:
        arming = {**arming, "record": "/nonexistent"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module, "MAX_RUNS", told_from)
        patch.setattr(service_module, "SLICE", slice_s)  # the shortest: much is handed out and not folded
        with_them, without = run(lives, app, arming), run(lives, app, arming, keep=False)
    assert world(with_them) == world(without)
    a, b = with_them[-1], without[-1]
    (finished,), (other,) = a.said(Finished), b.said(Finished)
    assert failures(finished) == failures(other)
    if arming["fold_patience"]:
        assert equal(a.publish, b.publish)
        assert finished.out_of_order == other.out_of_order == []
        return
    assert sorted(a.publish["order"]) == sorted(b.publish["order"])
    order = [event for event, *_ in a.publish["order"]]
    early = {e for i, e in enumerate(order) if any(later < e for later in order[i + 1 :])}
    assert early <= {e for lo, hi in finished.out_of_order for e in range(lo, hi)}


def failures(finished: Finished) -> list[tuple[int, str]]:
    """Which, and where; the traceback has the line of code only."""
    return sorted((failure.event, failure.where) for failure in finished.failures)


def test_a_new_controller_is_told_what_could_not_be_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_RUNS", 1)
    first = Life(tmp_path, ByHooks, [*START, data(1, 5), Said(FoldFailed), Introduce()])
    second = Life(tmp_path, ByHooks, [data(6), Introduce()])
    for life, end in ((first, 6), (second, 7)):
        (inventory,) = life.said(Inventory)
        assert inventory.done is not None
        assert inventory.done.completed == [
            (0, 3, EventState.REDUCED),
            (4, end, EventState.REDUCED),
            (3, 4, EventState.FAILED),
        ]


@pytest.mark.parametrize("before", [True, False])
def test_a_map_that_was_closed_before_or_after_the_checkpoint(tmp_path: Path, before: bool) -> None:
    """The end event has the number of an event that was another's before."""
    endless = compile_map({"streams": ["camera"], "events": None}, True)
    surplus = [data(6), data(8)]  # done, and then beyond the end
    steps = [*START, data(1, 4), *surplus, folded(6)]
    Life(tmp_path, ByHooks, [*steps, Close(1, 5)] if before else steps, map=endless.to_wire())
    last = [data(5), broadcast(6, 0), broadcast(6, 1), folded(9)]
    closed = endless.closed_at(5).to_wire()
    second = Life(tmp_path, ByHooks, [Close(1, 5), *last], map=closed)
    assert second.inventory is not None
    assert (second.inventory.frontier, second.inventory.completed) == (7, [(0, 7, EventState.REDUCED)])
    assert second.inventory.closed and second.inventory.finished
    assert [e for e, *_ in second.publish["order"]] == [0, 0, 1, 2, 3, 4, 5, 6, 6]
