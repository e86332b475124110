"""Which events are left out when frames come faster than they can be processed.

What is left out is decided for all streams together, by virtual workers that are assigned to nobody: those that were
assigned to no one yet, have no broadcast among their events, and share no event with others, so that an event is
processed whole or not at all. Where nothing of that kind is left, detectors are held back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beamfold.model.triggermap import EVERYBODY, TriggerMap

STEP = 0.2
"""Seconds after which the sample gets thinner, or denser: about what it takes until the last step shows."""

THINNEST = 1 << 20
"""One in so many at the least."""

LARGEST_DROP = 65536
"""Virtual workers dropped in one block: bounds the arrays that are made of them."""

RUNS_PER_BLOCK = 8
"""A sample is taken in runs, so many to a block: runs are single at some hundred events a second, and at higher rates
their cost stays that of batches."""


@dataclass(slots=True)
class Overload:
    """The overload `policy` of one scan. `fixed`: a sample is one in so many, instead of as many as it takes."""

    policy: str = "spill"
    fixed: int | None = None
    every: int = 1
    full: set[str] = field(default_factory=set)
    _arrived: int = 0  # virtual workers below have all frames of their first event
    _owed: int = 0  # virtual workers to be dropped next, for those that were assigned
    _stepped: float = float("-inf")

    @property
    def drops(self) -> bool:
        """Whether this policy leaves events out."""
        return self.policy in ("sample", "latest")

    def seen(self, stream: str, full: bool) -> None:
        """A stream is close to its bound, or is not."""
        if full:
            self.full.add(stream)
        else:
            self.full.discard(stream)

    def look(self, arrived: int, now: float) -> None:
        """Decide anew. The first event of virtual worker `arrived` is the newest one whose frames are all here."""
        self._arrived = arrived
        if not self.full:
            self._owed = 0
        if self.policy == "sample" and now - self._stepped >= STEP:
            self._stepped = now
            if self.fixed is not None:
                self.every = self.fixed if self.full else 1
            else:
                self.every = min(self.every * 2, THINNEST) if self.full else max(self.every // 2, 1)

    def drop_end(self, trigger_map: TriggerMap, virtual: int) -> int:
        """Virtual workers from this one to the end (exclusive) are to be dropped now."""
        if not self.full or not self.drops:
            return virtual
        wanted = LARGEST_DROP if self.policy == "latest" else min(self._owed, LARGEST_DROP)
        end = droppable_end(trigger_map, virtual, min(self._arrived, virtual + wanted))
        self._owed = max(self._owed - (end - virtual), 0)
        return end

    def assigned(self, size: int) -> int:
        """How many of `size` virtual workers to assign, at least one, if others are to be dropped for them."""
        if self.every == 1 or self.policy != "sample":
            return size
        size = max(1, size // RUNS_PER_BLOCK)
        self._owed = size * (self.every - 1)
        return size


def droppable_end(trigger_map: TriggerMap, virtual: int, end: int) -> int:
    """The virtual workers from this one to the returned one (exclusive), which is at most `end`, may be dropped."""
    if virtual >= end:
        return virtual
    end = min(end, trigger_map.plain_run(virtual))
    cast = trigger_map.next_broadcast(trigger_map.span(virtual)[0], EVERYBODY) if virtual < end else None
    if cast is not None:
        end = min(end, trigger_map.virtual_over(cast))
    return max(virtual, end)
