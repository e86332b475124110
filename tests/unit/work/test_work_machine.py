"""The work machine alone: which parts come out, when, and with what."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.protocols.messages import Block, StreamInfo
from beamfold.work.machine import Part, WorkMachine

CAST = [{"constraint": None}]


def own(c: int) -> list[Any]:
    return [{"constraint": c}]


def uniform(streams: str = "a", events: int | None = 10, **more: Any) -> TriggerMap:
    return compile_map({"streams": list(streams), "events": events, **more})


def sequence(*columns: list[Any], wrap: bool = True) -> TriggerMap:
    part = dict(zip("abc", columns, strict=False))
    return compile_map({"parts": {"p": part}, "sequence": ["p"]}, all_wrap=wrap)


class Bench:
    """A worker that has all virtual workers below `assigned`."""

    def __init__(self, trigger_map: TriggerMap, me: int = 0, assigned: int = 1000, groups: int | None = None) -> None:
        self.map, self.me = trigger_map, me
        infos = [StreamInfo(s, "T", True) for s in trigger_map.streams]
        groups = (1 << len(trigger_map.groups)) - 1 if groups is None else groups
        self.machine = WorkMachine(trigger_map, me, groups, infos)
        if assigned:
            self.machine.assign([Block(0, assigned, me)], assigned, 0)

    def frames(self, stream: int, events: list[int], k: Any = 0, version: int = 0, closed: bool = False) -> None:
        frames = [[f"{stream}.{e}".encode()] for e in events]
        self.machine.frames(stream, version, np.array(events, dtype=np.int64), k, frames, closed)

    def start(self) -> list[Part]:
        for stream in range(len(self.map.streams)):
            self.frames(stream, [0], -1 - self.me)
        return self.take()

    def take(self, limit: int = 1000) -> list[Part]:
        return self.machine.take(limit)


def shape(parts: list[Part]) -> list[tuple[int, int, str, int, bool]]:
    return [(p.event, p.k, "".join(sorted(p.streams)), p.missing, p.call) for p in parts]


def events(parts: list[Part]) -> list[int]:
    return [p.event for p in parts]


# -- joining --------------------------------------------------------------------------------------------------------


def test_frames_of_one_stream_are_parts_at_once_in_order() -> None:
    bench = Bench(uniform())
    assert shape(bench.start()) == [(0, -1, "a", 0, True)]
    bench.frames(0, [1, 2, 3])
    parts = bench.take()
    assert events(parts) == [1, 2, 3]
    assert parts[1].streams["a"].frames == [b"0.2"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_part_of_which_a_frame_is_sent_again_says_so_whatever_is_known_of_blocks(order: tuple[int, int]) -> None:
    """One of two ingesters may not have had its frame before, and the worker may not know that it is its own."""
    bench = Bench(uniform("ab"))
    bench.start()
    for stream in order:
        frames = [[b"f"]] * 2
        bench.machine.frames(stream, 0, np.array([1, 2]), 0, frames, again=stream == 1)
    bench.frames(0, [3])
    bench.frames(1, [3])
    single = Bench(uniform(), assigned=0)
    single.start()
    single.machine.frames(0, 0, np.array([4]), 0, [[b"f"]], again=True)
    single.frames(0, [5])
    assert [(p.event, p.again) for p in bench.take()] == [(1, True), (2, True), (3, False)]
    assert [(p.event, p.again) for p in single.take()] == [(4, True), (5, False)]


def test_take_gives_no_more_than_is_asked_for() -> None:
    bench = Bench(uniform())
    bench.start()
    bench.frames(0, [1, 2, 3])
    assert [len(bench.take(2)) for _ in range(3)] == [2, 1, 0]


def test_nothing_comes_before_the_start_event() -> None:
    bench = Bench(uniform())
    bench.frames(0, [1, 2])
    assert not bench.take() and bench.machine.waiting == 2
    assert events(bench.start()) == [0, 1, 2]


MISSING = st.sampled_from(["", "", "", "a", "b", "c", "ab", "bc", "abc"])


@settings(max_examples=200, deadline=None)
@given(st.lists(MISSING, min_size=1, max_size=8), st.data())
def test_every_part_comes_once_with_what_exists_however_the_pieces_arrive(lost: list[str], data: st.DataObject) -> None:
    """Frames and gaps of three streams, assignment and close in any order that their channels allow."""
    n = len(lost)
    batch = data.draw(st.integers(1, 3))
    bench = Bench(uniform("abc", n, batch=batch), assigned=0)
    channels: list[list[Any]] = []
    for s, name in enumerate("abc"):
        channel: list[Any] = [("frames", s, [0], -1)]
        for e, missing in enumerate(lost, 1):
            channel.append(("gap", s, [(e, e + 1)]) if name in missing else ("frames", s, [e], 0))
        channels.append([*channel, ("frames", s, [n + 1], -1, 0, True)])
    total = bench.map.n_virtual
    assert total is not None
    channels.append([*(("assign", v, v + 1) for v in range(total)), ("close",)])
    parts: list[Part] = []
    while any(channels):
        channel = data.draw(st.sampled_from([c for c in channels if c]))
        what, *rest = channel.pop(0)
        if what == "frames":
            bench.frames(*rest)
        elif what == "gap":
            bench.machine.gap(rest[0], rest[1], False)
        elif what == "assign":
            bench.machine.assign([Block(rest[0], rest[1], 0)], rest[1], 0)
        else:
            bench.machine.close(n)
        if data.draw(st.booleans()):
            parts += bench.take(data.draw(st.integers(1, 4)))
    parts += bench.take()
    bench.machine.conclude()  # not before all data events are terminal
    parts += bench.take()
    assert Counter(events(parts)) == Counter(range(n + 2))
    assert parts[0].event == 0 and parts[-1].event == n + 1
    for part in parts:
        gone = lost[part.event - 1] if 1 <= part.event <= n else ""
        assert set(part.streams) == set("abc") - set(gone)
        assert part.missing == sum(1 << "abc".index(s) for s in gone)
        assert part.call == (len(gone) < 3)
    assert bench.machine.waiting == 0 and not bench.take()


def test_a_gap_that_came_before_the_assignment_counts_also_for_virtual_workers_that_interlock() -> None:
    """The block's last virtual worker ends long before its first one."""
    bench = Bench(sequence([own(0), own(1), own(0)]), assigned=0)
    bench.start()
    bench.machine.gap(0, [(3, 4)], False)
    bench.machine.assign([Block(0, 2, 0)], 2, 0)
    assert shape(bench.take()) == [(3, 0, "", 1, False)]


def test_a_part_whose_last_missing_frame_is_a_broadcast_is_found() -> None:
    bench = Bench(sequence([own(0)], [CAST]))
    bench.start()
    bench.machine.gap(0, [(1, 2)], False)
    assert not bench.take()
    bench.machine.gap(1, [(1, 2)], False)
    assert shape(bench.take()) == [(1, 0, "", 3, False), (1, -1, "", 0, False)]


def test_a_stream_that_ended_is_not_waited_for_but_proves_nothing() -> None:
    bench = Bench(uniform("ab"))
    bench.start()
    bench.frames(0, [1])
    bench.machine.gap(1, [(1, 11)], True)
    bench.frames(0, [2])
    assert shape(bench.take()) == [(1, 0, "a", 2, True), (2, 0, "a", 2, True)]
    bench.machine.gap(0, [(3, 11)], True)
    assert not bench.take(), "nobody said that event 3 happened"


def test_what_an_ended_stream_lacks_is_forgotten_when_the_map_is_closed() -> None:
    """The end message of the shorter scan is the frame that comes after all."""
    bench = Bench(uniform("ab"))
    bench.start()
    bench.machine.gap(1, [(3, 11)], True)
    bench.machine.close(4)
    bench.machine.gap(1, [(3, 5)], False, True)
    bench.machine.gap(1, [(9, 11)], True)
    bench.machine.conclude()
    for stream in (0, 1):
        bench.frames(stream, [5], -1, closed=True)
    assert shape(bench.take())[-1] == (5, -1, "ab", 0, True)


@pytest.mark.parametrize("stream", [-1, 2, 99])
def test_a_gap_of_an_unknown_stream_is_ignored(stream: int) -> None:
    bench = Bench(uniform("ab"))
    bench.start()
    bench.machine.gap(stream, [(1, 5)], False)
    assert not bench.take()


def test_a_wrong_number_that_makes_an_enormous_gap_costs_nothing() -> None:
    bench = Bench(uniform("a", None), assigned=4)
    bench.start()
    bench.machine.gap(0, [(2, 10**15)], False)
    bench.machine.gap(0, [(10**15 + 1, 10**17)], False)
    assert events(bench.take()) == [2, 3, 4]


# -- the closed map -------------------------------------------------------------------------------------------------


def test_word_of_the_closed_map_waits_for_the_close() -> None:
    """Event 2 was to be a broadcast one, and is the end event now: its end messages are no data."""
    bench = Bench(sequence([own(0), CAST, own(1)], [own(0), None, own(1)]))
    bench.start()
    bench.frames(0, [1])
    bench.frames(1, [1])
    bench.frames(0, [2], -1, closed=True)
    bench.machine.gap(1, [(2, 3)], False, True)
    assert events(bench.take()) == [1]
    bench.machine.close(1)
    assert not bench.take()
    bench.machine.conclude()
    assert shape(bench.take()) == [(2, -1, "a", 2, True)]


def test_the_end_event_waits_for_the_word_that_all_else_is_done() -> None:
    bench = Bench(uniform(events=2))
    bench.start()
    bench.frames(0, [1, 2])
    bench.machine.close(2)
    bench.frames(0, [3], -1, closed=True)
    assert events(bench.take()) == [1, 2]
    assert bench.machine.waiting == 1
    bench.machine.conclude()
    assert events(bench.take()) == [3]


# -- broadcasts -----------------------------------------------------------------------------------------------------


def test_a_broadcast_waits_for_my_parts_before_it_and_what_follows_waits_for_it() -> None:
    bench = Bench(sequence([own(0), own(1), CAST, own(2), CAST, own(3)]))
    bench.start()
    bench.frames(0, [4])
    bench.frames(0, [3], -1)
    bench.frames(0, [6])
    bench.frames(0, [2])
    assert events(bench.take()) == [2]
    bench.frames(0, [1])
    assert events(bench.take()) == [1, 3, 4]
    bench.frames(0, [5], -1)
    assert events(bench.take()) == [5, 6]


def test_a_broadcast_waits_until_all_before_it_is_assigned() -> None:
    bench = Bench(sequence([own(0), own(1), CAST]), assigned=0)
    bench.start()
    bench.frames(0, [3], -1)
    bench.machine.assign([Block(0, 1, 0)], 1, 0)
    bench.frames(0, [1])
    assert events(bench.take()) == [1]
    bench.machine.assign([], 2, 0)
    assert events(bench.take()) == [3]


def test_a_broadcast_that_never_comes_lets_the_others_pass() -> None:
    bench = Bench(sequence([own(0), CAST, own(1)]))
    bench.start()
    bench.frames(0, [1, 3])
    assert events(bench.take()) == [1]
    bench.machine.gap(0, [(2, 3)], True)
    assert not bench.take()
    bench.machine.gap(0, [(2, 3)], False)
    assert shape(bench.take()) == [(2, -1, "", 1, False), (3, 0, "a", 0, True)]


def test_a_broadcast_that_never_comes_is_not_given_up_before_its_virtual_workers_are_assigned() -> None:
    """If one of them is mine, the broadcast's frames are missing from its part."""
    bench = Bench(sequence([CAST, own(1)], [own(0), None]), assigned=0)
    bench.start()
    bench.machine.gap(0, [(1, 2)], False)
    assert not bench.take()
    bench.machine.assign([Block(0, 1, 0)], 1, 0)
    bench.frames(1, [1])
    assert shape(bench.take()) == [(1, 0, "b", 1, True), (1, -1, "", 0, False)]


@pytest.mark.parametrize("order", [(0, -1), (-1, 0)])
def test_a_broadcast_comes_with_my_own_part_of_the_event(order: tuple[int, int]) -> None:
    bench = Bench(sequence([own(0)], [CAST]))
    bench.start()
    for k in order:
        assert not bench.take()
        bench.frames(-k, [1], k)
    assert shape(bench.take()) == [(1, 0, "ab", 0, True), (1, -1, "", 0, False)]


def test_whose_own_part_is_over_sees_what_was_broadcast_in_its_event() -> None:
    """A process in a lost one's place: the part is done, and its frames are gone."""
    bench = Bench(sequence([own(0), own(1)], [CAST, own(1)]))
    bench.start()
    bench.frames(1, [1], -1)
    assert not bench.take()
    bench.machine.assign([], 1000, 2)
    assert shape(bench.take()) == [(1, -1, "b", 0, True)]


def test_a_broadcast_waits_until_all_virtual_workers_of_its_event_are_assigned() -> None:
    """One of them may be mine."""
    bench = Bench(sequence([own(0)], [CAST]), assigned=0)
    bench.start()
    bench.frames(1, [1], -1)
    assert not bench.take()
    bench.machine.assign([], 1, 0)
    assert shape(bench.take()) == [(1, -1, "b", 0, True)]


def test_a_part_that_comes_when_what_was_broadcast_is_passed_says_that_it_lacks_it() -> None:
    """The place of the worker that had it was given up."""
    bench = Bench(sequence([own(0)], [CAST]), assigned=0)
    bench.start()
    bench.machine.assign([], 1, 0)
    bench.frames(1, [1], -1)
    assert shape(bench.take()) == [(1, -1, "b", 0, True)]
    bench.machine.assign([Block(0, 1, 0, 1)], 1, 0)
    bench.frames(0, [1])
    assert shape(bench.take()) == [(1, 0, "a", 2, True)]


def test_two_virtual_workers_of_a_broadcast_event_give_its_part_once() -> None:
    bench = Bench(sequence([own(0)], [own(1)], [CAST]))
    bench.start()
    bench.frames(2, [1], -1)
    for k in (0, 1):
        bench.frames(k, [1], k)
    assert sorted(shape(bench.take())) == [(1, -1, "", 0, False), (1, 0, "ac", 0, True), (1, 1, "bc", 0, True)]


def test_a_worker_without_the_tags_does_not_wait_for_the_broadcast() -> None:
    bench = Bench(sequence([own(0), CAST, own(1)]), groups=0)
    bench.frames(0, [1, 3])
    assert events(bench.take()) == [1, 3]


# -- parameters -----------------------------------------------------------------------------------------------------


def test_a_batch_waits_for_the_parameters_it_needs() -> None:
    bench = Bench(uniform("ab"))
    bench.start()
    bench.frames(0, [1, 2], version=2)
    bench.frames(1, [1, 2, 3], version=1)
    assert not bench.take() and bench.machine.waiting == 0
    bench.machine.parameters(1)
    assert not bench.take() and bench.machine.waiting == 3
    bench.machine.parameters(2)
    assert [(p.event, p.version) for p in bench.take()] == [(1, 2), (2, 2)]
    bench.machine.parameters(1)
    bench.frames(0, [3], version=2)
    assert events(bench.take()) == [3]


def test_an_end_message_may_wait_for_both_the_close_and_its_parameters() -> None:
    bench = Bench(uniform(events=1))
    bench.start()
    bench.frames(0, [1])
    bench.frames(0, [2], -1, version=1, closed=True)
    bench.machine.close(1)
    bench.machine.conclude()
    assert events(bench.take()) == [1]
    bench.machine.parameters(1)
    assert events(bench.take()) == [2]


# -- long scans -----------------------------------------------------------------------------------------------------


def test_what_is_over_is_forgotten_and_what_spans_the_scan_is_not() -> None:
    n = 200
    bench = Bench(sequence([own(1000), *(own(i) for i in range(n)), own(1000)]), assigned=0)
    bench.start()
    for v in range(n + 1):
        bench.machine.assign([Block(v, v + 1, 0 if v % 2 == 0 else 1)], v + 1, max(v - 1, 0))
    bench.machine.assign([], n + 1, n + 1)
    bench.machine.gap(0, [(n + 2, n + 3)], False)
    assert events(bench.take()) == [n + 2]


# -- how far the scan has come ------------------------------------------------------------------------------------


def test_a_part_of_ended_streams_is_complete_once_another_stream_is_beyond_it() -> None:
    bench = Bench(uniform("ab"))
    bench.start()
    for stream in (0, 1):
        bench.machine.gap(stream, [(3, 11)], True)
    assert not bench.take()
    bench.machine.assign([], 1000, 0, 4)
    assert shape(bench.take()) == [(3, 0, "", 3, False), (4, 0, "", 3, False)]
    bench.machine.assign([], 1000, 0, 5)
    bench.machine.assign([], 1000, 0, 2)
    assert events(bench.take()) == [5]
    bench.machine.assign([], 1000, 5)
    bench.machine.close(7)
    for stream in (0, 1):
        bench.machine.gap(stream, [(3, 8)], False, True)
    assert events(bench.take()) == [6, 7], "nothing twice, whether it is over or not"


def test_it_may_be_known_how_far_the_scan_has_come_before_a_stream_ends() -> None:
    bench = Bench(uniform("a", None), assigned=5)
    bench.start()
    bench.machine.assign([], 5, 0, 3)
    bench.machine.gap(0, [(2, 1 << 62)], True)
    assert events(bench.take()) == [2, 3]


def test_a_broadcast_of_an_ended_stream_is_given_up_once_another_stream_is_beyond_it() -> None:
    bench = Bench(sequence([CAST, own(0)], [None, own(0)]))
    bench.start()
    bench.machine.gap(0, [(1, 3)], True)
    bench.frames(1, [2])
    assert not bench.take()
    bench.machine.assign([], 1, 0, 2)
    assert shape(bench.take()) == [(1, -1, "", 1, False), (2, 0, "b", 1, True)]
