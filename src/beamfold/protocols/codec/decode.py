"""Bytes to objects. What is read may come from a stranger: lengths, types and names are checked before use.

What is not an encoded result raises CodecError and nothing else. Memory stays in proportion to what arrived:
arrays are checked against their bytes before they are made, and a buffer is used once at most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from enum import Enum, Flag
from struct import Struct
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.events import Buffer
from beamfold.protocols.codec import codes
from beamfold.protocols.codec.dtypes import dtype_from_wire
from beamfold.protocols.codec.own import by_tag
from beamfold.protocols.codec.types import TypeTable, kind, with_attributes

_unpack = msgspec.msgpack.decode
_two_doubles = Struct("<dd")

# Of an encoding's MAX_DEPTH containers each may be one extension, and a few scalars are extensions too.
_MAX_EXTENSIONS = codes.MAX_DEPTH + 10


def decode(
    body: Buffer, buffers: Sequence[Buffer] = (), types: TypeTable | None = None, *, writable: bool = False
) -> Any:
    """The object that `encode` was given.

    Arrays are read-only; those of INLINE_BYTES and more are views of their buffer and keep it alive. With
    `writable` every array is a copy of its own instead. `types` is where an app's classes are looked up;
    without it none is known. Raises CodecError for anything that is not a whole, valid encoding.
    """
    return Reader(buffers, types, writable).decode(body)


class Reader:
    """Decodes results that share their buffers, as those of one batch do. The arguments are those of `decode`."""

    __slots__ = ("buffers", "depth", "types", "used", "writable")

    def __init__(self, buffers: Sequence[Buffer], types: TypeTable | None, writable: bool) -> None:
        self.buffers = buffers
        self.types = types
        self.writable = writable
        self.used: set[int] = set()
        self.depth = 0

    def decode(self, body: Buffer) -> Any:
        """As `decode`; a buffer that another result of this reader had is not given again."""
        self.depth = 0
        try:
            return _unpack(body, ext_hook=self.extension)
        except CodecError:
            raise
        except BeamfoldError as exc:
            raise CodecError(f"the bytes are not a result: {exc}") from exc
        except (
            ArithmeticError,
            AttributeError,
            BufferError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as exc:
            raise CodecError(f"the bytes are not a result ({type(exc).__name__}: {exc})") from exc

    def extension(self, code: int, data: memoryview) -> Any:
        restore = _RESTORE.get(code)
        if restore is None:
            raise CodecError(f"the bytes are not a result: extension {code} is not known here")
        return restore(self, data)

    def unpack(self, data: memoryview) -> Any:
        if self.depth >= _MAX_EXTENSIONS:
            raise CodecError(f"the bytes are not a result: they are nested deeper than {codes.MAX_DEPTH} levels")
        self.depth += 1
        found = _unpack(data, ext_hook=self.extension)
        self.depth -= 1
        return found

    def items(self, data: memoryview, count: int | None = None) -> list[Any]:
        """A list, of this many items if that is fixed."""
        found = self.unpack(data)
        if type(found) is not list or (count is not None and len(found) != count):
            raise CodecError(f"the bytes are not a result: expected a list of {count or 'some'} items")
        return found

    def buffer(self, index: Any) -> Buffer:
        if type(index) is not int or not 0 <= index < len(self.buffers):
            raise CodecError(f"the result refers to buffer {index!r}, but came with {len(self.buffers)}")
        if index in self.used:
            raise CodecError(f"the result uses buffer {index} twice")
        self.used.add(index)
        return self.buffers[index]

    def named_type(self, name: Any, code: int) -> Any:
        if type(name) is not str:
            raise CodecError("the bytes are not a result: a type's name is not text")
        if self.types is None:
            raise CodecError(f"the result contains a {name!r}, but no modules were given to look types up in")
        cls = self.types.find(name)
        if kind(cls) != code:
            raise CodecError(f"the result says that {name!r} is what it is not; are two versions of the app running?")
        return cls


def _strings_only(state: Any) -> dict[str, Any]:
    if type(state) is not dict or not all(type(key) is str for key in state):
        raise CodecError("the bytes are not a result: an object's attributes are not a map of names")
    return state


def _pairs(reader: Reader, data: memoryview) -> dict[Any, Any]:
    flat = iter(reader.items(data))
    return dict(zip(flat, flat, strict=True))


def _complex(_reader: Reader, data: memoryview) -> complex:
    if data.nbytes != _two_doubles.size:
        raise CodecError(f"the bytes are not a result: a complex number in {data.nbytes} bytes")
    return complex(*_two_doubles.unpack(data))


def _text_with_surrogates(_reader: Reader, data: memoryview) -> str:
    return bytes(data).decode("utf-8", "surrogatepass")


def _buffer(reader: Reader, data: memoryview) -> Any:
    form, index = reader.items(data, 2)
    if form == codes.BYTES:
        return bytes(reader.buffer(index))
    if form == codes.BYTEARRAY:
        return bytearray(reader.buffer(index))
    if form == codes.VIEW:
        return memoryview(reader.buffer(index)).toreadonly()
    raise CodecError(f"the bytes are not a result: a buffer is used as {form!r}")


# -- numpy ---------------------------------------------------------------------------------------------------


def _array(reader: Reader, data: memoryview) -> np.ndarray[Any, Any]:
    wire, shape, content = reader.items(data, 3)
    buffer = content if type(content) is bytes else reader.buffer(content)
    array = _ndarray(dtype_from_wire(wire), shape, buffer)
    if reader.writable:
        return array.copy()
    array.flags.writeable = False
    return array


def _ndarray(dtype: np.dtype[Any], shape: Any, buffer: Buffer) -> np.ndarray[Any, Any]:
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError(f"the result has an array of impossible shape {shape!r}")
    if math.prod(shape) * dtype.itemsize != memoryview(buffer).nbytes:
        raise CodecError(f"the result has an array {shape} of {dtype} in {memoryview(buffer).nbytes} bytes")
    return np.ndarray(tuple(shape), dtype, buffer)


def _scalar(reader: Reader, data: memoryview) -> Any:
    wire, content = reader.items(data, 2)
    if type(content) is not bytes:
        raise CodecError("the bytes are not a result: a numpy scalar without bytes")
    return _ndarray(dtype_from_wire(wire), [], content)[()]


def _numpy_text(reader: Reader, data: memoryview) -> Any:
    text = reader.unpack(data)
    if type(text) is str:
        return np.str_(text)
    if type(text) is bytes:
        return np.bytes_(text)
    raise CodecError("the bytes are not a result: a numpy string of neither text nor bytes")


# -- dates and times -----------------------------------------------------------------------------------------


def _zone(wire: Any) -> tzinfo | None:
    if wire is None:
        return None
    if type(wire) is list:
        offset, name = timedelta(microseconds=wire[0]), wire[1]
        return timezone(offset) if name is None else timezone(offset, name)
    try:
        return ZoneInfo(wire)
    except OSError as exc:  # a name that is a folder of the zone database
        raise CodecError(f"{wire!r} is not a time zone") from exc


def _datetime(reader: Reader, data: memoryview) -> datetime:
    year, month, day, hour, minute, second, micro, fold, zone = reader.items(data, 9)
    return datetime(year, month, day, hour, minute, second, micro, _zone(zone), fold=fold)


def _time(reader: Reader, data: memoryview) -> time:
    hour, minute, second, micro, fold, zone = reader.items(data, 6)
    return time(hour, minute, second, micro, _zone(zone), fold=fold)


# -- types of the app and of Beamfold ------------------------------------------------------------------------


def _enum(reader: Reader, data: memoryview) -> Any:
    name, member = reader.items(data, 2)
    cls: type[Enum] = reader.named_type(name, codes.ENUM)
    if issubclass(cls, Flag):
        if type(member) is not int:
            raise CodecError(f"a flag {name} is not a number")
        return cls(member)
    found = cls.__members__.get(member)
    if found is None:
        raise CodecError(f"{name} has no member {member!r}; are two versions of the app running?")
    return found


def _named_tuple(reader: Reader, data: memoryview) -> Any:
    name, items = reader.items(data, 2)
    cls = reader.named_type(name, codes.NAMED_TUPLE)
    if type(items) is not list or len(items) != len(cls._fields):
        raise CodecError(
            f"{name} has {len(cls._fields)} fields here and others in the result; are two versions of the app running?"
        )
    return tuple.__new__(cls, items)


def _dataclass(reader: Reader, data: memoryview) -> Any:
    name, state = reader.items(data, 2)
    return with_attributes(reader.named_type(name, codes.DATACLASS), _strings_only(state))


def _model(reader: Reader, data: memoryview) -> Any:
    name, state, extra, fields_set, private = reader.items(data, 5)
    cls = reader.named_type(name, codes.MODEL)
    if type(fields_set) is not list or not all(type(field) is str for field in fields_set):
        raise CodecError("the bytes are not a result: a model's fields are not names")
    obj = object.__new__(cls)
    # Past the model's own __setattr__, which may be frozen or validate.
    object.__setattr__(obj, "__dict__", _strings_only(state))
    object.__setattr__(obj, "__pydantic_extra__", None if extra is None else _strings_only(extra))
    object.__setattr__(obj, "__pydantic_fields_set__", set(fields_set))
    object.__setattr__(obj, "__pydantic_private__", None if private is None else _strings_only(private))
    return obj


def _own(reader: Reader, data: memoryview) -> Any:
    tag, parts = reader.items(data, 2)
    if type(tag) is not str or tag not in by_tag or type(parts) is not list:
        raise CodecError(f"the result contains a {tag!r}, which this version of Beamfold does not know")
    return by_tag[tag].restore(parts)


_RESTORE: dict[int, Callable[[Reader, memoryview], Any]] = {
    codes.TUPLE: lambda reader, data: tuple(reader.items(data)),
    codes.SET: lambda reader, data: set(reader.items(data)),
    codes.FROZENSET: lambda reader, data: frozenset(reader.items(data)),
    codes.PAIRS: _pairs,
    codes.ORDERED: lambda reader, data: OrderedDict(_pairs(reader, data)),
    codes.BIG_INT: lambda _, data: int.from_bytes(data, "little", signed=True),
    codes.COMPLEX: _complex,
    codes.BYTEARRAY: lambda _, data: bytearray(data),
    codes.VIEW: lambda _, data: memoryview(bytes(data)),
    codes.SURROGATES: _text_with_surrogates,
    codes.BUFFER: _buffer,
    codes.ARRAY: _array,
    codes.SCALAR: _scalar,
    codes.NUMPY_TEXT: _numpy_text,
    codes.RANGE: lambda reader, data: range(*reader.items(data, 3)),
    codes.SLICE: lambda reader, data: slice(*reader.items(data, 3)),
    codes.DATETIME: _datetime,
    codes.DATE: lambda reader, data: date(*reader.items(data, 3)),
    codes.TIME: _time,
    codes.TIMEDELTA: lambda reader, data: timedelta(*reader.items(data, 3)),
    codes.ENUM: _enum,
    codes.NAMED_TUPLE: _named_tuple,
    codes.DATACLASS: _dataclass,
    codes.MODEL: _model,
    codes.OWN: _own,
}
