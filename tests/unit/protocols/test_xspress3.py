"""Xspress3: both framings, parts lost on the way, spectra and metadata."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.model.events import Buffer, StreamData
from beamfold.protocols import xspress3
from beamfold.protocols.dumps import read_raw
from beamfold.protocols.items import Data, End, Item, Malformed, Start
from beamfold.protocols.xspress3 import META_NAMES, Xspress3Framer
from captures import capture

SPECTRA = np.arange(4 * 16, dtype="u4").reshape(4, 16)
META = [np.arange(4, dtype="f8") + n for n in range(8)]
START: list[Buffer] = [b'{"htype":"header","filename":"f.h5","overwritable":false}']
END: list[Buffer] = [b'{"htype":"series_end"}']


def image(frame: int, meta: Any = META, **changes: Any) -> list[Buffer]:
    fields = {"htype": "image", "exptime": 0.1, "frame": frame, "shape": [4, 16], "type": "uint32"}
    header = json.dumps({**fields, "compression": "none", **changes}, separators=(",", ":")).encode()
    return [header, SPECTRA.tobytes(), pickle.dumps(meta, protocol=3)]


def singly(parts: Iterable[Buffer]) -> list[list[Buffer]]:
    return [[part] for part in parts]


def shown(items: list[Item]) -> list[Any]:
    return [i.numbers if isinstance(i, Data) else type(i) for i in items]


def test_an_image_of_three_messages_and_one_of_three_parts_are_the_same() -> None:
    images = [image(n) for n in range(4)]
    whole = Xspress3Framer().feed([START, *images, END])
    split = Xspress3Framer().feed([START, *(m for i in images for m in singly(i)), END])
    assert whole == split == [Start(START), Data([0, 1, 2, 3], images), End(END)]


def test_three_messages_may_come_in_three_batches() -> None:
    framer = Xspress3Framer()
    one, two, three = singly(image(7))
    assert framer.feed([one]) == []
    assert framer.feed([two]) == []
    assert framer.feed([three]) == [Data([7], [image(7)])]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_message_costs_its_image_and_no_other(lost: int) -> None:
    damaged = singly(part for place, part in enumerate(image(1)) if place != lost)
    items = Xspress3Framer().feed([START, *singly(image(0)), *damaged, *singly(image(2)), END])
    kinds = shown(items)
    assert [k for k in kinds if k is not Malformed] == [Start, [0], [2], End]
    assert Malformed in kinds


def test_what_is_unfinished_when_the_series_ends_is_named() -> None:
    items = Xspress3Framer().feed([*singly(image(3))[:2], END])
    assert shown(items) == [Malformed, End]
    assert isinstance(items[0], Malformed)
    assert items[0].reason == "xspress3 image 3: only 2 of its 3 messages came"


def test_spectra_that_look_like_a_header_or_a_pickle_are_spectra() -> None:
    framer = Xspress3Framer()
    for first in (b"{\x00\x00\x00", b"\x80\x03\x00\x00", b'{"ht'):
        parts = image(1)
        parts[1] = first + bytes(252)
        assert framer.feed(singly(parts)) == [Data([1], [parts])]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "found 0"),
        ([b"a", b"b"], "found 2"),
        ([b"a", b"b", b"c", b"d"], "found 4"),
        ([b"a", b"b", b"c"], "expected a JSON object"),
        ([b'{"htype":"header"}', b"", b""], "has 1 part, found more"),
        ([b'{"htype":"picture"}'], "found 'picture'"),
        ([b'{"htype":'], "expected a JSON object"),
        ([b'{"htype":"image","frame":1.5}'], "'frame' must be a whole number"),
        ([b"stray"], "other parts are missing"),
        ([b""], "other parts are missing"),
    ],
)
def test_bytes_that_are_not_understood_are_named_and_the_framer_goes_on(bad: list[Buffer], reason: str) -> None:
    before, malformed, after = Xspress3Framer().feed([image(1), bad, image(2)])
    assert isinstance(malformed, Malformed)
    assert reason in malformed.reason
    assert shown([before, after]) == [[1], [2]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=9) | st.sampled_from([*START, *END, *image(1)]), max_size=4), max_size=9))
def test_no_bytes_make_the_framer_raise_or_lose_a_part(messages: list[list[Buffer]]) -> None:
    items = Xspress3Framer().feed([*messages, END])
    parts = [p for i in items for f in (i.frames if isinstance(i, Data) else [i.frames]) for p in f]
    assert parts == [p for m in messages for p in m] + END


# --- parsing
# ----------------------------------------------------------------------------------------------------


def test_an_image_has_its_header_spectra_and_metadata() -> None:
    parsed = xspress3.parse(StreamData("xspress", image(5)))
    assert isinstance(parsed, xspress3.Image)
    assert (parsed.frame, parsed.exptime, parsed.shape) == (5, 0.1, [4, 16])
    assert parsed.data.dtype == np.uint32
    assert np.array_equal(parsed.data, SPECTRA)
    assert list(parsed.meta) == list(META_NAMES)
    assert np.array_equal(parsed.meta["dtc"], META[7])


def test_a_ninth_array_is_kept() -> None:
    parsed = StreamData("xspress", image(5, meta=[*META, np.ones(4)])).parse()
    assert list(parsed.meta) == [*META_NAMES, "extra"]


def test_starts_and_ends() -> None:
    start = xspress3.parse(StreamData("xspress", START))
    assert isinstance(start, xspress3.Start)
    assert start.filename == "f.h5"
    assert isinstance(StreamData("xspress", END).parse(), xspress3.End)
    with pytest.raises(MalformedFrame, match="carries no spectra"):
        StreamData("xspress", START).array()


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], "found 0"),
        (image(1)[:1], "found 1"),
        (image(1)[:2], "found 2"),
        ([*START, b""], "has 1 part, found 2"),
        ([b"nonsense"], "expected a JSON object"),
        (image(1, type="float64"), "is 512 bytes, the message part has 256"),
        (image(1, shape=[4, 17]), "is 272 bytes, the message part has 256"),
        (image(1, type="object"), "type must name a number type"),
    ],
)
def test_an_image_that_is_not_one_is_named(frames: list[Buffer], text: str) -> None:
    with pytest.raises(MalformedFrame, match=text):
        StreamData("xspress", frames).parse()


@pytest.mark.parametrize("meta", [META[:7], [*META, 1, 2], {"a": 1}, 5])
def test_metadata_of_another_length_is_named(meta: Any) -> None:
    parsed = StreamData("xspress", image(1, meta=meta)).parse()
    with pytest.raises(MalformedFrame, match="expected a list of 8 or 9 arrays"):
        _ = parsed.meta


def test_metadata_that_would_run_something_is_refused_and_does_not() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("touch /nonexistent/evil",)

    parsed = StreamData("xspress", image(1, meta=Evil())).parse()
    assert parsed.data.shape == (4, 16)
    with pytest.raises(UnsafePickle, match=r"system"):
        _ = parsed.meta


def test_a_stream_of_another_type_is_refused() -> None:
    with pytest.raises(MalformedFrame, match=r"xspress3\.parse reads streams of type 'xspress', this one is 'STINS'"):
        xspress3.parse(StreamData("STINS", image(1)))


def test_the_recorded_stream() -> None:
    messages: list[list[Buffer]] = [list(m) for m in read_raw(capture("xspress3-dump.cbors"))]
    start, data, end = Xspress3Framer().feed(messages)
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert isinstance(data, Data)
    assert data.numbers == list(range(20))
    for number, frames in enumerate(data.frames):
        parsed = xspress3.parse(StreamData("xspress", frames))
        assert isinstance(parsed, xspress3.Image)
        assert parsed.frame == number
        assert parsed.data.shape == (4, 4096)
        assert {name: (a.dtype.name, a.shape) for name, a in parsed.meta.items()} == {
            **dict.fromkeys(META_NAMES, ("uint32", (4,))),
            "ocr": ("float64", (4,)),
            "event_widths": ("int32", (4,)),
            "dtc": ("float64", (4,)),
        }
        expected = pickle.loads(frames[2])
        assert all(np.array_equal(a, b) for a, b in zip(parsed.meta.values(), expected, strict=True))
