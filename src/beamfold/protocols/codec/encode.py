"""Objects to bytes. One walk turns what msgpack would blur (a tuple, a set, an enum) into extensions.

The walk is dispatched on exact types, and scalars inside containers are not even dispatched. It takes strings
and ints as msgpack-able at first; in the rare case that one is not (lone surrogates, beyond 64 bits), msgspec
says so and the object is walked again with every one of them looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from typing import Any

from msgspec.msgpack import Ext

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.protocols.codec import codes
from beamfold.protocols.codec.advice import instead_of
from beamfold.protocols.codec.codes import MAX_DEPTH, MAX_PIECE
from beamfold.protocols.codec.own import OwnType, by_type
from beamfold.protocols.codec.types import TypeTable, attributes, global_name, kind
from beamfold.protocols.codec.values import LEAVES, lower_int
from beamfold.protocols.codec.walk import (
    ALWAYS_PLAIN,
    USUALLY_PLAIN,
    Lower,
    Refused,
    Walk,
    pack,
    too_deep,
    type_name,
)

_STR = frozenset({str})


def encode(obj: Any, buffers: list[Buffer], *, types: TypeTable | None = None, copy: bool = True) -> bytes:
    """The msgpack body of one result; its large arrays and byte strings are appended to `buffers`.

    Several results may share one list of buffers: indices count from its beginning. With `types`, classes
    that the reader's table would not find are refused here already. `copy=False` appends views of
    C-contiguous arrays instead of their bytes: cheaper, for a caller who sends before the owner of the array
    can write to it again.

    Raises CodecError (and leaves `buffers` as they were) naming the type, its place in `obj`, and what to
    return instead.
    """
    cls = type(obj)
    if (cls is dict and _STR.issuperset(map(type, obj)) and USUALLY_PLAIN.issuperset(map(type, obj.values()))) or (
        cls is list and USUALLY_PLAIN.issuperset(map(type, obj))
    ):
        # What most apps return, most of the time; what it does not fit is found out by the walk.
        try:
            body = pack(obj)
        except (OverflowError, UnicodeEncodeError):
            pass
        else:
            if len(body) <= MAX_PIECE:
                return body
    before = len(buffers)
    try:
        try:
            body = _encode(obj, Walk(buffers, types, copy, USUALLY_PLAIN))
        except (OverflowError, UnicodeEncodeError):
            del buffers[before:]
            body = _encode(obj, Walk(buffers, types, copy, ALWAYS_PLAIN))
    except Refused as refused:
        del buffers[before:]
        raise CodecError(refused.text()) from None
    except (OverflowError, ValueError, RuntimeError) as exc:
        del buffers[before:]
        raise CodecError(
            f"the result cannot be encoded ({exc}); was it changed by another thread, or is it huge?"
        ) from exc
    if (largest := max(map(len, (body, *buffers[before:])))) > MAX_PIECE:
        del buffers[before:]
        raise CodecError(f"the result has a piece of {largest} bytes, at most {MAX_PIECE} travel; return it in parts")
    return body


def _encode(obj: Any, walk: Walk) -> bytes:
    return pack(obj if type(obj) in walk.plain else _lower(obj, walk, 0))


def _lower(obj: Any, walk: Walk, depth: int) -> Any:
    lower = _EXACT.get(type(obj))
    if lower is not None:
        return lower(obj, walk, depth)
    return _app_object(obj, walk, depth)


# -- containers ----------------------------------------------------------------------------------------------


def _items(obj: Any, walk: Walk, depth: int) -> list[Any]:
    """The lowered items of a list, tuple or set."""
    if depth >= MAX_DEPTH:
        raise too_deep(obj)
    plain = walk.plain
    try:
        return [item if type(item) in plain else _lower(item, walk, depth + 1) for item in obj]
    except Refused as refused:
        step = "{{{}}}" if isinstance(obj, set | frozenset) else "[{}]"
        refused.inside(obj, ((step.format(i), item) for i, item in enumerate(obj)))
        raise


def _tuple(obj: tuple[Any, ...], walk: Walk, depth: int) -> Ext:
    return Ext(codes.TUPLE, pack(_items(obj, walk, depth)))


def _set(obj: set[Any], walk: Walk, depth: int) -> Ext:
    return Ext(codes.SET, pack(_sorted(_items(obj, walk, depth))))


def _frozenset(obj: frozenset[Any], walk: Walk, depth: int) -> Ext:
    return Ext(codes.FROZENSET, pack(_sorted(_items(obj, walk, depth))))


def _sorted(items: list[Any]) -> list[Any]:
    """The items of a set in an order that does not depend on the process: equal sets have equal encodings."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=pack)


def _dict(obj: dict[Any, Any], walk: Walk, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        raise too_deep(obj)
    plain = walk.plain
    if str not in plain or not _STR.issuperset(map(type, obj)):
        return Ext(codes.PAIRS, _pairs(obj, walk, depth))
    try:
        return {key: value if type(value) in plain else _lower(value, walk, depth + 1) for key, value in obj.items()}
    except Refused as refused:
        refused.inside(obj, _entries(obj))
        raise


def _ordered(obj: OrderedDict[Any, Any], walk: Walk, depth: int) -> Ext:
    return Ext(codes.ORDERED, _pairs(obj, walk, depth))


def _pairs(obj: dict[Any, Any], walk: Walk, depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise too_deep(obj)
    plain, flat = walk.plain, []
    try:
        for pair in obj.items():
            flat += [each if type(each) in plain else _lower(each, walk, depth + 1) for each in pair]
    except Refused as refused:
        refused.inside(obj, _entries(obj))
        raise
    return pack(flat)


def _entries(obj: dict[Any, Any]) -> Iterable[tuple[str, object]]:
    for key, value in obj.items():
        yield f"[{_short(key)}]", value
        yield f" key {_short(key)}", key


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 60 else text[:57] + "..."


def _bounds(code: int) -> Lower:
    def lower(obj: range | slice, walk: Walk, depth: int) -> Ext:
        try:
            return Ext(code, pack(_items((obj.start, obj.stop, obj.step), walk, depth)))
        except Refused as refused:
            refused.culprit = obj
            raise

    return lower


# -- types of the app and of Beamfold ------------------------------------------------------------------------


def _app_object(obj: Any, walk: Walk, depth: int) -> Ext:
    cls: Any = type(obj)
    own = by_type.get(cls)
    if own is not None:
        return _own(obj, own, walk, depth)
    code = kind(cls)
    if code is None:
        raise Refused(obj, f"{type_name(cls)} cannot travel; {instead_of(obj)}")
    try:
        name = walk.types.name_of(cls) if walk.types is not None else global_name(cls)
    except CodecError as exc:
        raise Refused(obj, str(exc)) from None
    return Ext(code, pack([name, *_PARTS[code](obj, walk, depth)]))


def _own(obj: Any, own: OwnType, walk: Walk, depth: int) -> Ext:
    parts = own.parts(obj)
    try:
        return Ext(codes.OWN, pack((own.tag, _items(parts, walk, depth))))
    except Refused as refused:
        refused.culprit = obj
        raise


def _enum_parts(obj: Enum, walk: Walk, depth: int) -> list[Any]:
    # A combination of flags has no reliable name, and a flag's value is always an int.
    return [lower_int(obj.value, walk, depth) if isinstance(obj, Flag) else obj.name]


def _named_tuple_parts(obj: Any, walk: Walk, depth: int) -> list[Any]:
    return [_items(obj, walk, depth)]


def _state(obj: Any, state: dict[str, Any], walk: Walk, depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise too_deep(obj)
    try:
        return {key: _lower(value, walk, depth + 1) for key, value in state.items()}
    except Refused as refused:
        refused.inside(obj, ((f".{key}", value) for key, value in state.items()))
        raise


def _dataclass_parts(obj: Any, walk: Walk, depth: int) -> list[Any]:
    return [_state(obj, attributes(obj), walk, depth)]


def _model_parts(obj: Any, walk: Walk, depth: int) -> list[Any]:
    extra, private = obj.__pydantic_extra__, obj.__pydantic_private__
    if private is not None:
        private = {k: v for k, v in private.items() if type(v).__name__ != "PydanticUndefinedType"}
    return [
        _state(obj, vars(obj), walk, depth),
        None if extra is None else _state(obj, extra, walk, depth),
        sorted(obj.__pydantic_fields_set__),
        None if private is None else _state(obj, private, walk, depth),
    ]


_PARTS: dict[int, Callable[[Any, Walk, int], list[Any]]] = {
    codes.ENUM: _enum_parts,
    codes.NAMED_TUPLE: _named_tuple_parts,
    codes.DATACLASS: _dataclass_parts,
    codes.MODEL: _model_parts,
}

_EXACT: dict[type, Lower] = LEAVES | {
    list: _items,
    tuple: _tuple,
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    OrderedDict: _ordered,
    range: _bounds(codes.RANGE),
    slice: _bounds(codes.SLICE),
}
