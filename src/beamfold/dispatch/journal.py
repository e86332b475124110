"""What the controller writes to the ledger, in order, by a thread of its own, so that a slow store stalls no scan."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from beamfold.ledger.base import Ledger
from beamfold.model.errors import CodecError, LedgerUnavailable

MAX_WAITING = 10_000
"""Writes that may wait while the store is away; beyond that the oldest are given up and counted."""

RETRY = 0.5
"""Seconds between attempts while the store is away."""


class LedgerWriter:
    """Queues writes for the ledger and carries them out one after the other.

    While the store is away they wait (the scan goes on) and are tried again; `behind` says how many there are,
    `given_up` how many had to be dropped, `error` what nobody foresaw and ended the thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queue: queue.Queue[Callable[[Ledger], object] | None] = queue.Queue()
        self._closing = threading.Event()
        self.given_up = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> int:
        """Writes that wait."""
        return self._queue.qsize()

    def put(self, write: Callable[[Ledger], object]) -> None:
        """Carry out `write` soon."""
        if self._queue.qsize() >= MAX_WAITING:
            try:
                self._queue.get_nowait()
                self.given_up += 1
            except queue.Empty:
                pass
        self._queue.put(write)

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long, and end."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (write := self._queue.get()) is not None:
            while True:
                try:
                    write(self._ledger)
                except LedgerUnavailable:
                    if self._closing.is_set():
                        return
                    self._closing.wait(RETRY)
                except CodecError:
                    self.given_up += 1
                    break
                except BaseException as error:
                    self.error = error
                    raise
                else:
                    break
