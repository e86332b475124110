"""`beamfold status`: which services there are, and how the scans went."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beamfold.app.runfile import RunFile, load_runfile
from beamfold.cli.registry import STORE_VARIABLE, controller_address, open_ledger
from beamfold.cli.supervisor import Supervisor
from beamfold.cli.web import Refusal, call
from beamfold.model.errors import BeamfoldError, ConfigError

TIMEOUT = 5.0
"""Seconds for the controller to answer."""

SCANS = 5
"""Scans listed."""


def show(runfile: Path | None, url: str | None, store: str | None) -> int:
    """Print the tables. BeamfoldError when there is no controller, or none that answers."""
    if url is None:
        if store is not None:
            os.environ[STORE_VARIABLE] = store
        url = _address(load_runfile(runfile or Path()))
    config, progress, scans = _ask(url)
    console = Console()
    console.print(f"controller [bold]{url}[/]  Beamfold {config['controller_version']}")
    console.print(_services(config))
    console.print(_progress(progress))
    if progress["latency"]:
        console.print(_way(progress["latency"]))
    if scans:
        console.print(_scans(scans))
    return 0


def _address(settings: RunFile) -> str:
    """Where the run's controller is: from its store, or from the note that `beamfold run` leaves."""
    name = settings.run.name
    if settings.store.url is not None:
        ledger = open_ledger(settings)
        try:
            there = controller_address(ledger)
        finally:
            ledger.close()
        if there is None:
            raise BeamfoldError(f"no controller of {name!r} is running: start one with `beamfold run RUNFILE`")
        return there["http"]
    path = Supervisor.note_path(settings)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["controller"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{name!r} is not running here (there is no {path}): start it with `beamfold run RUNFILE`, call "
            "`beamfold status` from the folder where it was started, or give --url"
        ) from None


def _ask(url: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    base = url.rstrip("/") + "/api/v1"
    config, status, counts = (call(f"{base}/{what}", timeout=TIMEOUT) for what in ("config", "status", "progress"))
    progress = {**status, **counts}  # the status names events one by one, as dranspose's clients want it
    try:
        return config, progress, call(f"{base}/scans?limit={SCANS}", timeout=TIMEOUT)
    except Refusal:
        return config, progress, []  # the control store is away, and with it the list


def _services(config: Mapping[str, Any]) -> Table:
    table = Table("service", "state", "process", "what", title="services", title_justify="left")
    rows = [("ingester", s, ", ".join(s["streams"])) for s in config["ingesters"]]
    rows += [("worker", s, ", ".join(s["tags"])) for s in config["workers"]]
    if config["reducer"] is not None:
        rows.append(("reducer", config["reducer"], config["reducer"]["http"]))
    for role, s, what in rows:
        name = role if s["name"] == role else f"{role} {s['name']}"
        table.add_row(name, s["error"] or "ready", f"{s['pid']} on {s['host']}", what)
    return table


def _progress(progress: Mapping[str, Any]) -> str:
    if "scan" not in progress:
        return "no scan yet"
    total = "?" if progress["total_events"] is None else progress["total_events"]
    streams = ", ".join(f"{name} {phase}" for name, phase in progress["streams"].items())
    done = f"{progress['completed_events']} of {total} events"
    if progress["waiting"]:
        done += f", waiting for {', '.join(progress['waiting'])}"
    return f"scan {progress['scan']}: {progress['phase']}, {done}; {streams}"


def _way(latency: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(
        "stage", "median", "99 %", "longest", title="where events spend their time, in ms", title_justify="left"
    )
    for stage, seconds in latency.items():
        table.add_row(stage, *(f"{1000 * seconds[what]:.3g}" for what in ("p50", "p99", "max")))
    return table


def _scans(scans: list[dict[str, Any]]) -> Table:
    table = Table("number", "id", "state", "started", "streams", title="scans", title_justify="left")
    for scan in scans:
        started = datetime.fromtimestamp(scan.get("started", 0.0)).isoformat(" ", "seconds")
        streams = ", ".join(scan.get("streams", []))
        table.add_row(str(scan.get("number", "")), scan["id"], scan.get("state", ""), started, streams)
    return table
