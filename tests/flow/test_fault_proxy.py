"""The fault proxy between two ZeroMQ sockets: what is said of it is so."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import zmq

from beamfold.model.errors import ConfigError
from beamfold.testing.proxy import FaultProxy
from flow.deployment import wait_until

PATIENCE_MS = 20_000


class Pair:
    """A detector that binds, and who receives from it by way of a proxy."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], proxy: FaultProxy) -> None:
        self.push, self.pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        port = self.push.bind_to_random_port("tcp://127.0.0.1")
        proxy.aim(f"tcp://127.0.0.1:{port}")
        self.pull.connect(proxy.url)
        self.say(b"hello")
        assert self.heard() == b"hello"

    def say(self, text: bytes) -> None:
        assert self.push.poll(PATIENCE_MS, zmq.POLLOUT)
        self.push.send(text)

    def until_heard(self, text: bytes) -> None:
        """What is sent into a connection before its end is noticed is lost: say it until it comes."""

        def heard() -> bool:
            self.say(text)
            return bool(self.pull.poll(50)) and self.pull.recv() == text

        wait_until(heard, "that it is heard")

    def heard(self) -> bytes:
        assert self.pull.poll(PATIENCE_MS)
        return self.pull.recv()


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def pair(proxy: FaultProxy) -> Iterator[Pair]:
    with zmq.Context() as context:
        yield Pair(context, proxy)
        context.destroy(linger=0)


def test_a_cut_connection_is_made_again(proxy: FaultProxy, pair: Pair) -> None:
    for n in range(3):
        assert proxy.cut() == 1
        wait_until(lambda n=n: proxy.connections == n + 2, "another connection")
        pair.until_heard(b"%d" % n)


def test_what_is_delayed_comes_later_and_all_of_it(proxy: FaultProxy, pair: Pair) -> None:
    began = time.monotonic()
    proxy.delay(0.3)
    for n in range(100):
        pair.say(b"%d" % n)
    assert [pair.heard() for _ in range(100)] == [b"%d" % n for n in range(100)]
    assert time.monotonic() - began >= 0.3
    assert proxy.connections == 1


def test_nobody_connects_until_it_is_back_at_the_same_address(proxy: FaultProxy, pair: Pair) -> None:
    url, began = proxy.url, time.monotonic()
    proxy.restart(0.3)
    wait_until(lambda: proxy.connections == 2, "another connection")
    assert time.monotonic() - began >= 0.3
    assert proxy.url == url
    pair.until_heard(b"again")


@pytest.mark.parametrize("target", ["ipc://x", "tcp://host", "127.0.0.1:1"])
def test_a_target_that_it_cannot_hand_on_to_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="give it tcp://host:port"):
        FaultProxy(target)
