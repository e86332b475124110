"""Who an address lets in."""

from __future__ import annotations

import pytest

from beamfold.app.addresses import connecting_url, is_loopback, listening_http, listening_url, split_host_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:*", ("localhost", 0)),
        ("[::1]:5000", ("::1", 5000)),
        ("beam-line.example:65535", ("beam-line.example", 65535)),
    ],
)
def test_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize("text", ["", ":5000", "host", "host:", "host:65536", "a b:1", "::1:5000", "h:1/x", "h:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        split_host_port(text)


def test_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "*", "10.0.0.1", "example.org", "127.0.0.1.example", ""]))


def test_listening_stays_on_this_machine_and_connecting_need_not() -> None:
    assert listening_http("127.0.0.1:0") == "127.0.0.1:0"
    for url in ("tcp://127.0.0.1:*", "tcp://[::1]:0", "ipc:///tmp/socket"):
        assert listening_url(url) == url
    for url in ("tcp://10.1.2.3:9999", "tcp://detector:9999", "ipc:///tmp/socket"):
        assert connecting_url(url) == url
    for refuse in (lambda: listening_http("*:80"), lambda: listening_url("tcp://eth0:80")):
        with pytest.raises(ValueError, match="needs a token"):
            refuse()
    for wrong in ("tcp://", "udp://h:1", "ipc://", "h:1"):
        with pytest.raises(ValueError, match="write tcp://host:port or ipc"):
            connecting_url(wrong)
