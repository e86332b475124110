"""A scan whose run was killed with all of its services, taken up by a new one: by what the ledger has of it.

The reducer is armed first, as the one before was: it reads its result log, which is what is done. Then it is asked what
it knows, as by any new controller (`recovery`), and all others take the places of those that are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from beamfold.dispatch.scan import Scan
from beamfold.model.errors import ScanError
from beamfold.model.report import ScanReport
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols.messages import Arm, IngesterInfo, Parameters, StreamEnded, WorkerInfo

MAX_RECORDED_MAP = 256 << 10
"""Bytes of a written map, packed, that the ledger keeps: it keeps them for a thousand scans."""

RECORDED = (
    "number",
    "state",
    "started",
    "finished",
    "map",
    "timeout",
    "places",
    "readers",
    "folders",
    "overload",
    "series",
    "stopped",
    "noted",
)
"""What has to be known of a scan to take it up."""


def unfinished(record: Mapping[str, Any]) -> bool:
    """Whether the ledger takes this scan to be under way."""
    return record.get("state") in ("arming", "running")


@dataclass(slots=True)
class Resumption:
    """What a reducer has to know of the scan; `asked` is the one that was told."""

    arm: Arm
    changes: list[Parameters]
    asked: bytes | None = None


def plan_record(scan: Scan, readers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the ledger keeps of a scan that runs: its streams, the map as it was written unless that is very long, and
    what else is needed to take it up. `readers`: the streams of its ingesters."""
    record: dict[str, Any] = {
        "streams": list(scan.map.streams),
        "places": [[place.name, sorted(place.tags)] for place in scan.places],
        "folders": [scan.record, scan.dump_prefix],
        "overload": scan.overload.policy,
        "series": series_record(scan),
    }
    if set(scan.map.streams) <= {name for names in readers.values() for name in names}:
        record["readers"] = dict(readers)
    if scan.written is not None and len(scan.written.packed) <= MAX_RECORDED_MAP:
        record["map"] = asdict(scan.written)
    if scan.timeout is not None:
        record["timeout"] = scan.timeout
    if scan.cut:
        record["stopped"] = scan.reason
    return record


def series_record(scan: Scan) -> dict[str, Any]:
    """What the ledger keeps of the series that have begun: the number of the first frame, and how they ended."""
    ends = {name: [end.frames, end.last_event, end.surplus] for name, end in scan.ended_streams.items()}
    return {name: [base, ends.get(name)] for name, base in scan.bases.items()}


def written_map(record: Mapping[str, Any]) -> WrittenMap | None:
    """The map that the ledger has kept of a scan."""
    kept = record.get("map")
    return WrittenMap(**kept) if kept else None


def restore_series(scan: Scan, record: Mapping[str, Any]) -> None:
    """What the ledger has of the series: the ingesters of these streams may have ended together with the controller."""
    for name, (base, end) in record.get("series", {}).items():
        if (stream := scan.report.streams.get(name)) is None:
            continue
        scan.bases[name] = base
        if name in scan.ended_streams:
            continue
        if end is not None:
            scan.ended(StreamEnded(scan.number, name, *end))
        else:
            stream.phase = "running"


def count_series(scan: Scan) -> None:
    """How many frames of each series there were at least, where the reducer alone can say what is done."""
    for name in scan.bases.keys() - scan.ended_streams.keys():
        stream = scan.report.streams[name]
        at_least = scan.map.ordinal_at(scan.map.streams.index(name), scan.frontier) - int(scan.map.wrapped)
        stream.frames = max(stream.frames, at_least)


def resumption(scan_id: str, record: Mapping[str, Any], versions: Sequence[Parameters]) -> Resumption:
    """From the ledger's record of a scan, and the versions of the parameters that were in force.

    Raises ScanError where that is not enough.
    """
    if record.get("state") != "running":
        raise ScanError("it was only being armed")
    if (written := written_map(record)) is None:
        raise ScanError("its trigger map is too long for the control store, or was not written down")
    if not versions or versions[0].from_event != 0 or "readers" not in record:
        raise ScanError("the control store has not all that was recorded of it")
    first, *changes = versions
    arm = Arm(
        record["number"],
        scan_id,
        written.compile().to_wire(),
        [WorkerInfo(name, tags) for name, tags in record["places"]],
        [IngesterInfo(name, "", streams) for name, streams in record["readers"].items()],
        "",
        first.version,
        first.values,
        record=record["folders"][0],
        dump_prefix=record["folders"][1],
        overload=record["overload"],
    )
    return Resumption(arm, changes)


def given_up(scan_id: str, record: Mapping[str, Any], reason: str, now: float) -> dict[str, Any]:
    """The report of a scan that ended with its run: what became of its events is not known any more."""
    started = float(record.get("started", now))
    report = ScanReport(scan_id, record.get("number", 0), "failed", reason, started=started, finished=now)
    return report.to_dict()


__all__ = [
    "RECORDED",
    "Resumption",
    "count_series",
    "given_up",
    "plan_record",
    "restore_series",
    "resumption",
    "series_record",
    "unfinished",
    "written_map",
]
