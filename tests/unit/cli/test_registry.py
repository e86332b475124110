"""Finding the controller, and being the only one."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest

from beamfold.app.runfile import RunFile, load_runfile
from beamfold.cli import registry
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import ConfigError, LedgerUnavailable

INFO = {"control": "tcp://127.0.0.1:5", "http": "http://127.0.0.1:6"}


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(registry, "time", fake)
    return fake


@pytest.fixture
def ledger(time: FakeTime) -> MemoryLedger:
    return MemoryLedger(clock=time.monotonic)


def settings(tmp_path: Path, more: str = "") -> RunFile:
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
        [app]
        worker = "w:W"
        reducer = "r:R"
        [streams.camera]
        protocol = "stins"
        url = "tcp://127.0.0.1:9"
        {more}
        """
    )
    return load_runfile(path)


def test_the_role_is_claimed_once(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert registry.claim(ledger, "a", "run", said.append) == 1
    assert registry.claim(ledger, "a", "run", said.append) == 1  # the supervisor's token, given to its controller
    ledger.announce("controller", "controller", INFO, 10)
    monkeypatch.setattr(registry, "reachable", lambda url: url == INFO["control"])
    with pytest.raises(ConfigError, match=r"runs already at http://127.0.0.1:6"):
        registry.claim(ledger, "b", "run", said.append)
    assert said == []


def test_a_killed_controller_is_waited_for(
    ledger: MemoryLedger, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    registry.claim(ledger, "a", "run", said.append)
    ledger.announce("controller", "controller", INFO, 1000)
    monkeypatch.setattr(registry, "reachable", lambda _: False)
    began = time.now
    assert registry.claim(ledger, "b", "run", said.append) == 2
    assert 9 < time.now - began < 12
    assert len(said) == 1
    assert registry.controller_address(ledger) is None  # where the killed one was leads nowhere


def test_who_is_alone_waits_for_nobody(ledger: MemoryLedger, time: FakeTime) -> None:
    assert registry.claim(ledger, "killed", "run", pytest.fail) == 1
    ledger.announce("controller", "controller", INFO, 1000)
    began = time.now
    assert registry.claim(ledger, "b", "run", pytest.fail, alone=True) == 2
    assert time.now == began
    assert registry.controller_address(ledger) is None


def test_a_fixed_address_needs_no_store(tmp_path: Path) -> None:
    fixed = settings(tmp_path, '[controller]\ncontrol = "tcp://127.0.0.1:5555"')
    assert registry.find_controller(fixed, pytest.fail) == "tcp://127.0.0.1:5555"


def test_without_a_store_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="REDIS_URL"):
        registry.find_controller(settings(tmp_path), pytest.fail)


def test_a_service_waits_for_its_controller(
    tmp_path: Path, ledger: MemoryLedger, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()

    def address(_: object) -> dict[str, str] | None:
        look = next(looks)
        if look < 50:
            raise LedgerUnavailable("the store is away")
        return None if look < 100 else {"control": f"tcp://127.0.0.1:{look}", "http": ""}

    monkeypatch.setattr(registry, "open_ledger", lambda _: ledger)
    monkeypatch.setattr(registry, "controller_address", address)
    monkeypatch.setattr(registry, "reachable", lambda url: url.endswith(":300"))
    said: list[str] = []
    assert registry.find_controller(settings(tmp_path), said.append) == "tcp://127.0.0.1:300"
    assert "the store is away" in said[0]
    assert "nothing answers at tcp://127.0.0.1:" in said[-1]
    assert len(said) < 6


def test_who_cannot_be_asked_counts_as_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: object, timeout: float) -> None:
        assert address == ("127.0.0.1", 9)
        raise ConnectionRefusedError

    monkeypatch.setattr(registry.socket, "create_connection", refuse)
    assert registry.reachable("inproc://somewhere")
    assert not registry.reachable("tcp://127.0.0.1:9")


def test_a_local_socket_is_reachable_for_as_long_as_somebody_listens_there(tmp_path: Path) -> None:
    for url in (f"ipc://{tmp_path}/socket", f"ipc://@{tmp_path}/abstract"):
        assert not registry.reachable(url)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(url.removeprefix("ipc://").replace("@", "\0"))
            listening.listen()
            assert registry.reachable(url)
        assert not registry.reachable(url)
