"""What a pickle may have called, each with its arguments checked: numpy's arrays and numbers, and harmless
built-ins.

Numpy's own reconstruction functions trust what they are given: an array's or a dtype's raw state can claim a
size, an offset or a flag that makes numpy read outside its memory. So their arguments are read here and the
array is made by numpy's checked constructors. Sources: `__reduce__` and `__setstate__` in numpy's methods.c
and descriptor.c.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from beamfold.model.errors import MalformedFrame, UnsafePickle

Charge: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that are about to be copied; raises UnsafePickle beyond the bound."""
Call: TypeAlias = Callable[[tuple[Any, ...], Charge], Any]


class Pending:
    """An object that a pickle has begun and will give a state. It is replaced by what `build` returns.

    Not an ABC: every memoised value is tested for being one, and an ABC makes that test several times dearer.
    """

    def __init__(self) -> None:
        self.memo: list[int] = []

    def build(self, state: Any, charge: Charge) -> Any:
        """The finished object."""
        raise NotImplementedError


_SCALARS: Final = frozenset({str, bytes, int, float, bool, complex, type(None)})
_KEY_NODES = 1000
_KEY_DEPTH = 20


def check_key(key: object) -> None:
    """UnsafePickle unless this can be hashed, and in short time."""
    if type(key) not in _SCALARS:
        _check_nested_key(key, _KEY_NODES, _KEY_DEPTH)


def _check_nested_key(key: object, nodes: int, depth: int) -> int:
    """How many nodes are left of the allowance after this key and everything in it."""
    if type(key) in _SCALARS or isinstance(key, np.generic):
        return nodes - 1
    if not isinstance(key, tuple | frozenset):
        raise UnsafePickle(f"a pickle uses a {type(key).__name__} as a key")
    if depth == 0 or len(key) > nodes:
        raise UnsafePickle("a pickle uses a key that is too large to be one")
    for item in key:
        nodes = _check_nested_key(item, nodes, depth - 1)
        if nodes <= 0:
            raise UnsafePickle("a pickle uses a key that is too large to be one")
    return nodes - 1


def _wrong(what: str, args: object) -> UnsafePickle:
    return UnsafePickle(f"a pickle calls {what} with {args!r}"[:300])


# --- numpy
# ------------------------------------------------------------------------------------------------------

_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc][0-9]{1,2}|[SUVMm][0-9]{0,9})")
_UNITS: Final = frozenset(("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"))


def _make_dtype(build: Callable[[], Any]) -> np.dtype[Any]:
    try:
        made: np.dtype[Any] = np.dtype(build())
    except (TypeError, ValueError) as error:
        raise MalformedFrame(f"a pickle describes no dtype ({error})"[:300]) from None
    if made.hasobject:
        raise UnsafePickle("a pickle has an array of objects")
    return made


def _dtype(args: tuple[Any, ...], _: Charge) -> _PendingDtype:
    text = args[0] if args else None
    if isinstance(text, bytes):
        text = str(text, "ascii", "replace")
    if not isinstance(text, str) or not _PLAIN_DTYPE.fullmatch(text):
        raise _wrong("numpy.dtype", args)
    return _PendingDtype(_make_dtype(lambda: text))


class _PendingDtype(Pending):
    """`state`: (version, byte order, (base, shape) | None, names | None, fields | None, itemsize, alignment,
    flags), and for datetimes a ninth: (metadata, (unit, count, denominator, events))."""

    def __init__(self, base: np.dtype[Any]) -> None:
        super().__init__()
        self._base = base

    def build(self, state: Any, charge: Charge) -> np.dtype[Any]:
        if type(state) is not tuple or not 8 <= len(state) <= 9:
            raise _wrong("dtype.__setstate__", state)
        _, order, sub, names, fields, itemsize = state[:6]
        if sub is not None:
            return _sub_dtype(sub)
        if names is not None:
            return _structured_dtype(names, fields, itemsize, charge)
        made = self._base
        if made.kind in "Mm" and len(state) == 9:
            made = _time_dtype(made.kind, state[8])
        if type(itemsize) is not int or itemsize not in (-1, made.itemsize):
            raise _wrong("dtype.__setstate__", state)
        return made.newbyteorder(order) if order in ("<", ">") else made


def _sub_dtype(sub: Any) -> np.dtype[Any]:
    if type(sub) is not tuple or len(sub) != 2 or not isinstance(sub[0], np.dtype):
        raise _wrong("dtype.__setstate__", sub)
    return _make_dtype(lambda: (sub[0], _shape(sub[1] if type(sub[1]) is tuple else (sub[1],))))


def _structured_dtype(names: Any, fields: Any, itemsize: Any, charge: Charge) -> np.dtype[Any]:
    if type(names) is not tuple or type(fields) is not dict or type(itemsize) is not int:
        raise _wrong("dtype.__setstate__", (names, fields, itemsize))
    charge(100 * len(names))
    parts = [_field(fields.get(name) if type(name) is str else None) for name in names]
    return _make_dtype(
        lambda: {
            "names": list(names),
            "formats": [dtype for dtype, _ in parts],
            "offsets": [offset for _, offset in parts],
            "itemsize": itemsize,
        }
    )


def _field(field: Any) -> tuple[np.dtype[Any], int]:
    """A field's dtype and offset in bytes; numpy checks that it lies inside the element."""
    if type(field) is not tuple or len(field) < 2 or not isinstance(field[0], np.dtype) or type(field[1]) is not int:
        raise _wrong("dtype.__setstate__", field)
    return field[0], field[1]


def _time_dtype(kind: str, metadata: Any) -> np.dtype[Any]:
    unit, count = metadata[1][:2]
    if isinstance(unit, bytes):
        unit = str(unit, "ascii", "replace")
    if unit not in _UNITS or type(count) is not int or not 0 < count < 2**31:
        raise _wrong("dtype.__setstate__", metadata)
    return _make_dtype(lambda: f"{kind}8" if unit == "generic" else f"{kind}8[{count}{unit}]")


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is tuple and len(shape) <= 32:
        for n in shape:
            if type(n) is not int or n < 0:
                break
        else:
            return shape
    raise UnsafePickle(f"a pickle has an array of shape {shape!r}"[:300])


_RAW: Final = frozenset({bytes, bytearray})


def _array(shape: Any, dtype: Any, raw: Any, fortran: bool, charge: Charge) -> np.ndarray[Any, Any]:
    """An array of its own memory; its size has to be exactly that of the bytes."""
    shape = _shape(shape)
    if type(raw) is str:
        raw = raw.encode("latin-1")
    if type(raw) not in _RAW or not isinstance(dtype, np.dtype):
        raise _wrong("an array", (shape, dtype, type(raw)))
    elements: int = math.prod(shape)
    if elements * dtype.itemsize != len(raw):
        raise MalformedFrame(f"a pickle has an array of shape {shape} of {dtype} in {len(raw)} bytes"[:300])
    # an element may have no bytes, and be counted and listed all the same
    charge(max(len(raw), elements))
    # of its own bytes, not a numpy copy: that would leave out what lies between the fields of a structure
    flat = np.frombuffer(bytearray(raw), dtype) if raw else np.empty(elements, dtype)
    return flat if len(shape) == 1 else flat.reshape(shape, order="F" if fortran else "C")


class _PendingArray(Pending):
    """`state`: ([version 1,] shape, dtype, Fortran order, bytes)."""

    def build(self, state: Any, charge: Charge) -> np.ndarray[Any, Any]:
        if type(state) is not tuple or not 4 <= len(state) <= 5:
            raise _wrong("ndarray.__setstate__", type(state))
        shape, dtype, fortran, raw = state[-4:]
        if isinstance(raw, list):
            raise UnsafePickle("a pickle has an array of objects")
        return _array(shape, dtype, raw, bool(fortran), charge)


def _reconstruct(args: tuple[Any, ...], _: Charge) -> _PendingArray:
    # always (numpy.ndarray, (0,), b"b"): what the array is follows as its state
    if len(args) != 3 or getattr(args[0], "name", None) != ("numpy", "ndarray") or args[1] != (0,):
        raise _wrong("numpy's _reconstruct", args)
    return _PendingArray()


def _scalar(args: tuple[Any, ...], charge: Charge) -> Any:
    if len(args) != 2:
        raise _wrong("numpy's scalar", args)
    return _array((1,), args[0], args[1], False, charge)[0]


def _frombuffer(args: tuple[Any, ...], charge: Charge) -> np.ndarray[Any, Any]:
    # protocol 5: (bytes, dtype, shape, order)
    if len(args) != 4 or args[3] not in ("C", "F"):
        raise _wrong("numpy's _frombuffer", args)
    return _array(args[2], args[1], args[0], args[3] == "F", charge)


def _ndarray(args: tuple[Any, ...], _: Charge) -> Any:
    raise _wrong("numpy.ndarray", args)


# --- the rest
# ---------------------------------------------------------------------------------------------------


def _encode(args: tuple[Any, ...], charge: Charge) -> bytes:
    # how protocols 0 to 2 write bytes
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        raise _wrong("_codecs.encode", args)
    charge(len(args[0]))
    return args[0].encode("latin-1")


def _ordered_dict(args: tuple[Any, ...], charge: Charge) -> OrderedDict[Any, Any]:
    return OrderedDict(_pairs(args, charge))


def _plain_dict(args: tuple[Any, ...], charge: Charge) -> dict[Any, Any]:
    return dict(_pairs(args, charge))


def _pairs(args: tuple[Any, ...], charge: Charge) -> list[tuple[Any, Any]]:
    items = _items("a dict", args, charge)
    if args and isinstance(args[0], dict):
        items = list(args[0].items())
    pairs = [(key, value) for key, value in items]
    for key, _ in pairs:
        check_key(key)
    return pairs


def _items(what: str, args: tuple[Any, ...], charge: Charge) -> list[Any]:
    if not args:
        return []
    if len(args) > 1 or type(args[0]) not in (list, tuple, set, frozenset, dict, OrderedDict):
        raise _wrong(what, args)
    charge(8 * len(args[0]))
    return list(args[0])


def _keys(what: str, args: tuple[Any, ...], charge: Charge) -> list[Any]:
    items = _items(what, args, charge)
    for item in items:
        check_key(item)
    return items


def _bytes(what: str, args: tuple[Any, ...], charge: Charge) -> bytes:
    """Never bytes(n): that is n bytes for the price of a number."""
    if not args:
        return b""
    if len(args) == 2:
        return _encode(args, charge)
    if len(args) == 1 and type(args[0]) in (bytes, bytearray, list):
        charge(8 * len(args[0]))
        return bytes(args[0])
    raise _wrong(what, args)


def _of_scalars(kind: Callable[..., Any], most: int, *kinds: type) -> Call:
    """Calls kind with at most so many arguments, each of one of these types and short if it is text."""

    def call(args: tuple[Any, ...], _: Charge) -> Any:
        if len(args) > most or any(type(a) not in kinds or (type(a) is str and len(a) > 1000) for a in args):
            raise _wrong(getattr(kind, "__name__", "a built-in"), args)
        return kind(*args)

    return call


_BUILTINS: dict[str, Call] = {
    "set": lambda args, charge: set(_keys("set", args, charge)),
    "frozenset": lambda args, charge: frozenset(_keys("frozenset", args, charge)),
    "list": lambda args, charge: _items("list", args, charge),
    "tuple": lambda args, charge: tuple(_items("tuple", args, charge)),
    "dict": _plain_dict,
    "bytes": lambda args, charge: _bytes("bytes", args, charge),
    "bytearray": lambda args, charge: bytearray(_bytes("bytearray", args, charge)),
    "complex": _of_scalars(complex, 2, int, float),
    "int": _of_scalars(int, 1, int, float, bool, str),
    "float": _of_scalars(float, 1, int, float, bool, str),
    "bool": _of_scalars(bool, 1, int, float, bool, str),
    "str": _of_scalars(str, 1, str),
    "slice": _of_scalars(slice, 3, int, type(None)),
    "range": _of_scalars(range, 3, int),
}

CALLS: Final[dict[tuple[str, str], Call]] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered_dict,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    **{("builtins", name): call for name, call in _BUILTINS.items()},
    # as protocols 0 to 2 name them
    **{("__builtin__", name): call for name, call in _BUILTINS.items()},
    ("__builtin__", "xrange"): _BUILTINS["range"],
    # numpy 2 renamed its core
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}
