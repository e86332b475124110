"""Reading the cells of one part: the one walk over what people wrote, with a place in every complaint.

The walk is per cell and in Python; everything after it is numpy. Tag sets get numbers on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final

import numpy as np

from beamfold.model.errors import MapError
from beamfold.model.trigger.arrays import ints
from beamfold.model.trigger.base import GENERIC, Ints
from beamfold.model.trigger.columns import Column

_ABSENT: Final = object()


class TagSets:
    """Distinct tag sets, numbered as they come; the generic one is number 0."""

    def __init__(self) -> None:
        self.sets: list[frozenset[str]] = [frozenset({GENERIC})]
        self._numbers: dict[frozenset[str], int] = {self.sets[0]: 0}
        self._seen: dict[tuple[Any, ...], int] = {}
        self.used: set[int] = set()

    def number(self, tags: Any) -> int:
        """The number of this set; raises ValueError with what is wrong with it."""
        if not isinstance(tags, list | tuple | set | frozenset):
            raise ValueError(f"tags must be a list of names, not {tags!r}")
        try:
            return self._seen[tuple(tags)]
        except (KeyError, TypeError):
            return self._new(tags)

    def _new(self, tags: Any) -> int:
        if not tags:
            raise ValueError(f"an empty list of tags says nothing; leave it out for [{GENERIC!r}]")
        if not all(isinstance(t, str) and t for t in tags):
            raise ValueError(f"tags must be names, not {list(tags)!r}")
        names = frozenset(tags)
        number = self._numbers.setdefault(names, len(self.sets))
        if number == len(self.sets):
            self.sets.append(names)
        self.used.add(number)
        self._seen[tuple(tags)] = number
        return number

    def generic(self) -> int:
        """The number of the set that is meant where no tags are given."""
        self.used.add(0)
        return 0


@dataclass(slots=True)
class _Raw:
    """One stream's cells of a part as read; a broadcast has the tag code -1-set and the constraint 0."""

    at: list[int]
    counts: list[int]
    constraints: list[int]
    tags: list[int]


@dataclass(frozen=True, slots=True)
class Part:
    """A part, compiled: `columns` in the map's order of streams; `tags` (set numbers) and `constraints` per
    virtual worker. Events and virtual workers count from 0, broadcasts are -1-(number of the tag set).
    """

    length: int
    columns: list[Column]
    tags: Ints
    constraints: Ints


def read_part(name: str, part: Mapping[str, Sequence[Any]], streams: Sequence[str], tags: TagSets) -> Part:
    """Compile one part; raises MapError that names part, stream and cell."""
    if not part:
        raise MapError(f"part {name!r} has no streams; give it at least one")
    lengths = {stream: len(cells) for stream, cells in part.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{stream!r} has {n}" for stream, n in lengths.items())
        raise MapError(f"part {name!r}: its streams must have equally many cells, but {told}")
    raw = [_read_column(part.get(s, ()), f"part {name!r}, stream {s!r}", tags) for s in streams]
    return _number(name, raw, streams, next(iter(lengths.values())), tags)


def _read_column(cells: Sequence[Any], where: str, tags: TagSets) -> _Raw:
    raw = _Raw([], [], [], [])
    at = -1
    try:
        for at, cell in enumerate(cells):
            if cell is None:
                continue
            if not isinstance(cell, list | tuple):
                raise ValueError(f"a cell is null or a list of targets, not {cell!r}")
            raw.at.append(at)
            if len(cell) == 1:
                constraint, tag = _read_target(cell[0], tags)
                raw.counts.append(1)
                raw.constraints.append(constraint)
                raw.tags.append(tag)
            else:
                _add_targets(raw, dict.fromkeys(_read_target(target, tags) for target in cell))
    except ValueError as error:
        raise MapError(f"{where}, cell {at}: {error}") from None
    return raw


def _add_targets(raw: _Raw, targets: Mapping[tuple[int, int], None]) -> None:
    """None, or several distinct targets: the same one twice in a cell is still one frame for one worker."""
    raw.counts.append(len(targets))
    for constraint, tag in targets:
        raw.constraints.append(constraint)
        raw.tags.append(tag)


def _read_target(target: Any, tags: TagSets) -> tuple[int, int]:
    """(constraint, tag set), or (0, -1-tag set) for a broadcast; raises ValueError."""
    if not isinstance(target, dict):
        raise ValueError(f'a target is {{"tags": [...], "constraint": n}}, not {target!r}')
    given = target.get("tags", _ABSENT)
    constraint = target.get("constraint", _ABSENT)
    if len(target) != (given is not _ABSENT) + (constraint is not _ABSENT):
        unknown = sorted(str(key) for key in target if key not in ("tags", "constraint"))
        raise ValueError(f"a target has tags and constraint, not {', '.join(unknown)}")
    tag = tags.generic() if given is _ABSENT else tags.number(given)
    if type(constraint) is int:
        return constraint, tag
    if constraint is None or constraint is _ABSENT:
        return 0, -1 - tag
    if isinstance(constraint, Integral) and not isinstance(constraint, bool):
        return int(constraint), tag
    raise ValueError(f"a constraint is an integer or null, not {constraint!r}")


def _number(name: str, raw: Sequence[_Raw], streams: Sequence[str], length: int, tags: TagSets) -> Part:
    """Give the part's virtual workers their numbers, in order of first appearance."""
    try:
        constraint = np.concatenate([ints(r.constraints) for r in raw])
    except OverflowError:
        raise MapError(f"part {name!r}: a constraint does not fit 64 bits; use smaller integers") from None
    code = np.concatenate([ints(r.tags) for r in raw])
    event = np.concatenate([np.repeat(ints(r.at), ints(r.counts)) for r in raw])
    own = np.flatnonzero(code >= 0)
    own = own[np.argsort(event[own], kind="stable")]
    values, first, inverse = np.unique(constraint[own], return_index=True, return_inverse=True)
    appearance = np.argsort(first)
    rank = np.empty(len(values), dtype=np.int64)
    rank[appearance] = np.arange(len(values))
    first_code = code[own][first]
    differs = np.flatnonzero(code[own] != first_code[inverse])
    if len(differs):
        at = int(differs[0])
        stream = streams[int(np.searchsorted(np.cumsum([len(r.tags) for r in raw]), own[at], side="right"))]
        now, before = (sorted(tags.sets[int(c)]) for c in (code[own[at]], first_code[inverse[at]]))
        raise MapError(
            f"part {name!r}, stream {stream!r}, cell {int(event[own[at]])}: "
            f"constraint {int(constraint[own[at]])} has the tags {now}, but {before} "
            "where it appeared first; one constraint is one worker"
        )
    target = code  # broadcasts are coded already
    target[own] = rank[inverse]
    ends = np.cumsum([len(r.tags) for r in raw])
    columns = [Column(ints(r.at), ints(r.counts), t) for r, t in zip(raw, np.split(target, ends[:-1]), strict=True)]
    return Part(length, columns, first_code[appearance], values[appearance])
