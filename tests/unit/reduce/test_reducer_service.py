"""The reducer service against wrong peers and users' mistakes: it goes on, and somebody is told."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import AppError
from beamfold.model.latency import Latencies
from beamfold.model.parameters import IntParameter
from beamfold.model.triggermap import compile_map
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.envelopes import Grant, Header, ResultBatch, decode_header
from beamfold.protocols.messages import (
    Armed,
    Beat,
    Combined,
    Drop,
    Fill,
    Filled,
    Finish,
    Finished,
    FoldFailed,
    Introduce,
    Inventory,
    Parameters,
    PartsDone,
    Torn,
    Trouble,
    WorkerInfo,
    encode_message,
)
from beamfold.protocols.stamps import Times
from beamfold.publish.store import FileStore
from beamfold.reduce import service
from beamfold.reduce.service import CREDIT_BYTES, ReducerService
from corpus import any_of, cases, insane_messages
from scripted import Control, Hub, Until, arm

MAP = compile_map({"streams": ["camera"], "events": 100}, True)
BODY = encode({"n": 1}, [])


def batch(n: int = 1, first: int = 1, worker: int = 0, **changes: Any) -> ResultBatch:
    sizes = len(BODY).to_bytes(4, "little") * n
    header = ResultBatch(1, worker, n, 1, (first, 1), 0, 2, sizes, [], [], [])
    return msgspec.structs.replace(header, **changes)


class App:
    """Counts, and knows what a test wants to see."""

    folded: list[int]

    def __init__(self) -> None:
        type(self).folded = []
        self.publish: Any = {"n": 0}

    def process_result(self, result: Any) -> None:
        self.folded.append(result.event_number)


class Rig:
    def __init__(self, folder: Path, app: type = App, **changes: Any) -> None:
        self.hub = Hub()
        self.control = Control(arm(MAP, **changes))
        store = FileStore(folder, hdf5=False)
        self.service = ReducerService(
            lambda: app,
            self.control,  # type: ignore[arg-type]
            self.hub,  # type: ignore[arg-type]
            store,
            folder / "results",
            types=lambda cls: TypeTable([]),
        )

    def run(self, *steps: Any) -> Rig:
        self.control.steps += steps
        try:
            self.service.run()
        finally:
            self.service.close()
            self.control.close()
            self.hub.close()
        return self

    def results(self, header: ResultBatch, peer: str = "w0") -> Callable[[], None]:
        return self.hub.put(peer, header, BODY * header.n)

    def start(self, **changes: Any) -> list[Callable[[], None]]:
        """Both workers' results of the start event."""
        parts = [batch(first=0, worker=w, k=-1 - w, **changes) for w in (0, 1)]
        return [self.results(header, f"w{header.worker}") for header in parts]

    def until_done_below(self, event: int) -> Until:
        """A step: the controller is told that all events below this one are done."""
        return Until(lambda: [m for m in self.control.said(PartsDone) if m.frontier == event])

    def read(self) -> tuple[list[Any], list[Any]]:
        """What a reader gets, and steps that make it read."""
        got: list[Any] = []

        def ask() -> None:
            try:
                got.append(self.service.read(20))
            except AppError as error:
                got.append(error)

        return got, [threading.Thread(target=ask).start, Until(lambda: got)]


WRONG: list[dict[str, Any]] = [
    {"failures": [(5, "process_event", "text")]},
    {"failures": [(-2, "process_event", "t")]},
    {"missing": [(1 << 60, 1)]},
    {"combined": [(0, 2)]},
    {"combined": [(-1, 1)]},
    {"times": Times(1.0, [(1, 1.0)], [(2, 1.0)])},
    {"times": Times(float("nan"), [(1, 1.0)], [(1, 1.0)])},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_batch_that_speaks_of_parts_it_does_not_have_is_not_used(tmp_path: Path, wrong: dict[str, Any]) -> None:
    rig = Rig(tmp_path)
    rig.run(rig.results(batch(**wrong)), rig.results(batch(first=2)))
    assert App.folded == []  # event 2 waits for the start event
    assert [m.parts for m in rig.control.said(PartsDone)] == [{0: 1}]


@settings(max_examples=100)
@given(st.lists(st.tuples(any_of(Header), st.lists(st.binary(max_size=9), max_size=3)), max_size=5))
def test_no_envelope_of_a_worker_or_a_stranger_ends_it(said: list[tuple[Any, list[bytes]]]) -> None:
    with TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        rig.run(*[rig.hub.put(peer, header, *rest) for header, rest in said for peer in ("w0", "stranger")])


@settings(max_examples=100)
@given(st.data())
def test_no_batch_of_a_worker_with_insane_numbers_ends_it(data: st.DataObject) -> None:
    """Well-formed results of parts that cannot be, as a worker would send that has lost its senses."""
    events = st.tuples(st.sampled_from([0, 1, 50, 101, 102, 1 << 40, 1 << 61]), st.sampled_from([1, 1 << 40]))
    insane = st.builds(
        batch,
        n=st.integers(1, 3),
        worker=st.just(0),
        events=events,
        k=st.sampled_from([-(1 << 15), -2, -1, 0, 1, (1 << 15) - 1]),
        states=st.integers(1, 8),
        version=st.sampled_from([0, 1, 2, 1 << 40]),
        missing=st.lists(st.tuples(st.just(0), any_of(int)), max_size=2),
        ticks=st.lists(any_of(int), max_size=2),
    )
    said = data.draw(st.lists(insane, min_size=1, max_size=5))
    with TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        rig.run(*map(rig.results, said), *rig.start(), Until(lambda: rig.control.said(PartsDone)))
        for message in rig.control.said(PartsDone):
            encode_message(message)


def test_its_last_word_about_a_scan_has_the_way_of_every_part_that_is_timed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    timed = [batch(2, first=1, times=Times(20.0, [(2, 1.0)], [(2, 10.0)])), batch(1, first=3)]
    rig.run(*rig.start(), *map(rig.results, timed), Finish(1), Until(lambda: rig.control.said(Finished)))
    (beat,) = rig.control.said(Beat)
    latency = Latencies.from_wire(beat.latency)
    assert {stage.value: h.count for stage, h in latency.items()} == {"result": 2, "fold": 2, "total": 2}
    assert rig.service.progress.folded == 5
    assert rig.service.progress.latency.items() == latency.items()


def test_a_publish_that_is_no_dict_is_told_to_who_reads_it(tmp_path: Path) -> None:
    class Wrong(App):
        def process_result(self, result: Any) -> None:
            self.publish = [1]

    rig = Rig(tmp_path, Wrong)
    first, ask_first = rig.read()
    second, ask_second = rig.read()
    rig.run(*ask_first, *rig.start(), *ask_second)
    assert first == [{"n": 0}]
    assert isinstance(second[0], AppError)
    assert "make it a dict" in str(second[0])


def test_parameters_that_cannot_be_read_leave_the_old_ones_in_force(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Declares(App):
        @staticmethod
        def describe_parameters() -> list[Any]:
            return [IntParameter(name="roi", default=7)]

        def process_result(self, result: Any, parameters: Any = None) -> None:
            seen.append((parameters["roi"].value, parameters.version))

    rig = Rig(tmp_path, Declares)
    rig.run(Parameters(1, 2, {"roi": b"wide"}, 0), *rig.start(version=2))
    assert seen == [(7, 2), (7, 2)]
    (trouble,) = rig.control.said(Trouble)
    assert "parameter version 2 was not applied" in trouble.text
    assert "'roi' wants a whole number" in trouble.text


def test_an_app_may_take_its_own_lock_while_it_folds(tmp_path: Path) -> None:
    """The lock guards what is published against readers, so a plain one must do: the peer holds it for them alone."""

    class Locks(App):
        def __init__(self) -> None:
            super().__init__()
            self.publish_rlock = threading.Lock()

        def process_result(self, result: Any) -> None:
            assert self.publish_rlock.acquire(timeout=1), "the reducer holds it"
            self.folded.append(result.event_number)
            self.publish_rlock.release()

        def finish(self) -> None:
            assert self.publish_rlock.acquire(timeout=1), "the reducer holds it"
            self.publish_rlock.release()

    rig = Rig(tmp_path, Locks)
    rig.run(*rig.start(), Finish(1), Until(lambda: rig.control.said(Finished)))
    (finished,) = rig.control.said(Finished)
    assert (Locks.folded, finished.failures) == ([0, 0], [])


def test_text_that_is_no_unicode_travels_all_the_same(tmp_path: Path) -> None:
    class Raises(App):
        def process_result(self, result: Any) -> None:
            raise OSError("no file caf\udce9.h5")  # what os.listdir makes of a name that is not UTF-8

    rig = Rig(tmp_path, Raises)
    rig.run(*rig.start(), Finish(1), Until(lambda: rig.control.said(Finished)))
    (finished,) = rig.control.said(Finished)
    assert "no file caf\\udce9.h5" in finished.failures[0].text
    msgspec.msgpack.encode(finished)


def test_duplicates_do_not_count_as_backlog(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    backlogs: list[int] = []
    rig.run(
        *rig.start(),
        *rig.start(),
        *rig.start(),
        lambda: None,
        lambda: backlogs.append(rig.service._beat().stats["backlog_bytes"]),
    )
    assert App.folded == [0, 0]
    assert backlogs == [0]


def test_strangers_do_not_end_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    headers: list[Any] = [
        batch(scan=1 << 63),
        batch(worker=-1),
        batch(worker=1 << 40),
        msgspec.structs.replace(batch(), n=1 << 62),
        batch(k=1 << 20),
        batch(states=77),
        batch(events=(1 << 61, 1 << 61)),
        batch(sizes=b"\xff" * 4),
        Grant(1 << 60, -1, 1 << 63),
        Grant(1, -5, -(1 << 60)),
    ]
    steps: list[Any] = [rig.hub.put("stranger", h, BODY) for h in headers]
    raw = [[peer, *case.parts] for case in [*cases(), *insane_messages()] for peer in (b"x", b"w0")]
    rig.run(*steps, lambda: rig.hub.arrived.extend(raw))
    assert [m.error for m in rig.control.said(Armed)] == [""]
    assert rig.control.said(PartsDone) == []


def combined(first: int, n: int, worker: int = 0) -> ResultBatch:
    """One result of n events."""
    sizes = np.array([len(BODY)] + [0] * (n - 1), "<u4").tobytes()
    return batch(n, first, worker, sizes=sizes, combined=[(0, n)])


def test_a_combined_result_is_folded_once_and_told_for_the_recording(tmp_path: Path) -> None:
    rig = Rig(tmp_path, record=str(tmp_path))
    again = [rig.hub.put("w0", combined(1, 5), BODY)] * 2
    rig.run(*rig.start(), *again, rig.results(batch(first=6)), rig.until_done_below(7))
    assert App.folded == [0, 0, 1, 6]
    told = rig.control.said(PartsDone)
    assert [c for m in told for c in m.combined] == [Combined(0, [(0, 1, 6)])]
    assert sum(m.duplicates for m in told) == 5
    assert sum(parts for m in told for parts in m.parts.values()) == 6


def test_a_combined_result_with_a_part_that_is_done_is_refused_whole_and_its_credit_given_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    big = b"x" * (CREDIT_BYTES // 2)
    refused = rig.hub.put("w1", combined(2, 3, worker=1), BODY, big)
    steps = [rig.results(batch(n=2)), refused, rig.results(batch(first=3))]
    rig.run(*rig.start(), *steps, rig.until_done_below(4))
    assert App.folded == [0, 0, 1, 2, 3]
    (torn,) = rig.control.said(Torn)
    assert (torn.worker, torn.uuid) == (1, "w1")
    assert "results of worker w1 were refused: a combined one, of events from 2 to 4" in torn.text
    assert [peer for peer, _ in rig.hub.sent] == [b"w1"]


def test_process_results_gets_what_is_ready(tmp_path: Path) -> None:
    class Many(App):
        calls: list[list[int]]

        def __init__(self) -> None:
            super().__init__()
            type(self).calls = []

        def process_results(self, results: Any) -> None:
            self.calls.append([result.event_number for result in results])

    rig = Rig(tmp_path, Many)
    later = [rig.results(batch(first=2)), rig.results(batch(n=4, first=3, worker=1), "w1"), rig.results(batch(first=7))]
    rig.run(*rig.start(), *later, rig.results(batch()), lambda: None)
    assert Many.folded == [0, 0]
    assert Many.calls == [[1], [2, 3], [4, 5, 6, 7]]


def test_results_beyond_the_map_are_nobodys_events(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.run(rig.results(batch(events=(1 << 60, 1))))
    assert not [c for m in rig.control.said(PartsDone) for c in m.completed]


def test_a_lock_of_the_app_that_breaks_is_told_to_who_reads_and_harms_no_scan(tmp_path: Path) -> None:
    class Broken:
        def __enter__(self) -> None:
            raise RuntimeError("the lock is broken")

        def __exit__(self, *_: object) -> None:
            pass

    class Locked(App):
        publish_rlock = Broken()

    rig = Rig(tmp_path, Locked)
    got, ask = rig.read()
    rig.run(*rig.start(), *ask, Finish(1))
    assert isinstance(got[0], AppError) and "the lock is broken" in str(got[0])
    (finished,) = rig.control.said(Finished)
    assert "the lock is broken" in finished.error


def test_failures_in_process_result_are_told_as_they_grow_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(App):
        def process_result(self, result: Any) -> None:
            if result.event_number % 2:
                raise ValueError("odd")

    monkeypatch.setattr(service, "MAX_RUNS", 5)
    rig = Rig(tmp_path, Odd)
    rig.run(
        *rig.start(), *[rig.results(batch(10, 1 + 10 * n)) for n in range(3)], lambda: None, Finish(1), lambda: None
    )
    told = rig.control.said(FoldFailed)
    (finished,) = rig.control.said(Finished)
    assert all(5 <= len(t.failed) <= 10 for t in told) and len(told) >= 2
    assert [lo for t in [*told, finished] for lo, _ in t.failed] == list(range(1, 31, 2))
    for each in told:  # of events that the controller knows to be terminal
        before = rig.control.sent[: rig.control.sent.index(each)]
        done = [run for m in before if isinstance(m, PartsDone) for run in m.completed]
        assert all(any(lo <= e < hi for lo, hi, _ in done) for e, _ in each.failed)


def test_what_is_dropped_is_told_as_done_after_what_was_done_before(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.run(*rig.start(), rig.results(batch(3)), Drop(1, [(3, 5), (7, 8)]), rig.results(batch(2, 6)), lambda: None)
    told = [run for m in rig.control.said(PartsDone) for run in m.completed]
    assert told[:3] == [(0, 4, 2), (4, 6, 6), (8, 9, 6)]
    frontiers = [m.frontier for m in rig.control.said(PartsDone)]
    assert frontiers == sorted(frontiers) and max(frontiers) <= 9
    assert App.folded == [0, 0, 1, 2, 3, 6, 7]


def test_versions_of_the_parameters_are_kept_only_for_what_may_still_be_folded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    kept: list[int] = []

    def look() -> None:
        assert rig.service._scan is not None
        kept.append(len(rig.service._scan.folder.parameters))

    versions = [Parameters(1, 2 + n, {"p": b"%d" % n}, 1 + n) for n in range(20)]
    rig.run(*rig.start(), *versions, look, rig.results(batch(15)), lambda: None, look)
    assert kept == [20, 5]
    assert len(App.folded) == 17


def test_failures_of_events_that_lack_a_part_are_told_once_these_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller lets an event that is pending be; a combined result is folded at its first event's place."""

    class Odd(App):
        def process_result(self, result: Any) -> None:
            if result.event_number == 1:
                raise ValueError("one")

    monkeypatch.setattr(service, "MAX_RUNS", 1)
    rig = Rig(tmp_path, Odd)
    several = batch(2, events=(1, 2), sizes=np.array([len(BODY), 0], "<u4").tobytes(), combined=[(0, 2)])  # 1 and 3
    told: list[Any] = []
    rig.run(
        *rig.start(),
        rig.hub.put("w0", several, BODY),
        Until(lambda: rig.control.said(FoldFailed)),
        lambda: told.extend(rig.control.said(FoldFailed)),
        rig.results(batch(first=2)),
        Until(lambda: len(rig.control.said(FoldFailed)) > 1),
    )
    assert [message.failed for message in told] == [[(1, 2)]]
    assert [message.failed for message in rig.control.said(FoldFailed)] == [[(1, 2)], [(3, 4)]]


def test_what_a_worker_that_joined_says_of_its_own_parts_counts_and_of_broadcasts_does_not(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    extra = WorkerInfo("extra", ["generic"], joined=True)
    rig.run(
        *rig.start(),
        rig.results(batch(worker=2), "w2"),  # nobody knows it yet
        Fill(1, 2, "w2", extra),
        Fill(1, 2, "w2", extra),  # it may be said twice
        rig.results(batch(first=0, worker=2, k=-3), "w2"),
        rig.results(batch(first=1, worker=2, failures=[(0, "process_event", "text")], states=7), "w2"),
        rig.until_done_below(2),
        Introduce(),
    )
    assert rig.control.said(Filled) == [Filled(1, 2, "w2")] * 2
    assert sum((m.parts.get(2, 0) for m in rig.control.said(PartsDone)), 0) == 1
    assert [f.worker for m in rig.control.said(PartsDone) for f in m.failures] == ["extra"]
    (known,) = rig.control.said(Inventory)
    assert known.fillers == ["w0", "w1", "w2"] and known.arm.workers[2] == extra


def test_a_result_log_may_have_results_of_a_worker_that_nobody_remembers(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    joined = Fill(1, 2, "w2", WorkerInfo("extra", ["generic"], joined=True))
    rig.run(*rig.start(), joined, rig.results(batch(worker=2), "w2"), rig.until_done_below(2))
    again = Rig(tmp_path)
    again.run(again.until_done_below(2))
    assert App.folded == [0, 0, 1]


@pytest.mark.parametrize("cycle", [False, True])
def test_what_an_ended_scan_had_is_freed_when_the_next_one_is_armed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cycle: bool
) -> None:
    """Nothing of ours is in a cycle, so that no search is needed; an app may be in one."""
    made: list[weakref.ref[App]] = []

    class Kept(App):
        def __init__(self) -> None:
            super().__init__()
            self.itself = self if cycle else None
            made.append(weakref.ref(self))

    if not cycle:
        monkeypatch.setattr(service, "collect_what_is_over", lambda: None)
    there: list[list[bool]] = []
    rig = Rig(tmp_path, Kept)
    gc.disable()
    gc.freeze()  # as a service does that calms its collector
    try:
        rig.run(*rig.start(), arm(MAP, 2), lambda: None, lambda: there.append([m() is not None for m in made]))
    finally:
        gc.unfreeze()
        gc.enable()
    assert there == [[False, True]]


def test_a_worker_gets_credit_back_for_batches_however_small(tmp_path: Path) -> None:
    """What a worker keeps until it is known to be logged must not grow with the events that are done."""
    rig = Rig(tmp_path)
    rig.run(*rig.start(), *(rig.results(batch(first=event)) for event in range(1, 2 * service.CREDIT_BATCHES)))
    granted = [header for peer, (data,) in rig.hub.sent if isinstance(header := decode_header(data), Grant)]
    sizes = [grant.credit for grant in granted if grant.credit < CREDIT_BYTES]
    assert len(sizes) == 2
    assert sizes[0] > 0
