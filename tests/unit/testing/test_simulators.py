"""Whole series: how many messages, in which order, numbered from where."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from dectris.compression import decompress

from beamfold.model.errors import ConfigError
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, stins_series, xspress3_series

FRAMES = [np.full((2, 3), n, np.uint16) for n in range(4)]
SPECTRA = [np.full((4, 16), n, np.uint32) for n in range(3)]


def headers(messages: list[list[bytes]]) -> list[dict[str, object]]:
    return [json.loads(message[0]) for message in messages]


class TestStins:
    def test_a_series_has_a_start_its_frames_and_an_end(self) -> None:
        messages = list(stins_series(FRAMES))
        assert [h["htype"] for h in headers(messages)] == ["header", *["image"] * 4, "series_end"]
        assert [len(m) for m in messages] == [1, 2, 2, 2, 2, 1]
        for frame, message in zip(FRAMES, messages[1:-1], strict=True):
            assert message[1] == frame.tobytes()

    def test_messages_count_on_over_series(self) -> None:
        first = headers(list(stins_series(FRAMES)))
        second = headers(list(stins_series(FRAMES, first_msg=len(first))))
        assert [h["msg_number"] for h in first + second] == list(range(12))

    def test_frames_are_numbered_from_the_base(self) -> None:
        assert [h["frame"] for h in headers(list(stins_series(FRAMES, base=1)))[1:-1]] == [1, 2, 3, 4]

    def test_each_frame_tells_its_own_shape_and_dtype(self) -> None:
        mixed = [np.zeros((2, 3), np.uint16), np.zeros((4,), np.float32), np.zeros((2, 3), np.uint16)]
        told = [(h["shape"], h["type"]) for h in headers(list(stins_series(mixed)))[1:-1]]
        assert told == [([2, 3], "uint16"), ([4], "float32"), ([2, 3], "uint16")]

    def test_compressed_frames_open(self) -> None:
        messages = list(stins_series(FRAMES, compression="bslz4"))
        assert headers(messages)[1]["compression"] == "bslz4"
        assert decompress(messages[4][1], "bslz4", elem_size=2) == FRAMES[3].tobytes()

    def test_meta_is_the_second_part_of_the_start_and_extra_lies_in_every_image(self) -> None:
        messages = list(stins_series(FRAMES, meta={"user": "me"}, extra={"exposure_time": 0.1}))
        assert json.loads(messages[0][1]) == {"user": "me"}
        assert all(h["exposure_time"] == 0.1 for h in headers(messages)[1:-1])

    def test_a_series_may_be_empty(self) -> None:
        assert [h["msg_number"] for h in headers(list(stins_series([])))] == [0, 1]

    def test_nothing_is_made_before_it_is_asked_for(self) -> None:
        endless = stins_series(np.zeros((2, 2), np.uint8) for _ in iter(int, 1))
        assert [json.loads(next(endless)[0]).get("frame") for _ in range(3)] == [None, 0, 1]


class TestXspress3:
    def test_single_parts_come_as_three_messages_a_frame(self) -> None:
        messages = list(xspress3_series(SPECTRA))
        assert len(messages) == 11
        assert {len(m) for m in messages} == {1}
        assert messages[5] == [SPECTRA[1].tobytes()]

    def test_multipart_frames_hold_the_same_bytes(self) -> None:
        single = list(xspress3_series(SPECTRA))
        multi = list(xspress3_series(SPECTRA, framing="multipart"))
        assert [len(m) for m in multi] == [1, 3, 3, 3, 1]
        assert [part for m in multi for part in m] == [part for m in single for part in m]

    def test_scalers_belong_to_their_spectrum(self) -> None:
        image = list(xspress3_series(SPECTRA, framing="multipart"))[2]
        scalers = pickle.loads(image[2].replace(b"numpy.core", b"numpy._core"))
        assert scalers[2].tolist() == [16, 16, 16, 16]

    def test_frames_are_numbered_from_the_base(self) -> None:
        messages = list(xspress3_series(SPECTRA, base=7, framing="multipart"))
        assert [h["frame"] for h in headers(messages)[1:-1]] == [7, 8, 9]

    def test_an_unknown_framing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="single or multipart"):
            list(xspress3_series(SPECTRA, framing="both"))  # type: ignore[arg-type]


class TestContrast:
    sample = FluorescenceSample((3, 2))

    def records(self, **options: object) -> list[dict[str, object]]:
        points = map(self.sample.readings, range(5))
        messages = contrast_series(points, **options)  # type: ignore[arg-type]
        return [pickle.loads(m[0].replace(b"numpy.core", b"numpy._core")) for m in messages]

    def test_a_scan_starts_runs_and_finishes(self) -> None:
        assert [r["status"] for r in self.records()] == ["started", *["running"] * 5, "finished"]

    def test_running_records_are_ordered_and_end_in_time_and_status(self) -> None:
        record = self.records(period=0.5)[2]
        assert type(record) is OrderedDict
        assert list(record) == ["sx", "sy", "pseudo", "panda0", "xspress3", "dt", "status"]
        assert record["dt"] == 1.0

    def test_the_frame_of_the_scan_says_what_it_was(self) -> None:
        options = {"scannr": 4, "description": "mesh", "snapshot": {"sx": 1.0}, "path": "/here"}
        for record in (self.records(**options)[0], self.records(**options)[-1]):
            assert list(record) == ["scannr", "status", "path", "snapshot", "description"]
            assert {k: v for k, v in record.items() if k != "status"} == options

    def test_heartbeats_come_before_between_and_after(self) -> None:
        statuses = [r["status"] for r in self.records(heartbeats=2)]
        assert statuses == [
            "heartbeat",
            "started",
            *["running", "running", "heartbeat"] * 2,
            "running",
            "finished",
            "heartbeat",
        ]

    def test_a_scan_may_be_interrupted(self) -> None:
        assert self.records(ending="interrupted")[-1]["status"] == "interrupted"
        with pytest.raises(ConfigError, match="finished or interrupted"):
            self.records(ending="lost")
