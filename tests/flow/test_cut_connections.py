"""Connections between services break: what they say to each other comes all the same, once and in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from beamfold.model.events import Buffer
from beamfold.protocols.messages import Beat, Hello, Trouble, Welcome
from beamfold.testing.proxy import FaultProxy
from beamfold.transport.control import ControlChannel, ControlHub
from beamfold.transport.data import DataHub, DataLink
from faults.harm import APP, Sender, cut, frame, tcp_address, undisturbed
from flow.deployment import Deployment, Stream, wait_until

MESSAGES = 3000


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_promise_2_a_cut_connection_between_two_services_loses_nothing(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    hub = DataHub(context, "tcp://127.0.0.1:0")
    with FaultProxy(hub.url) as proxy:
        link = DataLink(context, proxy.url, b"worker")
        large = bytes(100_000)
        there: list[Sequence[Buffer]] = []
        back: list[Sequence[Buffer]] = []
        link.send([b"0"])
        there += wait_until(lambda: hub.receive(1 << 20), "the first message")
        cuts = 0
        for n in range(1, MESSAGES):
            link.send([b"%d" % n, large] if n % 50 == 0 else [b"%d" % n])
            hub.send(b"worker", [b"%d" % n, large] if n % 40 == 0 else [b"%d" % n])
            there += hub.receive(1 << 20)
            back += link.receive(1 << 20)
            if n % 500 == 250:
                cuts += proxy.cut()
            elif n % 500 == 0:
                wait_until(lambda: proxy.connections == cuts + 1, "another connection")  # noqa: B023

        def all_here() -> bool:
            link.ask()
            there.extend(hub.receive(1 << 20))
            back.extend(link.receive(1 << 20))
            return len(there) >= MESSAGES and len(back) >= MESSAGES - 1

        wait_until(all_here, "all messages")
        assert cuts == MESSAGES // 500
        link.close()
    hub.close()
    assert [bytes(parts[1]) for parts in there] == [b"%d" % n for n in range(MESSAGES)]
    assert [bytes(parts[0]) for parts in back] == [b"%d" % n for n in range(1, MESSAGES)]
    assert sum(len(parts[-1]) == len(large) for parts in there) == MESSAGES // 50 - 1
    assert sum(len(parts[-1]) == len(large) for parts in back) == MESSAGES // 40 - 1


def test_promise_2_a_cut_control_connection_loses_nothing(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    hub = ControlHub(context, "tcp://127.0.0.1:0")
    hello = Hello("worker", "w", "uuid", "version", 1, "host")
    with FaultProxy(hub.url) as proxy:
        channel = ControlChannel(context, proxy.url, hello)
        assert wait_until(hub.receive, "Hello") == [(b"uuid", hello)]
        heard: list[Any] = []
        for n in range(20):
            channel.send(Trouble(n, "w", "there"))
            hub.send(b"uuid", Welcome(n))
            if n % 6 == 5:
                proxy.cut()
        channel.welcomed = False

        def all_here() -> bool:
            channel.beat(Beat, at_once=True)
            channel.receive()
            heard.extend(message for _, message in hub.receive() if isinstance(message, Trouble))
            return channel.welcomed and len(heard) >= 20

        wait_until(all_here, "all messages")
        channel.close()
    hub.close()
    assert [message.scan for message in heard] == list(range(20))


@pytest.mark.skipif(shutil.which("ss") is None, reason="there is no ss (iproute2) to break connections with")
def test_promise_2_a_scan_goes_on_when_all_connections_between_services_are_cut(tmp_path: Path) -> None:
    sections = {"controller": {"control": tcp_address()}}
    with Deployment(tmp_path, APP, {"x": Stream()}, sections=sections) as deployment:
        for n, rate in ((1500, 500.0), (40_000, None)):
            scan = deployment.submit({"streams": ["x"], "events": n})
            sender = Sender(deployment, [frame(i) for i in range(n)], rate)
            cuts = 0
            for share in (0.2, 0.4, 0.6, 0.8):
                deployment.wait_reached(round(n * share))
                if not (broken := cut(deployment)):
                    pytest.skip("only root can break connections of others, with ss -K, where the kernel lets it")
                cuts += broken
            assert cuts > 16, "the services' control connections, two workers' to ingester and reducer"
            sender.join()
            report = deployment.wait_ended(scan)
            assert (report["ended"], report["states"], report["losses"]) == ("finished", {"reduced": n}, [])
            assert deployment.state() == undisturbed(n)
