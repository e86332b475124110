"""The reducer's publisher: snapshots of the state, and the final one as an HDF5 file with its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot


class FileStore:
    """Writes `<directory>/<scan_id>.h5`, or nothing when `hdf5` is off."""

    def __init__(self, directory: Path, hdf5: bool = True) -> None:
        self._directory = directory
        self._hdf5 = hdf5

    def snapshot(self, publish: Any) -> Any:
        """A deep, plain copy that nothing changes any more."""
        return snapshot(publish)

    def store(self, scan_id: str, snapshot: Any, report: dict[str, Any] | None) -> str:
        """Write the state (None: nothing was published) and, once there is one, the report as attributes of
        the root: `beamfold_scan`, `beamfold_summary` and, as JSON, `beamfold_states` and `beamfold_report`.

        Replaces the file of an earlier call as a whole. Returns its absolute path, "" when nothing is stored.
        Raises OSError.
        """
        if not self._hdf5:
            return ""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = (self._directory / f"{scan_id}.h5").absolute()
        write_hdf5(path, {} if snapshot is None else snapshot, _attributes(scan_id, report))
        return str(path)


def _attributes(scan_id: str, report: dict[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {"beamfold_scan": scan_id}
    return {
        "beamfold_scan": scan_id,
        "beamfold_summary": str(report.get("summary", "")),
        "beamfold_states": json.dumps(report.get("states", {})),
        "beamfold_report": json.dumps(report),
    }
