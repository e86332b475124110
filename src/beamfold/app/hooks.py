"""A user's worker and reducer behind one face.

`WorkerHooks(cls)` and `ReducerHooks(cls)` look at the class, before the scan, and raise AppError for what
could never work. `construct(...)` makes the object of one scan and binds its hooks: afterwards each is a
plain callable that takes all the values it is offered, or None where the class has no such hook. What user
code raises passes through untouched, but for what is asked before a scan (the constructor, `describe_parameters()`,
`get_tick_interval()`) and for `publish`: there it becomes an AppError with the traceback.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, ClassVar, NamedTuple

from beamfold.app.calling import Hook, accepts, call_by_name, check_method, user_traceback
from beamfold.model.errors import AppError, ParameterError
from beamfold.model.parameters import ParameterBase, merge_declared

logger = logging.getLogger(__name__)

_MISTAKES = (Exception, SystemExit)
"""What user code may raise without ending the service."""

TIMER_DEFAULT_S = 1.0
"""How long to wait for the next `timer()` when it did not return a number: what apps for the peer rely on."""


class _Offer(NamedTuple):
    """The values a hook is offered, in order, and how many of them it must take."""

    names: tuple[str, ...]
    needed: int = 0
    required: str = ""
    """For a hook that every class must have: the line to add."""


class _Hooks:
    """What worker and reducer have in common."""

    _offers: ClassVar[Mapping[str, _Offer]] = {}

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.instance: Any = None
        for name, offer in self._offers.items():
            if getattr(cls, name, None) is not None:
                check_method(cls, name, offer.names, self._where(name), offer.needed)
            elif offer.required:
                raise AppError(f"{self._where()} has no {name}; add a method `{offer.required}` to the class")

    def _where(self, name: str = "") -> str:
        known = f"{self.cls.__module__}:{self.cls.__qualname__}"
        return f"{known}.{name}" if name else known

    def describe_parameters(self) -> list[ParameterBase]:
        """What the class declares, checked; empty where it declares nothing. Raises AppError."""
        if not hasattr(self.cls, "describe_parameters"):
            return []
        where = self._where("describe_parameters")
        try:
            found = self.cls.describe_parameters()
        except _MISTAKES as exc:
            hint = "it is called on the class, so make it a @staticmethod\n" if type(exc) is TypeError else ""
            raise AppError(f"{where}() failed: {hint}{user_traceback(exc)}") from exc
        if found is None:
            return []
        if not isinstance(found, list | tuple) or not all(isinstance(p, ParameterBase) for p in found):
            raise AppError(f"{where}() returned {found!r}; return a list of IntParameter, StrParameter, ...")
        try:
            return list(merge_declared(found))
        except ParameterError as exc:
            raise AppError(f"{where}(): {exc}") from exc

    def construct(self, parameters: Any, context: dict[str, Any], state: Any) -> Any:
        """Make the object of one scan, by keyword with what its constructor accepts, and bind its hooks.

        Returns the object. Raises AppError, with the traceback where the constructor raised.
        """
        values = {"parameters": parameters, "context": context, "state": state}
        try:
            self.instance = call_by_name(self.cls, values, self._where("__init__"))
        except AppError:
            raise
        except _MISTAKES as exc:
            raise AppError(f"{self._where()} failed to construct: {user_traceback(exc)}") from exc
        for name, offer in self._offers.items():
            self._bind(name, offer)
        return self.instance

    def _bind(self, name: str, offer: _Offer) -> None:
        fn = getattr(self.instance, name, None)
        bound = None if fn is None else accepts(fn, offer.names, self._where(name), offer.needed)
        setattr(self, name, bound)


class WorkerHooks(_Hooks):
    """A worker class. The hooks, once constructed (None: the class has none):

    `process_event(event, parameters, tick)` -> the result, None = nothing to reduce;
    `process_events(events, parameters, ticks)` -> a sequence with one result per event, None = nothing to reduce;
    `events` is never empty and never has a broadcast event, `ticks` is the set of the event numbers that tick;
    `combine(results, parameters)` -> one result for all of them (there is at least one, none is None, and all are of
    data events); `get_tick_interval(parameters)` -> seconds; `finish(parameters)`; `close(context)`.
    """

    _offers: ClassVar[Mapping[str, _Offer]] = {
        "process_event": _Offer(("event", "parameters", "tick"), 1, "def process_event(self, event, parameters=None)"),
        "process_events": _Offer(("events", "parameters", "ticks"), 1),
        "combine": _Offer(("results", "parameters"), 1),
        "get_tick_interval": _Offer(("parameters",)),
        "finish": _Offer(("parameters",)),
        "close": _Offer(("context",)),
    }

    process_event: Hook
    process_events: Hook | None
    combine: Hook | None
    get_tick_interval: Hook | None
    finish: Hook | None
    close: Hook | None

    @property
    def stateful(self) -> bool:
        """Whether the class says that its results depend on the events it saw before (`stateful = True`)."""
        return bool(getattr(self.cls, "stateful", False))

    def tick_interval(self, parameters: Any) -> float | None:
        """Seconds between ticks as the class wants them, None = no ticks. AppError for a non-number, and when it
        raises."""
        if self.get_tick_interval is None:
            return None
        try:
            found = self.get_tick_interval(parameters)
            seconds = _seconds(found)
        except _MISTAKES as exc:
            raise AppError(f"{self._where('get_tick_interval')}() failed: {user_traceback(exc)}") from exc
        if seconds is None and found is not None:
            raise AppError(f"{self._where('get_tick_interval')} returned {found!r}; return seconds, or None")
        return seconds


class ReducerHooks(_Hooks):
    """A reducer class. The hooks, once constructed (None: the class has none):

    `process_result(result, parameters)`; `process_results(results, parameters)`, never empty and never with results of
    a broadcast event; `timer(parameters)`; `finish(parameters)`; `close(context)`. `checkpoint()` returns the state,
    `restore(state)` takes it up again in an object that has just been constructed; a class has both of them or neither.
    """

    _offers: ClassVar[Mapping[str, _Offer]] = {
        "process_result": _Offer(("result", "parameters"), 1, "def process_result(self, result, parameters=None)"),
        "process_results": _Offer(("results", "parameters"), 1),
        "timer": _Offer(("parameters",)),
        "finish": _Offer(("parameters",)),
        "close": _Offer(("context",)),
        "checkpoint": _Offer(()),
        "restore": _Offer(("state",), 1),
    }

    process_result: Hook
    process_results: Hook | None
    timer: Hook | None
    finish: Hook | None
    close: Hook | None
    checkpoint: Hook | None
    restore: Hook | None

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        there = [name for name in ("checkpoint", "restore") if getattr(cls, name, None) is not None]
        if len(there) == 1:
            lacking = "def restore(self, state)" if there == ["checkpoint"] else "def checkpoint(self)"
            raise AppError(f"{self._where(there[0])} is of no use alone; add `{lacking}` to the class as well")

    def run_timer(self, parameters: Any) -> float | None:
        """Call `timer` once: the seconds (>= 0) until it wants to be called again, None where there is none.

        What is not a number counts as one second, and is logged.
        """
        if self.timer is None:
            return None
        found = self.timer(parameters)
        seconds = _seconds(found)
        if seconds is None:
            logger.warning("%s returned %r instead of seconds; next call in 1 s", self._where("timer"), found)
            return TIMER_DEFAULT_S
        return seconds

    @property
    def publish(self) -> dict[Any, Any]:
        """The object's own `publish` tree, live: read it under `publish_rlock`. AppError for a non-dict."""
        try:
            found = getattr(self.instance, "publish", None)
        except _MISTAKES as exc:  # it may be a property
            raise AppError(f"{self._where('publish')} failed: {user_traceback(exc)}") from exc
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise AppError(
                f"{self._where('publish')} is {type(found).__name__}; make it a dict, such as {{'map': {{}}}}"
            )
        return found

    @property
    def publish_rlock(self) -> AbstractContextManager[Any]:
        """The object's own lock for `publish`, or one that locks nothing."""
        found = getattr(self.instance, "publish_rlock", None)
        return found if isinstance(found, AbstractContextManager) else nullcontext()


def _seconds(value: Any) -> float | None:
    if not isinstance(value, Real) or not math.isfinite(value):
        return None
    return max(float(value), 0.0)
