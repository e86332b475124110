"""Results of one worker, as they travelled."""

from __future__ import annotations

from collections.abc import Sequence

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.protocols.envelopes import (
    Events,
    Places,
    Positions,
    ResultBatch,
    decode_header,
    result_bodies,
    result_places,
    unpack_combined,
    unpack_events,
    unpack_positions,
    unpack_states,
)


class Batch:
    """A batch of finished parts, its numbers unpacked. Raises CodecError for one that contradicts itself.

    `parts` is the envelope behind its header. `places` are the parts that have a result to fold (None: all), `combined`
    those of them (first part -> behind the last) whose result is that of several. What `fold` needs again is kept; the
    results themselves only until `drop`.
    """

    __slots__ = ("bodies", "buffers", "combined", "events", "k", "places", "states", "version", "worker")

    def __init__(self, header: ResultBatch, parts: Sequence[Buffer]) -> None:
        if not parts:
            raise CodecError("results without a blob")
        n = header.n
        self.worker = header.worker
        self.version = header.version
        self.events: Events = unpack_events(header.events, n)
        self.k: Positions = unpack_positions(header.k, n)
        self.states = unpack_states(header.states, n)
        unwell = [*(i for i, _, _ in header.failures), *(i for i, _ in header.missing)]
        if not all(0 <= i < n for i in unwell):
            raise CodecError("failures or missing streams of parts that the batch does not have")
        self.places: Places | None = result_places(header)
        self.combined = unpack_combined(header, self.events, self.k)
        self.bodies: list[Buffer] = []
        self.buffers: Sequence[Buffer] = ()
        self._take(header, parts)

    def _take(self, header: ResultBatch, parts: Sequence[Buffer]) -> None:
        self.bodies, self.buffers = result_bodies(header, parts[0]), parts[1:]

    @property
    def dropped(self) -> bool:
        """Whether its results have to be read back before they can be folded."""
        return not self.bodies

    def drop(self) -> None:
        """Keep no results in memory."""
        self.bodies, self.buffers = [], ()

    def restore(self, envelope: Sequence[Buffer]) -> None:
        """The results again, from the envelope as it was logged."""
        header = decode_header(envelope[0])
        assert isinstance(header, ResultBatch)
        self._take(header, envelope[1:])

    @property
    def all_places(self) -> Sequence[int]:
        """The places of all results."""
        return range(len(self.events)) if self.places is None else self.places.tolist()

    def events_of(self, place: int) -> Events:
        """The events whose result is that of this part; of a combined one they may repeat."""
        return self.events[place : self.combined.get(place, place + 1)]

    def broadcast(self, place: int) -> bool:
        """Whether this is a part that was broadcast."""
        return self.k < 0 if isinstance(self.k, int) else bool(self.k[place] < 0)
