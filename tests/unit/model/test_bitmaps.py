"""Every event's state can be read out of a report, whether it is told in runs or in bitmaps."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beamfold
from beamfold.model.bitmaps import MAX_EVENTS, Bitmap, events_in
from beamfold.model.errors import BeamfoldError, CodecError

MASKS = st.lists(st.booleans(), max_size=100).map(np.array)


def report(**more: Any) -> dict[str, Any]:
    return {"ended": "finished", "first_event": 1, "events": 10, "runs": {}, "bitmaps": {}, "unlisted": {}, **more}


@given(st.integers(0, 1 << 50), MASKS)
def test_a_bitmap_has_the_numbers_that_it_was_made_of(first: int, mask: Any) -> None:
    mask = mask.astype(np.bool_)
    again = Bitmap(**asdict(Bitmap.of(first, mask)))
    assert again.numbers().tolist() == [first + i for i, there in enumerate(mask) if there]


def test_every_second_one_of_as_many_events_as_possible_is_a_few_kilobytes() -> None:
    mask = np.zeros(MAX_EVENTS, np.bool_)
    mask[::2] = True
    bitmap = Bitmap.of(1, mask)
    assert len(bitmap.bits) < 5000
    assert np.array_equal(bitmap.numbers(), np.arange(1, MAX_EVENTS, 2))


def test_each_event_is_found_in_its_state() -> None:
    assert beamfold.events_in is events_in
    mask = np.arange(10) % 2 == 1
    told = report(runs={"incomplete": [[1, 2], [9, 10]]}, bitmaps={"failed": asdict(Bitmap.of(1, mask))})
    assert events_in(told, "incomplete").tolist() == [1, 9]
    assert events_in(told, "failed").tolist() == [2, 4, 6, 8, 10]
    assert events_in(told, "reduced").tolist() == [3, 5, 7]
    assert events_in(told, "lost").tolist() == []


@pytest.mark.parametrize(
    ("told", "state", "text"),
    [
        (report(), "fialed", "there is no state 'fialed'; there are"),
        (report(ended=""), "reduced", "does not list all events"),
        (report(unlisted={"failed": 1}), "reduced", "does not list all events"),
    ],
)
def test_what_a_report_does_not_say_is_not_guessed(told: dict[str, Any], state: str, text: str) -> None:
    with pytest.raises(BeamfoldError, match=text):
        events_in(told, state)


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b"1"), zlib.compress(bytes(1 << 20))])
def test_a_damaged_bitmap_is_told(data: bytes) -> None:
    with pytest.raises(CodecError):
        Bitmap(1, 100, base64.b64encode(data).decode()).numbers()
    with pytest.raises(CodecError):
        Bitmap(1, 100, "no base64").numbers()
