"""The ingest machine alone: what it sends to whom, and what it tells the controller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.ingest import machine
from beamfold.ingest.machine import (
    BATCH_FRAMES,
    Dump,
    IngestMachine,
    Pause,
    Resume,
    SendFrames,
    SendGap,
    StreamSpec,
    Tell,
)
from beamfold.model.triggermap import TriggerMap, compile_map
from beamfold.protocols import messages as m
from beamfold.protocols.items import Data, End, Malformed, Start, Stray
from beamfold.protocols.messages import DROPPED, Block
from rig import ListShelf

PLENTY = 1 << 30


def frame(number: int) -> list[bytes]:
    return [f"frame {number}".encode()]


def data(*numbers: int) -> Data:
    return Data(list(numbers), [frame(n) for n in numbers])


def uniform(events: int | None = 10, **more: Any) -> TriggerMap:
    return compile_map({"streams": ["a"], "events": events, **more})


def sequence(*columns: list[Any], wrap: bool = True) -> TriggerMap:
    part = dict(zip("abc", columns, strict=False))
    return compile_map({"parts": {"p": part}, "sequence": ["p"]}, all_wrap=wrap)


def own(c: int) -> list[Any]:
    return [{"constraint": c}]


CAST = {"constraint": None}


class Bench:
    """An ingest machine with all of its workers attached, and what came of it."""

    def __init__(
        self,
        trigger_map: TriggerMap,
        workers: int = 1,
        *,
        streams: str = "a",
        numbered: bool = True,
        base: int | None = 0,
        credit: int | None = PLENTY,
        assigned: Iterable[Block] = (),
        retention_bytes: int = PLENTY,
        **more: Any,
    ) -> None:
        specs = [
            StreamSpec(i, s, numbered, base, retention_bytes) for i, s in enumerate(trigger_map.streams) if s in streams
        ]
        groups = (1 << len(trigger_map.groups)) - 1
        self.machine = IngestMachine(1, trigger_map, specs, [groups] * workers, **more)
        self.actions: list[Any] = []
        for worker in range(workers if credit is not None else 0):
            for spec in specs:
                self.do(self.machine.grant(worker, spec.index, credit or 0))
        self.do(self.machine.assign(list(assigned)))

    def do(self, actions: list[Any]) -> list[Any]:
        self.actions += actions
        return actions

    def feed(self, *items: Any, stream: int = 0) -> list[Any]:
        return self.do(self.machine.feed(stream, items))

    def start(self, stream: int = 0) -> list[Any]:
        return self.feed(Start([b"start"]), stream=stream)

    @property
    def sent(self) -> list[tuple[int, int, int, int, bytes]]:
        """(worker, stream, event, k, first message part) in order of sending."""
        return [row for a in self.actions if isinstance(a, SendFrames) for row in rows(a)]

    def got(self, worker: int) -> list[tuple[int, bytes]]:
        return [(e, f) for w, _, e, _, f in self.sent if w == worker]

    @property
    def gaps(self) -> list[tuple[int, list[tuple[int, int]], bool]]:
        return [(a.worker, a.runs, a.tail) for a in self.actions if isinstance(a, SendGap)]

    def told(self, kind: type) -> list[Any]:
        return [a.message for a in self.actions if isinstance(a, Tell) and isinstance(a.message, kind)]


def rows(action: SendFrames) -> list[tuple[int, int, int, int, bytes]]:
    ks = np.broadcast_to(action.k, len(action.frames)).tolist()
    events = action.events.tolist()
    return [
        (action.worker, action.stream, e, k, bytes(f[0])) for e, k, f in zip(events, ks, action.frames, strict=True)
    ]


ALL = [Block(0, 1000, 0)]


# -- numbering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "said"), [(0, None), (1, None), (0, 417), (None, 5), (None, None)])
def test_frames_are_matched_by_their_number_and_its_base(base: int | None, said: int | None) -> None:
    bench = Bench(uniform(3), base=base, assigned=ALL)
    first = said if said is not None else base or 0
    bench.feed(Start([b"start"], said), data(first, first + 1, first + 2))
    assert bench.got(0) == [(0, b"start"), *((i + 1, frame(first + i)[0]) for i in range(3))]


def test_a_counted_stream_is_matched_by_the_order_of_its_frames() -> None:
    bench = Bench(uniform(3), numbered=False, assigned=ALL)
    bench.feed(Start([b"start"]), Data(None, [frame(7), frame(7), frame(9)]))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2, 3]


def test_a_gap_is_told_once_a_later_frame_shows_it_and_not_before() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1))
    assert not bench.gaps
    bench.feed(data(4, 5, 8))
    assert bench.gaps == [(0, [(3, 5), (7, 9)], False)]
    assert [t.runs for t in bench.told(m.FramesMissing)] == [[(3, 5), (7, 9)]]
    assert [e for e, _ in bench.got(0)] == [0, 1, 2, 5, 6, 9]


def test_however_many_frames_a_drain_lacks_they_are_told_in_one_message_each() -> None:
    bench = Bench(uniform(None), workers=2, assigned=ALL)
    bench.start()
    bench.feed(data(*range(1, 2001, 2)))
    lost = [(event, event + 1) for event in range(1, 2001, 2)]
    assert bench.gaps == [(0, lost, False), (1, lost, False)]
    assert [t.runs for t in bench.told(m.FramesMissing)] == [lost]


def test_an_event_that_has_no_frame_by_the_map_is_not_among_the_missing_ones() -> None:
    bench = Bench(sequence([own(0), own(0), None, own(0), own(0)]), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 3))
    assert [t.runs for t in bench.told(m.FramesMissing)] == [[(2, 3), (4, 5)]]
    assert [missing.runs for missing in bench.machine.inventory()["missing"]] == [[(2, 3), (4, 5)]]


@pytest.mark.parametrize("events", [None, 1 << 53])
def test_a_damaged_number_far_ahead_costs_its_frame_and_no_other(events: int | None) -> None:
    bench = Bench(uniform(events), assigned=[Block(0, 1 << 50, 0)])
    bench.feed(Start([b"s"]), data(0, 1), data(10**15, 2), data(10**12, 3), data(4))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2, 3, 4, 5]
    assert not bench.gaps
    assert bench.machine.progress()[0].malformed == 2
    assert "frame 1000000000000000 came where 2 was expected" in bench.told(m.Trouble)[0].text


def test_a_leap_is_believed_when_the_next_frame_confirms_it() -> None:
    bench = Bench(uniform(None), assigned=[Block(0, 1 << 50, 0)])
    far = machine.LONGEST_GAP + 100
    bench.feed(Start([b"s"]), data(0), data(far), data(far + 2, far + 3))
    assert [e for e, _ in bench.got(0)] == [0, 1, far + 3, far + 4]
    assert bench.gaps == [(0, [(2, far + 3)], False)]
    assert bench.machine.progress()[0].malformed == 1


def test_repeated_and_late_frames_are_counted_and_not_used() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1), data(1, 0), data(3, 2, 3), data(4))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2, 4, 5]
    seen = bench.machine.progress()[0]
    assert (seen.frames, seen.duplicates, seen.late, seen.out_of_order) == (4, 3, 1, 2)


@pytest.mark.parametrize(
    ("numbers", "late", "duplicates", "out_of_order"),
    [
        ([0, 1, 4, 2, 3, 5], 2, 0, 1),  # two frames that were delayed together
        ([0, 1, 4, 3, 2, 5], 2, 0, 2),
        ([0, 1, 1, 1, 2], 0, 2, 0),
        ([0, 1, 2, 0, 1, 2, 3], 0, 3, 1),
        ([0, 3, 2, 2, 1, 1, 4], 2, 2, 2),
    ],
)
@pytest.mark.parametrize("together", [1, 2, 100])
def test_what_came_late_is_told_from_what_came_again(
    numbers: list[int], late: int, duplicates: int, out_of_order: int, together: int
) -> None:
    """However the frames came to be drained together."""
    bench = Bench(uniform(10), assigned=ALL)
    bench.start()
    for at in range(0, len(numbers), together):
        bench.feed(data(*numbers[at : at + together]))
    seen = bench.machine.progress()[0]
    assert (seen.late, seen.duplicates, seen.out_of_order) == (late, duplicates, out_of_order)
    assert seen.frames == len(numbers) - late - duplicates


def test_frames_before_a_start_or_after_the_end_are_not_used_and_counted() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(data(0, 1), End([b"e"]), Start([b"s"]), data(0), End([b"e"]), data(1, 2), End([b"e"]))
    assert [e for e, _ in bench.got(0)] == [0, 1]
    seen = bench.machine.progress()[0]
    assert (seen.strangers, seen.discarded) == (3, 3)
    bench.machine.halt()
    bench.feed(data(1, 2, 3), Malformed("?", [b""]))
    assert bench.machine.progress()[0].discarded == 7


def test_strays_are_of_another_series_and_counted_while_this_one_runs() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0), Stray([[b"x"], [b"y"]]), data(1))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2]
    assert bench.machine.progress()[0].strangers == 2


def test_where_numbers_run_on_those_below_the_start_are_of_an_older_series() -> None:
    bench = Bench(uniform(10), assigned=ALL, base=None)
    bench.feed(Start([b"s"], 100), data(98), data(99, 100), data(101))
    assert bench.got(0) == [(0, b"s"), (1, b"frame 100"), (2, b"frame 101")]
    seen = bench.machine.progress()[0]
    assert (seen.strangers, seen.duplicates, seen.late) == (2, 0, 0)


ITEMS = st.one_of(
    st.lists(st.integers(0, 14), min_size=1, max_size=4).map(lambda numbers: data(*numbers)),
    st.sampled_from([Start([b"s"]), Start([b"s"]), End([b"e"]), Malformed("?", [b""]), Stray([[b"x"], [b"y"]])]),
)


@given(st.lists(ITEMS, max_size=20))
@settings(max_examples=200)
def test_every_message_that_comes_is_counted_as_one_thing(items: list[Any]) -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(*items)
    seen = bench.machine.progress()[0]
    state = bench.machine._streams[0]
    unused = seen.late + seen.duplicates + seen.strangers + seen.discarded + seen.malformed + state.surplus
    starts = sum(isinstance(item, Start) for item in items)
    ends = int(state.phase == "ended" and not state.foreign)
    came = sum(len(item.frames) if isinstance(item, Data | Stray) else 1 for item in items)
    assert seen.frames + unused + starts + ends == came
    assert len({event for event, _ in bench.got(0) if 1 <= event <= 10}) == seen.frames


def test_a_second_start_is_a_trouble() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0), Start([b"s"]), data(1))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2]
    assert "while the series is running" in bench.told(m.Trouble)[0].text


def test_a_series_that_begins_anew_in_the_middle_is_another_one_whatever_its_numbers() -> None:
    """A detector was stopped and started again: its frame 2 is not the one that this scan lacks."""
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1), Start([b"t"]), data(0), data(1, 2, 3), End([b"e"]), Start([b"u"]), data(4))
    assert bench.got(0) == [(0, b"s"), (1, b"frame 0"), (2, b"frame 1")]
    assert bench.gaps == [(0, [(3, 11)], True)]
    assert [(ended.frames, ended.last_event) for ended in bench.told(m.StreamEnded)] == [(2, 2)]
    assert bench.machine.progress()[0].strangers == 6
    texts = [trouble.text for trouble in bench.told(m.Trouble)]
    assert "while the series is running" in texts[0] and "submit a scan for it" in texts[1]


@pytest.mark.parametrize(("numbered", "base"), [(False, None), (True, 200)])
def test_a_second_start_that_can_only_be_another_series_ends_this_one_at_once(numbered: bool, base: int | None) -> None:
    bench = Bench(uniform(10), assigned=ALL, numbered=numbered, base=None)
    frames = Data([100], [frame(100)]) if numbered else Data(None, [frame(100)])
    bench.feed(Start([b"s"], 100 if numbered else None), frames, Start([b"t"], base))
    assert len(bench.told(m.StreamEnded)) == 1
    bench.feed(Data([201], [frame(1)]) if numbered else Data(None, [frame(1)]))
    assert bench.got(0) == [(0, b"s"), (1, b"frame 100")]


def test_a_detector_that_is_started_twice_before_its_first_frame_is_followed() -> None:
    bench = Bench(uniform(10), assigned=ALL, base=None)
    bench.feed(Start([b"s"], 100), Start([b"t"], 200), data(200, 201))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2]
    assert not bench.told(m.StreamEnded) and bench.machine.progress()[0].base == 200


def test_progress_says_when_a_frame_came() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    assert bench.machine.progress()[0].arrived is None
    for stamp, items in enumerate([[Start([b"s"])], [data(0, 1)], [data(2)], [data(5)], [Malformed("?", [b""])]], 1):
        bench.machine.feed(0, items, float(stamp))
        assert bench.machine.progress()[0].arrived == (None, (1, 2.0), (3, 3.0), None, None)[stamp - 1]


def test_troubles_are_bounded() -> None:
    bench = Bench(uniform(10))
    bench.feed(*[Malformed("bad", [b""])] * 500)
    assert len(bench.told(m.Trouble)) == 100
    assert bench.machine.progress()[0].malformed == 500


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("split", [1, 2, 7])
def test_frames_beyond_the_map_are_surplus(numbered: bool, split: int) -> None:
    bench = Bench(uniform(4), numbered=numbered, assigned=ALL)
    bench.start()
    for at in range(0, 7, split):
        numbers = range(at, min(at + split, 7))
        bench.feed(Data(list(numbers) if numbered else None, [frame(n) for n in numbers]))
    bench.feed(End([b"end"]))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2, 3, 4]
    ended = bench.told(m.StreamEnded)[0]
    assert (ended.frames, ended.last_event, ended.surplus) == (4, 4, 3)


def test_a_stream_without_any_cell_takes_nothing() -> None:
    """Without start and end event there may be no cell even for the start message."""
    bench = Bench(sequence([own(0), own(0)], [None, None], wrap=False), streams="b", assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1, 2), End([b"e"]), stream=1)
    assert not bench.sent
    assert bench.told(m.StreamEnded)[0].surplus == 3
    assert bench.machine.progress()[0].retained <= 1


def test_without_start_and_end_event_their_messages_take_the_first_and_the_last_cell() -> None:
    bench = Bench(sequence([None, own(0), None, own(0), own(0)], wrap=False), assigned=ALL)
    bench.feed(Start([b"start"]))
    assert bench.do(bench.machine.halt())[0].message.streams == {"a": (1, False)}
    bench = Bench(sequence([None, own(0), None, own(0), own(0)], wrap=False), assigned=ALL)
    bench.feed(Start([b"start"]), data(0), End([b"end"]))
    assert bench.got(0) == [(1, b"start"), (3, b"frame 0"), (4, b"end")]
    assert bench.told(m.StreamEnded)[0].last_event == 4


# -- the end ------------------------------------------------------------------------------------------------------


def test_a_series_that_ends_early_is_told_at_once_and_for_good_when_the_map_is_closed() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1), End([b"end"]))
    assert bench.gaps == [(0, [(3, 11)], True)]
    bench.actions.clear()
    bench.do(bench.machine.close(5))
    assert bench.gaps == [(0, [(3, 6)], False)]
    assert bench.sent == [(0, 0, 6, -1, b"end")]
    assert all(a.closed for a in bench.actions if isinstance(a, SendFrames | SendGap))


def test_a_series_that_ends_in_an_endless_scan_keeps_nobody_waiting() -> None:
    bench = Bench(uniform(None), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1), End([b"end"]))
    assert [(runs[0][0], tail) for _, runs, tail in bench.gaps] == [(3, True)]
    assert bench.gaps[0][1][0][1] > 1 << 60
    bench.do(bench.machine.close(2))
    assert bench.sent[-1] == (0, 0, 3, -1, b"end")
    assert len(bench.gaps) == 1


def test_a_series_that_never_ends_lacks_its_end_too() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1))
    assert bench.do(bench.machine.halt())[0].message.streams == {"a": (2, False)}
    bench.do(bench.machine.close(4))
    assert bench.gaps == [(0, [(3, 6)], False)]


def test_a_series_that_never_began_lacks_everything() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    assert bench.do(bench.machine.halt())[0].message.streams == {"a": (0, False)}
    bench.do(bench.machine.close(0))
    assert bench.gaps == [(0, [(0, 2)], False)]


def test_the_end_message_is_kept_though_its_place_in_the_longer_map_was_done() -> None:
    """A discarded frame that never came: its event was done, and its ordinal is the end message's now."""
    bench = Bench(sequence([own(0), []]), assigned=ALL)
    bench.feed(Start([b"s"]), data(0), End([b"end"]))
    bench.do(bench.machine.release(m.Release(1, [(0, 3)])))
    bench.do(bench.machine.close(1))
    assert bench.got(0)[-1] == (2, b"end")


def test_a_worker_that_attaches_late_learns_of_all_gaps_and_gets_its_frames() -> None:
    bench = Bench(uniform(10), credit=None, assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 3), data(5))
    assert not bench.sent and not bench.gaps
    bench.do(bench.machine.grant(0, 0, PLENTY))
    assert bench.gaps == [(0, [(2, 4)], False), (0, [(5, 6)], False)]
    assert [e for e, _ in bench.got(0)] == [0, 1, 4, 6]
    bench.actions.clear()
    bench.do(bench.machine.grant(0, 0, 1))
    assert not bench.actions


@pytest.mark.parametrize(("worker", "stream", "credit"), [(-1, 0, 1), (5, 0, 1), (0, 3, 1), (0, -1, 1), (0, 0, -9)])
def test_a_grant_that_makes_no_sense_is_ignored(worker: int, stream: int, credit: int) -> None:
    bench = Bench(uniform(4), credit=None, assigned=ALL)
    bench.feed(Start([b"s"]), data(0))
    assert bench.machine.grant(worker, stream, credit) == []


# -- routing --------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_beyond_what_is_assigned() -> None:
    bench = Bench(uniform(10), workers=2)
    bench.feed(Start([b"s"]), data(*range(6)))
    assert [e for _, _, e, _, _ in bench.sent] == [0, 0]
    bench.do(bench.machine.assign([Block(0, 2, 1), Block(2, 3, 0)]))
    assert bench.got(1)[1:] == [(1, b"frame 0"), (2, b"frame 1")]
    assert bench.got(0)[1:] == [(3, b"frame 2")]
    bench.do(bench.machine.assign([Block(3, 10, 1)]))
    assert [e for e, _ in bench.got(1)] == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("cell", [[CAST, {"constraint": 0}], [{"constraint": 0}, CAST]])
def test_a_frame_for_one_worker_and_for_all_reaches_all_and_the_one_for_its_part(cell: list[Any]) -> None:
    bench = Bench(sequence([cell], [own(1)]), workers=2)
    bench.feed(Start([b"s"]), data(0), End([b"e"]))
    assert {e for _, _, e, _, _ in bench.sent} == {0}, "its virtual worker is not assigned yet"
    bench.do(bench.machine.assign([Block(0, 1, 1)]))
    assert sorted(r for r in bench.sent if r[2] == 1) == [
        (0, 0, 1, -1, b"frame 0"),
        (1, 0, 1, -2, b"frame 0"),
        (1, 0, 1, 0, b"frame 0"),
    ]


def test_a_worker_gets_a_broadcast_frame_once_whatever_else_it_has_of_the_event() -> None:
    bench = Bench(sequence([own(0)], [own(1)], [[CAST]]), streams="c", assigned=[])
    bench.feed(Start([b"s"]), data(0), stream=2)
    assert [(w, e, k) for w, _, e, k, _ in bench.sent if e == 1] == [(0, 1, -1)], "whose the others are does not matter"
    bench.do(bench.machine.assign([Block(0, 2, 0, 1)]))
    assert len(bench.sent) == 2


def test_who_fills_a_place_gets_what_was_broadcast_once_and_its_parts_when_they_are_assigned() -> None:
    bench = Bench(sequence([own(0), [CAST, {"constraint": 0}]]), assigned=[Block(0, 1, 0)])
    bench.feed(Start([b"s"]), data(0, 1))
    bench.actions.clear()
    for here in (False, True):
        bench.do(bench.machine.fill(0, here))
    bench.do(bench.machine.grant(0, 0, 1 << 20))
    assert [(e, k) for _, _, e, k, _ in bench.sent] == [(0, -1), (2, -1)]
    bench.do(bench.machine.assign([Block(0, 1, 0, 1)]))
    assert [(e, k) for _, _, e, k, _ in bench.sent[2:]] == [(1, 0), (2, 0)]


def test_two_virtual_workers_of_one_cell_at_one_worker_get_their_own_copies() -> None:
    cells: list[Any] = [[{"constraint": 0}, {"constraint": 1}], own(0), [], own(1)]
    bench = Bench(sequence(cells), assigned=[Block(0, 2, 0)])
    bench.feed(Start([b"s"]), data(0, 1, 2, 3))
    assert [(e, k, f) for _, _, e, k, f in bench.sent[1:]] == [
        (1, 0, b"frame 0"),
        (1, 1, b"frame 0"),
        (2, 0, b"frame 1"),
        (4, 0, b"frame 3"),
    ]


def test_a_virtual_worker_that_spans_the_scan_is_not_forgotten() -> None:
    n = 300
    bench = Bench(sequence([own(1000), *(own(i) for i in range(n)), own(1000)]), workers=2)
    bench.start()
    for v in range(n + 1):
        bench.do(bench.machine.assign([Block(v, v + 1, v % 2)]))
    for number in range(n + 2):
        bench.feed(data(number))
        bench.do(bench.machine.release(m.Release(1, [(number, number + 1)])))
    assert bench.got(0)[-1] == (n + 2, frame(n + 1)[0])


# -- credit, room, batches ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=12), st.lists(st.integers(0, 60), min_size=1, max_size=20))
def test_credit_is_respected(sizes: list[int], grants: list[int]) -> None:
    """Never more than was granted, but for the last frame; and all of it once there is enough."""
    bench = Bench(uniform(len(sizes)), credit=0, assigned=ALL)
    bench.feed(Start([b""]), Data(list(range(len(sizes))), [[b"x" * n] for n in sizes]))
    total = [0, *sizes]
    granted = 0
    for credit in [*grants, 1 << 20]:
        bench.do(bench.machine.grant(0, 0, credit))
        granted += credit
        sent = len(bench.sent)
        assert sum(total[: max(sent - 1, 0)]) <= granted
        assert sent == len(total) or sum(total[:sent]) >= granted
    assert [e for e, _ in bench.got(0)] == list(range(len(total)))


def test_batches_are_bounded() -> None:
    n = 3 * BATCH_FRAMES
    bench = Bench(uniform(n, batch=n), assigned=ALL)
    bench.start()
    sends = [a for a in bench.feed(data(*range(n))) if isinstance(a, SendFrames)]
    assert [len(a.frames) for a in sends] == [BATCH_FRAMES] * 3


ITEMS = st.lists(st.integers(0, 14), min_size=0, max_size=20)


@settings(max_examples=80, deadline=None)
@given(ITEMS, st.data())
def test_how_frames_are_split_into_batches_changes_nothing(numbers: list[int], draw: st.DataObject) -> None:
    def play(chunks: list[list[int]]) -> tuple[Any, Any, Any]:
        bench = Bench(uniform(12, batch=3), workers=2, assigned=[Block(v, v + 1, v % 2) for v in range(4)])
        bench.start()
        for chunk in chunks:
            bench.feed(data(*chunk))
        bench.feed(End([b"end"]))
        bench.do(bench.machine.close(12))
        gaps = [[(run, tail) for who, runs, tail in bench.gaps for run in runs if who == w] for w in (0, 1)]
        return [bench.got(w) for w in (0, 1)], gaps, bench.machine.progress()

    chunks, rest = [], list(numbers)
    while rest:
        n = draw.draw(st.integers(1, len(rest)))
        chunks.append(rest[:n])
        rest = rest[n:]
    one_by_one = play([[n] for n in numbers])
    assert play(chunks) == one_by_one
    if numbers:
        assert play([numbers]) == one_by_one


@pytest.mark.parametrize("limit", [0, 1, 3, 27])
def test_a_full_retention_pauses_its_stream_until_there_is_room(limit: int) -> None:
    bench = Bench(uniform(10), assigned=ALL, retention_bytes=limit)
    assert not any(isinstance(a, Pause) for a in bench.start()), "broadcast frames do not count: nobody can wait"
    paused = bench.feed(data(0, 1, 2, 3))
    assert paused[-1] == Pause(0)
    assert not any(isinstance(a, Pause) for a in bench.feed(data(4)))
    resumed = [bench.do(bench.machine.release(m.Release(1, [(e, e + 1)]))) for e in range(1, 6)]
    assert sum(Resume(0) in r for r in resumed) == 1
    assert bench.machine.progress()[0].retained == len(b"start")


def test_a_discarded_frame_takes_no_room() -> None:
    bench = Bench(sequence([[], [], own(0)]), assigned=ALL, retention_bytes=1)
    bench.start()
    assert not any(isinstance(a, Pause) for a in bench.feed(data(0), data(1)))
    assert bench.feed(data(2))[-1] == Pause(0)


@pytest.mark.parametrize("how", ["halt", "close"])
def test_a_stream_without_room_is_read_on_when_what_comes_is_discarded(how: str) -> None:
    bench = Bench(uniform(10), retention_bytes=1)
    bench.feed(Start([b"s"]), data(0))
    assert Pause(0) in bench.actions
    assert Resume(0) in (bench.machine.halt() if how == "halt" else bench.machine.close(1))
    assert not any(isinstance(a, Pause) for a in bench.feed(data(1)))


def paused(actions: list[Any]) -> list[Any]:
    return [type(a) for a in actions if isinstance(a, Pause | Resume)]


def test_what_has_no_room_in_memory_is_spilled_and_sent_from_there() -> None:
    shelves: list[ListShelf] = []

    def shelf() -> ListShelf:
        shelves.append(ListShelf())
        return shelves[-1]

    bench = Bench(uniform(20), retention_bytes=30, shelf=shelf, spill=True)
    bench.start()
    for n in range(20):
        bench.feed(data(n))
    (seen,) = bench.machine.progress()
    assert seen.retained <= 30 + len(b"start") and not paused(bench.actions)
    assert seen.shelved == seen.spilled == sum(len(frame(n)[0]) for n in range(20)) + len(b"start") - seen.retained
    bench.do(bench.machine.assign(ALL))
    assert bench.got(0) == [(0, b"start"), *((n + 1, frame(n)[0]) for n in range(20))]
    bench.do(bench.machine.release(m.Release(1, [(1, 21)])))
    assert not any(s.held for s in shelves)
    (after,) = bench.machine.progress()
    assert (after.shelved, after.spilled) == (0, seen.spilled)


def test_where_nothing_more_can_be_spilled_the_detector_is_held_back_until_it_can() -> None:
    shelf = ListShelf(2)
    bench = Bench(uniform(20), assigned=ALL, retention_bytes=20, shelf=lambda: shelf, spill=True)
    bench.start()
    for n in range(6):
        bench.feed(data(n))
    assert paused(bench.actions) == [Pause]
    (trouble,) = bench.told(m.Trouble)
    assert "could not be spilled" in trouble.text and "no room" in trouble.text
    assert not bench.do(bench.machine.look())
    shelf.room = 100
    assert paused(bench.do(bench.machine.look())) == [Resume]
    bench.do(bench.machine.release(m.Release(1, [(1, 7)])))
    assert len(bench.got(0)) == 7 and bench.machine.progress()[0].retained == len(b"start")
    shelf.room = 0
    for n in range(6, 12):
        bench.feed(data(n))
    assert paused(bench.actions) == [Pause, Resume, Pause]
    assert len(bench.told(m.Trouble)) == 1
    bench.do(bench.machine.release(m.Release(1, [(7, 13)])))
    assert paused(bench.actions)[-1] is Resume


def test_broadcast_frames_beyond_their_share_of_memory_are_spilled_whatever_the_policy() -> None:
    shelf = ListShelf()
    bench = Bench(sequence([[CAST]] * 9), assigned=ALL, retention_bytes=100, shelf=lambda: shelf)
    bench.start()
    bench.feed(*[data(n) for n in range(9)])
    bench.do(bench.machine.release(m.Release(1, [(0, 10)])))
    (seen,) = bench.machine.progress()
    assert 0 < seen.retained <= 25 and seen.shelved == len(b"start") + 9 * len(frame(0)[0]) - seen.retained
    assert [e for e, _ in bench.got(0)] == list(range(10))


def test_a_full_stream_says_so_at_once_and_when_it_is_not_full_any_more() -> None:
    bench = Bench(uniform(30), assigned=ALL, retention_bytes=70)
    bench.start()
    said = [[s.full for s in seen_in(bench.feed(data(n)))] for n in range(9)]
    assert said == [[]] * 7 + [[True], []]
    said = [[s.full for s in seen_in(bench.machine.release(m.Release(1, [(e, e + 1)])))] for e in range(1, 7)]
    assert said == [[]] * 3 + [[False], [], []]


def seen_in(actions: list[Any]) -> list[m.StreamSeen]:
    return [a.message for a in actions if isinstance(a, Tell) and isinstance(a.message, m.StreamSeen)]


def test_frames_that_wait_for_another_stream_are_spilled_instead_of_holding_their_detector_back() -> None:
    shelf = ListShelf()
    bench = Bench(uniform(20), assigned=ALL, retention_bytes=20, shelf=lambda: shelf)
    bench.start()
    for n in range(4):
        bench.feed(data(n))
    assert paused(bench.actions) == [Pause] and not shelf.held
    assert paused(bench.do(bench.machine.waits(["b", "a"]))) == [Resume] and shelf.held
    for n in range(4, 8):
        assert not paused(bench.feed(data(n)))
    bench.do(bench.machine.waits([]))
    for n in range(8, 12):
        bench.feed(data(n))
    assert paused(bench.actions) == [Pause, Resume, Pause]


@pytest.mark.parametrize("batch", [1, 3])
def test_frames_of_dropped_virtual_workers_are_not_sent_and_go_when_their_events_are_released(batch: int) -> None:
    bench = Bench(uniform(12, batch=batch), workers=2)
    bench.feed(Start([b"start"]), data(*range(6)))
    bench.do(bench.machine.assign([Block(0, 1, 0), Block(1, 3, DROPPED), Block(3, 12, 1)]))
    bench.feed(data(*range(6, 12)))
    dropped = range(batch + 1, 3 * batch + 1)
    assert [e for e, _ in bench.got(0)] == [0, *range(1, batch + 1)]
    assert [e for e, _ in bench.got(1)] == [0, *range(dropped.stop, 13)]
    bench.do(bench.machine.release(m.Release(1, [(1, 13)])))
    assert bench.machine.progress()[0].retained == len(b"start")


def test_a_stream_that_loses_frames_all_the_time_costs_no_more_the_longer_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MISSING_RUNS", 10)
    bench = Bench(uniform(None), assigned=ALL)
    bench.start()
    for at in range(0, 300, 6):
        bench.feed(data(at, at + 1, at + 3, at + 5))
        assert bench.machine._streams[0].missing.count <= 10 + 2
    bench.feed(End([b"end"]))
    assert [e - 1 for e, _ in bench.got(0)][1:] == [n for n in range(300) if n % 6 in (0, 1, 3, 5)]
    assert [n for m_ in bench.told(m.FramesMissing) for lo, hi in m_.runs for n in range(lo - 1, hi - 1)] == [
        n for n in range(300) if n % 6 in (2, 4)
    ]
    bench.do(bench.machine.close(300))
    assert bench.got(0)[-1] == (301, b"end") and bench.machine.progress()[0].last_event == 300


def test_frames_around_a_gap_stay_together() -> None:
    """Not every frame of a batch that has a gap is kept, looked up and spilled on its own."""
    bench = Bench(uniform(None))
    bench.start()
    bench.feed(data(*range(10), *range(12, 20), 19, 18))
    retention = bench.machine._streams[0].retention
    assert [len(chunk) for chunk in retention._chunks[-2:]] == [10, 8]
    assert bench.machine.progress()[0].frames == 18 and bench.machine.progress()[0].duplicates == 2


def test_what_terminal_events_lacked_is_not_remembered_for_workers_that_attach_later() -> None:
    bench = Bench(uniform(None), workers=2, credit=None)
    bench.start()
    bench.feed(*[data(n) for n in range(1, 100, 2)])
    bench.do(bench.machine.grant(0, 0, PLENTY))
    assert len(bench.gaps) == 50
    bench.do(bench.machine.assign(ALL, settled=96))
    bench.do(bench.machine.grant(1, 0, PLENTY))
    assert [runs for worker, runs, _ in bench.gaps if worker == 1] == [[(97, 98)], [(99, 100)]]


# -- parameters -----------------------------------------------------------------------------------------------------


def test_a_fence_holds_what_is_beyond_it_until_the_version_is_set() -> None:
    bench = Bench(uniform(10, batch=10), assigned=ALL)
    bench.feed(Start([b"s"]), data(0, 1))
    assert bench.do(bench.machine.fence(1))[0].message == m.FenceReached(1, 1, 2)
    assert not bench.feed(data(2, 3, 4))
    sends = [a for a in bench.do(bench.machine.set_version(1, 5)) if isinstance(a, SendFrames)]
    assert [(a.version, a.events.tolist()) for a in sends] == [(0, [3, 4]), (1, [5])]
    assert [a.version for a in bench.feed(data(5)) if isinstance(a, SendFrames)] == [1]


def test_a_fence_before_any_frame_says_that_nothing_was_sent() -> None:
    bench = Bench(uniform(10), assigned=ALL)
    assert bench.do(bench.machine.fence(1))[0].message.sent == -1
    assert not bench.start()
    bench.do(bench.machine.set_version(1, 0))
    assert [a.version for a in bench.actions if isinstance(a, SendFrames)] == [1]


def test_of_two_versions_from_one_event_the_later_counts() -> None:
    bench = Bench(uniform(10, batch=10), assigned=ALL, version=4)
    bench.do(bench.machine.set_version(5, 3))
    bench.do(bench.machine.set_version(6, 3))
    bench.feed(Start([b"s"]), data(0, 1, 2, 3))
    sends = [a for a in bench.actions if isinstance(a, SendFrames)]
    assert [(a.version, a.events.tolist()) for a in sends] == [(4, [0]), (4, [1, 2]), (6, [3, 4])]


# -- a second attempt -----------------------------------------------------------------------------------------------


def test_a_block_that_is_assigned_anew_is_sent_again_to_its_new_worker() -> None:
    bench = Bench(uniform(6, batch=2), workers=2, assigned=[Block(0, 3, 0)])
    bench.feed(Start([b"s"]), data(0, 1, 2, 3))
    bench.actions.clear()
    bench.do(bench.machine.assign([Block(1, 2, 1, 1)]))
    assert bench.got(1) == [(3, b"frame 2"), (4, b"frame 3")]
    bench.feed(data(4))
    assert bench.got(0) == [(5, b"frame 4")]


def again(bench: Bench) -> dict[int, bool]:
    """Of all events that were sent: whether they were marked, the last time."""
    return {e: a.again for a in bench.actions if isinstance(a, SendFrames) for e in a.events.tolist()}


def test_what_is_assigned_anew_is_marked_also_if_its_frames_come_later_or_wait_for_credit() -> None:
    bench = Bench(uniform(8, batch=2), workers=2, credit=None, assigned=[Block(0, 4, 0)])
    bench.feed(Start([b"s"]), data(0, 1, 2))
    bench.do(bench.machine.grant(0, 0, PLENTY))
    assert again(bench) == {0: False, 1: False, 2: False, 3: False}
    bench.do(bench.machine.assign([Block(1, 2, 1, 1)]))
    bench.do(bench.machine.assign([Block(1, 2, 0, 1)]))  # the part that was in an outbox is that worker's
    bench.feed(data(3))
    bench.feed(data(4), data(5))
    assert again(bench) == {0: False, 1: False, 2: False, 3: True, 4: True, 5: False, 6: False}


def test_what_a_place_had_is_marked_for_who_fills_it_now() -> None:
    bench = Bench(uniform(4), assigned=[Block(0, 2, 0)])
    bench.feed(Start([b"s"]), data(0, 1, 2, 3))
    bench.do(bench.machine.fill(0, True))
    bench.do(bench.machine.assign([Block(0, 2, 0, 1), Block(2, 4, 0)]))
    bench.do(bench.machine.grant(0, 0, PLENTY))
    assert again(bench) == {0: False, 1: True, 2: True, 3: False, 4: False}
    bench.do(bench.machine.release(m.Release(1, [(1, 5)])))
    assert not bench.machine._assigned_again, "what is over is forgotten"


def test_what_a_new_controller_says_again_is_not_sent_again() -> None:
    bench = Bench(uniform(10), workers=2, assigned=[Block(0, 4, 0), Block(4, 10, 1)])
    bench.feed(Start([b"s"]), data(*range(10)))
    bench.actions.clear()
    bench.do(bench.machine.assign([Block(0, 6, 0, 1), Block(6, 10, 1, 1)]))
    assert [(w, e) for w, _, e, _, _ in bench.sent] == [(0, 5), (0, 6)]


def test_what_a_worker_has_not_got_yet_goes_to_its_successor_alone() -> None:
    bench = Bench(uniform(6, batch=2), workers=2, credit=None, assigned=[Block(0, 3, 0)])
    bench.feed(Start([b"s"]), data(0, 1, 2, 3))
    bench.do(bench.machine.assign([Block(1, 2, 1, 1)]))
    for worker in (0, 1):
        bench.do(bench.machine.grant(worker, 0, PLENTY))
    assert [e for e, _ in bench.got(0)] == [0, 1, 2]
    assert [e for e, _ in bench.got(1)] == [0, 3, 4]


def test_other_parts_of_the_same_events_stay_where_they_are() -> None:
    cell: list[Any] = [{"constraint": 0}, {"constraint": 1}]
    blocks = [Block(0, 1, 0), Block(1, 2, 1)]
    bench = Bench(sequence([cell, cell]), workers=3, credit=None, assigned=blocks)
    bench.feed(Start([b"s"]), data(0, 1))
    bench.do(bench.machine.assign([Block(0, 1, 2, 1)]))
    for worker in range(3):
        bench.do(bench.machine.grant(worker, 0, PLENTY))
    assert [[e for e, _ in bench.got(w)] for w in range(3)] == [[0], [0, 1, 2], [0, 1, 2]]


def test_an_attempt_that_is_overtaken_by_the_first_ones_result_sends_nothing() -> None:
    bench = Bench(uniform(6, batch=3), workers=2, credit=None, assigned=[Block(0, 2, 0)])
    bench.feed(Start([b"s"]), data(0), data(1), data(2))
    bench.do(bench.machine.assign([Block(0, 1, 1, 1)]))
    bench.do(bench.machine.release(m.Release(1, [(1, 3)])))
    bench.do(bench.machine.grant(1, 0, PLENTY))
    assert bench.got(1) == [(0, b"s"), (3, b"frame 2")]


# -- dumps --------------------------------------------------------------------------------------------------------


def dumped(bench: Bench) -> list[tuple[int, bytes]]:
    """(event, first message part) of all that is to be dumped, in order."""
    rows = [zip(a.events.tolist(), a.frames, strict=True) for a in bench.actions if isinstance(a, Dump)]
    return [(event, bytes(parts[0])) for row in rows for event, parts in row]


def test_every_frame_that_the_map_has_a_place_for_is_dumped_with_its_event() -> None:
    bench = Bench(uniform(5), dump=True)
    bench.start()
    bench.feed(data(0, 1), data(3), data(3, 4, 5), End([b"end"]))
    assert dumped(bench) == [(0, b"start"), (1, b"frame 0"), (2, b"frame 1"), (4, b"frame 3"), (5, b"frame 4")]
    bench.do(bench.machine.close(5))
    assert dumped(bench)[5:] == [(6, b"end")]


def test_the_end_message_is_dumped_as_the_event_that_it_came_to_be() -> None:
    bench = Bench(uniform(None), dump=True)
    bench.start()
    bench.feed(data(0, 1), End([b"end"]))
    bench.do(bench.machine.close(2))
    assert dumped(bench) == [(0, b"start"), (1, b"frame 0"), (2, b"frame 1"), (3, b"end")]


def test_frames_that_go_to_nobody_are_dumped_all_the_same_and_what_has_no_cell_is_not() -> None:
    bench = Bench(sequence([own(0), [], None, own(1)], wrap=False), dump=True)
    bench.start()
    bench.feed(data(0, 1, 2), End([b"end"]))
    assert dumped(bench) == [(0, b"start"), (1, b"frame 0"), (3, b"frame 1")]
    nothing = Bench(sequence([None, None], wrap=False), dump=True)
    nothing.start()
    nothing.feed(End([b"end"]))
    assert dumped(nothing) == []


def test_nothing_is_dumped_unless_it_is_asked_for() -> None:
    bench = Bench(uniform(5))
    bench.start()
    bench.feed(data(0, 1), End([b"end"]))
    bench.do(bench.machine.close(2))
    assert dumped(bench) == []


def test_who_goes_on_with_a_stream_that_the_map_has_no_message_of_has_nothing_to_say() -> None:
    bench = Bench(sequence([None], [own(0)], wrap=False))
    assert not bench.do(bench.machine.resume({"a": m.Series(0, 0, None)}))
    assert not bench.gaps
