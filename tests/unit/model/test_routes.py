"""Routes against a dict, and how many virtual workers of a map are over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.routes import UNASSIGNED, Routes
from beamfold.model.triggermap import compile_map

BLOCK = st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(st.lists(BLOCK, max_size=14))
def test_the_latest_block_counts(blocks: list[tuple[int, int, int]]) -> None:
    routes, model = Routes(), dict[int, int]()
    for lo, n, worker in blocks:
        routes.add(lo, lo + n, worker)
        model.update(dict.fromkeys(range(lo, lo + n), worker))
        asked = np.array([-1, *range(55)])
        assert routes.lookup(asked).tolist() == [model.get(int(v), UNASSIGNED) for v in asked]
    for worker in range(4):
        mine = [v for lo, hi in routes.blocks(worker) for v in range(lo, hi)]
        assert mine == sorted(v for v, w in model.items() if w == worker)


def test_nothing_is_assigned_at_first() -> None:
    assert Routes().lookup(np.array([-3, 0, 7])).tolist() == [UNASSIGNED] * 3
    assert Routes().lookup(np.array([], dtype=np.int64)).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=65, max_size=90), st.data())
def test_what_is_forgotten_ends_before(blocks: list[tuple[int, int]], data: st.DataObject) -> None:
    routes, model, top = Routes(), dict[int, int](), 0
    for n, worker in blocks:
        routes.add(top, top + n, worker)
        model.update(dict.fromkeys(range(top, top + n), worker))
        top += n
    before = data.draw(st.integers(0, top + 5))
    routes.forget_before(before)
    asked = np.arange(before, top + 5)
    assert routes.lookup(asked).tolist() == [model.get(int(v), UNASSIGNED) for v in asked]
    routes.add(top, top + 2, 1)
    assert routes.lookup(np.array([top + 1])).tolist() == [1]


def test_a_virtual_worker_that_spans_the_scan_is_not_over_before_its_end() -> None:
    cells = [[{"constraint": c}] for c in (9, 0, 1, 2, 9)]
    trigger_map = compile_map({"parts": {"p": {"a": cells}}, "sequence": ["p"]})
    assert [trigger_map.virtual_over(e) for e in range(8)] == [0, 0, 0, 0, 0, 0, 4, 4]


@pytest.mark.parametrize("body", [
    {"streams": {"a": {}}, "events": 10, "batch": 3},
    {"streams": {"a": {"every": 2}}, "events": 7},
    {"streams": {"a": {"first": 4}}, "events": 9, "batch": 2},
    {"streams": {"a": {}}, "events": 0},
    {"streams": {"a": {}}, "events": 5, "broadcast": True},
])  # fmt: skip
def test_virtual_workers_that_are_over_in_a_uniform_map(body: dict[str, object]) -> None:
    trigger_map = compile_map(body)
    total = trigger_map.n_virtual
    assert total is not None
    for event in range(14):
        last = [trigger_map.span(v)[1] for v in range(total)]
        assert trigger_map.virtual_over(event) == sum(end < event for end in last)
    endless = compile_map({**body, "events": None})
    assert [endless.virtual_over(e) for e in range(5)] == [trigger_map.virtual_over(e) for e in range(5)] or not total
