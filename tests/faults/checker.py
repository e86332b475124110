"""Compares what a disturbed scan left behind with what the undisturbed one would have: pure, of values alone."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from faults.histories import Planned

SHOWN = 8
"""Of one kind of violation, how many are told one by one."""

POISON = "was not tried again"
"""What the report says of an event in which two processes ended: a killer may have met the same event twice."""


@dataclass(frozen=True)
class Row:
    """One result as it was folded: parameter `p` at the worker and at the reducer, the number of the frame seen of each
    stream, the last broadcast event that its worker had seen."""

    event: int
    worker: str
    p: tuple[int, int]
    seen: dict[str, int]
    cast: int


@dataclass(frozen=True)
class Values:
    """The parameter's values: `first` when the scan began, `later` ones that were then set, in their order. All up to
    `due` were set before the last frame was sent. They rise."""

    first: int
    later: tuple[int, ...] = ()
    due: int = 0


def violations(
    events: Sequence[Planned],
    values: Values,
    rows: Sequence[Row],
    report: Mapping[str, Any],
    *,
    ordered: bool = True,
    lossy: Collection[str] = (),
) -> list[str]:
    """All that is wrong with a scan of these data events (1 to N), as its app and its report tell it.

    Results are `ordered` by event unless workers combined some that have others between them. Of `lossy` streams also
    frames that were sent may be missing, and the end, if the report says so.
    """
    failed = in_runs(report["runs"].get("failed", []))
    died = _died(events, report, lossy)
    if lossy and (report["events"] + report["unreached"] == len(events) or _rest_died(report, lossy)):
        events = events[: report["events"]]
    found = [
        *_states(events, rows, report, failed, died, ends=("finished", "stopped") if lossy else ("finished",)),
        *_frames_named(events, report, lossy),
        *_history(replace(values, due=0) if lossy else values, report),  # a fence waits for the next ingester
        *_once(events, rows, _of_the_beginning(report), failed, died, _without_ends(len(events), report, lossy)),
        *(_order(events, rows, report) if ordered else ()),
        *_versions(rows, report),
        *_broadcasts_seen(events, rows, failed, died),
    ]
    return found if len(found) <= 6 * SHOWN else [*found[: 6 * SHOWN], f"… and {len(found) - 6 * SHOWN} more"]


def in_runs(runs: Iterable[Sequence[int]]) -> set[int]:
    """The events in half-open runs."""
    return {event for lo, hi in runs for event in range(lo, hi)}


def state_of(event: Planned) -> str:
    """How the undisturbed scan reports an event: the worst of its parts."""
    parts = [[event.frames[name] is not None for name in part] for part in event.parts]
    if not all(any(came) for came in parts):
        return "incomplete (skipped)"
    return "reduced" if all(all(came) for came in parts) else "incomplete"


def _died(events: Sequence[Planned], report: Mapping[str, Any], lossy: Collection[str]) -> set[int]:
    """The events of which frames that were sent are said to be missing: a worker may have had them all the same."""
    return {
        event
        for name in lossy
        for event in in_runs(report["streams"][name]["missing"])
        if 1 <= event <= len(events) and events[event - 1].frames.get(name) is not None
    }


def _of_the_beginning(report: Mapping[str, Any]) -> list[str]:
    """The workers that have a part in what is broadcast: one that was away when the scan began has joined it later."""
    return [name for name in report["workers"] if name not in report["joined"]]


def _rest_died(report: Mapping[str, Any], lossy: Collection[str]) -> bool:
    """Whether a scan without a plan ends where nobody knows what came after, and says so: its end was lost."""
    end = report["events"] + 1
    named = (f"stream {name}: event {end} lacks" for name in lossy)
    return report["planned"] is None and any(t.startswith(text) for text in named for t in report["troubles"])


def _without_ends(n: int, report: Mapping[str, Any], lossy: Collection[str]) -> set[int]:
    """Which of start and end event lack all of their messages, at some worker at least, as the report says.

    Where a scan was stopped, the phase of a stream says that its start or its end has not come.
    """
    if not lossy:
        return set()

    def lacks(event: int, name: str) -> bool:
        open_ = report["ended"] == "stopped" and report["streams"][name]["phase"] != "ended"
        return open_ or any(t.startswith(f"stream {name}: event {event} lacks") for t in report["troubles"])

    return {event for event in (0, n + 1) if all(lacks(event, name) for name in report["streams"])}


def _state_of_rows(event: Planned, rows: Sequence[Row], workers: int) -> str:
    """The state of an event of which some frames died, by what was folded of it."""
    parts = len(event.parts) * (workers if event.cast else 1)
    if len(rows) < parts:
        return "incomplete (skipped)"
    came = Counter(name for row in rows for name in row.seen)
    whole = all(came[name] == (workers if event.cast else 1) for part in event.parts for name in part)
    return "reduced" if whole else "incomplete"


def _states(
    events: Sequence[Planned],
    rows: Sequence[Row],
    report: Mapping[str, Any],
    failed: set[int],
    died: set[int],
    ends: Collection[str],
) -> Iterator[str]:
    n, states = len(events), report["states"]
    if report["ended"] not in ends:
        yield f"report: it ended {report['ended']!r}: {report['reason']}"
    if report["events"] != n:
        yield f"report: {report['events']} events instead of {n}"
    if sum(states.values()) != report["events"]:
        yield f"report: states do not sum up to {report['events']} events: {states}"
    poisoned = {f["event"] for f in report["failures"] if POISON in f["traceback"]}
    if failed - poisoned or len(report["losses"]) < 2 * len(failed):
        yield f"report: events failed that nobody poisoned: {_some(failed)}, {report['failures'][:1]}"
    expected = {e: "failed" if e in failed else state_of(event) for e, event in enumerate(events, 1)}
    folded: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        folded[row.event].append(row)
    for e in (died & expected.keys()) - failed:
        expected[e] = _state_of_rows(events[e - 1], folded[e], len(_of_the_beginning(report)))
    counts = dict(Counter(expected.values()))
    if states != counts:
        yield f"report: states are {states} instead of {counts}"
    named: Counter[int] = Counter()
    for label, runs in report["runs"].items():
        told = in_runs(runs)
        named.update(told)
        if told != (right := {e for e, state in expected.items() if state == label}):
            yield f"report: {label}: too many {_some(told - right)}, too few {_some(right - told)}"
    if twice := {event for event, times in named.items() if times > 1}:
        yield f"report: in more than one state: {_some(twice)}"
    if silent := {state for state in counts if state not in report["runs"] and state != "reduced"}:
        yield f"report: names no events for {sorted(silent)}"


def _frames_named(events: Sequence[Planned], report: Mapping[str, Any], lossy: Collection[str]) -> Iterator[str]:
    for name, stream in report["streams"].items():
        right = {e for e, event in enumerate(events, 1) if name in event.frames and event.frames[name] is None}
        for where, runs in (("missing", stream["missing"]), ("incomplete", report["incomplete"].get(name, []))):
            told = in_runs(runs)
            if name in lossy:
                if where == "missing" and not right <= told:
                    yield f"report: missing of {name}: too few {_some(right - told)}"
            elif told != right:
                yield f"report: {where} of {name}: too many {_some(told - right)}, too few {_some(right - told)}"


def _history(values: Values, report: Mapping[str, Any]) -> Iterator[str]:
    history = [(v["from_event"], int(v["values"]["p"])) for v in report["parameters"]]
    told = [value for _, value in history]
    begin = [event for event, _ in history]
    if begin[:1] != [0] or begin != sorted(begin) or told[0] != values.first:
        yield f"parameters: the history does not begin with {values.first} at event 0, or goes back: {history}"
    rest = iter(values.later)
    if not all(value in rest for value in told[1:]):
        yield f"parameters: {told} are not those that were set, {values}"
    if told and told[-1] < values.due:
        yield f"parameters: {values.due} was set in time and is not in the history {history}"


def _once(
    events: Sequence[Planned],
    rows: Sequence[Row],
    workers: Sequence[str],
    failed: set[int],
    died: set[int],
    without: set[int],
) -> Iterator[str]:
    """Every part folded once, with its own frames; of the events in `without` some parts may have had none."""
    folded: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        folded[row.event].append(row)
    ends = Planned({}, ((),), cast=True)
    plan = {0: ends, **dict(enumerate(events, 1)), len(events) + 1: ends}
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    for event, planned in plan.items():
        if event in died:
            _once_of_what_died(event, planned, folded.pop(event, []), wrong)
            continue
        expected: Counter[Any] = Counter()
        for part in planned.parts:
            seen = {name: n for name in part if (n := planned.frames[name]) is not None}
            if seen or not planned.frames:
                who: Sequence[str] = workers if planned.cast else [""]
                expected.update((worker, *sorted(seen.items())) for worker in who)
        came = Counter((r.worker if planned.cast else "", *sorted(r.seen.items())) for r in folded.pop(event, []))
        for part, times in came.items():
            if not expected[part]:
                wrong["misaligned"].append(f"event {event} has {part}, expected {list(expected)}")
            elif times > 1:
                wrong["doubled"].append(f"event {event} was folded {times} times: {part}")
        if (lacks := expected - came) and event not in failed and event not in without:
            wrong["lost"].append(f"event {event}: {list(lacks)} was not folded")
    for event in folded:
        wrong["misaligned"].append(f"event {event} is none of the scan")
    for kind, texts in wrong.items():
        yield from (f"{kind}: {text}" for text in texts[:SHOWN])
        if len(texts) > SHOWN:
            yield f"{kind}: {len(texts)} in all"


def _once_of_what_died(event: int, planned: Planned, rows: list[Row], wrong: defaultdict[str, list[str]]) -> None:
    """Each part at most once, with none but its own frames."""
    seen = Counter((row.worker if planned.cast else "", name) for row in rows for name in row.seen)
    if twice := [name for name, times in seen.items() if times > 1]:
        wrong["doubled"].append(f"event {event}, of which frames died, has {twice} more than once")
    if alien := [row for row in rows if any(planned.frames.get(name) != n for name, n in row.seen.items())]:
        wrong["misaligned"].append(f"event {event}, of which frames died, has {alien}")


def _order(events: Sequence[Planned], rows: Sequence[Row], report: Mapping[str, Any]) -> Iterator[str]:
    early = in_runs(report["out_of_order"])
    places = {name: place for place, name in enumerate(report["workers"])}

    def rank(row: Row) -> tuple[int, int]:
        if not 1 <= row.event <= len(events) or events[row.event - 1].cast:
            return row.event, places.get(row.worker, -1)
        parts = events[row.event - 1].parts
        return row.event, next((i for i, part in enumerate(parts) if set(row.seen) <= set(part)), -1)

    before = (-1, -1)
    for row in rows:
        if row.event in early:
            continue
        if (now := rank(row)) < before:
            yield f"order: event {row.event} of {row.worker} was folded after {before}; out of order are {_some(early)}"
            return
        before = now


def _versions(rows: Sequence[Row], report: Mapping[str, Any]) -> Iterator[str]:
    begin = [v["from_event"] for v in report["parameters"]]
    values = [int(v["values"]["p"]) for v in report["parameters"]]
    wrong = []
    for row in rows:
        right = values[max(bisect_right(begin, row.event) - 1, 0)]
        if row.p != (right, right):
            wrong.append(f"version: event {row.event}: {row.p} at {row.worker} and reducer instead of {right}")
    yield from wrong[:SHOWN]


def _broadcasts_seen(events: Sequence[Planned], rows: Sequence[Row], failed: set[int], died: set[int]) -> Iterator[str]:
    """Before an event its worker had seen the broadcast before it, in whatever process it was.

    One of which frames died may have come to some workers.
    """
    casts = [e for e, event in enumerate(events, 1) if event.cast and any(n is not None for n in event.frames.values())]
    wrong = []
    for row in rows:
        at = bisect_right(casts, row.event)
        right = casts[at - 1] if at else -1
        while row.cast != right and right in died:
            at -= 1
            right = casts[at - 1] if at else -1
        if row.cast != right and right not in failed:
            wrong.append(f"broadcast: event {row.event} at {row.worker} had seen that of {row.cast}, not of {right}")
    yield from wrong[:SHOWN]


def _some(events: Iterable[int]) -> list[Any]:
    ordered = sorted(events)
    return ordered if len(ordered) <= SHOWN else [*ordered[:SHOWN], "…"]
