"""What a worker's user code is at, in memory that others can read when the process cannot answer any more.

Three int64: the number of the scan, the event (`AT`), and a number that changes whenever the process looks at its
sockets (`TURN`). An event that is processed by itself is its number; `IDLE` is none, and what is below are several
together, or a hook that is not about events: while all three stay the same, user code does not come back.
"""

from __future__ import annotations

from typing import TypeAlias

Cursor: TypeAlias = "memoryview[int]"

SCAN = 0
AT = 1
TURN = 2

IDLE = -1
SEVERAL = -2
"""Less the first event of several."""

CURSOR_BYTES = 24


def cursor_in(memory: bytearray | memoryview) -> Cursor:
    """The cursor in the first `CURSOR_BYTES` of a buffer."""
    return memoryview(memory)[:CURSOR_BYTES].cast("q")


def idle_cursor() -> Cursor:
    """One that nobody else reads."""
    cursor = cursor_in(bytearray(CURSOR_BYTES))
    cursor[AT] = IDLE
    return cursor
