"""What a new controller makes of what the services say: whose virtual workers are, and what is done with the rest."""

from __future__ import annotations

import pytest

from beamfold.dispatch.blocks import Dispatcher
from beamfold.dispatch.recovery import Recovery
from beamfold.model.states import EventState, EventStates
from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.protocols.messages import DROPPED, PARKED, Arm, Block, IngesterInfo, Inventory, WorkerInfo

GENERIC = frozenset({"generic"})
ARM = Arm(
    1,
    "scan-1",
    {},
    [WorkerInfo("w0", ["generic"], "w0"), WorkerInfo("w1", ["generic"], "w1")],
    [IngesterInfo("i", "i", ["a"]), IngesterInfo("j", "j", ["b"])],
    "reducer",
    0,
    {},
)

Blocks = list[tuple[int, int, int]]


def owners(
    i: Blocks,
    j: Blocks,
    *,
    own: dict[int, Blocks] | None = None,
    heard: int = 0,
    fillers: tuple[str, str] = ("w0", "w1"),
) -> list[tuple[int, int, int | None]]:
    """Whose what is, by the ingesters i and j, and by what workers know to be their `own`."""
    recovery = Recovery(ARM, 0.0)
    for name, blocks in (("i", i), ("j", j)):
        recovery.add("ingester", name.encode(), Inventory(1, ARM, blocks=blocks, fillers=list(fillers)))
    for worker, name in enumerate(("w0", "w1")):
        blocks = (own or {}).get(worker, [])
        recovery.add("worker", name.encode(), Inventory(1, ARM, blocks=blocks, assigned=heard))
    return [(a.lo, a.hi, a.worker) for a in recovery.assigned()]


def test_what_a_worker_knows_to_have_is_its_own_whoever_else_has_heard() -> None:
    assert owners([], [], own={1: [(0, 2, 1)]}) == [(0, 2, 1)]
    assert owners([(0, 2, 1)], [(0, 2, PARKED - 0)], own={1: [(0, 2, 1)]}) == [(0, 2, 1)]


def test_who_was_to_be_told_and_has_not_heard_is_told_again() -> None:
    assert owners([(0, 2, 1)], []) == [(0, 2, 1)]


def test_who_fills_a_place_anew_gets_what_was_kept_for_it_unless_it_may_be_beyond() -> None:
    assert owners([(0, 2, PARKED - 1)], []) == [(0, 2, 1)]
    assert owners([(0, 2, PARKED - 1)], [], heard=2) == [(0, 2, None)]


def test_what_a_process_had_that_not_all_take_for_the_worker_waits_for_its_place() -> None:
    assert owners([], [], own={1: [(0, 2, 1)]}, fillers=("w0", "")) == [(0, 2, 1)]


def test_what_is_dropped_stays_so() -> None:
    assert owners([(0, 2, DROPPED)], []) == [(0, 2, DROPPED)]


def test_what_nobody_knows_is_nobodys_up_to_where_somebody_heard_that_all_is_assigned() -> None:
    assert owners([(0, 2, 1)], [(0, 2, 1)], own={1: [(0, 2, 1)]}, heard=5) == [(0, 2, 1), (2, 5, None)]


def casts(n: int = 10) -> TriggerMap:
    """Events of one virtual worker each, but for number 5, which is broadcast."""
    cells = [[{"constraint": None if event == 5 else event}] for event in range(1, n + 1)]
    return compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})


def test_what_nobody_has_goes_to_anybody_who_cannot_be_beyond_a_broadcast() -> None:
    dispatcher = Dispatcher(casts(), [GENERIC, GENERIC])
    dispatcher.restore([(0, 1, 0), (1, 2, None)], {0, 1})
    assert dispatcher.all_before == 1, "workers must not pass what somebody may still get"
    assert dispatcher.resolve(0, 0) == set()
    again = dispatcher.assign()[0]
    assert (again.lo, again.hi, again.attempt) == (1, 2, 1)


@pytest.mark.parametrize(("here", "replaced"), [({0, 1}, {0}), ({0}, set())])
def test_what_nobody_has_and_all_may_be_beyond_goes_to_a_new_process(here: set[int], replaced: set[int]) -> None:
    dispatcher = Dispatcher(casts(), [GENERIC, GENERIC])
    dispatcher.restore([(0, 1, 0), (1, 2, None), (2, 6, 0)], here)
    assert dispatcher.resolve(0, 0) == replaced
    place = 0 if replaced else 1
    assert Block(1, 2, PARKED - place) in dispatcher.assigned()
    if replaced:
        dispatcher.lose(place)
    assert Block(1, 2, place, dispatcher.attempt) in dispatcher.fill(place)


def test_what_is_done_is_not_assigned_again_though_nobody_is_left_who_knows_whose_it_was() -> None:
    states = EventStates()
    states.set(0, 4, EventState.REDUCED)
    states.set(6, 8, EventState.REDUCED)
    dispatcher = Dispatcher(casts(), [GENERIC], states=states)
    dispatcher.restore([], {0})
    dispatcher.resolve(4, 8)
    assert dispatcher.next_virtual == 3
    given = dispatcher.assign()
    states.set(4, 8, EventState.REDUCED)
    dispatcher.settle(8)
    assert given[0].lo == 3 and dispatcher.assign(), "what others had done does not make a worker look busy"


def test_a_worker_that_got_what_another_had_is_counted_as_others_are_once_that_is_done() -> None:
    trigger_map = compile_map({"streams": ["a"], "events": 100})
    states = EventStates()
    dispatcher = Dispatcher(trigger_map, [GENERIC, GENERIC], states=states)
    dispatcher.assign()
    dispatcher.lose(0)
    dispatcher.done(1, 4, 0.0)
    dispatcher.assign()
    assert dispatcher._uneven
    states.set(0, 20, EventState.REDUCED)
    dispatcher.settle(20)
    assert not dispatcher._uneven
