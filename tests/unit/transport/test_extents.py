"""Ranges of an arena: never overlapping, lowest first, and whole again when all are back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamfold.transport.extents import GRAIN, Extents

ROOM = 32 * GRAIN
STEPS = st.lists(st.tuples(st.integers(1, 8 * GRAIN), st.integers(0, 10)), max_size=60)


@given(STEPS)
def test_no_two_ranges_overlap_and_the_lowest_that_fits_is_taken(steps: list[tuple[int, int]]) -> None:
    extents = Extents(ROOM)
    held: list[tuple[int, int]] = []
    for nbytes, which in steps:
        if which > 6 and held:
            offset, _ = held.pop(which % len(held))
            extents.give(offset)
            continue
        size = -(-nbytes // GRAIN) * GRAIN
        taken = sorted((o, o + s) for o, s in held)
        edges = [0, *(end for _, end in taken)]
        fitting = [
            edge
            for edge in edges
            if edge + size <= ROOM and not any(start < edge + size and edge < end for start, end in taken)
        ]
        found = extents.take(nbytes)
        assert found == min(fitting, default=None)
        if found is not None:
            held.append((found, size))
    assert extents.used == sum(size for _, size in held)
    assert extents.top == max((o + s for o, s in held), default=0)
    for offset, _ in held:
        extents.give(offset)
    assert extents.used == 0
    assert extents.take(ROOM) == 0


def test_room_is_whole_grains() -> None:
    assert Extents(GRAIN - 1).take(1) is None
    assert Extents(2 * GRAIN - 1).take(GRAIN + 1) is None
