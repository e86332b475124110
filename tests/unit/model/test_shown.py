"""A written map is shown in parts that mean what was written, never longer than what can be shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MapError
from beamfold.model.triggermap import MAX_SHOWN, START_END, TooLong, WrittenMap, compile_map, compile_sequence, shown
from unit.model.reference import Reference, assert_same
from unit.model.test_uniform import reference, uniforms


def written(body: Any, all_wrap: bool = True) -> WrittenMap:
    return WrittenMap.of(json.dumps(body).encode(), all_wrap)


def as_posted(answer: dict[str, Any]) -> dict[str, Any]:
    """What is shown, in the form in which it is sent."""
    return {**answer, "parts": {name: part["mapping"] for name, part in answer["parts"].items()}}


def test_what_may_be_left_out_is_filled_in() -> None:
    part = {"a": [[{}], None, []], "b": [[{"constraint": 7}, {"tags": ["gpu"]}], None, None]}
    answer = shown(written({"parts": {"p": part}, "sequence": ["p", "p"]}))
    everybody = {"tags": ["generic"], "constraint": None}
    ends = [everybody, {"tags": ["gpu"], "constraint": None}]
    assert answer == {
        "parts": {
            "p": {
                "mapping": {
                    "a": [[everybody], None, []],
                    "b": [
                        [{"tags": ["generic"], "constraint": 7}, {"tags": ["gpu"], "constraint": None}],
                        None,
                        None,
                    ],
                }
            },
            START_END: {"mapping": {"a": [ends], "b": [ends]}},
        },
        "sequence": [START_END, "p", "p", START_END],
    }


def test_a_map_without_start_and_end_is_shown_without_them() -> None:
    answer = shown(written({"parts": {"p": {"a": [[{}]]}}, "sequence": ["p"]}, all_wrap=False))
    assert list(answer["parts"]) == answer["sequence"] == ["p"]


def test_the_name_of_the_added_part_is_taken() -> None:
    body = {"parts": {START_END: {"a": [[{}]]}}, "sequence": [START_END]}
    with pytest.raises(MapError, match="all_wrap=false"):
        compile_map(body)
    assert compile_map(body, all_wrap=False).n_events == 1


@given(uniforms(), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_a_uniform_map_is_shown_as_the_map_that_it_is(body: dict[str, Any], length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beamfold.model.trigger.shown._PART_EVENTS", length)
        answer = as_posted(shown(written(body)))
    if body["events"]:
        assert_means(answer, reference(body, body["events"]))


def assert_means(answer: dict[str, Any], ref: Reference) -> None:
    """Sent back as it is shown, with its start and end, it is the same map but for the constraints' numbers."""
    compiled = compile_sequence(answer, all_wrap=False)
    ref.wrapped = False
    ref.constraints = [compiled.constraint(v) for v in range(compiled.n_virtual or 0)]
    assert_same(compiled, ref)


@pytest.mark.parametrize("first", [1, 2, 5, 9, 30])
@pytest.mark.parametrize("batch", [1, 3])
def test_streams_that_begin_late_are_shown_where_they_begin(first: int, batch: int) -> None:
    body = {"streams": {"a": {"every": 2, "first": first}, "b": {}}, "events": 20, "batch": batch}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beamfold.model.trigger.shown._PART_EVENTS", 1)
        answer = as_posted(shown(written(body)))
    assert_means(answer, reference(body, 20))


def test_a_broadcast_uniform_map_goes_to_everybody() -> None:
    answer = shown(written({"streams": ["a"], "events": 2, "broadcast": True, "tags": ["gpu"]}))
    cell = [{"tags": ["gpu"], "constraint": None}]
    assert answer["parts"]["uniform"] == {"mapping": {"a": [cell, cell]}}
    assert answer["parts"][START_END] == {"mapping": {"a": [cell]}}


def test_ten_million_events_are_occurrences_of_one_part() -> None:
    answer = shown(written({"streams": ["a", "b"], "events": 10_000_000}))
    assert set(answer["parts"]) == {"uniform", START_END}
    assert len(answer["sequence"]) == 10_002
    assert len(answer["parts"]["uniform"]["mapping"]["a"]) == 1000


def test_a_scan_of_no_events_has_its_start_and_end() -> None:
    answer = shown(written({"streams": ["a"], "events": 0}))
    assert answer["sequence"] == [START_END, START_END]


@pytest.mark.parametrize(
    "body",
    [
        {"streams": ["a"], "events": None},
        {"streams": ["a"], "events": 1 << 53},
        {"streams": ["a", "b"], "events": 3_000_000, "batch": 1_000_003},
        {"streams": {"a": {"every": 1 << 53}, "b": {"first": 1 << 32}}, "events": 1 << 53},
        {"parts": {"p": {"a": [None] * (MAX_SHOWN + 1)}}, "sequence": ["p"]},
        {"parts": {"p": {"a": [[{"constraint": n} for n in range(MAX_SHOWN)], []]}}, "sequence": ["p"]},
        {"parts": {"p": {"a": [None]}}, "sequence": ["p"] * MAX_SHOWN},
    ],
    ids=["endless", "names", "cells", "late", "explicit", "targets", "sequence"],
)
def test_what_is_too_long_to_be_shown_is_refused_before_it_is_written_out(body: Any) -> None:
    with pytest.raises(TooLong, match="shown"):
        shown(written(body))


def test_a_batch_longer_than_the_scan_is_one_constraint() -> None:
    answer = shown(written({"streams": ["a"], "events": 10, "batch": 1 << 53}))
    assert answer["parts"]["uniform"]["mapping"]["a"] == [[{"tags": ["generic"], "constraint": 0}]] * 10
