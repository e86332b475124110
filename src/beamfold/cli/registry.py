"""How services find their controller, and how a controller makes sure that it is the only one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from beamfold.app.addresses import split_host_port
from beamfold.app.runfile import RunFile, read_token
from beamfold.ledger.base import Ledger
from beamfold.model.errors import ConfigError, LedgerUnavailable

STORE_VARIABLE = "BEAMFOLD_STORE__URL"
RECORD_VARIABLE = "BEAMFOLD_RECORD__DIRECTORY"
CONTROL_VARIABLE = "BEAMFOLD_CONTROLLER__CONTROL"
TOKEN_VARIABLE = "BEAMFOLD_CONTROLLER__TOKEN"  # noqa: S105 (its name)

RETRY = 0.1
"""Seconds between two looks into the ledger."""

PATIENCE = 10.0
"""Seconds between two lines that say what is waited for."""

PROBE = 1.0
"""Seconds in which a controller on a healthy network takes a connection."""

Say = Callable[[str], None]


def open_ledger(settings: RunFile) -> Ledger:
    """The ledger of this run. ConfigError when the run file and the environment name no store."""
    from beamfold.ledger.redis import (
        RedisLedger,
    )  # half a second that a service with a fixed address is spared

    if settings.store.url is None:
        raise ConfigError(
            "there is no control store: set [store] url in the run file or REDIS_URL, "
            "or start everything at once with `beamfold run`, which brings its own"
        )
    return RedisLedger(settings.store.url, settings.run.name)


def shown_path(settings: RunFile) -> Path:
    """Where a reducer keeps what it published last, for another one that takes its place in the same run."""
    return settings.output.directory.absolute() / f".{settings.run.name}.shown"


def controller_address(ledger: Ledger) -> dict[str, str] | None:
    """The addresses `control` and `http` of the controller that the ledger knows, None when there is none."""
    return ledger.services().get(("controller", "controller"))


def claim(ledger: Ledger, token: str, name: str, say: Say, *, alone: bool = False) -> int:
    """Become the owner of the controller's role; returns the epoch.

    `alone`: nobody else can reach this store, so that whoever had the role is gone. Otherwise a former controller that
    was killed is waited for until its lease has run out, and for as long a store that does not answer: it may be busy,
    or just starting. ConfigError at once when another one is alive, LedgerUnavailable when the store still does not
    answer after that.
    """
    from beamfold.dispatch.service import LEASE  # with all of the controller behind it

    deadline = time.monotonic() + LEASE + 1
    waiting = False
    while True:
        try:
            epoch = ledger.acquire_owner(token, LEASE, over=alone)
            if epoch is not None:
                ledger.withdraw("controller", "controller")  # a former one's address leads nowhere
                return epoch
            there = controller_address(ledger)
        except LedgerUnavailable as error:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                say(f"waiting for the control store: {error}")
                waiting = True
            time.sleep(RETRY)
            continue
        if time.monotonic() > deadline or (there is not None and reachable(there["control"])):
            where = f" at {there['http']}" if there else ""
            raise ConfigError(
                f"a controller for {name!r} runs already{where}: stop it first, or give this run another "
                "[run] name or store"
            )
        if not waiting:
            say(f"a former controller of {name!r} has left: waiting until its lease has run out")
            waiting = True
        time.sleep(RETRY)


def find_controller(settings: RunFile, say: Say) -> str:
    """The controller's control address: the run file's where it is fixed, else the ledger's, once it is
    there.

    Waits for as long as it takes, and says so now and then.
    """
    if is_fixed(settings.controller.control):
        return settings.controller.control
    ledger = open_ledger(settings)
    told = -PATIENCE
    try:
        while True:
            try:
                there = controller_address(ledger)
                why = "it is not there yet" if there is None else f"nothing answers at {there['control']}"
            except LedgerUnavailable as error:
                there, why = None, str(error)
            if there is not None and reachable(there["control"]):
                return there["control"]
            if time.monotonic() - told >= PATIENCE:
                # Silent at first: that services of one run start together is the ordinary case.
                if told > 0:
                    say(f"waiting for the controller of {settings.run.name!r}: {why}")
                told = time.monotonic() if told > 0 else time.monotonic() - PATIENCE + 1
            time.sleep(RETRY)
    finally:
        ledger.close()


def token_path(settings: RunFile) -> Path:
    """Where `beamfold run` leaves the token that it made, for its own user alone."""
    return settings.output.directory.absolute() / f".{settings.run.name}.token"


def deployment_token(settings: RunFile) -> str:
    """The token with which a service says Hello: the run file's, else that of a `beamfold run` which made its own."""
    path = token_path(settings)
    return settings.token() or (read_token(path) if os.access(path, os.R_OK) else "")


def is_fixed(url: str) -> bool:
    """Whether a listening address is known before somebody listens there."""
    return not url.endswith((":0", ":*"))


def reachable(url: str) -> bool:
    """Whether something takes connections at a ZeroMQ address; tcp and ipc are asked, others count as yes."""
    scheme, _, address = url.partition("://")
    try:
        if scheme == "tcp":
            socket.create_connection(split_host_port(address), timeout=PROBE).close()
        elif scheme == "ipc":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(PROBE)
                probe.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError:
        return False
    return True
