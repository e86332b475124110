"""dranspose's own models, in its own environment, reading what we answer."""

from __future__ import annotations

import json
import subprocess
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
    ran = subprocess.run(
        [str(PYTHON), "-c", _SCRIPT], input=json.dumps([what, value]), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])
