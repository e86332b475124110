"""The data plane: a ROUTER at whoever has data (or takes results), a DEALER at whoever connects to it.

Messages are envelopes (`beamfold.protocols.envelopes`). Parts of 64 KiB and more are sent and received without a copy.
Both ends bound what is under way by credit in bytes, so the sockets themselves have no limit of their own, and what a
line keeps until it was heard has that bound too. A connection that breaks costs a moment and no message.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.transport.control import bind
from beamfold.transport.line import Caller, Hub
from beamfold.transport.sockets import make_socket

Context = zmq.Context[zmq.Socket[bytes]]

LARGE = 65536
"""Bytes from which a received part is handed on as a view of ZeroMQ's buffer instead of a copy."""

TELL_BYTES = 1 << 20
"""Bytes heard from a hub after which it is told so, if it would not be anyhow."""

_NOW = int(zmq.DONTWAIT)


class DataHub:
    """A bound ROUTER; peers are addressed by the identity they chose. `max_part` is as in `make_socket`."""

    def __init__(self, context: Context, url: str, max_part: int = -1) -> None:
        self.socket = make_socket(context, zmq.ROUTER, hwm=0, max_part=max_part)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.url = bind(self.socket, url)
        self._lines = Hub(self._put)

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> None:
        """Send an envelope to a peer; for one that was never heard of it is dropped. Nobody may change its parts."""
        self._lines.say(peer, parts)

    def forget(self, peer: bytes) -> None:
        """This peer is gone for ever: what it has not heard is dropped."""
        self._lines.forget(peer)

    def receive(self, max_bytes: int) -> list[list[Buffer]]:
        """Envelopes that are here, each with the sender's identity first."""
        out = []
        for parts in receive(self.socket, max_bytes):
            try:
                if len(parts) > 1 and self._lines.hear(bytes(parts[0]), parts.pop(1)):
                    out.append(parts)
            except CodecError:
                continue  # a stranger on this port
        return out

    def _put(self, peer: bytes, parts: Sequence[Buffer]) -> None:
        self.socket.send_multipart([peer, *parts], copy=False)

    def close(self) -> None:
        self.socket.close(linger=0)


class DataLink:
    """A DEALER connected to one hub."""

    def __init__(self, context: Context, url: str, identity: bytes) -> None:
        self.url = url
        self.socket = make_socket(context, zmq.DEALER, hwm=0, identity=identity)
        self.socket.connect(url)
        self._line = Caller(self._put)
        self._untold = 0  # bytes heard since the hub was told something

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send an envelope to the hub; nobody may change its parts."""
        self._untold = 0
        self._line.say(parts)

    def ask(self) -> None:
        """Find out, once a second or so, whether something was lost with a connection."""
        self._untold = 0
        self._line.ask()

    def receive(self, max_bytes: int) -> list[list[Buffer]]:
        """Envelopes that are here."""
        out = []
        for parts in receive(self.socket, max_bytes):
            try:
                if self._line.hear(parts.pop(0)):
                    out.append(parts)
                    self._untold += sum(map(len, parts))
            except CodecError:
                continue  # not from one of ours
        if self._untold >= TELL_BYTES:
            self.ask()  # by the way, the hub learns what it need not keep any more
        return out

    def _put(self, parts: Sequence[Buffer]) -> None:
        self.socket.send_multipart(parts, copy=False)

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger=linger_ms)


def receive(socket: zmq.Socket[bytes], max_bytes: int) -> list[list[Buffer]]:
    """Messages that are here, until `max_bytes` are reached. Large parts are read-only views, small ones bytes."""
    out: list[list[Buffer]] = []
    recv = socket.recv
    room = max_bytes
    try:
        while room > 0:
            frame = recv(_NOW, False)
            parts: list[Buffer] = []
            while True:
                size = len(frame)
                room -= size
                parts.append(frame.bytes if size < LARGE else frame.buffer.toreadonly())
                if not frame.more:
                    break
                frame = recv(0, False)
            out.append(parts)
    except zmq.Again:
        pass
    return out
