"""dranspose's own code, in its own environment, reading what we answer and write, and writing what we read."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[2] / ".venv" / "dranspose" / "bin" / "python"

needed = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}; `make test` installs dranspose there")

_SCRIPT = """
import json, sys
from pydantic import TypeAdapter
from dranspose.mapping import MappingSequence
from dranspose.parameters import ParameterList
from dranspose.protocol import EnsembleState, EventNumber, SystemLoadType, WorkerName, WorkerTimes


def config(value):
    state = EnsembleState.model_validate(value)
    known = {str(w.service_uuid) for w in state.workers}
    assert all({str(u) for u in i.connected_workers} == known for i in state.ingesters)
    return {
        "streams": sorted(state.get_streams()),
        "workers": state.get_workers(),
        "processed": [w.processed_events for w in state.workers],
        "mapping": sorted({str(s.mapping_uuid) for s in [*state.ingesters, *state.workers, state.reducer]}),
        "url": state.reducer.url.scheme,
        "versions": {name: str(version) for name, version in state.parameters_version.items()},
    }


def load(value):
    found = TypeAdapter(SystemLoadType).validate_python(value)
    return {name: [worker.intervals["scan"].events, worker.intervals[10].events] for name, worker in found.items()}


def times(value):
    found = TypeAdapter(dict[WorkerName, dict[EventNumber, WorkerTimes]]).validate_python(value)
    return {name: sum(t.no_events for t in events.values()) for name, events in found.items()}


def parameters(value):
    return [[type(p).__name__, p.name, p.default] for p in ParameterList.validate_python(value)]


def sequence(value):
    parts = {name: part["mapping"] for name, part in value["parts"].items()}
    found = MappingSequence(parts=parts, sequence=value["sequence"], add_start_end=False)
    return [found.len(), found.min_workers(), sorted(found.all_streams)]


readers = {"config": config, "load": load, "times": times, "parameters": parameters, "sequence": sequence}
what, value = json.load(sys.stdin)
print(json.dumps(readers[what](value)))
"""


def read(what: str, value: Any) -> Any:
    """What the peer makes of an answer: of config, load, times (of status), parameters or sequence."""
    return run(_SCRIPT, [what, value])


_REPLAY = """
import json, sys
import dranspose.replay

worker, reducer, files, parameters = json.load(sys.stdin)
dranspose.replay.replay(worker, reducer, files, None, parameters, nworkers=1)
print(json.dumps(dranspose.replay.reducer.publish))
"""


def replay(worker: str, reducer: str, files: list[Path], folder: Path, parameters: Path | None = None) -> Any:
    """What the peer's own replay publishes, with the classes of an app in `folder`."""
    told = [worker, reducer, list(map(str, files)), None if parameters is None else str(parameters)]
    return run(_REPLAY, told, folder)


_DUMP = """
import base64, json, sys
from dranspose.event import InternalWorkerMessage, StreamData
from dranspose.ingester import Dumper

path, stream, typ, messages = json.load(sys.stdin)
dumper = Dumper(path)
for number, frames in enumerate(messages):
    data = StreamData(typ=typ, frames=[base64.b64decode(frame) for frame in frames])
    dumper.write_dump(InternalWorkerMessage(event_number=number, streams={stream: data}))
dumper.close()
print("null")
"""


def dump(path: Path, stream: str, typ: str, messages: Iterable[Sequence[bytes]]) -> None:
    """Have the peer's own writer dump these messages as events 0, 1, …"""
    coded = [[base64.b64encode(frame).decode() for frame in frames] for frames in messages]
    run(_DUMP, [str(path), stream, typ, coded])


def run(script: str, told: Any, folder: Path | None = None) -> Any:
    """The last line that a script prints in the peer's environment, from JSON; `told` is JSON on its stdin."""
    ran = subprocess.run(
        [str(PYTHON), "-c", script], input=json.dumps(told), capture_output=True, text=True, check=False, cwd=folder
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])
