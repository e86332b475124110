"""Ctrl-C and SIGTERM for commands that run a loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


async def interruptible(work: Coroutine[Any, Any, int], hurry: Callable[[], None] = lambda: None) -> int:
    """Run `work` and return its exit code. The first signal cancels it (so that it can tidy up), a further
    one calls `hurry`."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    code: int | None = None

    def stop(number: signal.Signals) -> None:
        nonlocal code
        if code is not None:
            hurry()
            return
        code = INTERRUPTED if number == signal.SIGINT else 0
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if code is None:
            raise
        return code
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
