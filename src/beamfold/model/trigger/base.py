"""What every service asks a trigger map, whichever form it is kept in.

Vocabulary: events are numbered 0..n_events-1. The messages of one stream in one series are its *ordinals*:
the start message is 0, data frames follow, the end message is last. The cells of a stream that are not null
take its messages in that order. Virtual workers are numbered densely in order of first appearance (event
order, then stream order, then the order inside a cell). A *part* is (event, k): k >= 0 is the k-th distinct
virtual worker of the event in order of first appearance, k < 0 the broadcast to logical worker -1-k. A
*group* is a distinct tag set that something is broadcast to; sets of groups, streams and logical workers are
bitmasks in ints.

Arrays that come back are read-only wherever they may be views of the map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from beamfold.model.errors import MapError

Ints: TypeAlias = NDArray[np.int64]
Positions: TypeAlias = NDArray[np.int16]

MAX_STREAMS = 62
"""Streams in one map: their bitmask has to fit an int64 with its sign, and one bit is spare."""

GENERIC = "generic"
"""The tag that everybody has who was given none."""

EVERYBODY = -1
"""All groups of any map, as a mask."""

_HALL_LIMIT = 8
"""Tag sets of which all subsets are looked at when a map is checked against the workers (2^8 of them)."""


class Route(NamedTuple):
    """Who gets a range of messages: parallel arrays, one row per (message, target), ordered by message.

    `index` int64: ordinal minus the first one asked for. `event` int64. `k` int16, 0 in rows of broadcasts.
    `virtual` int64: number of the virtual worker, or -1-group for a broadcast. Messages to discard have no
    row.
    """

    index: Ints  # type: ignore[assignment]  # a tuple's own `index` is of no use here
    event: Ints
    k: Positions
    virtual: Ints


def frozen(array: NDArray[Any]) -> Any:
    """The same array, read-only: it is shared with whoever asks."""
    array.flags.writeable = False
    return array


def bits(mask: int) -> list[int]:
    """The positions of the bits set in a mask, ascending."""
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out


def targets_of(groups: int, targets: Sequence[int]) -> int:
    """The logical workers (bits) in any of these groups (bits); `targets[g]` are those of group g."""
    mask = 0
    for g in bits(groups):
        mask |= targets[g]
    return mask


class TriggerMap(ABC):
    """Which frame of which stream belongs to which event, and who must process it. Immutable."""

    streams: tuple[str, ...]
    wrapped: bool  # a start event 0 and an end event around the data events
    n_events: int | None  # all events, start and end included; None when endless
    n_virtual: int | None
    groups: tuple[frozenset[str], ...]
    min_workers: int  # the largest number of distinct virtual workers in one event
    uniform: bool
    may_be_empty: bool  # whether some event may have neither virtual workers nor broadcasts

    _kinds: ClassVar[dict[str, type[TriggerMap]]] = {}

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TriggerMap._kinds[kind] = cls

    @property
    def endless(self) -> bool:
        """Whether the scan has no count: it ends when the series end or somebody stops it."""
        return self.n_events is None

    # -- messages --------------------------------------------------------------------------------------------

    @abstractmethod
    def frame_count(self, s: int) -> int | None:
        """Messages expected of stream s (with start and end when wrapped), None when endless."""

    @abstractmethod
    def events(self, s: int, lo: int, hi: int) -> Ints:
        """Events of the stream's ordinals lo..hi-1; shorter where its cells end."""

    @abstractmethod
    def ordinal_at(self, s: int, event: int) -> int:
        """How many messages of the stream belong to events before `event` (any int)."""

    @abstractmethod
    def has_cell(self, s: int, event: int) -> bool:
        """Whether the stream has a message in this event, to be processed or discarded."""

    @abstractmethod
    def route(self, s: int, lo: int, hi: int) -> Route:
        """Who gets the stream's ordinals lo..hi-1; what lies beyond its cells has no row."""

    # -- parts -----------------------------------------------------------------------------------------------

    @abstractmethod
    def width(self, event: int) -> int:
        """Distinct virtual workers of the event; 0 outside the map."""

    @abstractmethod
    def groups_of(self, event: int) -> int:
        """Groups (bits) that something is broadcast to in the event; 0 outside the map."""

    def groups_for(self, tags: Collection[str]) -> int:
        """Groups (bits) whose broadcasts reach a worker with these tags."""
        return sum(1 << g for g, wanted in enumerate(self.groups) if wanted <= set(tags))

    def targets(self, workers: Sequence[Collection[str]]) -> list[int]:
        """Per group the logical workers (bits) that its broadcasts reach; `workers[w]` are the tags of worker w."""
        return [sum(1 << w for w, tags in enumerate(workers) if wanted <= set(tags)) for wanted in self.groups]

    def part_count(self, event: int, targets: Sequence[int]) -> int:
        """Parts of the event: distinct virtual workers + distinct broadcast targets.

        `targets[g]` is the bitmask of logical workers in group g.
        """
        groups = self.groups_of(event)
        return self.width(event) + (targets_of(groups, targets).bit_count() if groups else 0)

    @abstractmethod
    def single_part(self, lo: int, hi: int) -> bool:
        """Whether every event in [lo, hi) has just the part k = 0 and no broadcast; False beyond the map."""

    @abstractmethod
    def needs(self, events: Ints, k: int, groups: int) -> Ints:
        """Streams (bits) of part (event, k) for a worker in the groups `groups`, one value per event.

        For k >= 0: the streams whose cell lists that virtual worker and those that are broadcast in that
        event to one of the groups; for k < 0 only the latter. A part that does not exist needs nothing.
        `events` may be in any order and must lie in the map.
        """

    @abstractmethod
    def next_virtual(self, event: int) -> int | None:
        """The first event >= `event` with a virtual worker; None when there is none."""

    @abstractmethod
    def next_broadcast(self, event: int, groups: int) -> int | None:
        """The first event >= `event` with a broadcast to one of these groups; None when there is none."""

    # -- virtual workers -------------------------------------------------------------------------------------

    @abstractmethod
    def parts_of(self, vlo: int, vhi: int) -> tuple[Ints, Positions]:
        """All parts (events, k) of virtual workers vlo..vhi-1, by event and k."""

    @abstractmethod
    def part_total(self, vlo: int, vhi: int) -> int:
        """How many parts virtual workers vlo..vhi-1 have."""

    @abstractmethod
    def span(self, v: int) -> tuple[int, int]:
        """First and last event of a virtual worker."""

    @abstractmethod
    def tags(self, v: int) -> frozenset[str]:
        """The tags that a worker must have to take this virtual worker."""

    @abstractmethod
    def constraint(self, v: int) -> int:
        """The constraint that this virtual worker had in the specification."""

    @abstractmethod
    def conflicts(self, v: int) -> frozenset[int]:
        """Other virtual workers that share an event with v: a worker should not have both."""

    @abstractmethod
    def plain_run(self, v: int) -> int:
        """End (exclusive) of the run of plain virtual workers that begins at v; v itself when v is not plain.

        Plain: no conflicts, and done before the next one begins. All of a run have the same tags. Endless
        maps answer a very large number.
        """

    @abstractmethod
    def virtual_before(self, event: int) -> int:
        """How many virtual workers have their first event before `event`."""

    @abstractmethod
    def virtual_over(self, event: int) -> int:
        """How many virtual workers from 0 on have their last event before `event`: none of them is due there."""

    # -- life ------------------------------------------------------------------------------------------------

    @abstractmethod
    def closed_at(self, last_data_event: int) -> TriggerMap:
        """The same map cut after this data event: when wrapped the next event is the end event.

        Numbers of virtual workers and groups stay. A wrapped map cut after 0 has no data events; an unwrapped
        one may be cut after -1 and is empty then. Raises MapError when the event lies beyond the map.
        """

    @abstractmethod
    def to_wire(self) -> dict[str, Any]:
        """The map as str keys, ints, strs, None, lists and bytes."""

    @classmethod
    @abstractmethod
    def _from_wire(cls, wire: Mapping[str, Any]) -> TriggerMap:
        """Undo `to_wire` of this kind; may raise anything that wrong types and values raise by themselves."""

    @staticmethod
    def from_wire(wire: Mapping[str, Any]) -> TriggerMap:
        """Undo `to_wire`. Raises MapError for anything that is not a map on the wire."""
        kind = wire.get("kind") if isinstance(wire, Mapping) else None
        cls = TriggerMap._kinds.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise MapError(f"not a trigger map: kind {kind!r} is unknown; do both sides run the same Beamfold version?")
        try:
            return cls._from_wire(wire)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise MapError(f"damaged trigger map of kind {kind!r}: {type(error).__name__}: {error}") from None

    # -- against a deployment --------------------------------------------------------------------------------

    @abstractmethod
    def _tag_sets(self) -> list[frozenset[str]]:
        """Distinct tag sets of virtual workers."""

    @abstractmethod
    def _demand(self, tag_sets: Collection[int]) -> int:
        """Largest number of distinct virtual workers with one of these tag sets (numbers) in one event."""

    def refuse_unless(self, streams: Collection[str], worker_tags: Sequence[frozenset[str]]) -> None:
        """Raise MapError unless these streams and workers (their tags) can serve the map."""
        absent = sorted(set(self.streams) - set(streams))
        if absent:
            there = ", ".join(sorted(streams)) or "none"
            raise MapError("streams {" + ", ".join(map(repr, absent)) + f"}} not available (there are: {there})")
        required = max(1, self.min_workers)
        if len(worker_tags) < required:
            raise MapError(f"only {len(worker_tags)} workers available, but {required} required")
        sets = self._tag_sets()
        for tags in dict.fromkeys((*sets, *self.groups)):
            if not any(tags <= have for have in worker_tags):
                raise MapError(f"no worker has {_named(tags)}; give a worker {_named(tags)} or change the trigger map")
        if self.min_workers > 1:
            self._refuse_crowded(sets, worker_tags)

    def takes(self, tags: Collection[str]) -> bool:
        """Whether a worker with these tags may have some virtual worker of the map."""
        return any(wanted <= set(tags) for wanted in self._tag_sets())

    def _refuse_crowded(self, sets: list[frozenset[str]], worker_tags: Sequence[frozenset[str]]) -> None:
        """Hall's condition: no event may need more workers with some tag sets than there are."""
        numbers = range(len(sets))
        sizes = numbers if len(sets) <= _HALL_LIMIT else range(1)
        for size in sizes:
            for chosen in combinations(numbers, size + 1):
                demand = self._demand(chosen)
                able = sum(any(sets[i] <= have for i in chosen) for have in worker_tags)
                if able < demand:
                    which = " or ".join(_named(sets[i]) for i in chosen)
                    raise MapError(f"only {able} workers with {which} available, but {demand} required")


def _named(tags: frozenset[str]) -> str:
    words = ", ".join(repr(t) for t in sorted(tags))
    return f"the tag {words}" if len(tags) == 1 else f"the tags {words}"


def check_streams(names: Collection[str]) -> tuple[str, ...]:
    """The names as a tuple; raises MapError where there are none, too many, or unusable ones."""
    if not names:
        raise MapError("the trigger map has no streams; name at least one")
    if len(names) > MAX_STREAMS:
        raise MapError(f"the trigger map has {len(names)} streams; at most {MAX_STREAMS} are possible")
    for name in names:
        if not name or any(ord(c) < 32 or ord(c) == 127 for c in name):
            raise MapError(f"{name!r} cannot be a stream's name: it is empty or has control characters")
    return tuple(names)
