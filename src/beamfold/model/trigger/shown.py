"""A written map as older clients read it back: parts cell by cell, and the order in which they occur.

A uniform map becomes occurrences of one part, because constraints are scoped to an occurrence; where its streams
begin late, or its events are no whole number of occurrences, another part stands before or after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from typing import Any

from beamfold.model.errors import MapError
from beamfold.model.trigger.base import GENERIC
from beamfold.model.trigger.spec import START_END, UniformSpec, UniformStream, read_spec
from beamfold.model.trigger.written import WrittenMap

MAX_SHOWN = 100_000
"""Cells with their targets, and names in the sequence, that are shown: some 10 MB of JSON."""

_PART_EVENTS = 1000
"""Events in the repeated part of a uniform map: a hundred million events still are not more names than are shown."""


class TooLong(MapError):
    """The map is longer than what is shown of maps in this form."""


def shown(written: WrittenMap, limit: int = MAX_SHOWN) -> dict[str, Any]:
    """`{"parts": {name: {"mapping": {stream: [cell]}}}, "sequence": [name]}`, with START_END and all `tags`.

    Raises TooLong beyond `limit` cells and names, and for an endless map.
    """
    body = written.body
    if "streams" in body:
        spec = read_spec(UniformSpec, body)
        parts, sequence = _uniform(spec, limit)
        wrap, tags = True, set(spec.tags)
    else:
        parts, sequence = _filled(body["parts"], limit), list(body["sequence"])
        wrap, tags = written.all_wrap, _tags(parts)
    if wrap:
        streams = dict.fromkeys(stream for part in parts.values() for stream in part)
        ends = [{"tags": [tag], "constraint": None} for tag in sorted(tags or {GENERIC})]
        parts = {**parts, START_END: {stream: [ends] for stream in streams}}
        sequence = [START_END, *sequence, START_END]
    if len(sequence) > limit:
        raise TooLong(f"the map's sequence has {len(sequence)} names, of which at most {limit} are shown in this form")
    return {"parts": {name: {"mapping": part} for name, part in parts.items()}, "sequence": sequence}


def _refuse_longer(cells: int, limit: int) -> None:
    if cells > limit:
        raise TooLong(f"the map's parts have {cells} cells, of which at most {limit} are shown in this form")


# -- written cell by cell ------------------------------------------------------------------------------------


def _filled(parts: Mapping[str, Any], limit: int) -> dict[str, dict[str, list[Any]]]:
    """The parts with what may be left out of a target."""
    columns = [cells for part in parts.values() for cells in part.values()]
    _refuse_longer(sum(map(len, columns)), limit)
    _refuse_longer(sum(len(cell or (0,)) for cells in columns for cell in cells), limit)
    return {
        name: {
            stream: [None if c is None else [_target(t) for t in c] for c in cells] for stream, cells in part.items()
        }
        for name, part in parts.items()
    }


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    return {"tags": list(target.get("tags", (GENERIC,))), "constraint": target.get("constraint")}


def _tags(parts: Mapping[str, Mapping[str, Sequence[Any]]]) -> set[str]:
    columns = (cells for part in parts.values() for cells in part.values())
    return {tag for cells in columns for cell in cells for target in cell or () for tag in target["tags"]}


# -- uniform -------------------------------------------------------------------------------------------------


def _uniform(spec: UniformSpec, limit: int) -> tuple[dict[str, dict[str, list[Any]]], list[str]]:
    """The data events of a uniform map: perhaps a first part, the repeated one, and what is left over."""
    if spec.events is None:
        raise TooLong("the map is endless, which cannot be shown in this form")
    period = lcm(spec.batch, *(s.every for s in spec.streams.values()))
    late = max((s.first - s.every for s in spec.streams.values()), default=0)
    head = min(max(0, -(-late // spec.batch)) * spec.batch, spec.events)
    length = period * -(-_PART_EVENTS // period)
    times, rest = divmod(spec.events - head, length)
    _refuse_longer((head + (length if times else 0) + rest) * len(spec.streams), limit)
    parts: dict[str, dict[str, list[Any]]] = {}
    if head:
        parts["uniform_first"] = _stretch(spec, 1, head)
    if times or not spec.events:
        parts["uniform"] = _stretch(spec, head + 1, length if times else 0)
    if rest:
        parts["uniform_rest" if times else "uniform"] = _stretch(spec, head + times * length + 1, rest)
    if times > limit:
        raise TooLong(f"the map's sequence has {times} names, of which at most {limit} are shown in this form")
    ends = ["uniform_rest" if times else "uniform"] if rest else []
    return parts, ["uniform_first"] * bool(head) + ["uniform"] * times + ends


def _stretch(spec: UniformSpec, first: int, count: int) -> dict[str, list[Any]]:
    """`count` events from this one on, as a part."""
    cells = [[_vw(spec, event, first)] for event in range(first, first + count)]
    return {
        name: [cell if _has(stream, first + n) else None for n, cell in enumerate(cells)]
        for name, stream in spec.streams.items()
    }


def _vw(spec: UniformSpec, event: int, first: int) -> dict[str, Any]:
    constraint = None if spec.broadcast else (event - 1) // spec.batch - (first - 1) // spec.batch
    return {"tags": list(spec.tags), "constraint": constraint}


def _has(stream: UniformStream, event: int) -> bool:
    return event >= stream.first and (event - stream.first) % stream.every == 0
