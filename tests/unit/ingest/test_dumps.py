"""Where the dumps of a scan go."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from beamfold.ingest.dumps import Dumps, dump_paths
from beamfold.ingest.machine import Dump
from beamfold.model.triggermap import compile_map
from beamfold.protocols.dumps import read_dump
from beamfold.protocols.recordings import dump_name, dumps_of
from scripted import arm

MAP = compile_map({"streams": ["a", "b"], "events": 1})


def names(ingester: str, streams: list[str], **more: str) -> dict[str, list[str]]:
    found = dump_paths(arm(MAP, 7, **more), ingester, streams)
    return {stream: [str(path) for path in paths] for stream, paths in found.items()}


def test_the_files_of_a_prefix_have_the_names_that_dranspose_gives_them() -> None:
    assert names("camera-ingester", ["camera"], dump_prefix="/data/x-") == {
        "camera": ["/data/x-camera-ingester-scan-7.cbors"]
    }
    assert names("i", ["a", "b"], dump_prefix="/data/") == {
        "a": ["/data/i-a-scan-7.cbors"],
        "b": ["/data/i-b-scan-7.cbors"],
    }


def test_a_recording_and_a_prefix_may_both_be_wanted() -> None:
    assert names("i", ["a"], record="/recordings/1", dump_prefix="/p") == {
        "a": ["/recordings/1/a.cbors", "/pi-scan-7.cbors"]
    }
    assert names("i", ["a"]) == {"a": []}


@pytest.mark.parametrize("stream", ["camera", "a/b", "..", ".hidden", "Größe", "a b", "50%", "x:y", "a\\b"])
def test_every_stream_has_a_file_of_its_own_in_the_folder(stream: str, tmp_path: Path) -> None:
    name = dump_name(stream)
    assert (tmp_path / name).parent.resolve() == tmp_path.resolve() and not name.startswith(".")
    others = [dump_name(s) for s in ("camera", "a%2Fb", "a", "%2E.", "hidden", "50%25") if s != stream]
    assert name not in others


def test_nothing_that_was_recorded_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.cbors"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Dumps({0: ("a", "T"), 1: ("b", "T")}, {"a": [path], "b": [tmp_path / "b.cbors"]})
    assert path.read_bytes() == b"precious"


def test_who_takes_the_place_of_another_ingester_goes_on_in_files_of_its_own(tmp_path: Path) -> None:
    """Its last event may have been cut off; and what was written is with the system at once."""
    paths = {"a": [tmp_path / "a.cbors"], "[b]": [tmp_path / "[b].cbors"]}
    with ExitStack() as ended:
        for event in range(3):
            dumps = Dumps({0: ("a", "T"), 1: ("[b]", "T")}, paths, go_on=event > 0)
            ended.callback(dumps.close)
            dumps.write(Dump(1, np.array([event]), [[b"frame"]]))
            assert [e.event_number for e in read_dump(dumps_of(tmp_path / "[b].cbors")[-1])] == [event]
        assert [path.name for path in dumps_of(tmp_path / "a.cbors")] == ["a.cbors", "a.cbors.2", "a.cbors.3"]
    assert [path.name for path in dumps_of(tmp_path / "[b].cbors")] == ["[b].cbors", "[b].cbors.2", "[b].cbors.3"]
    assert not dumps_of(tmp_path / "a.cbors")
