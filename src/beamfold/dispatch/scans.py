"""The scans that a controller knows, and what the run file says about every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beamfold.dispatch.recovery import Recovery
from beamfold.dispatch.resumption import Resumption
from beamfold.dispatch.scan import Scan
from beamfold.dispatch.tally import Tally

KEEP_REPORTS = 100
"""Reports of ended scans kept in memory; the ledger keeps more."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the run file says about every scan.

    `record` is the folder that recordings go below ("": none are made), `app` what they say of the app: class paths and
    their folder. A relative `dump_prefix` counts from the folder `output`. With `overload` "sample" one event in
    `sample_every` is processed, None: one in as many as it takes. For `replace_patience` seconds somebody may take the
    place of a worker that was lost. A scan of which nothing has come for `timeout` seconds is stopped (None: none is).
    By `lease` and `time_limit` services without a supervisor are (see `silence`).
    """

    incomplete: str = "process"
    fold_patience: float = 2.0
    fold_order: str = "event"
    record: str = ""
    app: dict[str, str] = field(default_factory=dict)
    output: str = ""
    overload: str = "spill"
    sample_every: int | None = None
    replace_patience: float = 30.0
    timeout: float | None = None
    lease: float = 10.0
    time_limit: float = 300.0


@dataclass(slots=True)
class Scans:
    """The one that runs (or was the last to), and the next one, which waits for it to be drained; those that ended.

    `number` is that of the newest. `known` is what the ledger had of the newest ones when the controller started. One
    of them may be taken up: `recovery` is what services have said of it, `resumption` what the ledger says of one that
    ended with all services.
    """

    number: int
    known: dict[str, Mapping[str, Any]]
    resumption: Resumption | None
    recovery: Recovery | None = None
    scan: Scan | None = None
    next: Scan | None = None
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: Tally = field(default_factory=Tally)
