"""The fluorescence app, run over simulated events without a socket."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamfold.app.loading import load_class
from beamfold.model.events import EventData, ResultData, StreamData
from beamfold.model.parameters import ParameterSet
from beamfold.protocols import framer
from beamfold.protocols.items import Data
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, xspress3_series

HERE = Path(__file__).parent
SAMPLE = FluorescenceSample((4, 3))

Worker = load_class("worker.py:FluorescenceWorker", HERE)
Reducer = load_class("reducer.py:FluorescenceReducer", HERE)
DECLARED = [*Worker.describe_parameters(), *Reducer.describe_parameters()]


def parameters(**raw: bytes) -> ParameterSet:
    return ParameterSet.build(DECLARED, raw, 1)


def event(number: int, **streams: StreamData) -> EventData:
    return EventData(number, streams)


def points(count: int = SAMPLE.points) -> list[EventData]:
    contrast = framer("contrast").feed(list(contrast_series(map(SAMPLE.readings, range(count)))))
    spectra = map(SAMPLE.spectrum, range(count))
    xspress3 = framer("xspress3").feed(list(xspress3_series(spectra, framing="multipart")))
    (positions,), (frames,) = ([i for i in items if isinstance(i, Data)] for items in (contrast, xspress3))
    return [
        event(n, contrast=StreamData("contrast", c), xspress3=StreamData("xspress", x))
        for n, (c, x) in enumerate(zip(positions.frames, frames.frames, strict=True), 1)
    ]


def test_the_map_shows_where_the_iron_is() -> None:
    values = parameters()
    worker, reducer = Worker(), Reducer(parameters=values)
    for number, each in enumerate(points(), 1):
        reducer.process_result(ResultData(number, "w", worker.process_event(each, values)), values)
    assert len(reducer.publish["map"]) == SAMPLE.points
    assert all(set(counts) == {"roi1"} for counts in reducer.publish["map"].values())
    image = reducer.publish["image"]
    assert image["roi1"].shape == (4, 3) == (len(image["x"]), len(image["y"]))
    assert np.all(np.diff(image["x"]) > 0)
    assert np.all(np.diff(image["y"]) > 0)
    lo, hi = (630, 651)
    expected = [SAMPLE.spectrum(n)[3, lo:hi].sum() for n in range(SAMPLE.points)]
    np.testing.assert_array_equal(image["roi1"].ravel(), expected)
    assert reducer.publish["image_attrs"]["NX_class"] == "NXdata"


def test_the_image_does_not_depend_on_the_order_of_the_points() -> None:
    values = parameters(roi2=b"[10, 20]")
    worker = Worker()
    results = [worker.process_event(each, values) for each in points()]
    images = []
    for order in (results, results[::-1]):
        reducer = Reducer(parameters=values)
        for payload in order:
            reducer.process_result(ResultData(1, "w", payload), values)
        images.append(reducer.publish["image"])
    for name in ("roi1", "roi2"):
        np.testing.assert_array_equal(images[0][name], images[1][name])


def test_points_that_were_not_measured_are_nan() -> None:
    reducer = Reducer()
    for x, y in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        reducer.process_result(ResultData(1, "w", {"position": (x, y), "concentrations": {"roi1": 5}}))
    np.testing.assert_array_equal(reducer.publish["image"]["roi1"], [[5, np.nan], [5, 5]])


@pytest.mark.parametrize("missing", ["contrast", "xspress3"])
def test_an_event_that_lacks_a_stream_gives_no_result(missing: str) -> None:
    (whole,) = islice(points(1), 1)
    del whole.streams[missing]
    assert Worker().process_event(whole, parameters()) is None


def test_start_and_end_give_no_result() -> None:
    start, *_, end = contrast_series([SAMPLE.readings(0)])
    for message in (start, end):
        both = event(0, contrast=StreamData("contrast", message), xspress3=StreamData("xspress", [b"{}"]))
        assert Worker().process_event(both, parameters()) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"channel": b"4"}, "channels 0 to 3"),
        ({"roi1": b"[5]"}, "must be"),
        ({"roi1": b"[5, 5]"}, "must rise"),
        ({"roi1": b'["a", 5]'}, "must be"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(raw: dict[str, Any], said: str) -> None:
    (whole,) = points(1)
    with pytest.raises(ValueError, match=said):
        Worker().process_event(whole, parameters(**raw))
