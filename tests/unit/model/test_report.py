"""The report's own lists are bounded; what they leave out is counted."""

from __future__ import annotations

from beamfold.model.report import MAX_TICKS, MAX_VERSIONS, ScanReport


def test_of_any_number_of_ticks_the_first_are_named_and_all_are_counted() -> None:
    report = ScanReport("id", 1)
    for at in range(0, MAX_TICKS + 50, 25):
        report.tick(range(at, at + 25))
    assert report.ticks == list(range(MAX_TICKS)) and report.ticks_total == MAX_TICKS + 50


def test_of_any_number_of_versions_the_first_and_the_newest_are_kept_and_all_are_counted() -> None:
    report = ScanReport("id", 1)
    for version in range(MAX_VERSIONS + 10):
        report.version({"version": version})
    kept = [v["version"] for v in report.parameters]
    assert kept == [0, *range(11, MAX_VERSIONS + 10)] and report.parameters_total == MAX_VERSIONS + 10
