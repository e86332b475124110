"""What a reducer tells a new controller: all that it has told before, and the newest of what is recorded."""

from __future__ import annotations

import pytest

from beamfold.protocols.messages import Combined, Logged, PartsDone
from beamfold.reduce import told
from beamfold.reduce.told import Told


def test_what_is_for_the_recording_is_told_again_as_far_as_it_may_not_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(told, "RECORDED", 2)
    all_told = Told()
    parts = [[(0, n, n + 1)] for n in range(4)]
    for n in range(4):
        combined, logged = [Combined(0, parts[n])], [Logged(0, parts[n], "x")]
        all_told.add(PartsDone(1, [], {}, 0, combined=combined, logged=logged, poison=[(n, 0)]))
    found = all_told.inventory(1)
    assert [c.parts for c in found.combined] == parts[2:] and found.combined_before == 2
    assert [batch.parts for batch in found.logged] == parts[2:]
    assert found.poison == [(2, 0), (3, 0)]


def test_what_comes_twice_does_not_make_a_scan_unfinished() -> None:
    all_told = Told()
    all_told.add(PartsDone(1, [], {}, 4, closed=True, finished=True))
    all_told.add(PartsDone(1, [], {}, 4, duplicates=1, closed=True))
    assert all_told.inventory(1).finished
