"""Parts are done exactly once, in whatever order they come; events end in their worst part's state."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.states import EventState, PartTracker
from beamfold.model.triggermap import TriggerMap, compile_sequence, compile_uniform
from unit.model.reference import WORKERS, Reference
from unit.model.test_triggermap import bodies

R = EventState.REDUCED


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def ks(*values: int) -> Any:
    return np.array(values, dtype=np.int16)


def codes(*values: int) -> Any:
    return np.array(values, dtype=np.uint8)


def targets_of(m: TriggerMap, ref: Reference) -> list[int]:
    return [sum(1 << w for w in ref.targets(g, WORKERS)) for g in m.groups]


@given(bodies(), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_every_part_counts_once_in_any_order(body: dict[str, Any], wrap: bool, data: st.DataObject) -> None:
    m, ref = compile_sequence(body, all_wrap=wrap), Reference(body, wrap)
    tracker = PartTracker(m, targets_of(m, ref))
    n = len(ref.events)
    expected = [ref.parts(e, WORKERS) for e in range(n)]
    everything = [(e, k) for e in range(n) for k in expected[e]]
    order = data.draw(st.permutations(everything + everything[: len(everything) // 2]))
    order += [(n, 0), (n + 3, -1), (0, 77), (-1, 0), (0, -60)]  # parts that the map does not have
    done: dict[tuple[int, int], int] = {}
    ended: dict[int, int] = {}
    at = 0
    while at < len(order):
        step = data.draw(st.integers(1, 9))
        batch, at = order[at : at + step], at + step
        states = [data.draw(st.sampled_from(list(EventState)[1:])) for _ in batch]
        fresh, completed = tracker.add(ints(*(e for e, _ in batch)), ks(*(k for _, k in batch)), codes(*states))
        for (e, k), state, new in zip(batch, states, fresh.tolist(), strict=True):
            assert new == ((e, k) in everything and (e, k) not in done)
            if new:
                done[e, k] = state
        note(ended, completed)
        for e, k in everything:
            assert tracker.has(e, k) == ((e, k) in done)
        some = sorted(data.draw(st.sets(st.sampled_from(everything)))) if everything else []
        if some:
            count = tracker.count(ints(*(e for e, _ in some)), ks(*(k for _, k in some)))
            assert count == sum(part in done for part in some)
        for e, state in ended.items():
            assert all((e, k) in done for k in expected[e])
            assert state == max((done[e, k] for k in expected[e]), default=EventState.NO_RESULT)
        assert all(e in ended for e in range(n) if expected[e] and all((e, k) in done for k in expected[e]))
        assert all(e in ended for e in range(tracker.frontier))
        assert tracker.finished == (tracker.frontier == n)
    note(ended, tracker.settle())
    assert tracker.finished
    assert sorted(ended) == list(range(n))


def note(ended: dict[int, int], completed: list[tuple[int, int, int]]) -> None:
    """Every event is completed once."""
    for lo, hi, state in completed:
        for e in range(lo, hi):
            assert e not in ended
            ended[e] = state


def uniform(events: int | None = 100, **more: Any) -> PartTracker:
    tracker = PartTracker(compile_uniform({"streams": ["a"], "events": events, **more}), [0b11])
    fresh, completed = tracker.add(ints(0, 0), ks(-1, -2), 1)
    assert (fresh.all(), completed) == (True, [(0, 1, EventState.NO_RESULT)])
    return tracker


def test_ranges_in_order_move_the_frontier() -> None:
    tracker = uniform()
    fresh, completed = tracker.add(np.arange(1, 51), 0, R)
    assert fresh.tolist() == [True] * 50
    assert completed == [(1, 51, R)]
    assert (tracker.frontier, tracker.finished) == (51, False)
    fresh, completed = tracker.add(np.arange(41, 101), ks(*[0] * 60), R)
    assert np.flatnonzero(fresh).tolist() == list(range(10, 60))
    assert completed == [(51, 101, R)]
    fresh, completed = tracker.add(ints(101, 101), ks(-2, -1), codes(EventState.FAILED, R))
    assert completed == [(101, 102, EventState.FAILED)]
    assert tracker.finished


def test_a_range_of_many_states_ends_as_runs_of_them() -> None:
    tracker = uniform()
    _, completed = tracker.add(np.arange(1, 6), 0, codes(2, 2, 7, 2, 2))
    assert completed == [(1, 3, R), (3, 4, EventState.FAILED), (4, 6, R)]


def test_ranges_out_of_order_wait_behind_the_frontier() -> None:
    tracker = uniform()
    assert tracker.add(np.arange(11, 21), 0, R)[1] == [(11, 21, R)]
    assert tracker.frontier == 1
    fresh, completed = tracker.add(np.arange(5, 31), 0, R)
    assert np.flatnonzero(~fresh).tolist() == list(range(6, 16))
    assert sorted(completed) == [(5, 11, R), (21, 31, R)]
    assert (tracker.frontier, tracker.has(4, 0), tracker.has(30, 0)) == (1, False, True)
    tracker.add(np.arange(1, 5), 0, R)
    assert tracker.frontier == 31
    assert not tracker._done


def test_a_batch_may_be_shuffled_and_repeat_itself() -> None:
    tracker = uniform()
    fresh, completed = tracker.add(ints(3, 1, 3, 2, 200, 1), 0, R)
    assert fresh.tolist() == [True, True, False, True, False, False]
    assert sorted(completed) == [(1, 2, R), (2, 3, R), (3, 4, R)]
    assert tracker.frontier == 4


def test_a_part_of_the_wrong_worker_is_not_new() -> None:
    tracker = uniform()
    assert not tracker.add(ints(5), ks(1), R)[0].any()
    assert not tracker.add(ints(5), ks(-1), R)[0].any()
    assert not tracker.add(ints(101), ks(-3), R)[0].any()
    assert tracker.frontier == 1


def test_a_scan_of_nothing_but_discarded_frames_ends() -> None:
    m = compile_sequence({"parts": {"p": {"a": [[], None, []]}}, "sequence": ["p"]}, all_wrap=False)
    tracker = PartTracker(m, [])
    assert tracker.frontier == 0
    assert tracker.settle() == [(0, 3, EventState.NO_RESULT)]
    assert tracker.finished


def test_events_without_parts_are_passed_when_something_behind_them_is_done() -> None:
    tracker = PartTracker(compile_uniform({"streams": {"a": {"every": 5, "first": 5}}}), [1])
    tracker.add(ints(0), -1, R)
    assert tracker.frontier == 1
    assert sorted(tracker.add(ints(5), 0, R)[1]) == [(1, 5, EventState.NO_RESULT), (5, 6, R)]
    assert tracker.frontier == 6
    assert tracker.close(tracker.map.closed_at(7)) == [(6, 8, EventState.NO_RESULT)]
    assert tracker.add(ints(8), -1, R)[1] == [(8, 9, R)]
    assert tracker.finished


def test_a_group_without_workers_has_no_part() -> None:
    cells = [[{"constraint": None, "tags": ["nobody"]}], [{"constraint": 0}]]
    m = compile_sequence({"parts": {"p": {"a": cells}}, "sequence": ["p"]}, all_wrap=False)
    tracker = PartTracker(m, [0])
    assert sorted(tracker.add(ints(1), 0, R)[1]) == [(0, 1, EventState.NO_RESULT), (1, 2, R)]
    assert tracker.finished


def test_an_endless_scan_finishes_when_it_is_closed() -> None:
    tracker = uniform(None)
    tracker.add(np.arange(1, 1000), 0, R)
    assert not tracker.finished
    assert tracker.close(tracker.map.closed_at(999)) == []
    assert tracker.frontier == 1000
    tracker.add(ints(1000, 1000), ks(-1, -2), R)
    assert tracker.finished


def test_closing_early_forgets_what_lay_behind() -> None:
    wide = [[{"constraint": 0}, {"constraint": 1}]] * 6
    m = compile_sequence({"parts": {"p": {"a": wide}}, "sequence": ["p"]})
    tracker = PartTracker(m, [1])
    tracker.add(ints(0, 1, 1, 2, 4, 5, 5), ks(-1, 0, 1, 0, 0, 0, 1), R)
    assert tracker.close(m.closed_at(3)) == []
    assert tracker.frontier == 2
    assert [tracker.has(e, 0) for e in (2, 3, 4, 5)] == [True, False, False, False]
    _, completed = tracker.add(ints(2, 3, 3, 4), ks(1, 0, 1, -1), R)
    assert (sorted(completed), tracker.finished) == ([(2, 3, R), (3, 4, R), (4, 5, R)], True)


def test_closing_at_the_planned_end_changes_nothing() -> None:
    tracker = uniform(3)
    tracker.add(ints(4), -1, R)
    assert tracker.close(tracker.map.closed_at(3)) == []
    assert tracker.has(4, -1)
