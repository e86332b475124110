"""The user's worker class: made anew for every scan, called for every part, its mistakes recorded.

Parts of data events may go together: `process_events` gets as many as fit into the time there is, and `combine` makes
one result of those of one `run`. Neither crosses a change of the parameters or a broadcast event, and what is broadcast
goes through `process_event` alone. Where one of the two raises, or returns what it should not, its parts are processed
again each for itself, so that only the guilty ones fail; a result that `combine` had begun to change is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from operator import is_, lt
from typing import Any

from beamfold.app.batchsize import BatchSize
from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import WorkerHooks
from beamfold.model.cursor import AT, IDLE, SEVERAL, Cursor, idle_cursor
from beamfold.model.errors import CodecError
from beamfold.model.events import EventData
from beamfold.model.parameters import ParameterHistory
from beamfold.model.states import EventState
from beamfold.model.stretches import NextBroadcast, Stretches, no_broadcast
from beamfold.protocols.codec import TypeTable, encode
from beamfold.protocols.envelopes import POISON
from beamfold.protocols.stamps import Runs
from beamfold.work.machine import Part
from beamfold.work.results import ResultBuffer


class Runner:
    """Runs one scan's parts with the instance that `hooks` hold; what becomes of them is collected in `results`.

    `types` are the app's own types that may travel. `skip` leaves incomplete events out instead of processing what
    there is of them. `next_broadcast` is the map's, for broadcasts to anybody. With `tick` the next part ticks; events
    in `tick_at` do (a replay knows them). `troubles` are for a person to read; whoever tells them empties the list.

    Parts that were another worker's before (`Part.again`) are processed each for itself and combined alone, so that it
    is known of which of them a process dies, and no result stands for parts of which some are done. Those in `poison`
    are not processed. `cursor` says, to whoever may read its memory, what user code is working on.
    """

    def __init__(
        self,
        hooks: WorkerHooks,
        parameters: ParameterHistory,
        results: ResultBuffer,
        *,
        types: TypeTable | None = None,
        skip: bool = False,
        next_broadcast: NextBroadcast = no_broadcast,
        clock: Callable[[], float] = time.monotonic,
        cursor: Cursor | None = None,
    ) -> None:
        self.poison: set[int] = set()
        self._cursor = cursor or idle_cursor()
        self._process = hooks.process_event
        self._process_many = hooks.process_events
        self._combine = hooks.combine
        self.hooks = hooks
        self.parameters = parameters
        self.results = results
        self._types = types
        self._skip = skip
        self._next_broadcast = next_broadcast
        self._clock = clock
        self._size = BatchSize()
        self._stretches = Stretches(parameters, next_broadcast)
        self._held: list[Part] = []
        self._payloads: list[Any] = []
        self._held_end = 0
        self._told: set[str] = set()
        self.troubles: list[str] = []
        self.tick = False
        self.tick_at: set[int] = set()
        self.spent: Runs = []

    def run(self, parts: Sequence[Part], seconds: float) -> int:
        """Process parts, of which there is one at least, in order until `seconds` have passed; returns how many were.

        `spent` then has the seconds that they took, in runs: those that went together have their mean.
        """
        began = self._clock()
        done = self._run(parts, began, began + seconds)
        self._cursor[AT] = IDLE
        return done

    def _run(self, parts: Sequence[Part], began: float, deadline: float) -> int:
        if self._process_many is None and self._combine is None:
            return self._singly(parts, began, deadline)
        self._stretches = Stretches(self.parameters, self._next_broadcast)
        # Few scans have poison: while there is some, nothing goes together.
        go = self._singly if self._process_many is None or self.poison else self._together
        done = go(parts, began, deadline)
        if self._held:
            self._join_held()
            self.spent = [(done, (self._clock() - began) / done)]
        return done

    # -- one part at a time ----------------------------------------------------------------------------------

    def _singly(self, parts: Sequence[Part], began: float, deadline: float) -> int:
        clock, one = self._clock, self._one
        now, done = began, 0
        for part in parts:
            one(part)
            done += 1
            before, now = now, clock()
            if now >= deadline:
                break
        # Of single parts only the last one can have taken longer than the slice.
        self.spent = [(done - 1, (before - began) / (done - 1))] if done > 1 else []
        self.spent.append((1, now - before))
        return done

    def _one(self, part: Part) -> None:
        event, k, streams, missing, version, call, _, again = part
        results = self.results
        if not call or (missing and self._skip):
            state = EventState.INCOMPLETE_SKIPPED if missing else EventState.NO_RESULT
            results.add(event, k, version, state, b"", missing)
            return
        if event in self.poison:
            results.fail(part, "process_event", POISON)
            return
        self._cursor[AT] = event
        tick, self.tick = self.tick, False
        if self.tick_at and event in self.tick_at:
            tick = True
            self.tick_at.discard(event)
        if tick:
            results.ticks.append(event)
        try:
            payload = self._process(EventData(event, streams), self.parameters.at(event), tick)
        except USER_ERRORS as error:  # a user's mistake is one event's failure, with its traceback
            results.fail(part, "process_event", user_traceback(error))
            return
        if self._combine is None or payload is None or k < 0 or event >= self._stretches.end(event):
            self._finish(part, payload, "process_event")
        elif again:
            self._join_alone(part, payload)
        else:
            self._hold([part], [payload])

    def _finish(self, part: Part, payload: Any, hook: str) -> None:
        """What `hook` returned for a part goes its own way."""
        event, k, _, missing, version, _, _, _ = part
        results = self.results
        if payload is None:
            state = EventState.INCOMPLETE if missing else EventState.NO_RESULT
            results.add(event, k, version, state, b"", missing)
            return
        try:
            body = encode(payload, results.buffers, types=self._types)
        except CodecError as error:
            results.fail(part, hook, f"{hook} returned what cannot travel: {error}")
            return
        state = EventState.INCOMPLETE if missing else EventState.REDUCED
        results.add(event, k, version, state, body, missing)

    # -- many together ---------------------------------------------------------------------------------------

    def _together(self, parts: Sequence[Part], began: float, deadline: float) -> int:
        clock, now, done = self._clock, began, 0
        self.spent = []
        while True:
            alone = parts[done].again
            batch = () if alone else self._alike(parts[done : done + self._size.within(deadline - now)])
            if batch:
                self._many(batch)
            else:
                self._one(parts[done])
            n = len(batch) or 1
            done += n
            before, now = now, clock()
            self.spent.append((n, (now - before) / n))
            if batch:
                self._size.took(len(batch), now - before)
            if done >= len(parts) or now >= deadline:
                return done

    def _alike(self, parts: Sequence[Part]) -> Sequence[Part]:
        """The first of these parts, as far as they may go together."""
        events, ks, _, missing, _, calls, _, again = zip(*parts, strict=True)
        end, first = self._stretches.end, min(events)
        fit = all(calls) and not any(again) and not (self._skip and any(missing))
        if fit and min(ks) >= 0 and max(events) < end(first):
            return parts
        first = end(events[0])
        for n, (event, k, _, lacks, _, call, _, again_) in enumerate(parts):
            if not call or again_ or k < 0 or (lacks and self._skip) or not event < end(event) == first:
                return parts[:n]
        return parts

    def _many(self, parts: Sequence[Part]) -> None:
        events = [EventData(event, streams) for event, _, streams, _, _, _, _, _ in parts]
        self._cursor[AT] = SEVERAL - parts[0].event
        assert self._process_many is not None
        try:
            found = self._process_many(events, self.parameters.at(parts[0].event), self._ticks(parts))
            if fault := _unfit(found, len(parts)):
                self._again(parts, "process_events", fault)
                return
            payloads = list(found)
        except USER_ERRORS as error:
            self._again(parts, "process_events", user_traceback(error))
            return
        if self._combine is None:
            for part, payload in zip(parts, payloads, strict=True):
                self._finish(part, payload, "process_events")
        elif any(map(is_, payloads, repeat(None))):
            self._hold_some(parts, payloads)
        else:
            self._hold(parts, payloads)

    def _ticks(self, parts: Sequence[Part]) -> set[int]:
        ticks = {parts[0].event} if self.tick else set()
        self.tick = False
        if self.tick_at:
            ticks |= self.tick_at.intersection(part.event for part in parts)
            self.tick_at -= ticks
        self.results.ticks += sorted(ticks)
        return ticks

    def _again(self, parts: Sequence[Part], hook: str, text: str) -> None:
        """Process parts each for itself: `hook` failed for all of them together."""
        self._size = BatchSize()
        before = self.results.failed
        for part in parts:
            self._alone(part)
        if self.results.failed == before and hook not in self._told:
            self._told.add(hook)
            events = [part.event for part in parts]
            which = (
                f"{len(parts)} events from {min(events)} to {max(events)}" if len(parts) > 1 else f"event {events[0]}"
            )
            self.troubles.append(f"{hook} failed for {which}; processed one by one, none failed: {text}")

    def _alone(self, part: Part) -> None:
        event, tick = part.event, part.event in self.results.ticks
        self._cursor[AT] = event
        try:
            payload = self._process(EventData(event, part.streams), self.parameters.at(event), tick)
        except USER_ERRORS as error:
            self.results.fail(part, "process_event", user_traceback(error))
            return
        if payload is None or self._combine is None:
            self._finish(part, payload, "process_event")
        else:
            self._join_alone(part, payload)

    # -- combining -------------------------------------------------------------------------------------------

    def _hold_some(self, parts: Sequence[Part], payloads: Sequence[Any]) -> None:
        there = []
        for part, payload in zip(parts, payloads, strict=True):
            if payload is None:
                self._finish(part, None, "process_events")
            else:
                there.append((part, payload))
        if there:
            self._hold([part for part, _ in there], [payload for _, payload in there])

    def _hold(self, parts: Sequence[Part], payloads: Sequence[Any]) -> None:
        """Results of parts of one stretch wait for what else comes of it in this run."""
        end = self._stretches.end(parts[0].event)
        if end != self._held_end:
            self._join_held()
            self._held_end = end
        self._held += parts
        self._payloads += payloads

    def _join_held(self) -> None:
        parts, payloads = self._held, self._payloads
        if not parts:
            return
        self._held, self._payloads = [], []
        fault = self._join(parts, payloads)
        if not fault:
            return
        if len(parts) > 1:
            self._again(parts, "combine", fault)
        else:
            self.results.fail(parts[0], "combine", fault)

    def _join_alone(self, part: Part, payload: Any) -> None:
        if fault := self._join([part], [payload]):
            self.results.fail(part, "combine", fault)

    def _join(self, parts: Sequence[Part], payloads: list[Any]) -> str:
        """Make one result of several; what went wrong, or ""."""
        assert self._combine is not None
        events = [part.event for part in parts]
        if not all(map(lt, events, islice(events, 1, None))):
            first = {(part.event, part.k): i for i, part in reversed([*enumerate(parts)])}
            order = [first[name] for name in sorted(first)]
            parts, payloads = [parts[i] for i in order], [payloads[i] for i in order]
        try:
            combined = self._combine(payloads, self.parameters.at(parts[0].event))
        except USER_ERRORS as error:
            return user_traceback(error)
        if combined is None:
            return f"combine returned None for {len(parts)} results; return one result that stands for all of them"
        try:
            body = encode(combined, self.results.buffers, types=self._types)
        except CodecError as error:
            return f"combine returned what cannot travel: {error}"
        self.results.add_combined(parts, body)
        return ""

    def finish(self, last_event: int) -> None:
        """Call the app's `finish`, if it has one; errors are the caller's to record."""
        if self.hooks.finish is not None:
            self._cursor[AT] = SEVERAL
            self.hooks.finish(self.parameters.at(last_event))
            self._cursor[AT] = IDLE


def _unfit(found: Any, wanted: int) -> str:
    """Why this cannot be what `process_events` should return for so many events; "" if it can."""
    advice = "return a list with one result per event, None where there is nothing to reduce"
    if not isinstance(found, Sequence) or isinstance(found, str | bytes | bytearray | memoryview):
        return f"process_events returned {type(found).__name__} for {wanted} events; {advice}"
    if len(found) != wanted:
        return f"process_events returned {len(found)} results for {wanted} events; {advice}"
    return ""
