"""What the controller writes of a scan for its recording, and beside the dumps that people ask for by a parameter.

Each function returns the files to write; nothing is written here. The format is that of
`beamfold.protocols.recordings`; files beside a `dump_prefix` have the names and the form that dranspose gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from beamfold.app.declared import DUMP_PREFIX
from beamfold.dispatch.scan import Scan
from beamfold.model.errors import ParameterError
from beamfold.model.parameters import name_fault
from beamfold.model.triggermap import TooLong, WrittenMap, shown
from beamfold.protocols.messages import Block, PartsDone, StreamInfo
from beamfold.protocols.recordings import ABOUT, FORMAT, HISTORY, MAP, REPORT, dump_name, plain_values


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Write a file that belongs to a scan: bytes as they are, anything else as JSON, or as CBOR where the path says so.

    `content` may be a callable that makes it, where that takes long. `append` adds it as a line; otherwise the file
    appears as a whole, replacing an older one.
    """

    scan_id: str
    path: str
    content: Any
    append: bool = False


def dump_prefix(values: Mapping[str, bytes], output: str) -> str:
    """The absolute prefix that the parameters ask for, "" for none; a relative one counts from the folder `output`.

    Raises ParameterError for what cannot begin a path.
    """
    prefix = DUMP_PREFIX.from_bytes(values.get(DUMP_PREFIX.name, b""))
    if prefix and (fault := name_fault(prefix)):
        raise ParameterError(f"parameter {DUMP_PREFIX.name!r} is to begin a path, but {fault}")
    return f"{output}/{prefix}" if prefix and not prefix.startswith("/") else prefix


def begin(
    scan: Scan,
    streams: Mapping[str, StreamInfo],
    software: str,
    policy: Mapping[str, Any],
    app: Mapping[str, str],
) -> list[WriteFile]:
    """The scan runs: what it is, its map, and the parameters that it begins with."""
    if scan.written is None:
        return []
    files = _beside_dumps(scan)
    if not scan.record:
        return files
    about = {
        "format": FORMAT,
        "beamfold": software,
        "scan_id": scan.scan_id,
        "number": scan.number,
        "started": scan.started,
        "all_wrap": scan.written.all_wrap,
        "streams": {
            name: {"typ": streams[name].typ, "numbered": streams[name].numbered, "dump": dump_name(name)}
            for name in scan.map.streams
        },
        "workers": [{"name": p.name, "tags": sorted(p.tags)} for p in scan.places],
        "policy": dict(policy),
        "app": dict(app),
    }
    files.append(WriteFile(scan.scan_id, f"{scan.record}/{ABOUT}", about))
    files.append(WriteFile(scan.scan_id, f"{scan.record}/{MAP}", scan.written.json))
    return files + parameters(scan, scan.version, 0, scan.values)


def _beside_dumps(scan: Scan) -> list[WriteFile]:
    if not scan.dump_prefix or scan.written is None:
        return []
    name = f"{scan.dump_prefix}parameters-{scan.scan_id}"
    values: list[dict[str, Any]] = [{"name": n, "data": data} for n, data in sorted(scan.values.items())]
    if texts := _texts(scan.values):
        name, values = f"{name}.json", [{"name": n, "data": text} for n, text in texts]
    else:
        name = f"{name}.cbor"
    mapping = f"{scan.dump_prefix}mapping-{scan.scan_id}.json"
    return [WriteFile(scan.scan_id, mapping, partial(_shown, scan.written)), WriteFile(scan.scan_id, name, values)]


def _shown(written: WrittenMap) -> Any:
    """The map in the older form, cell by cell; as it was written where that is too long, or endless."""
    try:
        return shown(written)
    except TooLong:
        return written.json()


def _texts(values: Mapping[str, bytes]) -> list[tuple[str, str]] | None:
    """All values as text; None where one of them is none."""
    try:
        return [(name, data.decode()) for name, data in sorted(values.items())]
    except UnicodeDecodeError:
        return None


def _line(scan: Scan, entry: dict[str, Any]) -> list[WriteFile]:
    if not scan.record:
        return []
    line = json.dumps(entry).encode()  # now, because what waits for the disk is bounded in bytes
    return [WriteFile(scan.scan_id, f"{scan.record}/{HISTORY}", line, append=True)]


def parameters(scan: Scan, version: int, from_event: int, values: Mapping[str, bytes]) -> list[WriteFile]:
    """A version of the parameters is in force from an event on."""
    entry = {"version": version, "from_event": from_event, "values": plain_values(values)}
    return _line(scan, {"parameters": entry})


def blocks(scan: Scan, assigned: Sequence[Block]) -> list[WriteFile]:
    """Virtual workers were given to workers."""
    return _line(scan, {"blocks": [[b.lo, b.hi, b.worker] for b in assigned]}) if scan.record else []


def logged(scan: Scan, told: PartsDone) -> list[WriteFile]:
    """Results are in the result log: when workers ticked, what was combined or given up, whose results are what."""
    return [
        *_listed(scan, "ticks", told.ticks),
        *_listed(scan, "combined", [[c.worker, c.parts] for c in told.combined]),
        *_listed(scan, "poison", told.poison),
        *_listed(scan, "logged", [[b.worker, b.parts, b.digest, b.lacking] for b in told.logged]),
    ]


def _listed(scan: Scan, key: str, told: Sequence[Any]) -> list[WriteFile]:
    return _line(scan, {key: told}) if told else []


def joined(scan: Scan) -> list[WriteFile]:
    """Which logical workers came in mid-scan: all of them again, because another controller may have written less."""
    new = [[me, place.name, sorted(place.tags)] for me, place in enumerate(scan.places) if place.joined]
    return _line(scan, {"joined": new}) if new else []


def vacated(scan: Scan, worker: int) -> list[WriteFile]:
    """Nobody fills the place of a logical worker any more."""
    return _line(scan, {"vacated": [worker]})


def taken_up(scan: Scan) -> list[WriteFile]:
    """Another controller goes on. What the one before wrote last may be lost: it knows whose the rest is that is not
    done, and the results that were logged say it of what is. An empty line comes first: the one before may have ended
    in the middle of a line."""
    return [replace(file, content=b"\n" + file.content) for file in _line(scan, {"taken_up": True})]


def closed(scan: Scan, last_event: int) -> list[WriteFile]:
    """The map has its last data event."""
    return _line(scan, {"closed": last_event})


def end(scan: Scan, report: Mapping[str, Any]) -> list[WriteFile]:
    """The scan has ended."""
    return [WriteFile(scan.scan_id, f"{scan.record}/{REPORT}", report)] if scan.record else []
