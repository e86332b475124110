"""What the controller machine wants done: the actions that its service carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from beamfold.dispatch.recording import WriteFile
from beamfold.model.errors import BeamfoldError
from beamfold.protocols.messages import Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send a control message to one service."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request: with a value, or with the error that refuses it."""

    request: int
    value: Any = None
    error: BeamfoldError | None = None


@dataclass(frozen=True, slots=True)
class RecordScan:
    """Write these fields of a scan to the ledger; with its number where that need not know the scan."""

    scan_id: str
    fields: dict[str, Any]
    number: int | None = None


@dataclass(frozen=True, slots=True)
class RecordParameters:
    """Write a parameter version and the event from which it is in force."""

    scan_id: str | None
    version: int
    values: dict[str, bytes]
    from_event: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """What a service logged, for people; it has printed it itself."""

    entries: list[dict[str, Any]]


Action: TypeAlias = Send | Reply | RecordScan | RecordParameters | WriteFile | Note | Logged
