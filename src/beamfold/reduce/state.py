"""The state of a user's reducer as bytes and back, so that every mutable object is in it once, whatever holds it.

The codec of results writes a tree: an array that two attributes share would come back as two, of which only one is
added to. So dicts, lists, sets, arrays and objects of the app are taken out of what holds them, into a list in which
each is once; in their place stands its number. Arrays that are not the same but share memory are refused, as is all
that the codec does not know, each with the place where it was found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.events import Buffer, EventData, ResultData, StreamData
from beamfold.protocols.codec import TypeTable, codes, decode, encode, register_type
from beamfold.protocols.codec.advice import instead_of
from beamfold.protocols.codec.own import by_type
from beamfold.protocols.codec.types import attributes, kind
from beamfold.protocols.codec.values import LEAVES
from beamfold.protocols.codec.walk import type_name

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_LEAVES = (frozenset(LEAVES) | {range, slice}) - {np.ndarray, bytearray, memoryview}
_WITH_MORE = (EventData, StreamData, ResultData)
"""Beamfold's own types that hold what an app may change."""

NOT_SAVED = frozenset({"publish_rlock"})
"""Attributes that every object makes for itself."""


class Unsaveable(BeamfoldError):
    """Something in a state cannot be kept; the text says what and where."""


class _Same:
    """Stands for the mutable object of this number, or for the one of `outside` that ~number is the index of."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _same(parts: list[Any]) -> _Same:
    (number,) = parts
    if type(number) is not int:
        raise CodecError("the bytes say that an object's number is none")
    return _Same(number)


register_type("same", _Same, lambda same: [same.number], _same)


def encode_state(state: Any, types: TypeTable, outside: Sequence[object] = ()) -> list[Buffer]:
    """The state as frames, copied: it may change again afterwards.

    Objects in `outside` are not part of it, only that they are there. Raises Unsaveable.
    """
    taking = _Taking(outside)
    try:
        root = taking.take(state)
    except RecursionError:
        raise Unsaveable("it is nested too deeply") from None
    taking.refuse_shared_memory()
    buffers: list[Buffer] = []
    try:
        body = encode([root, taking.nodes, taking.transposed], buffers, types=types)
    except CodecError as error:
        raise Unsaveable(str(error)) from None
    return [body, *buffers]


def decode_state(frames: Sequence[Buffer], types: TypeTable, outside: Sequence[object] = ()) -> Any:
    """Undo `encode_state`; every array is the state's own. Raises CodecError."""
    try:
        root, nodes, transposed = decode(frames[0], frames[1:], types, writable=True)
        for number in transposed:
            nodes[number] = nodes[number].T
        giving = _Giving(nodes, outside)
        for node in nodes:
            giving.complete(node)
        return giving.give(root)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CodecError(f"this is not a state: {type(error).__name__}: {error}") from None


def state_of(instance: object) -> dict[str, Any]:
    """All attributes of an object but those that it makes for itself."""
    return {name: value for name, value in attributes(instance).items() if name not in NOT_SAVED}


def give_state(instance: object, state: Any) -> None:
    """Undo `state_of`, for an object that was just constructed: it has these attributes and no others."""
    if type(state) is not dict:
        raise CodecError("this is not the state of an object")
    for name in state_of(instance).keys() - state.keys():
        object.__delattr__(instance, name)
    for name, value in state.items():
        object.__setattr__(instance, name, value)


class _Taking:
    """Takes a state apart into `nodes`, its mutable objects without those in them."""

    def __init__(self, outside: Sequence[object]) -> None:
        self.nodes: list[Any] = []
        self.transposed: list[int] = []
        self._numbers = {id(obj): ~index for index, obj in enumerate(outside)}
        self._trail: list[tuple[str, object]] = []
        self._memory: list[tuple[int, int, str]] = []

    def take(self, obj: Any) -> Any:
        """What stands in the place of an object."""
        cls: Any = type(obj)
        if cls in _LEAVES:
            return obj
        if (known := self._numbers.get(id(obj))) is not None:
            return _Same(known)
        if issubclass(cls, tuple | frozenset) and (cls in (tuple, frozenset) or kind(cls) == codes.NAMED_TUPLE):
            return obj if _frozen(obj) else self._tuple(obj) if isinstance(obj, tuple) else self._set(obj)
        if (take := _MUTABLE.get(cls)) is not None:
            return self._node(obj, take)
        if cls is memoryview and type(obj.obj) is bytes:
            return obj
        if cls in by_type and cls not in _WITH_MORE:
            return obj
        code = None if cls in by_type else kind(cls)
        if code == codes.ENUM or _frozen(obj):
            return obj
        if code == codes.DATACLASS:
            return self._node(obj, _Taking._dataclass)
        if code == codes.MODEL:
            return self._node(obj, _Taking._model)
        raise self._refused(f"{type_name(cls)} cannot be kept; {instead_of(obj)}")

    def refuse_shared_memory(self) -> None:
        """Raise Unsaveable where two arrays are not the same, but have memory in common."""
        end, before = 0, ""
        for lo, hi, where in sorted(self._memory):
            if lo < end:
                raise Unsaveable(f"{before} and {where} share memory; keep a copy in one of them")
            if hi > end:
                end, before = hi, where

    def _node(self, obj: Any, take: Callable[[_Taking, Any], Any]) -> _Same:
        number = len(self.nodes)
        self._numbers[id(obj)] = number
        self.nodes.append(None)
        self.nodes[number] = take(self, obj)
        return _Same(number)

    def _inside(self, step: str, name: object, value: Any) -> Any:
        """What stands in the place of a part of something."""
        if type(value) in _PLAIN:
            return value
        self._trail.append((step, name))
        found = self.take(value)
        self._trail.pop()
        return found

    def _each(self, items: Iterable[Any]) -> list[Any]:
        return [item if type(item) in _PLAIN else self._inside("[{}]", index, item) for index, item in enumerate(items)]

    def _tuple(self, obj: Any) -> Any:
        return tuple.__new__(type(obj), self._each(obj))

    def _set(self, obj: Any) -> Any:
        for item in obj:
            self._refuse_key(item)
        return obj

    def _dict(self, obj: dict[Any, Any]) -> dict[Any, Any]:
        for key in obj:
            if type(key) not in _PLAIN:
                self._refuse_key(key)
        return type(obj)((key, self._inside("[{!r}]", key, value)) for key, value in obj.items())

    def _refuse_key(self, key: Any) -> None:
        if not _frozen(key):
            raise self._refused(f"the key or item {key!r:.60} is a {type_name(type(key))}; use text, numbers or tuples")

    def _array(self, obj: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if obj.dtype.hasobject:
            raise self._refused("an array of Python objects cannot be kept; use a list")
        lo = hi = int(obj.__array_interface__["data"][0])
        for n, stride in zip(obj.shape, obj.strides, strict=True):
            lo, hi = lo + min(0, (n - 1) * stride), hi + max(0, (n - 1) * stride)
        if obj.nbytes:
            self._memory.append((lo, hi + obj.itemsize, self._where()))
        if obj.flags.f_contiguous and not obj.flags.c_contiguous:
            # Sums go along the memory: with another layout they would differ in the last bit.
            self.transposed.append(len(self.nodes) - 1)
            return obj.T
        return obj

    def _bytearray(self, obj: bytearray) -> bytearray:
        if obj:
            self._array(np.frombuffer(obj, np.uint8))
        return obj

    def _dataclass(self, obj: Any) -> Any:
        made = object.__new__(type(obj))
        for name, value in attributes(obj).items():
            object.__setattr__(made, name, self._inside(".{}", name, value))
        return made

    def _model(self, obj: Any) -> Any:
        made = object.__new__(type(obj))
        for name in _MODEL_STATE:
            held = getattr(obj, name)
            taken = {k: self._inside(".{}", k, v) for k, v in (held or {}).items() if not _undefined(v)}
            object.__setattr__(made, name, None if held is None else taken)
        object.__setattr__(made, "__pydantic_fields_set__", obj.__pydantic_fields_set__)
        return made

    def _where(self) -> str:
        return "state" + "".join(step.format(name) for step, name in self._trail)

    def _refused(self, reason: str) -> Unsaveable:
        return Unsaveable(f"{self._where()}: {reason}")


def _undefined(value: object) -> bool:
    """Whether a private attribute of a pydantic model was declared only."""
    return type(value).__name__ == "PydanticUndefinedType"


_MODEL_STATE = ("__dict__", "__pydantic_extra__", "__pydantic_private__")

_MUTABLE: dict[type, Callable[[_Taking, Any], Any]] = {
    list: _Taking._each,
    dict: _Taking._dict,
    OrderedDict: _Taking._dict,
    set: _Taking._set,
    np.ndarray: _Taking._array,
    bytearray: _Taking._bytearray,
}


def _frozen(obj: Any) -> bool:
    """Whether nothing in this can change."""
    cls: Any = type(obj)
    if cls in _LEAVES:
        return True
    if issubclass(cls, tuple | frozenset):
        return all(map(_frozen, obj))
    code = kind(cls)
    if code == codes.DATACLASS:
        return bool(cls.__dataclass_params__.frozen) and all(map(_frozen, attributes(obj).values()))
    return code == codes.ENUM


class _Giving:
    """Puts mutable objects back to where their numbers stand."""

    def __init__(self, nodes: list[Any], outside: Sequence[object]) -> None:
        self._nodes = nodes
        self._outside = outside

    def give(self, value: Any) -> Any:
        """The object itself where a number stands for it; tuples are made anew."""
        cls = type(value)
        if cls is _Same:
            number = value.number
            return self._nodes[number] if number >= 0 else self._outside[~number]
        if issubclass(cls, tuple) and not _frozen(value):
            return tuple.__new__(cls, map(self.give, value))
        return value

    def complete(self, node: Any) -> None:
        """Put into a mutable object what it had."""
        cls: Any = type(node)
        if isinstance(node, dict):
            for key, value in node.items():
                if type(value) not in _PLAIN:
                    node[key] = self.give(value)
        elif isinstance(node, list):
            node[:] = [item if type(item) in _PLAIN else self.give(item) for item in node]
        elif (code := kind(cls)) == codes.DATACLASS:
            for name, value in attributes(node).items():
                object.__setattr__(node, name, self.give(value))
        elif code == codes.MODEL:
            for name in _MODEL_STATE:
                self.complete(getattr(node, name) or {})
