"""The real clients of HDF over HTTP, each in a process of its own, and what they read brought side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "hdf_client.py"
OLD = ROOT / ".venv" / "h5pyd-0.24"

CLIENTS = ["h5pyd", "h5pyd 0.24", "silx"]


def run_client(client: str, where: str) -> dict[str, Any]:
    """What the script prints with this client, which runs in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HS_", "H5PYD_", "PYTHON"))}
    name, _, version = client.partition(" ")
    if version:
        if not OLD.is_dir():
            pytest.skip(f"h5pyd {version} is not in {OLD.name}: `make test` installs it")
        env["PYTHONPATH"] = str(OLD)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name, where], capture_output=True, text=True, env=env, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert not version or found["version"].startswith(version)
    return found


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Everything by where it is: "/group/dataset/part", "/group@attribute"."""
    if not isinstance(node, dict):
        return {path: node}
    found: dict[str, Any] = {f"{path}@{name}": value for name, value in node["attrs"].items()}
    if "members" not in node:
        found |= {f"{path}/{part}": value for part, value in node.items() if part != "attrs"}
        return found
    found[path] = sorted(node["members"])
    for name, child in node["members"].items():
        found |= flat(child, f"{path}/{name}")
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    missing = "nothing"
    return {
        path: (one.get(path, missing), other.get(path, missing))
        for path in sorted(one.keys() | other.keys())
        if one.get(path, missing) != other.get(path, missing)
    }
