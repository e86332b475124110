"""A line between two processes that survives its connections: what one end says the other hears once and in order.

ZeroMQ makes a broken connection again by itself, but what was on its way is lost, and neither end is told. So messages
are numbered and kept until the other end has heard them. Who misses a number, or is told of a later one, asks for all
that comes after the last one heard. Once a second the end that connects tells how far it is and is told the same, which
shows what was lost at the end of a conversation. Two processes that live hear all of each other, whatever happens
between them; what is kept is no more than what is under way.

A hub that knows nothing of a line (its process is another one than the line began with) asks for messages from the
first on, which are not kept any more: then the line begins anew with what is kept, without what was for the process
before alone. What the new process cannot know is the business of those who talk (Introduce and Inventory on the control
channel).

No sockets: heads and verdicts only. A head is a message part of its own, before all others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from struct import Struct, error
from typing import Final, TypeAlias

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer

MESSAGE: Final = 0
"""Something is said: with its number."""
STANDING: Final = 1
"""How far the end is: the number of the last message that it said."""
AGAIN: Final = 2
"""Say again what comes after the last message heard."""

MAX_LINES: Final = 10_000
"""Lines that a hub knows at most: whoever was heard of longest ago is forgotten, beyond that."""

MAX_KEPT: Final = 100_000
"""Messages kept for a peer that hears nothing any more; beyond that its line is given up. Their bytes are bounded by
those who talk."""

_HEAD = Struct("<B3xIQQ")  # kind, which line of these two, number, the last number heard

_NUMBERS = count(1)  # of all lines of this process: it may call the same hub again, under the same name

Parts: TypeAlias = Sequence[Buffer]


class Line:
    """One end. `number` tells this line from earlier ones of the same two, and rises; `heard` is the last one heard."""

    __slots__ = ("_asked", "_first", "_kept", "heard", "number", "said")

    def __init__(self, number: int) -> None:
        self.number = number
        self.said = 0
        self.heard = 0
        self._first = 1
        self._kept: deque[tuple[Parts, bool]] = deque()
        self._asked = -1

    def __len__(self) -> int:
        """Messages that the other end may not have heard."""
        return len(self._kept)

    def put(self, parts: Parts, *, lasting: bool = True) -> bytes:
        """Say this: its head. The parts are kept until they were heard; nobody changes them before that.

        What is not `lasting` is not said to another process at the other end.
        """
        self.said += 1
        self._kept.append((parts, lasting))
        return _HEAD.pack(MESSAGE, self.number, self.said, self.heard)

    def head(self, kind: int) -> bytes:
        """The head of a message without parts."""
        return _HEAD.pack(kind, self.number, self.said, self.heard)

    def kept(self) -> Iterator[tuple[bytes, Parts]]:
        """All that the other end may not have heard, to be said again."""
        for number, (parts, _) in enumerate(self._kept, self._first):
            yield _HEAD.pack(MESSAGE, self.number, number, self.heard), parts

    def note(self, heard: int) -> bool:
        """The other end has heard all up to this message. False where that cannot be: it knows too little of this line.

        Raises CodecError where it was never said.
        """
        if heard > self.said:
            raise CodecError("a message was heard that was never said")
        while self._first <= heard:
            self._kept.popleft()
            self._first += 1
        return heard >= self._first - 1

    def hear(self, number: int) -> bool:
        """Whether this message is the next one; then it counts as heard."""
        if number != self.heard + 1:
            return False
        self.heard = number
        return True

    def lacks(self, number: int, *, insist: bool) -> bool:
        """Whether to ask for what is missing, now that the other end has said so many. Once, if not to `insist`."""
        if number <= self.heard or (self._asked == self.heard and not insist):
            return False
        self._asked = self.heard
        return True

    def renew(self, number: int) -> None:
        """Begin anew, with what is kept and lasting."""
        self.number = number
        self._kept = deque(item for item in self._kept if item[1])
        self.heard, self._first, self.said, self._asked = 0, 1, len(self._kept), -1


def read_head(data: Buffer) -> tuple[int, int, int, int]:
    """Kind, line, number, and the last number heard. Raises CodecError for anything else."""
    try:
        kind, line, number, heard = _HEAD.unpack(data)
    except error:
        raise CodecError("a message begins with the head of its line") from None
    if kind > AGAIN:
        raise CodecError(f"unknown kind of message on a line: {kind}")
    return kind, line, number, heard


class Caller:
    """The end that connects. `send` puts parts on the wire."""

    def __init__(self, send: Callable[[Parts], object]) -> None:
        self._send = send
        self._line = Line(next(_NUMBERS))

    @property
    def unheard(self) -> int:
        """Messages that the hub may not have heard."""
        return len(self._line)

    def say(self, parts: Parts, *, lasting: bool = True) -> None:
        """Say this to the hub, which will hear it. What is not `lasting` is for the present one, not for another
        process that takes its place."""
        self._send([self._line.put(parts, lasting=lasting), *parts])

    def ask(self) -> None:
        """Tell how far this end is, and have the hub tell: to be done about once a second."""
        self._send([self._line.head(STANDING)])

    def hear(self, head: Buffer) -> bool:
        """Whether the message with this head is for the one who listens. Raises CodecError for what is no head."""
        kind, number_of_line, number, heard = read_head(head)
        line = self._line
        if number_of_line != line.number:
            return False  # of before it began anew
        known = line.note(heard)
        if kind == MESSAGE and line.hear(number):
            return True
        if not known:
            line.renew(next(_NUMBERS))
        elif line.lacks(number, insist=kind == STANDING):
            self._send([line.head(AGAIN)])
        if kind == AGAIN:
            for again, parts in line.kept():
                self._send([again, *parts])
        return False


class Hub:
    """The end that others connect to. `send` puts parts on the wire to a peer."""

    def __init__(self, send: Callable[[bytes, Parts], object]) -> None:
        self._send = send
        self._lines: OrderedDict[bytes, Line] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def say(self, peer: bytes, parts: Parts) -> None:
        """Say this to a peer, which will hear it if it lives; to one that was never heard of nothing is said."""
        line = self._lines.get(peer)
        if line is None:
            return
        if len(line) >= MAX_KEPT:
            del self._lines[peer]
            return
        self._send(peer, [line.put(parts), *parts])

    def hear(self, peer: bytes, head: Buffer) -> bool:
        """Whether the message with this head is for the one who listens. Raises CodecError for what is no head."""
        kind, number_of_line, number, heard = read_head(head)
        line = self._lines.get(peer)
        if line is None or number_of_line > line.number:
            if number != 1 or heard or kind != MESSAGE:
                if number:
                    self._send(peer, [_HEAD.pack(AGAIN, number_of_line, 0, 0)])
                return False
            line = self._begin(peer, number_of_line)
        elif number_of_line < line.number:
            return False
        self._lines.move_to_end(peer)
        line.note(heard)
        if kind == MESSAGE and line.hear(number):
            return True
        if line.lacks(number, insist=kind == STANDING):
            self._send(peer, [line.head(AGAIN)])
        elif kind == STANDING:
            self._send(peer, [line.head(STANDING)])
        if kind == AGAIN:
            for again, parts in line.kept():
                self._send(peer, [again, *parts])
        return False

    def _begin(self, peer: bytes, number: int) -> Line:
        line = self._lines[peer] = Line(number)
        self._lines.move_to_end(peer)
        if len(self._lines) > MAX_LINES:
            self._lines.popitem(last=False)
        return line

    def forget(self, peer: bytes) -> None:
        """It is gone: what is kept for it goes as well."""
        self._lines.pop(peer, None)
