"""Log lines on stderr, ours and those of user code alike. BEAMFOLD_LOG sets the level (default INFO)."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time

import structlog

from beamfold.app.calling import USER_ERRORS, presentable
from beamfold.dispatch.entries import cut
from beamfold.ledger.base import level_number
from beamfold.protocols.messages import LogLine

LEVEL_VARIABLE = "BEAMFOLD_LOG"


MAX_LINES = 50
"""Lines kept for the controller between two heartbeats; what an app logs for every event does not become traffic."""

FOR_WARNINGS = 20
"""Of these, lines that only warnings and errors may take."""

MAX_TEXT = 2000
"""Characters of such a line: its beginning and its end."""


class Collector(logging.Handler):
    """Keeps lines of INFO and above until the control channel takes them along. Bounded; beyond that it counts."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: list[LogLine] = []
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        room = MAX_LINES if record.levelno >= logging.WARNING else MAX_LINES - FOR_WARNINGS
        if len(self._lines) >= room:
            self._left_out += 1
            return
        try:
            text = presentable(_said(record))
        except USER_ERRORS:  # what an app logs need not be printable; that must not be its event's failure
            text = "a log line that cannot be printed"
        self._lines.append(LogLine(record.created, _level(record.levelno), record.lineno, cut(text, MAX_TEXT)))

    def take(self) -> list[LogLine]:
        """The lines since it was last asked."""
        if not self._lines and not self._left_out:
            return []
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
            left_out, self._left_out = self._left_out, 0
        if left_out:
            text = f"{left_out} more lines were logged than are shown here: see this service's own output"
            lines.append(LogLine(time.time(), "WARNING", 0, text))
        return lines


collected = Collector()
"""What this process logged; there is one, as there is one logging."""


def set_up(service: str, *, collect: bool = False) -> None:
    """Once per process. Every line names the `service`. ConfigError for a level that does not exist.

    `collect`: keep the lines in `collected` as well.
    """
    level = level_number(os.environ.get(LEVEL_VARIABLE) or "INFO")
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f"),
        _naming(service),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _plain],
        )
    )
    logging.basicConfig(level=level, handlers=[handler, collected] if collect else [handler], force=True)
    logging.captureWarnings(True)


def _naming(service: str) -> structlog.typing.Processor:
    def name(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return name


def _plain(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """`12:00:00.123 warning  worker-0: text key=value`, and a traceback below it."""
    when, level = str(event.pop("timestamp", ""))[:12], event.pop("level", "info")
    service = event.pop("service", "")
    return f"{when} {level:<8}{service}: {_text(event)}"


def _text(event: structlog.typing.EventDict) -> str:
    """`text key=value`, and a traceback below it."""
    text, info = event.pop("event", ""), event.pop("exc_info", None)
    more = "".join(f" {key}={value!r}" for key, value in event.items() if not key.startswith("_"))
    if info:
        more += "\n" + logging.Formatter().formatException(sys.exc_info() if info is True else info)
    return f"{text}{more}"


def _said(record: logging.LogRecord) -> str:
    """The text of a record, structlog's or another logger's."""
    if isinstance(record.msg, dict):
        return _text({k: v for k, v in record.msg.items() if k not in ("timestamp", "level", "service")})
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _level(number: int) -> str:
    """The name of the severity, also for a level that a library made up."""
    return logging.getLevelName(max(n for n in (10, 20, 30, 40, 50) if n <= max(number, 10)))
