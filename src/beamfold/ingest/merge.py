"""Several sockets of one stream, merged into the one series that the ingest machine takes. No sockets, no clock.

A detector deals the messages of a series over its sockets, and of those one may be read long before another. What
holds within one socket is that numbers ascend; the start and the end come on any one of them. So a frame is passed on
as soon as all before it were, and held while one before it may still come. That it will not come is shown by

- every input having brought a higher number, or something that a series cannot go on after on the same socket: its
  end, the start of another, or a number that is not above the one before;
- or, for an input that brought none of these, by silence: for `patience` seconds nothing came from it although
  something was held all that time. Nothing is held while a detector merely pauses, so a pause shows nothing. An input
  that was given up is waited for again from when it brings something.

A frame is never declared missing here: what is behind it is passed on, and the ingest machine sees the hole. What comes
after that is passed on as well, and counted there as late. The end is passed on last: when as many frames as the
trigger map has were passed on, or all before the number that the end message names, or, where neither is known, when
all other inputs are over or silent. After it everything passes.

What is on the sockets may be older than the start: the rest of a series that nobody waited for. An input that was not
silent before the start for as long as `patience` is therefore doubted until it brings the number that is expected next,
and what it brought before a start, an end or a lower number is a `Stray`. If it is never shown, its frames are lost
rather than taken for others.

At most about `limit` bytes are held: beyond them an input is read (`wants`) only while it is the one that others wait
for. Where no input is read any more, the largest heap of doubted messages goes, as strays; so nothing waits for ever.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from beamfold.model.events import Buffer
from beamfold.protocols.items import Data, End, Gather, Item, Malformed, Start, Stray

PATIENCE = 2.0
"""Seconds for which an input may be silent while others wait for it: longer than a network takes to notice a loss and
send again, short beside what it takes a person to notice."""


@dataclass(slots=True)
class _Input:
    heard: float
    silent: bool = False
    known: bool = False  # what it brings is of this series
    over: bool = False  # it has nothing more of this series
    shown: int = -1  # the number that it brought last
    queue: list[Item] = field(default_factory=list)  # what is not known to be of this series

    def end(self) -> int | None:
        """Where in the queue the end of this series is, or may be."""
        for at, item in enumerate(self.queue[:1] if self.known else self.queue):
            if isinstance(item, End):
                return at
            if isinstance(item, Start):
                break
        return None


class Merge:
    """One series of `inputs` sockets.

    `base` is the number of the first frame where the start message does not give it, `frames` how many the trigger
    map has (None: it does not say), `limit` how many bytes may be held. Times are seconds of a monotonic clock; the
    inputs are read from `now` on. Buffers are handed on as they came; what is held keeps them.
    """

    def __init__(
        self,
        inputs: int,
        now: float,
        *,
        base: int = 0,
        frames: int | None = None,
        limit: int,
        patience: float = PATIENCE,
    ) -> None:
        self.nbytes = 0
        """Bytes that are held."""
        self.given_up: set[int] = set()
        """Inputs that were silent while frames of others waited for them, ever."""
        self._inputs = [_Input(now) for _ in range(inputs)]
        self._base = base
        self._frames = frames
        self._limit = limit
        self._patience = patience
        self._phase = "before"  # or "running", "after"
        self._next = base
        self._stop: float = math.inf  # numbers from here on are of a later series
        self._held: dict[int, list[Buffer]] = {}
        self._since: float | None = None  # when what is held began to wait for what it waits for
        self._out = Gather()

    # -- what happens ----------------------------------------------------------------------------------------

    def feed(self, arrived: Sequence[Sequence[Item]], now: float) -> list[Item]:
        """What came from each input, in the order of the inputs; returns what may go on, in the order of the series."""
        for source, items in zip(self._inputs, arrived, strict=True):
            if items:
                source.heard, source.silent = now, False
                self.nbytes += sum(map(_size, items))
                self._sort(source, items, now)
        return self._advance(now)

    def look(self, now: float) -> list[Item]:
        """Nothing more came until now: what may go on because inputs have been silent for too long."""
        if self._since is None:
            return []
        if self._phase == "before":
            if now < self._since + self._patience:
                return []
            self._pass_on()
            return self._advance(now)
        late = [i for i in self._awaited() if now >= self._deadline(self._inputs[i])]
        for i in late:
            self._inputs[i].silent = True
            if self._held and not self._inputs[i].queue:
                self.given_up.add(i)
        return self._advance(now) if late else []

    def due(self, now: float) -> float | None:
        """Seconds until `look` has something to do; None where nothing waits."""
        if self._since is None:
            return None
        if self._phase == "before":
            return max(self._since + self._patience - now, 0.0)
        first = min((self._deadline(self._inputs[i]) for i in self._awaited()), default=None)
        return None if first is None else max(first - now, 0.0)

    def resume(self, now: float) -> None:
        """The inputs were not read until now: their silence says nothing."""
        if self._since is not None:
            self._since = now
        for source in self._inputs:
            source.heard = now

    def hear(self, index: int, now: float) -> None:
        """Something came from an input, and be it a part of a message."""
        self._inputs[index].heard = now

    def waited(self, now: float) -> float:
        """Seconds for which what is held has waited at least."""
        return 0.0 if self._since is None else now - self._since

    @property
    def room(self) -> int:
        """Bytes that may still be held."""
        return max(self._limit - self.nbytes, 0)

    def wants(self, index: int) -> bool:
        """Whether this input is to be read: not where that would only add to what is held beyond the limit."""
        if self.nbytes < self._limit or self._phase == "after":
            return True
        source = self._inputs[index]
        return not source.queue if self._phase == "before" else self._lacks(source) and not source.queue

    def flush(self) -> list[Item]:
        """Nothing of this series is read any more: all that is held, as if every input had fallen silent."""
        for source in self._inputs:
            source.silent = True
        items = self._advance(0.0)
        if self._phase != "after":
            self._held_to_strays()
            for source in self._inputs:
                self._stray(source)
            self._phase = "after"
            items += self._done()
        return items

    # -- one input -------------------------------------------------------------------------------------------

    def _sort(self, source: _Input, items: Sequence[Item], now: float = -math.inf) -> None:
        """Put items of an input where they wait, or through."""
        for item in items:
            if self._phase == "after" or isinstance(item, Malformed | Stray):
                self._out.put(item)
            elif source.over:
                source.queue.append(item)
            elif isinstance(item, Data):
                (self._data if source.known else self._doubt)(source, item)
            elif isinstance(item, End):
                self._end(source, item)
            else:
                self._start(source, item, now)

    def _data(self, source: _Input, item: Data) -> None:
        """Frames of this series, up to a number that does not ascend."""
        held, shown, upto = self._held, source.shown, self._next
        assert item.numbers is not None
        for at, (number, frame) in enumerate(zip(item.numbers, item.frames, strict=True)):
            if number <= shown:
                source.over = True
                source.queue.append(_rest(item, at))
                break
            shown = number
            if number < upto:
                self._out.numbered(number, frame)  # declared missing before, or it comes twice
            elif number in held:
                self._out.put(Stray([frame]))
            else:
                held[number] = frame
        source.shown = shown

    def _doubt(self, source: _Input, item: Data) -> None:
        """Frames of this series, or an older one. What comes before a lower number is of an older one."""
        numbers = item.numbers
        assert numbers is not None
        begin = 0
        for at, number in enumerate(numbers):
            if number <= source.shown:
                if at > begin:
                    source.queue.append(_rest(item, begin, at))
                self._stray(source)
                begin = at
            source.shown = number
        source.queue.append(_rest(item, begin) if begin else item)

    def _end(self, source: _Input, item: End) -> None:
        if self._phase == "running" and item.number is not None:
            if item.number < self._base:
                source.queue.append(item)
                self._stray(source)
                return
            self._stop = min(self._stop, item.number)
        source.queue.append(item)
        source.over = source.known
        source.shown = -1

    def _start(self, source: _Input, item: Start, now: float) -> None:
        if self._phase == "running":
            source.over = True
            source.queue.append(item)
            if item.base is not None and item.base > self._base:
                self._stop = min(self._stop, item.base)
            return
        self._stray(source)
        self._out.put(item)
        self._phase = "running"
        if item.base is not None:
            self._base = item.base
        self._next = self._base
        self._stop = math.inf
        self._since = None
        for other in self._inputs:
            other.known = other is source or (not other.queue and now >= other.heard + self._patience)

    def _stray(self, source: _Input) -> None:
        """What waits of this input is of another series."""
        messages: list[list[Buffer]] = []
        for item in source.queue:
            messages += item.frames if isinstance(item, Data | Stray) else [item.frames]
        if messages:
            self._out.put(Stray(messages))
        source.queue = []
        source.shown = -1

    def _confirm(self, source: _Input) -> bool:
        """Whether a doubted input has brought the number expected next: it is known from there on."""
        begin = 0
        for at, item in enumerate(source.queue):
            if isinstance(item, Start):
                break
            if isinstance(item, End):
                begin = at + 1
            elif isinstance(item, Data) and _has(item, self._next):
                mine = source.queue[begin:]
                del source.queue[begin:]
                self._stray(source)
                source.known, source.over = True, False
                self._sort(source, mine)
                return True
        return False

    # -- all of them -----------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Item]:
        """Pass on what may go; returns that."""
        first = self._next
        while self._phase == "running":
            self._follow()
            if any(self._confirm(s) for s in self._inputs if s.queue and not s.known) or self._skip():
                continue
            if not self._finish():
                break
        if not self._waits():
            self._since = None
        elif self._since is None or self._next != first:
            self._since = now
        items = self._done()
        if self.nbytes >= self._limit and self._relieve():
            items += self._done()
        return items

    def _done(self) -> list[Item]:
        items = self._out.done()
        self._out = Gather()
        self.nbytes -= sum(map(_size, items))
        return items

    def _follow(self) -> None:
        """Pass on what continues the sequence."""
        held, number, put = self._held, self._next, self._out.numbered
        while (frame := held.pop(number, None)) is not None:
            put(number, frame)
            number += 1
        self._next = number

    def _skip(self) -> bool:
        """Pass on what is held behind a number that will not come; whether there is such."""
        if not self._held or (limit := self._certain()) <= self._next:
            return False
        # A doubted input that was given up is known as soon as it is its turn.
        turn = min((_first(s.queue, self._next) for s in self._inputs if not s.known), default=math.inf)
        end = min(limit + 1, turn)
        if end - self._next < len(self._held):
            ready = [n for n in range(self._next, int(end)) if n in self._held]
        else:
            ready = sorted(n for n in self._held if n < end)
        for number in ready:
            self._out.numbered(number, self._held.pop(number))
        if ready:
            self._next = ready[-1] + 1
        elif turn <= limit:
            self._next = int(turn)
        else:
            return False
        return True

    def _certain(self) -> float:
        """The number up to which nothing more will come than is there."""
        if self._complete:
            return self._stop - 1
        live = [s for s in self._inputs if not (s.over or s.silent)]
        return min([self._stop - 1, *(s.shown if s.known else self._next - 1 for s in live)])

    @property
    def _complete(self) -> bool:
        """Whether all frames that were promised are passed on."""
        return self._next >= self._stop or (self._frames is not None and self._next >= self._base + self._frames)

    def _finish(self) -> bool:
        """Whether the series is over: then its end is passed on, and what is behind it."""
        if any(n < self._stop for n in self._held):
            return False
        ends = [s for s in self._inputs if s.end() is not None]
        quiet = all(s.over or s.silent or s.shown >= self._stop for s in self._inputs)
        if not (ends and (quiet or self._complete)) and not (quiet and any(s.over for s in self._inputs)):
            return False
        if ends:
            self._pass_end(min(ends, key=lambda s: not s.known))
            return True
        # It was broken off: another one begins.
        self._phase = "before"
        self._held_to_strays()
        for source in self._inputs:
            items, source.queue = source.queue, []
            source.known, source.over, source.shown = False, False, -1
            self._sort(source, items)
        return True

    def _pass_end(self, source: _Input) -> None:
        """Pass on the end, which this input has, and all that waits."""
        at = source.end()
        behind = source.queue[at:]
        del source.queue[at:]
        self._stray(source)
        self._out.put(behind[0])
        source.queue = behind[1:]
        self._phase = "after"
        self._held_to_strays()
        self._pass_on()

    def _held_to_strays(self) -> None:
        if self._held:
            self._out.put(Stray(list(self._held.values())))
            self._held.clear()

    def _pass_on(self) -> None:
        """All that waits, as it came: there is no series that it could belong to."""
        for source in self._inputs:
            for item in source.queue:
                self._out.put(item)
            source.queue, source.shown = [], -1

    def _relieve(self) -> bool:
        """Let go of what is only doubted where no socket is read any more because of it; whether there was such.

        What is expected next is behind what is not read, or lost: an older series is more likely than a loss.
        """
        if any(self.wants(i) and not source.silent for i, source in enumerate(self._inputs)):
            return False
        doubted = [s for s in self._inputs if s.queue and not (s.known or s.over)]
        if not doubted:
            return False
        largest = max(doubted, key=lambda s: sum(map(_size, s.queue)))
        if largest.end() is not None:
            self._stop = math.inf
        self._stray(largest)
        return True

    # -- waiting ---------------------------------------------------------------------------------------------

    def _waits(self) -> bool:
        """Whether something is held that may go on once an input was silent for long enough."""
        if self._phase == "before":
            return any(s.queue for s in self._inputs)
        ending = self._phase == "running" and any(s.over or s.end() is not None for s in self._inputs)
        return ending or bool(self._held)

    def _lacks(self, source: _Input) -> bool:
        """Whether this input may still bring what is expected next."""
        return not (source.over or (source.known and source.shown > self._next))

    def _awaited(self) -> list[int]:
        return [i for i, s in enumerate(self._inputs) if not s.silent and self._lacks(s)]

    def _deadline(self, source: _Input) -> float:
        """When an input is given up. A doubted one does not gain time by bringing more that is doubted."""
        assert self._since is not None
        return (self._since if source.queue else max(self._since, source.heard)) + self._patience


def _size(item: Item) -> int:
    if isinstance(item, Data | Stray):
        return sum(map(len, chain.from_iterable(item.frames)))
    return sum(map(len, item.frames))


def _rest(item: Data, begin: int, end: int | None = None) -> Data:
    assert item.numbers is not None
    return Data(item.numbers[begin:end], item.frames[begin:end])


def _has(item: Data, number: int) -> bool:
    """Whether this is among its numbers, which ascend."""
    assert item.numbers is not None
    at = bisect_left(item.numbers, number)
    return at < len(item.numbers) and item.numbers[at] == number


def _first(queue: Sequence[Item], number: int) -> float:
    """The lowest number in a queue that is not below this one, and before a start; infinite where there is none."""
    lowest = math.inf
    for item in queue:
        if isinstance(item, Start):
            break
        if isinstance(item, Data) and item.numbers is not None:
            lowest = min([lowest, *(n for n in item.numbers if n >= number)])
    return lowest
