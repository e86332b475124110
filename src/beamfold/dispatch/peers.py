"""Who may say what about a scan, and with which numbers: what a wrong, lost or confused peer says changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from beamfold.app.declared import from_wire
from beamfold.dispatch.blocks import LARGEST_WINDOW
from beamfold.dispatch.entries import cut
from beamfold.dispatch.scan import Scan
from beamfold.model.errors import ParameterError
from beamfold.model.states import EventState
from beamfold.protocols.messages import (
    Armed,
    Failed,
    FenceReached,
    Filled,
    Finished,
    FoldFailed,
    FramesMissing,
    Gone,
    Halted,
    Hello,
    Inventory,
    PartsDone,
    Run,
    StreamEnded,
    StreamSeen,
    ToController,
    Torn,
    Trouble,
)
from beamfold.protocols.stamps import LATEST
from beamfold.protocols.tokens import is_proven

SUPERVISOR = "supervisor"

_ROLES = frozenset({"ingester", "worker", "reducer", SUPERVISOR})

_SPEAKERS: dict[type, frozenset[str]] = {
    StreamSeen: frozenset({"ingester"}),
    StreamEnded: frozenset({"ingester"}),
    FramesMissing: frozenset({"ingester"}),
    Halted: frozenset({"ingester", "worker", "reducer"}),
    FenceReached: frozenset({"ingester", "worker", "reducer"}),
    PartsDone: frozenset({"reducer"}),
    FoldFailed: frozenset({"reducer"}),
    Torn: frozenset({"reducer"}),
    Failed: frozenset({"ingester", "worker", "reducer"}),
    Finished: frozenset({"worker", "reducer"}),
    Filled: frozenset({"ingester", "reducer"}),
    Armed: frozenset({"ingester", "worker", "reducer"}),
    Trouble: frozenset({"ingester", "worker", "reducer"}),
}

_NO_END = 1 << 53
"""Events of an endless map lie below this, as those of any other do."""

_AHEAD = 1 << 34
"""Events that became terminal lie at most so far beyond those that anybody has told of: the record of their states
takes memory for each chunk of them. As many come in days at the highest rates."""

_POSITIONS = 1 << 15
"""Positions of parts in their event lie below this."""


def bounded(message: ToController) -> ToController:
    """The message, with the texts that services make up for people no longer than a person reads.

    What a report keeps of them is cut where it is kept.
    """
    match message:
        case Hello() | Armed() if message.error:
            return msgspec.structs.replace(message, error=cut(message.error))
        case Gone():
            return msgspec.structs.replace(message, how=cut(message.how))
        case Failed():
            return msgspec.structs.replace(message, reason=cut(message.reason))
    return message


def is_ours(hello: Hello, peer: bytes, token: str) -> bool:
    """Whether who says this Hello has the deployment's token; where there is none ("") nobody is asked for it.

    The proof is for one identity: whoever has seen one cannot say the same on a connection of their own.
    """
    return not token or (hello.uuid.encode() == peer and is_proven(hello, token))


def fault_of(hello: Hello) -> str:
    """Why a service cannot take part as it introduces itself; "" when it can."""
    if hello.role not in _ROLES or not hello.name:
        return f"there is no role {hello.role!r} for a service named {hello.name!r}"
    try:
        for described in hello.parameters:
            from_wire(described)
    except ParameterError as error:
        return f"{hello.role} {hello.name}: {error}"
    return ""


def sound(hello: Hello, inventory: Inventory) -> bool:
    """Whether what a service says to know of a scan is what a service of its kind can know."""
    workers, arm = len(inventory.arm.workers), inventory.arm
    blocks = all(0 <= lo < hi <= _NO_END and -workers - 3 <= w < workers for lo, hi, w in inventory.blocks)
    if arm.scan != inventory.scan or not blocks or not 0 <= inventory.assigned <= _NO_END:
        return False
    match hello.role:
        case "ingester":
            return len(inventory.fillers) == workers and hello.name in {i.name for i in arm.ingesters}
        case "reducer":
            return len(inventory.fillers) == workers and inventory.done is not None
        case "worker":
            return hello.uuid in {w.uuid for w in arm.workers}
    return False


def credible(scan: Scan, hello: Hello, message: Any) -> bool:
    """Whether this service may say this, and whether the scan can have such numbers."""
    speakers = _SPEAKERS.get(type(message))
    if speakers is not None and hello.role not in speakers:
        return False
    match message:
        case PartsDone():
            return _parts(scan, message)
        case StreamSeen(_, stream, _, frames, last, retained) as m:
            more = (m.discarded, m.malformed, m.duplicates, m.late, m.strangers, m.out_of_order)
            counted = 0 <= m.paused < math.inf and _counts(
                frames, retained, m.shelved, m.spilled, m.payload_bytes, *more
            )
            came = m.arrived is None or (_event(scan, m.arrived[0]) and 0 <= m.arrived[1] <= LATEST)
            return counted and came and _event(scan, last) and _owns(hello, [stream])
        case StreamEnded(_, stream, frames, last, surplus):
            return _counts(frames, surplus) and _event(scan, last) and _owns(hello, [stream])
        case FramesMissing():
            return _runs(scan, message.runs) and _owns(hello, [message.stream])
        case Halted():
            own = hello.role != "ingester" or _owns(hello, message.streams)
            return own and all(_event(scan, last) for last, _ in message.streams.values())
        case Filled() | Torn():
            return 0 <= message.worker < len(scan.places)
        case FoldFailed():
            return _runs(scan, message.failed)
        case FenceReached():
            return _event(scan, message.sent + 1)
        case Armed():
            return message.tick_interval is None or 0 <= message.tick_interval < math.inf
        case Finished():
            return _runs(scan, message.failed) and _runs(scan, message.out_of_order)
    return True


def _owns(hello: Hello, streams: Iterable[str]) -> bool:
    return set(streams) <= {info.name for info in hello.streams}


def _counts(*numbers: int) -> bool:
    return all(0 <= n <= _NO_END for n in numbers)


def _parts(scan: Scan, message: PartsDone) -> bool:
    far = max(scan.shown, scan.reached) + _AHEAD
    added = all(0 <= n <= _AHEAD for n in (message.duplicates, message.failed_total))
    known = all(state in _TERMINAL and hi <= far for _, hi, state in message.completed)
    counted = all(w >= 0 and n >= 0 for w, n in message.parts.items())
    # As much is assigned as is done: to believe far more than there was to do would never end.
    assigned = scan.map.part_total(0, scan.dispatcher.next_virtual)
    possible = sum(message.parts.values()) <= assigned + LARGEST_WINDOW
    runs = [(lo, hi) for lo, hi, _ in message.completed]
    lacking = set(message.incomplete) <= set(scan.map.streams) and all(
        _runs(scan, runs) for runs in message.incomplete.values()
    )
    combined = all(
        0 <= c.worker < len(scan.places)
        and all(0 <= k < _POSITIONS for k, _, _ in c.parts)
        and _runs(scan, [(lo, hi) for _, lo, hi in c.parts])
        for c in message.combined
    )
    numbers = added and counted and possible and _event(scan, message.frontier)
    return numbers and known and _runs(scan, runs) and lacking and combined


_TERMINAL = frozenset(int(state) for state in EventState if state)


def _end(scan: Scan) -> int:
    """One beyond the last event that the scan was ever to have: what was said before it was cut short may be late."""
    if scan.planned is None:
        return _NO_END
    return scan.planned + 2 * int(scan.map.wrapped)


def _event(scan: Scan, event: int) -> bool:
    return 0 <= event <= _end(scan)


def _runs(scan: Scan, runs: Iterable[Run]) -> bool:
    end = _end(scan)
    return all(0 <= lo < hi <= end for lo, hi in runs)
