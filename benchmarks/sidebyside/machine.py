"""On what was measured: without it a figure means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zmq

from sidebyside.peer import PYTHON

_ASK = "import platform, importlib.metadata as m; print(m.version('dranspose'), platform.python_version())"


def machine() -> dict[str, Any]:
    """Facts about this machine, and how busy it is now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str | None]:
    """Of what was measured; None for what is not here."""
    return {
        "beamfold": _version("beamfold"),
        "commit": _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        **_peer(),
    }


def _peer() -> dict[str, str | None]:
    name, python = (_output(str(PYTHON), "-c", _ASK) or " ").split(" ")
    return {"dranspose": name or None, "dranspose_python": python or None}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
