"""Simulated messages are the bytes that real detectors sent."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from beamfold.model.errors import ConfigError
from beamfold.protocols.dumps import read_dump, read_raw
from beamfold.testing import wire
from captures import capture


def old_loads(data: bytes) -> Any:
    """Recorded pickles name NumPy 1's modules; these are trusted test data, so plain pickle may read them."""
    return pickle.loads(data.replace(wire._NUMPY_1, wire._NUMPY_2, 1))


class TestAgainstRecordings:
    """Take a recorded message apart, make it again from its values, and compare the bytes."""

    def test_contrast(self) -> None:
        statuses = []
        for [recorded] in read_raw(capture("contrast-dump.cbors")):
            record = old_loads(recorded)
            statuses.append(record["status"])
            if record["status"] == "heartbeat":
                assert recorded == wire.CONTRAST_HEARTBEAT
            else:
                assert wire.contrast_message(record) == [recorded]
        assert statuses.count("running") == 20

    def test_xspress3_headers(self) -> None:
        messages = [m[0] for m in read_raw(capture("xspress3-dump.cbors"))]
        start = json.loads(messages[0])
        assert wire.xspress3_header(start["filename"], overwritable=False) == [messages[0]]
        assert wire.xspress3_end() == [messages[-1]]
        for frame, recorded in enumerate(messages[1:-1:3]):
            exptime, _ = wire.real_exposure(0.1)
            assert wire.xspress3_image_header(frame, (4, 4096), exptime) == recorded

    def test_xspress3_scalers(self) -> None:
        for [recorded] in list(read_raw(capture("xspress3-dump.cbors")))[3:-1:3]:
            assert wire.xspress3_pickle(old_loads(recorded)) == recorded

    def test_xspress3_formulas(self) -> None:
        """The rates follow from the counts exactly as in the recording."""
        messages = [m[0] for m in read_raw(capture("xspress3-dump.cbors"))]
        for blob, recorded in zip(messages[2:-1:3], messages[3:-1:3], strict=True):
            spectra = np.frombuffer(blob, "<u4").reshape(4, 4096)
            real = old_loads(recorded)
            _, ticks = wire.real_exposure(0.1)
            ours = wire.xspress3_scalers(spectra, ticks)
            for index in (0, 2, 3, 4, 6):
                assert np.array_equal(ours[index], real[index])
            assert [a.dtype for a in ours] == [a.dtype for a in real]
            ocr, events, good, clock, total, resets, widths, dtc = real
            assert np.array_equal(good / clock * 12.5e-9, ocr)
            assert np.array_equal(total / (total - resets - events * (widths + 1.0)), dtc)

    def test_stins(self) -> None:
        for event in read_dump(capture("dump_xrd.cbors")):
            frames = [bytes(f) for f in event.streams["xrd"].frames]
            header = json.loads(frames[0])
            number = header["msg_number"]
            if header["htype"] == "header":
                assert wire.stins_header(header["filename"], number) == frames
            elif header["htype"] == "image":
                template = wire.stins_template(header["shape"], np.dtype(header["type"]))
                pixels = np.frombuffer(frames[1], "<u2").reshape(10, 10)
                assert [template % (header["frame"], number), wire.stins_blob(pixels)] == frames
            else:
                assert wire.stins_end(number) == frames


class TestLayout:
    """The same facts in short, for where there are no recordings."""

    def test_xspress3_json_has_no_spaces(self) -> None:
        assert wire.xspress3_image_header(3, (4, 4096), 0.099999875) == (
            b'{"htype":"image","exptime":0.099999875,"frame":3,"shape":[4,4096],"type":"uint32","compression":"none"}'
        )
        assert wire.xspress3_header("a.h5") == [b'{"htype":"header","filename":"a.h5","overwritable":false}']
        assert wire.xspress3_end() == [b'{"htype":"series_end"}']

    def test_stins_json_has_spaces_and_ends_in_the_message_number(self) -> None:
        template = wire.stins_template((10, 10), np.dtype("uint16"))
        assert template % (7, 8) == (
            b'{"htype": "image", "frame": 7, "shape": [10, 10], "type": "uint16", '
            b'"compression": "none", "msg_number": 8}'
        )
        assert wire.stins_header("x.h5", 0) == [b'{"htype": "header", "filename": "x.h5", "msg_number": 0}']
        assert wire.stins_end(10) == [b'{"htype": "series_end", "msg_number": 10}']

    def test_pickles_are_numpy_1s_of_the_detectors_protocol(self) -> None:
        point = {"pseudo": {"x": np.array([1.5])}, "status": "running"}
        [contrast] = wire.contrast_message(point)
        assert contrast.startswith(b"\x80\x02")
        assert b"cnumpy.core.multiarray\n_reconstruct\n" in contrast
        assert b"c_codecs\nencode\n" in contrast
        scalers = wire.xspress3_pickle([np.arange(4, dtype=np.uint32), np.arange(4.0)])
        assert scalers.startswith(b"\x80\x03]q\x00(cnumpy.core.multiarray\n_reconstruct\n")
        assert b"X\x02\x00\x00\x00u4q\tK\x00K\x01\x87" in scalers
        assert b"numpy._core" not in contrast + scalers

    def test_array_bytes_that_spell_the_modules_name_are_left_alone(self) -> None:
        text = np.frombuffer(b"numpy._core.multiarray..", np.uint32)
        assert text.tobytes() in wire.xspress3_pickle([np.zeros(4, np.uint32), text])

    def test_the_heartbeat(self) -> None:
        assert wire.CONTRAST_HEARTBEAT.startswith(b"\x80\x04")
        assert len(wire.CONTRAST_HEARTBEAT) == 36


class TestStinsImages:
    def test_a_percent_sign_in_extra_keys_stays_one(self) -> None:
        template = wire.stins_template((2,), np.dtype("u1"), extra={"note": "50 % %d"})
        assert json.loads(template % (1, 2))["note"] == "50 % %d"

    def test_a_stamp_is_a_third_number_at_the_end(self) -> None:
        template = wire.stins_template((2,), np.dtype("u1"), stamp="sent %")
        assert list(json.loads(template % (1, 2, 3)).items())[-2:] == [("msg_number", 2), ("sent %", 3)]

    def test_pixels_travel_little_endian_and_in_c_order(self) -> None:
        frame = np.arange(6, dtype=">u4").reshape(2, 3).T
        assert json.loads(wire.stins_template((3, 2), frame.dtype) % (0, 0))["type"] == "uint32"
        assert wire.stins_blob(frame) == np.array([0, 3, 1, 4, 2, 5], "<u4").tobytes()

    @pytest.mark.parametrize("dtype", ["complex64", "bool", "O", "U3"])
    def test_dtypes_that_no_detector_has_are_refused(self, dtype: str) -> None:
        with pytest.raises(ConfigError, match="use integers or floats"):
            wire.stins_template((2, 2), np.dtype(dtype))

    def test_unknown_compressions_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="use none or bslz4"):
            wire.stins_blob(np.zeros(4, np.uint8), "zip")  # type: ignore[arg-type]


@pytest.mark.parametrize("exptime", [1e-6, 1e-3, 0.1, 10.0])
def test_dead_time_stays_below_the_exposure(exptime: float) -> None:
    _, ticks = wire.real_exposure(exptime)
    dtc = wire.xspress3_scalers(np.full((4, 4096), 1000, np.uint32), ticks)[7]
    assert np.isfinite(dtc).all()
    assert ((dtc >= 1.0) & (dtc < 10.0)).all()
