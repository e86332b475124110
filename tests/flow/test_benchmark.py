"""`make bench` measures what it says, believes nothing that is not exact, and leaves nothing behind.

Nothing here looks at a rate: a shared machine makes any.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, descendants, is_gone, wait_for
from sidebyside import chain
from sidebyside.base import BenchFailure, Scan
from sidebyside.chain import Chain
from sidebyside.histogram import SETTLED
from sidebyside.peer import PYTHON
from sidebyside.processes import Script
from sidebyside.scenarios.latency import SETUP as LATENCY

BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"
PEER_THERE = PYTHON.exists()
SYSTEMS = ["ceiling", "beamfold", *(["dranspose"] if PEER_THERE else [])]


@contextmanager
def bench(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running benchmark with its temporary files in `folder`; it and all below it are gone at the end."""
    command = [sys.executable, str(BENCH), "--only", ",".join(SYSTEMS), "--quick", *arguments]
    env = {**os.environ, "TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            below = descendants(process.pid)
            process.kill()
            for pid in below:
                if not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A short path, since sockets lie in it, that must be empty at the end."""
    with tempfile.TemporaryDirectory(prefix="bf-") as folder:
        yield Path(folder)
        assert not list(Path(folder).iterdir())


def test_a_quick_run_is_exact_and_writes_all_figures(tmp_path: Path, scratch: Path) -> None:
    some = ("joined-2", "replay")
    file = tmp_path / "new" / "bench.json"
    with bench("--scenarios", ",".join(some), "--json", str(file), folder=scratch) as process:
        out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    assert err == ""
    assert "no event was missed or doubled" in out
    assert "TROUBLE" not in out
    found = json.loads(file.read_text())
    assert set(found) == {"when", "machine", "versions", "plan", "scenarios"}
    assert set(found["machine"]) == {"cores", "cpu", "kernel", "python", "load_average"}
    assert tuple(found["scenarios"]) == some
    for scenario in found["scenarios"].values():
        assert all(value > 0 for sample in scenario["samples"] for value in sample["values"].values())
        assert all(s["low"] <= s["median"] <= s["high"] for s in scenario["figures"]["ratios"].values())

    joined = found["scenarios"]["joined-2"]
    assert [s["system"] for s in joined["samples"]] == SYSTEMS + 2 * SYSTEMS[1:]
    variants = ("plain", "batches of 10", "batches of 100")
    systems = ["ceiling", *(f"{name}, {v}" for name in SYSTEMS[1:] for v in variants)]
    quantities = joined["figures"]["quantities"]
    assert sorted(quantities["events/s"]) == sorted(quantities["CPU µs per event"]) == sorted(systems)
    ratios = {f"beamfold / {other}, {v}" for other in ("ceiling", *SYSTEMS[2:]) for v in variants}
    assert ratios <= set(joined["figures"]["ratios"])
    assert len(set(joined["figures"]["ratios"]) - ratios) == (2 if PEER_THERE else 0)


def outcome(scenario: str, file: Path, folder: Path, *, only: str) -> dict[str, Any]:
    """Of a quick run of these systems in this scenario."""
    with bench("--only", only, "--scenarios", scenario, "--json", str(file), folder=folder) as process:
        _, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(file.read_text())["scenarios"][scenario]
    return found


def ours_alone(scenario: str, file: Path, folder: Path) -> list[dict[str, float]]:
    """What a quick run measured of Beamfold in this scenario, one after the other."""
    return [sample["values"] for sample in outcome(scenario, file, folder, only="beamfold")["samples"]]


def test_latency_is_compared_with_that_of_a_bare_chain(tmp_path: Path, scratch: Path) -> None:
    found = outcome("latency-300Hz", tmp_path / "bench.json", scratch, only="ceiling,beamfold")
    assert [sample["system"] for sample in found["samples"]] == ["ceiling", "beamfold"]
    for sample in found["samples"]:
        assert 0 < sample["values"]["ms, p50"] <= sample["values"]["ms, p99"]
    assert set(found["figures"]["ratios"]) == {"beamfold / ceiling, ms, p50", "beamfold / ceiling, ms, p99"}


def test_a_bare_chain_hands_every_event_on_to_its_last_process() -> None:
    measured = Chain(LATENCY, deadline_s=PATIENCE).scan(Scan(SETTLED + 50, rate=2000.0))
    state = measured.state
    assert (state["count"], state["sum"], state["frames"]) == (150, 150 * 151 // 2, 150)
    assert state["latency"].sum() == 50
    assert measured.seconds > 0
    assert measured.cpu_seconds > 0


def test_a_chain_that_breaks_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last process ends without having taken anything: those before it would wait for ever."""
    links = chain._links

    def broken(scan: Scan, urls: Sequence[str]) -> Iterator[Script]:
        yield from islice(links(scan, urls), len(urls) - 1)
        yield Script("the last", [sys.executable, "-c", "print('ready', flush=True); exit('broken')"])

    monkeypatch.setattr(chain, "_links", broken)
    with pytest.raises(BenchFailure, match="the last ended with exit code 1: broken"):
        Chain(LATENCY, deadline_s=PATIENCE).scan(Scan(SETTLED, rate=2000.0))


def test_viewers_look_while_a_scan_runs(tmp_path: Path, scratch: Path) -> None:
    quiet, watched = ours_alone("polling", tmp_path / "bench.json", scratch)
    assert "answers/s" not in quiet
    assert watched["answers/s"] > 0


def test_maps_of_ten_million_events_are_submitted(tmp_path: Path, scratch: Path) -> None:
    submitted = ours_alone("submission", tmp_path / "bench.json", scratch)
    assert len(submitted) == 5
    assert all(values["ms until submitted"] > 0 for values in submitted)


def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path, scratch: Path) -> None:
    with bench("--repeat", "1000", "--json", str(tmp_path / "bench.json"), folder=scratch) as process:
        assert process.stdout is not None
        until(process, "1  ceiling")  # every system is up
        below = descendants(process.pid)
        assert len(below) >= (13 if PEER_THERE else 6)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert all(is_gone(pid) for pid in below)
    assert not (tmp_path / "bench.json").exists()


def test_a_killed_benchmark_leaves_no_process(tmp_path: Path) -> None:
    """With the peer, if it is there: `beamfold run` has its own test."""
    with bench("--only", SYSTEMS[-1], "--repeat", "1000", folder=tmp_path) as process:
        until(process, f"1  {SYSTEMS[-1]}")
        below = descendants(process.pid)
        process.kill()
        wait_for(lambda: all(is_gone(pid) for pid in below), "the end of all processes", 10.0)


def test_a_run_of_ours_that_hangs_is_named_and_ended(scratch: Path) -> None:
    with bench("--only", "beamfold", "--deadline", "0.001", folder=scratch) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "BENCHMARK FAILED: beamfold HANGS: a scan of " in err
    assert "its progress: {'last_assigned': " in err
    assert "Traceback" not in err


@pytest.mark.skipif(not PEER_THERE, reason="there is no dranspose: `make test` installs it")
def test_a_peer_that_hangs_is_named_and_left_out(tmp_path: Path, scratch: Path) -> None:
    options = ("--only", "dranspose", "--scenarios", "tiny", "--deadline", "0.001", "--json")
    with bench(*options, str(tmp_path / "bench.json"), folder=scratch) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "TROUBLE: dranspose HANGS: a scan of " in out
    assert "its progress: {'last_assigned': " in out
    assert "dranspose had troubles, and lacks figures, in tiny" in out
    (trouble,) = json.loads((tmp_path / "bench.json").read_text())["scenarios"]["tiny"]["troubles"]
    assert trouble.startswith("dranspose HANGS")


def until(process: subprocess.Popen[str], text: str) -> None:
    """Read what it prints up to the line with this text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended without {text!r}: {process.communicate()[1]}")
