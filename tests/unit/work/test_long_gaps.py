"""One frame number that is far off makes a gap of any length; it costs a worker no more than its own parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamfold.model.events import Buffer
from beamfold.model.triggermap import compile_map
from beamfold.protocols.messages import Block, StreamInfo
from beamfold.work.machine import WorkMachine


@pytest.mark.timeout(20)
@pytest.mark.parametrize("events", [None, 1 << 53])
def test_a_gap_of_any_length(events: int | None) -> None:
    machine = WorkMachine(compile_map({"streams": ["a"], "events": events}, True), 0, 1, [StreamInfo("a", "T", True)])
    machine.assign([Block(0, 100, 0)], 200, 0)
    machine.frames(0, 0, *_start())
    assert [p.event for p in machine.take(10)] == [0]
    machine.gap(0, [(3, 1 << 52)], False)
    machine.gap(0, [(3, 1 << 52)], False)
    assert [p.event for p in machine.take(1000)] == list(range(3, 101))
    machine.assign([Block(200, 300, 0)], 300, 0)
    assert [p.event for p in machine.take(1000)] == list(range(201, 301))


def test_a_gap_before_anything_is_assigned() -> None:
    machine = WorkMachine(compile_map({"streams": ["a"], "events": 10}, True), 0, 1, [StreamInfo("a", "T", True)])
    machine.frames(0, 0, *_start())
    machine.take(10)
    machine.gap(0, [(3, 6)], False)
    assert machine.take(10) == []
    machine.assign([Block(0, 10, 0)], 10, 0)
    assert [p.event for p in machine.take(10)] == [3, 4, 5]


def _start() -> tuple[Any, int, list[list[Buffer]]]:
    return np.array([0]), -1, [[b"start"]]
