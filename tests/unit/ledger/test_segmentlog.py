"""The segment log gives back what was appended, or says where it cannot."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.ledger.segmentlog import Location, LogBusy, LogCorrupt, LogFull, SegmentLog

FILE_HEADER, RECORD_HEADER = 16, 24
FRAMES = st.lists(st.binary(max_size=40), min_size=1, max_size=4)
RECORDS = st.lists(FRAMES, max_size=12)
few = settings(max_examples=100, deadline=None)


def contents(log: SegmentLog) -> list[list[bytes]]:
    return [frames for _, frames in log.records()]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


def bytes_on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in files(directory))


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """A function's `tmp_path` is shared by all of hypothesis' examples."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write(directory: Path, records: Sequence[list[bytes]], segment_bytes: int = 2**20) -> list[Location]:
    with SegmentLog(directory, segment_bytes) as log:
        return [log.append(frames) for frames in records]


@few
@given(records=RECORDS, segment_bytes=st.integers(1, 400))
def test_what_was_appended_is_read_back_also_after_reopening(records: list[list[bytes]], segment_bytes: int) -> None:
    with fresh_directory() as directory:
        with SegmentLog(directory, segment_bytes) as log:
            locations = [log.append(frames) for frames in records]
            assert contents(log) == records
            assert log.size == bytes_on_disk(directory)
        with SegmentLog(directory, segment_bytes) as log:
            assert log.torn_bytes == 0
            assert log.size == bytes_on_disk(directory)
            assert locations == sorted(set(locations))
            assert [log.read(location) for location in reversed(locations)] == records[::-1]
            assert list(log.records()) == list(zip(locations, records, strict=True))
            for i, location in enumerate(locations):
                assert [frames for _, frames in log.records(location)] == records[i:]
            assert list(log.records(log.end)) == []


@few
@given(records=st.lists(FRAMES, min_size=1, max_size=8), segment_bytes=st.integers(1, 400), data=st.data())
def test_a_log_whose_writer_died_is_whole_up_to_the_torn_record(
    records: list[list[bytes]], segment_bytes: int, data: st.DataObject
) -> None:
    with fresh_directory() as directory:
        locations = write(directory, records, segment_bytes)
        last = files(directory)[-1]
        length = data.draw(st.integers(0, last.stat().st_size), label="bytes left")
        os.truncate(last, length)
        cut = Location(int(last.stem), length)
        expected = [frames for _, frames, end in _spans(records, locations) if end <= cut]
        with SegmentLog(directory, segment_bytes, readonly=True) as log:
            assert contents(log) == expected
            torn = log.torn_bytes
        assert last.stat().st_size == length, "reading changed the file"
        with SegmentLog(directory, segment_bytes) as log:
            assert contents(log) == expected
            assert log.torn_bytes == torn
            assert log.size == bytes_on_disk(directory)
            log.append([b"goes", b"on"])
            assert contents(log) == [*expected, [b"goes", b"on"]]
        with SegmentLog(directory, segment_bytes) as log:
            assert log.torn_bytes == 0
            assert contents(log) == [*expected, [b"goes", b"on"]]


@few
@given(records=st.lists(FRAMES, min_size=1, max_size=8), segment_bytes=st.integers(1, 400), data=st.data())
def test_no_damage_ever_gives_a_record_that_was_not_written(
    records: list[list[bytes]], segment_bytes: int, data: st.DataObject
) -> None:
    with fresh_directory() as directory:
        locations = write(directory, records, segment_bytes)
        path = data.draw(st.sampled_from(files(directory)), label="file")
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1), label="position")
        content[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        place = Location(int(path.stem), position)
        intact = [frames for at, frames, end in _spans(records, locations) if not at <= place < end]
        found: list[list[bytes]] = []
        try:
            with SegmentLog(directory, segment_bytes) as log:
                for _, frames in log.records():
                    found.append(frames)
        except LogCorrupt as error:
            assert path.name in str(error)
            assert found == records[: len(found)]
        else:
            assert found == records[:-1] == intact, "only the frames of the very last record can be called torn"


def _spans(records: list[list[bytes]], locations: list[Location]) -> Iterator[tuple[Location, list[bytes], Location]]:
    for frames, at in zip(records, locations, strict=True):
        length = RECORD_HEADER + 4 * len(frames) + sum(map(len, frames))
        yield at, frames, Location(at.segment, at.offset + length)


@few
@given(
    segment_bytes=st.integers(1, 300),
    steps=st.lists(st.one_of(FRAMES, st.integers(0, 20), st.just("reopen")), max_size=25),
)
def test_dropping_gives_back_whole_segments_and_never_a_record_that_is_kept(
    segment_bytes: int, steps: list[list[bytes] | int | str]
) -> None:
    with fresh_directory() as directory:
        log = SegmentLog(directory, segment_bytes)
        expected: list[tuple[Location, list[bytes]]] = []
        for step in steps:
            if isinstance(step, list):
                expected.append((log.append(step), step))
            elif isinstance(step, int):
                everything = step >= len(expected)
                where = log.end if everything else expected[step][0]
                log.drop_before(where)
                expected = [] if everything else [e for e in expected if e[0].segment >= where.segment]
            else:
                log.close()
                log = SegmentLog(directory, segment_bytes)
            assert list(log.records()) == expected
            assert log.size == bytes_on_disk(directory)
        log.close()


def test_records_are_kept_when_they_lie_in_the_segment_of_the_first_wanted_one(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, 100) as log:
        locations = [log.append([b"%02d" % i]) for i in range(20)]
        assert len(files(tmp_path)) > 5
        log.drop_before(locations[10])
        kept = list(log.records())
        first = locations.index(kept[0][0])
        assert locations[first].segment == locations[10].segment
        assert locations[first - 1].segment < locations[10].segment
        assert [frames for _, frames in kept] == [[b"%02d" % i] for i in range(first, 20)]
        with pytest.raises(LookupError, match="dropped"):
            log.read(locations[0])
        with pytest.raises(LookupError, match="dropped"):
            list(log.records(locations[0]))
        with pytest.raises(LookupError, match="never written"):
            log.read(log.end)


def test_dropping_everything_empties_the_log_and_numbers_go_on(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        first = log.append([b"x" * 1000])
        log.drop_before(log.end)
        assert log.size == bytes_on_disk(tmp_path) == FILE_HEADER
        assert contents(log) == []
        log.drop_before(log.end)
        assert len(files(tmp_path)) == 1
        assert log.append([b"y"]) > first
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [[b"y"]]


def test_a_reader_sees_what_is_appended_meanwhile_and_is_told_of_drops(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, 1) as log:
        log.append([b"1"])
        reading = log.records()
        assert next(reading)[1] == [b"1"]
        log.append([b"2"])
        assert next(reading)[1] == [b"2"]
        log.append([b"3"])
        log.drop_before(log.end)
        log.append([b"4"])
        with pytest.raises(LookupError, match="dropped"):
            next(reading)


def test_a_record_larger_than_a_segment_has_one_to_itself(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, 100) as log:
        places = [log.append([part]) for part in (b"a", b"b" * 5000, b"c")]
        assert [place.segment for place in places] == [1, 2, 3]
        assert log.read(places[1]) == [b"b" * 5000]


def test_frames_may_be_many_empty_and_views_of_arrays(tmp_path: Path) -> None:
    image = np.arange(12, dtype="<u2").reshape(3, 4)
    with SegmentLog(tmp_path) as log:
        many = log.append([b"%d" % i for i in range(3000)])
        views = log.append([image.data, memoryview(b"abc")[1:], b""])
        assert log.read(many) == [b"%d" % i for i in range(3000)]
        assert log.read(views) == [image.tobytes(), b"bc", b""]
        with pytest.raises(ValueError, match="at least one frame"):
            log.append([])


def _open_files() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(link.readlink()))
    return found


def test_many_segments_are_read_in_any_order(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, 1) as log:
        places = [log.append([b"%d" % i]) for i in range(40)]
        for i in (*range(40), *range(39, -1, -7)):
            assert log.read(places[i]) == [b"%d" % i]
        assert sum(str(tmp_path) in name for name in _open_files()) < 15


# what is full


def test_a_bound_is_kept_and_dropping_makes_room(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, max_bytes=4000) as log:
        written = 0
        with pytest.raises(LogFull, match="may have 4000"):
            while True:
                log.append([b"x" * 100])
                written += 1
        assert 4000 - 300 < log.size <= 4000
        assert len(contents(log)) == written
        places = [place for place, _ in log.records()]
        log.drop_before(places[len(places) // 2])
        log.append([b"again"])
        assert contents(log)[-1] == [b"again"]
        with pytest.raises(LogFull):
            log.append([b"x" * 4000])
        log.drop_before(log.end)
        log.append([b"x" * 3900])
        assert log.size == bytes_on_disk(tmp_path) <= 4000


@pytest.fixture
def small_files() -> Iterator[int]:
    """The kernel itself refuses files beyond some size, writing what fits before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield 200_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_leaves_the_log_as_it_was(tmp_path: Path, small_files: int) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"x" * 150_000])
        size = log.size
        for _ in range(2):
            with pytest.raises(LogFull, match="make room"):
                log.append([b"y" * 100_000, b"z"])
            assert log.size == bytes_on_disk(tmp_path) == size
        log.append([b"fits"])
        assert contents(log) == [[b"x" * 150_000], [b"fits"]]
    with SegmentLog(tmp_path) as log:
        assert log.torn_bytes == 0
        assert len(contents(log)) == 2


def test_a_full_disk_when_a_segment_begins_leaves_the_log_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with SegmentLog(tmp_path, 1) as log:
        log.append([b"a"])
        for name in ("pwritev", "open"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, full)
                with pytest.raises(LogFull, match="No space left"):
                    log.append([b"b"])
            assert len(files(tmp_path)) == 1
        log.append([b"c"])
        assert contents(log) == [[b"a"], [b"c"]]


def test_a_disk_that_fails_otherwise_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with SegmentLog(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", broken)
            with pytest.raises(OSError, match="Input/output error"):
                log.append([b"b"])
        log.append([b"c"])
        assert contents(log) == [[b"c"]]


def test_a_write_that_came_short_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite

    with SegmentLog(tmp_path) as log:
        monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: whole(fd, bytes(parts[0][:7]), at))
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, bytes(data[:11]), at))
        place = log.append([b"a" * 50, b"b" * 50])
        assert log.read(place) == [b"a" * 50, b"b" * 50]


# what is damaged, or not ours


def test_damage_in_the_middle_names_the_place(tmp_path: Path) -> None:
    places = write(tmp_path, [[b"aaaa"], [b"bbbb"], [b"cccc"]])
    [path] = files(tmp_path)
    damaged = path.read_bytes().replace(b"bbbb", b"bxbb")
    path.write_bytes(damaged)
    with pytest.raises(LogCorrupt, match=rf"0000000001\.segment at {places[1].offset}: the frames do not match"):
        SegmentLog(tmp_path)


def test_damage_in_an_old_segment_is_found_when_it_is_read(tmp_path: Path) -> None:
    places = write(tmp_path, [[b"aaaa"], [b"bbbb"], [b"cccc"]], segment_bytes=1)
    path = files(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    with SegmentLog(tmp_path) as log:
        assert log.read(places[0]) == [b"aaaa"]
        assert log.read(places[2]) == [b"cccc"]
        with pytest.raises(LogCorrupt, match=r"0000000002\.segment at 16: .*past the end"):
            list(log.records())


def test_a_location_that_is_inside_a_record_is_not_one(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        place = log.append([b"x" * 100])
        with pytest.raises(LogCorrupt, match="no record begins here"):
            log.read(Location(place.segment, place.offset + 1))


def test_zeros_at_the_end_are_torn(tmp_path: Path) -> None:
    write(tmp_path, [[b"a"]])
    [path] = files(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(1000))
    with SegmentLog(tmp_path) as log:
        assert log.torn_bytes == 1000
        assert contents(log) == [[b"a"]]


def test_a_missing_segment_is_corruption(tmp_path: Path) -> None:
    write(tmp_path, [[b"a"], [b"b"], [b"c"]], segment_bytes=1)
    files(tmp_path)[1].unlink()
    with pytest.raises(LogCorrupt, match=r"0000000002\.segment is missing"):
        SegmentLog(tmp_path)


def test_a_file_that_is_something_else_is_refused_and_other_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "notes.segment").write_text("hello")
    (tmp_path / "README").write_text("hello")
    write(tmp_path, [[b"a"], [b"b"]], segment_bytes=1)
    first, second = files(tmp_path)[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(LogCorrupt, match="not segment 2"):
        SegmentLog(tmp_path)


def test_a_log_has_one_writer_and_any_number_of_readers(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"a"])
        with pytest.raises(LogBusy, match="another process"):
            SegmentLog(tmp_path)
        with SegmentLog(tmp_path, readonly=True) as reader:
            log.append([b"b"])
            assert contents(reader) == [[b"a"]]
            with pytest.raises(ValueError, match="only to be read"):
                reader.append([b"c"])
            with pytest.raises(ValueError, match="only to be read"):
                reader.drop_before(reader.end)
        assert contents(log) == [[b"a"], [b"b"]]
    with pytest.raises(ValueError, match="closed"):
        log.append([b"c"])
    log.close()
    SegmentLog(tmp_path).close()


def test_an_empty_directory_is_an_empty_log(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, readonly=True) as log:
        assert log.size == 0
        assert contents(log) == []
    assert list(tmp_path.iterdir()) == []


# without names


def test_an_unnamed_log_is_a_log_and_leaves_nothing(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, 100, unnamed=True) as log, SegmentLog(tmp_path, unnamed=True) as other:
        places = [log.append([b"x" * 60, str(n).encode()]) for n in range(30)]
        other.append([b"other"])
        assert places[-1].segment > 10
        assert [log.read(p) for p in places] == [[b"x" * 60, str(n).encode()] for n in range(30)]
        log.drop_before(places[20])
        assert contents(log)[0] == [b"x" * 60, b"20"]
        with pytest.raises(LookupError):
            log.read(places[0])
        log.drop_before(log.end)
        assert contents(log) == []
        log.append([b"again"])
        assert (contents(log), contents(other)) == ([[b"again"]], [[b"other"]])
        assert list(tmp_path.iterdir()) == []


def test_an_unnamed_log_lets_go_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with SegmentLog(tmp_path, 1, unnamed=True) as log:
        for _ in range(5):
            log.append([b"a"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(LogFull):
                log.append([b"b"])
        assert len(contents(log)) == 5
    assert set(Path("/proc/self/fd").iterdir()) == before
