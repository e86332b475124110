"""dranspose, from PyPI in an environment of its own: each service in its own process, on ports of its own.

Where there was a choice it was made in the peer's favour: only warnings are logged, the store keeps no file, the end
of a scan is read from its own message instead of asking for it again and again, and that message goes out before
`finish` of the app is called.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import redis

from beamfold.ledger.embedded import EmbeddedStore
from sidebyside.base import APP, PEER, WORKERS, BenchFailure, Measured, Scan, Setup, check_state
from sidebyside.processes import START_S, Process, clean_environment, cpu_seconds, free_port, spent, wait_for
from sidebyside.source import Source
from sidebyside.viewer import published

PYTHON = Path(sys.prefix, "dranspose", "bin", "python")
"""Where `make bench` puts it."""

PART = 1000
"""Events of a part, about: the parts of a long scan repeat, so that its trigger map stays small."""

ARMING_S = 30.0
"""dranspose itself gives up after ten seconds."""

_HTTP = Path(__file__).parents[1] / "dranspose_http.py"
_UPDATES = "dranspose:controller:updates"


def sequence(scan: Scan, streams: Iterable[str]) -> dict[str, Any]:
    """The trigger map of a scan: one part over and over, and one for the rest."""
    whole = max(1, PART // scan.batch) * scan.batch
    count, rest = divmod(scan.events, whole)
    parts = {name: _cells(n, scan.batch) for name, n in (("whole", whole * bool(count)), ("rest", rest)) if n}
    written = {name: dict.fromkeys(streams, cells) for name, cells in parts.items()}
    return {"parts": written, "sequence": ["whole"] * count + ["rest"] * bool(rest)}


def _cells(events: int, batch: int) -> list[list[dict[str, int]]]:
    return [[{"constraint": event // batch}] for event in range(events)]


class Dranspose:
    """Controller, an ingester per stream, workers and reducer, with a Valkey of our own as their Redis; one start for
    all scans."""

    name = PEER

    def __init__(self, setup: Setup, *, deadline_s: float) -> None:
        self._setup = setup
        self._deadline_s = deadline_s
        self._urls = [f"tcp://127.0.0.1:{free_port()}" for _ in setup.streams]
        self._temporary = tempfile.TemporaryDirectory(prefix="beamfold-bench-")
        self._folder = Path(self._temporary.name)
        self._store = EmbeddedStore()
        self._redis: redis.Redis | None = None
        self._processes: list[Process] = []
        self._controller, self._reducer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._http = httpx.Client(timeout=ARMING_S, trust_env=False)

    # -- up and down -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start its services one after the other, since a worker that finds no reducer drops results for a second."""
        env = clean_environment(REDIS_URL=self._start_store(), LOG_LEVEL="WARNING")
        self._spawn_http("controller", self._controller, env)
        reducer = {"REDUCER_CLASS": f"tally:{self._setup.reducer}", "REDUCER_URL": _local()}
        self._spawn_http("reducer", self._reducer, {**env, **reducer})
        self._wait_until("the reducer's entry in Redis", lambda: self._config()["reducer"])
        cli = ["-m", "dranspose.cli"]
        for stream, url in zip(self._setup.names, self._urls, strict=True):
            ingester = [*cli, "ingester", "-c", "ZmqPullSingleIngester", "-n", stream, "-u", url]
            self._spawn(stream, ingester, {**env, "INGESTER_URL": _local()})
        for n in range(WORKERS):
            worker = [*cli, "worker", "-n", f"worker-{n}", "-c", f"tally:{self._setup.worker}"]
            self._spawn(f"worker-{n}", worker, env)
        streams = len(self._setup.streams)
        self._wait_until("all services knowing each other", lambda: _is_complete(self._config(), streams))

    def _start_store(self) -> str:
        """Ours listens on a unix socket, for which dranspose has no address; ask it for a port besides."""
        self._redis = redis.Redis.from_url(self._store.start().url, decode_responses=True, protocol=2)
        port = free_port()
        for name, value in (("appendonly", "no"), ("bind", "127.0.0.1"), ("port", str(port))):
            try:
                self._redis.config_set(name, value)
            except redis.ResponseError as error:
                raise BenchFailure(f"the control store cannot serve dranspose ({name}: {error})") from None
        return f"redis://127.0.0.1:{port}/0"

    def _spawn_http(self, service: str, url: str, env: Mapping[str, str]) -> None:
        self._spawn(service, [str(_HTTP), service, url.rpartition(":")[2]], env)
        self._wait_until(f"the {service}", lambda: self._answers(url))

    def _spawn(self, name: str, arguments: list[str], env: Mapping[str, str]) -> None:
        # The app's folder is where it looks for classes.
        process = Process(f"dranspose-{name}", [str(PYTHON), *arguments], folder=self._folder, cwd=APP, env=env)
        self._processes.append(process)

    def close(self) -> None:
        """Kill it: it keeps nothing that would need a tidy end."""
        for process in self._processes:
            process.kill()
        self._processes.clear()
        if self._redis is not None:
            self._redis.close()
        self._store.stop()
        self._http.close()
        self._temporary.cleanup()

    # -- a scan ----------------------------------------------------------------------------------------------

    def scan(self, scan: Scan) -> Measured:
        """One scan, until the controller sends out that it is finished; then its reducer must have every event."""
        self._check_processes()
        body = sequence(scan, self._setup.names)
        seen = self._newest_update()
        before = cpu_seconds(self.roots())
        uuid = self._submit(body)
        with Source(self._setup, self._urls, scan) as source:
            ended = self._wait_finished(uuid, seen, source, scan)
            cpu = spent(before, cpu_seconds(self.roots()))
            started = source.started(self._deadline_s)
        self._wait_until("every service having finished", lambda: self._progress()["finished"])
        state = published(self._http, self._reducer)
        check_state(self.name, scan, self._setup, state)
        return Measured(scan.events, ended - started, cpu, state)

    def submit(self, scan: Scan) -> float:
        """Its answer comes when every service has taken the map up."""
        self._check_processes()
        body = sequence(scan, self._setup.names)
        began = time.monotonic()
        self._submit(body)
        seconds = time.monotonic() - began
        self._stop()
        return seconds

    def roots(self) -> list[int]:
        """Every service, and the store."""
        return [*(p.pid for p in self._processes), self._store.pid]

    def viewed(self) -> tuple[str, str]:
        """Two ports of ours."""
        return self._reducer, self._controller

    def _submit(self, body: Mapping[str, Any]) -> str:
        try:
            answer = self._http.post(f"{self._controller}/api/v1/sequence", json=body)
        except httpx.HTTPError as error:
            raise BenchFailure(f"dranspose does not take the trigger map: {error!r}{self._last_words()}") from None
        if answer.is_error:
            raise BenchFailure(f"dranspose refuses the trigger map: {answer.text}{self._last_words()}")
        return str(answer.json())

    def _stop(self) -> None:
        try:
            self._http.post(f"{self._controller}/api/v1/stop").raise_for_status()
        except httpx.HTTPError as error:
            raise BenchFailure(f"dranspose does not stop a scan: {error!r}{self._last_words()}") from None

    def _wait_finished(self, uuid: str, seen: str, source: Source, scan: Scan) -> float:
        """When the controller told its services that the scan is finished, in seconds since the epoch, by the
        store's clock, in whole milliseconds."""
        deadline = time.monotonic() + self._deadline_s
        while True:
            for entry, fields in self._updates_after(seen):
                update = json.loads(fields["data"])
                if update["finished"] and update["mapping_uuid"] == uuid:
                    return int(entry.partition("-")[0]) / 1000
                seen = entry
            self._check_processes()
            source.check()
            if time.monotonic() > deadline:
                raise BenchFailure(self._late(scan))

    def _newest_update(self) -> str:
        newest: Any = self._connected().xrevrange(_UPDATES, count=1)
        return str(newest[0][0]) if newest else "0-0"

    def _updates_after(self, seen: str) -> list[tuple[str, dict[str, str]]]:
        """Waits up to a second for the next ones, without costing anybody anything."""
        answer: Any = self._connected().xread({_UPDATES: seen}, block=1000)
        return list(answer[0][1]) if answer else []

    # -- looking in ------------------------------------------------------------------------------------------

    def _connected(self) -> redis.Redis:
        if self._redis is None:
            raise BenchFailure("dranspose was not started")
        return self._redis

    def _check_processes(self) -> None:
        for process in self._processes:
            process.check()
        if not self._store.alive:
            raise BenchFailure("dranspose's control store ended")

    def _wait_until(self, what: str, condition: Callable[[], Any]) -> None:
        def look() -> Any:
            self._check_processes()
            return condition()

        wait_for(look, START_S, lambda: f"dranspose HANGS: no sign of {what} in {START_S:.0f} s{self._last_words()}")

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(f"{url}/openapi.json").is_success
        except httpx.TransportError:
            return False

    def _config(self) -> Any:
        return self._get(f"{self._controller}/api/v1/config")

    def _progress(self) -> Any:
        return self._get(f"{self._controller}/api/v1/progress")

    def _get(self, url: str) -> Any:
        try:
            return self._http.get(url).raise_for_status().json()
        except httpx.HTTPError as error:
            raise BenchFailure(f"dranspose does not answer GET {url}: {error!r}{self._last_words()}") from None

    def _late(self, scan: Scan) -> str:
        return (
            f"dranspose HANGS: a scan of {scan.events:,} events in batches of {scan.batch} has not ended after "
            f"{self._deadline_s:.0f} s; {self._standing()}{self._last_words()}"
        )

    def _standing(self) -> str:
        try:
            return f"its progress: {self._progress()}; folded: {published(self._http, self._reducer)}"
        except BenchFailure as silence:
            return str(silence)

    def _last_words(self) -> str:
        said = [(p.name, p.tail(4)) for p in self._processes if p.output()]
        return "".join(f"\n  {name} said last:{tail}" for name, tail in said)


def _local() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def _is_complete(config: dict[str, Any], streams: int) -> bool:
    """Whether the ingester of every stream and every worker know each other, and there is a reducer for the results."""
    ingesters, workers = config["ingesters"], config["workers"]
    return bool(
        config["reducer"]
        and len(ingesters) == streams
        and all(len(i["connected_workers"]) == WORKERS for i in ingesters)
        and len(workers) == WORKERS
        and all(len(w["ingesters"]) == streams for w in workers)
    )
