"""`beamfold run`: everything on this host until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from beamfold.app.runfile import load_runfile
from beamfold.cli.registry import RECORD_VARIABLE, STORE_VARIABLE
from beamfold.cli.signals import interruptible
from beamfold.cli.supervisor import Supervisor, to_stderr


def run_here(runfile: Path, store: str | None, record: Path | None = None, *, resume: bool = False) -> int:
    """Start all services, say where they are, and wait; returns the exit code. BeamfoldError: they ended.

    `record`: the folder below which every scan is recorded; `resume`: take up the scan of this run that was killed.
    """
    if store is not None:
        os.environ[STORE_VARIABLE] = store
    record_to(record)
    return asyncio.run(_run(runfile, resume))


def record_to(folder: Path | None) -> None:
    """Have the services record every scan below this folder, whatever the run file says."""
    if folder is not None:
        os.environ[RECORD_VARIABLE] = str(folder.absolute())


async def _run(runfile: Path, resume: bool) -> int:
    settings = load_runfile(runfile)
    to_stderr(f"starting {settings.run.name!r}")
    supervisor = Supervisor(settings, resume=resume)

    async def work() -> int:
        async with supervisor:
            print(
                f"beamfold: controller {supervisor.controller_url}  reducer {supervisor.reducer_url}",
                flush=True,
            )
            await supervisor.wait()
        return 0

    return await interruptible(work(), supervisor.hurry)
