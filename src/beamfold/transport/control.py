"""The control channel: one DEALER per service, one ROUTER at the controller. A connection that breaks loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from beamfold.model.errors import CodecError, ConfigError
from beamfold.model.events import Buffer
from beamfold.protocols.messages import (
    Beat,
    Hello,
    Introduce,
    LogLine,
    Logs,
    Message,
    Refused,
    ToController,
    ToService,
    Welcome,
    decode_to_controller,
    decode_to_service,
    encode_message,
)
from beamfold.transport.line import Caller, Hub
from beamfold.transport.sockets import make_socket

Context = zmq.Context[zmq.Socket[bytes]]

BEAT_INTERVAL = 1.0
"""Seconds between heartbeats of an idle service."""

MAX_MESSAGE = 64 << 20
"""Bytes of a control message at the controller: far more than a service ever says."""

HEARTBEAT_MS = 2000
"""ZMTP heartbeats on the control channel: a vanished host is noticed within a few seconds, not TCP's minutes."""


def bind(socket: zmq.Socket[bytes], url: str) -> str:
    """Bind and return the real address (port 0 takes a free one). ConfigError when it cannot be had."""
    try:
        socket.bind(url)
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot listen on {url}: {error}. Give an address of this machine with a free port"
        ) from error
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


class ControlChannel:
    """A service's line to its controller. `hello` is said first, and again whenever a controller asks.

    `logs` gives what was logged since it was last asked; it goes along with the beats.

    Raises ConfigError from `receive` when the controller refuses this service. Not thread-safe.
    """

    def __init__(self, context: Context, url: str, hello: Hello, logs: Callable[[], list[LogLine]] = list) -> None:
        self.hello = hello
        self.socket = make_socket(context, zmq.DEALER, hwm=0, identity=hello.uuid.encode())
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 4 * HEARTBEAT_MS)
        self.socket.connect(url)
        self.welcomed = False
        self.scans: list[int] = []
        """The scans that the service is armed for, as it says to a controller that does not know it."""
        self._logs = logs
        self._next_beat = 0.0
        self._line = Caller(self.socket.send_multipart)
        self.send(hello)

    def send(self, message: Message) -> None:
        """Queue a message for the controller.

        Who the service is, it says to a new controller anew, when that asks: what it said before it was armed for a
        scan would make it one that has no part in it.
        """
        self._line.say([encode_message(message)], lasting=not isinstance(message, Hello))

    def announce(self, **facts: Any) -> None:
        """Say Hello again where these facts are not what was said before (the app's files changed, say)."""
        hello = msgspec.structs.replace(self.hello, **facts)
        if hello != self.hello:
            self.hello = hello
            self.send(hello)

    def receive(self) -> list[ToService]:
        """All messages that are here, without those that concern the channel itself.

        `Introduce` is among them: Hello was said again, and what else the controller cannot know is for the service.
        """
        out: list[ToService] = []
        for data in drain(self.socket):
            try:
                if not self._line.hear(data[0]):
                    continue
                message = decode_to_service(data[-1])
            except CodecError:
                continue  # a stranger on this port cannot harm: what is no message is dropped
            if isinstance(message, Introduce):
                self.send(msgspec.structs.replace(self.hello, scans=self.scans))
                out.append(message)
            elif isinstance(message, Welcome):
                self.welcomed = True
            elif isinstance(message, Refused):
                raise ConfigError(f"the controller refused this {self.hello.role}: {message.reason}")
            else:
                out.append(message)
        return out

    def beat(self, make: Callable[[], Beat], *, at_once: bool = False) -> bool:
        """Send a heartbeat when one is due; `at_once` also when none is, so that a scan's last numbers are known.

        Whether one was sent.
        """
        now = time.monotonic()
        if not at_once and now < self._next_beat:
            return False
        self._next_beat = now + BEAT_INTERVAL
        self.send(make())
        self._send_logs()
        self._line.ask()
        return True

    def _send_logs(self) -> None:
        if lines := self._logs():
            self.send(Logs(lines))

    def close(self, linger_ms: int = 200) -> None:
        """Close; messages still queued have `linger_ms` to leave."""
        self._send_logs()
        self.socket.close(linger=linger_ms)


class ControlHub:
    """The controller's ROUTER."""

    def __init__(self, context: Context, url: str) -> None:
        self.socket = make_socket(context, zmq.ROUTER, hwm=0, max_part=MAX_MESSAGE)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else it drops in silence what goes to nobody
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 4 * HEARTBEAT_MS)
        self.url = bind(self.socket, url)
        self.strange = 0
        self._lines = Hub(self._put)
        self._went = False
        self._sent: tuple[Message | None, bytes] = (None, b"")

    def fileno(self) -> int:
        """The descriptor to watch. It signals edges: after a wake-up, and after every send, `receive` until empty."""
        return int(self.socket.getsockopt(zmq.FD))

    def send(self, peer: bytes, message: Message) -> bool:
        """Send to one service, which hears it if it lives; False where it is not connected now.

        A message that goes to many, one after the other, is encoded once.
        """
        if message is not self._sent[0]:
            self._sent = (message, encode_message(message))
        self._went = False
        self._lines.say(peer, [self._sent[1]])
        return self._went

    def receive(self) -> list[tuple[bytes, ToController]]:
        """All messages that are here; bytes that are none are counted in `strange`."""
        out: list[tuple[bytes, ToController]] = []
        while not out and (here := drain(self.socket)):  # lines may have answered, and what came then is not signalled
            for peer, *parts in here:
                try:
                    if not parts:
                        raise CodecError("a control message begins with the head of its line")
                    if self._lines.hear(peer, parts[0]):
                        if len(parts) != 2:
                            raise CodecError("a control message has one part")
                        out.append((peer, decode_to_controller(parts[1])))
                except CodecError:
                    self.strange += 1
        return out

    def _put(self, peer: bytes, parts: Sequence[Buffer]) -> None:
        try:
            self.socket.send_multipart([peer, *parts])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        else:
            self._went = True

    def close(self) -> None:
        """Close; the last messages have a moment to leave."""
        self.socket.close(linger=500)


def drain(socket: zmq.Socket[bytes], limit: int = 10_000) -> list[list[bytes]]:
    """All messages that are here, at most `limit`; never waits."""
    out: list[list[bytes]] = []
    try:
        while len(out) < limit:
            out.append(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        pass
    return out


__all__ = ["ControlChannel", "ControlHub", "bind", "drain"]
