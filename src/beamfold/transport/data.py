"""The data plane: a ROUTER at whoever has data (or takes results), a DEALER at whoever connects to it.

Messages are envelopes (`beamfold.protocols.envelopes`). Parts of 64 KiB and more are sent and received without a copy.
Both ends bound what is under way by credit in bytes, so the sockets themselves have no limit of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from beamfold.model.events import Buffer
from beamfold.transport.control import bind
from beamfold.transport.sockets import make_socket

Context = zmq.Context[zmq.Socket[bytes]]

LARGE = 65536
"""Bytes from which a received part is handed on as a view of ZeroMQ's buffer instead of a copy."""

_NOW = int(zmq.DONTWAIT)


class DataHub:
    """A bound ROUTER; peers are addressed by the identity they chose. `max_part` is as in `make_socket`."""

    def __init__(self, context: Context, url: str, max_part: int = -1) -> None:
        self.socket = make_socket(context, zmq.ROUTER, hwm=0, max_part=max_part)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.url = bind(self.socket, url)

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> None:
        """Send an envelope to a peer; for one that is gone it is dropped."""
        self.socket.send_multipart([peer, *parts], copy=False)

    def receive(self, max_bytes: int) -> list[list[Buffer]]:
        """Envelopes that are here, each with the sender's identity first."""
        return receive(self.socket, max_bytes)

    def close(self) -> None:
        self.socket.close(linger=0)


class DataLink:
    """A DEALER connected to one hub."""

    def __init__(self, context: Context, url: str, identity: bytes) -> None:
        self.url = url
        self.socket = make_socket(context, zmq.DEALER, hwm=0, identity=identity)
        self.socket.connect(url)

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send an envelope to the hub."""
        self.socket.send_multipart(parts, copy=False)

    def receive(self, max_bytes: int) -> list[list[Buffer]]:
        """Envelopes that are here."""
        return receive(self.socket, max_bytes)

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
