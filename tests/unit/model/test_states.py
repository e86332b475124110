"""States of events: any number of them, in bounded memory, and always the sum of what was set."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model import eventstates
from beamfold.model.errors import CodecError
from beamfold.model.eventstates import CHUNK
from beamfold.model.states import EventState, EventStates

EDGES = [0, 1, 5, CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 3, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK]
STATES = st.sampled_from(list(EventState))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(EDGES), st.sampled_from(EDGES), STATES),
        st.tuples(st.just("raise"), st.sampled_from(EDGES), st.sampled_from(EDGES), STATES),
        st.tuples(
            st.just("many"),
            st.lists(st.tuples(st.sampled_from(EDGES), STATES), max_size=6),
            st.none(),
            st.none(),
        ),
    ),
    max_size=8,
)


def runs_of(model: np.ndarray[Any, Any], state: int, end: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(model[:end] == state, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_states_are_what_was_set_last(steps: list[Any]) -> None:
    states, model, end = EventStates(), np.zeros(4 * CHUNK, dtype=np.uint8), 0
    for what, a, b, state in steps:
        if what == "set":
            states.set(a, b, state)
            model[a:b] = state
            end = max(end, b) if a < b and state else end
        elif what == "raise":
            states.raise_to(a, b, state)
            part = model[a:b]
            part[(part < state) & (part > 0)] = state
        else:
            events, values = [e for e, _ in a], [s for _, s in a]
            states.set_many(np.array(events, dtype=np.int64), np.array(values, dtype=np.uint8))
            for e, s in a:
                model[e] = s
                end = max(end, e + 1)
    for again in (states, EventStates.from_wire(states.to_wire())):
        values, numbers = np.unique(model[model > 0], return_counts=True)
        expected = {EventState(s): n for s, n in zip(values.tolist(), numbers.tolist(), strict=True)}
        assert again.counts() == expected
        assert again.done == sum(expected.values())
        assert [again[e] for e in EDGES] == [model[e] for e in EDGES]
        for state in EventState:
            assert again.runs(state) == runs_of(model, state, end)
            assert np.array_equal(again.mask(state, 3, len(model) - 3), model[3:-3] == state)
        assert again.runs(EventState.PENDING, limit=1) == runs_of(model, 0, end)[:1]


def test_a_finished_chunk_of_one_state_is_one_number() -> None:
    states = EventStates()
    for lo in range(0, 10 * CHUNK, 1000):
        states.set(lo, min(lo + 1000, 10 * CHUNK), EventState.REDUCED)
    kept = [c for c in states._chunks.values() if c.data is not None]
    assert len(kept) <= eventstates._HOT
    assert sum(len(c.packed) for c in states._chunks.values()) == 0
    assert EventStates.from_wire(states.to_wire()).to_wire()["chunks"] == [[0, 10, EventState.REDUCED]]


def test_finished_mixed_chunks_are_packed() -> None:
    states = EventStates()
    states.set(0, 20 * CHUNK, EventState.REDUCED)
    for number in range(20):
        states.set(number * CHUNK + 17, number * CHUNK + 18, EventState.FAILED)
    open_bytes = sum(0 if c.data is None else c.data.nbytes for c in states._chunks.values())
    assert open_bytes <= eventstates._HOT * CHUNK
    assert sum(len(c.packed) for c in states._chunks.values()) < 20 * 1000
    assert states.counts() == {EventState.REDUCED: 20 * CHUNK - 20, EventState.FAILED: 20}
    assert states.runs(EventState.FAILED, limit=2) == [(17, 18), (CHUNK + 17, CHUNK + 18)]


def test_runs_go_on_across_chunks() -> None:
    states = EventStates()
    states.set(CHUNK - 5, 3 * CHUNK + 5, EventState.LOST)
    assert states.runs(EventState.LOST) == [(CHUNK - 5, 3 * CHUNK + 5)]
    assert states.runs(EventState.PENDING) == [(0, CHUNK - 5)]


def test_nothing_is_set_for_ever_by_taking_back_the_future() -> None:
    states = EventStates()
    states.set(0, 10, EventState.REDUCED)
    states.set(5, 1 << 60, EventState.PENDING)
    states.raise_to(0, 1 << 60, EventState.UNVERIFIED)
    assert states.counts() == {EventState.UNVERIFIED: 5}


def test_states_are_ordered_by_severity_and_named_for_people() -> None:
    assert sorted(EventState) == list(EventState)
    assert max(EventState.REDUCED, EventState.FAILED, EventState.NO_RESULT) is EventState.FAILED
    labels = [s.label for s in EventState]
    assert len(set(labels)) == len(labels)
    assert (EventState.NO_RESULT.label, EventState.INCOMPLETE_SKIPPED.label) == (
        "no result",
        "incomplete (skipped)",
    )


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"end": 3, "chunks": 3},
        {"end": 3, "chunks": [[0, 1]]},
        {"end": 3, "chunks": [[0, 1, 99]]},
        {"end": 3, "chunks": [[-1, 1, 1]]},
        {"end": 3, "chunks": [[0, 1, b"junk"]]},
        {"end": 3, "chunks": [[0, 1, zlib.compress(b"\x01" * 10)]]},
        {"end": 3, "chunks": [[0, 1, zlib.compress(b"\x63" * CHUNK)]]},
    ],
)
def test_what_are_no_states_on_the_wire_are_refused(wire: Any) -> None:
    with pytest.raises(CodecError):
        EventStates.from_wire(wire)
