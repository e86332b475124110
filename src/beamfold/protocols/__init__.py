"""Bytes to nouns and back: one module per detector format, the dump files, and our own envelopes. Pure.

Importing this package makes `StreamData.parse` and `.array` work for every stream type it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from beamfold.model.errors import ConfigError
from beamfold.protocols import contrast, stins, xspress3
from beamfold.protocols.items import Framer

FRAMERS: Final[dict[str, Callable[..., Framer]]] = {
    "stins": stins.StinsFramer,
    "xspress3": xspress3.Xspress3Framer,
    "contrast": contrast.ContrastFramer,
}
"""Protocol name, as run files have it, to its framer."""


def framer(name: str, **options: Any) -> Framer:
    """A new framer for one stream. ConfigError for a protocol that is not known or an option it does not
    have."""
    make = FRAMERS.get(name)
    if make is None:
        raise ConfigError(f"no protocol {name!r}; known are {', '.join(sorted(FRAMERS))}")
    try:
        return make(**options)
    except TypeError:
        raise ConfigError(f"protocol {name!r} does not take the options {', '.join(options)}") from None


__all__ = ["FRAMERS", "Framer", "contrast", "framer", "stins", "xspress3"]
