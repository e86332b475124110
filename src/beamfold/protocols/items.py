"""What a framer makes of a stream's messages, and what every framer looks like.

A framer is pure: lists of message parts in, items out, no IO and no clock. It reads only as much of a message
as it needs to know what it is, never decompresses, and keeps no more state than one unfinished message. Parts
are handed on as they came, never copied; whoever holds an item holds the buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from beamfold.model.events import Buffer


@dataclass(frozen=True, slots=True)
class Start:
    """The message that opens a series, its parts unaltered.

    `base` is the number that the first data frame of this series must carry, where the start message itself
    says so (numbering that continues over series); None where the protocol or the run file knows it.
    """

    frames: list[Buffer]
    base: int | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """Consecutive data messages, in the order they arrived.

    `numbers` are the frame numbers exactly as the headers have them, each in 0..10**18-1, one per entry of
    `frames`; None for protocols whose messages are only counted. `frames` holds each message's parts.
    """

    numbers: list[int] | None
    frames: list[list[Buffer]]


@dataclass(frozen=True, slots=True)
class End:
    """The message that closes a series, its parts unaltered.

    `number`: the frames of this series have lower numbers, those of later ones higher; None where the end message does
    not say so.
    """

    frames: list[Buffer]
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message, or what there is of one, that does not follow its protocol; `reason` says what was
    expected."""

    reason: str
    frames: list[Buffer]


@dataclass(frozen=True, slots=True)
class Stray:
    """Messages that belong to another series than the one they came in. No framer can tell: this is for whoever merges
    several inputs of a stream."""

    frames: list[list[Buffer]]


Item: TypeAlias = Start | Data | End | Malformed | Stray


class Framer(Protocol):
    """Tells the messages of one stream apart. One instance serves one stream, for any number of series.

    `typ` is the stream type its messages get (`StreamData.typ`); `numbered` says whether `Data.numbers` is
    there.
    """

    typ: str
    numbered: bool

    def feed(self, messages: Sequence[list[Buffer]]) -> list[Item]:
        """Items in the order of the messages; data messages that follow one another come back as one `Data`.

        Never raises: what cannot be understood comes back as `Malformed`, and the framer goes on with the
        next message. Heartbeats give nothing. What lies between two series is passed on as found.
        """


class Gather:
    """Collects items, joining data messages that follow one another."""

    __slots__ = ("_frames", "_items", "_numbers")

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._numbers: list[int] | None = None
        self._frames: list[list[Buffer]] = []

    def numbered(self, number: int, frames: list[Buffer]) -> None:
        """One data message that carries its number."""
        if self._numbers is None:
            self._numbers = []
        self._numbers.append(number)
        self._frames.append(frames)

    def counted(self, frames: list[Buffer]) -> None:
        """One data message without a number."""
        self._frames.append(frames)

    def put(self, item: Item) -> None:
        """An item of another kind, after all data so far."""
        self._flush()
        self._items.append(item)

    def done(self) -> list[Item]:
        """Everything collected."""
        self._flush()
        return self._items

    def _flush(self) -> None:
        if self._frames:
            self._items.append(Data(self._numbers, self._frames))
            self._numbers, self._frames = None, []
