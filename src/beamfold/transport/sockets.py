"""One place where ZeroMQ sockets are made, so that no default loses or keeps messages unseen."""

from __future__ import annotations

import zmq
from zmq import POLLIN, Poller


def make_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    *,
    hwm: int = 1000,
    linger: int = 0,
    identity: bytes | None = None,
    max_part: int = -1,
) -> zmq.Socket[bytes]:
    """A socket of this kind (`zmq.PULL`, …), not yet bound or connected.

    `hwm`: messages queued per peer and direction; 0 means no limit. It counts messages, not bytes, so it is
    only the backstop behind a bound in bytes. `linger`: milliseconds that unsent messages survive `close()`;
    0 drops them at once, -1 keeps them until they are handed over. `identity`: the name a ROUTER peer sees;
    None lets it make one up. `max_part`: bytes of a message part from which on a peer that sends one is cut off, before
    there is memory for it; -1 means no limit.
    """
    socket = context.socket(kind)
    # All of these count only for binds and connects that come after them.
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.LINGER, linger)
    socket.setsockopt(zmq.MAXMSGSIZE, max_part)
    if identity is not None:
        socket.setsockopt(zmq.IDENTITY, identity)
    return socket


__all__ = ["POLLIN", "Poller", "make_socket"]
