"""The commands as a person runs them: the demo ends well, and nothing is ever left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import h5py
import pytest

from processes import Command, command, descendants, get, is_gone, post, wait_for

QUICKSTART = Path(__file__).parents[2] / "apps" / "quickstart"
SECONDS = 6.0
"""In which a run has ended: three of grace, and some for a loaded machine."""


@pytest.fixture
def runfile(tmp_path: Path) -> Path:
    """A run of the quick start app whose camera is nowhere yet."""
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
        [run]
        name = "flow"
        [app]
        worker = "{QUICKSTART}/worker.py:CentreWorker"
        reducer = "{QUICKSTART}/reducer.py:CentreReducer"
        [streams.camera]
        protocol = "stins"
        url = "ipc://{tmp_path}/camera"
        """
    )
    return path


def addresses(run: Command) -> tuple[str, str]:
    """The controller's and the reducer's address, once the run is up."""
    line = run.line_with("controller http://")
    found = re.fullmatch(r"beamfold: controller (http://\S+)  reducer (http://\S+)", line)
    assert found, line
    return found[1], found[2]


def test_the_demo_ends_with_every_event_reduced_and_leaves_nothing_behind(tmp_path: Path) -> None:
    env = {"HOME": "", "BEAMFOLD_RUN__NAME": "demo-test"}
    with command("demo", "--points", "24", "--rate", "200", cwd=tmp_path, env=env) as demo:
        demo.line_with("live map")
        below = descendants(demo.pid)
        assert len(below) >= 9  # two detectors, six services, the store
        code = demo.ends()
        assert code == 0, demo.err.text()
        assert "24 events: 24 reduced" in demo.out.lines()
        assert all(is_gone(pid) for pid in below)
    (file,) = (tmp_path / "demo-output").glob("*.h5")
    assert str(file) in demo.out.text()
    with h5py.File(file) as result:
        assert result.attrs["beamfold_summary"] == "24 events: 24 reduced"
        assert result["map/roi1"].shape == (24,)
        assert result["image"].attrs["NX_class"] == "NXdata"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != file]


def test_ctrl_c_ends_a_run_and_a_service_that_died_is_named(runfile: Path, tmp_path: Path) -> None:
    with command("run", str(runfile), cwd=tmp_path) as run:
        controller, reducer = addresses(run)
        assert get(f"{reducer}/api/v1/status") is True
        config = get(f"{controller}/api/v1/config")
        victim = next(w for w in config["workers"] if w["name"] == "worker-1")
        os.kill(victim["pid"], signal.SIGKILL)

        def pids() -> dict[str, int]:
            return {w["name"]: w["pid"] for w in get(f"{controller}/api/v1/config")["workers"]}

        wait_for(lambda: pids().get("worker-1", victim["pid"]) != victim["pid"], "another worker in its place")
        assert f"worker worker-1 (pid {victim['pid']}) ended: killed by SIGKILL" in run.err.text()
        below = descendants(run.pid)
        began = time.monotonic()
        run.send(signal.SIGINT)
        assert run.ends() == 130
        assert time.monotonic() - began < SECONDS
        assert all(is_gone(pid) for pid in below)
        assert "Traceback" not in run.err.text()


def test_a_killed_supervisor_leaves_no_process_and_no_store(runfile: Path, tmp_path: Path) -> None:
    with command("run", str(runfile), cwd=tmp_path) as run:
        addresses(run)
        below = descendants(run.pid)
        assert len(below) >= 6  # five services, the store
        run.send(signal.SIGKILL)
        run.ends()
        wait_for(lambda: all(is_gone(pid) for pid in below), "the end of all services", SECONDS)


def test_the_same_run_file_is_not_run_twice_at_once(runfile: Path, tmp_path: Path) -> None:
    """Two runs would share the detectors' frames between them, each missing what the other one has."""
    with command("run", str(runfile), cwd=tmp_path) as run:
        addresses(run)
        with command("run", str(runfile), cwd=tmp_path) as second:
            assert second.ends() == 1
            assert "'flow' is running already" in second.err.lines()[-1]
        run.send(signal.SIGINT)
        assert run.ends() == 130


def test_a_dead_controller_is_started_again_at_the_same_address(runfile: Path, tmp_path: Path) -> None:
    with command("run", str(runfile), cwd=tmp_path) as run:
        controller, _ = addresses(run)
        below = descendants(run.pid)
        (pid,) = (p for p in below if "controller" in Path(f"/proc/{p}/cmdline").read_text().split("\0"))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: re.search(r"controller was started again", run.err.text()), "another controller")
        assert re.search(r"controller \(pid \d+\) ended: killed by SIGKILL", run.err.text())
        wait_for(lambda: here(controller) == {"worker-0", "worker-1"}, "that all services are back")
        run.send(signal.SIGINT)
        assert run.ends() == 130


def here(controller: str) -> set[str]:
    """The workers that a controller knows; none while there is no controller."""
    try:
        return {w["name"] for w in get(f"{controller}/api/v1/config")["workers"]}
    except OSError:
        return set()


def test_an_app_that_cannot_be_loaded_is_told_to_who_starts_a_scan(runfile: Path, tmp_path: Path) -> None:
    runfile.write_text(runfile.read_text().replace("CentreReducer", "CenterReducer"))
    with command("run", str(runfile), cwd=tmp_path) as run:
        controller, _ = addresses(run)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"{controller}/api/v1/sequence", {"streams": ["camera"], "events": 1})
        assert refused.value.code == 400
        assert "CentreReducer" in refused.value.read().decode()  # what there is instead
        run.send(signal.SIGTERM)
        assert run.ends() == 0


def test_a_service_that_cannot_start_ends_the_run_with_its_text(runfile: Path, tmp_path: Path) -> None:
    text = runfile.read_text().replace("[streams.camera]", "[streams.camera]\nbind = true")
    runfile.write_text(text.replace(f"ipc://{tmp_path}/camera", "ipc:///nowhere/at/all"))
    with command("run", str(runfile), cwd=tmp_path) as run:
        assert run.ends() == 1
        last = run.err.lines()[-1]
        assert last.startswith("beamfold: cannot listen on")
        assert "Traceback" not in run.err.text()


def test_services_started_one_by_one_find_their_controller(runfile: Path, tmp_path: Path, store_url: str) -> None:
    env = {"REDIS_URL": store_url}
    arguments = {"cwd": tmp_path, "env": env}
    with (
        command("worker", str(runfile), **arguments) as worker,  # type: ignore[arg-type]
        command("ingester", str(runfile), **arguments) as ingester,  # type: ignore[arg-type]
        command("reducer", str(runfile), **arguments) as reducer,  # type: ignore[arg-type]
        command("controller", str(runfile), **arguments) as controller,  # type: ignore[arg-type]
    ):

        def address() -> str | None:
            found = re.search(r"listening on (http://\S+),", controller.err.text())
            return found[1] if found else None

        url = wait_for(address, "the controller's start")

        def all_here() -> bool:
            config = get(f"{url}/api/v1/config")
            return bool(config["workers"] and config["ingesters"] and config["reducer"])

        wait_for(all_here, "that all are here")
        with command("controller", str(runfile), **arguments) as second:  # type: ignore[arg-type]
            assert second.ends() == 1
            assert f"runs already at {url}" in second.err.lines()[-1]
        with command("status", str(runfile), **arguments) as status:  # type: ignore[arg-type]
            assert status.ends() == 0
            assert "worker-0" in status.out.text()
        for service in (worker, ingester, reducer, controller):
            service.send(signal.SIGTERM)
        assert [s.ends(SECONDS) for s in (worker, ingester, reducer, controller)] == [0, 0, 0, 0]


def test_help_imports_nothing_heavy() -> None:
    look = (
        "import sys; sys.argv = ['beamfold', '--help']\n"
        "from beamfold.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'zmq', 'redis', 'fastapi', 'h5py', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
