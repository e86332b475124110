"""Recordings: all that it takes to run one scan again, in one folder.

    recording.json   what the scan was: id, streams with their files, workers, policy, app
    map.json         the trigger map as it was written
    STREAM.cbors     an internal dump per stream: every frame that the map had a place for, by event; what an ingester
                     wrote that took the place of one that was lost is in STREAM.cbors.2, and so on
    history.jsonl    what happened in its order, a line each: `parameters` from an event on, `blocks` of virtual
                     workers given to workers, `ticks`, results that were `combined` by a worker, batches of results
                     that were `logged` with what is in them, parts that were `poison`, workers that `joined`, places of
                     workers that were `vacated`, and at last the event with which the map was `closed`
    report.json      what became of every event; only once the scan has ended
    result.h5        what was published at the end

The controller writes the JSON files, each ingester the dumps of its streams, the reducer the result, so that the
folder has to be one that all of them share.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from glob import escape
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from beamfold.model.bitmaps import Bitmap
from beamfold.model.errors import ConfigError, MapError, ParameterError
from beamfold.model.events import Buffer
from beamfold.model.parameters import name_fault
from beamfold.model.routes import Routes
from beamfold.model.runs import Run
from beamfold.model.triggermap import LARGEST, TriggerMap, WrittenMap
from beamfold.protocols.messages import DROPPED

FORMAT = 1

Parts: TypeAlias = list[tuple[int, int, int]]
"""Runs (k, lo, hi) of events at one position."""

ABOUT = "recording.json"
MAP = "map.json"
HISTORY = "history.jsonl"
REPORT = "report.json"
RESULT = "result.h5"


def dump_name(stream: str) -> str:
    """The file of a stream's dump: its name, without what a file's name cannot have or hides."""
    return quote(stream, safe=" !#$&'()+,;=@[]^_{}~").replace(".", "%2E", int(stream.startswith("."))) + ".cbors"


def dumps_of(first: Path) -> list[Path]:
    """The files of a dump that are there: the first one, and those of ingesters that went on with it."""
    more = [
        (int(n), path) for path in first.parent.glob(f"{escape(first.name)}.*") if (n := path.suffix[1:]).isdecimal()
    ]
    return [path for path in (first, *(path for _, path in sorted(more))) if path.is_file()]


def next_dump(first: Path) -> Path:
    """Where to go on with a dump that another ingester has begun."""
    there = {first, *dumps_of(first)}
    return next(p for n in count(2) if (p := first.with_name(f"{first.name}.{n}")) not in there)


def digest(states: int | NDArray[np.uint8], sizes: bytes, payload: Iterable[Buffer]) -> str:
    """Stands for what a batch of results says of its parts, whoever sent it when: 16 hexadecimal digits.

    `states` and `sizes` (uint32) are those of its header, `payload` the parts of its envelope behind that.
    """
    n = len(sizes) // 4
    found = sha256(np.broadcast_to(states, n).astype(np.uint8).tobytes())
    found.update(sizes)
    for part in payload:
        found.update(part)
    return found.hexdigest()[:16]


def is_recording(path: Path) -> bool:
    """Whether this is the folder of a recording."""
    return (path / ABOUT).is_file()


def plain_values(values: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Raw parameter values for JSON: `{"text": …}` where they are UTF-8, else `{"base64": …}`."""
    return {name: _plain(data) for name, data in sorted(values.items())}


def _plain(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


@dataclass(frozen=True, slots=True)
class RecordedStream:
    """A stream of a recording: its type, and its dump, where `dumps` are the files of it that are there."""

    typ: str
    numbered: bool
    dump: Path

    @property
    def dumps(self) -> list[Path]:
        return dumps_of(self.dump)


class _AboutStream(msgspec.Struct):
    typ: str
    numbered: bool
    dump: str


class _AboutWorker(msgspec.Struct):
    name: str
    tags: list[str]


class _AboutApp(msgspec.Struct):
    """Where the app is: class paths, and the folder that they count from."""

    worker: str
    reducer: str
    directory: str


class _AboutPolicy(msgspec.Struct):
    """What the run file said; later versions may say more."""

    incomplete: str = "process"
    fold_order: str = "event"
    overload: str = "spill"


class _About(msgspec.Struct):
    scan_id: str
    all_wrap: bool
    streams: dict[str, _AboutStream]
    workers: list[_AboutWorker]
    policy: _AboutPolicy
    app: _AboutApp


class _ReportStream(msgspec.Struct):
    phase: str
    frames: int
    surplus: int


class _Report(msgspec.Struct):
    """What a replay has to know of the report."""

    number: int = 0
    ended: str = ""
    events: int = 0
    out_of_order: list[Run] = []
    streams: dict[str, _ReportStream] = {}
    parameters_total: int = 0
    ticks_total: int = 0
    combined: int = 0
    states: dict[str, int] = {}
    runs: dict[str, list[Run]] = {}
    bitmaps: dict[str, Bitmap] = {}
    losses: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Logged:
    """Parts whose results a batch of logical worker `worker` brought, in its order, and its digest ("": none).

    `lacking` has those of them that lacked a stream, by stream; None in an older recording, which does not say it.
    """

    worker: int
    parts: Parts
    digest: str
    lacking: dict[str, Parts] | None = None


@dataclass(slots=True)
class Recording:
    """A recorded scan, but for the frames, which are read from the dumps.

    `closed` is the last data event that the map came to have, None where the scan did not come to its end. `parameters`
    are (version, first event, raw values by name), `blocks` (lo, hi, logical worker or DROPPED) of virtual workers with
    the worker that each was given to last, `ticks` (event, logical worker). `combined` are (logical worker, runs
    (k, lo, hi) of events at one position) of results that became one. `logged` are the batches of results that were
    taken: a part's result is of the worker that is named there, which need not be the one that it was given to last.
    `again` are virtual workers that were given out more than once (lo, hi), `poison` parts (event, k) that failed
    without another try, `vacated` logical workers that nobody was in the end, `joined` the last ones, which came in
    mid-scan: they have no parts of broadcasts. `report` is None where the scan did not end; `out_of_order` in it are
    events that were folded before earlier ones, which were waited for in vain.
    """

    folder: Path
    scan_id: str
    map: TriggerMap
    streams: dict[str, RecordedStream]
    workers: list[tuple[str, frozenset[str]]]
    policy: _AboutPolicy
    app: _AboutApp
    parameters: list[tuple[int, int, dict[str, bytes]]] = field(default_factory=list)
    blocks: list[tuple[int, int, int]] = field(default_factory=list)
    ticks: list[tuple[int, int]] = field(default_factory=list)
    combined: list[tuple[int, Parts]] = field(default_factory=list)
    logged: list[Logged] = field(default_factory=list)
    again: list[Run] = field(default_factory=list)
    poison: set[tuple[int, int]] = field(default_factory=set)
    vacated: set[int] = field(default_factory=set)
    joined: set[int] = field(default_factory=set)
    closed: int | None = None
    taken_up: bool = False
    report: _Report | None = None


def read_recording(folder: Path) -> Recording:
    """Read a recording. ConfigError names the file that is missing or damaged, and what is wrong with it."""
    about = _json(folder / ABOUT)
    try:
        if about["format"] != FORMAT:
            raise ConfigError(f"{folder / ABOUT} has format {about['format']!r}, this Beamfold reads {FORMAT}")
        found = _recording(folder, msgspec.convert(about, _About))
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{folder / ABOUT} is not what a recording's should be: {error!r}") from None
    if strange := set(found.map.streams) - set(found.streams):
        raise ConfigError(f"{folder / MAP} has streams that {ABOUT} does not know: {', '.join(sorted(strange))}")
    _read_history(found, folder / HISTORY)
    if (folder / REPORT).is_file():
        try:
            found.report = msgspec.convert(_json(folder / REPORT), _Report)
        except (ValueError, msgspec.ValidationError) as error:
            raise ConfigError(f"{folder / REPORT} is not what a recording's should be: {error}") from None
        _refuse_missing(found, found.report)
    return found


def _recording(folder: Path, about: _About) -> Recording:
    return Recording(
        folder,
        about.scan_id,
        _map(folder / MAP, about.all_wrap),
        {name: RecordedStream(s.typ, s.numbered, folder / s.dump) for name, s in about.streams.items()},
        [(w.name, frozenset(w.tags)) for w in about.workers],
        about.policy,
        about.app,
    )


def _refuse_missing(found: Recording, report: _Report) -> None:
    """Refuse a recording that has lost a dump, or lines of its history: the scan would look as if it had been so."""
    told = (report.parameters_total, report.ticks_total, report.combined)
    there = (len(found.parameters), len(found.ticks), len(found.combined))
    # A controller that took a scan up may count less than the history has: that is told only once.
    if report.parameters_total and any(here < count for here, count in zip(there, told, strict=True)):
        what = f"{_listed(there)} versions of the parameters, ticks and combined results, not {_listed(told)}"
        raise ConfigError(f"{found.folder / HISTORY} has {what}: lines are missing")
    for name, stream in found.streams.items():
        frames = report.streams[name].frames if name in report.streams else 0
        if frames and not any(dump.stat().st_size for dump in stream.dumps):
            raise ConfigError(f"{stream.dump} is missing or empty: it had {frames} frames of stream {name!r}")


def _listed(counts: tuple[int, int, int]) -> str:
    return "{}, {} and {}".format(*counts)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; a recording needs it") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None


def _map(path: Path, all_wrap: bool) -> TriggerMap:
    try:
        return WrittenMap.of(path.read_bytes(), all_wrap).compile()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; a recording needs it") from None
    except MapError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_history(found: Recording, path: Path) -> None:
    routes = Routes()
    for number, entry in enumerate(_lines(path), 1):
        try:
            _take(found, routes, entry)
        except (KeyError, TypeError, ValueError, AttributeError, MapError, ParameterError) as error:
            raise ConfigError(f"{path}, line {number}: {error!r}") from None
    found.blocks = routes.all()
    end = 0
    for lo, hi, _ in found.blocks:
        if lo > end and not found.taken_up:
            raise ConfigError(f"{path}: virtual workers {end} to {lo - 1} were given to nobody: a line is missing")
        end = hi
    # A controller that took a scan up, or a reducer the result log of another, told again what may have been written.
    versions = {version: (version, event, values) for version, event, values in found.parameters}
    found.parameters = [versions[version] for version in sorted(versions)]
    found.ticks = list(dict.fromkeys(found.ticks))
    combined = {(worker, tuple(parts)): (worker, parts) for worker, parts in found.combined}
    found.combined = list(combined.values())
    found.logged = list({(b.worker, tuple(b.parts), b.digest): b for b in found.logged}.values())
    if not found.parameters:
        raise ConfigError(f"{path} does not say with which parameters the scan began")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; the last one may have been cut off by a crash, and so may one before an empty line, with which a
    controller begins that takes a scan up."""
    try:
        *whole, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; a recording needs it") from None
    for number, line in enumerate(whole, 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if whole[number : number + 1] == [b""]:
                continue
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from None


def _take(found: Recording, routes: Routes, entry: dict[str, Any]) -> None:
    """One line of the history. What a later version may have added is passed over."""
    for number, name, tags in entry.get("joined", ()):
        _join(found, _number(number), name, tags)
    if "parameters" in entry:
        p = entry["parameters"]
        values = {name: _raw(name, value) for name, value in p["values"].items()}
        found.parameters.append((_number(p["version"]), _number(p["from_event"]), values))
    for lo, hi, worker in entry.get("blocks", ()):
        if not (_number(lo) < _number(hi) and (worker == DROPPED or _number(worker) < len(found.workers))):
            raise ValueError(f"virtual workers {lo} to {hi} of worker {worker}")
        if lo < routes.end:
            found.again.append((lo, min(hi, routes.end)))
        routes.add(lo, hi, worker)
    found.ticks += [(_number(event), _number(worker)) for event, worker in entry.get("ticks", ())]
    found.combined += [(worker, _parts(found, worker, parts, 0)) for worker, parts in entry.get("combined", ())]
    for worker, parts, whole, *more in entry.get("logged", ()):
        if not isinstance(whole, str):
            raise ValueError(f"digest {whole!r}")
        lowest = -len(found.workers)
        lacking = {s: _parts(found, worker, lacked, lowest) for s, lacked in more[0].items()} if more else None
        found.logged.append(Logged(worker, _parts(found, worker, parts, lowest), whole, lacking))
    found.poison |= {(_number(event), _number(k)) for event, k in entry.get("poison", ())}
    found.vacated |= set(map(_number, entry.get("vacated", ())))
    found.taken_up = found.taken_up or "taken_up" in entry
    if "closed" in entry:
        # A map without a start event may come to have no event at all: it is closed with the one before the first.
        found.closed = -1 if entry["closed"] == -1 else _number(entry["closed"])
        found.map.closed_at(found.closed)


def _join(found: Recording, number: int, name: Any, tags: Any) -> None:
    """A worker came in mid-scan; that may be told twice."""
    if not (isinstance(tags, list) and all(isinstance(text, str) for text in (name, *tags))):
        raise ValueError(f"worker {name!r} with tags {tags!r}")
    if number > len(found.workers):
        raise ValueError(f"worker {number} joined before worker {len(found.workers)}: a line is missing")
    if number == len(found.workers):
        found.workers.append((name, frozenset(tags)))
        found.joined.add(number)


def _parts(found: Recording, worker: Any, parts: Any, least: int) -> Parts:
    """Parts of a worker, at positions from `least` on."""
    if not (_number(worker) < len(found.workers) and all(type(k) is int and least <= k < 1 << 15 for k, _, _ in parts)):
        raise ValueError(f"results of worker {worker}")
    if not all(_number(lo) < _number(hi) for _, lo, hi in parts):
        raise ValueError(f"results of no event, of worker {worker}")
    return [(k, lo, hi) for k, lo, hi in parts]


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"{value!r} is no number of an event, a worker or a version")
    return value


def _raw(name: str, value: dict[str, str]) -> bytes:
    if fault := name_fault(name):
        raise ParameterError(fault)
    try:
        return value["text"].encode() if "text" in value else base64.b64decode(value["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"parameter {name!r}: {error}") from None
