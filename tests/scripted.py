"""A service without its sockets: the control channel and the data plane follow a script, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beamfold.model.events import Buffer
from beamfold.model.triggermap import TriggerMap
from beamfold.protocols.envelopes import Header, encode_header
from beamfold.protocols.messages import Arm, Beat, Hello, IngesterInfo, Message, Shutdown, WorkerInfo

Step = Message | Callable[[], Any]


@dataclass
class Until:
    """Stay at this step until the condition holds."""

    true: Callable[[], Any]


class Control:
    """The service's end of the control channel: a message, or something to do, in every turn; then Shutdown."""

    def __init__(self, *steps: Step | Until) -> None:
        self.socket = always_readable()
        self.hello = Hello("service", "name", "w0", "version", 1, "host")
        self.scans: list[int] = []
        self.welcomed = True
        self.steps = list(steps)
        self.sent: list[Any] = []
        self.announced: dict[str, Any] = {}

    def receive(self) -> list[Any]:
        if not self.steps:
            return [Shutdown()]
        step = self.steps[0]
        if isinstance(step, Until):
            if not step.true():
                return []
            del self.steps[0]
            return []
        del self.steps[0]
        if isinstance(step, Message):
            return [step]
        step()
        return []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def announce(self, **changes: Any) -> None:
        self.announced = changes

    def beat(self, make: Callable[[], Beat], *, at_once: bool = False) -> bool:
        found = make()
        if at_once:
            self.sent.append(found)
        return True

    def close(self) -> None:
        os.close(self.socket)

    def said(self, kind: type) -> list[Any]:
        return [m for m in self.sent if isinstance(m, kind)]


class Hub:
    """The service's end of the data plane: envelopes that a test puts into `arrived` are received in the next turn."""

    def __init__(self) -> None:
        self.socket = always_readable()
        self.arrived: list[list[Buffer]] = []
        self.sent: list[tuple[bytes, list[Buffer]]] = []
        self.forgotten: list[bytes] = []

    def receive(self, max_bytes: int) -> list[list[Buffer]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> None:
        self.sent.append((peer, list(parts)))

    def forget(self, peer: bytes) -> None:
        self.forgotten.append(peer)

    def close(self) -> None:
        os.close(self.socket)

    def put(self, peer: str, header: Header, *parts: Buffer) -> Callable[[], None]:
        """A step: this envelope arrives."""
        return lambda: self.arrived.append([peer.encode(), encode_header(header), *parts])


def always_readable() -> int:
    """A descriptor on which something waits: no turn has to wait for one."""
    reading, writing = os.pipe()
    os.write(writing, b"\0")
    os.close(writing)
    return reading


def arm(trigger_map: TriggerMap, scan: int = 1, **changes: Any) -> Arm:
    """An Arm for two workers, w0 and w1."""
    facts: dict[str, Any] = {
        "scan_id": f"scan-{scan}",
        "map": trigger_map.to_wire(),
        "workers": [WorkerInfo("w0", ["generic"], "w0"), WorkerInfo("w1", ["generic"], "w1")],
        "ingesters": [IngesterInfo("ingester", "inproc://ingester", list(trigger_map.streams))],
        "reducer_url": "inproc://reducer",
        "version": 1,
        "parameters": {},
    }
    return Arm(scan, **{**facts, **changes})
