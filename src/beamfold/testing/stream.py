"""Sends simulated or recorded detector messages over ZeroMQ, at a set rate or as fast as they go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Literal, TypeAlias

import zmq

from beamfold.model.errors import ConfigError
from beamfold.protocols.dumps import read_raw
from beamfold.sources.base import LARGE
from beamfold.sources.zeromq import attach
from beamfold.transport.sockets import make_socket

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from beamfold.testing.wire import Message

Kind: TypeAlias = Literal["push", "pub"]

_KINDS: dict[str, int] = {"push": zmq.PUSH, "pub": zmq.XPUB}

# Plain integers: pyzmq would turn the enum member into one at every call.
_MORE = int(zmq.SNDMORE)
_LAST = 0

# How many messages the fast path sends between two looks at the clock, and the rate from which that is worth
# it.
_STRIDE = 256
_STRIDE_RATE = 20_000.0

# Sleeping for less takes longer than it should; being early by this much does not matter.
_TOO_SHORT_S = 0.0002


class Pacer:
    """An absolute schedule: tick n is due n / rate seconds after the start, however late the one before was.

    Lateness is caught up, so the rate holds on average as long as the sender is fast enough. `start` is a
    reading of `clock` in seconds; None starts with the first tick that is waited for. `rate` None or 0:
    everything is due at once.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        start: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate is not None and rate < 0:
            raise ConfigError(
                f"cannot send at {rate} messages per second: give a positive rate, or none for full speed"
            )
        self._period = 1.0 / rate if rate else 0.0
        self._start = start
        self._clock = clock
        self._sleep = sleep

    def wait(self, tick: int) -> None:
        """Return when the tick is due."""
        if not self._period:
            return
        now = self._clock()
        if self._start is None:
            self._start = now - tick * self._period
        ahead = self._start + tick * self._period - now
        if ahead > _TOO_SHORT_S:
            self._sleep(ahead)


class StreamSender:
    """A detector's sending side: a PUSH or PUB socket that counts what it sends.

    It binds (or, `bind=False`, connects) to `url`; port 0 takes a free port, and `url` then names it. Sending
    blocks while the receiver does not keep up, so nothing is lost; `drop=True` makes a PUB sender throw away
    what a slow subscriber does not take, as real ones do.

    `linger_s`: how long closing waits for messages that are not handed over yet; None waits until all are, 0
    throws them away. The wait takes place where the context is terminated, so whoever owns the context must
    do that.

    Not for use from two threads at once. Raises ConfigError for an address that cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        url: str,
        kind: Kind = "push",
        *,
        bind: bool = True,
        hwm: int = 1000,
        linger_s: float | None = None,
        drop: bool = False,
    ) -> None:
        if kind not in _KINDS:
            raise ConfigError(f"unknown socket kind {kind!r} for {url}: use one of {', '.join(_KINDS)}")
        linger = -1 if linger_s is None else round(linger_s * 1000)
        self._socket = make_socket(context, _KINDS[kind], hwm=hwm, linger=linger)
        if kind == "pub":
            # XPUB is PUB that tells of subscriptions; verbose: of every one, not only of the first.
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._socket.setsockopt(zmq.XPUB_NODROP, 0 if drop else 1)
        self.kind = kind
        self.sent = 0
        """Messages handed to ZeroMQ."""
        self.sent_bytes = 0
        """Bytes of all their parts."""
        try:
            self.url = attach(self._socket, url, bind=bind)
        except ConfigError:
            self.close()
            raise

    def wait_for_peer(self, timeout_s: float | None = None, *, subscribers: int = 1) -> None:
        """Return when somebody is there to send to: for PUB, that many subscriptions; for PUSH, one
        connection.

        A PUB sender that does not wait loses everything it sends before the first subscription arrives.
        Raises ConfigError after `timeout_s` seconds; None waits for ever.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self.kind == "push":
            self._poll(zmq.POLLOUT, deadline)
            return
        there = 0
        while there < subscribers:
            self._poll(zmq.POLLIN, deadline)
            there += 1 if self._socket.recv()[:1] == b"\x01" else -1

    def send(
        self,
        messages: Iterable[Message],
        rate: float | None = None,
        *,
        per_tick: int = 1,
        start: float | None = None,
    ) -> int:
        """Send all messages; returns how many that were.

        `rate`: ticks per second on an absolute schedule, None for full speed. The first message is tick 0,
        and then `per_tick` messages make one tick (3 for Xspress3's single-part framing, so that its rate is
        in frames). `start`: when tick 0 is due, a reading of `time.monotonic`; None for now.
        """
        before = self.sent
        for message in _due(messages, Pacer(rate, start=start), per_tick):
            self._send(message)
        return self.sent - before

    def send_numbered(
        self,
        template: bytes,
        blobs: Sequence[bytes],
        count: int,
        *,
        first: tuple[int, ...] = (0, 1),
        rate: float | None = None,
        stamp: Callable[[], int] | None = None,
    ) -> int:
        """The fast path: `count` messages of a numbered header and one of the `blobs` in turn; returns
        `count`.

        `template` has one %d per number in `first` (see `wire.stins_template`); every message counts each of
        them up by one. One more %d at its end takes what `stamp` returns when the message is sent. Rates above 20 kHz
        are kept on average, in strides of 256 messages.
        """
        for _ in self.numbered(template, blobs, count, first=first, rate=rate, stamp=stamp):
            pass
        return count

    def numbered(
        self,
        template: bytes,
        blobs: Sequence[bytes],
        count: int,
        *,
        first: tuple[int, ...] = (0, 1),
        rate: float | None = None,
        stamp: Callable[[], int] | None = None,
    ) -> Iterator[int]:
        """As `send_numbered`, but yields how many messages are sent after every stride, so that senders can take
        turns."""
        pacer = Pacer(rate)
        stride = _STRIDE if not rate or rate >= _STRIDE_RATE else 1
        body = cycle(blobs)
        for done in range(0, count, stride):
            pacer.wait(done)
            size = min(stride, count - done)
            columns: list[Iterable[int]] = [range(n + done, n + done + size) for n in first]
            if stamp is not None:
                columns.append(stamp() for _ in range(size))
            self._burst(template, zip(*columns, strict=True), list(islice(body, size)))
            yield done + size

    def close(self) -> None:
        """Send no more; what is not handed over yet lingers. May be called twice."""
        self._socket.close()

    def __enter__(self) -> StreamSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _burst(self, template: bytes, numbers: Iterator[tuple[int, ...]], blobs: Sequence[bytes]) -> None:
        # The back end's send: the checks of the method around it cost a tenth of the rate of small messages.
        send: Callable[..., object] = super(zmq.Socket, self._socket).send
        copy = max(map(len, blobs), default=0) < LARGE
        total = 0
        done = 0
        try:
            for number, blob in zip(numbers, blobs, strict=True):
                header = template % number
                send(header, _MORE)
                send(blob, _LAST, copy)
                done += 1
                total += len(header) + len(blob)
        finally:
            self.sent += done
            self.sent_bytes += total

    def _send(self, message: Message) -> None:
        send: Callable[..., object] = self._socket.send
        for part in message[:-1]:
            send(part, _MORE, len(part) < LARGE)
        send(message[-1], _LAST, len(message[-1]) < LARGE)
        self.sent += 1
        self.sent_bytes += sum(map(len, message))

    def _poll(self, event: int, deadline: float | None) -> None:
        timeout = None if deadline is None else max(0, round((deadline - time.monotonic()) * 1000))
        if not self._socket.poll(timeout, event):
            raise ConfigError(
                f"nobody came to {self.url} to receive from this {self.kind.upper()} sender: "
                "start the ingester that reads it, or check that both use the same address"
            )


class Dealer:
    """A detector that pushes one series over several sockets: each message goes to the next of its `senders`.

    Whoever made the senders closes them.
    """

    def __init__(self, senders: Iterable[StreamSender]) -> None:
        self.senders = tuple(senders)
        self._turn = cycle(self.senders)

    @property
    def sent(self) -> int:
        """Messages handed to ZeroMQ."""
        return sum(sender.sent for sender in self.senders)

    @property
    def sent_bytes(self) -> int:
        """Bytes of all their parts."""
        return sum(sender.sent_bytes for sender in self.senders)

    def send(self, messages: Iterable[Message], rate: float | None = None) -> int:
        """Send all messages, `rate` per second or as fast as they go; returns how many that were."""
        before = self.sent
        for message in _due(messages, Pacer(rate), 1):
            next(self._turn).send([message])
        return self.sent - before


def _due(messages: Iterable[Message], pacer: Pacer, per_tick: int) -> Iterator[Message]:
    """Messages, each when it is due; after the first, `per_tick` make one tick."""
    for index, message in enumerate(messages):
        pacer.wait((index + per_tick - 1) // per_tick)
        yield message


def send_capture(
    path: str | os.PathLike[str], sender: StreamSender, rate: float | None = None, *, per_tick: int = 1
) -> int:
    """Send a raw capture's messages as they were recorded; returns how many that were.

    `rate` in ticks per second, see `StreamSender.send`. Raises MalformedFrame where the file is damaged,
    after everything before that place was sent.
    """
    return sender.send(map(list, read_raw(path)), rate, per_tick=per_tick)
