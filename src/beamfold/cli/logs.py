"""Log lines on stderr, ours and those of user code alike. BEAMFOLD_LOG sets the level (default INFO)."""

from __future__ import annotations

import logging
import os
import sys

import structlog

from beamfold.ledger.base import level_number

LEVEL_VARIABLE = "BEAMFOLD_LOG"


def set_up(service: str) -> None:
    """Once per process. Every line names the `service`. ConfigError for a level that does not exist."""
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
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def _naming(service: str) -> structlog.typing.Processor:
    def name(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    return name


def _plain(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    """`12:00:00.123 warning  worker-0: text key=value`, and a traceback below it."""
    when, level = str(event.pop("timestamp", ""))[:12], event.pop("level", "info")
    service, text = event.pop("service", ""), event.pop("event", "")
    info = event.pop("exc_info", None)
    more = "".join(f" {key}={value!r}" for key, value in event.items() if not key.startswith("_"))
    line = f"{when} {level:<8}{service}: {text}{more}"
    if info:
        line += "\n" + logging.Formatter().formatException(sys.exc_info() if info is True else info)
    return line
