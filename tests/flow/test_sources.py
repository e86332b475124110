"""Simulated detectors in their own processes, received as an ingester receives them."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from beamfold.model.errors import ConfigError
from beamfold.model.events import Buffer
from beamfold.protocols.dumps import RawWriter
from beamfold.protocols.zmtp import MAX_PART_BYTES
from beamfold.sources.zeromq import ZmqSource
from beamfold.testing import wire
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.stream import StreamSender

PATIENCE_MS = 30_000


class Detector:
    """A `simulate` process whose JSON lines are read as they come."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "beamfold.testing.simulate", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, self.process.communicate()[1]
        return json.loads(text)

    def urls(self, count: int = 1) -> dict[str, str]:
        lines = [self.line() for _ in range(count)]
        assert {line["event"] for line in lines} == {"listening"}
        return {line["stream"]: line["url"] for line in lines}

    def end(self) -> tuple[int, dict[str, dict[str, Any]], str]:
        out, err = self.process.communicate(timeout=PATIENCE_MS / 1000)
        lines = map(json.loads, out.splitlines())
        return self.process.returncode, {line["stream"]: line for line in lines}, err


@pytest.fixture
def detector() -> Iterator[Callable[..., Detector]]:
    started: list[Detector] = []

    def start(*arguments: str) -> Detector:
        started.append(Detector(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def connect(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Callable[..., ZmqSource]]:
    opened: list[ZmqSource] = []

    def connect(url: str, kind: Any, hwm: int = 1000) -> ZmqSource:
        opened.append(ZmqSource(context, url, kind, hwm=hwm))
        return opened[-1]

    yield connect
    for source in opened:
        source.close()


def receive(source: ZmqSource, until: bytes) -> list[list[Buffer]]:
    """Everything up to the message whose first part contains `until`."""
    messages: list[list[Buffer]] = []
    while not messages or until not in bytes(messages[-1][0]):
        assert source.socket.poll(PATIENCE_MS), f"nothing more after {len(messages)} messages"
        messages += source.drain(1000, 1 << 26)
    return messages


def test_no_pushed_frame_is_lost_at_full_speed(detector: Any, connect: Any) -> None:
    one = detector("stins", "--frames", "30000")
    source = connect(one.urls()["stins"], "pull")
    messages = receive(source, b"series_end")
    numbers = [json.loads(m[0])["frame"] for m in messages[1:-1]]
    assert numbers == list(range(30_000))
    assert json.loads(messages[-1][0])["msg_number"] == 30_001
    assert {len(m[1]) for m in messages[1:-1]} == {128}
    status, sent, _ = one.end()
    assert status == 0
    assert sent["stins"]["frames"] == 30_000
    assert sent["stins"]["messages"] == len(messages)
    assert sent["stins"]["bytes"] == sum(len(part) for m in messages for part in m)


def test_a_series_is_dealt_to_several_sockets_in_turn(detector: Any, connect: Any) -> None:
    one = detector("stins", "--frames", "8", "--url", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    sources = [connect(one.line()["url"], "pull") for _ in range(2)]
    of_first, of_second = receive(sources[0], b'"frame": 7'), receive(sources[1], b"series_end")
    assert [json.loads(m[0]).get("frame") for m in of_first] == [None, 1, 3, 5, 7]
    assert [json.loads(m[0]).get("frame") for m in of_second] == [0, 2, 4, 6, None]
    status, sent, _ = one.end()
    assert (status, sent["stins"]["frames"], sent["stins"]["messages"]) == (0, 8, 10)


def test_both_detectors_of_a_mesh_send_every_point_in_step(detector: Any, connect: Any) -> None:
    one = detector("fluorescence", "--shape", "5x4", "--heartbeats", "6", "--rate", "200")
    urls = one.urls(2)
    spectra = connect(urls["xspress3"], "sub")
    positions = connect(urls["contrast"], "sub")
    images = receive(spectra, b"series_end")
    records = [
        pickle.loads(bytes(m[0]).replace(b"numpy.core", b"numpy._core", 1)) for m in receive(positions, b"finished")
    ]
    assert len(images) == 3 * 20 + 2
    sample = FluorescenceSample((5, 4), exptime=1 / 200)
    for point in range(20):
        assert json.loads(images[1 + 3 * point][0])["frame"] == point
        assert np.array_equal(np.frombuffer(images[2 + 3 * point][0], "<u4"), sample.spectrum(point).ravel())
    running = [r for r in records if r["status"] == "running"]
    assert [r["pseudo"]["x"] for r in running] == [sample.readings(p)["pseudo"]["x"] for p in range(20)]
    assert [r["status"] for r in records].count("heartbeat") == 4
    status, sent, _ = one.end()
    assert status == 0
    assert {name: line["frames"] for name, line in sent.items()} == {"xspress3": 20, "contrast": 20}
    assert sent["contrast"]["seconds"] >= 20 / 200


def test_one_detector_alone_and_an_interrupted_mesh(detector: Any, connect: Any) -> None:
    one = detector("fluorescence", "--only", "contrast", "--shape", "16", "--points", "7")
    source = connect(one.urls()["contrast"], "sub")
    assert len(receive(source, b"interrupted")) == 9
    assert one.end()[0] == 0


def test_a_slow_subscriber_gets_everything(detector: Any, connect: Any) -> None:
    """A publisher would drop from its full queue; a simulated one waits unless told to drop."""
    one = detector("stins", "--kind", "pub", "--frames", "3000", "--shape", "64x64", "--hwm", "10")
    source = connect(one.urls()["stins"], "sub", hwm=10)
    messages: list[list[Buffer]] = []
    while not messages or b"series_end" not in bytes(messages[-1][0]):
        assert source.socket.poll(PATIENCE_MS)
        messages += source.drain(3, 1 << 20)
    assert len(messages) == 3002


def test_a_process_ends_only_when_everything_was_taken(detector: Any, connect: Any) -> None:
    """It has handed all 48 MB to its queue and says so, and still lives until they are received."""
    one = detector("stins", "--frames", "3000", "--shape", "64x128", "--hwm", "0")
    source = connect(one.urls()["stins"], "pull", hwm=10)
    assert one.line()["messages"] == 3002
    with pytest.raises(subprocess.TimeoutExpired):
        one.process.wait(0.3)
    assert len(receive(source, b"series_end")) == 3002
    assert one.end()[0] == 0


def test_waiting_for_receivers_can_be_limited(detector: Any, connect: Any) -> None:
    one = detector("stins", "--frames", "3000", "--shape", "64x128", "--hwm", "0", "--linger", "0.2")
    connect(one.urls()["stins"], "pull", hwm=10)
    status, sent, told = one.end()
    assert sent["stins"]["messages"] == 3002
    assert status == 1
    assert "not everything was taken within 0.2 s" in told


def test_a_detector_that_nobody_reads_says_so(detector: Any) -> None:
    for arguments in (("stins",), ("fluorescence", "--shape", "2x2")):
        status, _, told = detector(*arguments, "--wait", "0.1").end()
        assert status == 1
        assert "nobody came to tcp://127.0.0.1:" in told


@pytest.mark.parametrize("arguments", [("stins", "--frames", "1000000"), ("fluorescence", "--shape", "100x100")])
def test_ctrl_c_ends_a_sender_that_is_blocked(detector: Any, connect: Any, arguments: tuple[str, ...]) -> None:
    one = detector(*arguments, "--hwm", "10")
    sources = [
        connect(url, "pull" if name == "stins" else "sub", hwm=10)
        for name, url in one.urls(2 if arguments[0] == "fluorescence" else 1).items()
    ]
    for source in sources:
        assert source.socket.poll(PATIENCE_MS)
    one.process.send_signal(signal.SIGINT)
    assert one.end()[0] == 130


def test_a_capture_is_sent_as_it_was_recorded(detector: Any, connect: Any, tmp_path: Path) -> None:
    recorded = [[b"start"], [b"a", b"\0" * 100_000], [b""], [b"the end"]]
    with RawWriter(tmp_path / "x.cbors") as writer:
        for message in recorded:
            writer.write(message)
    one = detector("capture", str(tmp_path / "x.cbors"))
    source = connect(one.urls()["capture"], "pull")
    assert [[bytes(p) for p in m] for m in receive(source, b"the end")] == recorded
    assert one.end()[0] == 0


def test_numbered_messages_keep_their_rate_and_their_numbers(context: Any, connect: Any) -> None:
    with StreamSender(context, "tcp://127.0.0.1:0", hwm=0) as sender:
        source = connect(sender.url, "pull", hwm=0)
        template = wire.stins_template((2,), np.dtype("u1"))
        assert sender.send_numbered(template, [b"ab", b"cd"], 600, first=(5, 9)) == 600
        assert sender.send_numbered(template, [b"ef"], 3, first=(605, 609), rate=1000.0) == 3
        messages: list[list[Buffer]] = []
        while len(messages) < 603:
            assert source.socket.poll(PATIENCE_MS)
            messages += source.drain(1000, 1 << 20)
        assert [json.loads(m[0])["frame"] for m in messages] == list(range(5, 608))
        assert [json.loads(m[0])["msg_number"] for m in messages] == list(range(9, 612))
        assert [bytes(m[1]) for m in messages[:3]] == [b"ab", b"cd", b"ab"]
        assert sender.sent == 603
        assert sender.sent_bytes == sum(len(part) for m in messages for part in m)


def test_messages_are_stamped_as_they_are_sent(context: Any, connect: Any) -> None:
    with StreamSender(context, "tcp://127.0.0.1:0", hwm=0) as sender:
        source = connect(sender.url, "pull", hwm=0)
        template = wire.stins_template((2,), np.dtype("u1"), stamp="sent")
        clock = count(100, 10)
        sender.send_numbered(template, [b"ab"], 300, stamp=lambda: next(clock))
        messages: list[list[Buffer]] = []
        while len(messages) < 300:
            assert source.socket.poll(PATIENCE_MS)
            messages += source.drain(1000, 1 << 20)
        assert [json.loads(m[0])["sent"] for m in messages] == list(range(100, 3100, 10))


def test_detectors_on_one_trigger_send_as_many_frames_each(detector: Any, connect: Any) -> None:
    one = detector("joined", "4x2", "2x2", "--frames", "600", "--distinct", "2")
    urls = one.urls(2)
    sources = [connect(urls[name], "pull") for name in ("stins-0", "stins-1")]
    for source, shape in zip(sources, ([4, 2], [2, 2]), strict=True):
        headers = [json.loads(m[0]) for m in receive(source, b"series_end")]
        assert [h["frame"] for h in headers[1:-1]] == list(range(600))
        assert all(h["shape"] == shape for h in headers[1:-1])
    status, sent, _ = one.end()
    assert status == 0
    assert [line["frames"] for line in sent.values()] == [600, 600]


def test_a_part_that_no_envelope_could_hold_is_not_received(connect: Any) -> None:
    source = connect("tcp://127.0.0.1:9", "sub")
    assert source.socket.getsockopt(zmq.MAXMSGSIZE) == MAX_PART_BYTES


def test_a_publisher_counts_its_subscribers(context: Any, connect: Any) -> None:
    with StreamSender(context, "tcp://127.0.0.1:0", "pub") as sender:
        first = connect(sender.url, "sub")
        second = connect(sender.url, "sub")
        sender.wait_for_peer(PATIENCE_MS / 1000, subscribers=2)
        sender.send([[b"end"]])
        assert receive(first, b"end") == receive(second, b"end") == [[b"end"]]


def test_senders_refuse_what_they_cannot_do(context: Any) -> None:
    with pytest.raises(ConfigError, match="unknown socket kind 'pull'"):
        StreamSender(context, "tcp://127.0.0.1:0", "pull")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot listen on"):
        StreamSender(context, "tcp://nowhere", "push")
    with StreamSender(context, "tcp://127.0.0.1:0") as alone, pytest.raises(ConfigError, match="nobody came"):
        alone.wait_for_peer(0.05)
