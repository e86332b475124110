"""Stretches: which events hooks for many may get together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.model.stretches import Stretches

EVENTS = st.integers(0, 20)


@given(st.sets(EVENTS, max_size=4), st.lists(EVENTS, max_size=4).map(sorted), st.lists(EVENTS, max_size=12))
def test_events_of_one_stretch_have_the_same_parameters_and_no_broadcast_between_them(
    broadcasts: set[int], changes: list[int], looked_at: list[int]
) -> None:
    history = ParameterHistory([(0, ParameterSet([], 0))])
    for version, event in enumerate(changes, 1):
        history.append(event, ParameterSet([], version))
    stretches = Stretches(history, lambda event: min((b for b in broadcasts if b >= event), default=None))

    def alike(a: int, b: int) -> bool:
        between = any(min(a, b) <= e <= max(a, b) for e in broadcasts)
        return history.at(a) is history.at(b) and not between

    ends = [(event, stretches.end(event)) for event in looked_at]
    for event, end in ends:
        assert (end == event) == (event in broadcasts)
        for other, other_end in ends:
            if event not in broadcasts and other not in broadcasts:
                assert (end == other_end) == alike(event, other)
