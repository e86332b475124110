"""A trigger map as slowly and plainly as it can be said: the model that the real one is tested against.

It follows the semantics of the sequence word by word, event by event, with no numpy and no closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from beamfold.model.triggermap import TriggerMap

WORKERS = [
    frozenset({"generic"}),
    frozenset({"gpu"}),
    frozenset({"generic", "gpu"}),
    frozenset({"other"}),
]
"""Logical workers for every combination of tags that the tests use."""

Target = tuple[str, Any]  # ("own", virtual worker) or ("cast", frozenset of tags)


class Reference:
    """The events of a sequence spec; `events[e][stream]` is None (no frame) or a list of targets."""

    def __init__(self, body: dict[str, Any], wrap: bool) -> None:
        self.streams = list(dict.fromkeys(s for part in body["parts"].values() for s in part))
        self.wrapped = wrap
        self.events: list[dict[str, list[Target] | None]] = []
        self.tags: list[frozenset[str]] = []
        self.constraints: list[int] = []
        for name in body["sequence"]:
            self._occurrence(body["parts"][name])
        if wrap:
            everything = [c for part in body["parts"].values() for column in part.values() for c in column]
            tags = {t for cell in everything for target in cell or [] for t in target.get("tags", ["generic"])}
            targets: list[Target] = [("cast", frozenset({t})) for t in sorted(tags or {"generic"})]
            self.events = [self._all(targets), *self.events, self._all(targets)]

    def _all(self, targets: list[Target]) -> dict[str, list[Target] | None]:
        return {s: list(targets) for s in self.streams}

    def _occurrence(self, part: dict[str, list[Any]]) -> None:
        numbers: dict[int, int] = {}
        for i in range(len(next(iter(part.values())))):
            event: dict[str, list[Target] | None] = {}
            for stream in self.streams:
                cell = part[stream][i] if stream in part else None
                event[stream] = None if cell is None else []
                for target in cell or []:
                    tags = frozenset(target.get("tags", ["generic"]))
                    constraint = target.get("constraint")
                    if constraint is None:
                        found: Target = ("cast", tags)
                    else:
                        if constraint not in numbers:
                            numbers[constraint] = len(self.tags)
                            self.tags.append(tags)
                            self.constraints.append(constraint)
                        found = ("own", numbers[constraint])
                    targets = event[stream]
                    assert targets is not None
                    if found not in targets:
                        targets.append(found)
            self.events.append(event)

    def cut(self, last: int) -> None:
        """What `closed_at` does."""
        end = [self.events[-1]] if self.wrapped else []
        self.events = self.events[: last + 1] + end
        left = len({v for e in range(len(self.events)) for v in self.owners(e)})
        self.tags, self.constraints = self.tags[:left], self.constraints[:left]

    # -- questions -------------------------------------------------------------------------------------------

    def cells(self, stream: str) -> list[int]:
        """Events with a message of the stream: its ordinals."""
        return [e for e, event in enumerate(self.events) if event[stream] is not None]

    def owners(self, event: int) -> list[int]:
        """Distinct virtual workers of an event in order of first appearance."""
        targets = [t for s in self.streams for t in self.events[event][s] or []]
        return list(dict.fromkeys(v for kind, v in targets if kind == "own"))

    def casts(self, event: int) -> set[frozenset[str]]:
        """Tag sets that are broadcast to in an event."""
        return {v for s in self.streams for kind, v in self.events[event][s] or [] if kind == "cast"}

    def route(self, stream: str, lo: int, hi: int) -> list[tuple[int, int, int, Any]]:
        """(index, event, k, virtual worker or tags) rows."""
        rows = []
        for index, event in enumerate(self.cells(stream)[lo:hi]):
            for kind, value in self.events[event][stream] or []:
                rows.append((index, event, self.owners(event).index(value) if kind == "own" else 0, value))
        return rows

    def targets(self, tags: frozenset[str], workers: Sequence[frozenset[str]]) -> set[int]:
        """Logical workers with all of these tags."""
        return {w for w, have in enumerate(workers) if tags <= have}

    def parts(self, event: int, workers: Sequence[frozenset[str]]) -> set[int]:
        """All k of an event's parts."""
        ks = set(range(len(self.owners(event))))
        return ks | {-1 - w for tags in self.casts(event) for w in self.targets(tags, workers)}

    def needs(self, event: int, k: int, groups: set[frozenset[str]]) -> set[str]:
        """Streams that belong to a part, for a worker in these groups."""
        owners = self.owners(event)
        mine: set[Target] = {("cast", g) for g in groups}
        if 0 <= k < len(owners):
            mine.add(("own", owners[k]))
        return {s for s in self.streams if mine & set(self.events[event][s] or [])}

    def of_virtual(self, v: int) -> list[tuple[int, int]]:
        """All parts (event, k) of a virtual worker."""
        return [(e, self.owners(e).index(v)) for e in range(len(self.events)) if v in self.owners(e)]

    def conflicts(self, v: int) -> set[int]:
        """Virtual workers that share an event with v."""
        return {o for e, _ in self.of_virtual(v) for o in self.owners(e)} - {v}


# -- the real one beside it ----------------------------------------------------------------------------------


def assert_same(m: TriggerMap, ref: Reference) -> None:
    """Ask both everything."""
    n = len(ref.events)
    assert (m.n_events, m.endless, m.wrapped) == (n, False, ref.wrapped)
    assert list(m.streams) == ref.streams
    assert m.n_virtual == len(ref.tags)
    assert m.min_workers == max((len(ref.owners(e)) for e in range(n)), default=0)
    assert {g for e in range(n) for g in ref.casts(e)} <= set(m.groups)
    assert len(set(m.groups)) == len(m.groups)
    _assert_same_messages(m, ref)
    _assert_same_parts(m, ref)
    _assert_same_virtual_workers(m, ref)


def _assert_same_messages(m: TriggerMap, ref: Reference) -> None:
    for s, stream in enumerate(ref.streams):
        cells = ref.cells(stream)
        assert m.frame_count(s) == len(cells)
        for event in range(-1, len(ref.events) + 2):
            assert m.ordinal_at(s, event) == sum(e < event for e in cells)
            assert m.has_cell(s, event) == (event in cells)
        for lo in range(len(cells) + 2):
            for hi in range(lo, len(cells) + 3):
                assert m.events(s, lo, hi).tolist() == cells[lo:hi]
                assert rows(m, s, lo, hi) == ref.route(stream, lo, hi)


def rows(m: TriggerMap, s: int, lo: int, hi: int) -> list[tuple[int, int, int, Any]]:
    """A route in the reference's words."""
    route = m.route(s, lo, hi)
    assert [a.dtype for a in route] == [np.int64, np.int64, np.int16, np.int64]
    return [
        (i, e, k, v if v >= 0 else m.groups[-1 - v]) for i, e, k, v in zip(*(a.tolist() for a in route), strict=True)
    ]


def _assert_same_parts(m: TriggerMap, ref: Reference) -> None:
    n = len(ref.events)
    targets = [sum(1 << w for w in ref.targets(g, WORKERS)) for g in m.groups]
    for e in range(n):
        assert m.part_count(e, targets) == len(ref.parts(e, WORKERS))
        assert m.width(e) == len(ref.owners(e))
        assert {g for i, g in enumerate(m.groups) if m.groups_of(e) >> i & 1} == ref.casts(e)
    assert m.part_count(-1, targets) == m.part_count(n, targets) == 0
    single = [len(ref.owners(e)) == 1 and not ref.casts(e) for e in range(n)]
    for lo in range(n + 1):
        for hi in range(lo, n + 1):
            assert m.single_part(lo, hi) == all(single[lo:hi])
    assert not m.single_part(0, n + 1)
    events = np.arange(n, dtype=np.int64)[::-1]
    for k in (-2, -1, 0, 1, 2, 3, 9):
        for groups in (0, 1, (1 << len(m.groups)) - 1):
            mine = {g for i, g in enumerate(m.groups) if groups >> i & 1}
            found = m.needs(events, k, groups)
            assert found.dtype == np.int64
            assert [{s for i, s in enumerate(ref.streams) if mask >> i & 1} for mask in found.tolist()] == [
                ref.needs(e, k, mine) for e in events.tolist()
            ]
    for e in range(n + 1):
        assert m.next_virtual(e) == next((x for x in range(e, n) if ref.owners(x)), None)
        for i, g in enumerate(m.groups):
            assert m.next_broadcast(e, 1 << i) == next((x for x in range(e, n) if g in ref.casts(x)), None)
        assert m.next_broadcast(e, 0) is None
    assert m.may_be_empty == any(not ref.owners(e) and not ref.casts(e) for e in range(n))


def _assert_same_virtual_workers(m: TriggerMap, ref: Reference) -> None:
    total = len(ref.tags)
    for v in range(total):
        parts = ref.of_virtual(v)
        assert m.span(v) == (parts[0][0], parts[-1][0])
        assert (m.tags(v), m.constraint(v)) == (ref.tags[v], ref.constraints[v])
        assert m.conflicts(v) == ref.conflicts(v)
        assert m.plain_run(v) == plain_run(ref, v)
    for lo in range(total + 1):
        for hi in range(lo, total + 1):
            expected = sorted(p for v in range(lo, hi) for p in ref.of_virtual(v))
            events, ks = m.parts_of(lo, hi)
            assert list(zip(events.tolist(), ks.tolist(), strict=True)) == expected
            assert (m.part_total(lo, hi), ks.dtype) == (len(expected), np.int16)
    for e in range(len(ref.events) + 1):
        assert m.virtual_before(e) == sum(ref.of_virtual(v)[0][0] < e for v in range(total))
        assert m.virtual_over(e) == next((v for v in range(total) if ref.of_virtual(v)[-1][0] >= e), total)


def plain_run(ref: Reference, v: int) -> int:
    """The end of the run of virtual workers that do not interlock, with the same tags."""

    def plain(w: int) -> bool:
        after = ref.of_virtual(w + 1)[0][0] if w + 1 < len(ref.tags) else len(ref.events)
        return not ref.conflicts(w) and ref.of_virtual(w)[-1][0] < after

    end = v
    while end < len(ref.tags) and plain(end) and ref.tags[end] == ref.tags[v]:
        end += 1
    return end


def assert_plain(value: object) -> None:
    """Nothing but what msgpack carries."""
    if isinstance(value, dict):
        assert all(isinstance(k, str) for k in value)
        value = list(value.values())
    if isinstance(value, list):
        for v in value:
            assert_plain(v)
        return
    assert value is None or type(value) in (int, str, bytes)
