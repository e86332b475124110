"""`beamfold replay`: an app over what was recorded or captured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from beamfold.cli.reports import faults
from beamfold.model.errors import ConfigError
from beamfold.model.report import ScanReport
from beamfold.offline.replay import replay, replay_recording
from beamfold.protocols.recordings import is_recording


def run_replay(
    files: Sequence[str],
    worker: str | None,
    reducer: str | None,
    parameters: Path | None,
    output: Path | None,
    workers: int | None,
    processes: int,
) -> int:
    """Play them, print the outcome, and return the exit code: 1 when not all was well. Raises BeamfoldError."""
    if (worker is None) != (reducer is None):
        raise ConfigError("name both classes of the app, with -w and -r (or none, for those that a recording names)")
    app = None if worker is None or reducer is None else (worker, reducer)
    report = _play(files, app, parameters, output, workers, processes)
    print(report.summary)
    wrong = faults(report.to_dict())
    for fault in wrong:
        print(f"beamfold: {fault}", file=sys.stderr)
    return 1 if wrong else 0


def _play(
    files: Sequence[str],
    app: tuple[str, str] | None,
    parameters: Path | None,
    output: Path | None,
    workers: int | None,
    processes: int,
) -> ScanReport:
    if not files:
        raise ConfigError("nothing to replay: name a recording's folder, or the files of the captured streams")
    progress = sys.stderr.isatty()
    folders = [Path(file) for file in files if Path(file).is_dir()]
    if not folders:
        if app is None:
            raise ConfigError("captured streams do not say which app they are for: name its classes with -w and -r")
        return replay(*app, files, parameters, output, workers, processes, progress)
    if len(files) > 1:
        raise ConfigError("a recording is replayed by itself: name one folder and no other file")
    if not is_recording(folders[0]):
        inside = sorted(path.parent.name for path in folders[0].glob("*/recording.json"))
        there = f"; its recordings are {', '.join(inside[-5:])}" if inside else ""
        raise ConfigError(f"{folders[0]} is not the folder of one recording: it has no recording.json{there}")
    return replay_recording(folders[0], app, parameters, output, processes, progress)
