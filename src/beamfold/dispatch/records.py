"""What the ledger and the log come to have of a scan: that it runs, which series it has, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beamfold.dispatch.actions import Action, Note, RecordParameters, RecordScan
from beamfold.dispatch.resumption import plan_record, series_record
from beamfold.dispatch.scan import Scan
from beamfold.dispatch.services import Services
from beamfold.model.report import for_ledger

MAX_NOTED = 50
"""Losses, and troubles, of a running scan that the ledger has: for the report, if another controller makes it."""


def running_records(scan: Scan, services: Services) -> list[Action]:
    """What the ledger has of a scan that runs: its plan, and the versions of the parameters in force."""
    known = [s for s in services.all.values() if s.hello.role == "ingester" and s.key in scan.services]
    readers = {s.hello.name: [info.name for info in s.hello.streams] for s in known}
    record: dict[str, Any] = {"number": scan.number, "started": scan.started, **plan_record(scan, readers)}
    if scan.active:
        record["state"] = "running"
    first = RecordParameters(scan.scan_id, scan.version, scan.values, 0)
    changes = [RecordParameters(scan.scan_id, c.version, c.values, c.from_event) for c in scan.changes]
    return [RecordScan(scan.scan_id, record, scan.number), first, *changes]


def series_records(scan: Scan) -> list[Action]:
    """A series began, or ended: its ingester may end together with the controller."""
    series = series_record(scan)
    if series == scan.recorded_series:
        return []
    scan.recorded_series = series
    return [RecordScan(scan.scan_id, {"series": series})]


def noted_records(scan: Scan) -> list[Action]:
    """Something was lost or went wrong: only this controller may have heard of it."""
    report = scan.report
    if (noted := (len(report.losses), len(report.troubles), report.redone)) == scan.recorded_noted:
        return []
    scan.recorded_noted = noted
    first = {"losses": report.losses[:MAX_NOTED], "troubles": report.troubles[:MAX_NOTED], "redone": report.redone}
    return [RecordScan(scan.scan_id, {"noted": first})]


def restore_noted(scan: Scan, known: Mapping[str, Any]) -> None:
    """What the ledger has of what another controller had heard of."""
    noted = known.get("noted", {})
    scan.report.losses += noted.get("losses", [])
    scan.report.troubles += noted.get("troubles", [])
    scan.report.redone += noted.get("redone", 0)


def ended_record(report: dict[str, Any]) -> RecordScan:
    """What the ledger has of a scan that has ended."""
    fields = {key: report[key] for key in ("number", "started", "finished")}
    more = {"streams": list(report["streams"]), "state": report["ended"], "report": for_ledger(report)}
    return RecordScan(report["scan_id"], {**fields, **more}, report["number"])


def ending_note(report: dict[str, Any]) -> Note:
    """The line of the log that says how a scan ended, with the first thing that a person would look up."""
    text = f"scan {report['number']} {report['ended']}: {report['summary']}"
    if report["reason"]:
        text += f"; {_one_line(report['reason'])}"
    if report["failures"]:
        first = report["failures"][0]
        text += f"; first failure: event {first['event']}, {first['where']}: {_one_line(first['traceback'])}"
    if report["troubles"]:
        text += f"; {_one_line(report['troubles'][0])}"
    return Note("warning" if report["failures"] or report["troubles"] or report["ended"] == "failed" else "info", text)


def _one_line(text: str) -> str:
    """What a text with a traceback in it says: how it begins, and the error at its end."""
    begin, traceback, _ = text.partition("Traceback (most recent call last):")
    lines = text.strip().splitlines()
    return f"{begin}{lines[-1].strip()}" if traceback else " ".join(lines)
