"""Contrast: telling messages apart by a status inside a pickle that is never unpickled."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.model.events import Buffer, StreamData
from beamfold.protocols import contrast
from beamfold.protocols.contrast import ContrastFramer
from beamfold.protocols.dumps import read_raw
from beamfold.protocols.items import Data, End, Malformed, Start
from captures import capture


def message(status: object, protocol: int = 2, **fields: Any) -> list[Buffer]:
    return [pickle.dumps({**fields, "status": status}, protocol=protocol)]


POSITION = {"sx": 1.5, "pseudo": OrderedDict(x=np.array([1.0]), y=np.array([2.0])), "dt": 0.1}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_series_comes_back_as_start_one_data_end_and_heartbeats_are_dropped(protocol: int) -> None:
    start = message("started", protocol, path="/x", scannr=2)
    points = [message("running", protocol, **POSITION) for _ in range(3)]
    beat, end = message("heartbeat", protocol), message("finished", protocol)
    assert ContrastFramer().feed([beat, start, beat, points[0], beat, *points[1:], end, beat]) == [
        Start(start),
        Data(None, points),
        End(end),
    ]


def test_an_interrupted_scan_has_ended() -> None:
    assert ContrastFramer().feed([message("interrupted")]) == [End(message("interrupted"))]


def test_status_is_that_of_the_outermost_dict_wherever_it_is() -> None:
    inner: list[Buffer] = [pickle.dumps({"status": "finished", "motor": {"a": 1, "status": "running"}}, protocol=2)]
    first: list[Buffer] = [pickle.dumps({"status": "running", "motor": {"status": "finished"}}, protocol=2)]
    same: list[Buffer] = [pickle.dumps({"x": "running", "y": {"status": 1}, "status": "running"}, protocol=4)]
    items = ContrastFramer().feed([inner, first, same])
    assert items == [End(inner), Data(None, [first, same])]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "has 1 part, found 0"),
        ([b"a", b"b"], "has 1 part, found 2"),
        ([b""], "end inside a pickle"),
        ([b"{}"], "not a pickle"),
        ([pickle.dumps([1])], "expected a pickled dict, found list"),
        (
            [pickle.dumps({})],
            "status must be one of started, running, finished, interrupted, heartbeat, found None",
        ),
        (message("paused"), "found 'paused'"),
        (message(["running"]), "status must be one of"),
        ([pickle.dumps({"status": os.system})], "which is not on the list"),
    ],
)
def test_bytes_that_are_not_understood_are_named_and_the_framer_goes_on(bad: list[Buffer], reason: str) -> None:
    point = message("running")
    items = ContrastFramer().feed([point, bad, point])
    assert [type(item) for item in items] == [Data, Malformed, Data]
    assert isinstance(items[1], Malformed)
    assert reason in items[1].reason


def test_a_message_is_attributes_and_items() -> None:
    parsed = contrast.parse(StreamData("contrast", message("running", **POSITION, keys=3, **{"a b": 4})))
    assert parsed.status == "running"
    assert parsed.pseudo["x"][0] == 1.0
    assert parsed["sx"] == parsed.sx == 1.5
    assert parsed["a b"] == 4
    assert parsed["keys"] == 3
    assert set(parsed) >= {"sx", "dt", "status"}
    with pytest.raises(AttributeError, match="has no 'sy'"):
        _ = parsed.sy


def test_arrays_can_be_changed_by_whoever_parsed_them() -> None:
    parsed = contrast.parse(StreamData("contrast", message("running", **POSITION)))
    parsed.pseudo["x"] += 1
    assert parsed.pseudo["x"][0] == 2.0


def test_there_is_no_one_array() -> None:
    with pytest.raises(MalformedFrame, match="no one array"):
        StreamData("contrast", message("running")).array()


def test_a_pickle_that_would_run_something_is_refused() -> None:
    with pytest.raises(UnsafePickle):
        StreamData("contrast", [pickle.dumps({"status": "running", "f": eval})]).parse()


def test_a_stream_of_another_type_is_refused() -> None:
    with pytest.raises(MalformedFrame, match=r"contrast\.parse reads streams of type 'contrast', this one is 'STINS'"):
        contrast.parse(StreamData("STINS", message("running")))


def test_the_recorded_stream() -> None:
    messages: list[list[Buffer]] = [list(m) for m in read_raw(capture("contrast-dump.cbors"))]
    start, data, end = ContrastFramer().feed(messages)
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert isinstance(data, Data)
    assert data.numbers is None
    assert len(data.frames) == 20
    for frames in data.frames:
        parsed = StreamData("contrast", frames).parse()
        expected = pickle.loads(frames[0])
        assert repr({key: parsed[key] for key in parsed}) == repr(dict(expected))
        assert parsed.pseudo["x"][0] == expected["pseudo"]["x"][0]
