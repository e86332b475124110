"""STINS: telling messages apart, numbers, and images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import Buffer, StreamData
from beamfold.protocols import framer, stins
from beamfold.protocols.dumps import read_dump
from beamfold.protocols.items import Data, End, Malformed, Start
from beamfold.protocols.stins import StinsFramer
from beamfold.testing.bslz4 import compress
from captures import capture

PIXELS = np.arange(6, dtype="u2").reshape(2, 3)


def message(htype: str, *more: bytes, **fields: Any) -> list[Buffer]:
    return [json.dumps({"htype": htype, **fields}).encode(), *more]


def image(frame: int, msg: int = 0, **fields: Any) -> list[Buffer]:
    fields = {"shape": [2, 3], "type": "uint16", "compression": "none", **fields}
    return message("image", PIXELS.tobytes(), frame=frame, msg_number=msg, **fields)


START, END = message("header", msg_number=41, filename="f.h5"), message("series_end", msg_number=52)


def test_a_series_comes_back_as_start_one_data_end() -> None:
    images = [image(n) for n in range(10)]
    assert StinsFramer().feed([START, *images, END]) == [
        Start(START),
        Data(list(range(10)), images),
        End(END),
    ]


def test_batches_do_not_matter() -> None:
    framer_ = StinsFramer()
    messages = [START, *(image(n) for n in range(5)), END]
    items = [item for m in messages for item in framer_.feed([m])]
    assert [type(i) for i in items] == [Start, Data, Data, Data, Data, Data, End]
    assert [i.numbers for i in items if isinstance(i, Data)] == [[0], [1], [2], [3], [4]]
    assert framer_.feed([]) == []


def test_parts_are_handed_on_as_they_are_not_copied() -> None:
    view = memoryview(PIXELS.tobytes())
    sent: list[Buffer] = [image(3)[0], view]
    [item] = StinsFramer().feed([sent])
    assert isinstance(item, Data)
    assert item.frames[0][1] is view


def test_numbers_are_those_of_the_header_untouched_gaps_and_all() -> None:
    [item] = StinsFramer().feed([image(n) for n in (5, 6, 9, 9, 2)])
    assert isinstance(item, Data)
    assert item.numbers == [5, 6, 9, 9, 2]


def test_numbering_that_continues_over_series_begins_after_the_start_message() -> None:
    images = [image(n, msg=42 + n) for n in range(3)]
    start, data, end = StinsFramer(number="msg_number").feed([START, *images, END])
    assert (start, end) == (Start(START, base=42), End(END, number=52))
    assert isinstance(data, Data)
    assert data.numbers == [42, 43, 44]


def test_a_start_without_the_number_that_it_must_have_is_malformed() -> None:
    [item] = StinsFramer(number="msg_number").feed([message("header", filename="x")])
    assert isinstance(item, Malformed)
    assert "msg_number" in item.reason


def test_a_start_may_have_a_second_part() -> None:
    start = message("header", b'{"name": "sample"}', filename="x", msg_number=1)
    assert StinsFramer().feed([start]) == [Start(start)]
    parsed = stins.parse(StreamData("STINS", start))
    assert isinstance(parsed, stins.Header)
    assert parsed.filename == "x"
    assert parsed.appendix == {"name": "sample"}
    bare = stins.parse(StreamData("STINS", START))
    assert isinstance(bare, stins.Header)
    assert bare.appendix is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "no parts"),
        ([b"\x00\x01"], "expected a JSON object"),
        ([b'{"htype": "image", "fra', b"xx"], "expected a JSON object"),
        ([b'"text"'], "expected a JSON object"),
        (message("picture", frame=1), "htype must be one of header, image, series_end, found 'picture'"),
        ([b'{"frame": 1}'], "htype must be one of"),
        ([b'{"htype": ["image"]}'], "htype must be one of"),
        (message("image", frame=1), "a STINS image message has 2 parts, found 1"),
        (message("image", b"", b"", frame=1), "a STINS image message has 2 parts, found 3"),
        (message("series_end", b"x"), "a STINS series_end message has 1 part, found 2"),
        (message("header", b"x", b"y"), "a STINS header message has 1 or 2 parts, found 3"),
        (message("image", b"", frame=-1), "'frame' must be a whole number"),
        (message("image", b"", frame="1"), "'frame' must be a whole number"),
        (message("image", b"", meta={"frame": 1}), "'frame' must be a whole number, 0 or more, found None"),
        (message("image", b"", frame=10**30), "'frame' must be a whole number"),
    ],
)
def test_bytes_that_are_not_understood_are_named_and_the_framer_goes_on(bad: list[Buffer], reason: str) -> None:
    before, malformed, after = StinsFramer().feed([image(1), bad, image(2)])
    assert isinstance(malformed, Malformed)
    assert reason in malformed.reason
    assert malformed.frames is bad
    assert [i.numbers for i in (before, after) if isinstance(i, Data)] == [[1], [2]]


def test_a_framer_that_learnt_a_layout_still_sees_everything_else() -> None:
    framer_ = StinsFramer()
    framer_.feed([image(0)])
    odd = message("image", PIXELS.tobytes(), other=1, frame=3)
    twice = [b'{"htype": "image", "frame": 1, "frame": 2}', b""]
    items = framer_.feed([image(1), odd, twice, END, START, image(4)])
    assert [i.numbers if isinstance(i, Data) else type(i) for i in items] == [[1, 3, 2], End, Start, [4]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=30) | st.sampled_from([*START, *END, *image(1)]), max_size=3), max_size=6))
def test_no_bytes_make_the_framer_raise_or_lose_a_message(messages: list[list[Buffer]]) -> None:
    items = StinsFramer().feed(messages)
    assert sum(len(i.frames) if isinstance(i, Data) else 1 for i in items) == len(messages)


def test_unknown_options_and_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'frame' or 'msg_number', found 'x'"):
        framer("stins", number="x")
    with pytest.raises(ConfigError, match="does not take the options base"):
        framer("stins", base=1)
    with pytest.raises(ConfigError, match="known are contrast, stins, xspress3"):
        framer("tango")


# --- parsing
# ----------------------------------------------------------------------------------------------------


def test_an_image_has_the_headers_keys_and_its_pixels() -> None:
    parsed = stins.parse(StreamData("STINS", image(3, msg=9, exposure_time=0.25, **{"odd key": 1})))
    assert isinstance(parsed, stins.Image)
    assert (parsed.htype, parsed.frame, parsed.msg_number) == ("image", 3, 9)
    assert (parsed.shape, parsed.type, parsed.compression) == ([2, 3], "uint16", "none")
    assert parsed.exposure_time == 0.25
    assert parsed["odd key"] == 1
    assert "odd key" in parsed
    assert "htype" in dict(parsed)
    assert np.array_equal(parsed.data, PIXELS)
    assert parsed.data is parsed.data
    assert "frame=3" in repr(parsed)


def test_a_key_that_is_not_there_is_named_with_those_that_are() -> None:
    parsed = stins.parse(StreamData("STINS", END))
    with pytest.raises(AttributeError, match=r"this End has no 'frame' \(it has: htype, msg_number\)"):
        _ = parsed.frame
    assert not hasattr(parsed, "data")


def test_stream_data_parses_itself_compressed_or_not() -> None:
    array = np.arange(20_000, dtype="i4").reshape(100, 200)
    fields = {"shape": [100, 200], "type": "int32", "compression": "bslz4", "frame": 0}
    stream = StreamData("STINS", message("image", compress(array), **fields))
    assert np.array_equal(stream.array(), array)
    assert np.array_equal(stream.parse().data, array)


def test_an_image_is_only_decoded_when_it_is_asked_for() -> None:
    parsed = StreamData("STINS", message("image", b"garbage", frame=2, type="uint8", shape=[9])).parse()
    assert parsed.frame == 2
    with pytest.raises(MalformedFrame, match=r"STINS image 2: shape \[9\] of uint8 is 9 bytes, the message part has 7"):
        _ = parsed.data


@pytest.mark.parametrize("frames", [START, END])
def test_a_message_without_an_image_says_so(frames: list[Buffer]) -> None:
    with pytest.raises(MalformedFrame, match="carries no image"):
        StreamData("STINS", frames).array()


def test_a_stream_of_another_type_is_refused_with_what_to_call() -> None:
    with pytest.raises(MalformedFrame, match=r"stins\.parse reads streams of type 'STINS', this one is 'xspress'"):
        stins.parse(StreamData("xspress", START))


def test_the_recorded_stream() -> None:
    messages = [event.streams["xrd"].frames for event in read_dump(capture("dump_xrd.cbors"))]
    start, data, end = StinsFramer().feed(messages)
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert isinstance(data, Data)
    assert data.numbers == list(range(9))
    for frames in data.frames:
        pixels = StreamData("STINS", frames).array()
        assert pixels.shape == (10, 10)
        assert pixels.dtype == np.uint16
    assert StreamData("STINS", start.frames).parse().filename == "output/xrd.h5"
