"""HTTP beside a main thread that is busy."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest

from beamfold.model.errors import ConfigError
from beamfold.publish.reducer_http import HttpThread, build_reducer_app
from flow.deployment import wait_until
from unit.publish.played import Played


def test_an_app_is_served_from_a_thread_and_ends() -> None:
    http = HttpThread(build_reducer_app(lambda _: {"a": 1}))
    try:
        with httpx.Client(trust_env=False, base_url=http.url) as client:
            assert client.get("/api/v1/state/a").json() == 1
    finally:
        http.stop()
    assert not [t for t in threading.enumerate() if t.name == "http"]


def test_it_ends_within_a_second_though_somebody_still_waits() -> None:
    asked, never = threading.Event(), threading.Event()

    def read(timeout: float) -> None:
        asked.set()
        never.wait(60)

    http = HttpThread(build_reducer_app(read))
    host, port = http.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /api/v1/state HTTP/1.1\r\nHost: test\r\n\r\n")
        assert asked.wait(10)
        began = time.monotonic()
        http.stop()
        assert time.monotonic() - began < 1.0
        assert b" 503 " in client.recv(4096)  # it was told
    never.set()
    assert not [t for t in threading.enumerate() if t.name == "http"]


def test_a_client_that_follows_the_log_is_forgotten_when_it_leaves_and_let_go_at_the_end() -> None:
    controller = Played()
    notes = controller.service.notes
    http = HttpThread(controller.app)
    host, port = http.url.removeprefix("http://").split(":")
    request = b"GET /api/v1/log_stream HTTP/1.1\r\nHost: test\r\n\r\n"
    with socket.create_connection((host, int(port))) as leaving, socket.create_connection((host, int(port))) as client:
        leaving.sendall(request)
        client.sendall(request)
        assert b" 200 " in leaving.recv(4096)
        assert b" 200 " in client.recv(4096)
        wait_until(lambda: notes.readers == 2, "both read along")
        leaving.close()
        wait_until(lambda: notes.readers == 1, "the one that left is forgotten")
        http.stop()
        assert client.recv(4096) == b"0\r\n\r\n"  # the end of a body, not of a connection
    assert notes.readers == 0
    assert not [t for t in threading.enumerate() if t.name == "http"]
    controller.close()


def test_an_address_that_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            HttpThread(build_reducer_app(lambda _: None), port=port)
