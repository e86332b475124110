"""The ingester service: who may read a detector's socket, and what strangers can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamfold.ingest import service
from beamfold.ingest.service import IngesterService, Input
from beamfold.model.triggermap import compile_map
from beamfold.protocols import framer
from beamfold.protocols.envelopes import Grant, decode_header
from beamfold.protocols.messages import Armed, Beat, End, Halt
from beamfold.testing.simulators import stins_series
from scripted import Control, Hub, always_readable, arm

MAP = compile_map({"streams": ["camera"], "events": 100}, True)


class Source:
    """A detector whose messages come in lists, one list per turn in which it is read."""

    def __init__(self) -> None:
        self.socket = always_readable()
        self.waiting: list[list[Any]] = []

    def drain(self, max_messages: int, max_bytes: int) -> list[Any]:
        return self.waiting.pop(0) if self.waiting else []


class Rig:
    def __init__(self, retention_bytes: int = 1000) -> None:
        self.source, self.hub, self.control = Source(), Hub(), Control()
        camera = Input("camera", self.source, framer("stins"), 0, retention_bytes)  # type: ignore[arg-type]
        self.service = IngesterService({"camera": camera}, self.control, self.hub)  # type: ignore[arg-type]

    def series(self, frames: int) -> None:
        """A detector's series of 1 KiB images, all in one turn, without its end."""
        images = (np.zeros(256, dtype=np.float32) for _ in range(frames))
        self.source.waiting.append(list(stins_series(images))[:-1])

    @property
    def reading(self) -> bool:
        return self.service._poller.sockets.__contains__((self.source.socket, service.POLLIN))

    def run(self, *steps: Any) -> None:
        self.control.steps += steps
        self.service.run()


@pytest.mark.parametrize("resumed", [False, True])
def test_the_end_of_a_scan_does_not_make_room_for_the_next_one(resumed: bool) -> None:
    rig = Rig()
    seen: list[bool] = []
    see = [lambda: None, lambda: seen.append(rig.reading)]
    rig.run(
        arm(MAP, 1),
        lambda: rig.series(10),
        *see,  # scan 1 has no room
        arm(MAP, 2),
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


def test_strangers_do_not_end_it() -> None:
    rig = Rig()
    headers: list[Any] = [
        Grant(1, 0, 1 << 63),
        Grant(1, 0, -(1 << 60)),
        Grant(1, -(1 << 60), 5),
        Grant(1 << 63, 1 << 63, 1 << 63),
    ]
    raw: list[list[bytes]] = [[b"x"], [b"w0", b""], [b"w0", b"\xc1"], [b"w0", b"a", b"b"]]
    rig.run(
        arm(MAP, 1),
        *[rig.hub.put(peer, h) for h in headers for peer in ("stranger", "w0")],
        *[lambda p=p: rig.hub.arrived.append(p) for p in raw],
    )
    assert [m.error for m in rig.control.said(Armed)] == [""]
    assert [decode_header(parts[0]) for _, parts in rig.hub.sent] == []


def test_its_last_word_about_a_scan_is_how_much_it_read() -> None:
    rig = Rig(retention_bytes=1 << 20)
    rig.run(arm(MAP, 1), lambda: rig.series(10), lambda: None, End(1))
    (beat,) = rig.control.said(Beat)
    assert beat.stats == {"scan": 1, "events": 10, "last_event": 10, "frames": 10, "scans": 1}
