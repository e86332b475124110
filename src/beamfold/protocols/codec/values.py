"""How the leaves of a result travel: numbers, text, bytes, times, numpy scalars and arrays."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone, tzinfo
from struct import Struct
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
from msgspec.msgpack import Ext

from beamfold.model.errors import CodecError
from beamfold.model.events import Buffer
from beamfold.protocols.codec import codes
from beamfold.protocols.codec.codes import INLINE_BYTES
from beamfold.protocols.codec.dtypes import dtype_to_wire
from beamfold.protocols.codec.walk import Lower, Refused, Walk, pack, type_name

_two_doubles = Struct("<dd").pack


def _itself(obj: Any, _walk: Walk, _depth: int) -> Any:
    return obj


def lower_int(obj: int, _walk: Walk, _depth: int) -> Any:
    if -(1 << 63) <= obj < 1 << 64:
        return obj
    return Ext(codes.BIG_INT, obj.to_bytes(obj.bit_length() // 8 + 1, "little", signed=True))


def _str(obj: str, _walk: Walk, _depth: int) -> Any:
    try:
        obj.encode()
    except UnicodeEncodeError:
        return Ext(codes.SURROGATES, obj.encode("utf-8", "surrogatepass"))
    return obj


def _complex(obj: complex, _walk: Walk, _depth: int) -> Ext:
    return Ext(codes.COMPLEX, _two_doubles(obj.real, obj.imag))


def _beside(form: int, buffer: Buffer, walk: Walk) -> Ext:
    walk.buffers.append(buffer)
    return Ext(codes.BUFFER, pack((form, len(walk.buffers) - 1)))


def _bytes(obj: bytes, walk: Walk, _depth: int) -> Any:
    return obj if len(obj) < INLINE_BYTES else _beside(codes.BYTES, obj, walk)


def _bytearray(obj: bytearray, walk: Walk, _depth: int) -> Ext:
    if len(obj) < INLINE_BYTES:
        return Ext(codes.BYTEARRAY, bytes(obj))
    return _beside(codes.BYTEARRAY, bytes(obj), walk)


def _memoryview(obj: memoryview, walk: Walk, _depth: int) -> Ext:
    if obj.ndim != 1 or obj.format != "B" or not obj.contiguous:
        raise Refused(obj, "a memoryview that is not flat bytes cannot travel; return bytes(it) or numpy.asarray(it)")
    if obj.nbytes < INLINE_BYTES:
        return Ext(codes.VIEW, bytes(obj))
    return _beside(codes.VIEW, bytes(obj) if walk.copy and not obj.readonly else obj.toreadonly(), walk)


# -- dates and times -----------------------------------------------------------------------------------------


def _zone(zone: tzinfo | None, obj: object) -> Any:
    """nil, [microseconds east of UTC, name | nil], or a name of the zone database."""
    if zone is None:
        return None
    if type(zone) is timezone:
        # A timezone shows whether it was given a name only through what pickle would store of it.
        offset, *name = cast(Any, zone).__getinitargs__()
        return [offset // timedelta(microseconds=1), name[0] if name else None]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise Refused(
        obj,
        f"a time whose zone is a {type_name(type(zone))} cannot travel; use datetime.timezone or zoneinfo.ZoneInfo",
    )


def _datetime(obj: datetime, _walk: Walk, _depth: int) -> Ext:
    moment = (obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond, obj.fold)
    return Ext(codes.DATETIME, pack((*moment, _zone(obj.tzinfo, obj))))


def _date(obj: date, _walk: Walk, _depth: int) -> Ext:
    return Ext(codes.DATE, pack((obj.year, obj.month, obj.day)))


def _time(obj: time, _walk: Walk, _depth: int) -> Ext:
    moment = (obj.hour, obj.minute, obj.second, obj.microsecond, obj.fold)
    return Ext(codes.TIME, pack((*moment, _zone(obj.tzinfo, obj))))


def _timedelta(obj: timedelta, _walk: Walk, _depth: int) -> Ext:
    return Ext(codes.TIMEDELTA, pack((obj.days, obj.seconds, obj.microseconds)))


# -- numpy ---------------------------------------------------------------------------------------------------


def _dtype(obj: Any) -> Any:
    try:
        return dtype_to_wire(obj.dtype)
    except CodecError as exc:
        raise Refused(obj, str(exc)) from None


def _array(obj: np.ndarray[Any, Any], walk: Walk, _depth: int) -> Ext:
    dtype = _dtype(obj)
    if obj.nbytes < INLINE_BYTES:
        return Ext(codes.ARRAY, pack((dtype, obj.shape, obj.tobytes())))
    if not obj.flags.c_contiguous or (walk.copy and not _constant(obj)):
        walk.buffers.append(obj.tobytes())
    else:
        # Not memoryview(obj): datetime64 and some structures lack the buffer protocol, their bytes have it.
        walk.buffers.append(memoryview(cast(Any, obj.reshape(-1).view(np.uint8))).toreadonly())
    return Ext(codes.ARRAY, pack((dtype, obj.shape, len(walk.buffers) - 1)))


def _constant(array: np.ndarray[Any, Any]) -> bool:
    """Whether nobody writes to this memory: it belongs to bytes or to a read-only view (a received frame)."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return False
        base = base.base
    return isinstance(base, bytes) or (isinstance(base, memoryview) and base.readonly)


def _scalar(obj: np.generic, _walk: Walk, _depth: int) -> Ext:
    return Ext(codes.SCALAR, pack((_SCALAR_DTYPES.get(type(obj)) or _dtype(obj), obj.tobytes())))


def _numpy_str(obj: np.str_, walk: Walk, depth: int) -> Ext:
    return Ext(codes.NUMPY_TEXT, pack(_str(str(obj), walk, depth)))


def _numpy_bytes(obj: np.bytes_, walk: Walk, depth: int) -> Ext:
    return Ext(codes.NUMPY_TEXT, pack(_bytes(bytes(obj), walk, depth)))


_NUMBERS = {cls for cls in np.sctypeDict.values() if np.dtype(cls).kind in "biufc"}

# Their dtype does not depend on the value, and asking numpy for it costs as much as all the rest.
_SCALAR_DTYPES = {cls: np.dtype(cls).str for cls in _NUMBERS}

LEAVES: dict[type, Lower] = {
    type(None): _itself,
    bool: _itself,
    float: _itself,
    int: lower_int,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    memoryview: _memoryview,
    complex: _complex,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    np.ndarray: _array,
    np.str_: _numpy_str,
    np.bytes_: _numpy_bytes,
    **dict.fromkeys((*_SCALAR_DTYPES, np.datetime64, np.timedelta64, np.void), _scalar),
}
