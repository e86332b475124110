"""The extension codes of the wire format, and its limits. Changing a number breaks every recording."""

from __future__ import annotations

from typing import Final

INLINE_BYTES: Final = 4096
"""Arrays and byte strings of this many bytes and more leave the body and become a buffer of their own."""

MAX_DEPTH: Final = 100
"""Containers inside containers; deeper is almost surely a structure that contains itself."""

MAX_PIECE: Final = 1 << 30
"""Bytes of one array or byte string, or of all the rest of a result, at most: what receives it takes no larger ones."""

TUPLE: Final = 1  # [item, …]
SET: Final = 2  # [item, …]
FROZENSET: Final = 3  # [item, …]
PAIRS: Final = 4  # [key, value, key, value, …]: a dict whose keys are not all plain strings
ORDERED: Final = 5  # the same: an OrderedDict
BIG_INT: Final = 6  # two's complement, little-endian
COMPLEX: Final = 7  # two float64, little-endian
BYTEARRAY: Final = 8  # the bytes
VIEW: Final = 9  # the bytes: a memoryview
SURROGATES: Final = 10  # UTF-8 with surrogates passed: a str that is not valid Unicode
BUFFER: Final = 11  # [BYTES | BYTEARRAY | VIEW, index of the buffer]
ARRAY: Final = 12  # [dtype, shape, bytes in C order | index of the buffer]
SCALAR: Final = 13  # [dtype, bytes]: a numpy scalar
NUMPY_TEXT: Final = 14  # str or bytes: numpy.str_ or numpy.bytes_
RANGE: Final = 15  # [start, stop, step]
SLICE: Final = 16  # [start, stop, step]
DATETIME: Final = 17  # [year, month, day, hour, minute, second, microsecond, fold, zone]
DATE: Final = 18  # [year, month, day]
TIME: Final = 19  # [hour, minute, second, microsecond, fold, zone]
TIMEDELTA: Final = 20  # [days, seconds, microseconds]
ENUM: Final = 21  # [type, member's name, or value for flags]
NAMED_TUPLE: Final = 22  # [type, [item, …]]
DATACLASS: Final = 23  # [type, {attribute: value}]
MODEL: Final = 24  # [type, {field: value}, extra | nil, [names of fields set], private | nil]
OWN: Final = 25  # [tag, state]: one of Beamfold's own types

BYTES: Final = 0  # only inside BUFFER
