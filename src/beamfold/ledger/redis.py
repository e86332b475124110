"""The ledger in Redis (6.2 or newer) or Valkey.

Keys, all below the prefix of the run: `services:expiry` (sorted set) and `services:info` (hash), members are
JSON `[role, name]`; `owner` (string with expiry) and `epoch`; `life` (string: who finds none writes it);
`scans` (sorted set, the newest has the highest score), `scan:ID` (hash of msgpack values); `parameters:history`
(list of JSON entries, by version), `parameters:blobs` and `parameters:references` (hashes by SHA-256); `logs`
(stream).

A command is tried exactly once. Sockets that the store closed while they were idle are noticed by redis-py
when they are taken from the pool, before anything is sent, so a store that was restarted is used again
without an error; but once a command was sent, only the caller can know whether sending it again is harmless.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec
import redis as redis_py
from redis.backoff import NoBackoff
from redis.exceptions import DataError, RedisError
from redis.retry import Retry

from beamfold.ledger import base, scripts
from beamfold.ledger.base import ParameterEntry, Record
from beamfold.model.errors import ConfigError, LedgerUnavailable

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 1.5
"""A stopped store still accepts connections (the kernel does), so it is the answer that times out: nothing
takes longer than 2 s, and a healthy store answers within milliseconds."""

_PAGE = 1000  # stream entries per trip: some hundred kB, so that one answer is never late because of its size
_FIELD = b"r"  # stream entries have exactly one field

_StreamPage: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{netloc}{parts.path}"


class RedisLedger:
    """See `Ledger`. `url` is `redis://[user:password@]host:port/db`, `rediss://…` or
    `unix://[:password@]/path`.

    Nothing is connected before the first call. Different prefixes do not see each other. Can be shared by
    threads. Raises ConfigError for a URL that cannot be one.
    """

    def __init__(self, url: str, prefix: str = "beamfold", *, keep: int = base.KEEP_SCANS) -> None:
        self._prefix = prefix
        self._keep = keep
        try:
            self._where = _without_password(url)
            # RESP2 has the same shapes in every version of redis-py and of the store.
            self._redis: Any = redis_py.Redis.from_url(
                url,
                protocol=2,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=ANSWER_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # Neither the URL nor the error is quoted: a password that is not percent-encoded may be anywhere
            # in them.
            raise ConfigError(
                f"the store's URL (it begins with {url.partition(':')[0]!r}) cannot be used; write "
                "redis://:password@host:port/0 or unix:///path/to/socket (special characters percent-encoded)"
            ) from None
        script = self._redis.register_script
        self._announce = script(scripts.ANNOUNCE)
        self._services = script(scripts.SERVICES)
        self._acquire = script(scripts.ACQUIRE)
        self._renew = script(scripts.RENEW)
        self._release = script(scripts.RELEASE)
        self._put_scan = script(scripts.PUT_SCAN)
        self._put_parameters = script(scripts.PUT_PARAMETERS)
        self._parameters = script(scripts.PARAMETERS)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    @contextmanager
    def _trip(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise  # a value of a wrong type is the caller's mistake, not the store's absence
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(
                f"the control store at {self._where} does not serve us ({type(error).__name__}: {error}); "
                "what would have to be recorded is refused until it does"
            ) from error

    def life(self) -> str:
        with self._trip(), self._redis.pipeline(transaction=False) as pipe:
            pipe.set(self._key("life"), uuid.uuid4().hex, nx=True)
            pipe.get(self._key("life"))
            pipe.info("server")
            written, mark, info = pipe.execute(raise_on_error=False)
            for answer in (written, mark):
                if isinstance(answer, Exception):
                    raise answer
        run = info["run_id"] if isinstance(info, dict) else ""  # not every account may ask for it
        return f"{mark!r} {run}"

    # services

    def announce(self, role: str, name: str, info: Record, ttl_s: float) -> None:
        data = base.pack(info, f"the info of {role} {name!r}")
        lease = base.lease_ms(ttl_s)
        with self._trip():
            self._announce(keys=self._service_keys(), args=[_member(role, name), data, lease])

    def withdraw(self, role: str, name: str) -> None:
        expiries, infos = self._service_keys()
        with self._trip(), self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(expiries, _member(role, name))
            pipe.hdel(infos, _member(role, name))
            pipe.execute()

    def services(self) -> dict[tuple[str, str], Record]:
        with self._trip():
            flat: list[bytes] = self._services(keys=self._service_keys())
        found = {}
        for member, info in zip(flat[::2], flat[1::2], strict=True):
            role, name = msgspec.json.decode(member)
            found[role, name] = base.unpack(info)
        return found

    def _service_keys(self) -> tuple[str, str]:
        return self._key("services", "expiry"), self._key("services", "info")

    # ownership

    def acquire_owner(self, token: str, ttl_s: float, *, over: bool = False) -> int | None:
        lease = base.lease_ms(ttl_s)
        with self._trip():
            epoch = self._acquire(keys=[self._key("owner"), self._key("epoch")], args=[token, lease, int(over)])
        return None if epoch is None else int(epoch)

    def renew_owner(self, token: str, ttl_s: float) -> bool:
        lease = base.lease_ms(ttl_s)
        with self._trip():
            return bool(self._renew(keys=[self._key("owner")], args=[token, lease]))

    def release_owner(self, token: str) -> None:
        with self._trip():
            self._release(keys=[self._key("owner")], args=[token])

    # scans

    def put_scan(self, scan_id: str, record: Mapping[str, Any], number: int | None = None) -> None:
        fields = base.pack_fields(record, f"scan {scan_id}")
        flat = [item for field in fields.items() for item in field]
        args = [scan_id, "" if number is None else number, self._keep, self._key("scan", ""), *flat]
        with self._trip():
            self._put_scan(keys=[self._key("scans")], args=args)

    def scan(self, scan_id: str) -> Record | None:
        with self._trip():
            return self._read_scans([scan_id], None)[0]

    def scans(self, limit: int = 100, fields: Collection[str] | None = None) -> list[tuple[str, Record]]:
        if limit <= 0:
            return []
        with self._trip():
            ids = [found.decode() for found in self._redis.zrevrange(self._key("scans"), 0, limit - 1)]
            records = self._read_scans(ids, fields)
        return [(scan_id, record) for scan_id, record in zip(ids, records, strict=True) if record is not None]

    def _read_scans(self, ids: Sequence[str], fields: Collection[str] | None) -> list[Record | None]:
        """None for an id that is not there (any more): an empty hash alone could also be an empty record."""
        wanted = None if fields is None else list(fields)
        with self._redis.pipeline(transaction=True) as pipe:
            for scan_id in ids:
                pipe.zscore(self._key("scans"), scan_id)
                if wanted is None:
                    pipe.hgetall(self._key("scan", scan_id))
                elif wanted:
                    pipe.hmget(self._key("scan", scan_id), wanted)
                else:
                    pipe.echo("")
            answers = pipe.execute()
        found: list[Record | None] = []
        for score, answer in zip(answers[::2], answers[1::2], strict=True):
            if wanted is not None:
                answer = {k: v for k, v in zip(wanted, answer or (), strict=False) if v is not None}
            found.append(None if score is None else base.unpack_fields(answer))
        return found

    # parameters

    def put_parameters(
        self, version: int, values: Mapping[str, bytes], from_event: int | None, scan_id: str | None
    ) -> None:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in values.items()}
        entry = msgspec.json.encode(
            {"version": version, "from_event": from_event, "scan_id": scan_id, "values": digests}
        )
        args: list[Any] = [entry, version, base.KEEP_PARAMETERS]
        for name, data in values.items():
            args += (digests[name], data)
        with self._trip():
            self._put_parameters(keys=self._parameter_keys(), args=args)

    def parameters(self) -> tuple[int, dict[str, bytes]]:
        newest = self.parameter_history(limit=1)
        return (newest[0].version, newest[0].values) if newest else (0, {})

    def parameter_history(self, scan_id: str | None = None, limit: int = 1000) -> list[ParameterEntry]:
        if scan_id == "":
            return []  # the script's word for "any scan"
        with self._trip():
            entries, flat = self._parameters(keys=self._parameter_keys()[:2], args=[max(0, limit), scan_id or ""])
        blobs = {digest.decode(): data for digest, data in zip(flat[::2], flat[1::2], strict=True)}
        found = []
        for entry in map(msgspec.json.decode, reversed(entries)):
            values = {name: blobs[digest] for name, digest in entry["values"].items()}
            found.append(ParameterEntry(entry["version"], values, entry["from_event"], entry["scan_id"]))
        return found

    def _parameter_keys(self) -> list[str]:
        return [self._key("parameters", part) for part in ("history", "blobs", "references")]

    # logs

    def append_logs(self, entries: Sequence[Record]) -> None:
        if not entries:
            return
        packed = [base.pack_log(entry) for entry in entries]
        with self._trip(), self._redis.pipeline(transaction=True) as pipe:
            for data in packed:
                pipe.xadd(self._key("logs"), {_FIELD: data}, maxlen=base.KEEP_LOGS, approximate=False)
            pipe.execute()

    def logs(self, limit: int, level: str | None = None) -> list[Record]:
        least = base.level_number(level)
        found: list[Record] = []
        before = "+"
        count = _PAGE if level else min(_PAGE, limit)
        while len(found) < limit:
            with self._trip():
                page: _StreamPage = self._redis.xrevrange(self._key("logs"), before, "-", count=count)
            if not page:
                break
            entries = (base.unpack(fields[_FIELD]) for _, fields in page)
            found += (entry for entry in entries if base.log_severity(entry) >= least)
            before = "(" + page[-1][0].decode()
        return found[: max(0, limit)][::-1]

    # the store itself

    def ping(self) -> None:
        with self._trip():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    def wipe(self) -> None:
        literal = "".join(f"[{c}]" if c in "*?[" else "\\" + c if c in "]\\" else c for c in self._prefix)
        with self._trip():
            keys = list(self._redis.scan_iter(f"{literal}:*", count=_PAGE))
            if keys:
                self._redis.unlink(*keys)


def _member(role: str, name: str) -> bytes:
    return msgspec.json.encode([role, name])
