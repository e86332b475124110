"""The direct source beside ZeroMQ's own sockets: detectors that come, go and come again, and what is no detector."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import zmq

from beamfold.model.events import Buffer
from beamfold.protocols.zmtp import GREETING, READ_BYTES
from beamfold.sources import direct
from beamfold.sources.direct import DirectSource
from flow.deployment import wait_until

PATIENCE_MS = 20_000

_opened: list[zmq.Socket[bytes]] = []


Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    made: Context = zmq.Context()
    yield made
    for sender in _opened:
        sender.close(linger=0)
    _opened.clear()
    made.destroy(linger=0)


def push(context: Context, url: str, *, bind: bool = True) -> zmq.Socket[bytes]:
    made = context.socket(zmq.PUSH)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
    made.setsockopt(zmq.HEARTBEAT_IVL, 50)
    try:
        (made.bind if bind else made.connect)(url)
    except zmq.ZMQError:
        made.close()
        raise
    _opened.append(made)
    return made


def freed(context: Context, url: str) -> zmq.Socket[bytes] | None:
    """A detector at this address, None while it is taken."""
    try:
        return push(context, url)
    except zmq.ZMQError:
        return None


def meet(sender: zmq.Socket[bytes], source: DirectSource) -> None:
    """They are connected. An ingester drains whenever there is something, and be it the end of a connection."""
    wait_until(lambda: not source.drain(1, 1) and sender.poll(0, zmq.POLLOUT), "sender and source find each other")


def receive(source: DirectSource, count: int) -> list[list[bytes]]:
    """So many messages, waiting for them as an ingester does."""
    found: list[list[Buffer]] = []
    while len(found) < count:
        poller = zmq.Poller()
        poller.register(source.socket, zmq.POLLIN)
        assert poller.poll(PATIENCE_MS), f"{len(found)} of {count} messages came"
        found += source.drain(1000, 1 << 30)
    return [[bytes(part) for part in message] for message in found]


def test_a_detector_that_comes_back_is_read_again(context: Context) -> None:
    first = push(context, "tcp://127.0.0.1:*")
    url = first.getsockopt_string(zmq.LAST_ENDPOINT)
    source = DirectSource(url)
    for n in range(3):
        first.send_multipart([b"%d" % n, bytes(200_000)])
    assert [m[0] for m in receive(source, 3)] == [b"0", b"1", b"2"]
    first.close()
    for turn in range(3):
        again = wait_until(lambda: freed(context, url), "the port, which the one before lets go of in its own time")
        meet(again, source)
        again.send(b"back %d" % turn)
        assert receive(source, 1) == [[b"back %d" % turn]]
        again.close()
    source.close()


def test_a_detector_that_is_not_there_yet_is_waited_for(context: Context) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    source = DirectSource(f"tcp://localhost:{port}")
    assert source.drain(10, 1000) == []
    sender = push(context, f"tcp://127.0.0.1:{port}")
    meet(sender, source)
    sender.send(b"here")
    assert receive(source, 1) == [[b"here"]]
    source.close()


def test_many_detectors_at_one_address_lose_nothing(context: Context) -> None:
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    senders = [push(context, source.url, bind=False) for _ in range(5)]
    for n in range(200):
        for at, sender in enumerate(senders):
            sender.send_multipart([b"%d" % at, b"%d" % n, bytes([n]) * (70_000 if n % 10 == 0 else 10)])
    found = receive(source, 1000)
    for at in range(5):
        mine = [m for m in found if m[0] == b"%d" % at]
        assert [int(m[1]) for m in mine] == list(range(200))
        assert all(set(m[2]) == {int(m[1])} for m in mine)
    source.close()


def test_a_stranger_is_told_of_and_harms_nobody(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    port = int(source.url.rpartition(":")[2])
    sender = push(context, source.url, bind=False)
    for n in range(20):
        sender.send(b"%d" % n)
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert len(receive(source, 20)) == 20
        while not caplog.text:
            source.drain(10, 1000)
    assert "it does not speak ZeroMQ's protocol" in caplog.text
    sender.send(b"still here")
    assert receive(source, 1) == [[b"still here"]]
    source.close()


HELLO = GREETING + b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
"""What a detector begins with."""

WHOLE = b"\x01\x01a\x00\x01b"
"""A message of two parts."""


def by_hand(source: DirectSource) -> socket.socket:
    """A detector of which a test writes every byte."""
    return socket.create_connection(("127.0.0.1", int(source.url.rpartition(":")[2])))


def test_what_came_before_nonsense_is_not_lost(context: Context) -> None:
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    with by_hand(source) as detector:
        detector.sendall(HELLO + 3 * WHOLE + b"\x08\x00")
        assert receive(source, 3) == 3 * [[b"a", b"b"]]
    source.close()


def test_what_a_detector_sent_before_it_went_away_is_not_lost(context: Context) -> None:
    """It asked whether we are there and did not wait for the answer, which cannot be sent any more."""
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    ping = b"\x04\x07\x04PING\x00\x00"
    with by_hand(source) as detector:
        detector.sendall(HELLO + WHOLE)
        assert receive(source, 1) == [[b"a", b"b"]]
        detector.sendall(3 * (ping + WHOLE))  # it has not read what was said to it: its connection is reset
    assert receive(source, 3) == 3 * [[b"a", b"b"]]
    source.close()


def test_a_long_message_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is there already, more than one read brings."""
    monkeypatch.setattr(direct, "READS", 1)
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    size = 3 * READ_BYTES
    with by_hand(source) as detector:
        detector.sendall(HELLO + WHOLE)
        assert receive(source, 1) == [[b"a", b"b"]]
        detector.sendall(b"\x01\x01a\x02" + size.to_bytes(8, "big") + bytes(size))
        turns = 0
        while not (found := source.drain(1, 1)):
            turns += 1
        assert [len(part) for part in found[0]] == [1, size]
        assert turns
    source.close()


def test_a_connection_that_breaks_in_a_message_gives_only_whole_ones(context: Context) -> None:
    source = DirectSource("tcp://127.0.0.1:0", bind=True)
    with by_hand(source) as detector:
        broken = b"\x01\x01c\x02" + (100_000).to_bytes(8, "big") + b"half"
        detector.sendall(HELLO + WHOLE + broken)
        assert receive(source, 1) == [[b"a", b"b"]]
    sender = push(context, source.url, bind=False)
    sender.send(b"next")
    assert receive(source, 1) == [[b"next"]]
    source.close()


def test_that_nobody_answers_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SILENCE_S", 0.0)
    monkeypatch.setattr(direct, "RETRY_S", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    source = DirectSource(url)
    wait_until(lambda: caplog.records, "a word about it")
    assert source.drain(10, 1000) == []
    source.close()
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [f"nobody answers at {url}"]
