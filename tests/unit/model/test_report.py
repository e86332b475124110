"""The report's own lists are bounded; what they leave out is counted."""

from __future__ import annotations

import numpy as np
import pytest

from beamfold.model import report as report_module
from beamfold.model.bitmaps import Bitmap
from beamfold.model.report import MAX_TICKS, MAX_VERSIONS, ScanReport, for_ledger


def test_of_any_number_of_ticks_the_first_are_named_and_all_are_counted() -> None:
    report = ScanReport("id", 1)
    for at in range(0, MAX_TICKS + 50, 25):
        report.tick(range(at, at + 25))
    assert report.ticks == list(range(MAX_TICKS)) and report.ticks_total == MAX_TICKS + 50


def test_of_any_number_of_versions_the_first_and_the_newest_are_kept_and_all_are_counted() -> None:
    report = ScanReport("id", 1)
    for version in range(MAX_VERSIONS + 10):
        report.version({"version": version, "values": {"p": "1"}})
    kept = [v["version"] for v in report.parameters]
    assert kept == [0, *range(11, MAX_VERSIONS + 10)] and report.parameters_total == MAX_VERSIONS + 10


def test_versions_with_long_values_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MAX_VERSIONS_CHARACTERS", 100)
    report = ScanReport("id", 1)
    for version, size in enumerate([20, 20, 20, 20, 30, 200, 10]):
        report.version({"version": version, "values": {"p": "x" * (size - 1)}})
        kept = [v["version"] for v in report.parameters]
        if version == 4:
            assert kept == [0, 2, 3, 4]
        elif version == 5:
            assert kept == [0, 5]
    assert kept == [0, 6] and report.parameters_total == 7


def test_the_ledger_keeps_bitmaps_while_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    report = ScanReport("id", 1, events=3, states={"failed": 2, "lost": 1}, runs={"lost": [(2, 3)]})
    report.bitmaps["failed"] = Bitmap.of(1, np.array([True, False, True]))
    told = report.to_dict()
    assert for_ledger(told) == told
    monkeypatch.setattr(report_module, "MAX_KEPT_BITMAPS", 5)
    kept = for_ledger(told)
    assert (kept["bitmaps"], kept["unlisted"], kept["runs"]) == ({}, {"failed": 2}, {"lost": [(2, 3)]})
    assert told["bitmaps"], "what was given is not changed"
