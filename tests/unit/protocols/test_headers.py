"""Reading the number out of image headers: the pattern must never disagree with json."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame
from beamfold.protocols.headers import Layouts, frame_number, load_header


def learnt(header: bytes, key: str = "frame") -> Layouts:
    layouts = Layouts(key)
    layouts.learn(header, json.loads(header)[key])
    return layouts


@pytest.mark.parametrize(
    "header",
    [
        b'{"htype": "image", "frame": 7, "shape": [2, 3], "type": "uint16", "compression": "none"}',
        b'{"htype":"image","frame":7,"shape":[2,3]}',
        b'{"compression":"bslz4","exposure_time":0.1,"htype":"image","msg_number":4,"frame":7}',
        b'{"timestamps": {"frame": 1, "a": 2.5e-3}, "htype": "image", "frame": 7, "ok": true, "x": null}',
        b'{"frame":7,"htype":"image","note":"a \\"frame\\": 9, b"}',
        b'{ "frame" : 7 ,\n "htype" : "image" }',
    ],
)
def test_a_layout_that_json_has_read_once_is_read_without_it(header: bytes) -> None:
    layouts = learnt(header)
    for number in (0, 8, 123456789, 10**18 - 1):
        found = layouts.match(_with(header, number))
        assert found and int(found[1]) == number


def _with(header: bytes, number: int) -> bytes:
    # the marks around the number are those of the headers above
    for before in (b'"frame": 7', b'"frame":7', b'"frame" : 7'):
        if before in header:
            return header.replace(before, before[:-1] + str(number).encode())
    raise AssertionError(header)


@pytest.mark.parametrize(
    "header",
    [
        b'{"htype": "image", "frame": 1, "frame": 2}',
        b'{"htype": "image", "fr\\u0061me": 1}',
        b'{"htype": "image", "x": 1, "htype": "image", "frame": 1}',
    ],
)
def test_a_layout_that_is_not_certain_is_not_learnt(header: bytes) -> None:
    assert learnt(header).match(header) is None


@pytest.mark.parametrize(
    "other",
    [
        b'{"htype": "series_end", "frame": 3, "x": "a"}',
        b'{"htype": "image", "frame": -3, "x": "a"}',
        b'{"htype": "image", "frame": 3.5, "x": "a"}',
        b'{"htype": "image", "frame": "3", "x": "a"}',
        b'{"htype": "image", "frame": 1234567890123456789, "x": "a"}',
        b'{"htype": "image", "frame": 3, "x": "a", "frame": 4}',
        b'{"htype": "image", "frame": 3, "x": "a"}trailing',
        b'{"htype": "image", "frame": 3, "x": "a',
        b'{"htype": "image", "frame": 3, "x": "a\\"}, \\"frame\\": 5"}',
        b'{"htype": "image", "m": {"frame": 3}, "x": "a"}',
        b"",
    ],
)
def test_what_the_layout_does_not_fit_is_left_to_json(other: bytes) -> None:
    layouts = learnt(b'{"htype": "image", "frame": 1, "x": "a"}')
    assert layouts.match(other) is None
    assert layouts.find(other) is None


def test_several_layouts_are_kept_and_the_last_one_used_is_tried_first() -> None:
    one, two = b'{"htype":"image","frame":1}', b'{"frame":2,"htype":"image"}'
    layouts = learnt(one)
    layouts.learn(two, 2)
    assert layouts.match(one) is None
    assert layouts.find(one) == 1
    assert layouts.match(one) is not None


def test_a_stream_without_a_stable_layout_stops_being_learnt() -> None:
    layouts = Layouts("frame")
    for n in range(10):
        layouts.learn(b'{"htype":"image","frame":1,"x%d":0}' % n, 1)
    assert layouts.find(b'{"htype":"image","frame":1,"x0":0}') == 1
    assert layouts.find(b'{"htype":"image","frame":1,"x9":0}') is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("frame"), inner, max_size=3)
    ),
    max_leaves=6,
)
headers = st.dictionaries(st.text(max_size=6) | st.sampled_from(["frame", "shape"]), values, max_size=5)


@settings(max_examples=200, deadline=None)
@given(headers, headers, st.integers(0, 10**9), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_the_pattern_never_disagrees_with_json(
    one: dict[str, Any], two: dict[str, Any], number: int, spaces: bool, same_keys: bool, random: Any
) -> None:
    def dump(fields: dict[str, Any], frame: int) -> bytes:
        items = list({**fields, "htype": "image", "frame": frame}.items())
        random.shuffle(items)
        return json.dumps(dict(items), separators=None if spaces else (",", ":")).encode()

    first = dump(one, number)
    layouts = Layouts("frame")
    layouts.learn(first, number)
    for header in (first, dump(one, number + 1), dump(one if same_keys else two, number // 2)):
        found = layouts.match(header)
        if found:
            parsed = json.loads(header)
            assert parsed["frame"] == int(found[1])
            assert parsed["htype"] == "image"


@pytest.mark.parametrize("bad", [b"", b"[1]", b"{", b"\xff\xfe", b"3", b"[" * 100_000, '{"a":1}'.encode("utf-16")])
def test_a_header_that_is_no_json_object_is_named_with_what_it_is(bad: bytes) -> None:
    with pytest.raises(MalformedFrame, match="the header: expected a JSON object"):
        load_header(bad, "the header")


def test_a_header_may_be_a_memoryview() -> None:
    assert load_header(memoryview(b'{"a": 1}'), "x") == {"a": 1}
    header = b'{"htype":"image","frame":5}'
    found = learnt(header).match(memoryview(header))
    assert found and int(found[1]) == 5


@pytest.mark.parametrize("value", [None, -1, True, 1.0, "1", 10**18, [1]])
def test_a_number_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(MalformedFrame, match="'frame' must be a whole number"):
        frame_number({"frame": value}, "frame")
