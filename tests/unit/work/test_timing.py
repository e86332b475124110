"""The stages that a worker sees, and what it passes on for those that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from beamfold.app.hooks import WorkerHooks
from beamfold.model.events import EventData
from beamfold.model.latency import Latencies, Stage
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.protocols.envelopes import FrameBatch
from beamfold.protocols.stamps import Runs
from beamfold.work.machine import Part, Stamp
from beamfold.work.results import ResultBuffer
from beamfold.work.runner import Runner
from beamfold.work.timing import Timing, stamps_of, times_of


def batch(received: Runs, sent: float, k: int | bytes = 0) -> FrameBatch:
    return FrameBatch(1, 0, sum(n for n, _ in received), 0, (1, 1), k, 1, b"", received=received, sent=sent)


def part(event: int, stamp: Stamp | None) -> Part:
    return Part(event, 0, {}, 0, 0, True, stamp)


def seen(latency: Latencies) -> dict[str, tuple[int, Any]]:
    """Count and sum by stage."""
    return {stage.value: (h.count, pytest.approx(h.total)) for stage, h in latency.items()}


def test_frames_are_timed_from_the_socket_of_the_detector_to_this_worker() -> None:
    timing = Timing()
    stamps = timing.taken(batch([(3, 100.0), (2, 101.0)], sent=101.5), now=103.0)
    assert stamps == [(3, Stamp(100.0, 103.0)), (2, Stamp(101.0, 103.0))]
    assert seen(timing.latency) == {"ingest": (5, 3 * 1.5 + 2 * 0.5), "transit": (5, 5 * 1.5)}


@pytest.mark.parametrize("what", [batch([(3, 0.0)], 1.0), batch([], 1.0)])
def test_what_has_no_stamp_is_not_timed(what: FrameBatch) -> None:
    timing = Timing()
    stamps = timing.taken(what, 5.0)
    assert seen(timing.latency) == {}
    assert not any(stamp.received for _, stamp in stamps)


def test_broadcasts_are_not_timed() -> None:
    timing = Timing()
    assert timing.taken(batch([(1, 100.0)], 101.0, k=-1), 102.0) == []
    assert seen(timing.latency) == {}


def test_parts_wait_for_those_before_them_in_the_same_slice() -> None:
    timing = Timing()
    early, late = Stamp(10.0, 100.0), Stamp(11.0, 101.0)
    parts = [part(1, early), part(2, early), part(3, None), part(4, late)]
    stamps = stamps_of(parts)
    times = times_of(stamps, 102.0, [(3, 1.0), (1, 5.0)])
    assert times.received == [(2, 10.0), (1, 0.0), (1, 11.0)]
    timing.processed(stamps, times)
    assert seen(timing.latency) == {"wait": (3, 2.0 + 3.0 + 4.0), "process": (3, 7.0)}


class Processes:
    """An app whose event N takes N seconds of a clock of its own."""

    now = 0.0

    def process_event(self, event: EventData) -> None:
        type(self).now += event.event_number


class Together(Processes):
    """The same for many, and to combine them takes a second for each."""

    def process_events(self, events: list[EventData]) -> list[int]:
        type(self).now += sum(e.event_number for e in events)
        return [1] * len(events)


class Combines(Together):
    def combine(self, results: list[int]) -> int:
        type(self).now += len(results)
        return sum(results)


@pytest.mark.parametrize(("app", "whole"), [(Together, 10.0), (Combines, 14.0)])
def test_parts_that_are_processed_together_share_what_that_took(app: type[Processes], whole: float) -> None:
    app.now = 0.0
    hooks = WorkerHooks(app)
    parameters = ParameterSet.build([], {}, 0)
    hooks.construct(parameters=parameters, context={}, state=None)
    runner = Runner(hooks, ParameterHistory([(0, parameters)]), ResultBuffer(1, 0), clock=lambda: app.now)
    assert runner.run([part(event, None) for event in (1, 2, 3, 4)], 1000.0) == 4
    assert sum(n for n, _ in runner.spent) == 4
    assert sum(n * each for n, each in runner.spent) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("events", "seconds", "spent"),
    [
        ([5], 100.0, [(1, 5.0)]),
        ([1, 2, 3, 100], 10.0, [(3, 2.0), (1, 100.0)]),
        ([1, 2, 3, 100, 50], 10.0, [(3, 2.0), (1, 100.0)]),
        ([2, 4, 3], 100.0, [(2, 3.0), (1, 3.0)]),
    ],
)
def test_a_part_that_takes_long_is_told_from_those_before_it(events: list[int], seconds: float, spent: Runs) -> None:
    """A slice ends with the part that takes longer than that."""
    hooks = WorkerHooks(Processes)
    parameters = ParameterSet.build([], {}, 0)
    hooks.construct(parameters=parameters, context={}, state=None)
    history = ParameterHistory([(0, parameters)])
    runner = Runner(hooks, history, ResultBuffer(1, 0), clock=lambda: Processes.now)
    done = runner.run([part(event, None) for event in events], seconds)
    assert done == sum(n for n, _ in spent)
    assert runner.spent == [(n, pytest.approx(each)) for n, each in spent]


def test_clocks_of_two_hosts_that_disagree_are_counted() -> None:
    timing = Timing()
    timing.taken(batch([(4, 100.0)], sent=101.0), now=99.0)
    transit = timing.latency[Stage.TRANSIT]
    assert (transit.count, transit.total, transit.negative) == (4, 0.0, 4)
