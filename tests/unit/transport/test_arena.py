"""The arena: slots are as they were for as long as anybody looks at them, and free as soon as nobody does."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from beamfold.model.errors import CodecError
from beamfold.transport import arena as module
from beamfold.transport.arena import Arena, ArenaReader, NotShared, process_of

SIZE = 256 * 256
READER = 7


def frame(fill: int, size: int = SIZE) -> memoryview:
    return memoryview(bytearray([fill]) * size)


@pytest.fixture
def arena() -> Arena:
    return Arena(4 * SIZE)


def test_a_reader_sees_what_was_written_and_cannot_change_it(arena: Arena) -> None:
    part = arena.keep(frame(1))
    lease = arena.lease(part, READER)
    assert lease is not None
    seen = ArenaReader(arena.address).part(*lease)
    assert seen == part == frame(1)
    assert seen.readonly
    assert part.readonly
    with pytest.raises(ValueError, match="read-only"):
        np.frombuffer(seen, np.uint8)[0] = 2


def test_an_array_that_the_app_keeps_never_changes(arena: Arena) -> None:
    reader = ArenaReader(arena.address)
    part = arena.keep(frame(1))
    view = reader.part(*arena.lease(part, READER))  # type: ignore[misc]
    kept = np.frombuffer(view[10:], np.uint16)[7:].reshape(-1, 4)[1:, :2]
    before = kept.copy()
    del part, view
    for fill in range(2, 50):
        arena.give_back(READER, reader.let_go())
        arena.keep(frame(fill))
    assert (kept == before).all()
    assert arena.used == SIZE
    del kept
    arena.give_back(READER, reader.let_go())
    assert arena.used == 0


def test_a_slot_is_free_when_retention_and_every_reader_let_go(arena: Arena) -> None:
    part = arena.keep(frame(1))
    first, second = arena.lease(part, 1), arena.lease(part, 2)
    assert first and second
    assert first.number != second.number
    assert first.offset == second.offset
    arena.give_back(1, [first.number])
    arena.give_back(1, [second.number])  # not its own
    del part
    assert arena.used == SIZE
    arena.give_back(2, [second.number, 12345])
    assert arena.used == 0


def test_a_reader_that_ended_holds_nothing(arena: Arena) -> None:
    leases = [arena.lease(arena.keep(frame(n)), READER) for n in range(3)]
    assert all(leases)
    assert arena.used == 3 * SIZE
    arena.forget(READER)
    assert arena.used == 0


def test_without_room_parts_are_kept_elsewhere(arena: Arena) -> None:
    held = [arena.keep(frame(n)) for n in range(4)]
    part = arena.keep(frame(9))
    assert part == frame(9)
    assert part.readonly
    assert arena.refused == 1
    assert arena.lease(part, READER) is None
    assert [bytes(h[:1]) for h in held] == [bytes([n]) for n in range(4)]


def test_only_whole_slots_of_this_arena_are_leased(arena: Arena) -> None:
    part = arena.keep(frame(1))
    assert arena.lease(part[1:], READER) is None
    assert arena.lease(b"bytes", READER) is None
    assert Arena(4 * SIZE).lease(part, READER) is None
    other = Arena(4 * SIZE)
    theirs = other.keep(frame(2))
    assert arena.lease(theirs, READER) is None


def test_views_may_go_in_any_thread(arena: Arena) -> None:
    parts = [arena.keep(frame(n)) for n in range(4)]
    thread = threading.Thread(target=parts.clear)
    thread.start()
    thread.join()
    assert arena.used == 0


def test_a_slot_that_cannot_be_is_refused(arena: Arena) -> None:
    reader = ArenaReader(arena.address)
    for offset, nbytes in [(-1, 10), (0, 0), (0, 4 * SIZE + 1), (4 * SIZE, 1), (1 << 62, 1 << 62)]:
        with pytest.raises(CodecError, match="a slot of"):
            reader.part(1, offset, nbytes)
    assert not reader.gone


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: "", "it has none"),
        (lambda a: "a/b/c/d/e", "it has none"),
        (lambda a: "x" + a, "another host"),
        (lambda a: "/".join([a.split("/")[0], "1", *a.split("/")[2:]]), "another container"),
        (lambda a: "/".join([*a.split("/")[:3], "99999", a.split("/")[4]]), "cannot be opened"),
        (lambda a: a[:-2] + ("00" if a[-2:] != "00" else "11"), "it is gone"),
    ],
)
def test_what_cannot_be_mapped_says_why(arena: Arena, change, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotShared, match=why):
        ArenaReader(change(arena.address))


def test_it_cannot_shrink_under_its_readers(arena: Arena) -> None:
    descriptor = int(arena.address.split("/")[3])
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 4096)


WRITER = """
import sys
from beamfold.transport.arena import Arena
arena = Arena(1 << 20)
part = arena.keep(memoryview(bytes([5]) * 65536))
print(arena.address, *arena.lease(part, 1), flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing_but_what_readers_look_at() -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        address, *lease = writer.stdout.readline().decode().split()
        view = ArenaReader(address).part(*map(int, lease))
        writer.kill()
    with pytest.raises(NotShared, match="cannot be opened"):
        ArenaReader(address)
    assert view == bytes([5]) * 65536


def test_memory_goes_back_between_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", SIZE)
    arena = Arena(4 * SIZE)
    descriptor = int(arena.address.split("/")[3])
    parts = [arena.keep(frame(n)) for n in range(4)]
    full = os.fstat(descriptor).st_blocks * 512
    arena.trim()
    assert os.fstat(descriptor).st_blocks * 512 == full
    first = parts[0]
    parts.clear()
    arena.trim()
    assert os.fstat(descriptor).st_blocks * 512 <= SIZE + 2 * mmap.PAGESIZE
    assert first == frame(0)
    assert [arena.keep(frame(n)) for n in range(3)] == [frame(n) for n in range(3)]


def test_ended_processes_show() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    watched = process_of(child)
    assert watched is not None
    os.waitpid(child, 0)
    assert process_of(child) is None
    os.close(watched)


def test_nothing_of_it_is_in_a_cycle(arena: Arena) -> None:
    """Slots are freed by reference counts alone, at once: the collector of cycles runs rarely."""
    gc.disable()
    try:
        reader = ArenaReader(arena.address)
        lease = arena.lease(arena.keep(frame(1)), READER)
        assert lease
        reader.part(*lease)
        assert reader.let_go() == [lease.number]
        arena.give_back(READER, [lease.number])
        assert arena.used == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("pid", [-1, 0, (1 << 31) - 1, 1 << 31, 1 << 63])
def test_what_is_no_process_is_none(pid: int) -> None:
    assert process_of(pid) is None
