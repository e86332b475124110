"""What to return instead of something that cannot travel."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Number
from pathlib import PurePath
from typing import Any

import numpy as np

_PLAIN_BASES = (dict, list, tuple, set, frozenset, str, bytes, bytearray, bool, int, float, complex)
_CALLABLES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)


def instead_of(obj: Any) -> str:
    """One sentence of advice, from the object's type alone."""
    for test, advice in _ADVICE:
        if test(obj):
            return advice
    for base in _PLAIN_BASES:
        if isinstance(obj, base):
            return f"return {base.__name__}(it)"
    if hasattr(type(obj), "__array__"):
        return "return numpy.asarray(it), or its .to_numpy() or .to_dict()"
    return "return a dict of plain values and arrays, or make it a dataclass or pydantic model of your app"


_ADVICE: list[tuple[Callable[[Any], bool], str]] = [
    (lambda o: isinstance(o, np.ma.MaskedArray), "return it.filled(numpy.nan), or data and mask apart"),
    (lambda o: isinstance(o, np.ndarray | np.record), "return numpy.asarray(it), or its columns in a dict"),
    (lambda o: isinstance(o, deque | Iterator), "return list(it)"),
    (lambda o: isinstance(o, Mapping), "return dict(it)"),
    (lambda o: isinstance(o, PurePath), "return str(it)"),
    (lambda o: isinstance(o, Decimal | Fraction), "return float(it) or str(it)"),
    (lambda o: isinstance(o, BaseException), "return str(it), or raise it: a failure is recorded as such"),
    (lambda o: isinstance(o, _CALLABLES), "return its result or its name, not the callable itself"),
    (lambda o: isinstance(o, types.ModuleType), "return its name"),
    (lambda o: isinstance(o, Number) and not isinstance(o, _PLAIN_BASES), "return float(it) or complex(it)"),
]
