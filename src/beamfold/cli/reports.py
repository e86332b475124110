"""Whether a scan went well, and a picture of its map for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_SHADES = " ░▒▓█"
_MAX_WIDTH = 100


def faults(report: Mapping[str, Any]) -> list[str]:
    """What was not in order, in words; empty for a clean scan."""
    found: list[str] = []
    if report.get("ended") != "finished":
        found.append(f"the scan {report.get('ended') or 'has not ended'}: {report.get('reason') or 'no reason given'}")
    ordinary = ("reduced", "no result")
    found += [f"{n} {label}" for label, n in report.get("states", {}).items() if label not in ordinary]
    if report.get("unreached"):
        found.append(f"{report['unreached']} of {report['planned']} events were not reached")
    for failure in report.get("failures", [])[:3]:
        found.append(f"event {failure['event']} failed in {failure['where']}: {failure['traceback']}")
    found += report.get("troubles", [])
    for name, stream in report.get("streams", {}).items():
        if stream["malformed"] or not stream["verified"]:
            found.append(f"stream {name}: {stream['malformed']} malformed messages, verified: {stream['verified']}")
    return found


def picture(rows: Sequence[Sequence[float | None]]) -> str:
    """An array as shades, one character per point, rows downwards; None (not measured) is a dot."""
    values = [v for row in rows for v in row if isinstance(v, int | float)]
    if not values or max(map(len, rows)) > _MAX_WIDTH:
        return ""
    low, high = min(values), max(values)
    shades = len(_SHADES)

    def shade(value: float | None) -> str:
        if not isinstance(value, int | float):
            return "·"
        # The square root brings out what is faint beside a few bright points.
        return _SHADES[min(shades - 1, int(shades * math.sqrt((value - low) / ((high - low) or 1.0))))]

    return "\n".join("".join(shade(v) * 2 for v in row) for row in rows)
