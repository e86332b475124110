"""Addresses in a run file: `host:port` for HTTP, `tcp://host:port` or `ipc://path` for ZeroMQ.

Port 0 (for ZeroMQ also `*`) takes a free one. Nothing listens beyond this machine: that would want a token
for HTTP and keys for ZeroMQ, and what cannot be protected is refused. Every function raises ValueError with
the whole text.
"""

from __future__ import annotations

import ipaddress
import re

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5}|\*)")


def split_host_port(text: str) -> tuple[str, int]:
    """Host (an IPv6 one without its brackets) and port of `127.0.0.1:0`; `*` counts as 0."""
    found = _HOST_PORT.fullmatch(text)
    port = 0 if not found or found["port"] == "*" else int(found["port"])
    if not found or port > 65535:
        raise ValueError(f"{text!r} is not an address; write host:port, such as 127.0.0.1:5000")
    return found["host"].strip("[]"), port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listening_http(text: str) -> str:
    """Check an HTTP address to listen on; returns it."""
    host, _ = split_host_port(text)
    _refuse_beyond_loopback(host, text)
    return text


def listening_url(url: str) -> str:
    """Check a ZeroMQ URL to bind; returns it."""
    host_port = _after_tcp(url)
    if host_port is not None:
        _refuse_beyond_loopback(split_host_port(host_port)[0], url)
    return url


def connecting_url(url: str) -> str:
    """Check a ZeroMQ URL to connect to, which may be anywhere; returns it."""
    host_port = _after_tcp(url)
    if host_port is not None:
        host, port = split_host_port(host_port)
        if port == 0 or host == "*":
            raise ValueError(f"{url!r} has no host and port to connect to; write tcp://host:port, or bind = true")
    return url


def readable_directly(url: str) -> bool:
    """Whether a detector at this URL can be read without ZeroMQ's library: TCP, a host's name or an IPv4 number."""
    return re.fullmatch(r"tcp://[A-Za-z0-9_.*-]+:(\d{1,5}|\*)", url) is not None


def takes_free_port(url: str) -> bool:
    """Whether any free port will do, so that the same URL may be listened on several times."""
    return url.endswith((":0", ":*"))


def _after_tcp(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    if scheme == "ipc" and rest:
        return None
    if scheme != "tcp" or not rest:
        raise ValueError(f"{url!r} is not a usable ZeroMQ address; write tcp://host:port or ipc:///path")
    return rest


def _refuse_beyond_loopback(host: str, text: str) -> None:
    if not is_loopback(host):
        raise ValueError(
            f"{text!r} would listen beyond this machine, which needs a token (HTTP) or keys (ZeroMQ): that "
            "does not exist yet; listen on 127.0.0.1 and let others in through an SSH tunnel or a proxy"
        )
