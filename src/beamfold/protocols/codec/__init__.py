"""Results on the wire: what `process_event` may return, as bytes and back; nothing is lost, nothing executed.

`encode` makes one msgpack body per result. What msgpack knows travels as itself: None, bool, int, float, str,
bytes, list, and dict with string keys. Everything else is an extension (see `codes`) whose data is msgpack
again. Arrays and byte strings of `INLINE_BYTES` and more are not in the body: they are appended to the
caller's list of buffers, which travel as message parts of their own, and the body refers to them by index.

Kept exactly: dict (any keys, their order), OrderedDict, list, tuple, named tuples, set, frozenset, str (lone
surrogates too), bytes, bytearray, flat byte memoryviews, int of any size, float, complex, None, bool, range,
slice, datetime, date, time, timedelta (zones: none, fixed offset, ZoneInfo), numpy scalars and arrays (every
dtype but object and variable-width strings; shape; byte order), enums, dataclasses, pydantic models, and
Beamfold's own EventData, StreamData, ResultData and WorkParameter. Objects are restored from their
attributes, as pickle does: no `__init__`, no validator runs. Anything else is refused with a `CodecError`
that names the type, where in the result it is, and what to return instead.

An app's types are named on the wire as "module:qualname" and looked up in a `TypeTable`, that is among what
modules that are imported already define; nothing is ever imported because a peer says so.
"""

from __future__ import annotations

from beamfold.protocols.codec.codes import INLINE_BYTES, MAX_DEPTH, MAX_PIECE
from beamfold.protocols.codec.decode import Reader, decode
from beamfold.protocols.codec.encode import encode
from beamfold.protocols.codec.own import register_type
from beamfold.protocols.codec.types import TypeTable

__all__ = ["INLINE_BYTES", "MAX_DEPTH", "MAX_PIECE", "Reader", "TypeTable", "decode", "encode", "register_type"]
