"""The trigger map: which frame of which stream belongs to which event, and who must process it.

This is the door to `beamfold.model.trigger`, whose modules nobody else imports.
"""

from __future__ import annotations

from beamfold.model.trigger.base import EVERYBODY, GENERIC, MAX_STREAMS, Route, TriggerMap, bits, targets_of
from beamfold.model.trigger.compile import compile_map, compile_sequence, compile_uniform
from beamfold.model.trigger.shown import MAX_SHOWN, TooLong, shown
from beamfold.model.trigger.spec import LARGEST, START_END, SequenceSpec, UniformSpec, UniformStream
from beamfold.model.trigger.written import WrittenMap

__all__ = [
    "EVERYBODY",
    "GENERIC",
    "LARGEST",
    "MAX_SHOWN",
    "MAX_STREAMS",
    "START_END",
    "Route",
    "SequenceSpec",
    "TooLong",
    "TriggerMap",
    "UniformSpec",
    "UniformStream",
    "WrittenMap",
    "bits",
    "compile_map",
    "compile_sequence",
    "compile_uniform",
    "shown",
    "targets_of",
]
