"""The supervisor's part for the control store, without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beamfold.app.runfile import load_runfile
from beamfold.cli import supervisor as module
from beamfold.cli.supervisor import Supervisor
from beamfold.model.errors import BeamfoldError, ConfigError


class Store:
    """One that ends as soon as it was started, or cannot be started at all."""

    alive = False
    pid = 7

    def __init__(self, error: str) -> None:
        self.starts = 0
        self._error = error

    def start(self) -> Any:
        self.starts += 1
        if self._error:
            raise ConfigError(self._error)
        return self


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Supervisor]:
    for name in ("WATCH", "FIRST_PAUSE"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.delenv("REDIS_URL", raising=False)
    path = tmp_path / "run.toml"
    streams = '[streams.camera]\nprotocol = "stins"\nurl = "tcp://127.0.0.1:9"\n'
    path.write_text(f'[app]\nworker = "w:W"\nreducer = "r:R"\n{streams}')
    return lambda said: Supervisor(load_runfile(path), show=said.append)


@pytest.mark.parametrize("error", ["", "the control store ended at once: disk full"])
def test_a_store_that_does_not_stay_up_ends_the_run_when_no_scan_is_under_way(
    supervisor: Callable[[list[str]], Supervisor], monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    said: list[str] = []
    store = Store(error)
    scan = [False] * 3  # whether it has ended, whenever that is asked

    async def run() -> str:
        one = supervisor(said)

        async def idle() -> bool:
            return scan.pop() if scan else True

        monkeypatch.setattr(one, "_idle", idle)
        keeping = asyncio.create_task(one._keep_store(store))  # type: ignore[arg-type]
        with pytest.raises(BeamfoldError) as caught:
            await one.wait()
        await keeping
        return str(caught.value)

    why = asyncio.run(asyncio.wait_for(run(), 60))
    assert store.starts == module.STORE_TRIES + 3
    assert "the control store does not stay up" in why
    assert (error or "ended from outside") in why
    assert said.count("beamfold: the control store ended") == store.starts
