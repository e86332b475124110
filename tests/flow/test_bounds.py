"""A peer that sends too much is cut off before there is memory for it, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from beamfold.protocols.envelopes import Grant, encode_header
from beamfold.transport.data import DataHub, DataLink
from flow.deployment import wait_until


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_a_part_that_is_too_large_is_not_received(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    hub = DataHub(context, "tcp://127.0.0.1:0", max_part=1000)
    rude, polite = (DataLink(context, hub.url, name) for name in (b"rude", b"polite"))
    rude.send([b"x" * 1001])
    rude.send([b"x" * 1001])
    grant = encode_header(Grant(1, 0, 5))
    polite.send([b"y" * 1000, grant])
    assert wait_until(lambda: hub.receive(1 << 20), "what the other one says") == [[b"polite", b"y" * 1000, grant]]
    assert not hub.receive(1 << 20)
    for end in (rude, polite, hub):
        end.close()
