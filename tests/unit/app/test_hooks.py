"""Hooks are called with what they accept, at the price of a plain call."""

from __future__ import annotations

import functools
import re
import threading
import timeit
from contextlib import nullcontext
from typing import Any

import pytest

from beamfold.app.calling import accepts
from beamfold.app.hooks import ReducerHooks, WorkerHooks
from beamfold.model.errors import AppError
from beamfold.model.parameters import IntParameter, StrParameter

E, P, T = object(), object(), object()
EVENT = ("event", "parameters", "tick")


class Signatures:
    """Every way of writing process_event that was seen in an app, and then some; each returns what it got."""

    def event(self, event):
        return (event,)

    def event_parameters(self, event, parameters=None):
        return (event, parameters)

    def everything(self, event, parameters, tick):
        return (event, parameters, tick)

    def tick_default(self, event, parameters=None, tick=False):
        return (event, parameters, tick)

    def star(self, event, parameters=None, *args, **kwargs):
        return (event, parameters, args, kwargs)

    def keyword_after_star(self, event, *args, parameters=None):
        return (event, args, parameters)

    def only_star(self, *args):
        return args

    def only_kwargs(self, **kwargs):
        return kwargs

    def event_kwargs(self, event, **kwargs):
        return (event, kwargs)

    def keyword_only(self, event, *, tick, parameters):
        return (event, parameters, tick)

    def swapped(self, event, tick, parameters):
        return (event, tick, parameters)

    def tick_second(self, event, tick=False):
        return (event, tick)

    def own_names(self, ev, par, t):
        return (ev, par, t)

    def positional_only(self, ev, /, par):
        return (ev, par)

    def parameters_first(self, parameters, event):
        return (parameters, event)

    def many_defaults(self, event, a=1, b=2, c=3, parameters=None):
        return (event, a, b, c, parameters)

    @staticmethod
    def static(event, parameters):
        return (event, parameters)

    @classmethod
    def of_class(cls, event):
        return (cls, event)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("event", (E,)),
        ("event_parameters", (E, P)),
        ("everything", (E, P, T)),
        ("tick_default", (E, P, T)),
        ("star", (E, P, (T,), {})),
        ("keyword_after_star", (E, (P, T), P)),
        ("only_star", (E, P, T)),
        ("only_kwargs", {"event": E, "parameters": P, "tick": T}),
        ("event_kwargs", (E, {"parameters": P, "tick": T})),
        ("keyword_only", (E, P, T)),
        ("swapped", (E, T, P)),
        ("tick_second", (E, T)),
        ("own_names", (E, P, T)),
        ("positional_only", (E, P)),
        ("parameters_first", (P, E)),
        ("many_defaults", (E, T, 2, 3, P)),
        ("static", (E, P)),
        ("of_class", (Signatures, E)),
    ],
)
def test_a_hook_gets_what_its_signature_accepts(name: str, expected: Any) -> None:
    call = accepts(getattr(Signatures(), name), EVENT, name, 1)
    assert call(E, P, T) == expected


def test_every_signature_passes_the_check_before_the_scan_too() -> None:
    for name in (n for n in vars(Signatures) if not n.startswith("_")):
        cls = type("App", (Signatures,), {"process_event": vars(Signatures)[name]})
        hooks = WorkerHooks(cls)
        hooks.construct({}, {}, None)
        assert hooks.process_event(E, P, T) is not None


def test_the_users_own_method_is_called_where_it_takes_everything() -> None:
    method = Signatures().star
    assert accepts(method, EVENT, "", 1) == method


def test_the_call_costs_less_than_a_third_of_a_microsecond() -> None:
    class App:
        def process_event(self, event, *, parameters=None):
            return None

    app = App()
    call = accepts(app.process_event, EVENT, "", 1)
    scope = {"direct": app.process_event, "call": call}
    direct = min(timeit.repeat("direct(1, parameters=2)", globals=scope, number=20_000, repeat=9))
    adapted = min(timeit.repeat("call(1, 2, 3)", globals=scope, number=20_000, repeat=9))
    assert (adapted - direct) / 20_000 < 0.3e-6


def test_compiled_code_that_hides_its_signature_gets_everything() -> None:
    assert accepts(max, ("result", "parameters"), "max", 1)(3, 4) == 4


def test_a_wrapped_hook_is_known_by_what_it_wraps() -> None:
    def traced(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            return fn(*args, **kwargs)

        return wrapper

    class App:
        @traced
        def process_event(self, event):
            return event

    hooks = WorkerHooks(App)
    hooks.construct({}, {}, None)
    assert hooks.process_event(E, P, T) is E


# -- mistakes ------------------------------------------------------------------------------------------------


def _worker(**members: Any) -> type:
    return type("App", (), members)


def test_a_missing_hook_says_what_to_add() -> None:
    with pytest.raises(AppError, match=r"App has no process_event; add .*def process_event\(self, event"):
        WorkerHooks(_worker())
    with pytest.raises(AppError, match=r"App has no process_result; add .*def process_result\(self, result"):
        ReducerHooks(_worker())
    with pytest.raises(AppError, match="has no process_event"):
        WorkerHooks(_worker(process_event=None))


async def _async(self, event):
    return None


def _yields(self, event):
    yield event


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (lambda event, parameters=None: None, r"process_event lacks `self`"),
        (lambda: None, r"process_event lacks `self`"),
        (lambda self: None, r"process_event does not take 'event'"),
        (lambda self, *, parameters: None, r"process_event does not take 'event'"),
        (lambda self, event, parameters, tick, roi: None, r"asks for 'roi', which nothing gives.*default"),
        (lambda self, event, *, roi: None, r"asks for 'roi', which nothing gives"),
        (_async, r"process_event is async"),
        (_yields, r"process_event yields"),
        (5, r"process_event is int, not a method"),
    ],
)
def test_a_hook_that_could_never_be_called_is_known_before_the_scan(hook: Any, text: str) -> None:
    with pytest.raises(AppError, match=text):
        WorkerHooks(_worker(process_event=hook))


def test_the_mistake_names_the_class() -> None:
    with pytest.raises(AppError, match=rf"^{__name__}:Signatures has no process_event"):
        WorkerHooks(Signatures)


# -- construction --------------------------------------------------------------------------------------------


def _event(self, event):
    return None


class TakesAll:
    process_event = _event

    def __init__(self, parameters=None, context=None, state=None, **kwargs):
        self.got = (parameters, context, state, kwargs)


class TakesKwargs:
    process_event = _event

    def __init__(self, **kwargs):
        self.got = kwargs


class TakesContext:
    process_event = _event

    def __init__(self, *args, context, threshold=3):
        self.got = (args, context, threshold)


class TakesPositionalOnly:
    process_event = _event

    def __init__(self, parameters, /, **kwargs):
        self.got = (parameters, sorted(kwargs))


class TakesNothing:
    process_event = _event

    def __init__(self):
        self.got = ()


def test_a_constructor_gets_by_keyword_what_it_accepts() -> None:
    context: dict[str, Any] = {"kept": 1}
    expected = {
        TakesAll: (P, context, E, {}),
        TakesKwargs: {"parameters": P, "context": context, "state": E},
        TakesContext: ((), context, 3),
        TakesPositionalOnly: (P, ["context", "state"]),
        TakesNothing: (),
    }
    for cls, got in expected.items():
        assert WorkerHooks(cls).construct(P, context, E).got == got
    no_init = WorkerHooks(_worker(process_event=_event))
    assert no_init.construct(P, context, E) is no_init.instance


def test_the_context_is_the_callers_own_dict() -> None:
    context: dict[str, Any] = {}
    assert WorkerHooks(TakesAll).construct(P, context, E).got[1] is context


def test_a_constructor_that_fails_is_a_message_with_the_users_lines() -> None:
    class App:
        process_event = _event

        def __init__(self, parameters):
            self.roi = parameters["roi2"]

    with pytest.raises(AppError) as caught:
        WorkerHooks(App).construct({}, {}, None)
    text = str(caught.value)
    assert "App failed to construct" in text
    assert 'self.roi = parameters["roi2"]' in text
    assert "KeyError: 'roi2'" in text
    assert "calling.py" not in text
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_constructor_that_wants_more_says_so() -> None:
    class App:
        process_event = _event

        def __init__(self, detector):
            pass

    with pytest.raises(AppError, match="asks for 'detector', which nothing gives"):
        WorkerHooks(App).construct({}, {}, None)


def test_an_optional_hook_that_is_not_there_is_none() -> None:
    worker = WorkerHooks(TakesNothing)
    worker.construct(P, {}, E)
    names = ("process_events", "combine", "get_tick_interval", "finish", "close")
    assert [getattr(worker, n) for n in names] == [None] * 5
    assert worker.tick_interval(P) is None
    assert worker.stateful is False


def test_a_new_scan_gets_a_new_object() -> None:
    hooks = WorkerHooks(TakesAll)
    first, second = hooks.construct(P, {}, E), hooks.construct(P, {}, E)
    assert first is not second
    assert hooks.instance is second


# -- the other hooks -----------------------------------------------------------------------------------------


def test_all_of_a_workers_hooks_are_bound() -> None:
    class App:
        stateful = True

        def __init__(self):
            self.calls: list[Any] = []

        def process_event(self, event, parameters):
            self.calls.append((event, parameters))

        def process_events(self, batch):
            return list(batch)

        def combine(self, results, parameters):
            return sum(results)

        def get_tick_interval(self, parameters):
            return 2

        def finish(self, pars):
            self.calls.append(pars)

        def close(self, context):
            context["closed"] = True

    hooks = WorkerHooks(App)
    app = hooks.construct(P, {}, E)
    hooks.process_event(1, P, True)
    assert hooks.process_events is not None
    assert hooks.process_events([1, 2], P, [True, False]) == [1, 2]
    assert hooks.combine is not None
    assert hooks.combine([1, 2], P) == 3
    assert hooks.tick_interval(P) == 2.0
    assert hooks.finish is not None
    hooks.finish(P)
    context: dict[str, Any] = {}
    assert hooks.close is not None
    hooks.close(context)
    assert (app.calls, context, hooks.stateful) == ([(1, P), P], {"closed": True}, True)


def test_a_tick_interval_that_is_no_number_is_a_message() -> None:
    hooks = WorkerHooks(_worker(process_event=_event, get_tick_interval=lambda self: self.answer))
    app = hooks.construct(P, {}, E)
    for app.answer, seconds in ((None, None), (0.5, 0.5), (-1, 0.0)):
        assert hooks.tick_interval(P) == seconds
    app.answer = "often"
    with pytest.raises(AppError, match="get_tick_interval returned 'often'; return seconds"):
        hooks.tick_interval(P)


def _result(self, result):
    return None


@pytest.mark.parametrize("timer", [lambda self: 0.25, lambda self, parameters: 0.25, lambda self, **kw: 0.25])
def test_a_timer_may_take_parameters_or_not(timer: Any) -> None:
    hooks = ReducerHooks(_worker(process_result=_result, timer=timer))
    hooks.construct(P, {}, E)
    assert hooks.run_timer(P) == 0.25


@pytest.mark.parametrize("answer", [None, "soon", float("nan"), float("inf")])
def test_a_timer_that_returns_no_number_is_called_again_in_a_second(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = ReducerHooks(_worker(process_result=_result, timer=lambda self: answer))
    hooks.construct(P, {}, E)
    assert hooks.run_timer(P) == 1.0
    assert "instead of seconds" in caplog.text


def test_what_a_hook_raises_passes_through() -> None:
    def boom(self, result):
        raise ValueError("mine")

    hooks = ReducerHooks(_worker(process_result=boom))
    hooks.construct(P, {}, E)
    with pytest.raises(ValueError, match="mine"):
        hooks.process_result(E, P)
    assert hooks.run_timer(P) is None


def test_publish_and_its_lock() -> None:
    class App:
        process_result = _result

        def __init__(self):
            self.publish = {"map": {}}
            self.publish_rlock = threading.RLock()

    hooks = ReducerHooks(App)
    app = hooks.construct(P, {}, E)
    assert hooks.publish is app.publish
    with hooks.publish_rlock:
        assert hooks.publish_rlock is app.publish_rlock
    bare = ReducerHooks(_worker(process_result=_result))
    bare.construct(P, {}, E)
    assert bare.publish == {}
    assert isinstance(bare.publish_rlock, nullcontext)
    app.publish = [1]
    with pytest.raises(AppError, match="publish is list; make it a dict"):
        _ = hooks.publish


# -- describe_parameters -------------------------------------------------------------------------------------


def test_parameters_are_described_by_a_static_or_a_class_method() -> None:
    roi, mode = IntParameter(name="roi"), StrParameter(name="mode")
    for described in (
        staticmethod(lambda: [roi, mode]),
        classmethod(lambda cls: (mode, roi)),
        lambda: [roi, mode],
    ):
        hooks = WorkerHooks(_worker(process_event=_event, describe_parameters=described))
        assert hooks.describe_parameters() == [mode, roi]
    assert WorkerHooks(TakesNothing).describe_parameters() == []


@pytest.mark.parametrize(
    ("described", "text"),
    [
        (lambda self: [], "make it a @staticmethod"),
        (staticmethod(lambda: 1 // 0), "ZeroDivisionError"),
        (staticmethod(lambda: ["roi"]), r"returned \['roi'\]; return a list of IntParameter"),
        (staticmethod(lambda: [IntParameter(name="a"), StrParameter(name="a")]), "'a' is declared twice"),
        (staticmethod(lambda: [IntParameter(name="")]), "must not be empty"),
    ],
)
def test_a_faulty_description_is_a_message(described: Any, text: str) -> None:
    with pytest.raises(AppError, match=text):
        WorkerHooks(_worker(process_event=_event, describe_parameters=described)).describe_parameters()


def _fails(self):
    raise SystemExit("caf\udce9")


def test_what_is_asked_before_a_scan_may_raise_or_exit() -> None:
    hooks = WorkerHooks(_worker(process_event=_event, get_tick_interval=_fails))
    hooks.construct(P, {}, E)
    with pytest.raises(AppError, match=r"get_tick_interval\(\) failed") as caught:
        hooks.tick_interval(P)
    str(caught.value).encode()  # it travels, whatever a file's name or a device put into it
    with pytest.raises(AppError, match="failed to construct"):
        WorkerHooks(_worker(process_event=_event, __init__=_fails)).construct(P, {}, E)


def test_a_publish_property_that_raises_is_a_message() -> None:
    hooks = ReducerHooks(type("R", (), {"process_result": _result, "publish": property(_fails)}))
    hooks.construct(P, {}, E)
    with pytest.raises(AppError, match="publish failed"):
        _ = hooks.publish


@pytest.mark.parametrize(
    ("lone", "text"),
    [("checkpoint", "add `def restore(self, state)`"), ("restore", "add `def checkpoint(self)`")],
)
def test_checkpoint_and_restore_belong_together(lone: str, text: str) -> None:
    hook = {"checkpoint": lambda self: 1, "restore": lambda self, state: None}[lone]
    with pytest.raises(AppError, match=re.escape(text)):
        ReducerHooks(_worker(process_result=_result, **{lone: hook}))


def test_restore_has_to_take_the_state() -> None:
    hooks = {"checkpoint": lambda self: 1, "restore": lambda self: None}
    with pytest.raises(AppError, match="does not take 'state'"):
        ReducerHooks(_worker(process_result=_result, **hooks))
