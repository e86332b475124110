"""`beamfold replay`: an app over what was recorded or captured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from beamfold.cli.reports import faults
from beamfold.model.errors import ConfigError
from beamfold.model.report import ScanReport
from beamfold.offline.replay import replay, replay_recording
from beamfold.offline.verify import verify_recording
from beamfold.protocols.recordings import is_recording


def run_replay(
    files: Sequence[str],
    worker: str | None,
    reducer: str | None,
    parameters: Path | None,
    output: Path | None,
    workers: int | None,
    processes: int,
    verify: bool = False,
) -> int:
    """Play them, print the outcome, and return the exit code: 1 when not all was well. Raises BeamfoldError."""
    if (worker is None) != (reducer is None):
        raise ConfigError("name both classes of the app, with -w and -r (or none, for those that a recording names)")
    app = None if worker is None or reducer is None else (worker, reducer)
    if verify:
        return _verify(files, app, parameters, output, processes)
    report = _play(files, app, parameters, output, workers, processes)
    print(report.summary)
    wrong = faults(report.to_dict())
    for fault in wrong:
        print(f"beamfold: {fault}", file=sys.stderr)
    return 1 if wrong else 0


def _verify(
    files: Sequence[str], app: tuple[str, str] | None, parameters: Path | None, output: Path | None, processes: int
) -> int:
    """Whether a recording gives the state again that was published: 1 when it does not."""
    if not any(Path(file).is_dir() for file in files):
        raise ConfigError("only a recording says what was published: name its folder")
    verdict = verify_recording(_recording(files), app, parameters, output, processes, sys.stderr.isatty())
    for line in verdict.lines():
        print(line)
    for trouble in verdict.report.troubles:
        print(f"beamfold: {trouble}", file=sys.stderr)
    return 0 if verdict.same else 1


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
    if not any(Path(file).is_dir() for file in files):
        if app is None:
            raise ConfigError("captured streams do not say which app they are for: name its classes with -w and -r")
        return replay(*app, files, parameters, output, workers, processes, progress)
    return replay_recording(_recording(files), app, parameters, output, processes, progress)


def _recording(files: Sequence[str]) -> Path:
    """The one folder among these, which has to be a recording's."""
    folder = next(Path(file) for file in files if Path(file).is_dir())
    if len(files) > 1:
        raise ConfigError("a recording is replayed by itself: name one folder and no other file")
    if not is_recording(folder):
        inside = sorted(path.parent.name for path in folder.glob("*/recording.json"))
        there = f"; its recordings are {', '.join(inside[-5:])}" if inside else ""
        raise ConfigError(f"{folder} is not the folder of one recording: it has no recording.json{there}")
    return folder
