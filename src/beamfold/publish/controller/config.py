"""`GET /config`: the services in the shape in which older clients read them, with what we add."""

from __future__ import annotations

import hashlib
import time
import uuid
from importlib.metadata import version as version_of
from typing import Any

from beamfold.app.declared import from_wire, hash_of
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.services import Service
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import ParameterSet


def config(machine: ControllerMachine) -> dict[str, Any]:
    """Which services there are, with what they offer. The shape is `models.Config`."""
    describe = _Describer(machine)
    ingesters, workers = (alive(machine, role) for role in ("ingester", "worker"))
    reducers = alive(machine, "reducer")
    return {
        "ingesters": [describe.ingester(s, workers) for s in ingesters],
        "workers": [describe.worker(s, ingesters) for s in workers],
        "reducer": describe.reducer(reducers[0]) if reducers else None,
        "controller_version": describe.software,
        "parameters_version": _versions(machine),
        "parameters_hash": describe.hash,
    }


def alive(machine: ControllerMachine, role: str) -> list[Service]:
    """The services of a role that are there, by name."""
    found = [s for s in machine.services.values() if s.hello.role == role and not s.gone]
    return sorted(found, key=lambda s: s.hello.name)


class _Describer:
    """Describes services. They are all at the same parameters: a change reaches them before events are made with it."""

    def __init__(self, machine: ControllerMachine) -> None:
        self._scan = machine.scan
        self._now = time.time()
        self.hash = hash_of(machine.declared(), machine.values) or None
        self.software = version_of("beamfold")

    def _service(self, s: Service) -> dict[str, Any]:
        hello, scan, load = s.hello, self._scan, s.load
        armed = scan is not None and s.key in scan.services
        counted = scan is not None and load.scan == scan.number
        return {
            "service_uuid": uuid_of(hello.uuid),
            "mapping_uuid": scan.scan_id if armed and scan is not None else None,
            "dranspose_version": hello.version,
            "mapreduce_version": None,
            "parameters_hash": self.hash,
            "processed_events": load.whole.events if counted else 0,
            "event_rate": load.rate(self._now) if counted else 0.0,
            "name": hello.name,
            "version": hello.version,
            "pid": hello.pid,
            "host": hello.host,
            "error": hello.error,
        }

    def ingester(self, s: Service, workers: list[Service]) -> dict[str, Any]:
        connected = {
            (known := uuid_of(w.hello.uuid)): {"name": w.hello.name, "service_uuid": known, "last_seen": w.seen}
            for w in workers
        }
        streams = [info.name for info in s.hello.streams]
        return {**self._service(s), "url": s.hello.url, "connected_workers": connected, "streams": streams}

    def worker(self, s: Service, ingesters: list[Service]) -> dict[str, Any]:
        # Not all workers in every ingester of every worker: that would grow with the square of their number.
        fetched = [self.ingester(i, [s]) for i in ingesters]
        return {**self._service(s), "tags": s.hello.tags, "ingesters": fetched}

    def reducer(self, s: Service) -> dict[str, Any]:
        return {**self._service(s), "url": s.hello.url, "http": s.hello.http}


def uuid_of(identity: str) -> str:
    """The UUID by which clients know a service. It does not tell the service's identity on the control channel: whoever
    knows that could speak in its place."""
    return _derived(identity.encode())


def _derived(data: bytes) -> str:
    """A UUID of version 4, by its bits, that is a function of the data."""
    return str(uuid.UUID(bytes=hashlib.sha256(data).digest()[:16], version=4))


def _versions(machine: ControllerMachine) -> dict[str, str]:
    """A UUID per parameter, declared or set: another one for every other value, and the same for the same."""
    try:
        known = ParameterSet.build([from_wire(p) for p in machine.declared()], machine.values, 0).raw()
    except ParameterError:
        known = machine.values
    # The name's length first, so that no other name and value come to the same bytes.
    return {n: _derived(b"%d:" % len(n.encode()) + n.encode() + data) for n, data in sorted(known.items())}
