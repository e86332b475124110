"""What must survive a process and what people ask for, behind one Protocol.

Registry of services, ownership of the controller's role, scans, parameters and their history, log entries. Two
implementations keep the same contract suite: `RedisLedger` (Redis or Valkey) and
`MemoryLedger` (one process, for tests and in-memory runs). Nothing here is called once per event: one call is
one trip of a millisecond.

Plain values travel as msgpack: None, bool, int of 64 bits, float, str, bytes, lists and dicts come back as
they were; what msgspec writes in a plain form (tuples and sets as lists, datetimes as text, dataclasses as
dicts) comes back in that form. Anything else raises `CodecError` naming the field.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from beamfold.model.errors import CodecError, ConfigError

KEEP_SCANS = 1000
"""Scans kept."""

KEEP_PARAMETERS = 1000
"""Parameter versions kept in the history, the current one included."""

KEEP_LOGS = 10_000
"""Log entries kept; together with MAX_LOG_BYTES this bounds them to 160 MB at the very worst."""

MAX_LOG_BYTES = 16 * 1024
"""One log entry, encoded. A longer text is cut, and says so: a traceback must not fill the store."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParameterEntry:
    """One version of all parameters.

    `values` has every parameter, not only what changed. `from_event` is the first event the version is valid
    for, None where it was set outside a scan; `scan_id` is the scan it was set in, None likewise.
    """

    version: int
    values: dict[str, bytes]
    from_event: int | None
    scan_id: str | None


class Ledger(Protocol):
    """The durable record. Every method may raise `LedgerUnavailable`, within about 2 s; whether a call that
    raised has taken effect is not known. Writing the same scan or parameters once more changes nothing, so that such a
    call may be made again. Methods may be called from several threads.

    Everything is bounded: KEEP_SCANS, KEEP_PARAMETERS and KEEP_LOGS are kept, the newest ones.
    """

    def life(self) -> str:
        """An id that stays the same for as long as the store has everything that it ever answered for.

        It is another one after the store was wiped, or started again: it may have gone on from an older copy.
        """

    def announce(self, role: str, name: str, info: Record, ttl_s: float) -> None:
        """Register a service or renew it; it is forgotten after `ttl_s` seconds (> 0). `info` is replaced."""

    def withdraw(self, role: str, name: str) -> None:
        """Forget a service now. One that is not registered is no error."""

    def services(self) -> dict[tuple[str, str], Record]:
        """The services alive, by (role, name)."""

    def acquire_owner(self, token: str, ttl_s: float, *, over: bool = False) -> int | None:
        """Become the owner for `ttl_s` seconds (> 0) and get the epoch, or None while somebody else is.

        `over`: also while somebody else is, who is known to be gone.

        Epochs start at 1 and grow by one with every acquisition. For the holder itself this is a renewal and
        gives the epoch it has; a holder whose lease ran out is a new owner with a new epoch.
        """

    def renew_owner(self, token: str, ttl_s: float) -> bool:
        """Prolong the lease; False when it is not ours any more, and then nothing is changed."""

    def release_owner(self, token: str) -> None:
        """Give the lease up if it is ours."""

    def put_scan(self, scan_id: str, record: Mapping[str, Any], number: int | None = None) -> None:
        """Merge `record` into the scan, key by key.

        The first call for an id makes it the newest; with its `number` it is newer than those of lower ones, in
        whatever order they are put.
        """

    def scan(self, scan_id: str) -> Record | None:
        """What is recorded of a scan, None when nothing is."""

    def scans(self, limit: int = 100, fields: Collection[str] | None = None) -> list[tuple[str, Record]]:
        """(scan_id, record) of the newest scans, newest first.

        `fields` restricts the records to these keys: a list of a hundred scans need not carry their trigger
        maps.
        """

    def put_parameters(
        self, version: int, values: Mapping[str, bytes], from_event: int | None, scan_id: str | None
    ) -> None:
        """Add this to the history, atomically; `values` has them all. The highest version is the current one."""

    def parameters(self) -> tuple[int, dict[str, bytes]]:
        """The current version and its values; (0, {}) before the first one."""

    def parameter_history(self, scan_id: str | None = None, limit: int = 1000) -> list[ParameterEntry]:
        """The newest `limit` versions, oldest first; those set in one scan only when `scan_id` is given."""

    def append_logs(self, entries: Sequence[Record]) -> None:
        """Append log entries (keys `created`, `levelname`, `name`, `lineno`, `msg`; others are kept)."""

    def logs(self, limit: int, level: str | None = None) -> list[Record]:
        """The newest `limit` entries, oldest first, of at least this level ("INFO" …). Entries without a
        level that is known count as INFO. An unknown `level` raises ConfigError."""

    def ping(self) -> None:
        """Return if the store answers."""

    def close(self) -> None:
        """Let go of the connections. The ledger must not be used afterwards."""

    def wipe(self) -> None:
        """Delete everything under this ledger's prefix (tests)."""


_decode = msgspec.msgpack.Decoder().decode


def pack(value: object, what: str) -> bytes:
    """Msgpack of a plain value; CodecError naming `what` where it is not plain."""
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(
            f"{what} cannot be recorded: {error}; use None, bool, 64-bit int, float, str, bytes, lists, dicts"
        ) from None


def unpack(data: bytes) -> Any:
    """The value that `pack` was given, in its plain form."""
    return _decode(data)


def pack_fields(record: Mapping[str, Any], what: str) -> dict[str, bytes]:
    """Every value of a record by itself, so that records merge key by key in the store."""
    return {key: pack(value, f"{what}[{key!r}]") for key, value in record.items()}


def unpack_fields(fields: Mapping[bytes, bytes] | Mapping[str, bytes]) -> Record:
    """Inverse of `pack_fields`; keys may be bytes, as the store returns them."""
    return {key.decode() if isinstance(key, bytes) else key: unpack(data) for key, data in fields.items()}


def pack_log(entry: Mapping[str, Any]) -> bytes:
    """One log entry; where it would be larger than MAX_LOG_BYTES, its texts are cut in their middles."""
    data = pack(entry, "a log entry")
    if len(data) <= MAX_LOG_BYTES:
        return data
    items = list(entry.items())[:64]
    room = MAX_LOG_BYTES // 8  # two long texts of characters of four bytes still fit
    while len(data) > MAX_LOG_BYTES and room:
        data = pack({key[:64]: _cut(value, room) for key, value in items}, "a log entry")
        room //= 2
    return data


def _cut(value: object, room: int) -> object:
    if isinstance(value, int | float | None):
        return value
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= room:
        return text
    return f"{text[: room // 2]} … {len(text) - room} characters cut … {text[len(text) - room // 2 :]}"


_LEVELS = logging.getLevelNamesMapping()


def level_number(level: str | None) -> int:
    """Severity to filter by (0 = everything); ConfigError for a name that logging does not know."""
    if level is None:
        return logging.NOTSET
    try:
        return _LEVELS[level.upper()]
    except KeyError:
        raise ConfigError(f"unknown log level {level!r}; use one of {', '.join(_LEVELS)}") from None


def log_severity(entry: Mapping[str, Any]) -> int:
    """Severity of an entry by its `levelname`."""
    return _LEVELS.get(str(entry.get("levelname", "INFO")).upper(), logging.INFO)


def lease_ms(ttl_s: float) -> int:
    """A lease in whole milliseconds, at least one."""
    if not ttl_s > 0:
        raise ValueError(f"a lease must be longer than nothing, got {ttl_s} s")
    return max(1, round(ttl_s * 1000))
