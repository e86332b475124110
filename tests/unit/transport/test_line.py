"""A line: what one end says the other one hears, once and in order, whatever is lost on the way."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.transport import line
from beamfold.transport.line import AGAIN, MESSAGE, STANDING, Caller, Hub, read_head

Sent = Sequence[Buffer]


class Wire:
    """A caller and a hub with a connection between them that loses all that is under way when it breaks."""

    def __init__(self) -> None:
        self.there: deque[Sent] = deque()
        self.back: deque[Sent] = deque()
        self.caller = Caller(self.there.append)
        self.said: list[bytes] = []
        self.answered: list[bytes] = []
        self.heard: list[bytes] = []
        self.back_heard: list[bytes] = []
        self.replace()

    def replace(self) -> None:
        """Another process is the hub, and what the one before said and heard went with it."""
        self.hub = Hub(lambda peer, parts: self.back.append(parts))
        self.cut(0, 0)
        self.from_new = len(self.said)
        self.heard, self.answered, self.back_heard = [], [], []

    def cut(self, there: int, back: int) -> None:
        """The connection broke: of what was under way only so many messages had come."""
        for queue, came in ((self.there, there), (self.back, back)):
            while len(queue) > came:
                queue.pop()

    def say(self) -> None:
        self.said.append(b"%d" % len(self.said))
        self.caller.say([self.said[-1]])

    def answer(self) -> None:
        if self.heard:  # who was never heard of is not answered
            self.answered.append(b"a%d" % len(self.answered))
            self.hub.say(b"p", [self.answered[-1]])

    def arrive(self, n: int = 1) -> None:
        """So many messages come, if they are there."""
        for _ in range(n):
            if self.there and self.hub.hear(b"p", (parts := self.there.popleft())[0]):
                self.heard.append(bytes(parts[1]))
            if self.back and self.caller.hear((parts := self.back.popleft())[0]):
                self.back_heard.append(bytes(parts[1]))

    def settle(self) -> None:
        """Seconds pass, and nothing breaks."""
        for _ in range(3):
            self.caller.ask()
            while self.there or self.back:
                self.arrive()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_two_processes_that_live_hear_all_of_each_other(seed: int, replaced: bool) -> None:
    chance, wire = random.Random(seed), Wire()
    kept_from = 0
    for step in range(chance.randrange(200)):
        what = chance.random()
        if what < 0.35:
            wire.say()
        elif what < 0.6:
            wire.answer()
        elif what < 0.9:
            wire.arrive(chance.randrange(4))
        elif what < 0.95:
            wire.cut(chance.randrange(len(wire.there) + 1), chance.randrange(len(wire.back) + 1))
        elif what < 0.98:
            wire.caller.ask()
        elif replaced and step > 20:
            kept_from = len(wire.said)
            wire.replace()
    wire.say()
    wire.settle()
    first = int(wire.heard[0])
    assert wire.heard == wire.said[first:], "all of it from one message on, in order"
    assert first <= kept_from, "what was said to this hub, and perhaps what the one before may not have heard"
    assert wire.back_heard == wire.answered
    assert not wire.caller.unheard, "what was heard is not kept"


def test_another_process_hears_what_is_kept_and_not_what_was_for_the_one_before() -> None:
    wire = Wire()
    wire.say()
    wire.settle()
    wire.caller.say([b"who I am"], lasting=False)
    wire.say()
    wire.caller.say([b"what I have"], lasting=False)
    wire.replace()
    wire.say()
    wire.settle()
    assert wire.heard == [b"1", b"2"]
    assert not wire.caller.unheard


def test_what_is_for_one_process_alone_is_said_to_it_until_it_was_heard() -> None:
    wire = Wire()
    wire.say()
    wire.settle()
    wire.caller.say([b"who I am"], lasting=False)
    wire.cut(0, 0)
    wire.settle()
    assert wire.heard == [b"0", b"who I am"]


def test_what_was_lost_at_the_end_of_a_conversation_is_found_out() -> None:
    wire = Wire()
    wire.say()
    wire.arrive()
    wire.say()
    wire.answer()
    wire.cut(0, 0)
    wire.settle()
    assert (wire.heard, wire.back_heard) == ([b"0", b"1"], [b"a0"])


def test_a_gap_is_asked_for_once_until_a_second_has_passed() -> None:
    wire = Wire()
    wire.say()
    wire.arrive()
    wire.say()
    wire.cut(0, 0)
    for _ in range(5):
        wire.say()
    while wire.there:
        wire.hub.hear(b"p", wire.there.popleft()[0])
    assert [read_head(parts[0])[0] for parts in wire.back] == [AGAIN]
    wire.cut(0, 0)
    wire.caller.ask()
    wire.hub.hear(b"p", wire.there.popleft()[0])
    assert [read_head(parts[0])[0] for parts in wire.back] == [AGAIN]


def test_a_second_line_of_the_same_process_is_none_of_the_first() -> None:
    wire = Wire()
    for _ in range(3):
        wire.say()
        wire.arrive()
    old, wire.caller = wire.caller, Caller(wire.there.append)
    wire.say()
    wire.arrive()
    assert wire.heard == [b"0", b"1", b"2", b"3"]
    old.say([b"late"])
    wire.arrive()
    assert len(wire.heard) == 4


def test_who_is_forgotten_and_lives_begins_anew() -> None:
    wire = Wire()
    wire.say()
    wire.arrive()
    wire.answer()
    wire.hub.forget(b"p")
    assert len(wire.hub) == 0
    wire.hub.say(b"p", [b"nobody hears this"])
    wire.cut(0, 0)
    wire.say()
    wire.settle()
    assert wire.heard == [b"0", b"0", b"1"], "again what it cannot know to have been heard"
    wire.back_heard.clear()
    wire.hub.say(b"p", [b"x"])
    wire.settle()
    assert wire.back_heard == [b"x"]


def test_strangers_push_out_no_one_who_speaks_and_the_deaf_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_LINES", 3)
    monkeypatch.setattr(line, "MAX_KEPT", 5)
    sent: list[Sent] = []
    hub, callers = Hub(lambda peer, parts: sent.append(parts)), {}
    for n in range(10):
        stranger: list[Sent] = []
        callers[n] = Caller(stranger.append)
        callers[n].say([b"x"])
        assert hub.hear(b"%d" % n, stranger[0][0])
        own: list[Sent] = []
        if n == 0:
            friend = Caller(own.append)
        friend._send = own.append
        friend.say([b"y"])
        hub.hear(b"friend", own[0][0])
    assert len(hub) == 3
    for _ in range(10):
        hub.say(b"friend", [b"z"])
    assert len([parts for parts in sent if parts[-1] == b"z"]) == 5
    assert len(hub) == 2


@pytest.mark.parametrize("head", [b"", b"x", b"\0" * 25, b"\3" + b"\0" * 23])
def test_what_is_no_head_is_refused(head: bytes) -> None:
    with pytest.raises(CodecError):
        Caller(lambda parts: None).hear(head)
    with pytest.raises(CodecError):
        Hub(lambda peer, parts: None).hear(b"p", head)


@pytest.mark.parametrize("kind", [MESSAGE, STANDING, AGAIN])
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_whatever_numbers_a_stranger_makes_up_nothing_else_is_raised(
    kind: int, number_of_line: int, number: int, heard: int
) -> None:
    head = line._HEAD.pack(kind, number_of_line, number, heard)
    wire = Wire()
    wire.say()
    with suppress(CodecError):
        wire.caller.hear(head)  # a hub that is not one of ours
    wire = Wire()
    wire.say()
    wire.arrive()
    with suppress(CodecError):
        wire.hub.hear(b"stranger", head)
    wire.say()
    wire.settle()
    assert wire.heard == [b"0", b"1"], "to the others a stranger makes no difference"
