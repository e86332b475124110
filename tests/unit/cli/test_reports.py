"""What is said about a finished scan."""

from __future__ import annotations

from typing import Any

import pytest

from beamfold.cli.reports import faults, picture
from beamfold.model.report import ScanReport, StreamReport


def report(**changes: Any) -> dict[str, Any]:
    clean = ScanReport("id", 1, ended="finished", events=3, states={"reduced": 2, "no result": 1})
    clean.streams["camera"] = StreamReport("numbered")
    for name, value in changes.items():
        setattr(clean, name, value)
    return clean.to_dict()


def test_a_clean_scan_has_no_faults() -> None:
    assert faults(report()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ended": "stopped", "reason": "stopped by request"}, "stopped by request"),
        ({"ended": ""}, "has not ended"),
        ({"states": {"reduced": 2, "lost": 1}}, "1 lost"),
        ({"unreached": 4, "planned": 7}, "4 of 7"),
        ({"troubles": ["camera: torn"]}, "camera: torn"),
        ({"streams": {"camera": StreamReport("counted", verified=False)}}, "camera"),
        ({"streams": {"camera": StreamReport("counted", malformed=2)}}, "2 malformed"),
        (
            {"failures": [{"event": 5, "where": "process_event", "worker": "w", "traceback": "KeyError"}]},
            "event 5 failed in process_event: KeyError",
        ),
    ],
)
def test_what_is_not_in_order_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in "\n".join(faults(report(**changes)))


def test_a_map_is_drawn_in_shades() -> None:
    assert picture([[0.0, 4.0], [None, 2.0]]) == "  ██\n··▓▓"
    assert picture([[3, 3]]) == "    "
    assert picture([]) == picture([[None]]) == ""
    assert picture([[1.0] * 1000]) == ""
