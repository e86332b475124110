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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processes import PATIENCE, descendants, is_gone, wait_for
from sidebyside.peer import PYTHON

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
    with bench("--json", str(tmp_path / "new" / "bench.json"), folder=scratch) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert err == ""
    assert "no event was missed or doubled" in out
    found = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert set(found) == {"when", "machine", "versions", "plan", "scans", "rates", "cpu_us", "ratios"}
    assert set(found["machine"]) == {"cores", "cpu", "kernel", "python", "load_average"}
    assert [s["system"] for s in found["scans"]] == SYSTEMS * 2
    assert [s["batch"] for s in found["scans"]] == [1] * len(SYSTEMS) + [10] * len(SYSTEMS)
    assert all(s["events_per_s"] > 0 for s in found["scans"])
    systems = [f"{name}, {batch}" for batch in ("plain", "batches of 10") for name in SYSTEMS[1:]]
    assert sorted(found["rates"]) == sorted(["ceiling", *systems])
    assert sorted(found["cpu_us"]) == sorted(systems)
    ratios = {f"beamfold / {other}, {b}" for other in ("ceiling", *SYSTEMS[2:]) for b in ("plain", "batches of 10")}
    assert ratios <= set(found["ratios"])
    assert len(set(found["ratios"]) - ratios) == (2 if PEER_THERE else 0)
    assert all(spread["low"] <= spread["median"] <= spread["high"] for spread in found["ratios"].values())


def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path, scratch: Path) -> None:
    with bench("--repeat", "1000", "--json", str(tmp_path / "bench.json"), folder=scratch) as process:
        assert process.stdout is not None
        assert "ceiling" in process.stdout.readline()  # every system is up
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
        assert process.stdout is not None
        assert SYSTEMS[-1] in process.stdout.readline()
        below = descendants(process.pid)
        process.kill()
        wait_for(lambda: all(is_gone(pid) for pid in below), "the end of all processes", 10.0)


@pytest.mark.parametrize("system", SYSTEMS[1:])
def test_a_system_that_hangs_is_named_and_ended(system: str, scratch: Path) -> None:
    with bench("--only", system, "--deadline", "0.001", folder=scratch) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"BENCHMARK FAILED: {system} HANGS: a scan of " in err
    assert "its progress: {'last_assigned': " in err
    assert "Traceback" not in err
