"""One service from a run file: its sockets, the user's class, its place with the controller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import Callable, Sequence
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
from beamfold.cli.registry import STORE_VARIABLE, claim, find_controller, open_ledger
from beamfold.ledger.base import Ledger
from beamfold.model.cursor import cursor_in, idle_cursor
from beamfold.model.errors import AppError, ConfigError
from beamfold.model.report import ServiceState
from beamfold.protocols import framer
from beamfold.protocols.codec import MAX_PIECE, TypeTable
from beamfold.protocols.items import Framer
from beamfold.protocols.messages import Hello, StreamInfo
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

INTERRUPTED = 130


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
    again: bool = False,
) -> int:
    """Run one service until it is told to stop; returns the exit code.

    `supervised`: only SIGTERM ends it, Ctrl-C is the supervisor's. `token`: what the controller's role is
    held with already, `again`: by a controller that ended. Raises ConfigError for what the run file cannot mean.
    """
    if store is not None:
        os.environ[STORE_VARIABLE] = store
    settings = load_runfile(runfile)
    name = name or _only_name(settings, role)
    logs.set_up(name, collect=role != "controller")
    if role == "controller":
        return _run_controller(settings, token, supervised, again)
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
    return Hello(role, name, uuid.uuid4().hex, version_of("beamfold"), os.getpid(), socket.gethostname(), **facts)


def _connect(settings: RunFile, context: Context, hello: Hello) -> ControlChannel:
    log = structlog.get_logger()
    return ControlChannel(context, find_controller(settings, log.info), hello, logs.collected.take)


def _framer(settings: RunFile, stream: str) -> Framer:
    section = settings.streams[stream]
    return framer(section.protocol, **section.framer_options)


# -- ingester ------------------------------------------------------------------------------------------------


def _ingester(settings: RunFile, name: str, context: Context) -> tuple[_Service, Callable[[], None]]:
    from beamfold.ingest.service import Connection, IngesterService, Input
    from beamfold.ingest.spill import Spill

    names = settings.ingesters().get(name)
    if names is None:
        raise ConfigError(f"there is no ingester {name!r} in the run file: {', '.join(settings.ingesters())}")
    inputs: dict[str, Input] = {}
    arena = Arena(_arena_bytes(settings, names)) if settings.policy.shared_memory else None
    room, keep = (arena.room, arena.keep) if arena is not None else (elsewhere, memoryview.toreadonly)
    for stream in names:
        s = settings.streams[stream]
        base = None if s.frame_base == "continuing" else s.frame_base
        sources = [_source(s, url, context, room, keep) for url in s.urls]
        connections = tuple(Connection(source, _framer(settings, stream)) for source in sources)
        inputs[stream] = Input(stream, connections, base, s.retention_bytes)
        where = ", ".join(source.url for source in sources)
        structlog.get_logger().info(f"stream {stream!r} from {where} ({s.protocol})")
    directory = settings.spill.directory or settings.output.directory / SPILL
    spill = Spill(directory.absolute(), settings.spill.max_bytes, keep)
    data = DataHub(context, DATA_URL, MAX_WORD)
    offered = [StreamInfo(i.name, i.typ, i.numbered, i.numbered and len(i.connections) == 1) for i in inputs.values()]
    hello = _hello("ingester", name, url=data.url, streams=offered, arena=arena.address if arena is not None else "")
    control = _connect(settings, context, hello)

    def close() -> None:
        control.close()
        data.close()
        for connection in chain.from_iterable(i.connections for i in inputs.values()):
            connection.source.close()
        if arena is not None:
            arena.close()

    return IngesterService(inputs, control, data, spill, arena), close


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
    infos = {s: StreamInfo(s, f.typ, f.numbered) for s in settings.streams if (f := _framer(settings, s))}
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
    service = ReducerService(load, control, data, store, directory / RESULT_LOGS, state, types)
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


def _run_controller(settings: RunFile, token: str | None, supervised: bool, again: bool) -> int:
    ledger = open_ledger(settings)
    token = token or uuid.uuid4().hex
    try:
        epoch = claim(ledger, token, settings.run.name, structlog.get_logger().info)
        return asyncio.run(_control(settings, ledger, token, epoch, supervised, again))
    finally:
        ledger.close()


async def _control(settings: RunFile, ledger: Ledger, token: str, epoch: int, supervised: bool, again: bool) -> int:
    from beamfold.dispatch.service import ControllerService
    from beamfold.publish.controller_http import build_controller_app
    from beamfold.publish.serve import HttpServer
    from beamfold.transport.control import ControlHub

    context = Context()
    code = 0
    try:
        hub = ControlHub(context, settings.controller.control)
        service = ControllerService(hub, ledger, _machine(settings, ledger, epoch, again), token=token)
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


def _machine(settings: RunFile, ledger: Ledger, epoch: int, again: bool = False) -> Any:
    """The controller machine, going on from what the ledger has.

    Where the run file sets a parameter it holds as a run begins; others are as they were left. So are all of them where
    this controller takes the place of one that ended: started `again`, or while a scan is under way.
    """
    from beamfold.dispatch.machine import ControllerMachine, Policy

    version, values = ledger.parameters()
    newest = ledger.scans(KNOWN_SCANS, ("number", "state", "started", "finished", "map", "series"))
    again = again or bool(newest and newest[0][1].get("state") in ("arming", "running"))
    first = settings.raw_parameters()
    wanted = {**first, **values} if again else {**values, **first}
    policy = settings.policy
    return ControllerMachine(
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
        ),
        values=wanted,
        version=version + 1 if wanted != values else version,
        first_scan=newest[0][1].get("number", 0) + 1 if newest else 1,
        known=dict(newest),
    )
