"""Calling a user's function with what it accepts, and nothing it does not.

Hooks are written in many signatures: `(self, event)`, `(self, event, parameters=None, *args, **kwargs)`,
`(self, event, *args, parameters=None)`, `timer(self)` and `timer(self, parameters)`. The form of the call is
chosen once, when a scan begins; where the function takes everything in order, what is called afterwards is
the function itself.

Values are offered in an order and under names (`event`, `parameters`, `tick`). A positional parameter with
one of the names gets that value; one with another name gets the next value that none of them asked for by
name. `*args` gets the rest in order, a keyword-only parameter its value by name, `**kwargs` whatever was not
yet given.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from beamfold.model.errors import AppError

Hook: TypeAlias = Callable[..., Any]

_CALLERS = ("app", "offline", "reduce", "work")
_OURS = (
    *(f"{Path(__file__).parents[1] / floor}/" for floor in _CALLERS),
    str(importlib.__file__),
    "<frozen importlib",
    "<string>",  # what `bind` makes
)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Form(NamedTuple):
    """How to call: the offered values (by index) that go in by position, and those that go in by name."""

    positions: tuple[int, ...]
    keywords: tuple[int, ...]


def accepts(fn: Hook, names: Sequence[str], where: str, needed: int = 0) -> Hook:
    """A callable that takes len(names) positional values and hands `fn` those that it accepts.

    The first `needed` values must be accepted. `where` names the function in errors. Raises AppError for a
    function that cannot be called with what is offered.
    """
    _refuse_unusual(fn, where)
    return bind(fn, form_of(_parameters(fn), names, where, needed), names)


def check_method(cls: type, name: str, names: Sequence[str], where: str, needed: int = 0) -> None:
    """The same check before there is an object: AppError where a method of `cls` could not be called."""
    plain = inspect.getattr_static(cls, name)
    fn = getattr(cls, name)
    if not callable(fn):
        raise AppError(f"{where} is {type(fn).__name__}, not a method; make it `def {name}(self, ...)`")
    _refuse_unusual(fn, where)
    parameters = _parameters(fn)
    if inspect.isfunction(plain) and parameters is not None:
        if not parameters or parameters[0].name in names:
            raise AppError(f"{where} lacks `self`; write `def {name}(self, ...)`")
        if parameters[0].kind in _POSITIONAL:
            parameters = parameters[1:]
    form_of(parameters, names, where, needed)


def form_of(parameters: Sequence[Parameter] | None, names: Sequence[str], where: str, needed: int = 0) -> Form:
    """The form of the call for these parameters (None: not to be known, so all values in their order)."""
    everything = range(len(names))
    if parameters is None:
        return Form(tuple(everything), ())
    index = {name: i for i, name in enumerate(names)}
    asked = {index[p.name] for p in parameters if p.kind in _POSITIONAL and p.name in index}
    free = (i for i in everything if i not in asked)
    positions: list[int] = []
    keywords: list[int] = []
    in_order = True
    for p in parameters:
        given: int | None = None
        if p.kind in _POSITIONAL and in_order:
            given = index[p.name] if p.name in index else next(free, None)
            in_order = given is not None
            if given is not None:
                positions.append(given)
        elif p.kind is Parameter.VAR_POSITIONAL and in_order:
            positions += [i for i in everything if i not in positions]
            continue
        elif p.kind is Parameter.VAR_KEYWORD:
            keywords += [i for i in everything if i not in positions and i not in keywords]
            continue
        elif p.kind is not Parameter.POSITIONAL_ONLY and p.name in index:
            given = index[p.name]
            keywords.append(given)
        if given is None and p.default is Parameter.empty and p.kind is not Parameter.VAR_POSITIONAL:
            raise _nothing_gives(p.name, names, where)
    for i in range(needed):
        if i not in positions and i not in keywords:
            raise AppError(f"{where} does not take {names[i]!r}; add it to its parameters")
    return Form(tuple(positions), tuple(keywords))


def bind(fn: Hook, form: Form, names: Sequence[str]) -> Hook:
    """`fn` behind a callable that takes every offered value by position, at the price of one plain call."""
    if form == Form(tuple(range(len(names))), ()):
        return fn
    offered = ", ".join(f"a{i}" for i in range(len(names)))
    passed = ", ".join([f"a{i}" for i in form.positions] + [f"{names[i]}=a{i}" for i in form.keywords])
    # Written out as source, since packing and unpacking tuples for every event costs five times as much. The
    # text holds numbers and names from our own tables, nothing of the user's.
    made: Hook = eval(f"lambda fn: lambda {offered}: fn({passed})", {"__builtins__": {}})(fn)  # noqa: S307
    return made


def call_by_name(fn: Hook, values: dict[str, Any], where: str) -> Any:
    """Call once, passing by keyword what `fn` accepts of `values` (by position where it is positional-only).

    Raises AppError when it needs something else; what `fn` itself raises passes through.
    """
    parameters = _parameters(fn)
    if parameters is None:
        return fn(**values)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    left = dict(values)
    for p in parameters:
        if p.kind is Parameter.VAR_KEYWORD:
            keywords |= left
        elif p.name in values and p.kind is Parameter.POSITIONAL_ONLY:
            positional.append(left.pop(p.name))
        elif p.name in values and p.kind is not Parameter.VAR_POSITIONAL:
            keywords[p.name] = left.pop(p.name)
        elif p.default is Parameter.empty and p.kind is not Parameter.VAR_POSITIONAL:
            raise _nothing_gives(p.name, values, where)
    return fn(*positional, **keywords)


def presentable(text: str) -> str:
    """User text as it can travel and be stored: a file name that is not UTF-8 puts lone surrogates into it."""
    return text.encode("utf-8", "backslashreplace").decode()


USER_ERRORS = (Exception, SystemExit)
"""What user code may raise without ending its service: an app that calls sys.exit() fails its event, no more."""

MAX_TRACEBACK = 8192
"""Characters of a traceback that are kept; its end says what went wrong."""


def user_traceback(exc: BaseException) -> str:
    """The error and where in the user's code it was raised, without the frames that merely led there; capped."""
    below = exc.__traceback__
    while below is not None and below.tb_frame.f_code.co_filename.startswith(_OURS):
        below = below.tb_next
    text = presentable("".join(traceback.format_exception(type(exc), exc, below))).rstrip()
    return text if len(text) <= MAX_TRACEBACK else "…" + text[-MAX_TRACEBACK:]


def _nothing_gives(name: str, offered: Iterable[str], where: str) -> AppError:
    return AppError(
        f"{where} asks for {name!r}, which nothing gives (offered: {', '.join(offered)}); give it a default"
    )


def _parameters(fn: Hook) -> list[Parameter] | None:
    try:
        return list(inspect.signature(fn).parameters.values())
    except (ValueError, TypeError):  # compiled code that does not tell
        return None


def _refuse_unusual(fn: Hook, where: str) -> None:
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise AppError(f"{where} is async; hooks are plain functions, so drop the `async`")
    if inspect.isgeneratorfunction(fn):
        raise AppError(f"{where} yields; hooks are plain functions, so return one value instead")
