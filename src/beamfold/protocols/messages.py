"""Control messages: what the services and the controller tell each other, as msgpack with a type tag.

Every service has one DEALER to the controller's ROUTER. Messages are small and per block or per batch, never per
event. `scan` is the controller's running number of a scan; a message about a scan that its reader does not know (an
ended one, or one it was not armed for) is ignored, so late messages of an older scan change nothing.
Runs are half-open `(lo, hi)` pairs of event numbers.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from beamfold.model.errors import CodecError

Run: TypeAlias = tuple[int, int]


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as its ingester offers it: `numbered` says whether its frames carry their number.

    Where it `resumes`, another ingester can go on with its series; where it is `durable` that one sends frames again
    that the one before may have sent.
    """

    name: str
    typ: str
    numbered: bool
    resumes: bool = False
    durable: bool = False


class Series(msgspec.Struct, frozen=True):
    """Where a series is, for an ingester that goes on with it.

    All events before `event` are terminal. `base` is the number of the series' first frame, None where nobody knows of
    a start: then that may have come, or is still to come. `last` is the highest event of its frames when nothing more
    is to come, None while the series goes on. So many `frames` are known to have been received. `done` are all events
    that are terminal, as far as they are few enough runs.
    """

    event: int
    base: int | None
    last: int | None = None
    frames: int = 0
    done: list[Run] = []


class WorkerInfo(msgspec.Struct, frozen=True):
    """A logical worker of one scan; its number is its place in the list. `uuid` is the process that fills it.

    One that `joined` in mid-scan sees what is broadcast, but nobody waits for what it makes of that, and nothing of it
    is folded.
    """

    name: str
    tags: list[str]
    uuid: str = ""
    joined: bool = False


class IngesterInfo(msgspec.Struct, frozen=True):
    """Where workers fetch which streams; those on the same host may map its `arena`."""

    name: str
    url: str
    streams: list[str]
    arena: str = ""


class Failure(msgspec.Struct, frozen=True):
    """User code raised: where, for which event, at which worker, and the traceback (capped by the sender)."""

    event: int
    where: str
    worker: str
    text: str


class Combined(msgspec.Struct, frozen=True, array_like=True):
    """Parts of one logical worker whose results were combined into one: runs (k, lo, hi) of events at one position."""

    worker: int
    parts: list[tuple[int, int, int]]


class Logged(msgspec.Struct, frozen=True, array_like=True):
    """Parts of one logical worker that a batch brought, in its order: runs (k, lo, hi) of events at one position.

    `digest` is that of all that the batch says of them (see `recordings.digest`), "" where only some of its parts were
    new: then nobody else has a batch of just these. `lacking` has those parts that lacked a stream, by stream.
    """

    worker: int
    parts: list[tuple[int, int, int]]
    digest: str
    lacking: dict[str, list[tuple[int, int, int]]] = {}


class Message(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of all control messages."""


# -- a service says ------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a service: what it is and offers. `url` is its data address, `http` its HTTP address.

    `error` is why its app cannot be used (a wrong class path, say); such a service is listed but not given work.
    `arena` is the address of the shared memory that it puts large frames into. What it knows of `scans`, for which
    another controller armed it, it says next. `parent` is the process that started it, on the same host: it may be a
    supervisor. The `proof` that it has the deployment's token is that of `tokens.proven`.
    """

    role: str
    name: str
    uuid: str
    version: str
    pid: int
    host: str
    url: str = ""
    http: str = ""
    streams: list[StreamInfo] = []
    tags: list[str] = []
    parameters: list[dict[str, Any]] = []
    error: str = ""
    arena: str = ""
    scans: list[int] = []
    parent: int = 0
    proof: bytes = b""


class Beat(Message, frozen=True):
    """I am alive; `stats` are numbers for people (queue sizes, rates).

    A service that is armed says for which `scan`, how many `events` it has processed of it and `last_event`, the
    highest; a worker also says for how many seconds user code was `active`, of `total` since it was armed.
    `latency` has the histograms of that scan so far (`model.latency.Latencies.to_wire`).
    """

    stats: dict[str, Any] = {}
    latency: dict[str, list[int]] = {}


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of a service's log: seconds since the epoch, the level's name, the line of code, the text."""

    created: float
    levelname: str
    lineno: int
    msg: str


class Logs(Message, frozen=True):
    """What this service logged since it last said so: few lines and short ones, at most once per beat."""

    lines: list[LogLine]


class Armed(Message, frozen=True):
    """Ready for the scan, or why not. `tick_interval` in seconds when the worker class asks for ticks; `stateful` when
    it says that it keeps something from event to event."""

    scan: int
    error: str = ""
    tick_interval: float | None = None
    stateful: bool = False


class StreamSeen(Message, frozen=True):
    """How far a stream has come: data frames received, the highest event they reach, bytes retained in memory.

    `shelved` bytes are retained on disk, `spilled` ones have ever been put there; reading was `paused` for so many
    seconds. `full`: what is retained has come close to its bound, and is not far enough below it yet.
    `payload_bytes` have all frames together that were kept. `base` is the number of the series' first frame. `arrived`
    is an event whose frame came lately, and when (seconds since the epoch); the other words are those of the report.
    """

    scan: int
    stream: str
    phase: str
    frames: int
    last_event: int
    retained: int
    discarded: int = 0
    malformed: int = 0
    duplicates: int = 0
    shelved: int = 0
    spilled: int = 0
    paused: float = 0.0
    full: bool = False
    payload_bytes: int = 0
    base: int = 0
    late: int = 0
    strangers: int = 0
    out_of_order: int = 0
    arrived: tuple[int, float] | None = None


class StreamEnded(Message, frozen=True):
    """The series end came. `last_event` is the highest event with a data frame (0: none); in a map without start and
    end event their messages count as data.

    `surplus` frames were beyond what the trigger map has for the stream; they were not used.
    """

    scan: int
    stream: str
    frames: int
    last_event: int
    surplus: int = 0


class FramesMissing(Message, frozen=True):
    """Frames that a later frame or the series end showed to be missing: events of this stream."""

    scan: int
    stream: str
    runs: list[Run]


class Trouble(Message, frozen=True):
    """Something a person should read in the report: malformed bytes, a detector that started twice."""

    scan: int
    where: str
    text: str


class Halted(Message, frozen=True):
    """Reading stopped as asked; per stream the highest event with a data frame, and whether its series had ended.
    Workers and reducer say of which events anything has come to them."""

    scan: int
    streams: dict[str, tuple[int, bool]]


class FenceReached(Message, frozen=True):
    """Up to `sent` (inclusive) events may have gone to workers; what comes later is held until the fence is set. Of
    workers and reducer: up to this one something has come to them."""

    scan: int
    version: int
    sent: int


class PartsDone(Message, frozen=True):
    """Results are in the result log: events that became terminal (lo, hi, state), and assigned parts done per worker.

    Every event below `frontier` is terminal, by the closed map when `closed`. `incomplete` has the events that lacked
    a stream, by stream; `ticks` (event, logical worker). If the scan is recorded, `combined` says which results were,
    `logged` which parts whose results are, and `poison` which parts (event, k) were not tried again.
    An `inventory` is all of this from the beginning, from a reducer that took up the result log of one before; or for a
    new controller, but then without what the recording is sure to have: `combined_before` results that were combined.
    """

    scan: int
    completed: list[tuple[int, int, int]]
    parts: dict[int, int]
    frontier: int
    failures: list[Failure] = []
    failed_total: int = 0
    incomplete: dict[str, list[Run]] = {}
    ticks: list[tuple[int, int]] = []
    duplicates: int = 0
    closed: bool = False
    finished: bool = False
    combined: list[Combined] = []
    logged: list[Logged] = []
    poison: list[tuple[int, int]] = []
    inventory: bool = False
    combined_before: int = 0


class Filled(Message, frozen=True):
    """This ingester or reducer knows now which process fills the place of a logical worker."""

    scan: int
    worker: int
    uuid: str


class Failed(Message, frozen=True):
    """This service cannot go on with the scan (its disk is full, say): the scan ends here."""

    scan: int
    reason: str


class Gone(Message, frozen=True):
    """The supervisor saw a process end: which service, how in words, and its `pid` (0: whichever it had).

    `event` is the one of `scan` that its user code was working on; -1: on none, or on several together.
    """

    role: str
    name: str
    how: str
    pid: int = 0
    scan: int = 0
    event: int = -1


class FoldFailed(Message, frozen=True):
    """The reducer's code raised for these events. What is not told so by the end is in Finished."""

    scan: int
    failed: list[Run]


class Torn(Message, frozen=True):
    """Results of a worker's process (`uuid`) were refused, since one of them is of parts of which some are done.

    What else there was in them has to be processed again; that process takes it for done.
    """

    scan: int
    worker: int
    uuid: str
    text: str


class Finished(Message, frozen=True):
    """This service ran its app's `finish()` for the scan. The reducer adds what only it knows."""

    scan: int
    failures: list[Failure] = []
    failed: list[Run] = []
    out_of_order: list[Run] = []
    result_file: str = ""
    error: str = ""


# -- the controller says -------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The controller knows this service now. `epoch` is the controller's own.

    It is said again to a service that is silent, to see whether that is still connected.
    """

    epoch: int


class Introduce(Message, frozen=True):
    """The controller does not know you (it may be a new one): say Hello, and what you know of scans."""


class Refused(Message, frozen=True):
    """This service cannot take part: another version, or a name that is taken. It ends and says why."""

    reason: str


class Arm(Message, frozen=True):
    """Get ready for a scan. `map` is TriggerMap.to_wire(); `parameters` are raw bytes by name.

    `declared` describes the app's parameters; then comes the run file's policy. `record` is the folder of the scan's
    recording, `dump_prefix` what the absolute paths of further dumps begin with; "": there is none. An ingester that
    takes the place of another one gets to `resume` that one's streams.
    """

    scan: int
    scan_id: str
    map: dict[str, Any]
    workers: list[WorkerInfo]
    ingesters: list[IngesterInfo]
    reducer_url: str
    version: int
    parameters: dict[str, bytes]
    declared: list[dict[str, Any]] = []
    incomplete: str = "process"
    fold_patience: float = 2.0
    fold_order: str = "event"
    record: str = ""
    dump_prefix: str = ""
    overload: str = "spill"
    resume: dict[str, Series] = {}


DROPPED = -2
"""The worker of a block that nobody is to process, because there is too much to do."""

PARKED = -3
"""PARKED - w is the worker of a block that an ingester has for nobody until it is assigned again: it was w's."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Virtual workers `lo` to `hi - 1` go to logical worker `worker`, or to nobody: they are DROPPED.

    `attempt` counts how often they were assigned.
    """

    lo: int
    hi: int
    worker: int
    attempt: int = 0


class Assign(Message, frozen=True):
    """Blocks, in order. Ingesters get all, a worker its own; every virtual worker below `assigned` has its worker.

    All events below `settled` are terminal: what was remembered for them may be forgotten. A frame has shown that
    events up to `reached` happened: what an ended stream lacks of them need not be waited for. `poison` are events
    that ended the processes that worked on them: they are not processed but failed.
    """

    scan: int
    blocks: list[Block]
    assigned: int
    settled: int = 0
    reached: int = -1
    poison: list[int] = []


class Fill(Message, frozen=True):
    """To ingesters and reducer: the process `uuid` fills the place of logical worker `worker` now; "": none does.

    Nothing is sent to the process before, and what it says comes too late. A new one learns all that it needs from the
    beginning: what its frames lack, and the frames of broadcasts. `joined` is a place that came in mid-scan: the first
    time that it is told there is one logical worker more.
    """

    scan: int
    worker: int
    uuid: str
    joined: WorkerInfo | None = None


class Moved(Message, frozen=True):
    """To workers: results go to the reducer at this address now. What it has not confirmed is to be sent again."""

    scan: int
    url: str


class Rejoined(Message, frozen=True):
    """To workers: another ingester has these streams now. What the one before has not sent will not come."""

    scan: int
    ingester: IngesterInfo


class Vacate(Message, frozen=True):
    """To the reducer: nobody will fill the place of this logical worker; its parts of broadcasts are left out."""

    scan: int
    worker: int


class Release(Message, frozen=True):
    """Events that are done for good: their frames may go, but for those that were broadcast.

    Broadcast frames are kept for workers that join later.
    """

    scan: int
    runs: list[Run]


class Drop(Message, frozen=True):
    """To the reducer: nobody will process the parts of these virtual workers, so they are done as they are."""

    scan: int
    blocks: list[Run]


class Waits(Message, frozen=True):
    """What is retained of these streams waits for frames of others and not for workers.

    Their detectors are not held back for that: it is spilled, whatever the policy.
    """

    scan: int
    streams: list[str]


class Halt(Message, frozen=True):
    """Stop reading frames for this scan and say how far you came."""

    scan: int


class Close(Message, frozen=True):
    """The scan has its last data event: an endless one's streams ended, or it was stopped."""

    scan: int
    last_event: int


class Conclude(Message, frozen=True):
    """All data events are terminal: the end event may be processed."""

    scan: int


class Fence(Message, frozen=True):
    """New parameters are coming: say up to which event you have sent, and hold the rest."""

    scan: int
    version: int


class Parameters(Message, frozen=True):
    """Version `version` of the parameters is in force from event `from_event` on."""

    scan: int
    version: int
    values: dict[str, bytes]
    from_event: int


class Tick(Message, frozen=True):
    """The next part this worker begins ticks."""

    scan: int


class Finish(Message, frozen=True):
    """Every part is done: run `finish()`, save what there is, answer Finished.

    A worker that joined in mid-scan may still have to see broadcasts, and does so before; but not if it is told again.
    """

    scan: int


class End(Message, frozen=True):
    """The scan is over; `report` is its report as JSON-able dict (to the reducer only). Drop what belongs to it."""

    scan: int
    report: dict[str, Any] | None = None


class Inventory(Message, frozen=True):
    """To a controller that did not know this service: what it knows of a scan that it was armed for.

    `blocks` are (lo, hi, logical worker) of virtual workers, an ingester's all and a worker's own; `fillers` the
    processes that an ingester or a reducer takes for the logical workers. `changes` are the versions of the parameters
    that came after `arm`, `closed` the last data event of a closed map. An ingester says which streams have `ended` and
    what is `missing`, whether it has `halted`, and whether it is `holding` frames back for new parameters; the reducer
    what is `done`; a worker how often its class wants to tick, whether it is `stateful`, and below which virtual worker
    it knows all to be `assigned`.
    """

    scan: int
    arm: Arm
    blocks: list[tuple[int, int, int]] = []
    fillers: list[str] = []
    changes: list[Parameters] = []
    closed: int | None = None
    halted: bool = False
    holding: bool = False
    ended: list[StreamEnded] = []
    missing: list[FramesMissing] = []
    done: PartsDone | None = None
    tick_interval: float | None = None
    stateful: bool = False
    assigned: int = 0


class Shutdown(Message, frozen=True):
    """End the process in good order."""


ToController: TypeAlias = (
    Hello
    | Beat
    | Logs
    | Armed
    | StreamSeen
    | StreamEnded
    | FramesMissing
    | Trouble
    | Halted
    | FenceReached
    | PartsDone
    | FoldFailed
    | Torn
    | Finished
    | Filled
    | Inventory
    | Failed
    | Gone
)
ToService: TypeAlias = (
    Welcome
    | Introduce
    | Refused
    | Arm
    | Assign
    | Fill
    | Moved
    | Rejoined
    | Vacate
    | Release
    | Drop
    | Waits
    | Halt
    | Close
    | Conclude
    | Fence
    | Parameters
    | Tick
    | Finish
    | End
    | Shutdown
)

_encoder = msgspec.msgpack.Encoder()
_to_controller = msgspec.msgpack.Decoder(ToController)
_to_service = msgspec.msgpack.Decoder(ToService)


def encode_message(message: Message) -> bytes:
    """The wire form of a control message."""
    return _encoder.encode(message)


def decode_to_controller(data: bytes) -> ToController:
    """A message that a service sent; CodecError for anything else."""
    try:
        message: ToController = _to_controller.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a message for a controller: {error}") from error
    return message


def decode_to_service(data: bytes) -> ToService:
    """A message that a controller sent; CodecError for anything else."""
    try:
        message: ToService = _to_service.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a message from a controller: {error}") from error
    return message
