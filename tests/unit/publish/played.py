"""A controller without sockets: the real service and machine, and services that answer as they should, at once."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
from fastapi import FastAPI

from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.service import ControllerService
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.states import EventState
from beamfold.protocols import messages as m
from beamfold.publish.controller_http import build_controller_app

WORKERS = ("worker-0", "worker-1")


class Played:
    """`service` with an ingester of the streams a and b, two workers and a reducer. Its clock stands at `now`.

    Services arm at once; what they do with a scan, a test says: `process` and `finish`. `armed` False: nobody
    answers, so a scan that was submitted stays in arming.
    """

    def __init__(self, parameters: list[dict[str, Any]] | None = None) -> None:
        self.now = 1000.0
        self.armed = True
        self.machine = ControllerMachine("1.0", 1)
        self.ledger = MemoryLedger()
        self.service = ControllerService(self, self.ledger, self.machine, token="t", clock=lambda: self.now)  # type: ignore[arg-type]
        self.app = build_controller_app(self.service)
        streams = [m.StreamInfo("a", "STINS", True), m.StreamInfo("b", "STINS", True)]
        self.hello("ingester", "ingester", url="tcp://127.0.0.1:1", streams=streams)
        for name in WORKERS:
            self.hello("worker", name, tags=["generic"], parameters=parameters or [])
        self.hello("reducer", "reducer", url="tcp://127.0.0.1:2", http="http://127.0.0.1:3")

    def close(self) -> None:
        self.service._writer.close()

    def hello(self, role: str, name: str, **facts: Any) -> None:
        self.say(name, m.Hello(role, name, uuid.uuid5(uuid.NAMESPACE_DNS, name).hex, "1.0", 1, "host", **facts))

    def say(self, name: str, message: Any) -> None:
        """This service says something."""
        self.service._perform(self.machine.receive(name.encode(), message, self.now))

    # -- what the controller's hub is ---------------------------------------------------------------------------

    url = "inproc://control"

    def send(self, peer: bytes, message: Any) -> None:
        if self.armed and isinstance(message, m.Arm):
            self.say(peer.decode(), m.Armed(message.scan))
        elif isinstance(message, m.Halt):
            self.say(peer.decode(), m.Halted(message.scan, {"a": (0, False), "b": (0, False)}))

    # -- scans -------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        assert self.machine.scan is not None
        return self.machine.scan.number

    def process(self, lo: int, hi: int, *, active: float = 0.0, total: float = 0.0) -> None:
        """Events lo..hi-1 are done, half of them by each worker, which says how long that took it so far."""
        for index, name in enumerate(WORKERS):
            share = len(range(lo + index, hi, 2))
            self.say("reducer", m.PartsDone(self.number, [], {index: share}, 0))
            stats = {"scan": self.number, "events": hi // 2, "last_event": hi - 1, "active": active, "total": total}
            self.say(name, m.Beat(stats))
        self.say("reducer", m.PartsDone(self.number, [(lo, hi, EventState.REDUCED)], {}, hi))

    def finish(self) -> None:
        """All parts are done: the scan comes to its end."""
        number = self.number
        self.say("reducer", m.PartsDone(number, [], {}, 0, finished=True))
        for name in (*WORKERS, "reducer"):
            self.say(name, m.Finished(number))

    # -- people ------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A request below /api/v1."""
        return ask(self.app, method, f"/api/v1{path}", **more)

    def get(self, path: str) -> Any:
        """What a GET answers; it has to go well."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, body: Any, path: str = "/sequence") -> str:
        """Start a scan; its id."""
        answer = self.ask("POST", path, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json())


def ask(app: FastAPI, method: str, path: str, **more: Any) -> httpx.Response:
    """One request to an app."""

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem document with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    assert isinstance(body["detail"], str)
    return str(body["detail"])
