"""From what people write to a trigger map.

A part is read once, however often it occurs; its occurrences are laid out by numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beamfold.model.errors import MapError
from beamfold.model.trigger.arrays import ints, offsets, ranges
from beamfold.model.trigger.base import GENERIC, Ints, TriggerMap, check_streams
from beamfold.model.trigger.cells import Part, TagSets, read_part
from beamfold.model.trigger.columns import Column
from beamfold.model.trigger.explicit import MAX_CELLS, SequenceMap
from beamfold.model.trigger.spec import START_END, SequenceSpec, UniformSpec, read_spec
from beamfold.model.trigger.uniform import UniformMap


def compile_map(body: Mapping[str, Any], all_wrap: bool = True) -> TriggerMap:
    """Compile either form, by its keys: "parts" or "streams". Raises MapError.

    `all_wrap` matters to sequences only; a uniform map always has its start and end events.
    """
    if not isinstance(body, Mapping):
        raise MapError(
            f"a trigger map is an object with parts and sequence, or with streams; not {type(body).__name__}"
        )
    if ("parts" in body) == ("streams" in body):
        raise MapError('a trigger map has either "parts" and "sequence", or "streams" and "events"')
    return compile_sequence(body, all_wrap) if "parts" in body else compile_uniform(body)


def compile_uniform(spec: UniformSpec | Mapping[str, Any]) -> TriggerMap:
    """Compile a uniform map, in no time for any number of events. Raises MapError."""
    return UniformMap.of(read_spec(UniformSpec, spec))


def compile_sequence(spec: SequenceSpec | Mapping[str, Any], all_wrap: bool = True) -> TriggerMap:
    """Compile a map that is written out as parts. Raises MapError that says what is wrong, and where.

    `all_wrap` adds a first and a last event in which every stream is broadcast once per tag that occurs in
    any part.
    """
    spec = read_spec(SequenceSpec, spec)
    if all_wrap and START_END in spec.parts:
        raise MapError(f"the part {START_END!r} is added by all_wrap; give yours another name, or set all_wrap=false")
    unknown = sorted(set(spec.sequence) - set(spec.parts))
    if unknown:
        raise MapError(f"the sequence names parts that are not there: {', '.join(map(repr, unknown))}")
    streams = check_streams(dict.fromkeys(stream for part in spec.parts.values() for stream in part))
    tags = TagSets()
    parts = [read_part(name, part, streams, tags) for name, part in spec.parts.items()]
    number = {name: i for i, name in enumerate(spec.parts)}
    return _lay_out(streams, parts, ints([number[name] for name in spec.sequence]), tags, all_wrap)


def _lay_out(streams: Sequence[str], parts: list[Part], occurring: Ints, tags: TagSets, wrap: bool) -> TriggerMap:
    """Put the occurrences (numbers of parts) one after the other, each with virtual workers of its own."""
    lengths = ints([p.length for p in parts])[occurring]
    _refuse_too_large(parts, occurring, int(lengths.sum()))
    event_at = offsets(lengths) + int(wrap)
    virtual_at = offsets(ints([len(p.tags) for p in parts])[occurring])
    wrap_groups = _wrap_groups(tags) if wrap else []
    groups, group_of = _groups(parts, occurring, tags, wrap_groups)
    columns = [
        _tile([p.columns[s] for p in parts], occurring, event_at[:-1], virtual_at[:-1], group_of)
        for s in range(len(streams))
    ]
    n_events = int(event_at[-1]) + int(wrap)
    if wrap:
        targets = -1 - np.arange(len(wrap_groups), dtype=np.int64)
        start = Column(ints([]), ints([]), ints([])).then(0, targets)
        columns = [_join(start, c).then(n_events - 1, targets) for c in columns]
    virtual_tags = _pick([p.tags for p in parts], occurring)
    constraints = _pick([p.constraints for p in parts], occurring)
    return SequenceMap(streams, wrap, n_events, groups, tags.sets, virtual_tags, constraints, columns)


def _refuse_too_large(parts: list[Part], occurring: Ints, events: int) -> None:
    sizes = ints([sum(max(len(c.events), len(c.targets)) for c in p.columns) for p in parts])
    cells = int(sizes[occurring].sum())
    if max(events, cells) > MAX_CELLS:
        raise MapError(
            f"the trigger map has {events} events and {cells} cells, at most {MAX_CELLS} are possible; "
            "a scan that long can be written as a uniform map"
        )


def _wrap_groups(tags: TagSets) -> list[frozenset[str]]:
    """One group per tag that occurs anywhere."""
    names = {tag for number in tags.used for tag in tags.sets[number]}
    return [frozenset({tag}) for tag in sorted(names or {GENERIC})]


def _groups(
    parts: list[Part], occurring: Ints, tags: TagSets, wrap_groups: list[frozenset[str]]
) -> tuple[list[frozenset[str]], Ints]:
    """All groups of the map (those of start and end first), and per tag set the number of its group."""
    groups = list(wrap_groups)
    group_of = np.zeros(len(tags.sets), dtype=np.int64)
    codes = [c.targets[c.targets < 0] for i in np.unique(occurring).tolist() for c in parts[i].columns]
    for number in sorted(-1 - code for code in np.unique(np.concatenate(codes)).tolist()):
        names = tags.sets[number]
        if names not in groups:
            groups.append(names)
        group_of[number] = groups.index(names)
    return groups, group_of


def _pick(arrays: list[Ints], occurring: Ints) -> Ints:
    """The arrays of the occurring parts, one after the other."""
    sizes = ints([len(a) for a in arrays])
    return np.concatenate(arrays)[ranges(offsets(sizes)[:-1][occurring], sizes[occurring])]


def _tile(columns: list[Column], occurring: Ints, event_at: Ints, virtual_at: Ints, group_of: Ints) -> Column:
    """One stream of the whole map from its columns in the parts."""
    cells = ints([len(c.events) for c in columns])[occurring]
    rows = ints([len(c.targets) for c in columns])[occurring]
    events = _pick([c.events for c in columns], occurring) + np.repeat(event_at, cells)
    targets = _pick([c.targets for c in columns], occurring)
    own = targets >= 0
    targets[own] += np.repeat(virtual_at, rows)[own]
    targets[~own] = -1 - group_of[-1 - targets[~own]]
    return Column(events, _pick([c.counts for c in columns], occurring), targets)


def _join(a: Column, b: Column) -> Column:
    return Column(np.append(a.events, b.events), np.append(a.counts, b.counts), np.append(a.targets, b.targets))
