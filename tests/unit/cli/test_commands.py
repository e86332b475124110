"""The command line itself: what it says, and with which exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from beamfold.cli.commands import INTERRUPTED, app, told
from beamfold.model.errors import ConfigError
from beamfold.model.report import ScanReport, StreamReport


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_help_and_version() -> None:
    from importlib.metadata import version

    assert invoke("--version").stdout == f"beamfold {version('beamfold')}\n"
    names = ("run", "controller", "ingester", "worker", "reducer", "status", "demo", "replay")
    help_text = invoke("--help").stdout
    assert all(name in help_text for name in names)


@pytest.mark.parametrize("command", ["run", "controller", "ingester", "worker", "reducer", "status"])
def test_a_run_file_that_is_not_there_is_one_text(command: str, tmp_path: Path) -> None:
    result = invoke(command, str(tmp_path / "no.toml"))
    assert result.exit_code == 1
    assert result.stderr.startswith("beamfold: there is no run file")
    assert "Traceback" not in result.output


def test_status_of_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr("beamfold.cli.web._opener.open", refuse)
    result = invoke("status", "--url", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no answer from http://127.0.0.1:9" in result.stderr
    assert "is not an HTTP address" in invoke("status", "--url", "nonsense").stderr


def test_a_wrong_call_is_a_usage_error() -> None:
    assert invoke("run").exit_code == 2
    assert invoke("demo", "--points", "0").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "nothing to replay: name a recording's folder"),
        (["-w", "w:W", "x.cbors"], "name both classes"),
        (["x.cbors"], "captured streams do not say which app they are for"),
        (["."], "is not the folder of one recording: it has no recording.json; its recordings are 000001-a, 000002-b"),
        ([".", "x.cbors"], "a recording is replayed by itself"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("000001-a", "000002-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recording.json").write_text("{}")
    result = invoke("replay", *arguments)
    assert result.exit_code == 1
    assert text in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(("error", "code"), [(ConfigError("text"), 1), (KeyboardInterrupt(), INTERRUPTED)])
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    @told
    def command() -> int:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == ("beamfold: text\n" if code == 1 else "")


def test_replay_hands_everything_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    report = ScanReport("id", 1, ended="finished", events=2, states={"reduced": 2})

    def replay(*arguments: Any) -> ScanReport:
        calls.append(arguments)
        return report

    monkeypatch.setattr("beamfold.cli.replay.replay", replay)
    arguments = (
        "replay",
        "-w",
        "w:W",
        "-r",
        "r:R",
        "-p",
        "p.json",
        "-o",
        "o.h5",
        "--nworkers",
        "3",
        "--processes",
        "2",
    )
    result = invoke(*arguments, "-f", "a.cbors", "b.cbors")
    assert (result.exit_code, result.stdout) == (0, "2 events: 2 reduced\n")
    assert calls[0][:7] == ("w:W", "r:R", ["a.cbors", "b.cbors"], Path("p.json"), Path("o.h5"), 3, 2)
    report.states = {"reduced": 1, "failed": 1}
    report.streams["s"] = StreamReport("numbered")
    result = invoke(*arguments, "a.cbors")
    assert result.exit_code == 1
    assert "1 failed" in result.stderr
    assert "nothing to replay" in invoke(*arguments).stderr
