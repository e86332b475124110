"""The reducer's publisher: snapshots of the state, and the final one as an HDF5 file with its report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from beamfold.protocols.recordings import RESULT
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.reported import REPORT, report_tree
from beamfold.publish.tree import snapshot


class FileStore:
    """Writes `<directory>/<scan_id>.h5` unless `hdf5` is off, and the result of a recording."""

    def __init__(self, directory: Path, hdf5: bool = True) -> None:
        self._directory = directory
        self._hdf5 = hdf5

    def snapshot(self, publish: Any) -> Any:
        """A deep, plain copy that nothing changes any more."""
        return snapshot(publish)

    def store(self, scan_id: str, snapshot: Any, report: dict[str, Any] | None, recording: str = "") -> str:
        """Write the state (None: nothing was published) and, once there is one, the report as the group
        `beamfold_report`; the root has the attributes `beamfold_scan` and then also `beamfold_summary`.

        `recording` is the folder of the scan's recording, "" for none. Replaces the files of an earlier call as a
        whole. Returns the absolute path of the first one, "" when nothing is stored. Raises OSError.
        """
        paths = [self._directory / f"{scan_id}.h5"] if self._hdf5 else []
        if recording:
            paths.append(Path(recording) / RESULT)
        for n, path in enumerate(paths):
            if n:
                _link(paths[0], path)
            else:
                beside = {} if report is None else {REPORT: report_tree(report)}
                write_hdf5(path, {} if snapshot is None else snapshot, _attributes(scan_id, report), beside)
        return str(paths[0].absolute()) if paths else ""


def _link(source: Path, path: Path) -> None:
    """The same file under another name; a copy where that is another disk. It appears as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    part.replace(path)


def _attributes(scan_id: str, report: dict[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {"beamfold_scan": scan_id}
    return {"beamfold_scan": scan_id, "beamfold_summary": str(report.get("summary", ""))}
