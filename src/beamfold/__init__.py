"""Beamfold: live map-reduce over detector streams.

What an app needs is here: `from beamfold import EventData, ResultData, IntParameter`. Names are imported when they are
first used, so that `import beamfold` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamfold.model.bitmaps import events_in as events_in
    from beamfold.model.bitmaps import events_lacking as events_lacking
    from beamfold.model.errors import BeamfoldError as BeamfoldError
    from beamfold.model.events import EventData as EventData
    from beamfold.model.events import ResultData as ResultData
    from beamfold.model.events import StreamData as StreamData
    from beamfold.model.parameters import BinaryParameter as BinaryParameter
    from beamfold.model.parameters import BoolParameter as BoolParameter
    from beamfold.model.parameters import FloatParameter as FloatParameter
    from beamfold.model.parameters import IntParameter as IntParameter
    from beamfold.model.parameters import JsonParameter as JsonParameter
    from beamfold.model.parameters import StrParameter as StrParameter

_HOMES = {
    "BeamfoldError": "beamfold.model.errors",
    **dict.fromkeys(("events_in", "events_lacking"), "beamfold.model.bitmaps"),
    **dict.fromkeys(("EventData", "ResultData", "StreamData"), "beamfold.model.events"),
    **dict.fromkeys(
        (
            "BinaryParameter",
            "BoolParameter",
            "FloatParameter",
            "IntParameter",
            "JsonParameter",
            "StrParameter",
        ),
        "beamfold.model.parameters",
    ),
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'beamfold' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
