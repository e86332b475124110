"""The ledger of a run that lives in one process: nothing is started and nothing survives."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from beamfold.ledger import base
from beamfold.ledger.base import ParameterEntry, Record
from beamfold.model.errors import LedgerUnavailable


class MemoryLedger:
    """See `Ledger`. Records are encoded as the real store would, so that what is recorded cannot be altered
    later and what could not be recorded there is refused here too.

    `clock` gives seconds and only ever grows. Set `available` to False to have every method raise
    LedgerUnavailable.
    """

    def __init__(self, *, keep: int = base.KEEP_SCANS, clock: Callable[[], float] = time.monotonic) -> None:
        self.available = True
        self._keep = keep
        self._clock = clock
        self._mutex = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        self._services: dict[tuple[str, str], tuple[float, bytes]] = {}
        self._owner: tuple[str, float] | None = None
        self._epoch = 0
        self._life = uuid.uuid4().hex
        self._scans: dict[str, dict[str, bytes]] = {}
        self._ranks: dict[str, int] = {}  # the newest scan has the highest one
        self._history: list[ParameterEntry] = []  # by their versions
        self._logs: deque[tuple[int, bytes]] = deque(maxlen=base.KEEP_LOGS)

    def _lock(self) -> threading.RLock:
        if not self.available:
            raise LedgerUnavailable("the in-memory ledger was switched off")
        return self._mutex

    def life(self) -> str:
        with self._lock():
            return self._life

    def announce(self, role: str, name: str, info: Record, ttl_s: float) -> None:
        data = base.pack(info, f"the info of {role} {name!r}")
        lease = base.lease_ms(ttl_s) / 1000
        with self._lock():
            self._services[role, name] = (self._clock() + lease, data)

    def withdraw(self, role: str, name: str) -> None:
        with self._lock():
            self._services.pop((role, name), None)

    def services(self) -> dict[tuple[str, str], Record]:
        with self._lock():
            now = self._clock()
            self._services = {who: entry for who, entry in self._services.items() if entry[0] > now}
            return {who: base.unpack(data) for who, (_, data) in self._services.items()}

    def _holder(self) -> str | None:
        if self._owner is not None and self._owner[1] <= self._clock():
            self._owner = None
        return None if self._owner is None else self._owner[0]

    def acquire_owner(self, token: str, ttl_s: float, *, over: bool = False) -> int | None:
        lease = base.lease_ms(ttl_s) / 1000
        with self._lock():
            holder = self._holder()
            if holder not in (None, token) and not over:
                return None
            self._epoch += holder != token
            self._owner = (token, self._clock() + lease)
            return self._epoch

    def renew_owner(self, token: str, ttl_s: float) -> bool:
        lease = base.lease_ms(ttl_s) / 1000
        with self._lock():
            if self._holder() != token:
                return False
            self._owner = (token, self._clock() + lease)
            return True

    def release_owner(self, token: str) -> None:
        with self._lock():
            if self._holder() == token:
                self._owner = None

    def put_scan(self, scan_id: str, record: Mapping[str, Any], number: int | None = None) -> None:
        fields = base.pack_fields(record, f"scan {scan_id}")
        with self._lock():
            if number is not None or scan_id not in self._ranks:
                newest = max(self._ranks.values(), default=0)
                self._ranks[scan_id] = newest + 1 if number is None else number
            self._scans.setdefault(scan_id, {}).update(fields)
            while len(self._scans) > self._keep:
                oldest = self._by_rank()[-1]
                del self._scans[oldest], self._ranks[oldest]

    def _by_rank(self) -> list[str]:
        """The newest first."""
        return sorted(self._ranks, key=lambda scan_id: (self._ranks[scan_id], scan_id), reverse=True)

    def scan(self, scan_id: str) -> Record | None:
        with self._lock():
            fields = self._scans.get(scan_id)
            return None if fields is None else base.unpack_fields(fields)

    def scans(self, limit: int = 100, fields: Collection[str] | None = None) -> list[tuple[str, Record]]:
        with self._lock():
            newest = [(scan_id, self._scans[scan_id]) for scan_id in self._by_rank()[: max(0, limit)]]
            return [
                (
                    scan_id,
                    base.unpack_fields({k: v for k, v in found.items() if fields is None or k in fields}),
                )
                for scan_id, found in newest
            ]

    def put_parameters(
        self, version: int, values: Mapping[str, bytes], from_event: int | None, scan_id: str | None
    ) -> None:
        entry = ParameterEntry(version, {name: bytes(data) for name, data in values.items()}, from_event, scan_id)
        with self._lock():
            at = len(self._history)
            while at and self._history[at - 1].version >= version:
                at -= 1
                if self._history[at] == entry:
                    return
            while at < len(self._history) and self._history[at].version == version:
                at += 1
            self._history.insert(at, entry)
            del self._history[: -base.KEEP_PARAMETERS]

    def parameters(self) -> tuple[int, dict[str, bytes]]:
        with self._lock():
            if not self._history:
                return 0, {}
            return self._history[-1].version, dict(self._history[-1].values)

    def parameter_history(self, scan_id: str | None = None, limit: int = 1000) -> list[ParameterEntry]:
        with self._lock():
            found = [e for e in self._history if scan_id is None or e.scan_id == scan_id]
        newest = found[len(found) - min(len(found), max(0, limit)) :]
        return [ParameterEntry(e.version, dict(e.values), e.from_event, e.scan_id) for e in newest]

    def append_logs(self, entries: Sequence[Record]) -> None:
        packed = [(base.log_severity(entry), base.pack_log(entry)) for entry in entries]
        with self._lock():
            self._logs.extend(packed)

    def logs(self, limit: int, level: str | None = None) -> list[Record]:
        least = base.level_number(level)
        with self._lock():
            matching = (data for severity, data in reversed(self._logs) if severity >= least)
            return [base.unpack(data) for data in islice(matching, max(0, limit))][::-1]

    def ping(self) -> None:
        with self._lock():
            pass

    def close(self) -> None:
        """Nothing to let go of."""

    def wipe(self) -> None:
        with self._lock():
            self._reset()
