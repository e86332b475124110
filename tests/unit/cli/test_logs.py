"""What a service logs goes to its controller too: bounded, and whatever an app logs does no harm."""

from __future__ import annotations

import logging

import pytest

from beamfold.cli.logs import FOR_WARNINGS, MAX_LINES, MAX_TEXT, Collector
from beamfold.protocols.messages import Logs, decode_to_controller, encode_message


@pytest.fixture
def logger() -> logging.Logger:
    """A logger that nobody else listens to."""
    found = logging.Logger("app", logging.DEBUG)
    found.addHandler(Collector())
    return found


def collector(logger: logging.Logger) -> Collector:
    found = logger.handlers[0]
    assert isinstance(found, Collector)
    return found


def test_lines_of_info_and_above_are_taken_once(logger: logging.Logger) -> None:
    logger.debug("no")
    logger.info("an %s", "info")
    logger.log(35, "between")
    lines = collector(logger).take()
    assert [(line.levelname, line.msg) for line in lines] == [("INFO", "an info"), ("WARNING", "between")]
    assert all(line.lineno > 0 and line.created > 0 for line in lines)
    assert collector(logger).take() == []


def test_what_structlog_hands_over_is_its_text(logger: logging.Logger) -> None:
    logger.info({"event": "text", "level": "info", "service": "w", "timestamp": "12:00", "count": 3})
    assert [line.msg for line in collector(logger).take()] == ["text count=3"]


def test_a_traceback_goes_along(logger: logging.Logger) -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        logger.exception("it failed")
    (line,) = collector(logger).take()
    assert line.msg.startswith("it failed\nTraceback")
    assert line.msg.endswith("ZeroDivisionError: by nothing")


def test_a_flood_is_counted_and_leaves_room_for_warnings(logger: logging.Logger) -> None:
    for n in range(1000):
        logger.info("event %d", n)
    logger.error("something is wrong")
    lines = collector(logger).take()
    kept = MAX_LINES - FOR_WARNINGS
    assert [line.msg for line in lines[:kept]] == [f"event {n}" for n in range(kept)]
    assert lines[kept].msg == "something is wrong"
    assert lines[kept + 1].msg.startswith(f"{1000 - kept} more lines")
    assert len(lines) == kept + 2


def test_whatever_is_logged_can_travel_and_never_raises(logger: logging.Logger) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("no")

    logger.info("%d", "no number")
    logger.info("%s", Unprintable())
    logger.info("\ud800")
    logger.info("x" * 100_000)
    lines = collector(logger).take()
    assert [line.msg for line in lines[:3]] == ["a log line that cannot be printed"] * 2 + ["\\ud800"]
    assert len(lines[3].msg) < MAX_TEXT + 100
    assert decode_to_controller(encode_message(Logs(lines))) == Logs(lines)
