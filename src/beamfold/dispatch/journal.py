"""What the controller writes to the ledger, in order, by a thread of its own, so that a slow store stalls no scan."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from beamfold.ledger.base import Ledger, Record
from beamfold.model.errors import CodecError, LedgerUnavailable

MAX_WAITING = 10_000
"""Writes that may wait while the store is away; beyond that the oldest are given up and counted."""

MAX_WAITING_BYTES = 256 << 20
"""Bytes that these may hold together, unless the newest one alone has more."""

MAX_LOGS = 1000
"""Log entries that may wait; they drive out each other, and nothing else."""

RETRY = 0.5
"""Seconds between two looks whether the store is back."""

Write = Callable[[Ledger], object]


@dataclass(frozen=True, slots=True)
class Away:
    """The store could not be written since then (in seconds since the epoch), and why."""

    since: float
    why: str


class LedgerWriter:
    """Queues writes for the ledger and carries them out one after the other.

    While the store is `away` they wait (the scan goes on); what was under way is tried once more when it is back.
    `behind` says how many wait, `given_up` how many had to be dropped, `error` what nobody foresaw and what ended the
    thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queue: queue.Queue[tuple[Write, int] | None] = queue.Queue()
        self._bytes = 0
        self._logs: deque[Record] = deque(maxlen=MAX_LOGS)
        self._logging = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.away: Away | None = None
        self.given_up = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> int:
        """Writes that wait."""
        return self._queue.qsize()

    def put(self, write: Write, nbytes: int = 0) -> None:
        """Carry out `write`, which holds so many bytes, soon. It may be carried out twice."""
        while self._queue.qsize() >= MAX_WAITING or self._bytes + nbytes > MAX_WAITING_BYTES:
            try:
                oldest = self._queue.get_nowait()
            except queue.Empty:
                break
            assert oldest is not None
            self._weigh(-oldest[1])
            if oldest[0] == self._write_logs:
                self._logging = False  # they still wait, for the next one
            else:
                self.given_up += 1
        self._weigh(nbytes)
        self._queue.put((write, nbytes))

    def log(self, entries: Iterable[Record]) -> None:
        """Append these log entries soon, all that wait at once."""
        with self._lock:
            self._logs.extend(entries)
            wanted, self._logging = not self._logging, True
        if wanted:
            self._queue.put((self._write_logs, 0))

    def _write_logs(self, ledger: Ledger) -> None:
        with self._lock:
            entries = list(self._logs)
            self._logs.clear()
            self._logging = False
        try:
            ledger.append_logs(entries)
        except LedgerUnavailable:
            with self._lock:
                self._logs = deque([*entries, *self._logs], MAX_LOGS)
            raise

    def _weigh(self, nbytes: int) -> None:
        with self._lock:
            self._bytes += nbytes

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, for at most so long, and end."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while (waiting := self._queue.get()) is not None:
                write, nbytes = waiting
                self._weigh(-nbytes)
                if not self._carry_out(write):
                    return
        except BaseException as error:
            self.error = error
            raise

    def _carry_out(self, write: Write) -> bool:
        """Until it is done; False where we have to end before."""
        while True:
            try:
                write(self._ledger)
            except LedgerUnavailable as error:
                if not self._wait(error):
                    return False
            except CodecError:
                self.given_up += 1
                return True
            else:
                self.away = None
                return True

    def _wait(self, error: LedgerUnavailable) -> bool:
        """Until the store answers; False where we have to end before.

        It is asked for nothing else meanwhile: a store that is only stopped does later all that it was ever asked for.
        """
        since = time.time() if self.away is None else self.away.since
        self.away = Away(since, str(error))
        while True:
            last = self._closing.wait(RETRY)
            try:
                self._ledger.ping()
            except LedgerUnavailable as again:
                self.away = Away(since, str(again))
                if last:
                    return False
            else:
                return True
