"""ZMTP 3, the protocol between ZeroMQ sockets, as a PULL socket speaks it. No sockets here: bytes in, messages out.

Source: the specifications 23/ZMTP (3.0) and 37/ZMTP (3.1) of rfc.zeromq.org.

Both ends begin with a greeting of 64 bytes and, with the mechanism NULL, a READY command. What follows are frames: a
byte of flags (1: more frames of this message follow, 2: the size has eight bytes instead of one, 4: a command), the
size, the body. Of commands only PING is answered; others may be ignored.
"""

from __future__ import annotations

from collections.abc import Callable

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer

_GREETING_BYTES = 64
_SIGNATURE = b"\xff\0\0\0\0\0\0\0\0\x7f"
_VERSION = len(_SIGNATURE)
_MECHANISM = slice(12, 32)

GREETING = (_SIGNATURE + b"\x03\x00" + b"NULL").ljust(_GREETING_BYTES, b"\0")
"""What both ends begin with: version 3.0, no security, not a server."""

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEAD, _LONG_HEAD = 2, 9
_LARGEST_COMMAND = 65536

READ_BYTES = 256 << 10
"""Room for small messages in one read."""

READ_BESIDE = 8 << 10
"""The same while a large part is being filled: enough for the head of the next one, little to be copied over."""

MAX_PART_BYTES = (1 << 31) - 2
"""Larger message parts are taken for nonsense: an envelope could not say their size."""


def _command(name: bytes, body: bytes) -> bytes:
    content = bytes([len(name)]) + name + body
    return bytes([_COMMAND, len(content)]) + content


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


READY = _command(b"READY", _property(b"Socket-Type", b"PULL") + _property(b"Identity", b""))
"""What a PULL socket says of itself after the greeting."""


class Inbox:
    """One connection, from its first byte on. The connection's owner sends GREETING and READY by itself.

    Fill the buffers of `targets()` in their order and say with `received` how many bytes that were; then take
    `messages` (and leave an empty list), and send what is in `replies`.

    Parts of `large` bytes and more are written where they are to stay: `room` gives a writable buffer of that size,
    and what is handed on is a read-only view of it. Smaller parts, and the first of every message, are bytes.

    Raises MalformedFrame from `received`, with the reason, for a peer that cannot be talked to; the connection is of no
    use then.
    """

    def __init__(self, room: Callable[[int], memoryview], large: int) -> None:
        self.messages: list[list[Buffer]] = []
        self.replies = b""
        self._room = room
        self._large_bytes = large
        self._small = memoryview(bytearray(READ_BYTES))
        self._rest = b""
        self._parts: list[Buffer] = []
        self._part: memoryview | None = None
        self._filled = 0
        self._last = False
        self._greeted = False
        self._ready = False

    def targets(self) -> list[memoryview]:
        """Where the next bytes go."""
        if self._part is None:
            return [self._small]
        return [self._part[self._filled :], self._small[:READ_BESIDE]]

    @property
    def lacking(self) -> int:
        """Bytes that must come before there is anything more to do: those that a large part lacks, else 1."""
        return 1 if self._part is None else len(self._part) - self._filled

    def received(self, nbytes: int) -> None:
        """So many bytes are in the targets."""
        part = self._part
        if part is not None:
            mine = min(nbytes, len(part) - self._filled)
            self._filled += mine
            nbytes -= mine
            if self._filled < len(part):
                return
            self._part = None
            self._add(part.toreadonly(), self._last)
        data = self._rest + self._small[:nbytes] if self._rest else bytes(self._small[:nbytes])
        if not self._greeted:
            if len(data) < _GREETING_BYTES:
                _check_greeting(data)
                self._rest = data
                return
            _check_greeting(data)
            self._greeted = True
            data = data[_GREETING_BYTES:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """All frames that are whole, the beginning of a large one, and what is left over."""
        at, end, large = 0, len(data), self._large_bytes
        parts, messages = self._parts, self.messages
        while end - at >= _SHORT_HEAD:
            flags = data[at]
            if flags & _LONG:
                if end - at < _LONG_HEAD:
                    break
                size, body = int.from_bytes(data[at + 1 : at + _LONG_HEAD], "big"), at + _LONG_HEAD
            else:
                size, body = data[at + 1], at + _SHORT_HEAD
            stop = body + size
            if flags > _MORE | _LONG or not self._ready:
                _check_command(flags, size)
                if stop > end:
                    break
                self._obey(data[body:stop])
                at = stop
                continue
            if size >= large:
                at = self._begin(data, body, size, not flags & _MORE)
                parts = self._parts
                continue
            if stop > end:
                break
            parts.append(data[body:stop])
            at = stop
            if not flags & _MORE:
                messages.append(parts)
                parts = self._parts = []
        self._rest = data[at:]

    def _begin(self, data: bytes, at: int, size: int, last: bool) -> int:
        """A large part begins at `at`: take what there is of it; returns where the data goes on."""
        if size > MAX_PART_BYTES:
            raise MalformedFrame(f"a message part of {size} bytes; at most {MAX_PART_BYTES} are read")
        part = self._room(size)
        have = min(size, len(data) - at)
        part[:have] = data[at : at + have]
        if have == size:
            self._add(part.toreadonly(), last)
        else:
            self._part, self._filled, self._last = part, have, last
        return at + have

    def _add(self, part: memoryview, last: bool) -> None:
        self._parts.append(part if self._parts else bytes(part))
        if last:
            self.messages.append(self._parts)
            self._parts = []

    def _obey(self, content: bytes) -> None:
        name, body = content[1 : 1 + content[0]] if content else b"", content[1 + content[0] :] if content else b""
        if name == b"ERROR":
            raise MalformedFrame(f"the other side refused: {body[1:200].decode('ascii', 'replace')}")
        if name == b"READY":
            kind = _read_properties(body).get(b"socket-type", b"")
            if kind != b"PUSH":
                raise MalformedFrame(f"the other side is a {kind.decode('ascii', 'replace')[:20]!r} socket, not PUSH")
            self._ready = True
        elif not self._ready:
            raise MalformedFrame(f"expected READY, found the command {name[:20]!r}")
        elif name == b"PING":
            self.replies += _command(b"PONG", body[2:18])


def _check_greeting(data: bytes) -> None:
    """Whether these first bytes may become a greeting that is understood."""
    if data[:1] != _SIGNATURE[:1] or (len(data) >= _VERSION and not data[_VERSION - 1] & 1):
        raise MalformedFrame(f"it does not speak ZeroMQ's protocol: it begins with {data[:16]!r}")
    if len(data) > _VERSION and data[_VERSION] < GREETING[_VERSION]:
        raise MalformedFrame(
            f'it speaks version {data[_VERSION]} of ZeroMQ\'s protocol, which needs `receiver = "libzmq"` in the '
            "stream's section of the run file"
        )
    if len(data) >= _GREETING_BYTES and (mechanism := data[_MECHANISM].rstrip(b"\0")) != b"NULL":
        raise MalformedFrame(
            f"it wants the security mechanism {mechanism.decode('ascii', 'replace')}, and none is set up for it"
        )


def _check_command(flags: int, size: int) -> None:
    if flags & ~_LONG != _COMMAND:
        raise MalformedFrame("a message came before READY" if flags <= _MORE | _LONG else f"frame flags {flags}")
    if size > _LARGEST_COMMAND:
        raise MalformedFrame(f"a command of {size} bytes")


def _read_properties(data: bytes) -> dict[bytes, bytes]:
    """Metadata of a READY command; names are compared without case."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        size = int.from_bytes(data[at : at + 4], "big")
        found[name.lower()] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found
