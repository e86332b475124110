"""`GET /status` and `GET /load`: what older clients list without bounds, of which the newest is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beamfold.dispatch.load import Load
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.scan import Scan
from beamfold.dispatch.services import Service
from beamfold.model.triggermap import bits
from beamfold.protocols.messages import Block
from beamfold.publish.controller.answers import NEWEST

LOOK_BACK = 10 * NEWEST
"""Events below the last one that are looked at for completed ones."""

MAX_SHARED = 64
"""Virtual workers that are looked at for one event."""

LONG = 10_000
"""Parts of a virtual worker beyond which it is taken to have every event of its span."""

TIMES = 10
"""Intervals shown of each worker."""


def status(machine: ControllerMachine, store: str = "") -> dict[str, Any]:
    """The scan's progress, and the services with what they last said; `store`: what is wrong with the control store.

    The shape is `models.Status`.
    """
    progress, scan = machine.progress(), machine.scan
    events = [] if scan is None else _completed(scan)
    services = {
        s.key: {**s.stats, "gone": s.gone, "error": s.hello.error, "seen": s.seen} for s in machine.services.values()
    }
    return {
        **progress,
        "work_completed": {} if scan is None else {str(e): _workers(scan, e) for e in events},
        "assignment": [] if scan is None else [_assigned(scan)],
        "completed_events": events,
        "processing_times": {s.hello.name: _times(s) for s in _workers_of(machine)},
        "services": services,
        "parameters": machine.version,
        "store": store,
        "latency": {} if scan is None else scan.latency_by_stage(),
    }


def load(machine: ControllerMachine, intervals: Sequence[int], scan: bool) -> dict[str, Any]:
    """By worker of the present (or last) scan; intervals in seconds. The shape is {worker: `models.WorkerLoad`}."""
    found = {}
    for service in _workers_of(machine):
        spans = {str(seconds): _shown(service.load.newest(seconds)) for seconds in intervals}
        if scan:
            spans["scan"] = _shown(service.load.whole)
        found[service.hello.name] = {"last_event": service.load.last_event, "intervals": spans}
    return found


def _shown(load: Load) -> dict[str, Any]:
    return {"total": load.total, "active": load.active, "events": load.events}


def _workers_of(machine: ControllerMachine) -> list[Service]:
    """The workers that said something about the present (or last) scan."""
    scan = machine.scan
    if scan is None:
        return []
    workers = [s for s in machine.services.values() if s.hello.role == "worker" and s.load.scan == scan.number]
    return sorted(workers, key=lambda s: s.hello.name)


def _times(service: Service) -> dict[str, Any]:
    """Seconds that are not told apart are those in which no user code ran."""
    nothing = dict.fromkeys(("get_assignments", "assemble_event", "send_result"), 0.0)
    return {
        str(last): {
            **nothing,
            "get_messages": max(0.0, step.total - step.active),
            "custom_code": max(0.0, step.active),
            "no_events": step.events,
        }
        for last, step in service.load.steps(TIMES)
    }


def _completed(scan: Scan) -> list[int]:
    """The newest events that are terminal, ascending."""
    recent = range(max(0, scan.reached - LOOK_BACK), scan.reached)
    return [event for event in recent if scan.states[event]][-NEWEST:]


def _assigned(scan: Scan) -> dict[str, str]:
    """The newest virtual workers, by number, and the workers that they are."""
    found: dict[str, str] = {}
    for block in reversed(scan.recent):
        for virtual in range(block.hi - 1, block.lo - 1, -1):
            if len(found) == NEWEST:
                return found
            found.setdefault(str(virtual), scan.workers[block.worker])
    return found


def _workers(scan: Scan, event: int) -> list[str]:
    """Who worked on an event, as far as it is remembered."""
    trigger_map, blocks = scan.map, list(scan.recent)
    first = trigger_map.virtual_over(event)
    among = range(first, min(trigger_map.virtual_before(event + 1), first + MAX_SHARED))
    found = {_worker_of(blocks, v) for v in among if _has(scan, v, event)} - {-1}
    for group in bits(trigger_map.groups_of(event)):
        found |= {w for w, place in enumerate(scan.places) if trigger_map.groups[group] <= place.tags}
    return [scan.workers[w] for w in sorted(found)]


def _has(scan: Scan, virtual: int, event: int) -> bool:
    if scan.map.part_total(virtual, virtual + 1) > LONG:
        return True
    return event in scan.map.parts_of(virtual, virtual + 1)[0].tolist()


def _worker_of(blocks: Sequence[Block], virtual: int) -> int:
    """The logical worker; -1 for one that was assigned too long ago."""
    return next((b.worker for b in reversed(blocks) if b.lo <= virtual < b.hi), -1)  # it may have been assigned again
