"""What every source promises. A new source subclasses `SourceContract` and says how to make one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from beamfold.model.errors import ConfigError
from beamfold.model.events import Buffer
from beamfold.protocols.dumps import RawWriter
from beamfold.sources.base import LARGE, Source
from beamfold.sources.direct import DirectSource
from beamfold.sources.files import RawFileSource
from beamfold.sources.zeromq import ZmqSource
from beamfold.testing.stream import StreamSender

PATIENCE_MS = 20_000
MANY = 1_000_000

MIXED = [
    [b"start"],
    [b"header", b"\x01" * 128],
    [b"header", b"\x02" * (LARGE - 1), b""],
    [b"header", b"\x03" * LARGE, b"small", b"\x04" * (3 * LARGE)],
    [b"\x05" * (2 * LARGE)],
    [b""],
    [b"end"],
]
SMALL = [[b"n%d" % n, b"x" * 10] for n in range(50)]


def plain(messages: list[list[Buffer]]) -> list[list[bytes]]:
    return [[bytes(part) for part in message] for message in messages]


def readable(source: Source, milliseconds: int) -> bool:
    """Whether the source has something to drain within this time."""
    poller = zmq.Poller()
    poller.register(source.socket, zmq.POLLIN)
    return bool(poller.poll(milliseconds))


class SourceContract:
    """Give `make`: a source for which exactly these messages are there or on their way."""

    def make(self, messages: list[list[bytes]]) -> Source:
        raise NotImplementedError

    def batches(
        self, source: Source, count: int, max_messages: int = MANY, max_bytes: int = MANY * 100
    ) -> list[list[list[Buffer]]]:
        """Drain as an ingester does, until `count` messages have come."""
        found: list[list[list[Buffer]]] = []
        while sum(map(len, found)) < count:
            batch = source.drain(max_messages, max_bytes)
            if batch:
                found.append(batch)
            elif source.socket is not None:
                assert readable(source, PATIENCE_MS), "messages did not come"
            else:
                assert not source.exhausted, "messages are missing"
        return found

    def test_every_message_comes_unaltered_and_in_order(self) -> None:
        source = self.make(MIXED)
        found = [m for batch in self.batches(source, len(MIXED)) for m in batch]
        assert plain(found) == MIXED
        source.close()

    def test_an_empty_source_answers_at_once(self) -> None:
        source = self.make([])
        assert source.drain(10, 1000) == []
        assert source.drain(10, 1000) == []
        source.close()

    def test_no_batch_has_more_messages_than_asked_for(self) -> None:
        source = self.make(SMALL)
        batches = self.batches(source, len(SMALL), max_messages=7)
        assert max(map(len, batches)) <= 7
        assert plain([m for batch in batches for m in batch]) == SMALL
        source.close()

    def test_a_batch_ends_with_the_message_that_reaches_its_bytes(self) -> None:
        source = self.make(SMALL)
        for batch in self.batches(source, len(SMALL), max_bytes=40):
            assert sum(len(part) for message in batch[:-1] for part in message) < 40
        source.close()

    def test_a_message_larger_than_the_limit_still_comes(self) -> None:
        source = self.make(MIXED)
        batches = self.batches(source, len(MIXED), max_bytes=1)
        assert plain([m for batch in batches for m in batch]) == MIXED
        source.close()

    def test_asking_for_nothing_takes_nothing(self) -> None:
        source = self.make(SMALL)
        assert source.drain(0, 1000) == []
        assert source.drain(10, 0) == []
        assert len(plain([m for b in self.batches(source, len(SMALL)) for m in b])) == len(SMALL)
        source.close()

    def test_first_and_small_parts_are_bytes_and_large_ones_cannot_be_written(self) -> None:
        source = self.make(MIXED)
        for message in (m for batch in self.batches(source, len(MIXED)) for m in batch):
            assert type(message[0]) is bytes
            for part in message[1:]:
                if isinstance(part, memoryview):
                    assert part.readonly
                    assert part.nbytes >= LARGE
                else:
                    assert type(part) is bytes
        source.close()

    def test_buffers_outlive_the_source(self) -> None:
        source = self.make(MIXED)
        found = [m for batch in self.batches(source, len(MIXED)) for m in batch]
        source.close()
        assert plain(found) == MIXED

    def test_closing_twice_is_fine_and_a_closed_source_is_exhausted(self) -> None:
        source = self.make(SMALL)
        assert not source.exhausted
        source.close()
        source.close()
        assert source.exhausted
        assert source.drain(10, 1000) == []

    def test_it_says_where_it_reads(self) -> None:
        source = self.make(SMALL)
        assert "://" in source.url
        assert not source.url.endswith((":0", ":*"))
        source.close()


class ZmqContract(SourceContract):
    kind: str
    bind: bool

    @pytest.fixture(autouse=True)
    def _context(self) -> Iterator[None]:
        self.context = zmq.Context()
        self.opened: list[StreamSender | Source] = []
        yield
        for one in self.opened:
            one.close()
        self.context.destroy(linger=0)

    def make(self, messages: list[list[bytes]]) -> Source:
        sending = "push" if self.kind == "pull" else "pub"
        if self.bind:
            source = self.open("tcp://127.0.0.1:0", bind=True)
            sender = StreamSender(self.context, source.url, sending, bind=False, linger_s=0)  # type: ignore[arg-type]
        else:
            sender = StreamSender(self.context, "tcp://127.0.0.1:0", sending, linger_s=0)  # type: ignore[arg-type]
            source = self.open(sender.url, bind=False)
        self.opened += [sender, source]
        self.meet(sender, source)
        assert sender.send(messages) == len(messages)
        return source

    def open(self, url: str, *, bind: bool) -> Source:
        return ZmqSource(self.context, url, self.kind, bind=bind)  # type: ignore[arg-type]

    @staticmethod
    def meet(sender: StreamSender, source: Source) -> None:
        for _ in range(PATIENCE_MS // 100):
            assert source.drain(1, 1) == []  # as an ingester does all the time; see ZmqSource
            try:
                sender.wait_for_peer(0.1)
            except ConfigError:
                continue
            return
        pytest.fail("sender and source do not find each other")


class TestPullThatConnects(ZmqContract):
    kind, bind = "pull", False


class TestPullThatBinds(ZmqContract):
    kind, bind = "pull", True


class TestSubThatConnects(ZmqContract):
    kind, bind = "sub", False


class TestSubThatBinds(ZmqContract):
    kind, bind = "sub", True


class TestDirectThatConnects(ZmqContract):
    kind, bind = "pull", False

    def open(self, url: str, *, bind: bool) -> Source:
        return DirectSource(url, bind=bind)


class TestDirectThatBinds(TestDirectThatConnects):
    bind = True


class TestRawFile(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "capture.cbors"

    def make(self, messages: list[list[bytes]]) -> Source:
        with RawWriter(self.path) as writer:
            for message in messages:
                writer.write(message)
        return RawFileSource(self.path)

    def test_an_empty_source_answers_at_once(self) -> None:
        """A file without messages is no capture, so the empty one is a file played to its end."""
        source = self.make(SMALL)
        self.batches(source, len(SMALL))
        assert source.drain(10, 1000) == []
        assert source.exhausted
        source.close()


def test_unusable_addresses_say_what_to_write() -> None:
    context = zmq.Context()
    try:
        for url in ("nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:99999"):
            with pytest.raises(ConfigError, match="Give an address like"):
                ZmqSource(context, url, "pull")
            with pytest.raises(ConfigError, match="Give an address like"):
                DirectSource(url)
        with pytest.raises(ConfigError, match="unknown socket kind 'req'"):
            ZmqSource(context, "tcp://127.0.0.1:1", "req")  # type: ignore[arg-type]
        taken = ZmqSource(context, "tcp://127.0.0.1:0", "pull", bind=True)
        with pytest.raises(ConfigError, match="cannot listen on"):
            ZmqSource(context, taken.url, "pull", bind=True)
        with pytest.raises(ConfigError, match="cannot listen on"):
            DirectSource(taken.url, bind=True)
        taken.close()
    finally:
        context.destroy(linger=0)
