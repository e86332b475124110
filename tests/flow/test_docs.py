"""What README and how-tos tell people to do is done here, command by command, as it is written.

Blocks of a page are taken in their order. One that begins with a file's name as a comment is that file; `sh` and
`python` are run, and must succeed. A comment before a block may say more: `test: skip`, `test: background "TEXT"`
(a command that goes on, and the next block waits until it has printed that), `test: after "TEXT" URL` (wait until the
address answers that).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamfold.app.runfile import load_runfile
from processes import PATIENCE, descendants, is_gone, wait_for

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^(?:<!-- test: (?P<how>.*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# ([\w-]+\.(?:py|toml|json))$", re.M)
_PORTS = ("127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:9999")


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    how: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, with free ports instead of those that people use."""
    text = page.read_text(encoding="utf-8")
    for address in _PORTS:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            text = text.replace(address, f"127.0.0.1:{probe.getsockname()[1]}")
    return [Block(m["kind"], m["text"], m["how"] or "") for m in _BLOCK.finditer(text)]


class Reader:
    """Somebody who does what a page says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        unwanted = ("BEAMFOLD_", "REDIS_URL", "PYTHON", "HS_", "H5PYD")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**clean, "PATH": path, "BEAMFOLD": str(ROOT), "HOME": str(folder), "no_proxy": "*"}
        self.said = ""
        self._background: list[tuple[subprocess.Popen[bytes], Path]] = []

    def follow(self, block: Block) -> None:
        word, _, rest = block.how.partition(" ")
        wanted = re.match(r'"(.*)" ?(.*)', rest)
        if word == "skip":
            return
        if word == "after":
            assert wanted
            pattern, url = wanted[1].replace('\\"', '"'), wanted[2]
            wait_for(lambda: re.search(pattern, self._get(url)), f"{pattern} at {url}")
        if block.kind == "sh":
            if word == "background":
                assert wanted
                self._start(block.text, wanted[1])
            else:
                self._run(block.text)
        elif block.kind == "python" and not _FILE.match(block.text):
            self._run(f"{sys.executable} - <<'END'\n{block.text}END\n")
        elif name := _FILE.match(block.text):
            (self.folder / name[1]).write_text(block.text, encoding="utf-8")

    @staticmethod
    def _get(url: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return str(opener.open(url, timeout=PATIENCE).read().decode())
        except urllib.error.HTTPError as error:
            return json.dumps([error.code])  # not there yet

    def _run(self, text: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text.replace("curl ", "curl --fail-with-body -sS ")],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.said += done.stdout

    def _start(self, text: str, ready: str) -> None:
        output = self.folder / f".output-{len(self._background)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {text}"],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._background.append((process, output))

        def there() -> bool:
            shown = output.read_text()
            assert process.poll() is None, shown
            return re.search(ready, shown) is not None

        wait_for(there, f"{ready} of {text}")

    def leave(self) -> None:
        """End what goes on, as Ctrl-C does."""
        for process, output in self._background:
            below = descendants(process.pid)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130, output.read_text()
            assert all(is_gone(pid) for pid in below)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    try:
        yield reader
    finally:
        for process, _ in reader._background:
            below = descendants(process.pid)
            process.kill()
            process.wait()
            for pid in below:
                if not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)


def test_the_readme_leads_to_an_app_of_ones_own(reader: Reader) -> None:
    for block in blocks(ROOT / "README.md"):
        reader.follow(block)
    reader.leave()
    assert "20 events: 20 reduced" in reader.said
    assert "1000 events: 1000 reduced" in reader.said
    (result,) = (reader.folder / "beamfold-data").glob("*.h5")
    assert {p.name for p in reader.folder.iterdir()} >= {"result.h5", "again.h5", "recordings"}
    assert result.stat().st_size


def test_write_an_app(reader: Reader) -> None:
    for block in blocks(ROOT / "docs/how-to/write-an-app.md"):
        reader.follow(block)
    assert reader.said.count("20 events: 20 reduced") == 2


def test_record_and_replay(reader: Reader) -> None:
    for block in blocks(ROOT / "docs/how-to/record-and-replay.md"):
        reader.follow(block)
    reader.leave()
    assert reader.said.count("100 events: 100 reduced") == 4  # live, again, with a wider region, in two processes
    assert reader.said.count("50 events: 50 reduced") == 2
    assert "the same: " in reader.said


def test_read_the_report(reader: Reader) -> None:
    for block in blocks(ROOT / "docs/how-to/read-the-report.md"):
        reader.follow(block)
    assert "50 events: 50 reduced\n{'reduced': " in reader.said
    assert "[] 50\n" in reader.said


def test_read_the_state(reader: Reader) -> None:
    """The page begins where somebody's deployment runs; here that is a long scan of the demo."""
    pages = blocks(ROOT / "docs/how-to/read-the-state.md")
    address = re.search(r"http://(127\.0\.0\.1:\d+)/live", pages[0].text)
    assert address
    reader.env["BEAMFOLD_REDUCER__HTTP"] = address[1]
    reader._start("beamfold demo --points 6000 --rate 60", "live map  *http")
    points = f"http://{address[1]}/api/v1/state/map/keys"
    wait_for(lambda: len(json.loads(reader._get(points))) > 60, "three rows of the map")
    for block in pages:
        reader.follow(block)
    reader.leave()
    assert "roi1" in reader.said


def test_monitor(reader: Reader) -> None:
    """The page begins where a scan runs."""
    pages = blocks(ROOT / "docs/how-to/monitor.md")
    text = "\n".join(block.text for block in pages)
    controller, reducer = (re.search(rf"curl (http://(\S+)/metrics) .*{what}", text) for what in ("all", "own"))
    assert controller and reducer
    reader.env |= {"BEAMFOLD_CONTROLLER__HTTP": controller[2], "BEAMFOLD_REDUCER__HTTP": reducer[2]}
    reader._start("beamfold demo --points 6000 --rate 60", "live map  *http")
    told = re.compile(r'beamfold_stage_seconds_count{stage="(\w+)"} [1-9]')  # by each service once a second
    wait_for(lambda: {"ingest", "total"} <= {*told.findall(reader._get(controller[1]))}, "worker and reducer")
    for block in pages:
        reader.follow(block)
    reader.leave()
    stages = [line.split()[0] for line in reader.said.splitlines() if line.endswith(" ms")]
    assert stages == ["ingest", "transit", "wait", "process", "result", "fold", "total"]
    assert "beamfold_results_folded_total" in reader.said
    assert "where events spend their time" in reader.said
    page = (ROOT / "docs/how-to/monitor.md").read_text()
    for name in re.findall(r"^# TYPE (beamfold_\w+)", reader.said, re.M):
        assert name in page or f"_{name.split('_', 2)[2]}" in page, f"{name} is not in the page"


def test_overload(tmp_path: Path) -> None:
    """Its sections are ones of a run file, with the defaults that the page tells."""
    (block,) = blocks(ROOT / "docs/how-to/overload.md")
    app = '[app]\nworker = "worker.py:Worker"\nreducer = "reducer.py:Reducer"\n'
    stream = '[streams.camera]\nprotocol = "stins"\nurl = "tcp://127.0.0.1:9999"\n'
    for name, text in (("said.toml", app + block.text), ("silent.toml", app + stream)):
        (tmp_path / name).write_text(text)
    said, silent = load_runfile(tmp_path / "said.toml"), load_runfile(tmp_path / "silent.toml")
    assert (said.policy, said.spill) == (silent.policy, silent.spill)
    assert said.streams["camera"].retention_bytes == silent.streams["camera"].retention_bytes


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "apps").rglob("*.md")]
    for page in (p for p in pages if p.name != "template.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
