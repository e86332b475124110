"""Where `beamfold status` finds the controller: in the store, or in the run's note where the store does not know."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from beamfold.app.runfile import RunFile, load_runfile
from beamfold.cli import status
from beamfold.cli.supervisor import Supervisor
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import BeamfoldError, LedgerUnavailable

NOTED, KNOWN = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.fixture
def settings(tmp_path: Path) -> RunFile:
    path = tmp_path / "run.toml"
    streams = '[streams.camera]\nprotocol = "stins"\nurl = "tcp://127.0.0.1:9"\n'
    more = f'[store]\nurl = "redis://127.0.0.1:1"\n[output]\ndirectory = "{tmp_path}"\n'
    path.write_text(f'[app]\nworker = "w:W"\nreducer = "r:R"\n{streams}{more}')
    return load_runfile(path)


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> MemoryLedger:
    ledger = MemoryLedger()
    monkeypatch.setattr(status, "open_ledger", lambda _: ledger)
    return ledger


@pytest.fixture
def note(settings: RunFile) -> Callable[[int], None]:
    def write(pid: int) -> None:
        Supervisor.note_path(settings).write_text(json.dumps({"pid": pid, "controller": NOTED}))

    return write


def test_the_store_knows_best(settings: RunFile, ledger: MemoryLedger, note: Callable[[int], None]) -> None:
    note(os.getpid())
    ledger.announce("controller", "controller", {"control": "", "http": KNOWN}, 60)
    assert status._address(settings) == KNOWN


@pytest.mark.parametrize("available", [False, True])
def test_a_store_that_is_away_or_was_wiped_does_not_hide_a_run_on_this_host(
    settings: RunFile, ledger: MemoryLedger, note: Callable[[int], None], available: bool
) -> None:
    ledger.available = available
    error = BeamfoldError if available else LedgerUnavailable
    with pytest.raises(error, match="no controller of" if available else "switched off"):
        status._address(settings)
    note(1 << 30)  # no process has this number
    with pytest.raises(error):
        status._address(settings)
    note(os.getpid())
    assert status._address(settings) == NOTED
