"""Where the recorded streams of real detectors are, when somebody has them.

They are not part of the project. `BEAMFOLD_CAPTURES` names their folder; without it `../shared/captures` beside the
checkout is looked at. A test that needs one skips, with the reason, where it is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "captures"


def capture(name: str) -> Path:
    """The path of one captured stream; skips the calling test where there is none."""
    folder = Path(os.environ.get("BEAMFOLD_CAPTURES", _BESIDE))
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no captured stream {name} (set BEAMFOLD_CAPTURES to the folder that has it)")
    return path
