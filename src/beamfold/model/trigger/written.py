"""A trigger map as somebody wrote it, beside the compiled one: people ask for it again, and recordings keep it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

from beamfold.model.errors import MapError
from beamfold.model.trigger.base import TriggerMap
from beamfold.model.trigger.compile import compile_map


@dataclass(frozen=True, slots=True)
class WrittenMap:
    """The JSON of a trigger map, packed (it repeats itself, and may be long), and whether a start and an end event
    are added to it. `timeout`: seconds of silence after which its scan is stopped, where they were given with it."""

    packed: bytes
    all_wrap: bool = True
    timeout: float | None = None

    @classmethod
    def of(cls, body: bytes, all_wrap: bool = True, timeout: float | None = None) -> WrittenMap:
        """From the JSON as it was sent."""
        return cls(zlib.compress(body, 1), all_wrap, timeout)

    def json(self) -> bytes:
        """The JSON as it was sent."""
        return zlib.decompress(self.packed)

    @property
    def body(self) -> Any:
        """The JSON value. Raises MapError for what is no JSON."""
        try:
            return msgspec.json.decode(self.json())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zlib.error) as error:
            raise MapError(f"the body is not JSON ({error}); POST a trigger map") from None

    def compile(self) -> TriggerMap:
        """The map that every service works with. Raises MapError."""
        return compile_map(self.body, self.all_wrap)
