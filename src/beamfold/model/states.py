"""States of events and parts: the door to `eventstates` (the record) and `parts` (what is done, exactly
once)."""

from __future__ import annotations

from beamfold.model.eventstates import EventState, EventStates
from beamfold.model.parts import PartTracker

__all__ = ["EventState", "EventStates", "PartTracker"]
