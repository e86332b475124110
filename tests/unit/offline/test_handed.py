"""Parts that a lost worker did go to it in a replay, whoever they were given to after that."""

from __future__ import annotations

from pathlib import Path

from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.offline.handed import Handed, who_did
from beamfold.offline.partruns import PartRuns
from beamfold.protocols.messages import DROPPED
from beamfold.protocols.recordings import Logged, Recording, _AboutApp, _AboutPolicy, _Report
from beamfold.work.machine import Part


def part(event: int, k: int = 0) -> Part:
    return Part(event, k, {}, 0, 0, True)


def names(taken: list[tuple[int, list[Part]]]) -> dict[int, list[tuple[int, int]]]:
    return {worker: [(p.event, p.k) for p in parts] for worker, parts in taken}


def test_a_part_is_found_in_the_list_that_has_it() -> None:
    runs = PartRuns([[(0, 1, 4), (-1, 7, 8)], [], [(0, 4, 6), (1, 2, 3)]])
    assert [runs.find(e, 0) for e in range(7)] == [None, 0, 0, 0, 2, 2, None]
    assert (runs.find(2, 1), runs.find(7, -1), runs.find(7, 2), runs.find(3, 1)) == (2, 0, None, None)
    assert runs and not PartRuns([[]])


def test_without_any_everything_stays_where_it_came() -> None:
    handed = Handed({})
    assert names(handed.take(1, [part(5), part(3)])) == {1: [(5, 0), (3, 0)]}
    assert handed.rest() == []


def test_a_worker_waits_for_what_it_did_before_it_does_what_is_beyond() -> None:
    handed = Handed({(4, 0): 0, (6, 1): 0})
    assert names(handed.take(0, [part(2), part(5, -1), part(4, 2)])) == {0: [(2, 0)]}
    assert names(handed.take(1, [part(3), part(9)])) == {1: [(3, 0), (9, 0)]}
    assert names(handed.take(1, [part(4)])) == {0: [(4, 2), (4, 0), (5, -1)]}
    assert names(handed.take(0, [part(7)])) == {}
    assert names(handed.take(1, [part(6, 1), part(8)])) == {0: [(6, 1), (7, 0)], 1: [(8, 0)]}
    assert names(handed.take(0, [part(1)])) == {0: [(1, 0)]}
    assert handed.rest() == []


def test_what_waits_for_parts_that_never_come_is_there_in_the_end() -> None:
    handed = Handed({(4, 0): 0})
    assert names(handed.take(0, [part(6), part(5)])) == {}
    assert names(handed.rest()) == {0: [(5, 0), (6, 0)]}
    assert names(handed.take(0, [part(7)])) == {0: [(7, 0)]}


def recording(
    trigger_map: TriggerMap,
    blocks: list[tuple[int, int, int]],
    again: list[tuple[int, int]],
    logged: list[Logged],
) -> Recording:
    about = _AboutPolicy(), _AboutApp("", "", "")
    return Recording(Path(), "", trigger_map, {}, [], *about, blocks=blocks, again=again, logged=logged)


def test_virtual_workers_go_to_who_did_them_and_single_parts_are_handed_on() -> None:
    """Virtual worker 0 has events 1 to 3, and 1 has 4 to 6. Both were given to 1 in the end."""
    cells = [[{"constraint": 0}]] * 3 + [[{"constraint": 1}]] * 3
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    logged = [Logged(0, [(-1, 0, 1), (0, 1, 4)], ""), Logged(0, [(0, 4, 5)], ""), Logged(1, [(0, 5, 7)], "")]
    blocks, doers = who_did(recording(trigger_map, [(0, 2, 1)], [(0, 2)], logged))
    assert blocks == [(0, 1, 0), (1, 2, 1)]
    assert doers == {(4, 0): 0}
    assert who_did(recording(trigger_map, [(0, 2, 1)], [], logged)) == ([(0, 2, 1)], {})
    assert who_did(recording(trigger_map, [(0, 2, 1)], [(0, 2)], [])) == ([(0, 2, 1)], {})


def test_what_a_controller_had_not_written_when_it_ended_is_whose_results_were_logged() -> None:
    cells = [[{"constraint": 0}]] * 2 + [[{"constraint": 1}]] * 2 + [[{"constraint": 2}]] * 2
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    logged = [Logged(0, [(0, 1, 3), (0, 3, 4)], ""), Logged(1, [(0, 4, 5)], "")]
    found = recording(trigger_map, [(2, 3, 1)], [], logged)
    assert who_did(found) == ([(0, 1, 0), (1, 2, 0), (2, 3, 1)], {(4, 0): 1})


def test_what_nothing_says_goes_to_workers_in_turn_but_for_what_the_report_says_was_dropped() -> None:
    """The last lines of a controller are lost: the map was closed in the middle of virtual worker 2."""
    cells = [[{"constraint": i // 2}] for i in range(8)]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    found = recording(trigger_map, [(0, 1, 1)], [], [Logged(1, [(0, 1, 3)], "")])
    found.workers = [("w0", frozenset({"generic"})), ("w1", frozenset({"generic"}))]
    found.closed = 5
    assert who_did(found)[0] == [(0, 1, 1)], "nobody has ended before its lines were written"
    found.taken_up = True
    assert who_did(found) == ([(0, 1, 1), (1, 2, 1), (2, 3, 0)], {})
    found.report = _Report(runs={"dropped": [(3, 5)]})
    assert who_did(found) == ([(0, 1, 1), (1, 2, DROPPED), (2, 3, 0)], {})
    found.closed = 0
    assert who_did(found) == ([(0, 1, 1)], {})
