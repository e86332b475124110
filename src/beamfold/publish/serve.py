"""Serving an app with uvicorn, on a socket that we bound ourselves: its port is known before it runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from beamfold.model.errors import ConfigError

STOP_SECONDS = 1.0
"""How long answers that are under way may take at the end."""


class HttpServer(uvicorn.Server):
    """A uvicorn that leaves signals to us. `url` is where it listens.

    An app whose requests may wait for something says how to end that: a callable as `app.state.on_stop`.
    Raises ConfigError when the address cannot be had. `port` 0 takes a free one.
    """

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        super().__init__(config)
        self._on_stop: Callable[[], None] | None = getattr(app.state, "on_stop", None)
        self._socket = listen(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"

    async def run_here(self) -> None:
        """Serve on the running loop until `should_exit` is set."""
        await self.serve(sockets=[self._socket])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `serve` at its end."""
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpThread:
    """An app served from a daemon thread with a loop of its own, beside a main thread that is busy."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = HttpServer(app, host, port)
        self.url = self._server.url
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._server.run_here())

    def stop(self) -> None:
        """End it; answers under way have about a second."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(STOP_SECONDS)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError, which says what to change, when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: else each answer waits 40 ms for the client's ACK.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(512)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"cannot serve HTTP on {host}:{port}: {error.strerror or error}; name an address of this machine "
            "with a free port, or port 0 for any"
        ) from error
    return found
