"""The shapes of the controller's answers, for the API document. Extra keys may come; these stay."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import UUID4, BaseModel, Field

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Run = Annotated[list[int], Field(min_length=2, max_length=2, description="Events lo to hi - 1.")]


# -- scans ---------------------------------------------------------------------------------------------------


class Progress(BaseModel):
    """How far the present (or last) scan is. Events count the start and the end event, as the trigger map does."""

    last_assigned: Count
    completed_events: Count
    total_events: Count | None = Field(description="null for an endless scan")
    finished: bool
    scan: str | None = Field(None, description="id of the scan; not there before the first one")
    phase: str | None = None
    streams: dict[str, str] = {}
    waiting_for: list[str] = Field([], description="services, or streams of which nothing has come yet")


class Target(BaseModel):
    """One virtual worker, or all workers with the tags where the constraint is null."""

    tags: list[str]
    constraint: int | None


class ShownPart(BaseModel):
    """A part: for every stream its cells; null: no frame, []: discarded."""

    mapping: dict[str, list[list[Target] | None]]


class ShownMap(BaseModel):
    """A trigger map, with the part `reserved_start_end` at both ends where it is wrapped."""

    parts: dict[str, ShownPart]
    sequence: list[str]


class ScanLine(BaseModel):
    """A scan in the list."""

    id: str
    number: int | None = None
    state: str | None = None
    started: float | None = None
    finished: float | None = None
    streams: list[str] = []


class ParameterVersion(BaseModel):
    """A version of all parameters: in force from `from_event` on. `hash` is what results know it by."""

    version: int
    from_event: int
    values: dict[str, str]
    hash: str = ""


class Failure(BaseModel):
    """User code raised."""

    event: int
    where: str
    worker: str
    traceback: str


class ScanSummary(BaseModel):
    """A scan's report without its lists. `ended` is "" while it runs."""

    id: str
    number: int | None = None
    ended: str = ""
    phase: str | None = None
    reason: str = ""
    planned: int | None = None
    events: int = 0
    states: dict[str, int] = {}
    summary: str = ""
    started: float = 0.0
    finished: float | None = None
    result_file: str = ""


class StageLatency(BaseModel):
    """Seconds that a stage of the way took; `negative` of `count` were below zero, because clocks disagreed."""

    count: Count
    p50: Seconds
    p90: Seconds
    p99: Seconds
    max: Seconds
    negative: Count


class Bitmap(BaseModel):
    """One bit for each of `events` events from `first` on; `bits` is base64 of zlib of them, the first one highest."""

    first: int
    events: Count
    bits: str


class Slip(BaseModel):
    """A stream that seems to have come out of step with another one, by so many frames at about event `near`."""

    stream: str
    against: str
    frames: int
    near: int
    text: str


class Loss(BaseModel):
    """A service that was lost at `when`; `redone` parts were assigned again for that."""

    service: str
    how: str
    when: float
    redone: Count


class Report(BaseModel):
    """What became of every event of a scan. Lists are bounded: what is not listed is still counted."""

    scan_id: str = ""
    number: int | None = None
    ended: str = ""
    phase: str | None = None
    reason: str = ""
    planned: int | None = None
    first_event: int = 1
    events: int = 0
    unreached: int = 0
    states: dict[str, int] = {}
    runs: dict[str, list[Run]] = {}
    bitmaps: dict[str, Bitmap] = {}
    unlisted: dict[str, int] = {}
    streams: dict[str, dict[str, Any]] = {}
    failures: list[Failure] = []
    failed_total: int = 0
    incomplete: dict[str, list[Run]] = {}
    incomplete_bitmaps: dict[str, Bitmap] = {}
    troubles: list[str] = []
    slips: list[Slip] = []
    losses: list[Loss] = []
    redone: int = 0
    duplicates: int = 0
    out_of_order: list[Run] = []
    parameters: list[ParameterVersion] = []
    parameters_total: int = 0
    ticks: list[int] = []
    ticks_total: int = 0
    combined: int = 0
    workers: list[str] = []
    joined: list[str] = []
    latency: dict[str, StageLatency] = {}
    started: float = 0.0
    finished: float | None = None
    result_file: str = ""
    recording: str = ""
    overload: str = ""
    summary: str = ""


# -- services ------------------------------------------------------------------------------------------------


class ServiceState(BaseModel):
    """A service as older clients know it, and what we add. `mapping_uuid` is the scan that it was last armed for."""

    service_uuid: UUID4
    mapping_uuid: UUID4 | None
    dranspose_version: str | None = Field(description="the version of Beamfold, under the name that clients read")
    mapreduce_version: None = None
    parameters_hash: str | None = Field(description="null while worker and reducer contradict each other")
    processed_events: Count = Field(description="of the present (or last) scan")
    event_rate: Annotated[float, Field(ge=0, description="events per second, over the last few seconds")]
    name: str
    version: str
    pid: int
    host: str
    error: str = Field(description="why it cannot be used; empty: it can")


class ConnectedWorker(BaseModel):
    """A worker that an ingester sends to; `last_seen` in seconds since the epoch."""

    name: str
    service_uuid: UUID4
    last_seen: float


class IngesterState(ServiceState):
    """An ingester: `url` is where workers fetch frames."""

    url: str
    connected_workers: dict[UUID4, ConnectedWorker]
    streams: list[str]


class WorkerState(ServiceState):
    """A worker, with the ingesters that it fetches from; of these, `connected_workers` has this worker alone."""

    ingesters: list[IngesterState]
    tags: list[str]


class ReducerState(ServiceState):
    """The reducer: `url` is where workers send results, `http` where the published state is read."""

    url: str
    http: str


class Config(BaseModel):
    """Which services there are. The version of a parameter changes exactly when its value does."""

    ingesters: list[IngesterState]
    workers: list[WorkerState]
    reducer: ReducerState | None
    controller_version: str
    parameters_version: dict[str, UUID4]
    parameters_hash: str | None


class WorkerTimes(BaseModel):
    """Seconds that a worker spent on `no_events` events; those that are not told apart are 0."""

    get_assignments: Seconds
    get_messages: Seconds = Field(description="not in user code: waiting for events, and moving them")
    assemble_event: Seconds
    custom_code: Seconds
    send_result: Seconds
    no_events: int


class ServiceStatus(BaseModel):
    """What a service last said of itself; `gone` is how it ended, empty while it is there."""

    gone: str
    error: str
    seen: float


class Status(BaseModel):
    """The present (or last) scan. Lists of events and assignments have only the newest ones."""

    work_completed: dict[str, list[str]] = Field(description="the newest completed events, and who worked on them")
    last_assigned: Count
    assignment: list[dict[str, str]] = Field(
        description="one mapping from the newest assigned virtual workers, by number, to workers' names"
    )
    completed_events: list[int] = Field(description="the newest completed events; GET /progress counts all")
    finished: bool
    processing_times: dict[str, dict[str, WorkerTimes]] = Field(
        description="by worker, then by the last event of one of its newest intervals of about a second"
    )
    total_events: Count | None
    services: dict[str, ServiceStatus]
    parameters: int = Field(description="version of the parameters")
    store: str = Field(description="since when and why nothing is recorded in the control store; empty: it is")
    latency: dict[str, StageLatency] = Field(description="by stage of the way of events, as the report has it")
    scan: str | None = None
    phase: str | None = None
    streams: dict[str, str] = {}
    waiting_for: list[str] = []


class IntervalLoad(BaseModel):
    """`active` seconds of user code in `total` seconds, for `events` events."""

    total: Seconds
    active: Seconds
    events: Count


class WorkerLoad(BaseModel):
    """A worker's load by interval (in seconds), and of the whole scan under "scan"."""

    last_event: int
    intervals: dict[str, IntervalLoad]


# -- parameters and logs -------------------------------------------------------------------------------------


class Parameter(BaseModel):
    """A parameter as worker or reducer declare it. A default that is no JSON number (nan) is its name as text."""

    name: str
    description: str | None
    dtype: Literal["str", "int", "float", "bool", "binary", "json"]
    default: Any


class LogEntry(BaseModel):
    """A log entry: `created` in seconds since the epoch, `name` the service, `lineno` the line of code (0: none)."""

    created: float
    levelname: str
    name: str
    lineno: Count
    msg: str
