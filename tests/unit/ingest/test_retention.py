"""Retention against a plain model: chunks in a list, released ordinals in a set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.ingest.retention import Frame, Retention
from beamfold.model.runs import RunSet


def frame(ordinal: int) -> Frame:
    return [str(ordinal).encode(), b"x" * (ordinal % 7)]


def size(frame: Frame) -> int:
    return sum(map(len, frame))


class Model:
    """What is held, as plainly as it can be said."""

    def __init__(self) -> None:
        self.chunks: list[range] = []
        self.released: set[int] = set()
        self.kept: set[int] = set()

    def live(self) -> list[range]:
        return [c for c in self.chunks if not set(c) <= self.released]

    def held(self) -> set[int]:
        return {o for c in self.live() for o in c} | self.kept


def agree(retention: Retention, model: Model, top: int) -> None:
    held = model.held()
    assert retention.nbytes == sum(size(frame(o)) for c in model.live() for o in c)
    assert retention.kept_bytes == sum(size(frame(o)) for o in model.kept)
    expected = RunSet()
    for o in sorted(held):
        expected.add(o, o + 1)
    assert retention.held(0, top) == expected.runs()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_holds_what_a_plain_model_holds(data: st.DataObject) -> None:
    retention, model, following = Retention(), Model(), 0
    for _ in range(data.draw(st.integers(1, 15))):
        what = data.draw(st.sampled_from(["append", "append", "release", "keep", "pick", "put"]))
        if what == "append":
            lo = following + data.draw(st.integers(0, 3))
            n = data.draw(st.integers(1, 6))
            retention.append(lo, [frame(o) for o in range(lo, lo + n)])
            model.chunks.append(range(lo, lo + n))
            following = lo + n
        elif what == "release":
            lo = data.draw(st.integers(0, following + 3))
            hi = data.draw(st.integers(lo, following + 6))
            retention.release(lo, hi)
            model.released |= set(range(lo, hi))
        elif what == "put":
            following += 1
            retention.put(following, frame(following))
            model.kept.add(following)
            following += 1
        elif held := sorted(model.held()):
            if what == "keep":
                ordinal = data.draw(st.sampled_from(held))
                retention.keep(ordinal)
                if ordinal not in model.kept:
                    model.kept.add(ordinal)
                    model.released.add(ordinal)
            else:
                wanted = sorted(data.draw(st.lists(st.sampled_from(held), min_size=1, max_size=8)))
                assert retention.pick(np.array(wanted)) == [frame(o) for o in wanted]
        agree(retention, model, following + 10)


def test_what_is_not_held_cannot_be_picked() -> None:
    retention = Retention()
    for ordinals in ([0], [5]):
        with pytest.raises(KeyError):
            retention.pick(np.array(ordinals))
    retention.append(3, [frame(3), frame(4)])
    for ordinals in ([2], [3, 4, 5], [5], [3, 9]):
        with pytest.raises(KeyError):
            retention.pick(np.array(ordinals))
    retention.release(3, 5)
    with pytest.raises(KeyError):
        retention.pick(np.array([3]))


def test_an_ordinal_that_is_picked_twice_does_not_shift_the_others() -> None:
    """[5, 5, 6, 8] spans as much as four ordinals in a row do."""
    retention = Retention()
    retention.append(5, [frame(o) for o in range(5, 9)])
    assert retention.pick(np.array([5, 5, 6, 8])) == [frame(5), frame(5), frame(6), frame(8)]


def test_a_frame_that_comes_after_its_event_is_done_is_not_kept_for_ever() -> None:
    """A discarded frame of an event that was done by its other stream, say."""
    retention = Retention()
    retention.release(1, 4)
    retention.append(1, [frame(1), frame(2), frame(3)])
    assert retention.nbytes == 0
    retention.append(4, [frame(4)])
    assert retention.nbytes == size(frame(4))


def test_a_broadcast_frame_does_not_hold_back_its_chunk() -> None:
    retention = Retention()
    retention.append(0, [frame(0), frame(1), frame(2)])
    retention.keep(1)
    retention.release(0, 3)
    assert (retention.nbytes, retention.kept_bytes) == (0, size(frame(1)))
    assert retention.pick(np.array([1, 1])) == [frame(1), frame(1)]
    retention.keep(1)
    assert retention.kept_bytes == size(frame(1))
