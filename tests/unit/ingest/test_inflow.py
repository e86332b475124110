"""What comes fast goes on together; what comes slowly goes on at once; nothing stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamfold.ingest.inflow import FEW, HEAVY, HOLD, MANY, WINDOW, Inflow
from beamfold.model.events import Buffer

LIMIT = 50


def messages(n: int) -> list[list[Buffer]]:
    return [[b"%d" % i] for i in range(n)]


def settled(per_second: float, nbytes: int = 1) -> tuple[Inflow, float]:
    """After a while of messages one by one at this rate, each taken when it is due."""
    message: list[Buffer] = [bytes(nbytes)]
    inflow, now = Inflow(LIMIT), 100.0
    for _ in range(1000):
        now += 1 / per_second
        inflow.add([message], now)
        if inflow.due(now) == 0:
            inflow.take()
    inflow.take()
    return inflow, now


def test_a_slow_detectors_messages_go_on_at_once() -> None:
    inflow, now = settled(MANY * 0.9)
    inflow.add(messages(1), now + 1)
    assert inflow.due(now + 1) == 0


def test_a_fast_ones_are_gathered_for_a_moment() -> None:
    inflow, now = settled(MANY * 2)
    inflow.add(messages(1), now)
    inflow.add(messages(2), now + HOLD / 2)
    assert HOLD / 4 < (inflow.due(now + HOLD / 2) or 0) < HOLD
    assert inflow.due(now + HOLD * 1.01) == 0
    assert inflow.take() == [*messages(1), *messages(2)]
    assert inflow.due(now) is None


def test_large_ones_are_gathered_where_two_come_in_that_time() -> None:
    for rate, nbytes, waits in [
        (FEW * 1.1, int(HEAVY / FEW), True),
        (FEW * 1.1, int(HEAVY / FEW / 2), False),
        (FEW * 0.9, int(HEAVY / FEW * 2), False),
    ]:
        inflow, now = settled(rate, nbytes)
        inflow.add(messages(1), now)
        assert bool(inflow.due(now)) is waits


def test_so_many_as_may_be_gathered_go_on_at_once() -> None:
    inflow, now = settled(MANY * 2)
    inflow.add(messages(LIMIT), now)
    assert inflow.room == 0
    assert inflow.due(now) == 0


def test_after_a_pause_the_first_one_waits_a_moment_at_most() -> None:
    inflow, now = settled(MANY * 10)
    later = now + 100 * WINDOW
    inflow.add(messages(1), later)
    assert inflow.due(later) == 0


@given(st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, LIMIT))))
def test_no_message_is_lost_or_waits_longer_than_that(steps: list[tuple[float, int]]) -> None:
    inflow, now, n, given_, taken = Inflow(LIMIT), 0.0, 0, [], []
    for pause, count in steps:
        now += pause
        if inflow.due(now) == 0:
            taken += inflow.take()
        new = [[b"%d" % (n + i)] for i in range(min(count, inflow.room))]
        n += len(new)
        given_ += new
        inflow.add(list(new), now)
        assert 0 <= (inflow.due(now) or 0) <= HOLD
    assert taken + inflow.take() == given_
