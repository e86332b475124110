"""The quick start app, run over simulated events without a socket."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from beamfold.app.loading import load_class
from beamfold.model.events import EventData, ResultData, StreamData
from beamfold.testing.simulators import stins_series

HERE = Path(__file__).parent

Worker = load_class("worker.py:CentreWorker", HERE)
Reducer = load_class("reducer.py:CentreReducer", HERE)


def test_images_are_added_up_and_their_centres_found() -> None:
    images = np.zeros((3, 4, 5), dtype=np.uint16)
    images[0, 1, 2] = 10
    images[1, 3, 4] = 1
    worker, reducer = Worker(), Reducer()
    for number, message in enumerate(stins_series(images)):
        payload = worker.process_event(EventData(number, {"camera": StreamData("STINS", message)}))
        assert (payload is None) == (number in (0, 4))  # the start and the end of the series
        if payload is not None:
            reducer.process_result(ResultData(number, "worker-0", payload))
    np.testing.assert_array_equal(reducer.publish["image"], images.sum(axis=0))
    assert reducer.publish["event"] == [1, 2, 3]
    assert reducer.publish["sum"] == [10.0, 1.0, 0.0]
    assert reducer.publish["row"][:2] == [1.0, 3.0]
    assert reducer.publish["column"][:2] == [2.0, 4.0]
    assert math.isnan(reducer.publish["row"][2])  # a dark image has no centre


def test_an_event_without_an_image_gives_no_result() -> None:
    assert Worker().process_event(EventData(1, {})) is None
