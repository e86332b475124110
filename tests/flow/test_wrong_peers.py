"""Whoever connects to a port of a running scan, and whatever they send: the scan ends with the right result."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq

from beamfold.protocols import envelopes as e
from beamfold.protocols import messages as m
from beamfold.protocols.tokens import proven
from beamfold.protocols.zmtp import GREETING
from beamfold.transport.line import Caller
from corpus import cases, insane_messages
from flow.deployment import PATIENCE, Deployment, Stream, wait_until
from flow.witness import APP, frames, in_step, seen

EVENTS = 40
PORTS = ["control", "ingester", "reducer"]
CORPUS = [case.parts for case in cases() if case.parts]


REFUSED = [r"install the same version for all services", r"the token of this deployment"]
"""What the controller says of messages of the corpus: a person should know."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("wrong")
    with Deployment(folder, APP, {"a": Stream()}, parameters={"p": "0"}, complaints=REFUSED) as deployment:
        yield deployment


def port(deployment: Deployment, name: str) -> str:
    """The ZeroMQ address of a service."""
    if name == "control":
        return next(filter(None, (re.search(r"services connect to (\S+)", line) for line in deployment.lines)))[1]
    config = deployment.get("config").json()
    return str(config["reducer"]["url"] if name == "reducer" else config["ingesters"][0]["url"])


def connect(url: str) -> socket.socket:
    """A plain connection to where this address leads."""
    if url.startswith("ipc://@"):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(PATIENCE)
        stranger.connect("\0" + url.removeprefix("ipc://@"))
        return stranger
    where = urlsplit(url)
    assert where.hostname and where.port
    return socket.create_connection((where.hostname, where.port), PATIENCE)


def survives(deployment: Deployment, attack: Callable[[int], None]) -> None:
    """A scan, attacked in the middle, ends with every event reduced once, and with nothing to complain of."""
    scan = deployment.submit({"streams": ["a"], "events": EVENTS})
    sent = frames(EVENTS)
    deployment.send("a", sent[: EVENTS // 2])
    deployment.wait_reached(EVENTS // 4)
    attack(deployment.report(scan)["number"])
    deployment.send("a", sent[EVENTS // 2 :])
    report = deployment.wait_ended(scan)
    assert (report["ended"], report["summary"]) == ("finished", f"{EVENTS} events: {EVENTS} reduced")
    assert (report["troubles"], report["failures"], report["duplicates"]) == ([], [], 0)
    assert seen(deployment.state()) == in_step("a", range(1, EVENTS + 1))


def dealer(url: str, messages: list[list[bytes]], identity: bytes | None = None, *, raw: bool = False) -> None:
    """A stranger sends these messages, and goes once they are with whoever listens there. `raw`: without a line."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, int(PATIENCE * 1000))
        stranger.setsockopt(zmq.SNDHWM, 0)
        if identity is not None:
            stranger.setsockopt(zmq.IDENTITY, identity)
        stranger.connect(url)
        say = stranger.send_multipart if raw else Caller(stranger.send_multipart).say
        for parts in messages:
            say(parts)
    context.term()


@pytest.mark.parametrize("name", PORTS)
@pytest.mark.parametrize("begin", [b"", GREETING, GREETING + b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x06DEALER"])
def test_bytes_that_are_no_zeromq_change_nothing(deployment: Deployment, name: str, begin: bytes) -> None:
    def attack(_: int) -> None:
        for junk in (b"\x00" * 500, b"\xff" * 500, b"GET / HTTP/1.1\r\n\r\n", b"\x02" + b"\xff" * 8, b"\x03\x7f"):
            with connect(url) as stranger:
                stranger.sendall(begin + junk)

    url = port(deployment, name)
    survives(deployment, attack)


@pytest.mark.parametrize("url", ["controller_url", "reducer_url"])
def test_bytes_that_are_no_http_change_nothing(deployment: Deployment, url: str) -> None:
    def attack(_: int) -> None:
        for parts in CORPUS[:: len(CORPUS) // 100]:
            for before in (b"", b"POST /api/v1/sequence HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n"):
                with connect(getattr(deployment, url)) as stranger:
                    stranger.sendall(before + b"".join(parts)[: 1 << 16])

    survives(deployment, attack)


@pytest.mark.parametrize("name", PORTS)
def test_hostile_messages_of_a_stranger_change_nothing(deployment: Deployment, name: str) -> None:
    """Before a scan and while it runs, also when they are about that scan."""

    def attack(scan: int) -> None:
        messages = [*CORPUS, *(case.parts for case in insane_messages(scan))]
        dealer(port(deployment, name), messages)
        dealer(port(deployment, name), messages, raw=True)

    attack(0)
    survives(deployment, attack)
    assert [service["name"] for service in deployment.get("config").json()["workers"]] == ["worker-0", "worker-1"]


@pytest.mark.parametrize("name", PORTS)
def test_a_message_part_of_gigabytes_cuts_off_its_sender(deployment: Deployment, name: str) -> None:
    """It says what is coming; nobody waits for that, or makes room for it."""

    def attack(_: int) -> None:
        with connect(port(deployment, name)) as stranger:
            stranger.sendall(GREETING + b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER")
            stranger.sendall(b"\x02" + (3 << 30).to_bytes(8, "big") + b"x")
            while stranger.recv(1 << 16):
                pass

    survives(deployment, attack)


# -- who pretends to be somebody ----------------------------------------------------------------------------------


def test_a_stranger_who_has_a_workers_name_on_the_data_ports_changes_nothing(deployment: Deployment) -> None:
    def attack(scan: int) -> None:
        header = e.ResultBatch(scan, 0, 1, 1 << 40, (EVENTS, 1), 0, 1, bytes(4), [], [], [])
        dealer(port(deployment, "reducer"), [[e.encode_header(header), b""]] * 3, b"worker-0")
        grants: list[Any] = [e.Grant(scan, 0, 1 << 30), e.Attach(1), e.LetGo(bytes(range(80)))]
        dealer(port(deployment, "ingester"), [[e.encode_header(grant)] for grant in grants], b"worker-0")

    survives(deployment, attack)


def test_nobody_is_told_the_identities_of_services(deployment: Deployment) -> None:
    """With that of a worker one could speak in its place; what clients are shown takes no service's connection over."""
    shown = [service["service_uuid"] for service in deployment.get("config").json()["workers"]]
    assert shown

    def attack(scan: int) -> None:
        for text in shown:
            for identity in (text, text.replace("-", "")):
                dealer(port(deployment, "control"), [[m.encode_message(m.Failed(scan, "no"))]], identity.encode())

    survives(deployment, attack)


def pretend(deployment: Deployment, role: str, name: str, *said: m.Message, token: str = "") -> None:
    """A stranger says that it is this service, and more; it is refused."""
    facts = m.Hello(role, name, "stranger", version("beamfold"), 1, "elsewhere", url="tcp://127.0.0.1:9")
    refusal = f"{role} {name} (pid 1 on elsewhere) was refused: it does not have the token"
    before = sum(refusal in line for line in deployment.lines)
    messages = [proven(facts, token), *said]
    dealer(port(deployment, "control"), [[m.encode_message(message)] for message in messages], b"stranger")
    wait_until(lambda: sum(refusal in line for line in deployment.lines) > before, "its refusal")


@pytest.mark.parametrize("role", ["ingester", "worker", "reducer", "supervisor"])
def test_who_says_that_it_is_a_new_service_has_no_part_in_the_scan_that_runs(deployment: Deployment, role: str) -> None:
    def attack(scan: int) -> None:
        finished = m.PartsDone(scan, [], {}, EVENTS, finished=True)
        lies = [finished, m.Armed(scan, "no"), m.Failed(scan, "no"), m.Finished(scan, error="no")]
        pretend(deployment, role, "stranger", *lies)

    survives(deployment, attack)


@pytest.mark.parametrize("role", ["ingester", "worker", "reducer"])
def test_who_only_says_that_it_is_a_service_keeps_no_scan_from_beginning(deployment: Deployment, role: str) -> None:
    pretend(deployment, role, "a-stranger")
    survives(deployment, lambda _: None)


@pytest.mark.parametrize(("role", "name"), [("ingester", "a"), ("worker", "worker-0"), ("reducer", "reducer")])
def test_who_says_that_it_is_a_service_that_exists_does_not_take_its_place(
    deployment: Deployment, role: str, name: str
) -> None:
    def attack(_: int) -> None:
        pretend(deployment, role, name)
        pretend(deployment, role, name, token="another token than theirs")

    survives(deployment, attack)


def test_who_says_that_it_is_a_supervisor_declares_nobody_dead(deployment: Deployment) -> None:
    gone = m.Gone("worker", "worker-0", "a lie")
    survives(deployment, lambda _: pretend(deployment, "supervisor", "supervisor", gone))


def test_nobody_is_shown_the_token(deployment: Deployment) -> None:
    """It is in a file of the user who started the run, and in the environment of the processes."""
    (path,) = (deployment.folder / "output").glob(".*.token")
    token = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    shown = [deployment.get(what).text for what in ("config", "status", "logs")]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in deployment.processes()]
    assert len(token) == 64
    assert not [text for text in (*shown, *commands, *deployment.lines) if token in text]
