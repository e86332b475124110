"""A whole Beamfold as a person runs it: `beamfold run` in a process of its own, detectors of ours in front of it.

A deployment has the detectors' sockets, so it knows their addresses before it writes the run file; everything else
takes free ports and says where it is. Leaving it checks what a person would notice: the exit code of Ctrl-C, that no
process and no temporary file is left, and that nothing was complained of that the test had not announced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
import zmq

from beamfold.testing.stream import Dealer, StreamSender
from beamfold.testing.wire import Message

PATIENCE = 60.0
"""Seconds after which something that should happen is taken not to: generous, other work may be on this machine."""

POLL = 0.02
"""Seconds between two looks at something that is waited for."""

INTERRUPTED = 130
"""What a command that was ended with Ctrl-C exits with."""

READY = re.compile(r"controller (http\S+)\s+reducer (http\S+)")
"""The line that `beamfold run` prints when all services are there."""

COMPLAINT = re.compile(r"^\S+ (?:error|critical) |^beamfold: |Traceback|Warning: ")
"""Lines that say that something is wrong."""

_MARK = "BEAMFOLD_FLOW_TEST"

_UNWANTED = {"REDIS_URL", "PYTHONDONTWRITEBYTECODE"}
"""Variables that would make it another run, or make every process compile all modules again."""

_ROLES = {"ingester", "worker", "reducer", "controller"}


@dataclass(frozen=True)
class Stream:
    """A stream of the run file. `keys` are further keys of its section.

    Its detector has so many `sockets`, each of which is connected to so often.
    """

    protocol: str = "stins"
    keys: Mapping[str, Any] = field(default_factory=dict)
    sockets: int = 1
    connections: int = 1

    @property
    def kind(self) -> str:
        return "push" if self.protocol == "stins" else "pub"


def wait_until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """What `true()` returns as soon as that is true; AssertionError when it takes too long."""
    deadline = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(POLL)
    return found


class Deployment:
    """`with Deployment(folder, files, streams) as d`: within it all services are up and subscribed.

    `files` are the app's, by name; or a folder with an app, which is used as it is. Its classes are `worker.py:Worker`
    and `reducer.py:Reducer` unless `classes` says otherwise. `sections` are whole further sections of the run file.
    `complaints` are patterns of lines on stderr that the tests of this deployment provoke.
    """

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, str] | Path,
        streams: Mapping[str, Stream],
        *,
        classes: tuple[str, str] = ("worker.py:Worker", "reducer.py:Reducer"),
        workers: int = 2,
        parameters: Mapping[str, Any] | None = None,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        complaints: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.streams = dict(streams)
        self.senders: dict[str, StreamSender] = {}
        self.dealers: dict[str, Dealer] = {}
        self.lines: list[str] = []
        self.controller_url = ""
        self.reducer_url = ""
        self._app = files if isinstance(files, Path) else folder / "app"
        self._files = {} if isinstance(files, Path) else files
        self._sections: dict[str, Mapping[str, Any]] = {
            "run": {"name": "flow"},
            "app": dict(zip(("worker", "reducer"), self._class_paths(classes), strict=True)),
            "workers": {"count": workers},
            "parameters": parameters or {},
            "output": {"directory": str(folder / "output")},
            **(sections or {}),
        }
        self._complaints = [re.compile(c) for c in complaints]
        self._mark = uuid.uuid4().hex
        self._temporary = Path(f"/tmp/bff-{self._mark[:8]}")  # short: a socket's path has to fit into it
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._printed: list[str] = []
        self._http = httpx.Client(timeout=PATIENCE, trust_env=False, follow_redirects=True)

    def _class_paths(self, classes: tuple[str, str]) -> list[str]:
        return [c if c.startswith("/") else f"{self._app}/{c}" for c in classes]

    # -- coming and going -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            code = self.interrupt()
        finally:
            self._kill()
        if kind is not None:
            return
        assert code == INTERRUPTED, f"it ended with {code}:\n" + "\n".join(self.lines)
        assert not self.unannounced(), "it complained:\n" + "\n".join(self.lines)
        assert not self.processes(), "processes are left"
        assert not self.left_over, f"files are left in the temporary folder: {self.left_over}"

    def _start(self) -> None:
        for name, stream in self.streams.items():
            self.dealers[name] = Dealer(self._sender(stream.kind) for _ in range(stream.sockets))
            self.senders[name] = self.dealers[name].senders[0]
        self.write(self._files)
        self.folder.mkdir(parents=True, exist_ok=True)
        run_file = self.folder / "run.toml"
        run_file.write_text(self._toml(), encoding="utf-8")
        self._temporary.mkdir(mode=0o700)
        self._launch()

    def _launch(self, *options: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BEAMFOLD_") and k not in _UNWANTED}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beamfold", "run", str(self.folder / "run.toml"), *options],
            cwd=self.folder,
            env={**clean, _MARK: self._mark, "TMPDIR": str(self._temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listen(self._process.stdout, self._printed)
        self._listen(self._process.stderr, self.lines)
        self._wait_until_ready()
        for sender in self._all_senders():
            sender.wait_for_peer(PATIENCE)

    def run_again(self, *options: str) -> None:
        """Kill `beamfold run` and all that it started, and start it with these options."""
        process, before = self._process, self.processes()
        assert process is not None
        process.kill()
        process.wait()
        wait_until(lambda: not self.processes().keys() & before.keys(), "that all of its services are gone")
        self._printed.clear()
        self._launch(*options)

    def _sender(self, kind: str) -> StreamSender:
        return StreamSender(self._context, "tcp://127.0.0.1:0", kind, linger_s=0)  # type: ignore[arg-type]

    def _all_senders(self) -> list[StreamSender]:
        return [sender for dealer in self.dealers.values() for sender in dealer.senders]

    def _toml(self) -> str:
        sections: dict[str, Mapping[str, Any]] = dict(self._sections)
        for name, stream in self.streams.items():
            urls = [sender.url for sender in self.dealers[name].senders] * stream.connections
            keys = {"protocol": stream.protocol, "url": urls if len(urls) > 1 else urls[0], **stream.keys}
            sections[f'streams."{name}"'] = keys
        # JSON's strings, numbers, lists and booleans are TOML's.
        lines = [[f"[{s}]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items())] for s, keys in sections.items()]
        return "\n\n".join("\n".join(section) for section in lines) + "\n"

    def _listen(self, pipe: IO[str] | None, lines: list[str]) -> None:
        assert pipe is not None

        def read() -> None:
            with pipe:
                lines.extend(line.rstrip("\n") for line in pipe)

        self._readers.append(threading.Thread(target=read, daemon=True))
        self._readers[-1].start()

    def _wait_until_ready(self) -> None:
        process = self._process
        assert process is not None

        def ready() -> re.Match[str] | None:
            assert process.poll() is None, f"it ended with {process.returncode}:\n" + "\n".join(self.lines)
            return next(filter(None, map(READY.search, self._printed)), None)

        found = wait_until(ready, "beamfold run")
        self.controller_url, self.reducer_url = found.groups()

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code, once everything it said was read."""
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        self.left_over = [p.name for p in self._temporary.iterdir()] if self._temporary.exists() else []
        return code

    def _kill(self) -> None:
        """Whatever happened, nothing of ours is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for reader in self._readers:
            reader.join(PATIENCE)
        for sender in self._all_senders():
            sender.close()
        self._context.destroy(linger=0)
        self._http.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def unannounced(self) -> list[str]:
        """Complaints on stderr that were not to be expected."""
        wrong = [line for line in self.lines if COMPLAINT.search(line)]
        return [line for line in wrong if not any(c.search(line) for c in self._complaints)]

    # -- looking in from outside --------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """All processes of this deployment but the first: pid -> what it is."""
        first = None if self._process is None else self._process.pid
        mark = f"{_MARK}={self._mark}".encode()
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            try:
                # The control store writes its title over its environment; but it is a child.
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if pid != first and (parent == first or mark in (path / "environ").read_bytes().split(b"\0")):
                    found[pid] = _title((path / "cmdline").read_bytes().decode().split("\0"))
            except OSError:
                continue  # it ended just now, or is another user's
        return found

    @property
    def pid(self) -> int:
        """The first process, which is `beamfold run`."""
        assert self._process is not None
        return self._process.pid

    def store_socket(self) -> Path:
        """Where the control store that it started listens."""
        (found,) = self._temporary.rglob("store.sock")
        return found

    def open_files(self) -> dict[str, int]:
        """How many files each process has open."""
        return {name: len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid, name in self.processes().items()}

    def memory(self) -> dict[str, int]:
        """Bytes of memory that each process has in use."""
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            for pid, name in self.processes().items()
        }

    # -- detectors ------------------------------------------------------------------------------------------------

    def send(self, stream: str, messages: Iterable[Message]) -> int:
        """Send from a stream's detector as fast as it goes, from its sockets in turn; how many messages that were."""
        return self.dealers[stream].send(messages)

    def write(self, files: Mapping[str, str]) -> None:
        """Write files of the app, as an editor would: each is there whole or not at all."""
        self._app.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            new = self._app / f".{name}.new"
            new.write_text(text, encoding="utf-8")
            new.rename(self._app / name)

    # -- people ---------------------------------------------------------------------------------------------------

    def get(self, path: str) -> httpx.Response:
        return self._http.get(f"{self.controller_url}/api/v1/{path}")

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self._http.post(f"{self.controller_url}/api/v1/{path}", **body)

    def submit(self, trigger_map: Mapping[str, Any]) -> str:
        """Start a scan; its id."""
        answer = self.post("sequence", json=trigger_map)
        assert answer.status_code == 200, answer.text
        return str(answer.json())

    def refusal(self, trigger_map: Any) -> str:
        """The text with which this trigger map is refused."""
        return self.refused(self.post("sequence", json=trigger_map))

    @staticmethod
    def refused(answer: httpx.Response, status: int = 400) -> str:
        """The detail of an answer that is a problem document."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        detail = answer.json()["detail"]
        assert isinstance(detail, str)
        return detail

    def progress(self) -> dict[str, Any]:
        return self._ok(self.get("progress"))

    def report(self, scan: str) -> dict[str, Any]:
        return self._ok(self.get(f"scans/{scan}/report"))

    def state(self, path: str = "") -> Any:
        """What the reducer publishes, or a part of it."""
        return self._ok(self._http.get(f"{self.reducer_url}/api/v1/state/{path}".rstrip("/")))

    def set_parameter(self, name: str, value: bytes) -> None:
        self._ok(self.post(f"parameter/{name}", content=value))

    def stop(self) -> None:
        self._ok(self.post("stop"))

    def wait_ended(self, scan: str) -> dict[str, Any]:
        """The report of a scan, once it has ended."""

        def ended() -> dict[str, Any] | None:
            report = self.report(scan)
            return report if report["ended"] else None

        return wait_until(ended, f"the end of scan {scan} ({self.progress()})")

    def wait_reached(self, events: int) -> None:
        """Until so many events of the present scan (its start event is one) are done."""
        wait_until(lambda: self.progress()["completed_events"] >= events, f"{events} events")

    def _ok(self, answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


def _title(command: Sequence[str]) -> str:
    """`worker-0`, `reducer`, …; the program's name for what is no service."""
    for role in _ROLES.intersection(command):
        return command[command.index("--name") + 1] if "--name" in command else role
    return Path(command[0]).name


__all__ = ["INTERRUPTED", "PATIENCE", "Deployment", "Stream", "wait_until"]
