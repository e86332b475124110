"""What a new controller is told of all that a reducer has told before."""

from __future__ import annotations

from beamfold.protocols.messages import PartsDone
from beamfold.reduce.told import Told


def test_that_all_is_folded_is_not_forgotten_when_results_come_twice_after_it() -> None:
    told = Told()
    told.add(PartsDone(1, [(0, 3, 2)], {0: 3}, 3, closed=True, finished=True))
    told.add(PartsDone(1, [], {0: 0}, 3, duplicates=1, closed=True))
    assert told.inventory(1).finished
