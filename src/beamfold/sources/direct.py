"""Detector messages straight from TCP: a PULL socket without ZeroMQ's own threads and buffers.

ZeroMQ's library reads in a thread of its own, into memory of its own; from there every message is taken out by several
calls, and large parts are copied once more to where they are to stay. Here a large part is read by the system right
into its place, and a small one costs a few steps of a loop over what one read brought. The queue before it is TCP's:
a detector that is faster than its reader is held up when that is full, as with a high-water mark.
"""

from __future__ import annotations

import logging
import math
import os
import re
import select
import socket as sockets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import Buffer
from beamfold.protocols.zmtp import GREETING, READY, Inbox
from beamfold.sources.base import LARGE
from beamfold.transport.arena import elsewhere

logger = logging.getLogger(__name__)

RETRY_S = 0.1
"""Seconds between two attempts to connect to a detector that does not answer."""

SILENCE_S = 5.0
"""Seconds after which it is said that nobody answers."""

CONNECT_S = 5.0
"""Seconds after which an attempt is given up."""

KEEP_ALIVE_S = 15
"""Idle seconds after which TCP asks whether the other side's host is still there."""

WAKE_BYTES = 1 << 20
"""Bytes of a large part that are waited for at most before they are read; the rest is still on its way meanwhile."""

READS = 32
"""Reads of a connection in a row that bring no whole message: a message of gigabytes lets others have their turn."""

UNSENT_BYTES = 4096
"""Answers that wait to be sent; who takes none of them gets no more."""

BACKLOG = 64
"""Connections that may wait to be accepted."""

_LAST_PORT = 65535

_ADDRESS = re.compile(r"tcp://([A-Za-z0-9_.-]+|\*):(\d{1,5}|\*)")


class _Peer:
    """A connection. What is to be sent is little; where it does not go at once it goes with the next turn."""

    def __init__(self, sock: sockets.socket, inbox: Inbox) -> None:
        self.sock = sock
        self.inbox = inbox
        self.unsent = GREETING + READY
        self._wakes_at = 1

    def send(self) -> None:
        """Where it cannot be sent any more nothing is: what came before is still to be read, and then the end."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = b""

    def receive(self) -> bool:
        """One read; False when nothing was there. EOFError at the end, OSError and MalformedFrame when it is broken:
        the inbox may have messages all the same."""
        inbox = self.inbox
        if self.unsent:
            self.send()
        try:
            nbytes = self.sock.recvmsg_into(inbox.targets())[0]
        except BlockingIOError:
            return False
        if not nbytes:
            raise EOFError
        inbox.received(nbytes)
        self._sleep_until(min(inbox.lacking, WAKE_BYTES))
        if inbox.replies:
            if len(self.unsent) < UNSENT_BYTES:
                self.unsent += inbox.replies
            inbox.replies = b""
            self.send()
        return True

    def _sleep_until(self, nbytes: int) -> None:
        """Be readable when so many bytes are there: to be woken for every packet of a large part would cost more than
        to read it."""
        if nbytes != self._wakes_at:
            self._wakes_at = nbytes
            self.sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVLOWAT, nbytes)


class DirectSource:
    """PULL from a detector's PUSH: connects to `url`, and again whenever the connection breaks; with `bind` it listens
    there for any number of detectors, and a port 0 or `*` is a free one, which `url` names.

    `room` gives the writable memory for a large part (see `Inbox`). Raises ConfigError when the address cannot be
    understood or bound.
    """

    def __init__(self, url: str, *, bind: bool = False, room: Callable[[int], memoryview] = elsewhere) -> None:
        found = _ADDRESS.fullmatch(url)
        if found is None or (found[2].isdecimal() and int(found[2]) > _LAST_PORT):
            raise ConfigError(f"cannot read from {url!r}. Give an address like tcp://127.0.0.1:9999")
        if not bind and (not found[2].isdecimal() or not int(found[2])):
            raise ConfigError(f"cannot connect to {url!r}: name the detector's port")
        self._url = url
        self._room = room
        self._poll = select.epoll()
        self._peers: dict[int, _Peer] = {}
        self._ready: list[list[Buffer]] = []
        self._closed = False
        self._said = ""
        # Readable while messages that were read are still waiting for their turn.
        self._waiting = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waits = False
        self._poll.register(self._waiting, select.EPOLLIN)
        self._listener: sockets.socket | None = None
        self._lost = threading.Event()
        self._lock = threading.Lock()
        if bind:
            self._listen(found[1], found[2])
        else:
            self._lost.set()
            address = found[1], int(found[2])
            threading.Thread(target=self._connect, args=(address,), name=f"connect {url}", daemon=True).start()

    @property
    def url(self) -> str:
        return self._url

    @property
    def socket(self) -> int | None:
        """A descriptor that is readable while there is something to drain."""
        return None if self._closed else self._poll.fileno()

    @property
    def exhausted(self) -> bool:
        return self._closed

    def drain(self, max_messages: int, max_bytes: int) -> list[list[Buffer]]:
        """See `Source.drain`."""
        out: list[list[Buffer]] = []
        if self._closed:
            return out
        room = max_bytes
        while len(out) < max_messages and room > 0 and (self._ready or self._read()):
            room -= self._take(out, max_messages - len(out), room)
        if bool(self._ready) != self._waits:
            self._waits = not self._waits
            if self._waits:
                os.eventfd_write(self._waiting, 1)
            else:
                os.eventfd_read(self._waiting)
        return out

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lost.set()
            for peer in self._peers.values():
                peer.sock.close()
            if self._listener is not None:
                self._listener.close()
            self._poll.close()
            os.close(self._waiting)
            self._ready = []

    # -- reading ---------------------------------------------------------------------------------------------

    def _take(self, out: list[list[Buffer]], count: int, room: int) -> int:
        """Move messages that were read to `out`; returns their bytes."""
        ready = self._ready
        if len(ready) <= count:
            size = sum(map(len, chain.from_iterable(ready)))
            if size <= room:
                out += ready
                self._ready = []
                return size
        size = taken = 0
        while taken < min(count, len(ready)) and size < room:
            size += sum(map(len, ready[taken]))
            taken += 1
        out += ready[:taken]
        self._ready = ready[taken:]
        return size

    def _read(self) -> bool:
        """Read from connections until there is a message, or nothing more for now."""
        for _ in range(READS):
            if self._ready:
                break
            found = False
            for descriptor, _ in self._poll.poll(0):
                if (peer := self._peers.get(descriptor)) is not None:
                    found |= self._receive(peer)
                elif self._listener is not None and descriptor == self._listener.fileno():
                    self._accept(self._listener)
            if not found:
                break
        return bool(self._ready)

    def _receive(self, peer: _Peer) -> bool:
        found = False
        try:
            found = peer.receive()
        except MalformedFrame as wrong:
            self._lose(peer, str(wrong))
        except (EOFError, OSError):
            self._lose(peer, "")
        self._ready += peer.inbox.messages  # also those that came whole before what was wrong
        peer.inbox.messages = []
        return found

    # -- connections -----------------------------------------------------------------------------------------

    def _lose(self, peer: _Peer, why: str) -> None:
        """A connection is over: by its other side, or because of what it sent, which is said once."""
        if why and why != self._said:
            self._said = why
            logger.warning("what comes from %s is not read: %s", self._url, why)
        del self._peers[peer.sock.fileno()]
        peer.sock.close()
        self._lost.set()

    def _connect(self, address: tuple[str, int]) -> None:
        """The thread that gets a connection whenever there is none: names are looked up and hosts waited for here."""
        since: float | None = None
        while True:
            self._lost.wait()
            if self._closed:
                return
            self._lost.clear()
            try:
                self._add(sockets.create_connection(address, CONNECT_S))
                since = None
            except OSError as error:
                self._lost.set()
                since = since or time.monotonic()
                if time.monotonic() - since >= SILENCE_S:
                    since = math.inf  # said once
                    logger.warning("nobody answers at %s (%s): is the detector on? It is waited for", self._url, error)
            time.sleep(RETRY_S)  # also after a connection: one that breaks at once is no better than none

    def _listen(self, host: str, port: str) -> None:
        number = int(port) if port.isdecimal() else 0
        try:
            listener = sockets.create_server(("" if host == "*" else host, number), backlog=BACKLOG)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"cannot listen on {self._url!r}: {error.strerror or error}. Give an address like "
                "tcp://127.0.0.1:9999 whose host is this machine and whose port is free (0 takes any)"
            ) from error
        listener.setblocking(False)
        self._listener = listener
        self._url = "tcp://{}:{}".format(*listener.getsockname())
        self._poll.register(listener, select.EPOLLIN)

    def _accept(self, listener: sockets.socket) -> None:
        with suppress(OSError):  # it is gone again
            self._add(listener.accept()[0])

    def _add(self, sock: sockets.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, KEEP_ALIVE_S)
        peer = _Peer(sock, Inbox(self._room, LARGE))
        peer.send()
        with self._lock:
            if self._closed:
                sock.close()
                return
            self._peers[sock.fileno()] = peer
            self._poll.register(sock, select.EPOLLIN)
