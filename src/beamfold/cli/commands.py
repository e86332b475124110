"""The commands and their options; each hands over to a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from beamfold.model.errors import BeamfoldError

INTERRUPTED = 130
"""The exit code of what a person stopped with Ctrl-C: 128 + SIGINT."""

app = typer.Typer(
    help="Live map-reduce over detector streams: two small classes in, a live map out.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

P = ParamSpec("P")

RunFilePath = Annotated[Path, typer.Argument(metavar="RUNFILE", help="The run's TOML file.")]
Store = Annotated[
    str | None,
    typer.Option(help="Control store, redis://… or unix://…; default: the run file's, REDIS_URL, or one of our own."),
]
Record = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Record every scan in a folder of its own below this one.")
]
Name = Annotated[str | None, typer.Option(help="This service's name, unique among its kind.")]
Parent = Annotated[int | None, typer.Option(hidden=True, help="End when the process with this id ends.")]
Token = Annotated[str | None, typer.Option(hidden=True, help="What the supervisor holds the controller's role with.")]
Start = Annotated[str, typer.Option(hidden=True, help="Why the supervisor starts it.")]


def told(command: Callable[P, int | None]) -> Callable[P, None]:
    """A command whose errors are one text on stderr, and whose return value is the exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs) or 0
        except BeamfoldError as error:
            print(f"beamfold: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            code = INTERRUPTED
        raise typer.Exit(code)

    return run


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"beamfold {version('beamfold')}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Live map-reduce over detector streams: two small classes in, a live map out."""


@app.command()
@told
def run(
    runfile: RunFilePath,
    store: Store = None,
    record: Record = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take up the scan that was under way when this run was killed.")
    ] = False,
) -> int:
    """Start all services of a run on this host, and keep them until Ctrl-C."""
    from beamfold.cli.run import run_here

    return run_here(runfile, store, record, resume=resume)


def _service(
    role: str,
    runfile: Path,
    name: str | None,
    store: str | None,
    parent: int | None,
    token: str | None = None,
    start: str = "",
) -> int:
    from beamfold.cli.process import follow_parent

    if parent is not None:
        follow_parent(parent)
    from beamfold.cli.services import Start as How
    from beamfold.cli.services import run_service

    supervised = parent is not None
    return run_service(role, runfile, name=name, store=store, supervised=supervised, token=token, start=How(start))


@app.command()
@told
def controller(
    runfile: RunFilePath,
    name: Name = None,
    store: Store = None,
    parent: Parent = None,
    token: Token = None,
    start: Start = "",
) -> int:
    """Start the controller alone."""
    return _service("controller", runfile, name, store, parent, token, start)


@app.command()
@told
def ingester(runfile: RunFilePath, name: Name = None, store: Store = None, parent: Parent = None) -> int:
    """Start one ingester alone: --name says which of the run file's."""
    return _service("ingester", runfile, name, store, parent)


@app.command()
@told
def worker(runfile: RunFilePath, name: Name = None, store: Store = None, parent: Parent = None) -> int:
    """Start one worker alone (worker-0, worker-1, …)."""
    return _service("worker", runfile, name, store, parent)


@app.command()
@told
def reducer(runfile: RunFilePath, name: Name = None, store: Store = None, parent: Parent = None) -> int:
    """Start the reducer alone."""
    return _service("reducer", runfile, name, store, parent)


@app.command()
@told
def status(
    runfile: Annotated[Path | None, typer.Argument(metavar="[RUNFILE]", help="The run's TOML file.")] = None,
    url: Annotated[str | None, typer.Option(help="The controller's HTTP address, instead of a run file.")] = None,
    store: Store = None,
) -> int:
    """Show the services and scans of a run."""
    from beamfold.cli.status import show

    return show(runfile, url, store)


@app.command()
@told
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep scanning until Ctrl-C.")] = False,
    points: Annotated[int, typer.Option(min=1, max=1_000_000, help="Points of the map.")] = 600,
    rate: Annotated[float, typer.Option(min=0.1, help="Points per second.")] = 100.0,
    output: Annotated[Path, typer.Option(help="Folder for the result files.")] = Path("demo-output"),
    record: Record = None,
) -> int:
    """Scan a simulated sample with two simulated detectors, and watch its map grow."""
    from beamfold.cli.demo import run_demo

    return run_demo(serve=serve, points=points, rate=rate, output=output, record=record)


@app.command()
@told
def replay(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="A recording's folder; or dumps, one per ingester; or raw captures, STREAM:PROTOCOL=FILE."),
    ] = None,
    worker: Annotated[
        str | None, typer.Option("-w", "--worker", help="Worker class, module:Class or file.py:Class.")
    ] = None,
    reducer: Annotated[str | None, typer.Option("-r", "--reducer", help="Reducer class, written the same way.")] = None,
    more: Annotated[list[str] | None, typer.Option("-f", "--file", help="The same.", hidden=True)] = None,
    parameters: Annotated[
        Path | None, typer.Option("-p", "--parameters", help="Parameter file: JSON, TOML, CBOR or pickle.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HDF5 file for the published state.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--nworkers", min=1, help="Logical workers: one per process, unless said; a recording has its own."
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes that the logical workers are spread over.")
    ] = 1,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare with what was published live: 1, and where, if it differs."),
    ] = False,
) -> int:
    """Run an app over a recorded scan or captured streams, as it would have run live."""
    from beamfold.app.garbage import calm_garbage_collector
    from beamfold.cli.replay import run_replay

    calm_garbage_collector()
    return run_replay([*(more or []), *(files or [])], worker, reducer, parameters, output, workers, processes, verify)
