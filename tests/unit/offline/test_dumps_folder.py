"""The recorded runs that come with the project are what their manifest says."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.offline.playback import Capture, read_captures
from beamfold.protocols.dumps import kind_of

DUMPS = Path(__file__).resolve().parents[3] / "dumps"
MANIFEST: dict[str, dict[str, Any]] = tomllib.loads((DUMPS / "MANIFEST.toml").read_text())


def test_every_dump_is_in_the_manifest() -> None:
    assert set(MANIFEST) == {p.name for p in DUMPS.iterdir() if ".cbors" in p.name}


@pytest.mark.parametrize("name", MANIFEST)
def test_a_dump_holds_what_the_manifest_says(name: str) -> None:
    said, path = MANIFEST[name], DUMPS / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == said["sha256"]
    assert kind_of(path) == said["kind"]
    batches = read_captures([Capture(path, said["stream"], said["protocol"])])
    found = [event for batch in batches for event in batch]
    assert [e.event_number for e in found] == list(range(said["events"] + 2))
    for event in found[1:-1]:
        data = event.streams[said["stream"]]
        if said["dtype"]:
            array = data.array()
            assert list(array.shape) == said["shape"] and array.dtype == np.dtype(said["dtype"])
        else:
            assert data.parse().status == "running"
