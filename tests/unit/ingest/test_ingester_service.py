"""The ingester service: who may read a detector's socket, and what strangers can do."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.ingest import service
from beamfold.ingest.service import Connection, IngesterService, Input
from beamfold.ingest.spill import Spill
from beamfold.ingest.writeahead import WriteAheads
from beamfold.ledger.segmentlog import SegmentLog
from beamfold.model.triggermap import compile_map
from beamfold.protocols import framer
from beamfold.protocols.dumps import DumpWriter, read_dump
from beamfold.protocols.envelopes import FrameBatch, Grant, Header, decode_frames, decode_header
from beamfold.protocols.messages import (
    Armed,
    Assign,
    Beat,
    Block,
    End,
    Failed,
    Fill,
    Filled,
    FramesMissing,
    Halt,
    Halted,
    Introduce,
    Inventory,
    Release,
    StreamSeen,
    Trouble,
    WorkerInfo,
)
from beamfold.testing.simulators import stins_series
from beamfold.transport.arena import Arena
from corpus import any_of, cases, insane_messages
from scripted import Control, Hub, Until, always_readable, arm

MAP = compile_map({"streams": ["camera"], "events": 100}, True)


class Source:
    """A detector whose messages come in lists, one list per turn in which it is read."""

    def __init__(self) -> None:
        self.socket = always_readable()
        self.waiting: list[list[Any]] = []
        self.asked: list[int] = []

    def drain(self, max_messages: int, max_bytes: int) -> list[Any]:
        self.asked.append(max_bytes)
        return self.waiting.pop(0) if self.waiting else []


class Rig:
    def __init__(
        self,
        retention_bytes: int = 1000,
        spill: Path = Path("/dev/null/spill"),
        max_bytes: int = 1 << 30,
        sockets: int = 1,
        arena: Arena | None = None,
        aheads: WriteAheads | None = None,
    ) -> None:
        self.source, self.hub, self.control = Source(), Hub(), Control()
        self.spill = Spill(spill, max_bytes)
        self.sources = [self.source, *(Source() for _ in range(sockets - 1))]
        connections = (Connection(s, framer("stins")) for s in self.sources)  # type: ignore[arg-type]
        camera = Input("camera", tuple(connections), 0, retention_bytes, aheads is not None)
        self.service = IngesterService({"camera": camera}, self.control, self.hub, self.spill, arena, aheads)  # type: ignore[arg-type]

    def series(self, frames: int) -> None:
        """A detector's series of 1 KiB images, all in one turn, without its end."""
        images = (np.zeros(256, dtype=np.float32) for _ in range(frames))
        self.source.waiting.append(list(stins_series(images))[:-1])

    @property
    def reading(self) -> bool:
        return self.polled(self.source)

    def polled(self, source: Source) -> bool:
        return self.service._poller.sockets.__contains__((source.socket, service.POLLIN))

    def deal(self, frames: int, ahead: int, count: int) -> None:
        """A series' messages in turn to two sockets: `count` to the one that is `ahead`, the other is silent."""
        images = (np.zeros(256, dtype=np.float32) for _ in range(frames))
        self.dealt = list(stins_series(images))
        self.sources[ahead].waiting.append(self.dealt[ahead::2][:count])

    def run(self, *steps: Any) -> None:
        self.control.steps += steps
        self.service.run()


def test_no_more_is_read_than_there_is_room_for() -> None:
    rig = Rig(retention_bytes=10_000)
    rig.run(
        arm(MAP, 1, overload="block"), lambda: rig.series(5), lambda: None, lambda: rig.source.asked.clear(), lambda: 0
    )
    (room,) = set(rig.source.asked)
    assert 4000 < room < 10_000 - 5 * 1024


@pytest.mark.parametrize("resumed", [False, True])
def test_the_end_of_a_scan_does_not_make_room_for_the_next_one(resumed: bool) -> None:
    rig = Rig()
    seen: list[bool] = []
    see = [lambda: None, lambda: seen.append(rig.reading)]
    rig.run(
        arm(MAP, 1, overload="block"),
        lambda: rig.series(10),
        *see,  # scan 1 has no room
        arm(MAP, 2, overload="block"),
        Halt(1),
        *see,  # it needs none any more
        lambda: rig.series(10),
        *see,  # scan 2 has no room
        End(1),
        *see,  # and that is still so
        *([End(2), *see] if resumed else []),
    )
    assert seen == [False, True, False, False, True][: len(seen)]
    assert len(seen) == 4 + resumed


def test_a_socket_that_is_ahead_is_not_read_beyond_its_share_until_the_other_has_caught_up() -> None:
    rig = Rig(retention_bytes=20_000, sockets=2)
    seen: list[list[bool]] = []

    def see() -> None:
        seen.append([rig.polled(source) for source in rig.sources])

    rig.run(
        arm(MAP, 1),
        lambda: rig.deal(20, ahead=0, count=9),  # the start, and frames 1, 3, … of a KiB each: 5000 bytes may wait
        see,
        see,
        lambda: rig.sources[1].waiting.append(rig.dealt[1:9:2]),
        see,
    )
    assert seen == [[False, True], [False, True], [True, True]]
    assert max(asked for asked in rig.source.asked) <= 5000


def test_a_halted_scan_gets_what_waits_for_another_socket() -> None:
    rig = Rig(retention_bytes=20_000, sockets=2)
    rig.run(arm(MAP, 1), lambda: rig.deal(20, ahead=0, count=3), lambda: None, Halt(1))
    [halted] = [m for m in rig.control.sent if isinstance(m, Halted)]
    assert halted.streams == {"camera": (4, False)}
    assert [m.runs for m in rig.control.sent if isinstance(m, FramesMissing)] == [[(1, 2), (3, 4)]]


def test_strangers_do_not_end_it() -> None:
    rig = Rig()
    rig.run(arm(MAP, 1), lambda: rig.hub.arrived.extend([b"x", *case.parts] for case in [*cases(), *insane_messages()]))
    assert [m.error for m in rig.control.said(Armed)] == [""]
    assert rig.hub.sent == []


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["w0", "stranger"]), any_of(Header)), max_size=5))
def test_no_envelope_of_a_worker_or_a_stranger_ends_it(said: list[tuple[str, Any]]) -> None:
    rig = Rig(arena=Arena(1 << 20))
    rig.run(
        arm(MAP, 1),
        *[rig.hub.put(peer, header) for peer, header in said],
        rig.hub.put("w0", Grant(1, 0, 1 << 20)),
        Assign(1, [Block(0, 100, 0)], 100),
        lambda: rig.series(3),
        Until(lambda: frames_sent(rig) == 4),
    )


def frames_sent(rig: Rig) -> int:
    headers = [decode_header(parts[0]) for _, parts in rig.hub.sent]
    return sum(header.n for header in headers if isinstance(header, FrameBatch))


def test_frames_say_when_they_were_read_and_sent() -> None:
    rig = Rig(retention_bytes=1 << 20)
    before = time.time()
    rig.run(
        arm(MAP, 1),
        rig.hub.put("w0", Grant(1, 0, 1 << 20)),
        Assign(1, [Block(0, 100, 0)], 100),
        lambda: rig.series(10),
        Until(lambda: len(rig.hub.sent) == 2),  # the start message is a batch of its own
    )
    for _, parts in rig.hub.sent:
        batch = decode_header(parts[0])
        assert isinstance(batch, FrameBatch)
        ((n, received),) = batch.received
        assert n == batch.n
        assert before - 1 < received <= batch.sent, "by the clock of the system"


def test_its_last_word_about_a_scan_is_how_much_it_read() -> None:
    rig = Rig(retention_bytes=1 << 20)
    rig.run(arm(MAP, 1), lambda: rig.series(10), lambda: None, End(1))
    (beat,) = rig.control.said(Beat)
    assert beat.stats == {"scan": 1, "events": 10, "last_event": 10, "frames": 10, "scans": 1}


def test_a_place_that_cannot_be_dumped_to_is_said_before_the_scan(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    rig = Rig()
    rig.run(arm(MAP, 1, record=f"{tmp_path}/file/recording"), arm(MAP, 2, record=str(tmp_path / "recording")), End(2))
    first, second = rig.control.said(Armed)
    assert f"cannot dump to {tmp_path}/file" in first.error and "name another place" in first.error
    assert second.error == ""
    assert not list((tmp_path / "recording").iterdir()), "a dump that stays empty is taken away"


def test_a_full_disk_ends_the_dump_with_a_word_and_not_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = DumpWriter.write

    def fill_up(self: DumpWriter, event_number: int, *rest: Any) -> None:
        if event_number == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(event_number)
        write(self, event_number, *rest)

    monkeypatch.setattr(DumpWriter, "write", fill_up)
    rig = Rig(1 << 20)
    rig.run(
        arm(MAP, 1, record=str(tmp_path)),
        lambda: rig.series(5),
        lambda: None,
    )
    (trouble,) = rig.control.said(Trouble)
    assert "the dumps end here" in trouble.text and "No space left" in trouble.text
    assert written == [0, 1, 2]
    assert [e.event_number for e in read_dump(tmp_path / "camera.cbors")] == [0, 1, 2]
    (scan,) = rig.service._scans.values()
    assert [seen.frames for seen in scan.machine.progress()] == [5]


def credit(rig: Rig) -> Callable[[], None]:
    return rig.hub.put("w0", Grant(1, 0, 1 << 30))


def test_more_frames_than_memory_has_room_for_go_to_disk_and_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PROGRESS_INTERVAL", 0.0)
    rig = Rig(retention_bytes=5000, spill=tmp_path)
    used: list[int] = []
    rig.run(
        arm(MAP, 1, overload="spill"),
        lambda: rig.series(60),
        lambda: None,
        lambda: used.append(rig.spill.nbytes),
        Assign(1, [Block(0, 100, 0)], 100),
        credit(rig),
        lambda: None,
        Release(1, [(1, 61)]),
        lambda: used.append(rig.spill.nbytes),
        End(1),
    )
    assert used[0] > 50 * 1024 and used[1] == 0 and rig.reading
    batches = [(decode_header(parts[0]), parts[1:]) for _, parts in rig.hub.sent]
    frames = [f for h, parts in batches if isinstance(h, FrameBatch) for f in decode_frames(h, parts)]
    assert [json.loads(bytes(f[0]))["frame"] for f in frames[1:]] == list(range(60))
    (seen, *_) = [s for s in rig.control.said(StreamSeen) if s.frames == 60]
    assert seen.retained <= 5000 and seen.shelved == seen.spilled > 50 * 1024
    assert not rig.control.said(Trouble)


def test_a_full_disk_holds_the_detector_back_and_room_lets_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(retention_bytes=5000, spill=tmp_path)
    monkeypatch.setattr(service, "PROGRESS_INTERVAL", 0.0)
    fault = ["the disk is full"]
    monkeypatch.setattr(Spill, "fault", lambda self, nbytes: fault[0])
    seen: list[bool] = []
    rig.run(
        arm(MAP, 1, overload="spill"),
        lambda: rig.series(20),
        lambda: None,
        lambda: seen.append(rig.reading),
        lambda: fault.insert(0, ""),
        lambda: None,
        lambda: seen.append(rig.reading),
    )
    assert seen == [False, True]
    (trouble,) = rig.control.said(Trouble)
    assert "the disk is full" in trouble.text
    paused = [s.paused for s in rig.control.said(StreamSeen)]
    assert paused == sorted(paused) and paused[-1] > 0


def test_spilled_frames_that_cannot_be_read_end_the_scan_and_not_the_ingester(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    rig = Rig(retention_bytes=5000, spill=tmp_path)
    rig.run(
        arm(MAP, 1, overload="spill"),
        lambda: rig.series(60),
        lambda: None,
        lambda: monkeypatch.setattr(SegmentLog, "read", broken),
        Assign(1, [Block(0, 100, 0)], 100),
        credit(rig),
        lambda: None,
        End(1),
        arm(MAP, 2),
    )
    (failed,) = rig.control.said(Failed)
    assert "cannot be read back" in failed.reason and "Input/output error" in failed.reason
    assert [a.scan for a in rig.control.said(Armed)] == [1, 2]


def test_what_comes_without_a_scan_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    caplog.set_level("INFO")
    rig.run(lambda: rig.series(3), lambda: None, lambda: rig.series(3), lambda: None, arm(MAP, 1))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "what comes from stream 'camera' is not used: there is no scan for it",
        "8 messages of stream 'camera' came before this scan: not used",
    ]


def test_a_worker_that_joins_gets_what_was_broadcast_from_the_beginning() -> None:
    rig = Rig(retention_bytes=1 << 20)
    extra = WorkerInfo("extra", ["generic"], joined=True)
    rig.run(
        arm(MAP, 1),
        lambda: rig.series(5),
        lambda: None,
        rig.hub.put("w2", Grant(1, 0, 1 << 20)),  # nobody knows it yet
        Fill(1, 2, "w2", extra),
        rig.hub.put("w2", Grant(1, 0, 1 << 20)),
        Until(lambda: any(peer == b"w2" for peer, _ in rig.hub.sent)),
        Introduce(),
    )
    headers = [decode_header(parts[0]) for peer, parts in rig.hub.sent if peer == b"w2"]
    assert [(h.events, h.k) for h in headers if isinstance(h, FrameBatch)] == [((0, 1), -3)]
    (known,) = rig.control.said(Inventory)
    assert known.fillers == ["w0", "w1", "w2"] and known.arm.workers[2] == extra
    assert rig.control.said(Filled) == [Filled(1, 2, "w2")]
