"""The controller's loop: errors are seen, people get their turn, and a store that is away is not talked to for ever."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from beamfold.dispatch import service as module
from beamfold.dispatch.actions import Send
from beamfold.dispatch.files import WriteFile
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.service import ControllerService
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import ConfigError, LedgerUnavailable
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols.messages import Armed, Beat, Failed, FenceReached, Hello, Introduce, StreamInfo
from scripted import always_readable

WRITTEN = WrittenMap.of(b'{"streams": ["a"], "events": 100}')


class Hub:
    url = "inproc://control"

    def __init__(self, receive: Callable[[], list[Any]]) -> None:
        self.receive = receive
        self.sent: list[Any] = []
        self.fileno = always_readable

    def send(self, peer: bytes, message: Any) -> None:
        self.sent.append((peer, message))


def controller(receive: Callable[[], list[Any]], ledger: Any = None) -> ControllerService:
    machine = ControllerMachine("v", 1)
    return ControllerService(Hub(receive), ledger or MemoryLedger(), machine, token="t")  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (what is waited for happens in a thread)
        await asyncio.sleep(0.001)


def test_an_error_in_the_machine_ends_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        service = controller(lambda: [(b"p", Beat())])

        def fail(*_args: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(service.machine, "receive_all", fail)
        await service.run()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


def test_a_flood_of_messages_leaves_people_their_turn() -> None:
    async def run() -> int:
        service = controller(lambda: [(b"p", Hello("worker", "w", "u", "v", 1, "h")), (b"p", Beat())])
        task = asyncio.create_task(service.run())
        turns = 0
        for _ in range(100):
            await asyncio.sleep(0)
            turns += 1
        service.shutdown()
        await task
        return turns

    assert asyncio.run(run()) == 100


def test_what_came_while_a_request_was_sent_on_is_seen_though_nothing_signals_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ZeroMQ signals once; a send takes note of it in passing, and of that nobody hears."""
    monkeypatch.setattr(module, "TICK", 3600.0)
    came: list[Any] = []
    reading, writing = os.pipe()

    async def run() -> None:
        seen = asyncio.Event()

        def receive() -> list[Any]:
            if came:
                seen.set()
            return [came.pop()] if came else []

        service = controller(receive)
        service.hub.fileno = lambda: reading  # type: ignore[method-assign]
        task = asyncio.create_task(service.run())
        for _ in range(10):
            await asyncio.sleep(0)  # it rests
        came.append((b"p", Beat()))
        service._perform([Send(b"p", Introduce())])
        async with asyncio.timeout(20):
            await seen.wait()
        service.shutdown()
        await task

    asyncio.run(run())
    os.close(reading)
    os.close(writing)


class Away(MemoryLedger):
    """A store that comes back only when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()

    def renew_owner(self, token: str, ttl_s: float) -> bool:
        if not self.back.is_set():
            raise LedgerUnavailable("away")
        return super().renew_owner(token, ttl_s)


def test_a_store_that_is_away_is_not_told_for_ever_that_we_live() -> None:
    async def run() -> int:
        ledger = Away()
        service = controller(list, ledger)
        for _ in range(1000):
            service._announce()
        waiting = service._writer.behind
        ledger.back.set()
        service.shutdown()
        await service.run()
        return waiting

    assert asyncio.run(run()) <= module.MAX_BEHIND + 2


def test_a_controller_whose_role_another_one_has_taken_ends() -> None:
    """It was away for longer than its lease; whether the role is still its own is looked at, not only renewed."""
    ledger = MemoryLedger()

    async def run() -> None:
        service = controller(list, ledger)
        ledger.acquire_owner("t", 0.001)
        await asyncio.sleep(0.01)
        assert ledger.acquire_owner("another", 10)
        await service.run()

    with pytest.raises(ConfigError, match="another controller has taken this one's place"):
        asyncio.run(run())


def test_a_role_that_a_wiped_store_has_forgotten_is_taken_again() -> None:
    ledger = MemoryLedger()

    async def run() -> None:
        service = controller(list, ledger)
        task = asyncio.create_task(service.run())
        while ledger.acquire_owner("another", 10) is not None:
            ledger.release_owner("another")
            await asyncio.sleep(0)
        service.shutdown()
        await task

    asyncio.run(run())


def test_a_store_that_was_wiped_is_told_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans that have ended with their reports, the running one with its map and parameters, and new ones."""
    monkeypatch.setattr(module, "TICK", 0.001)
    ledger = MemoryLedger()

    async def run() -> None:
        service = controller(list, ledger)
        say = partial(_say, service)
        task = asyncio.create_task(service.run())
        services = {"i": "ingester", "r": "reducer", "w": "worker"}
        for name, role in services.items():
            streams = [StreamInfo("a", "T", True)] if role == "ingester" else []
            say(name, Hello(role, name, name, "v", 1, "here", url=name, streams=streams, tags=["generic"]))
        for number in (1, 2):
            await service.set_parameters({"p": b"%d" % number})
            submitted = asyncio.create_task(service.submit(WRITTEN.compile(), WRITTEN))
            await asyncio.sleep(0)
            for name in services:
                say(name, Armed(number))
            scan_id = await submitted
            if number == 1:
                say("w", Failed(1, "enough"))
        await service.set_parameters({"p": b"3"})
        say("i", FenceReached(2, 3, 5))
        await service.set_parameters({"p": b"4"})  # and no ingester has heard of it yet
        await until(lambda: ledger.parameters()[0] == 4)

        def known() -> Any:
            ended = ("number", "state", "started", "finished", "streams", "report")
            scans = [
                {k: v for k, v in record.items() if k in ended or record["state"] == "running"}
                for _, record in ledger.scans()
            ]
            in_force = [e for e in ledger.parameter_history(scan_id) if e.from_event is not None or e.version == 4]
            return scans, ledger.parameters(), in_force

        before = known()
        assert [record["state"] for record in before[0]] == ["running", "failed"]
        assert [(e.version, e.from_event) for e in before[2]] == [(2, 0), (3, 6), (4, None)]
        ledger.wipe()
        service._announce()
        await until(lambda: known() == before)
        assert ledger.acquire_owner("another", 1) is None
        assert ("controller", "controller") in ledger.services()
        assert await service.written(scan_id) == WRITTEN
        service.shutdown()
        await task

    asyncio.run(asyncio.wait_for(run(), 60))


def _say(service: ControllerService, name: str, message: Any) -> None:
    service._perform(service.machine.receive(name.encode(), message, 1.0))


def test_a_store_that_is_away_is_told_of() -> None:
    async def run() -> None:
        ledger = MemoryLedger()
        service = controller(list, ledger)
        task = asyncio.create_task(service.run())
        ledger.available = False
        service._announce()
        await until(lambda: bool(service.store_trouble))
        assert "the in-memory ledger was switched off" in service.store_trouble
        with pytest.raises(LedgerUnavailable):
            await service.set_parameters({"p": b"1"})
        ledger.available = True
        await until(lambda: not service.store_trouble and len(list(service.notes)) == 2)
        service.shutdown()
        await task
        assert [entry["levelname"] for entry in service.notes] == ["WARNING", "INFO"]
        assert [entry["msg"] for entry in ledger.logs(10)] == [entry["msg"] for entry in service.notes]

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("whole", [True, False])
def test_who_is_told_that_a_scan_has_ended_finds_its_recording_or_is_told_why_not(tmp_path: Path, whole: bool) -> None:
    folder = tmp_path / "recording"
    if not whole:
        folder.write_text("a file where a folder should be")
    let = threading.Event()

    def slow() -> bytes:
        assert let.wait(10)
        return b"{}"

    async def run() -> dict[str, Any] | None:
        service = controller(list)
        service.machine.reports["s"] = {"ended": "finished", "recording": str(folder), "troubles": []}
        service._perform([WriteFile("s", str(folder / "report.json"), slow)])
        asked = asyncio.create_task(service.report("s"))
        await asyncio.sleep(0)
        assert not asked.done()
        let.set()
        report = await asked
        await asyncio.to_thread(service._files.close)
        return report

    report = asyncio.run(run())
    assert report is not None
    assert (folder / "report.json").is_file() == whole
    assert report["troubles"] == [] if whole else "the recording is not whole" in str(report["troubles"])
