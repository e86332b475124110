"""What the controller writes of a scan, when, and where; and that a slow or full disk harms nobody."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import cbor2
import pytest

from beamfold.dispatch import files
from beamfold.dispatch.actions import Reply
from beamfold.dispatch.files import FileWriter, write_file
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.recording import WriteFile, dump_prefix
from beamfold.dispatch.scan import Plan
from beamfold.dispatch.scans import Policy
from beamfold.model.errors import ParameterError
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols import messages as m

WRITTEN = WrittenMap.of(b'{"streams": ["a"], "events": 8, "batch": 4}')


class Bench:
    """A controller with an ingester, a worker and a reducer, and what it writes."""

    def __init__(self, values: dict[str, bytes] | None = None, **policy: Any) -> None:
        self.machine = ControllerMachine("v", 1, policy=Policy(**policy), values=values)
        self.log: list[Any] = []
        for role, name, more in (
            ("ingester", "i", {"streams": [m.StreamInfo("a", "T", True)]}),
            ("worker", "w0", {"tags": ["generic"]}),
            ("reducer", "r", {}),
        ):
            self.say(name, m.Hello(role, name, name, "v", 1, "here", url=name, **more))

    def say(self, who: str, message: Any) -> None:
        self.log += self.machine.receive(who.encode(), message, 1.0)

    def submit(self) -> None:
        self.log += self.machine.submit(Plan("ID", WRITTEN.compile(), 1, WRITTEN), 1.0)

    def run(self) -> Bench:
        self.submit()
        for name in ("i", "r", "w0"):
            self.say(name, m.Armed(1))
        return self

    @property
    def written(self) -> list[tuple[str, Any]]:
        files = [a for a in self.log if isinstance(a, WriteFile)]
        return [(a.path, json.loads(a.content) if a.append else a.content) for a in files]

    def armed(self) -> m.Arm:
        return next(a.message for a in self.log if isinstance(getattr(a, "message", None), m.Arm))


def test_a_scan_is_recorded_as_it_goes() -> None:
    bench = Bench({"p": b"1"}, record="/rec", app={"worker": "w:W"}).run()
    folder = "/rec/000001-ID"
    assert bench.armed().record == folder
    about, the_map, *history = bench.written
    assert about[0] == f"{folder}/recording.json" and about[1]["streams"]["a"]["dump"] == "a.cbors"
    assert about[1]["app"] == {"worker": "w:W"} and about[1]["workers"] == [{"name": "w0", "tags": ["generic"]}]
    assert (the_map[0], the_map[1]()) == (f"{folder}/map.json", WRITTEN.json())
    first = {"version": 0, "from_event": 0, "values": {"p": {"text": "1"}}}
    assert history == [(f"{folder}/history.jsonl", e) for e in ({"parameters": first}, {"blocks": [[0, 1, 0]]})]
    bench.log.clear()
    logged = [m.Logged(0, [(-1, 0, 1), (0, 1, 5)], "0123456789abcdef")]
    bench.say("r", m.PartsDone(1, [(0, 1, 2), (1, 5, 2)], {0: 4}, 5, ticks=[(1, 0)], logged=logged, poison=[(2, 0)]))
    bench.log += bench.machine.set_parameters({"p": b"2"}, 2.0)
    bench.say("i", m.FenceReached(1, 1, 4))
    bench.say("i", m.StreamEnded(1, "a", 8, 8))
    second = {"version": 1, "from_event": 5, "values": {"p": {"text": "2"}}}
    assert [e for _, e in bench.written] == [
        {"ticks": [[1, 0]]},
        {"poison": [[2, 0]]},
        {"logged": [[0, [[-1, 0, 1], [0, 1, 5]], "0123456789abcdef", {}]]},
        {"blocks": [[1, 2, 0]]},
        {"parameters": second},
        {"closed": 8},
    ]
    bench.log.clear()
    bench.say("r", m.PartsDone(1, [(5, 10, 2)], {0: 4}, 10, closed=True, finished=True))
    bench.say("w0", m.Finished(1))
    bench.say("r", m.Finished(1))
    ((path, report),) = bench.written
    assert path == f"{folder}/report.json" and report["ended"] == "finished" and report["recording"] == folder


def test_nothing_is_written_of_a_scan_that_never_began() -> None:
    bench = Bench(record="/rec")
    bench.submit()
    bench.say("i", m.Armed(1, "no room"))
    assert bench.written == []


def test_nothing_is_written_that_nobody_asked_for() -> None:
    bench = Bench().run()
    bench.say("i", m.StreamEnded(1, "a", 4, 4))
    assert bench.written == [] and (bench.armed().record, bench.armed().dump_prefix) == ("", "")


def test_map_and_parameters_lie_beside_the_dumps_of_a_prefix() -> None:
    bench = Bench({"p": b"1", "dump_prefix": b"d/x-"}, output="/out").run()
    assert bench.armed().dump_prefix == "/out/d/x-"
    (mapping, content), (parameters, values) = bench.written
    assert mapping == "/out/d/x-mapping-ID.json"
    assert content()["sequence"] == ["reserved_start_end", "uniform", "reserved_start_end"]
    assert parameters == "/out/d/x-parameters-ID.json"
    assert values == [{"name": "dump_prefix", "data": "d/x-"}, {"name": "p", "data": "1"}]
    binary = Bench({"p": b"\xff", "dump_prefix": b"/x-"}).run()
    assert binary.written[1] == (
        "/x-parameters-ID.cbor",
        [{"name": "dump_prefix", "data": b"/x-"}, {"name": "p", "data": b"\xff"}],
    )


def test_a_prefix_that_cannot_be_a_path_is_refused_with_the_scan() -> None:
    bench = Bench({"dump_prefix": b"a\0b"})
    bench.submit()
    (reply,) = [a for a in bench.log if isinstance(a, Reply)]
    assert isinstance(reply.error, ParameterError) and "dump_prefix" in str(reply.error)
    assert dump_prefix({}, "/out") == ""


# -- the files ----------------------------------------------------------------------------------------------------


def test_files_appear_whole_and_lines_one_after_the_other(tmp_path: Path) -> None:
    writer = FileWriter()
    made = threading.current_thread()

    def content() -> dict[str, bool]:
        return {"elsewhere": threading.current_thread() is not made}

    path = tmp_path / "new" / "a.json"
    writer.put(WriteFile("ID", str(path), content))
    for n in range(3):
        writer.put(WriteFile("ID", str(tmp_path / "h.jsonl"), {"n": n}, append=True))
    writer.put(WriteFile("ID", str(tmp_path / "b.cbor"), {"x": b"\0"}))
    writer.put(WriteFile("ID", str(tmp_path / "c.json"), b"as it is"))
    writer.close()
    assert writer.faults() == []
    assert json.loads(path.read_text()) == {"elsewhere": True}
    assert (tmp_path / "h.jsonl").read_text() == '{"n": 0}\n{"n": 1}\n{"n": 2}\n'
    assert cbor2.loads((tmp_path / "b.cbor").read_bytes()) == {"x": b"\0"}
    assert (tmp_path / "c.json").read_bytes() == b"as it is"
    assert not list(tmp_path.rglob("*.part"))


def test_what_cannot_be_written_is_told_and_what_nobody_foresaw_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = FileWriter()
    bad = WriteFile("ID", str(tmp_path / "file" / "a.json"), {})
    writer.put(bad)
    writer.put(WriteFile("ID", str(tmp_path / "b.json"), object()))
    writer.close()
    with pytest.raises(TypeError):
        writer.faults()
    with pytest.raises(OSError):
        write_file(bad)


def test_a_disk_that_does_not_answer_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_WAITING", 3)
    answer = threading.Event()
    writer = FileWriter()
    try:
        for n in range(100):
            content = {"n": n} if n else lambda: answer.wait(10) and {}
            writer.put(WriteFile("ID", str(tmp_path / "h.jsonl"), content, append=True))
        ((action, error),) = writer.faults()
        assert action.content == {"n": 99} and "so slow" in str(error)
    finally:
        answer.set()
        writer.close()
    assert writer.faults() == []
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 3


def test_what_waits_for_a_slow_disk_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_WAITING_BYTES", 100)
    answer = threading.Event()
    writer = FileWriter()
    try:
        writer.put(WriteFile("ID", str(tmp_path / "a"), lambda: answer.wait(10) and {}))
        for n in range(10):
            writer.put(WriteFile("ID", str(tmp_path / "h.jsonl"), b"%d" % n * 30, append=True))
        ((action, error),) = writer.faults()
        assert action.content == b"9" * 30 and "so slow" in str(error)
    finally:
        answer.set()
        writer.close()
    assert (tmp_path / "h.jsonl").read_text().split() == [f"{n}" * 30 for n in range(3)]
    assert writer.faults() == []
    writer = FileWriter()
    writer.put(WriteFile("ID", str(tmp_path / "b"), b"x" * 100))
    writer.close()
    assert writer.faults() == []
