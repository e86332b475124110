"""The merge of several sockets: whatever was dealt to whom and came when, one series in its order goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import assume, given
from hypothesis import strategies as st

from beamfold.ingest.merge import PATIENCE, Merge
from beamfold.protocols.items import Data, End, Item, Malformed, Start, Stray

LIMIT = 1 << 20
READY = 100.0
"""When the detector begins: long after the sockets were first read."""


def frame(series: str, number: int) -> bytes:
    return f"{series}{number}".encode()


def data(*numbers: int, series: str = "") -> Data:
    return Data(list(numbers), [[frame(series, n)] for n in numbers])


START, END = Start([b"start"]), End([b"end"])


def names(items: Sequence[Item]) -> list[str]:
    """One word per message, as it would be read in the report: what is a stray has a bracket around it."""
    out: list[str] = []
    for item in items:
        if isinstance(item, Data):
            assert item.numbers is not None
            assert [int(bytes(f[0]).lstrip(b"oldnext")) for f in item.frames] == item.numbers
            out += [bytes(f[0]).decode() for f in item.frames]
        elif isinstance(item, Stray):
            out += [f"({bytes(f[0]).decode()})" for f in item.frames]
        else:
            out.append(bytes(item.frames[0]).decode())
    return out


class Bench:
    """A merge and its clock."""

    def __init__(self, inputs: int = 3, *, ready: bool = True, **options: int | None) -> None:
        self.now = READY
        self.inputs = inputs
        settings = {"limit": LIMIT, **options}
        self.merge = Merge(inputs, 0.0 if ready else READY, **settings)  # type: ignore[arg-type]
        self.out: list[str] = []

    def feed(self, index: int, *items: Item) -> list[str]:
        arrived: list[Sequence[Item]] = [()] * self.inputs
        arrived[index] = items
        return self._note(self.merge.feed(arrived, self.now))

    def look(self) -> None:
        self._note(self.merge.look(self.now))

    def silence(self) -> list[str]:
        """Nothing more comes, for as long as anything could wait for it."""
        before = len(self.out)
        for _ in range(100):
            if (due := self.merge.due(self.now)) is None:
                return self.out[before:]
            self.now += due
            self._note(self.merge.look(self.now))
        raise AssertionError("something waits for ever")

    def _note(self, items: Sequence[Item]) -> list[str]:
        found = names(items)
        self.out += found
        return found


# -- one after the other ----------------------------------------------------------------------------------------


def test_what_continues_goes_on_at_once_and_what_is_ahead_waits() -> None:
    bench = Bench()
    assert bench.feed(1, data(1, 4)) == []  # it overtook the start
    assert bench.feed(0, START, data(0)) == ["start", "0", "1"]
    assert bench.feed(2, data(2, 5)) == ["2"]
    assert bench.feed(0, data(3, 6)) == ["3", "4", "5", "6"]
    assert bench.merge.nbytes == 0
    assert bench.merge.due(bench.now) is None


def test_a_number_that_every_socket_is_beyond_is_missing() -> None:
    bench = Bench()
    bench.feed(0, START, data(0, 3))
    assert bench.feed(1, data(4)) == []
    assert bench.feed(2, data(2)) == ["2", "3", "4"]


def test_the_end_waits_for_what_the_map_promises() -> None:
    bench = Bench(frames=4)
    bench.feed(0, START, data(0, 3), END)
    assert bench.feed(1, data(1)) == ["1"]
    assert bench.feed(2, data(2)) == ["2", "3", "end"]


def test_the_end_waits_for_what_its_number_promises() -> None:
    bench = Bench()
    bench.feed(0, Start([b"start"], 11), data(11), End([b"end"], 14))
    assert bench.feed(1, data(12, 16)) == ["12"]  # 16 is of the next series, whose start has 15
    assert bench.feed(2, data(13)) == ["13", "end", "(16)"]


def test_a_socket_that_falls_silent_is_given_up_and_only_once() -> None:
    bench = Bench()
    bench.feed(0, START, data(0))
    bench.feed(1, data(1))
    bench.feed(2, data(2))
    bench.feed(1, data(4))
    bench.feed(2, data(5))
    bench.now += PATIENCE - 0.1
    assert bench.merge.look(bench.now) == []
    assert bench.silence() == ["4", "5"]
    assert bench.merge.given_up == {0}
    assert bench.feed(1, data(7)) == []  # of 2 the next is still to come
    assert bench.feed(2, data(8)) == ["7", "8"]
    assert bench.feed(0, data(3, 9)) == ["3", "9"]  # it is back; 3 is late
    assert bench.feed(1, data(11)) == []
    assert bench.feed(2, data(12)) == []  # and is waited for
    assert bench.feed(0, data(10)) == ["10", "11", "12"]


def test_a_pause_of_the_detector_shows_nothing() -> None:
    bench = Bench()
    bench.feed(0, START, data(0))
    assert bench.merge.due(bench.now) is None
    bench.now += 10_000
    assert bench.merge.look(bench.now) == []
    bench.feed(2, data(2))
    assert bench.merge.due(bench.now) == PATIENCE  # counted from when something waits


def test_silence_does_not_count_where_nobody_listened() -> None:
    bench = Bench()
    bench.feed(0, START, data(1))
    bench.now += 10 * PATIENCE
    bench.merge.resume(bench.now)
    assert bench.merge.look(bench.now) == []
    assert bench.merge.due(bench.now) == PATIENCE


def test_the_next_series_waits_for_the_end_of_this_one() -> None:
    bench = Bench(2)
    bench.feed(0, START, data(0, 2))
    assert bench.feed(1, data(1, 3, 5)) == ["1", "2", "3"]
    assert bench.feed(1, Start([b"next"]), data(0, series="next")) == []
    assert bench.feed(0, data(4), END) == ["4", "5", "end", "next", "next0"]


def test_a_series_that_breaks_off_is_followed_by_the_next() -> None:
    bench = Bench(2)
    bench.feed(0, START, data(0, 2))
    bench.feed(1, data(1), Start([b"next"]), data(1, series="next"))
    assert bench.feed(0, data(0, series="next")) == ["next", "next0", "next1"]


def test_the_rest_of_an_older_series_is_never_taken_for_this_one() -> None:
    bench = Bench(ready=False)
    bench.feed(0, data(7, series="old"))
    assert bench.feed(1, data(8, series="old"), End([b"old"]), START, data(0)) == ["(old8)", "(old)", "start", "0"]
    assert bench.feed(2, data(6, series="old"), data(2)) == ["(old6)"]
    assert bench.feed(0, data(1)) == ["(old7)", "1", "2"]


def test_what_nobody_started_goes_on_after_a_while() -> None:
    bench = Bench(ready=False)
    bench.feed(0, data(7, series="old"))
    assert bench.silence() == ["old7"]


def test_malformed_messages_pass() -> None:
    bench = Bench()
    bench.feed(0, START)
    assert bench.feed(1, data(1), Malformed("why", [b"wrong"])) == ["wrong"]


def test_flushed_is_all_that_is_held() -> None:
    bench = Bench()
    bench.feed(0, START, data(0, 3), END)
    bench.feed(1, data(4))
    assert names(bench.merge.flush()) == ["3", "4", "end"]
    assert bench.merge.nbytes == 0


# -- bounds -----------------------------------------------------------------------------------------------------


def test_beyond_the_limit_only_the_socket_that_others_wait_for_is_read() -> None:
    bench = Bench(limit=3)
    bench.feed(0, START, data(0))
    bench.feed(1, data(4, 7))
    assert [bench.merge.wants(i) for i in range(3)] == [True, True, True]
    bench.feed(2, data(5, 8))
    assert [bench.merge.wants(i) for i in range(3)] == [True, False, False]
    assert bench.feed(0, data(1)) == ["1"]
    assert [bench.merge.wants(i) for i in range(3)] == [True, False, False]
    assert bench.feed(0, data(2, 3)) == ["2", "3", "4", "5"]
    assert bench.merge.nbytes == 2


def test_beyond_the_limit_what_is_doubted_gives_way() -> None:
    bench = Bench(2, ready=False, limit=20)
    bench.feed(0, START)
    assert bench.feed(1, data(*range(100, 110), series="old")) == []
    assert [bench.merge.wants(i) for i in range(2)] == [True, False]
    assert bench.feed(0, data(1))[:2] == ["(old100)", "(old101)"]  # so 0 is behind this, if anywhere
    assert bench.merge.wants(1)
    assert bench.feed(1, data(0)) == ["0", "1"]


def test_what_is_doubted_does_not_give_way_while_another_socket_may_bring_what_is_next() -> None:
    bench = Bench(ready=False, limit=3)
    bench.feed(0, START)
    assert bench.feed(1, data(1, 4, 7, 10)) == []
    assert [bench.merge.wants(i) for i in range(3)] == [True, False, True]
    assert bench.feed(2, data(0, 3)) == ["0", "1"]
    assert bench.feed(0, data(2, 5)) == ["2", "3", "4", "5"]


# -- any dealing ------------------------------------------------------------------------------------------------


@dataclass
class Dealt:
    """What each socket brings, and in which turns: (socket, how many messages)."""

    lanes: list[list[Item]]
    turns: list[tuple[int, int]]


@st.composite
def dealings(draw: st.DrawFn, messages: Sequence[Item], inputs: int) -> Dealt:
    """Every message on one of the sockets, read in any turns."""
    lanes: list[list[Item]] = [[] for _ in range(inputs)]
    for message in messages:
        lanes[draw(st.integers(0, inputs - 1))].append(message)
    return Dealt(lanes, draw(st.lists(st.tuples(st.integers(0, inputs - 1), st.integers(1, 4)), max_size=30)))


def play(bench: Bench, dealt: Dealt, *, start_first: bool = False) -> None:
    """In its turns, and then all that is left; at last there is silence."""
    lanes = [list(lane) for lane in dealt.lanes]
    first = [(i, 1) for i, lane in enumerate(lanes) if start_first and lane and lane[0] is START]
    rest = [(i, len(lane)) for i, lane in enumerate(lanes) if lane]
    for i, count in [*first, *dealt.turns, *rest]:
        if messages := lanes[i][:count]:
            del lanes[i][:count]
            bench.feed(i, *messages)
            bench.now += 0.001
    bench.silence()
    assert bench.merge.nbytes == 0


def series(numbers: Sequence[int]) -> list[Item]:
    return [START, *(data(n) for n in numbers), END]


def said(messages: Sequence[Item]) -> list[str]:
    return [word for message in messages for word in names([message])]


def used(out: Sequence[str]) -> list[str]:
    """What the ingest machine makes a scan of: from the start to the end, without what it counts as late."""
    begin = out.index("start")
    within = out[begin : next(i for i in range(begin, len(out)) if out[i] in ("end", "old")) + 1]
    best, found = -1, []
    for word in within:
        number = int(word.lstrip("oldnext")) if word[-1].isdigit() else None
        if (number is not None and number <= best) or word.startswith("("):
            continue
        best = best if number is None else number
        found.append(word)
    return found


@given(st.data(), st.integers(1, 4), st.integers(0, 20), st.booleans())
def test_any_dealing_in_any_turns_gives_the_series(draw: st.DataObject, inputs: int, count: int, known: bool) -> None:
    messages = series(range(count))
    bench = Bench(inputs, frames=count if known else None)
    play(bench, draw.draw(dealings(messages, inputs)))
    assert bench.out == said(messages)


@given(st.data(), st.integers(1, 4), st.integers(0, 20), st.booleans(), st.integers(4, 12))
def test_little_room_loses_nothing_and_is_not_exceeded(
    draw: st.DataObject, inputs: int, count: int, ready: bool, limit: int
) -> None:
    """Sockets are read in any turns, but only while they are wanted; there is always one that is and has something."""
    messages = series(range(count))
    lanes = draw.draw(dealings(messages, inputs)).lanes
    bench = Bench(inputs, ready=ready, frames=count, limit=limit)
    while any(lanes):
        index = draw.draw(st.sampled_from([i for i, lane in enumerate(lanes) if lane and bench.merge.wants(i)]))
        bench.feed(index, lanes[index].pop(0))
        assert bench.merge.nbytes <= limit + inputs * len(b"start")
    bench.silence()
    assert bench.out == said(messages)


@given(st.data(), st.integers(1, 4), st.integers(0, 20), st.booleans())
def test_what_is_lost_takes_nothing_else_along(draw: st.DataObject, inputs: int, count: int, known: bool) -> None:
    lost = draw.draw(st.sets(st.integers(0, 20)))
    messages = series([n for n in range(count) if n not in lost])
    bench = Bench(inputs, frames=count if known else None)
    play(bench, draw.draw(dealings(messages, inputs)), start_first=True)
    assert bench.out == said(messages)


@given(st.data(), st.integers(2, 4), st.integers(0, 30), st.integers(0, 30))
def test_a_socket_that_breaks_takes_only_its_own_along(draw: st.DataObject, inputs: int, count: int, at: int) -> None:
    dealt = draw.draw(dealings([data(n) for n in range(count)], inputs))
    left = [*dealt.lanes[0][:at]]
    dealt.lanes[0], dealt.lanes[-1] = left, [START, *dealt.lanes[-1], END]
    bench = Bench(inputs)
    play(bench, dealt, start_first=True)
    numbers = sorted(int(word) for lane in dealt.lanes for word in said(lane) if word.isdigit())
    assert bench.out == ["start", *map(str, numbers), "end"]


def told_apart(lane: Sequence[Item]) -> bool:
    """Whether the next series begins on this socket with something that cannot go on the one before."""
    last = -1
    for item in lane:
        if item is END or (isinstance(item, Start) and item is not START):
            return True
        if isinstance(item, End):
            return False
        if isinstance(item, Data) and item.numbers is not None:
            if bytes(item.frames[0][0]).startswith(b"next"):
                return item.numbers[0] <= last
            last = item.numbers[0]
    return True


@given(st.data(), st.integers(1, 4), st.integers(0, 12), st.integers(0, 12))
def test_what_comes_after_the_end_is_not_used(draw: st.DataObject, inputs: int, count: int, after: int) -> None:
    ours = series(range(count))
    behind: list[Item] = [Start([b"next"]), *(data(n, series="next") for n in range(after)), End([b"next"])]
    dealt = draw.draw(dealings([*ours, *behind], inputs))
    assume(all(map(told_apart, dealt.lanes)))
    bench = Bench(inputs, frames=count)
    play(bench, dealt, start_first=True)
    assert used(bench.out) == said(ours)
    assert sorted(word.strip("()") for word in bench.out) == sorted(said([*ours, *behind]))


ANYTHING = st.one_of(
    st.just(START),
    st.just(END),
    st.builds(lambda base: Start([b"start"], base), st.integers(0, 9)),
    st.builds(lambda number: End([b"end"], number), st.integers(0, 9)),
    st.just(Malformed("why", [b"wrong"])),
    st.builds(lambda numbers: data(*numbers), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
)


@given(
    st.lists(st.tuples(st.integers(0, 2), ANYTHING, st.sampled_from([0.0, 0.5, 3.0])), max_size=40),
    st.booleans(),
    st.sampled_from([4, LIMIT]),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_whatever_comes_goes_on_once_and_nothing_stays(
    turns: list[tuple[int, Item, float]], ready: bool, limit: int, count: int | None
) -> None:
    bench = Bench(ready=ready, limit=limit, frames=count)
    for index, item, pause in turns:
        bench.feed(index, item)
        bench.now += pause
        bench.look()
        assert any(bench.merge.wants(i) for i in range(3)) or bench.merge.due(bench.now) is not None
    bench.silence()
    bench._note(bench.merge.flush())
    assert bench.merge.nbytes == 0
    assert sorted(word.strip("()") for word in bench.out) == sorted(said([item for _, item, _ in turns]))


def test_the_next_series_on_a_doubted_socket_is_not_taken_for_this_one() -> None:
    bench = Bench(ready=False)
    bench.feed(0, START, data(0, 2))
    assert bench.feed(1, Start([b"next"]), data(1, series="next")) == []
    assert bench.silence() == ["2", "next", "next1"]


@given(st.data(), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
def test_what_was_there_before_the_start_is_not_used(draw: st.DataObject, inputs: int, before: int, count: int) -> None:
    ours = series(range(count))
    old: list[Item] = [data(n, series="old") for n in range(count + inputs, count + inputs + before)]
    old += [End([b"old"])] if draw.draw(st.booleans()) else []
    bench = Bench(inputs, ready=False, frames=count)
    play(bench, draw.draw(dealings([*old, *ours], inputs)))
    *found, end = used(bench.out)
    assert found == said(ours)[:-1]
    assert end in ("end", "old")  # one that came alone is as good as the other, once all frames are there
    assert sorted(word.strip("()") for word in bench.out) == sorted(said([*old, *ours]))
