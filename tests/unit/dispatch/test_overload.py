"""What is dropped in an overload: whole events that nobody has, of what arrived, and as much as the policy says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.blocks import FIRST_WINDOW, Dispatcher
from beamfold.dispatch.overload import LARGEST_DROP, STEP, Overload, droppable_end
from beamfold.model.errors import MapError
from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.protocols.messages import DROPPED, Block

GENERIC = frozenset({"generic"})
CAST = {"constraint": None}


@st.composite
def maps(draw: st.DrawFn) -> TriggerMap:
    if draw(st.booleans()):
        streams = {s: {"every": draw(st.integers(1, 3)), "first": draw(st.integers(1, 4))} for s in "ab"}
        more = {"batch": draw(st.integers(1, 4)), "broadcast": draw(st.sampled_from([False, False, True]))}
        return compile_map({"streams": streams, "events": draw(st.integers(0, 30)), **more})
    cell = st.one_of(
        st.none(),
        st.just([CAST]),
        st.lists(st.integers(0, 9).map(lambda c: {"constraint": c}), max_size=2, unique_by=lambda c: c["constraint"]),
        st.integers(0, 9).map(lambda c: [CAST, {"constraint": c}]),
    )
    length = draw(st.integers(1, 12))
    columns = {s: draw(st.lists(cell, min_size=length, max_size=length)) for s in "ab"}
    return compile_map({"parts": {"p": columns}, "sequence": ["p"]})


@settings(max_examples=300, deadline=None)
@given(maps(), st.data())
def test_only_whole_events_without_broadcasts_are_dropped(trigger_map: TriggerMap, data: st.DataObject) -> None:
    n = trigger_map.n_virtual
    assert n is not None
    virtual = data.draw(st.integers(0, n))
    limit = data.draw(st.integers(0, n))
    end = droppable_end(trigger_map, virtual, limit)
    assert virtual <= end <= max(virtual, limit)
    events, ks = trigger_map.parts_of(virtual, end)
    dropped = set(zip(events.tolist(), ks.tolist(), strict=True))
    for event in set(events.tolist()):
        assert not trigger_map.groups_of(event)
        assert {(event, k) for k in range(trigger_map.width(event))} <= dropped


@settings(max_examples=200, deadline=None)
@given(maps(), st.sampled_from(["spill", "block", "sample", "latest"]), st.data())
def test_every_virtual_worker_is_assigned_or_dropped_once_and_nothing_ahead_of_its_frames_is_dropped(
    trigger_map: TriggerMap, policy: str, data: st.DataObject
) -> None:
    workers = 4
    try:
        trigger_map.refuse_unless("ab", [GENERIC] * workers)
    except MapError:
        return
    overload = Overload(policy, data.draw(st.sampled_from([None, 2, 5])) if policy == "sample" else None)
    dispatcher = Dispatcher(trigger_map, [GENERIC] * workers, overload)
    total, arrived, at, now, idle = trigger_map.n_virtual, 0, 0, 0.0, 0
    assert total is not None
    while at < total and idle < 200:
        overload.seen("a", data.draw(st.booleans()) if idle < 100 else False)
        arrived = data.draw(st.integers(arrived, total)) if idle < 100 else total
        now += data.draw(st.sampled_from([0.0, STEP]))
        overload.look(arrived, now)
        blocks = dispatcher.assign()
        for block in blocks:
            assert block.lo == at and block.hi > at
            at = block.hi
            if block.worker == DROPPED:
                assert overload.full and block.hi <= arrived and policy in ("sample", "latest")
        assert at == dispatcher.next_virtual
        idle = 0 if blocks else idle + 1
        for worker in range(workers):
            dispatcher.done(worker, data.draw(st.integers(0, 3)), now)
    assert idle < 200, "starved"


def uniform(events: int | None = None, **more: Any) -> TriggerMap:
    return compile_map({"streams": ["a"], "events": events, **more})


def test_latest_drops_all_but_the_newest_complete_event_even_when_no_worker_has_room() -> None:
    overload = Overload("latest")
    dispatcher = Dispatcher(uniform(), [GENERIC], overload)
    assert dispatcher.assign() == [Block(0, FIRST_WINDOW, 0)]
    overload.look(50, 0.0)
    assert not dispatcher.assign(), "nothing is full"
    overload.seen("a", True)
    assert dispatcher.assign() == [Block(FIRST_WINDOW, 50, DROPPED)]
    overload.seen("b", True)
    overload.seen("a", False)
    overload.look(60, 0.1)
    assert dispatcher.assign() == [Block(50, 60, DROPPED)]
    overload.seen("b", False)
    overload.look(70, 0.2)
    dispatcher.done(0, 1, 0.2)
    assert dispatcher.assign() == [Block(60, 61, 0)]


def test_a_fixed_sample_is_one_in_so_many() -> None:
    overload = Overload("sample", 5)
    dispatcher = Dispatcher(uniform(), [GENERIC], overload)
    dispatcher.assign()
    overload.seen("a", True)
    overload.look(10_000, 0.0)
    for n in range(20):
        dispatcher.done(0, 1, 0.0)
        at = FIRST_WINDOW + 5 * n
        assert dispatcher.assign() == [Block(at, at + 1, 0), Block(at + 1, at + 5, DROPPED)]


def test_a_sample_gets_thinner_while_there_is_too_much_and_denser_when_there_is_not() -> None:
    overload = Overload("sample")
    overload.seen("a", True)
    seen = []
    for step in range(6):
        overload.look(0, step * 2 * STEP)
        overload.look(0, step * 2 * STEP)
        seen.append(overload.every)
    assert seen == [2, 4, 8, 16, 32, 64]
    overload.seen("a", False)
    for step in range(6, 13):
        overload.look(0, step * 2 * STEP)
        seen.append(overload.every)
    assert seen[6:] == [32, 16, 8, 4, 2, 1, 1]


@pytest.mark.parametrize("policy", ["sample", "latest"])
def test_any_backlog_is_dropped_in_blocks_of_bounded_size(policy: str) -> None:
    overload = Overload(policy, 1 << 20 if policy == "sample" else None)
    dispatcher = Dispatcher(uniform(), [GENERIC], overload)
    overload.seen("a", True)
    overload.look(500_000, 0.0)
    blocks = dispatcher.assign()
    assert dispatcher.next_virtual >= 500_000
    assert max(b.hi - b.lo for b in blocks) == LARGEST_DROP and len(blocks) < 15
