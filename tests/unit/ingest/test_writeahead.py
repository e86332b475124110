"""The log of durable streams: an ingester that takes the place of another one knows all that it had received."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.ingest import writeahead
from beamfold.ingest.machine import Mark
from beamfold.ingest.retention import Frame
from beamfold.ingest.writeahead import At, Received, WriteAhead, WriteAheads
from beamfold.ledger.segmentlog import LogBusy, LogFull, SegmentLog
from beamfold.model.triggermap import compile_map
from beamfold.protocols.envelopes import FrameBatch, Grant, decode_header, unpack_events
from beamfold.protocols.messages import (
    Assign,
    Block,
    End,
    FramesMissing,
    Halt,
    Release,
    Series,
    StreamEnded,
    StreamSeen,
    Trouble,
)
from beamfold.sources.base import LARGE
from beamfold.testing.simulators import stins_series
from scripted import Until, arm
from unit.ingest.test_ingester_service import Rig

SMALL = 400
MAP = compile_map({"streams": ["camera"], "events": 60})


def message(number: int, size: int = 100) -> list[bytes]:
    return [f"head {number}".encode(), bytes(size)]


def opened(folder: Path, **changes: Any) -> WriteAhead:
    return WriteAhead(folder, **{"max_bytes": 1 << 20, "segment_bytes": SMALL, **changes})


def nothing(stream: str, lo: int, hi: int) -> list[tuple[int, Frame]]:
    return []


def add(log: WriteAhead, numbers: range, stream: str = "a") -> None:
    """Each of these is a drain and a frame; numbers are ordinals."""
    for number in numbers:
        log.append(stream, [message(number)], number)
        log.fed(stream, Mark(number + 1, number, 100 * number, 0))


def stamps(log: WriteAhead, stream: str = "a") -> list[float]:
    """Of what is on disk, without touching it."""
    with SegmentLog(log._directory / "messages", readonly=True) as messages:
        headers = [writeahead._read(parts[0]) for _, parts in messages.records()]
    return [h.stamp for h in headers if isinstance(h, writeahead._Messages) and h.stream == stream]


def test_what_was_appended_is_read_as_it_came(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append("a", [message(0), [b"one part"]], 1.5)
    log.at("b", Mark(0, 0, 0, None, True))
    log.append("b", [message(7)], 2.5)
    log.close()
    again = opened(tmp_path)
    assert list(again.received()) == [
        ("a", 1.5, [message(0), [b"one part"]]),
        At("b", Mark(0, 0, 0, None, True)),
        ("b", 2.5, [message(7)]),
    ]
    assert again.begins == {} and list(again.kept()) == []


def test_a_record_that_the_end_of_its_writer_left_unfinished_is_left_out(tmp_path: Path) -> None:
    log = opened(tmp_path, segment_bytes=1 << 20)
    add(log, range(5))
    log.close()
    (file,) = (tmp_path / "messages").glob("*.segment")
    os.truncate(file, file.stat().st_size - 1)
    again = opened(tmp_path)
    assert stamps(again) == [0, 1, 2, 3]
    add(again, range(4, 6))
    assert stamps(again) == [0, 1, 2, 3, 4, 5]


def test_large_parts_are_read_back_to_where_the_sources_keep_them(tmp_path: Path) -> None:
    kept: list[int] = []

    def keep(part: memoryview) -> memoryview:
        kept.append(len(part))
        return part.toreadonly()

    log = opened(tmp_path, keep=keep)
    log.append("a", [message(0, LARGE), message(1, LARGE - 1)], 0)
    (received,) = log.received()
    assert isinstance(received, Received) and received.messages == [message(0, LARGE), message(1, LARGE - 1)]
    assert kept == [LARGE]


def test_segments_go_when_their_events_are_terminal_and_what_was_broadcast_stays(tmp_path: Path) -> None:
    log = opened(tmp_path)
    add(log, range(20))
    whole = log.nbytes
    asked: list[tuple[int, int]] = []

    def broadcast(stream: str, lo: int, hi: int) -> list[tuple[int, Frame]]:
        asked.append((lo, hi))
        return [(o, message(o)) for o in (0, 8) if lo <= o < hi]

    log.trim(lambda stream: 0, broadcast)
    assert log.nbytes == whole and not asked, "nothing is done"
    log.trim(lambda stream: 7, broadcast)
    log.trim(lambda stream: 13, broadcast)
    assert whole // 4 < log.nbytes < whole
    log.close()
    again = opened(tmp_path)
    left = stamps(again)
    assert 4 <= left[0] <= 12 and left == [*range(int(left[0]), 20)]
    assert again.begins == {"a": Mark(int(left[0]), int(left[0]) - 1, 100 * (int(left[0]) - 1), 0)}
    assert list(again.kept()) == [("a", o, message(o)) for o in (0, 8) if o < left[0]]
    assert asked[0][0] == 0 and asked[1][0] == asked[0][1], "each is kept once"


def test_what_was_not_looked_at_yet_stays(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in range(20):
        log.append("a", [message(number)], number)
    log.trim(lambda stream: 100, nothing)
    assert stamps(log) == [*range(20)]
    log.fed("a", Mark(20, 19, 0, 0))
    log.trim(lambda stream: 20, nothing)
    assert stamps(log) == [*range(20)], "a part of the next frame may be there, or the end of the series"
    log.trim(lambda stream: 21, nothing)
    assert len(stamps(log)) < 4


def test_another_stream_holds_on_to_what_is_its_own(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in range(20):
        add(log, range(number, number + 1), "ab"[number % 2])
    log.trim({"a": 100, "b": 6}.__getitem__, nothing)
    assert stamps(log, "b")[0] <= 7
    log.trim({"a": 100, "b": 12}.__getitem__, nothing)
    assert stamps(log, "a")[0] > 6
    assert stamps(log, "b")[0] <= 13


def test_what_is_read_back_goes_like_what_is_appended(tmp_path: Path) -> None:
    log = opened(tmp_path)
    add(log, range(20))
    log.close()
    again = opened(tmp_path)
    for received in again.received():
        assert isinstance(received, Received)
        number = int(received.stamp)
        again.fed("a", Mark(number + 1, number, 0, 0))
    add(again, range(20, 25))
    again.trim(lambda stream: 24, nothing)
    assert stamps(again)[0] > 18


def test_the_log_of_another_scan_is_removed_unless_somebody_has_it(tmp_path: Path) -> None:
    aheads = WriteAheads(tmp_path, 1 << 20)
    draining = aheads.begin("draining")
    aheads.begin("abandoned").close()
    aheads.begin("next").close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["draining", "next"]
    draining.remove()
    assert [p.name for p in tmp_path.iterdir()] == ["next"]
    assert aheads.find("draining") is None


def test_the_process_before_may_hold_the_log_for_a_moment(tmp_path: Path) -> None:
    aheads = WriteAheads(tmp_path, 1 << 20)
    before = aheads.begin("scan")
    before.append("a", [message(0)], 0)
    threading.Timer(0.1, before.close).start()
    found = aheads.find("scan")
    assert found is not None and stamps(found) == [0]


def test_who_does_not_let_go_of_the_log_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeahead, "BUSY_S", 0.05)
    aheads = WriteAheads(tmp_path, 1 << 20)
    before = aheads.begin("scan")
    with pytest.raises(LogBusy):
        aheads.find("scan")
    before.close()


def test_the_last_of_a_disks_room_is_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    monkeypatch.setattr(writeahead, "disk_fault", lambda directory, nbytes: f"the disk of {directory} is nearly full")
    with pytest.raises(LogFull, match="nearly full"):
        add(log, range(1))


# -- at the service -------------------------------------------------------------------------------------------------


def durable(folder: Path, segment_bytes: int = 1 << 20, **changes: Any) -> Rig:
    aheads = WriteAheads(folder, 16 << 20, segment_bytes=segment_bytes)
    return Rig(1 << 20, aheads=aheads, **changes)


def whole(n: int) -> list[list[bytes]]:
    """The messages of a whole series."""
    return list(stins_series(np.zeros(256, dtype=np.float32) for _ in range(n)))


def one_by_one(rig: Rig, messages: list[list[bytes]]) -> list[Callable[[], Any]]:
    return [lambda one=m: rig.source.waiting.append([one]) for m in messages]


def resume(*done: tuple[int, int], base: int | None = 0, frames: int = 0) -> dict[str, Series]:
    return {"camera": Series(done[0][1] if done else 0, base, None, frames, list(done))}


def events_sent(rig: Rig) -> list[int]:
    headers = [decode_header(parts[0]) for _, parts in rig.hub.sent]
    return [e for h in headers if isinstance(h, FrameBatch) for e in unpack_events(h.events, h.n).tolist()]


def work(rig: Rig, scan: int = 1) -> list[Any]:
    """All virtual workers are w0's, who takes everything."""
    return [Assign(scan, [Block(0, 60, 0)], 60), rig.hub.put("w0", Grant(scan, 0, 1 << 30))]


def test_another_ingester_goes_on_with_what_the_one_before_had(tmp_path: Path) -> None:
    messages = whole(60)
    first = durable(tmp_path)
    first.run(arm(MAP, 1), lambda: first.source.waiting.append(messages[:21]), lambda: None, lambda: None)
    assert (tmp_path / "scan-1").is_dir()
    second = durable(tmp_path)
    second.run(
        arm(MAP, 1, resume=resume((0, 11), (13, 15), frames=10)),
        *work(second),
        lambda: second.source.waiting.append(messages[26:]),  # five were in the socket
        Until(lambda: len(events_sent(second)) >= 44),
    )
    assert events_sent(second) == [0, *range(11, 13), *range(15, 21), *range(26, 61)]
    assert [m.runs for m in second.control.said(FramesMissing)] == [[(21, 26)]]
    (ended,) = second.control.said(StreamEnded)
    assert (ended.frames, ended.last_event) == (55, 60)
    assert not second.control.said(Trouble)


def test_the_end_that_the_one_before_had_received_is_known(tmp_path: Path) -> None:
    first = durable(tmp_path)
    first.run(arm(MAP, 1), lambda: first.source.waiting.append(whole(60)), lambda: None, lambda: None)
    second = durable(tmp_path)
    second.run(arm(MAP, 1, resume=resume()), *work(second), Until(lambda: len(events_sent(second)) >= 61))
    (ended,) = second.control.said(StreamEnded)
    assert (ended.frames, ended.last_event) == (60, 60)
    assert not second.control.said(FramesMissing)


def test_it_is_gone_on_with_again_and_again_from_a_log_that_was_shortened(tmp_path: Path) -> None:
    messages, at = whole(60), 0
    done = 0
    for upto in (16, 31, 46, 61):
        rig = durable(tmp_path, segment_bytes=3000)
        armed = arm(MAP, 1, resume=resume((0, done)) if at else {})
        steps = one_by_one(rig, messages[at:upto])
        rig.run(armed, *work(rig), *steps, lambda: None, lambda: None, Release(1, [(0, upto - 5)]), lambda: None)
        at, done = upto, upto - 5
        assert not rig.control.said(FramesMissing) and not rig.control.said(Trouble)
        (scan,) = rig.service._scans.values()
        (seen,) = scan.machine.progress()
        assert (seen.frames, seen.last_event) == (upto - 1, upto - 1)
        assert set(range(max(0, upto - 20), upto)) - set(events_sent(rig)) <= set(range(upto - 15 - 5))
        assert 0 in events_sent(rig), "what was broadcast goes to workers again, who may lack it"
        assert sum(f.stat().st_size for f in (tmp_path / "scan-1").rglob("*.segment")) < 16_000


def test_a_start_that_nobody_knows_of_may_have_been_in_the_socket(tmp_path: Path) -> None:
    messages = whole(60)
    strays = list(stins_series(np.zeros(256, dtype=np.float32) for _ in range(9)))[4:9]
    first = durable(tmp_path)
    first.run(arm(MAP, 1), lambda: first.source.waiting.append(strays), lambda: None, lambda: None)
    second = durable(tmp_path)
    armed = arm(MAP, 1, resume=resume(base=None))
    second.run(armed, lambda: second.source.waiting.append(messages[3:11]), lambda: None, lambda: None)
    assert [m.runs for m in second.control.said(FramesMissing)] == [[(0, 1)], [(1, 3)]]
    third = durable(tmp_path)
    third.run(arm(MAP, 1, resume=resume(base=0)), lambda: third.source.waiting.append(messages[11:21]), lambda: None)
    assert [m.runs for m in third.control.said(FramesMissing)] == [[(0, 1)], [(1, 3)]]
    (scan,) = third.service._scans.values()
    assert [seen.frames for seen in scan.machine.progress()] == [18]


def test_a_full_disk_is_told_and_the_scan_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def fill_up(*_: object) -> None:
        written.append(1)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    append = SegmentLog.append
    monkeypatch.setattr(SegmentLog, "append", lambda self, parts: (fill_up(), append(self, parts))[1])
    messages = whole(60)
    rig = durable(tmp_path)
    rig.run(arm(MAP, 1), *one_by_one(rig, messages[:21]), lambda: None, lambda: None)
    (trouble,) = rig.control.said(Trouble)
    assert "not durable any more" in trouble.text and "No space left" in trouble.text
    assert trouble.where == "ingester name"
    assert len(written) == 3 and not (tmp_path / "scan-1").exists()
    (scan,) = rig.service._scans.values()
    assert [seen.frames for seen in scan.machine.progress()] == [20]
    # The next one goes on as if its streams were not durable; what it gets is.
    monkeypatch.undo()
    second = durable(tmp_path)
    second.run(
        arm(MAP, 1, resume=resume((0, 11), frames=20)),
        lambda: second.source.waiting.append(messages[26:31]),
        lambda: None,
        lambda: None,
    )
    assert [m.runs for m in second.control.said(FramesMissing)] == [[(11, 26)]]
    third = durable(tmp_path)
    third.run(arm(MAP, 1, resume=resume((0, 27), frames=25)), *work(third), Until(lambda: len(events_sent(third)) >= 4))
    assert set(events_sent(third)) >= set(range(27, 31))
    (scan,) = third.service._scans.values()
    assert [seen.frames for seen in scan.machine.progress()] == [25]


def test_a_damaged_log_is_told_and_the_scan_goes_on_without(tmp_path: Path) -> None:
    messages = whole(60)
    first = durable(tmp_path)
    first.run(arm(MAP, 1), *one_by_one(first, messages[:21]), lambda: None, lambda: None)
    (file,) = (tmp_path / "scan-1" / "messages").glob("*.segment")
    with file.open("r+b") as log:
        log.seek(file.stat().st_size // 2)
        log.write(b"\xff" * 100)
    second = durable(tmp_path)
    second.run(
        arm(MAP, 1, resume=resume((0, 11), frames=20)),
        lambda: second.source.waiting.append(messages[21:31]),
        lambda: None,
        lambda: None,
    )
    (trouble,) = second.control.said(Trouble)
    assert "not durable any more" in trouble.text and "the log can be read up to there" in trouble.text
    assert [m.runs for m in second.control.said(FramesMissing)] == [[(11, 21)]]
    (scan,) = second.service._scans.values()
    assert [s.frames for s in scan.machine.progress()] == [30]


def test_what_comes_after_a_halt_is_of_no_use_to_anybody(tmp_path: Path) -> None:
    messages = whole(60)
    first = durable(tmp_path)
    first.run(
        arm(MAP, 1),
        lambda: first.source.waiting.append(messages[:11]),
        lambda: None,
        Halt(1),
        lambda: first.source.waiting.append(messages[11:21]),
        lambda: None,
        lambda: None,
    )
    log = WriteAheads(tmp_path, 1 << 20).find("scan-1")
    assert log is not None
    assert [len(r.messages) for r in log.received() if isinstance(r, Received)] == [11]
    assert first.control.said(StreamSeen)


def test_the_end_of_a_scan_is_the_end_of_its_log(tmp_path: Path) -> None:
    rig = durable(tmp_path)
    rig.run(arm(MAP, 1), lambda: rig.series(5), lambda: None, End(1), lambda: None)
    assert not list(tmp_path.iterdir())
