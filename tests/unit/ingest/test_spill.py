"""Spill: frames on disk are those that were put there, room comes back, and a full disk is an answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.ingest import retention as retained
from beamfold.ingest.retention import Frame, Retention
from beamfold.ingest.spill import Spill, SpillLost
from beamfold.ledger.segmentlog import SegmentLog

BUDGET = 1 << 20


def frame(ordinal: int, size: int = 0) -> Frame:
    return [f"frame {ordinal}".encode(), *[b"x" * size] * (ordinal % 3)]


def frames(lo: int, hi: int, size: int = 0) -> list[Frame]:
    return [frame(o, size) for o in range(lo, hi)]


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_put_is_read_back_whole_in_part_and_one_by_one(tmp_path: Path) -> None:
    shelf = Spill(tmp_path, BUDGET).open()
    views: list[Frame] = [[memoryview(b"view"), b""], [memoryview(b"")]]
    first, second = shelf.put(frames(0, 5, 100)), shelf.put(views)
    assert first is not None and second is not None
    assert list(first) == frames(0, 5, 100)
    assert [len(first), first[3], first[1:3], list(second)] == [5, frame(3, 100), frames(1, 3, 100), views]
    shelf.discard(first)
    assert second[0] == views[0]
    shelf.discard(second)
    assert shelf.nbytes == 0
    shelf.close()


def test_nothing_is_left_of_it_even_while_it_is_used(tmp_path: Path) -> None:
    """So nothing can be left by a process that is killed."""
    spill = Spill(tmp_path / "new" / "folder", BUDGET)
    shelf = spill.open()
    stored = shelf.put(frames(0, 100, 1000))
    assert stored is not None and spill.nbytes > 60_000
    assert not list(spill.directory.iterdir())
    shelf.close()
    assert spill.nbytes == 0


def test_room_comes_back_as_the_oldest_are_discarded(tmp_path: Path) -> None:
    spill = Spill(tmp_path, BUDGET)
    shelf = spill.open()
    held: list[Sequence[Frame]] = []
    for n in range(200):
        stored = shelf.put(frames(n, n + 3, 20_000))
        if stored is None:
            shelf.discard(held.pop(0))
            shelf.discard(held.pop(0))
            continue
        held.append(stored)
        assert spill.nbytes <= BUDGET
    assert len(held) > 5
    for stored in held[:0:-1]:
        shelf.discard(stored)
    assert list(held[0])
    shelf.close()


def test_all_shelves_share_the_budget_and_say_when_it_is_used_up(tmp_path: Path) -> None:
    spill = Spill(tmp_path, BUDGET)
    a, b = spill.open(), spill.open()
    stored = a.put([[bytes(BUDGET - 1000)]])
    assert stored is not None
    assert b.put([[bytes(1000)]]) is None
    assert "[spill] max_bytes" in b.fault and not a.fault
    a.discard(stored)
    assert b.put([[bytes(1000)]]) is not None and not b.fault
    a.close()
    b.close()


def test_the_last_twentieth_of_a_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_frsize, f_blocks, f_bavail = 1000, 1000, 50

    shelf = Spill(tmp_path, BUDGET).open()
    monkeypatch.setattr(os, "statvfs", lambda path: Disk)
    assert shelf.put([[bytes(1)]]) is None
    assert "nearly full" in shelf.fault and "[spill] directory" in shelf.fault
    Disk.f_bavail = 51
    assert shelf.put([[bytes(1000)]]) is not None
    shelf.close()


@pytest.mark.parametrize("what", ["pwritev", "mkdir", "statvfs"])
def test_a_full_disk_is_no_room_and_not_an_error(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Spill(tmp_path / "spill", BUDGET).open()
    with monkeypatch.context() as patch:
        patch.setattr(os, what, full_disk)
        assert shelf.put(frames(0, 3)) is None
        assert "No space left" in shelf.fault
    stored = shelf.put(frames(0, 3))
    assert stored is not None and list(stored) == frames(0, 3)
    shelf.close()


def test_frames_that_cannot_be_read_back_are_said_to_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Spill(tmp_path, BUDGET).open()
    stored = shelf.put(frames(0, 3))
    assert stored is not None
    monkeypatch.setattr(SegmentLog, "read", full_disk)
    with pytest.raises(SpillLost, match="cannot be read back"):
        list(stored)
    shelf.close()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_not_released_is_held_wherever_it_is(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Chunks join and break up as they are spilled; every now and then the disk has no room."""
    limit, record = data.draw(st.sampled_from([0, 10, 60, 200])), data.draw(st.sampled_from([1, 40, 1000]))
    spill = Spill(tmp_path_factory.mktemp("spill"), BUDGET)
    shelf, kept_shelf = spill.open(), spill.open()
    retention, alive, kept, following, fault = Retention(limit, shelf, kept_shelf), set[int](), set[int](), 0, ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retained, "RECORD_BYTES", record)
        patch.setattr(Spill, "fault", lambda self, nbytes: fault)
        for _ in range(data.draw(st.integers(1, 25))):
            step = data.draw(st.sampled_from(["append", "append", "spill", "release", "keep", "pick", "disk"]))
            if step == "append":
                lo = following + data.draw(st.sampled_from([0, 0, 0, 2]))
                following = lo + data.draw(st.integers(1, 8))
                retention.append(lo, frames(lo, following, 5))
                alive |= set(range(lo, following))
            elif step == "spill":
                retention.spill()
                assert fault or not retention.full
            elif step == "release":
                lo = data.draw(st.integers(0, following))
                hi = data.draw(st.integers(lo, following))
                retention.release(lo, hi)
                alive -= set(range(lo, hi)) - kept
            elif step == "disk":
                fault = data.draw(st.sampled_from(["", "full"]))
            elif alive and step == "keep":
                ordinal = data.draw(st.sampled_from(sorted(alive)))
                retention.keep(ordinal)
                kept.add(ordinal)
            elif alive:
                wanted = sorted(data.draw(st.lists(st.sampled_from(sorted(alive)), min_size=1, max_size=8)))
                assert retention.pick(np.array(wanted)) == [frame(o, 5) for o in wanted]
            assert alive <= {o for lo, hi in retention.held(0, following) for o in range(lo, hi)}
    if alive:
        assert retention.pick(np.array(sorted(alive))) == [frame(o, 5) for o in sorted(alive)]
    retention.release(0, following)
    assert (retention.nbytes, shelf.nbytes) == (0, 0)
    assert retention.kept_bytes + retention.shelved_bytes == sum(len(p) for o in kept for p in frame(o, 5))
    shelf.close()
    kept_shelf.close()


def test_a_stream_of_small_pieces_is_not_spilled_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece costs memory, too."""
    monkeypatch.setattr(retained, "MAX_RECORDS", 3)
    retention = Retention(0, Spill(tmp_path, BUDGET).open())
    for lo in range(0, 10, 2):
        retention.append(lo, frames(lo, lo + 1))
        retention.spill()
    assert retention.full and "3 pieces" in retention.fault
    retention.release(0, 3)
    retention.spill()
    assert not retention.full and retention.pick(np.arange(4, 9, 2)) == [frame(4), frame(6), frame(8)]


def test_buffers_of_what_is_spilled_are_let_go(tmp_path: Path) -> None:
    memory = bytearray(1000)
    retention = Retention(100, Spill(tmp_path, BUDGET).open())
    retention.append(0, [[memoryview(memory)]])
    with pytest.raises(BufferError):
        memory.append(0)
    retention.spill()
    memory.append(0)
    assert retention.pick(np.array([0])) == [[bytes(1000)]]
