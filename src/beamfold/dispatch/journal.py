"""What the controller writes to the ledger, in order, by a thread of its own, so that a slow store stalls no scan."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from beamfold.ledger.base import Ledger
from beamfold.model.errors import CodecError, LedgerUnavailable

MAX_WAITING = 10_000
"""Writes that may wait while the store is away; beyond that the oldest are given up and counted."""

MAX_WAITING_BYTES = 256 << 20
"""Bytes that these may hold together, unless the newest one alone has more."""

RETRY = 0.5
"""Seconds between attempts while the store is away."""


class LedgerWriter:
    """Queues writes for the ledger and carries them out one after the other.

    While the store is away they wait (the scan goes on) and are tried again; `behind` says how many there are,
    `given_up` how many had to be dropped, `error` what nobody foresaw and ended the thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queue: queue.Queue[tuple[Callable[[Ledger], object], int] | None] = queue.Queue()
        self._bytes = 0
        self._weighing = threading.Lock()
        self._closing = threading.Event()
        self.given_up = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> int:
        """Writes that wait."""
        return self._queue.qsize()

    def put(self, write: Callable[[Ledger], object], nbytes: int = 0) -> None:
        """Carry out `write`, which holds so many bytes, soon."""
        while self._queue.qsize() >= MAX_WAITING or self._bytes + nbytes > MAX_WAITING_BYTES:
            try:
                oldest = self._queue.get_nowait()
            except queue.Empty:
                break
            assert oldest is not None
            self._weigh(-oldest[1])
            self.given_up += 1
        self._weigh(nbytes)
        self._queue.put((write, nbytes))

    def _weigh(self, nbytes: int) -> None:
        with self._weighing:
            self._bytes += nbytes

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long, and end."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            write, nbytes = waiting
            self._weigh(-nbytes)
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
