"""Recorded messages and events played back from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.protocols.dumps import kind_of, read_dump, read_raw

if TYPE_CHECKING:
    import os

    from beamfold.model.events import Buffer, StreamData

T = TypeVar("T")


class _Playback(Generic[T]):
    """Takes bounded batches from an iterator, and loses nothing that precedes a damaged place."""

    def __init__(self, items: Iterator[T], size: Callable[[T], int]) -> None:
        self._items = items
        self._size = size
        self._damage: MalformedFrame | None = None
        self.exhausted = False

    def take(self, max_items: int, max_bytes: int) -> list[T]:
        """Up to `max_items`, ending with the one that reaches `max_bytes`; an error comes last."""
        if self._damage is not None:
            damage, self._damage = self._damage, None
            self.close()
            raise damage
        taken: list[T] = []
        room = max_bytes
        while not self.exhausted and len(taken) < max_items and room > 0:
            try:
                item = next(self._items)
            except StopIteration:
                self.exhausted = True
            except MalformedFrame as error:
                if not taken:
                    self.close()
                    raise
                self._damage = error
                break
            else:
                taken.append(item)
                room -= self._size(item)
        return taken

    def close(self) -> None:
        self.exhausted = True
        self._damage = None
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class RawFileSource:
    """The messages of a raw capture (`.cbors`, `.cbor.gz`, …), as the detector sent them, one after the
    other.

    Raises ConfigError when there is no such file or when it holds events instead of messages. `drain` raises
    MalformedFrame once where the file is damaged, after everything before that place was handed out.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = _existing(path)
        if kind_of(self._path) == "internal":
            raise ConfigError(
                f"{self._path} holds events as a worker receives them, not a detector's messages: "
                "play it with DumpSource"
            )
        self._playback = _Playback(iter(read_raw(self._path)), _message_bytes)

    @property
    def url(self) -> str:
        return self._path.absolute().as_uri()

    @property
    def socket(self) -> None:
        return None

    @property
    def exhausted(self) -> bool:
        return self._playback.exhausted

    def drain(self, max_messages: int, max_bytes: int) -> list[list[Buffer]]:
        return [list(message) for message in self._playback.take(max_messages, max_bytes)]

    def close(self) -> None:
        self._playback.close()


class DumpSource:
    """The events of an internal dump (`.cbors[.gz]`, `.pkls[.gz]`): `(event_number, streams)` in file order.

    Raises ConfigError when there is no such file or when it holds a detector's messages instead of events.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = _existing(path)
        if kind_of(self._path) == "raw":
            raise ConfigError(
                f"{self._path} holds a detector's messages, not events as a worker receives them: "
                "play it with RawFileSource"
            )
        self._playback = _Playback(self._events(), _event_bytes)

    @property
    def url(self) -> str:
        return self._path.absolute().as_uri()

    @property
    def exhausted(self) -> bool:
        """True once every event was handed out."""
        return self._playback.exhausted

    def drain(self, max_events: int, max_bytes: int) -> list[tuple[int, dict[str, StreamData]]]:
        """Up to `max_events`, ending with the one that reaches `max_bytes`; an empty list at the end.

        Raises MalformedFrame once where the file is damaged, after everything before that place was handed
        out.
        """
        return self._playback.take(max_events, max_bytes)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._playback.close()

    def _events(self) -> Iterator[tuple[int, dict[str, StreamData]]]:
        for event in read_dump(self._path):
            yield event.event_number, dict(event.streams)


def _existing(path: str | os.PathLike[str]) -> Path:
    found = Path(path)
    if not found.is_file():
        raise ConfigError(f"there is no file {found} to play: check the path (relative to {Path.cwd()})")
    return found


def _message_bytes(message: list[bytes]) -> int:
    return sum(map(len, message))


def _event_bytes(event: tuple[int, dict[str, StreamData]]) -> int:
    return sum(stream.get_bytes() for stream in event[1].values())
