"""A connection that fails: a TCP proxy between two services, or a detector and its ingester, for tests of faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from beamfold.model.errors import ConfigError

T = TypeVar("T")

CHUNK = 64 << 10
"""Bytes handed on at a time."""


class FaultProxy:
    """`with FaultProxy(target) as proxy`: who connects to `proxy.url` is connected to `target` (tcp://host:port).

    The target may be given later; whoever comes before that is turned away, and has to try again. Works in a thread of
    its own, and on loopback. `connections` counts those that were made. Raises ConfigError for another kind of target.
    """

    def __init__(self, target: str = "") -> None:
        self.connections = 0
        self.url = ""
        self._where = ("", 0)
        if target:
            self.aim(target)
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._holds = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def aim(self, target: str) -> None:
        """New connections go there."""
        parts = urlsplit(target)
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            raise ConfigError(f"a fault proxy cannot hand on to {target!r}: give it tcp://host:port")
        self._where = (parts.hostname, parts.port)

    def cut(self) -> int:
        """Break all connections, as a cable that is pulled does; what was on its way is lost. How many there were.

        They may be made again at once.
        """
        return self._do(self._cut)

    def delay(self, seconds: float) -> None:
        """Hold back for so long what comes, in both directions; nothing of it is lost."""

        def hold() -> None:
            self._holds += 1
            self._flows.clear()
            self._loop.call_later(seconds, self._release)

        self._do(hold)

    def restart(self, seconds: float) -> None:
        """Break all connections, and let nobody connect for so long."""

        def close() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
                self._cut()
                self._loop.call_later(seconds, lambda: self._loop.create_task(self._listen()))

        self._do(close)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -- in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _do(self, what: Callable[[], T]) -> T:
        async def call() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _listen(self) -> None:
        port = urlsplit(self.url).port or 0
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._pair(reader, writer))
        self._pairs.add(task)
        task.add_done_callback(self._pairs.discard)

    async def _pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or it is cut."""
        ends = [writer]
        try:
            there, back = await asyncio.open_connection(*self._where)
            ends.append(back)
            self.connections += 1
            pumps = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # nobody is there yet: the other side tries again
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()

    def _cut(self) -> int:
        for pair in self._pairs:
            pair.cancel()
        return len(self._pairs)

    def _release(self) -> None:
        self._holds -= 1
        if not self._holds:
            self._flows.set()

    async def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)
