"""One service from a run file: its sockets, the user's class, its place with the controller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from importlib.metadata import version as version_of
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import structlog

from beamfold.app.addresses import split_host_port
from beamfold.app.declared import to_wire
from beamfold.app.garbage import calm_garbage_collector
from beamfold.app.hooks import ReducerHooks, WorkerHooks
from beamfold.app.loading import load_class, modules_of
from beamfold.app.runfile import RunFile, load_runfile
from beamfold.app.sections import StreamSection
from beamfold.cli import logs
from beamfold.cli.guard import inherited_memory
from beamfold.cli.registry import (
    STORE_VARIABLE,
    TOKEN_VARIABLE,
    claim,
    deployment_token,
    find_controller,
    open_ledger,
    shown_path,
)
from beamfold.ledger.base import Ledger
from beamfold.model.cursor import cursor_in, idle_cursor
from beamfold.model.errors import AppError, ConfigError, MapError, ScanError
from beamfold.model.report import ServiceState
from beamfold.protocols import framer
from beamfold.protocols.codec import MAX_PIECE, TypeTable
from beamfold.protocols.items import Framer
from beamfold.protocols.messages import Hello, Parameters, StreamInfo
from beamfold.protocols.recordings import dump_name
from beamfold.protocols.tokens import proven
from beamfold.sources.base import Source
from beamfold.transport.arena import Arena, elsewhere
from beamfold.transport.control import Context, ControlChannel
from beamfold.transport.data import DataHub

DATA_URL = "tcp://127.0.0.1:0"
"""Where ingesters and the reducer take connections from workers."""

MAX_WORD = 16 << 20
"""Bytes of what a worker says to an ingester: credit, and slots that it lets go of."""

MAX_RESULTS = 2 * MAX_PIECE
"""Bytes of one message part of a worker's results: the small ones of a batch travel together."""

RESULT_LOGS = ".results"
"""Folder of result logs of scans under way, below the output folder."""

SPILL = ".spill"
"""Folder of spilled frames, which have no names there, below the output folder."""

KNOWN_SCANS = 10
"""Newest scans of the ledger that a controller looks at when it begins: services may still be at work on one."""

DURABLE = ".durable"
"""Folder of what ingesters have received of durable streams, one for each of them, below the output folder."""

INTERRUPTED = 130


class Start(StrEnum):
    """How a controller comes to be: started by hand, or by a supervisor with its run, in the place of one that ended,
    or to take up the scan of a run that was killed; in the place of one that was to do that, and may not have."""

    ALONE = ""
    FRESH = "fresh"
    AGAIN = "again"
    RESUME = "resume"
    RESUME_AGAIN = "resume-again"


class _Service(Protocol):
    def run(self) -> None: ...

    def stop(self) -> None: ...


def run_service(
    role: str,
    runfile: Path,
    *,
    name: str | None,
    store: str | None,
    supervised: bool,
    token: str | None = None,
    start: Start = Start.ALONE,
) -> int:
    """Run one service until it is told to stop; returns the exit code.

    `supervised`: only SIGTERM ends it, Ctrl-C is the supervisor's. `token`: what the controller's role is
    held with already. Raises ConfigError for what the run file cannot mean.
    """
    if store is not None:
        os.environ[STORE_VARIABLE] = store
    settings = load_runfile(runfile)
    os.environ.pop(TOKEN_VARIABLE, None)  # what the app starts, or prints of its environment, does not have it
    name = name or _only_name(settings, role)
    logs.set_up(name, collect=role != "controller")
    if role == "controller":
        return _run_controller(settings, token, supervised, start)
    context = Context()
    try:
        make = {"ingester": _ingester, "worker": _worker, "reducer": _reducer}[role]
        return _serve(make(settings, name, context), supervised)
    finally:
        context.destroy()


def _only_name(settings: RunFile, role: str) -> str:
    if role == "worker":
        return "worker-0"
    if role != "ingester":
        return role
    names = list(settings.ingesters())
    if len(names) > 1:
        raise ConfigError(f"this run has several ingesters: say which with --name ({', '.join(names)})")
    return names[0]


def _serve(made: tuple[_Service, Callable[[], None]], supervised: bool) -> int:
    """Run a service in the main thread; `made` is the service and what is to be done after it."""
    service, close = made
    code = 0

    def stop(number: int, _frame: object) -> None:
        nonlocal code
        code = INTERRUPTED if number == signal.SIGINT else 0
        service.stop()

    signal.signal(signal.SIGTERM, stop)
    if not supervised:
        signal.signal(signal.SIGINT, stop)
    calm_garbage_collector()
    try:
        service.run()
    finally:
        close()
    return code


def _hello(role: str, name: str, **facts: Any) -> Hello:
    who = (role, name, uuid.uuid4().hex, version_of("beamfold"), os.getpid(), socket.gethostname())
    return Hello(*who, parent=os.getppid(), **facts)


def _connect(settings: RunFile, context: Context, hello: Hello) -> ControlChannel:
    log = structlog.get_logger()
    url = find_controller(settings, log.info)
    return ControlChannel(context, url, proven(hello, deployment_token(settings)), logs.collected.take)


def _framer(settings: RunFile, stream: str) -> Framer:
    section = settings.streams[stream]
    return framer(section.protocol, **section.framer_options)


# -- ingester ------------------------------------------------------------------------------------------------


def _ingester(settings: RunFile, name: str, context: Context) -> tuple[_Service, Callable[[], None]]:
    from beamfold.ingest.service import Connection, IngesterService, Input
    from beamfold.ingest.spill import Spill
    from beamfold.ingest.writeahead import WriteAheads

    names = settings.ingesters().get(name)
    if names is None:
        raise ConfigError(f"there is no ingester {name!r} in the run file: {', '.join(settings.ingesters())}")
    inputs: dict[str, Input] = {}
    arena = Arena(_arena_bytes(settings, names)) if settings.policy.shared_memory else None
    slot, keep = (arena.room, arena.keep) if arena is not None else (elsewhere, memoryview.toreadonly)
    for stream in names:
        s = settings.streams[stream]
        base = None if s.frame_base == "continuing" else s.frame_base
        sources = [_source(s, url, context, slot, keep) for url in s.urls]
        connections = tuple(Connection(source, _framer(settings, stream)) for source in sources)
        inputs[stream] = Input(stream, connections, base, s.retention_bytes, s.durable)
        where = ", ".join(source.url for source in sources)
        structlog.get_logger().info(f"stream {stream!r} from {where} ({s.protocol})")
    directory = settings.spill.directory or settings.output.directory / SPILL
    spill = Spill(directory.absolute(), settings.spill.max_bytes, keep)
    # What is in memory may be there as well, and the oldest of it holds up what came after.
    room = settings.spill.max_bytes + 2 * sum(i.retention_bytes for i in inputs.values() if i.durable)
    logs_of = settings.output.directory.absolute() / DURABLE / dump_name(name).removesuffix(".cbors")
    data = DataHub(context, DATA_URL, MAX_WORD)
    offered = [
        StreamInfo(i.name, i.typ, i.numbered, i.numbered and len(i.connections) == 1, i.durable)
        for i in inputs.values()
    ]
    hello = _hello("ingester", name, url=data.url, streams=offered, arena=arena.address if arena is not None else "")
    control = _connect(settings, context, hello)

    def close() -> None:
        control.close()
        data.close()
        for connection in chain.from_iterable(i.connections for i in inputs.values()):
            connection.source.close()
        if arena is not None:
            arena.close()

    return IngesterService(inputs, control, data, spill, arena, WriteAheads(logs_of, room, keep)), close


def _source(
    s: StreamSection,
    url: str,
    context: Context,
    room: Callable[[int], memoryview],
    keep: Callable[[memoryview], memoryview],
) -> Source:
    """What reads one address of a stream; large parts go where `room` or `keep` says."""
    from beamfold.sources.direct import DirectSource
    from beamfold.sources.zeromq import ZmqSource

    if s.receiver == "direct":
        return DirectSource(url, bind=s.bind, room=room)
    return ZmqSource(context, url, s.socket, bind=s.bind, hwm=s.receive_hwm, keep=keep)


def _arena_bytes(settings: RunFile, streams: Sequence[str]) -> int:
    """Room for all that may be retained, and for what workers still look at after that."""
    return sum(settings.streams[s].retention_bytes for s in streams) * 9 // 8 + (64 << 20)


# -- worker --------------------------------------------------------------------------------------------------


def _worker(settings: RunFile, name: str, context: Context) -> tuple[_Service, Callable[[], None]]:
    from beamfold.work.service import WorkerService

    load = _loader(settings, settings.app.worker)
    described, error = _describe(load, WorkerHooks)
    hello = _hello("worker", name, tags=_tags(settings, name), parameters=described, error=error)
    infos = {
        s: StreamInfo(s, f.typ, f.numbered, durable=section.durable)
        for s, section in settings.streams.items()
        if (f := _framer(settings, s))
    }
    control = _connect(settings, context, hello)
    state = ServiceState(name, version_of("beamfold"))

    def info(stream: str) -> StreamInfo:
        if stream not in infos:
            raise ConfigError(
                f"the run file of worker {name} has no stream {stream!r}, which an ingester offers: "
                "start all services with the same run file"
            )
        return infos[stream]

    memory = inherited_memory()
    cursor = cursor_in(memoryview(memory)) if memory is not None else idle_cursor()
    return WorkerService(name, load, control, context, info, state, cursor), control.close


def _tags(settings: RunFile, name: str) -> list[str]:
    """The tags of worker-N are the run file's N-th; a worker of another name is a generic one."""
    number = name.removeprefix("worker-")
    tags = settings.worker_tags()
    return sorted(tags[int(number)]) if number.isdigit() and int(number) < len(tags) else ["generic"]


def _loader(settings: RunFile, path: str) -> Callable[[], type]:
    return lambda: load_class(path, settings.directory)


def _describe(
    load: Callable[[], type], hooks: type[WorkerHooks] | type[ReducerHooks]
) -> tuple[list[dict[str, Any]], str]:
    """What the class declares, and why it cannot be used ("": it can)."""
    try:
        return [to_wire(p) for p in hooks(load()).describe_parameters()], ""
    except AppError as error:
        structlog.get_logger().error(str(error))
        return [], str(error)


# -- reducer -------------------------------------------------------------------------------------------------


def _reducer(settings: RunFile, name: str, context: Context) -> tuple[_Service, Callable[[], None]]:
    from beamfold.publish.reducer_http import HttpThread, build_reducer_app
    from beamfold.publish.store import FileStore
    from beamfold.reduce.service import Progress, ReducerService

    load = _loader(settings, settings.app.reducer)
    described, error = _describe(load, ReducerHooks)
    made: list[ReducerService] = []

    def read(timeout: float) -> Any:
        if not made:
            raise TimeoutError("the reducer is just starting: ask again in a moment")
        return made[0].read(timeout)

    data = DataHub(context, DATA_URL, MAX_RESULTS)
    app = build_reducer_app(read, lambda: made[0].progress if made else Progress())
    http = HttpThread(app, *split_host_port(settings.reducer.http))
    hello = _hello("reducer", name, url=data.url, http=http.url, parameters=described, error=error)
    control = _connect(settings, context, hello)
    directory = settings.output.directory.absolute()
    store = FileStore(directory, settings.output.hdf5)
    state = ServiceState(name, version_of("beamfold"))
    types = partial(_app_types, settings)
    service = ReducerService(
        load,
        control,
        data,
        store,
        directory / RESULT_LOGS,
        state,
        types,
        shown=shown_path(settings),
        checkpoint_any=settings.reducer.checkpoint,
        checkpoint_pause=settings.reducer.checkpoint_pause,
    )
    made.append(service)
    structlog.get_logger().info(f"the published state is at {http.url}")

    def close() -> None:
        http.stop()
        made.clear()
        service.close()
        control.close()
        data.close()

    return service, close


def _app_types(settings: RunFile, reducer: type) -> TypeTable:
    """Types of both of the app's classes: results are often dataclasses that stand beside the worker."""
    worker = load_class(settings.app.worker, settings.directory, beside=reducer)
    return TypeTable({*modules_of(reducer), *modules_of(worker)})


# -- controller ----------------------------------------------------------------------------------------------


def _run_controller(settings: RunFile, token: str | None, supervised: bool, start: Start) -> int:
    ledger = open_ledger(settings)
    token = token or uuid.uuid4().hex
    try:
        epoch = claim(ledger, token, settings.run.name, structlog.get_logger().info)
        return asyncio.run(_control(settings, ledger, token, epoch, supervised, start))
    finally:
        ledger.close()


async def _control(settings: RunFile, ledger: Ledger, token: str, epoch: int, supervised: bool, start: Start) -> int:
    from beamfold.dispatch.service import ControllerService
    from beamfold.publish.controller_http import build_controller_app
    from beamfold.publish.serve import HttpServer
    from beamfold.transport.control import ControlHub

    context = Context()
    code = 0
    try:
        hub = ControlHub(context, settings.controller.control)
        machine, why = _machine(settings, ledger, epoch, start)
        service = ControllerService(hub, ledger, machine, token=token, unfinished=why)
        server = HttpServer(build_controller_app(service), *split_host_port(settings.controller.http))
        service.http = server.url
        structlog.get_logger().info(f"listening on {server.url}, services connect to {hub.url}")

        def stop(result: int) -> None:
            nonlocal code
            code = result
            service.shutdown()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop, 0)
        if not supervised:
            loop.add_signal_handler(signal.SIGINT, stop, INTERRUPTED)
        calm_garbage_collector()
        async with asyncio.TaskGroup() as group:
            group.create_task(service.run(), name="controller")
            group.create_task(server.run_here(), name="http")
        hub.close()
    finally:
        context.destroy()
    return code


def _resumption(ledger: Ledger, newest: list[tuple[str, dict[str, Any]]]) -> tuple[Any, str]:
    """The scan that was under way when its run was killed, None where there is none; and why unfinished ones fail."""
    from beamfold.dispatch.resumption import resumption, unfinished

    older = "another scan began, and no service was at work on it any more"
    if not newest or not unfinished(newest[0][1]):
        return None, older
    scan_id, record = newest[0]
    versions = [
        Parameters(record["number"], e.version, e.values, e.from_event)
        for e in ledger.parameter_history(scan_id)
        if e.from_event is not None
    ]
    try:
        return resumption(scan_id, record, versions), older
    except (MapError, ScanError) as error:
        return None, f"its run was killed, and it cannot be taken up: {error}"


def _machine(settings: RunFile, ledger: Ledger, epoch: int, start: Start = Start.ALONE) -> tuple[Any, str]:
    """The controller machine, going on from what the ledger has; and why scans that are unfinished there have failed.

    Where the run file sets a parameter it holds as a run begins; others are as they were left. So are all of them where
    this controller takes the place of one that ended, or takes a scan up.
    """
    from beamfold.dispatch.machine import ControllerMachine
    from beamfold.dispatch.resumption import RECORDED, unfinished
    from beamfold.dispatch.scans import Policy

    version, values = ledger.parameters()
    newest = ledger.scans(KNOWN_SCANS, RECORDED)
    resumed, why = None, ""
    if start in (Start.RESUME, Start.RESUME_AGAIN):
        resumed, why = _resumption(ledger, newest)
    elif start is Start.FRESH:
        why = "its run was killed, and started again without --resume"
    under_way = start is Start.ALONE and bool(newest) and unfinished(newest[0][1])
    first = settings.raw_parameters()
    left = under_way or start in (Start.AGAIN, Start.RESUME_AGAIN) or resumed is not None
    wanted = {**first, **values} if left else {**values, **first}
    policy = settings.policy
    machine = ControllerMachine(
        version_of("beamfold"),
        epoch,
        policy=Policy(
            policy.incomplete,
            policy.fold_patience,
            policy.fold_order,
            record=str(settings.record.directory.absolute()) if settings.record.directory else "",
            app={
                "worker": settings.app.worker,
                "reducer": settings.app.reducer,
                "directory": str(settings.directory.absolute()),
            },
            output=str(settings.output.directory.absolute()),
            overload=policy.overload,
            sample_every=policy.sample_every,
            timeout=policy.timeout,
            lease=settings.workers.lease,
            time_limit=settings.workers.time_limit,
        ),
        values=wanted,
        version=version + 1 if wanted != values else version,
        first_scan=newest[0][1].get("number", 0) + 1 if newest else 1,
        known=dict(newest),
        resumption=resumed,
        token=settings.token(),
    )
    return machine, why
