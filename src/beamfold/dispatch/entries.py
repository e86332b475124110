"""Log entries: {"created": seconds since the epoch, "levelname", "name": the service, "lineno", "msg"}."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from beamfold.protocols.messages import LogLine

MAX_LINES = 200
"""Lines that are taken of one message of a service."""

MAX_TEXT = 4096
"""Characters of one line; the beginning and the end are kept."""

_LEVELS = logging.getLevelNamesMapping()

Entry = dict[str, Any]


def entries_of(name: str, lines: Iterable[LogLine], now: float) -> list[Entry]:
    """What a service logged, as entries. What cannot be is put right: it comes from another process."""
    return [
        {
            "created": line.created if math.isfinite(line.created) else now,
            "levelname": line.levelname if line.levelname in _LEVELS else "INFO",
            "name": name,
            "lineno": max(0, line.lineno),
            "msg": cut(line.msg),
        }
        for line in list(lines)[:MAX_LINES]
    ]


def cut(text: str, room: int = MAX_TEXT) -> str:
    """The text, without its middle where it is long: a traceback's end says what went wrong."""
    if len(text) <= room:
        return text
    return f"{text[: room // 2]} … {len(text) - room} characters cut … {text[-(room // 2) :]}"
