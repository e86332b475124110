"""Stamps of frames: those of the drain in which each came, whichever of them are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.ingest import arrivals as module
from beamfold.ingest.arrivals import Arrivals
from beamfold.protocols.stamps import UNTIMED


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=30),
    st.sets(st.integers(0, 200), min_size=1),
)
def test_every_frame_has_the_stamp_of_its_drain(drains: list[tuple[int, int, int]], wanted: set[int]) -> None:
    """Frames that are missing leave holes in the ordinals; drains that follow at once may have one stamp."""
    arrivals, expected, following = Arrivals(), {}, 0
    for n, hole, stamp in sorted(drains, key=lambda d: d[2]):
        arrivals.add(following, float(stamp))
        following += hole
        for ordinal in range(following, following + n):
            expected[ordinal] = float(stamp)
        following += n
    ordinals = np.array(sorted(wanted & expected.keys()), dtype=np.int64)
    if len(ordinals):
        found = [stamp for n, stamp in arrivals.of(ordinals) for _ in range(n)]
        assert found == [expected[o] for o in ordinals.tolist()]


def test_without_any_stamp_frames_are_not_timed() -> None:
    assert Arrivals().of(np.arange(3)) == [(3, UNTIMED)]


def test_the_newest_drain_is_known() -> None:
    arrivals = Arrivals()
    assert arrivals.newest is None
    for lo, stamp in [(0, 1.0), (5, 2.0), (7, 2.0)]:
        arrivals.add(lo, stamp)
    assert arrivals.newest == (5, 2.0)


def test_old_stamps_are_forgotten_and_frames_as_old_have_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    arrivals = Arrivals()
    for n in range(1000):
        arrivals.add(10 * n, float(n + 1))
        assert len(arrivals._starts) == len(arrivals._stamps) <= 20
    oldest = arrivals._stamps[0]
    assert arrivals.of(np.array([0])) == [(1, oldest)]
    assert arrivals.of(np.array([0, 9995])) == [(1, oldest), (1, 1000.0)]
