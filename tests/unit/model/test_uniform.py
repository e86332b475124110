"""The closed form of a uniform map says what the same map says when it is written out cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.triggermap import TriggerMap, compile_sequence, compile_uniform
from unit.model.reference import WORKERS, Reference, assert_plain, assert_same, rows


def written_out(body: dict[str, Any], events: int) -> dict[str, Any]:
    """The same map as a sequence of one part."""
    tags = body.get("tags", ["generic"])

    def cell(stream: dict[str, int], e: int) -> list[Any] | None:
        every, first = stream.get("every", 1), stream.get("first", 1)
        if e < first or (e - first) % every:
            return None
        constraint = None if body.get("broadcast") else (e - 1) // body.get("batch", 1)
        return [{"tags": tags, "constraint": constraint}]

    part = {name: [cell(s, e) for e in range(1, events + 1)] for name, s in body["streams"].items()}
    return {"parts": {"scan": part}, "sequence": ["scan"]}


streams = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries({}, optional={"every": st.integers(1, 5), "first": st.integers(1, 6)}),
    min_size=1,
)


@st.composite
def uniforms(draw: st.DrawFn) -> dict[str, Any]:
    """A uniform body with a stream that has a frame in every event."""
    body = draw(
        st.fixed_dictionaries(
            {"streams": streams, "events": st.integers(0, 14)},
            optional={"batch": st.integers(1, 5), "tags": st.sampled_from([["gpu"], ["gpu", "b"]])},
        )
    )
    body["streams"]["dense"] = {}
    return body


def assert_wire(m: TriggerMap) -> TriggerMap:
    wire = m.to_wire()
    assert_plain(wire)
    assert len(repr(wire)) < 500
    return TriggerMap.from_wire(wire)


def reference(body: dict[str, Any], events: int) -> Reference:
    """Written out. A scan of no events has no cell to name its tags; here the wrapping does."""
    ref = Reference(written_out(body, events), True)
    if not events:
        tags: list[Any] = [("cast", frozenset({t})) for t in sorted(body.get("tags", ["generic"]))]
        ref.events = [dict.fromkeys(ref.streams, tags)] * 2
    return ref


@given(uniforms())
@settings(max_examples=100, deadline=None)
def test_the_closed_form_is_the_map_written_out(body: dict[str, Any]) -> None:
    assert_same(assert_wire(compile_uniform(body)), reference(body, body["events"]))


@given(uniforms(), st.data())
@settings(max_examples=60, deadline=None)
def test_an_endless_map_closed_is_the_finite_one(body: dict[str, Any], data: st.DataObject) -> None:
    events = body["events"]
    body["events"] = data.draw(st.sampled_from([None, events + 3]))
    closed = assert_wire(compile_uniform(body)).closed_at(events)
    assert_same(closed, reference(body, events))


@given(streams, st.integers(0, 14), st.booleans(), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_events_without_any_frame_have_no_part(
    sparse: dict[str, Any], events: int, broadcast: bool, batch: int
) -> None:
    body = {"streams": sparse, "events": events, "broadcast": broadcast, "batch": batch}
    m, ref = compile_uniform(body), Reference(written_out(body, events), True)
    n = events + 2
    targets = [sum(1 << w for w in ref.targets(g, WORKERS)) for g in m.groups]
    busy = [bool(ref.owners(e)) for e in range(n)]
    for e in range(n):
        assert m.part_count(e, targets) == len(ref.parts(e, WORKERS))
        assert m.next_virtual(e) == next((x for x in range(e, n) if busy[x]), None)
        assert m.next_broadcast(e, 1) == next((x for x in range(e, n) if ref.casts(x)), None)
        for hi in range(e, n):
            assert m.single_part(e, hi) == (all(busy[e:hi]))
    for k in (-1, 0, 1):
        for groups in (0, 1):
            mine = set(m.groups) if groups else set()
            found = m.needs(np.arange(n), k, groups).tolist()
            expected = [ref.needs(e, k, mine) for e in range(n)]
            assert [{s for i, s in enumerate(m.streams) if x >> i & 1} for x in found] == expected
    assert m.n_virtual is not None
    for lo in range(m.n_virtual + 1):
        for hi in range(lo, m.n_virtual + 1):
            mine_events = [e for e in range(1, events + 1) if busy[e] and lo <= (e - 1) // batch < hi]
            assert m.parts_of(lo, hi)[0].tolist() == mine_events
            assert m.part_total(lo, hi) == len(mine_events)
    for s, name in enumerate(m.streams):
        for lo in range(4):
            for hi in range(lo, n + 2):
                found_rows = rows(m, s, lo, hi)
                assert [r[:3] for r in found_rows] == [r[:3] for r in ref.route(name, lo, hi)]
                assert all(v == (e - 1) // batch for _, e, _, v in found_rows if isinstance(v, int))


def test_ten_million_events_cost_as_much_as_ten() -> None:
    m = compile_uniform({"streams": {"a": {}, "b": {"every": 7, "first": 3}}, "events": 10**15, "batch": 100})
    last = 10**15
    assert m.n_events == last + 2
    assert m.route(0, last - 1, last + 3).virtual.tolist() == [10**13 - 1, 10**13 - 1, -1]
    assert m.part_total(0, 10**13) == last
    assert m.single_part(1, last + 1)
    count = m.frame_count(1)
    assert count is not None
    assert m.ordinal_at(1, last + 1) == count - 1
    assert m.closed_at(10**14).n_events == 10**14 + 2


def test_an_endless_map_has_no_end() -> None:
    m = compile_uniform({"streams": ["a", "b"], "events": None})
    assert m.endless
    assert (m.n_events, m.n_virtual, m.frame_count(0)) == (None, None, None)
    assert m.route(0, 10**9, 10**9 + 2).event.tolist() == [10**9, 10**9 + 1]
    assert m.next_broadcast(1, 1) is None
    assert m.next_broadcast(0, 1) == 0
    assert m.plain_run(5) > 10**15
    assert m.needs(np.array([0, 5, 10**12]), 0, 1).tolist() == [3, 3, 3]


def test_a_stream_of_a_map_may_begin_late_and_the_rest_never_be_dense() -> None:
    body = {
        "streams": {
            "a": {"every": 4, "first": 3},
            "b": {"every": 6, "first": 20},
            "c": {"every": 2, "first": 41},
        }
    }
    m = compile_uniform(body)
    has = [
        any(e >= s["first"] and (e - s["first"]) % s["every"] == 0 for s in body["streams"].values())
        for e in range(200)
    ]
    for e in range(1, 200):
        assert m.part_total(0, e - 1) == sum(has[1:e])
        assert m.single_part(e, e + 1) == has[e]


@pytest.mark.parametrize("v", [-1, 3])
def test_a_virtual_worker_outside_the_map_is_an_error(v: int) -> None:
    uniform = compile_uniform({"streams": ["a"], "events": 3})
    for m in (uniform, compile_sequence(written_out({"streams": {"a": {}}}, 3))):
        for ask in (m.tags, m.span, m.constraint, m.conflicts, m.plain_run):
            with pytest.raises(IndexError, match=f"virtual worker {v}"):
                ask(v)
