"""How many virtual workers go to whom, and when: block sizes that follow the measured rate.

Virtual workers are assigned in order of their first event, ahead of the frames. A worker gets new ones while it has
less than its window of work outstanding; the window is what it did lately in `WINDOW` seconds, so it grows within a
few round trips to what the machine can do, and is one or two events at low rates. Where a round trip takes longer than
that, because very many workers share controller and reducer, workers run dry: then they get more seconds of work ahead,
up to `LONGEST`, until they do not. Blocks are larger by that, and everybody has less to do per event.

What a lost worker had and did not do is assigned again, before anything new. Where others may have seen a broadcast by
now that comes after it, only a new process in the lost one's place can see both in their order: then it waits for that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamfold.dispatch.overload import Overload
from beamfold.model.routes import UNASSIGNED, Routes
from beamfold.model.states import EventStates
from beamfold.model.triggermap import EVERYBODY, TriggerMap
from beamfold.protocols.messages import DROPPED, PARKED, Block, Run

WINDOW = 0.1
"""Seconds of work a worker has ahead: several control round trips, and still short against human patience."""

LONGEST = 0.5
"""Seconds of work ahead at most of a worker that runs dry: what a scan that ends, or a worker that hangs, may leave to
one worker alone."""

CALM = 0.95
"""By this factor fall the seconds ahead when a worker did not run dry: within seconds back to `WINDOW`."""

BLOCKS_PER_WINDOW = 4
"""Blocks in a window, so that a block is 10 to 50 ms of work."""

FIRST_WINDOW = 4
"""Parts ahead before anything was measured: events may take minutes each, or come before a first word is back."""

LEAST_WINDOW = 2
"""Parts ahead where an event takes long: more of them would wait behind a slow one while other workers are free."""

LARGEST_WINDOW = 65536
"""Parts ahead at most, whatever the rate."""

RATE_INTERVAL = 0.02
"""Seconds over which parts done are counted into a rate."""


@dataclass(slots=True)
class _Worker:
    tags: frozenset[str]
    assigned: int = 0
    done: int = 0
    window: int = FIRST_WINDOW
    counted: int = 0
    since: float | None = None
    ahead: float = WINDOW
    dry: bool = False
    here: bool = True
    member: bool = True  # of the pools that its tags allow, also while nobody fills its place

    def rate(self, parts: int, now: float) -> None:
        """More parts are done. Once in a while, the window follows the rate since then.

        What a worker does that runs dry says how long the way to it and back is, and not how fast it is.
        """
        self.done += parts
        self.counted += parts
        self.dry = self.dry or self.done >= self.assigned
        if self.since is None:
            self.since, self.counted = now, 0
        elif now - self.since >= RATE_INTERVAL:
            rate = self.counted / (now - self.since)
            if not self.dry:
                self.ahead = max(CALM * self.ahead, WINDOW)
            elif rate * self.ahead <= self.window:  # more at once would not be done sooner: it is the way that is long
                self.ahead = min(2 * self.ahead, LONGEST)
            window = math.ceil((self.window + rate * self.ahead) / 2)  # not round: 2 would stay 2
            self.window = max(LEAST_WINDOW, min(LARGEST_WINDOW, window))
            self.since, self.counted, self.dry = now, 0, False

    @property
    def room(self) -> int:
        """Parts that it may still be given; less than a block is not worth a message."""
        room = self.window - (self.assigned - self.done)
        return room if self.here and room >= self.window // BLOCKS_PER_WINDOW else 0


@dataclass(slots=True)
class _Long:
    """A virtual worker that reaches beyond the next one to assign: its events, and how many of them are counted."""

    worker: int
    events: NDArray[np.int64]
    counted: int = 0


class _Pool:
    """Workers that may have the same virtual workers, the one with most room first.

    A heap with one entry per worker at most; what an entry says is looked up again before it is believed.
    """

    def __init__(self, workers: Sequence[_Worker], members: Iterable[int]) -> None:
        self._workers = workers
        self.members = frozenset(members)
        self._heap: list[tuple[int, int]] = []
        self._queued: set[int] = set()
        for worker in sorted(self.members):
            self.offer(worker)

    def offer(self, worker: int) -> None:
        """This worker, if it is one of them, may have room again."""
        if worker in self.members and worker not in self._queued and (room := self._workers[worker].room) > 0:
            self._queued.add(worker)
            heapq.heappush(self._heap, (-room, worker))

    def add(self, worker: int) -> None:
        """One more."""
        self.members |= {worker}

    def remove(self, worker: int) -> None:
        """It will never have room again; what is queued of it is passed over."""
        self.members -= {worker}

    def best(self, without: frozenset[int] = frozenset()) -> int | None:
        """The worker with most room that is not in `without`; None when none has any."""
        aside: list[tuple[int, int]] = []
        found = None
        while self._heap:
            entry, worker = self._heap[0]
            room = self._workers[worker].room
            if room <= 0:
                heapq.heappop(self._heap)
                self._queued.discard(worker)
            elif -entry > room:
                heapq.heapreplace(self._heap, (-room, worker))
            elif worker in without:
                aside.append(heapq.heappop(self._heap))
            else:
                found = worker
                break
        for skipped in aside:
            heapq.heappush(self._heap, skipped)
        return found


class Dispatcher:
    """One scan's assignments. `tags[w]` are the tags of logical worker w; `overload` says what is dropped.

    `states` are those of the scan's events, which others keep: what is terminal is not assigned again.
    """

    def __init__(
        self,
        trigger_map: TriggerMap,
        tags: Sequence[frozenset[str]],
        overload: Overload | None = None,
        states: EventStates | None = None,
    ) -> None:
        self.map = trigger_map
        self._states = states if states is not None else EventStates()
        self._overload = overload or Overload()
        self._workers = [_Worker(t) for t in tags]
        self._pools: dict[frozenset[str], _Pool] = {}
        self._long: dict[int, _Long] = {}
        self._routes = Routes()
        self._again: list[Run] = []
        self._kept: dict[int, list[Run]] = {}
        self._doubtful: list[tuple[int, int, int | None]] = []
        # They have what others had begun, before some virtual worker: how much of that is left is looked up.
        self._uneven: dict[int, int] = {}
        self.attempt = 0
        self.next_virtual = 0

    def done(self, worker: int, parts: int, now: float) -> None:
        """A worker's parts are durably done."""
        if not 0 <= worker < len(self._workers):
            return
        self._workers[worker].rate(parts, now)
        self._offer(worker)

    def _offer(self, worker: int) -> None:
        for pool in self._pools.values():
            pool.offer(worker)

    # -- workers that come and go ----------------------------------------------------------------------------

    def wants(self, tags: frozenset[str]) -> bool:
        """Whether something is left to assign, and one more worker with these tags might have it."""
        left = bool(self._again) or self._event_of(self.next_virtual) is not None
        return left and self.map.takes(tags)

    def join(self, tags: frozenset[str]) -> None:
        """There is one worker more, in a place that nobody fills yet."""
        self._workers.append(_Worker(tags, here=False, member=False))

    def settle(self, frontier: int) -> None:
        """Events below `frontier` are terminal: what was assigned of them is forgotten."""
        over = self.map.virtual_over(frontier)
        self._routes.forget_before(over)
        for number, end in list(self._uneven.items()):
            worker = self._workers[number]
            if even := over >= (end if self.map.n_virtual is None else min(end, self.map.n_virtual)):
                del self._uneven[number]
            if worker.here and (even or worker.room <= 0):
                self._count(number)

    def _count(self, number: int) -> None:
        """Look up what a worker has left to do."""
        worker = self._workers[number]
        worker.assigned = worker.done + self._left(number)
        self._offer(number)

    def _left(self, worker: int) -> int:
        """Parts of a worker in events that are not terminal, before the next one to assign.

        Not what is behind a broadcast that waits for something to be assigned again: nobody has that to do yet.
        """
        following, left = self._event_of(self.next_virtual), 0
        if (waiting := self.all_before) < self.next_virtual:
            cast = self.map.next_broadcast(self.map.span(waiting)[0], EVERYBODY)
            following = min((event for event in (following, cast) if event is not None), default=None)
        for lo, hi in self._blocks(worker):
            events, _ = self.map.parts_of(lo, hi)
            due = len(events) if following is None else int(np.searchsorted(events, following))
            left += int(np.count_nonzero(self._states.pending(events[:due])))
        return left

    def lose(self, worker: int, *, keep: bool = False) -> int:
        """Nobody fills this place: what is not terminal of its virtual workers is to be assigned again, with `keep`
        only to who fills this place next.

        Returns how many parts those are.
        """
        parts = self._left(worker)
        self._workers[worker].here = False
        self.attempt += 1
        self._long = {v: long for v, long in self._long.items() if long.worker != worker}
        for lo, hi in self._blocks(worker):
            self._take_back(lo, hi, worker, keep=keep)
        self._again.sort()
        return parts

    def _take_back(self, lo: int, hi: int, worker: int, *, keep: bool = False) -> None:
        """These are nobody's: what is not terminal of them is for others, or (`keep`: all) for who fills the place."""
        for run in self._undone(lo, hi):
            own = keep or self._passed(run[0]) or self._mixed(run)
            (self._kept.setdefault(worker, []) if own else self._again).append(run)
        self._routes.add(lo, hi, UNASSIGNED)

    def _mixed(self, run: Run) -> bool:
        """Whether something is broadcast in an event of these virtual workers: who has them sees it with that."""
        events, _ = self.map.parts_of(*run)
        cast = self.map.next_broadcast(int(events[0]), EVERYBODY) if len(events) else None
        while cast is not None and cast <= events[-1]:
            if bool(np.isin(cast, events)):
                return True
            cast = self.map.next_broadcast(cast + 1, EVERYBODY)
        return False

    def _passed(self, virtual: int) -> bool:
        """Whether there may be workers that saw a broadcast after the first event of this virtual worker."""
        cast = self.map.next_broadcast(self.map.span(virtual)[0], EVERYBODY)
        if cast is None or (self.map.wrapped and self.map.n_events is not None and cast == self.map.n_events - 1):
            return False  # the end event waits for all others
        return self.map.virtual_before(cast) <= self.next_virtual

    def _blocks(self, worker: int) -> list[Run]:
        """What is remembered of a worker's virtual workers, as far as the map goes now."""
        end = self.map.n_virtual
        blocks = self._routes.blocks(worker)
        return blocks if end is None else [(lo, min(hi, end)) for lo, hi in blocks if lo < end]

    def _undone(self, lo: int, hi: int) -> list[Run]:
        """Runs of virtual workers, of lo..hi-1, that have events which are not terminal."""
        pending = self._states.pending(self.map.parts_of(lo, hi)[0])
        if not bool(pending.any()):
            return []
        if hi - lo == 1 or bool(pending.all()):
            return [(lo, hi)]
        middle = (lo + hi) // 2
        return self._undone(lo, middle) + self._undone(middle, hi)

    def fill(self, worker: int) -> list[Block]:
        """Somebody fills this place again. Returns what has waited for that: it has to know of this first."""
        tags = self._workers[worker].tags
        self._workers[worker] = _Worker(tags)
        for wanted, pool in self._pools.items():
            if wanted <= tags:
                pool.add(worker)
        left = [run for kept in self._kept.pop(worker, []) for run in self._undone(*kept)]
        for lo, hi in left:
            self._take(lo, hi, worker)
            self._uneven[worker] = hi
        self._count(worker)
        return [Block(lo, hi, worker, self.attempt) for lo, hi in left]

    def restore(self, assigned: Iterable[tuple[int, int, int | None]], here: Iterable[int]) -> None:
        """Go on with what another controller had assigned: (lo, hi, logical worker or DROPPED) without a hole.

        Those of workers that are not in `here`, or of nobody that is known (None), wait for `resolve`: what of them is
        terminal may not be known yet.
        """
        assigned, here = list(assigned), set(here)
        self.attempt += 1
        self.next_virtual = max((hi for _, hi, _ in assigned), default=0)
        for number, worker in enumerate(self._workers):
            worker.here = number in here
        end = self.map.n_virtual
        for lo, hi, owner in assigned:
            hi = hi if end is None else min(hi, end)
            if lo >= hi:
                continue
            if owner == DROPPED:
                self._routes.add(lo, hi, DROPPED)
            elif owner is not None and owner in here:
                for a, b in [(lo, hi)] if self.map.plain_run(lo) >= hi else [(v, v + 1) for v in range(lo, hi)]:
                    self._take(a, b, owner)
            else:
                self._routes.add(lo, hi, UNASSIGNED)
                self._doubtful.append((lo, hi, owner))
        self.recount()
        for number in here:
            self._count(number)

    def resolve(self, frontier: int, reached: int) -> set[int]:
        """Assign again, or keep for a place, what `restore` was in doubt of: it is known now what is terminal, as all
        events below `frontier` are, and none from `reached` on.

        Returns the places whose processes have to be replaced for that: they may be beyond a broadcast, as all others.
        """
        doubtful, self._doubtful = self._doubtful, []
        replaced: set[int] = set()
        over = self.map.virtual_over(frontier)
        self.next_virtual = max(self.next_virtual, over)  # there may be nobody left who knows whose they were
        self.recount(self.map.virtual_before(reached))
        for lo, hi, owner in doubtful:
            for run in self._undone(max(lo, over), hi) if hi > over else ():
                place = owner
                if place is None and self._passed(run[0]):
                    able = self._pool(self.map.tags(run[0])).members
                    place = min(able, key=lambda number: (self._workers[number].here, number))
                    if self._workers[place].here:
                        replaced.add(place)
                if place is None:
                    self._again.append(run)
                else:
                    self._take_back(*run, place)
        self._again.sort()
        for number, worker in enumerate(self._workers):
            if worker.here:
                self._count(number)
        return replaced

    def recount(self, end: int = 0) -> None:
        """How much the workers have done is not known any more: look at it event by event.

        As far as something is assigned, or to virtual worker `end`, of which some may be done already.
        """
        self._uneven.update(dict.fromkeys(range(len(self._workers)), max(self.next_virtual, end)))

    def assigned(self, attempt: int = 0) -> list[Block]:
        """All blocks that are remembered, and as PARKED those that wait: frames beyond them are not to wait as well."""
        given = [
            Block(lo, hi, worker, attempt if worker >= 0 else 0)
            for lo, hi, worker in self._routes.all()
            if worker != UNASSIGNED
        ]
        kept = [(lo, hi, place) for place, runs in self._kept.items() for lo, hi in runs]
        waiting = [*kept, *((lo, hi, 0) for lo, hi in self._again), *self._doubtful]
        return given + [Block(lo, hi, PARKED - (place or 0)) for lo, hi, place in waiting]

    def dropped(self) -> list[Run]:
        """Virtual workers that are dropped, and may not be terminal yet."""
        return self._blocks(DROPPED)

    def vacate(self, worker: int) -> bool:
        """Nobody will ever fill this place: what waited for that goes to others. Whether there was something."""
        self._workers[worker].member = False
        for pool in self._pools.values():
            pool.remove(worker)
        waited = self._kept.pop(worker, [])
        self._again += waited
        self._again.sort()
        return bool(waited)

    def close(self, trigger_map: TriggerMap) -> None:
        """The map got its last event: what was counted of virtual workers that reach beyond it is taken back."""
        self.map = trigger_map
        end = trigger_map.n_virtual or 0
        self._again = [(lo, min(hi, end)) for lo, hi in self._again if lo < end]
        self._kept = {w: [(lo, min(hi, end)) for lo, hi in runs if lo < end] for w, runs in self._kept.items()}
        self._doubtful = [(lo, min(hi, end), owner) for lo, hi, owner in self._doubtful if lo < end]
        for virtual, long in self._long.items():
            long.events = trigger_map.parts_of(virtual, virtual + 1)[0]
        self._count_long()
        for pool in self._pools.values():
            for worker in pool.members:
                pool.offer(worker)

    @property
    def all_before(self) -> int:
        """Every virtual worker below this one is assigned, or waits for somebody in a place.

        What a lost worker had may wait for others: they must not go beyond a broadcast before they know of it.
        """
        waiting = [*(lo for lo, _ in self._again[:1]), *(lo for lo, _, _ in self._doubtful[:1])]
        return min([self.next_virtual, *waiting])

    @property
    def next_event(self) -> int | None:
        """Every virtual worker with a part in an event before this one is assigned; None when all are."""
        return self._event_of(self.all_before)

    def assign(self) -> list[Block]:
        """New blocks for workers that have room, and of what is dropped, in the order of the virtual workers."""
        if self._doubtful:
            return []  # what is done is not known yet
        blocks = self._assign_again() if self._again else []
        total = self.map.n_virtual
        while total is None or self.next_virtual < total:
            virtual = self.next_virtual
            if (end := self._overload.drop_end(self.map, virtual)) > virtual:
                self.next_virtual = end
                blocks.append(Block(virtual, end, DROPPED))
                self._routes.add(virtual, end, DROPPED)
                continue
            worker = self._choose(virtual)
            if worker is None:
                break
            size = self._overload.assigned(self._size(virtual, worker, total))
            self.next_virtual = virtual + size
            self._take(virtual, virtual + size, worker)
            last = blocks[-1] if blocks else None
            if last is not None and last.worker == worker and last.hi == virtual and not last.attempt:
                blocks[-1] = Block(last.lo, virtual + size, worker)
            else:
                blocks.append(Block(virtual, virtual + size, worker))
        return blocks

    def _assign_again(self) -> list[Block]:
        """What lost workers had: as much of it as there is room for."""
        blocks: list[Block] = []
        left: list[Run] = []
        full: set[frozenset[str]] = set()
        runs = [run for again in self._again for run in self._undone(*again)]
        for at, (lo, hi) in enumerate(runs):
            while lo < hi and (tags := self.map.tags(lo)) not in full:
                self._again = [*left, (lo, hi), *runs[at + 1 :]]
                worker = self._choose(lo)
                if worker is None:
                    full.add(tags)
                    break
                end = min(hi, lo + self._size(lo, worker, self.map.n_virtual))
                self._take(lo, end, worker)
                self._uneven[worker] = max(end, self._uneven.get(worker, 0))
                self._count(worker)
                blocks.append(Block(lo, end, worker, self.attempt))
                lo = end
            if lo < hi:
                left.append((lo, hi))
        self._again = left
        return blocks

    def _choose(self, virtual: int) -> int | None:
        """The worker with most room among those that may take this virtual worker."""
        pool = self._pool(self.map.tags(virtual))
        conflicts = self.map.conflicts(virtual)
        if not conflicts:
            return pool.best()
        # Only those that reach beyond what is assigned can share an event with what is not.
        taken = frozenset(long.worker for v, long in self._long.items() if v in conflicts) & pool.members
        return pool.best(taken if len(taken) < len(pool.members) else frozenset())

    def _pool(self, tags: frozenset[str]) -> _Pool:
        pool = self._pools.get(tags)
        if pool is None:
            able = (i for i, w in enumerate(self._workers) if w.member and tags <= w.tags)
            pool = self._pools[tags] = _Pool(self._workers, able)
        return pool

    def _size(self, virtual: int, worker: int, total: int | None) -> int:
        """Virtual workers in one block: a share of the window, less near the end, one where they interlock."""
        plain = self.map.plain_run(virtual) - virtual
        if plain <= 1:
            return 1
        per = self.map.part_total(virtual, virtual + 1)
        if not per:
            return self._idle(virtual, plain)
        size = max(1, self._workers[worker].window // BLOCKS_PER_WINDOW // per)
        if total is not None:
            size = min(size, max(1, (total - virtual) // (2 * len(self._workers))))
        return min(size, plain)

    def _idle(self, virtual: int, plain: int) -> int:
        """How many virtual workers from this one on have no part at all: they cost one block, however many."""
        busy = self.map.next_virtual(self.map.span(virtual)[0])
        return plain if busy is None else min(plain, self.map.virtual_over(busy) - virtual)

    def _take(self, lo: int, hi: int, worker: int) -> None:
        self._routes.add(lo, hi, worker)
        if self.map.plain_run(lo) >= hi:
            self._workers[worker].assigned += self.map.part_total(lo, hi)
        else:
            self._long[lo] = _Long(worker, self.map.parts_of(lo, hi)[0])
        if self._long:
            self._count_long()

    def _event_of(self, virtual: int) -> int | None:
        """The first event of a virtual worker, None beyond the last one."""
        if self.map.n_virtual is not None and virtual >= self.map.n_virtual:
            return None
        return self.map.span(virtual)[0]

    def _count_long(self) -> None:
        """Virtual workers that reach beyond the next one to assign: count only what is due before that one.

        Counting all of it would make a worker look full for the whole scan and starve the virtual workers after.
        """
        following = self._event_of(self.next_virtual)
        for virtual, long in list(self._long.items()):
            due = len(long.events)
            if following is None or not due or long.events[-1] < following:
                del self._long[virtual]
            else:
                due = int(np.searchsorted(long.events, following))
            self._workers[long.worker].assigned += due - long.counted
            long.counted = due
