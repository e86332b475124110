"""How processes end, in words, and the services that a run file asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamfold.app.runfile import RunFile, load_runfile
from beamfold.cli import services
from beamfold.cli.process import ending
from beamfold.cli.services import Start
from beamfold.ledger.memory import MemoryLedger
from beamfold.model.errors import ConfigError


def test_an_end_in_words() -> None:
    assert [ending(n) for n in (0, 3, -9, -99)] == [
        "exit code 0",
        "exit code 3",
        "killed by SIGKILL",
        "killed by signal 99",
    ]


@pytest.fixture
def settings(tmp_path: Path) -> RunFile:
    path = tmp_path / "run.toml"
    path.write_text(
        """
        [app]
        worker = "w:W"
        reducer = "r:R"
        [workers]
        count = 2
        tags = [["generic"], ["generic", "gpu"]]
        [parameters]
        gain = 2
        [streams.a]
        protocol = "stins"
        url = "tcp://127.0.0.1:9"
        [streams.b]
        protocol = "contrast"
        url = "tcp://127.0.0.1:10"
        """
    )
    return load_runfile(path)


def test_names_and_tags(settings: RunFile) -> None:
    assert services._tags(settings, "worker-0") == ["generic"]
    assert services._tags(settings, "worker-1") == ["generic", "gpu"]
    assert services._tags(settings, "worker-2") == services._tags(settings, "another") == ["generic"]
    assert services._only_name(settings, "worker") == "worker-0"
    assert services._only_name(settings, "reducer") == "reducer"
    with pytest.raises(ConfigError, match=r"--name \(a, b\)"):
        services._only_name(settings, "ingester")


def test_a_controller_goes_on_from_the_ledger(settings: RunFile) -> None:
    ledger = MemoryLedger()
    fresh = services._machine(settings, ledger, 1)[0]
    assert (fresh.version, fresh.values) == (1, {"gain": b"2"})
    ledger.put_parameters(4, {"gain": b"3", "other": b"x"}, None, None)
    ledger.put_scan("id", {"number": 8})
    later = services._machine(settings, ledger, 2)[0]
    assert (later.version, later.values) == (5, {"gain": b"2", "other": b"x"})  # what the run file says holds
    ledger.put_parameters(5, later.values, None, None)
    assert services._machine(settings, ledger, 3)[0].version == 5
    assert later._scans.number == 8  # the next scan is the ninth


def test_a_controller_in_the_place_of_one_that_ended_keeps_what_people_have_set(settings: RunFile) -> None:
    ledger = MemoryLedger()
    ledger.put_parameters(4, {"gain": b"3", "other": b"x"}, None, None)
    again = services._machine(settings, ledger, 2, Start.AGAIN)[0]
    assert (again.version, again.values) == (4, {"gain": b"3", "other": b"x"})
    ledger.put_scan("id", {"number": 8, "state": "running"})
    elsewhere = services._machine(settings, ledger, 3)[0]  # whoever started it
    assert (elsewhere.version, elsewhere.values) == (4, {"gain": b"3", "other": b"x"})
    ledger.put_scan("id", {"state": "finished"})
    assert services._machine(settings, ledger, 4)[0].values["gain"] == b"2"
