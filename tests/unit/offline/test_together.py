"""Which parts a replay processes together."""

from __future__ import annotations

from beamfold.offline.together import Together
from beamfold.work.machine import Part


def part(event: int, k: int = 0) -> Part:
    return Part(event, k, {}, 0, 0, True)


def names(batches: list[list[Part]]) -> list[list[tuple[int, int]]]:
    return [[(p.event, p.k) for p in batch] for batch in batches]


def test_parts_wait_for_those_that_they_were_combined_with_and_all_others_go_alone() -> None:
    together = Together([[(0, 1, 3), (0, 5, 6)], [(0, 3, 5), (1, 3, 4)], [(2, 7, 9)]])
    assert names(together.batches([part(0, -1), part(1), part(3)])) == [[(0, -1)]]
    assert names(together.batches([part(2), part(6), part(5)])) == [[(6, 0)], [(1, 0), (2, 0), (5, 0)]]
    assert names(together.batches([part(3, 1), part(7, 2), part(7), part(4)])) == [[(7, 0)], [(3, 0), (3, 1), (4, 0)]]
    assert names(together.rest()) == [[(7, 2)]]
    assert together.rest() == []


def test_where_nothing_was_combined_all_go_alone() -> None:
    assert names(Together([]).batches([part(1), part(2, 1)])) == [[(1, 0)], [(2, 1)]]
