"""`beamfold run`: everything on this host until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from beamfold.app.runfile import load_runfile
from beamfold.cli.registry import RECORD_VARIABLE, STORE_VARIABLE
from beamfold.cli.signals import interruptible
from beamfold.cli.supervisor import Supervisor, to_stderr


def run_here(runfile: Path, store: str | None, record: Path | None = None) -> int:
    """Start all services, say where they are, and wait; returns the exit code. BeamfoldError: they ended.

    `record`: the folder below which every scan is recorded.
    """
    if store is not None:
        os.environ[STORE_VARIABLE] = store
    record_to(record)
    return asyncio.run(_run(runfile))


def record_to(folder: Path | None) -> None:
    """Have the services record every scan below this folder, whatever the run file says."""
    if folder is not None:
        os.environ[RECORD_VARIABLE] = str(folder.absolute())


async def _run(runfile: Path) -> int:
    settings = load_runfile(runfile)
    to_stderr(f"starting {settings.run.name!r}")
    supervisor = Supervisor(settings)

    async def work() -> int:
        async with supervisor:
            print(
                f"beamfold: controller {supervisor.controller_url}  reducer {supervisor.reducer_url}",
                flush=True,
            )
            await supervisor.wait()
        return 0

    return await interruptible(work(), supervisor.hurry)
