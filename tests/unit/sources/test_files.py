"""Playing recorded files."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpWriter, RawWriter
from beamfold.sources.files import DumpSource, RawFileSource

MESSAGES = [[b"a"], [b"b", b"bb" * 50], [b"c"]]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.cbors"
    with RawWriter(path) as writer:
        for message in MESSAGES:
            writer.write(message)
    return path


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.cbors"
    with DumpWriter(path) as writer:
        for number in (0, 1, 6):
            writer.write(number, {"s": StreamData("STINS", [b"{}", b"x" * 100])})
    return path


def test_a_capture_is_exhausted_after_its_last_message(raw: Path) -> None:
    source = RawFileSource(raw)
    assert source.socket is None
    assert source.drain(2, 10_000) == MESSAGES[:2]
    assert not source.exhausted
    assert source.drain(2, 10_000) == MESSAGES[2:]
    assert source.exhausted
    assert source.drain(2, 10_000) == []


def test_a_dump_gives_events_with_their_own_numbers(dump: Path) -> None:
    source = DumpSource(dump)
    events = source.drain(2, 10_000) + source.drain(2, 10_000)
    assert [number for number, _ in events] == [0, 1, 6]
    assert events[1][1] == {"s": StreamData("STINS", [b"{}", b"x" * 100])}
    assert source.exhausted
    source.close()


def test_a_dump_is_bounded_in_bytes(dump: Path) -> None:
    source = DumpSource(dump)
    assert len(source.drain(10, 1)) == 1
    assert len(source.drain(10, 103)) == 2
    source.close()
    source.close()
    assert source.drain(10, 1000) == []


def test_what_precedes_damage_is_handed_out_before_it_is_told(raw: Path) -> None:
    raw.write_bytes(raw.read_bytes()[:-1])
    source = RawFileSource(raw)
    assert source.drain(10, 10_000) == MESSAGES[:2]
    assert not source.exhausted
    with pytest.raises(MalformedFrame):
        source.drain(10, 10_000)
    assert source.exhausted
    assert source.drain(10, 10_000) == []


def test_the_wrong_sort_of_file_is_named_and_the_right_source_too(raw: Path, dump: Path) -> None:
    with pytest.raises(ConfigError, match="play it with DumpSource"):
        RawFileSource(dump)
    with pytest.raises(ConfigError, match="play it with RawFileSource"):
        DumpSource(raw)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    for kind in (RawFileSource, DumpSource):
        with pytest.raises(ConfigError, match=r"there is no file .*gone\.cbors"):
            kind(tmp_path / "gone.cbors")


def test_urls_are_file_urls(raw: Path, dump: Path) -> None:
    assert RawFileSource(raw).url == raw.as_uri()
    assert DumpSource(dump).url == dump.as_uri()
