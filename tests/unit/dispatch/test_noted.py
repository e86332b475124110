"""Which events lack a stream is known of each, however many there are, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.dispatch import noted as module
from beamfold.dispatch.noted import Noted

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda r: (r[0], r[0] + r[1])), max_size=30)


@given(st.lists(RUNS, max_size=5), st.integers(0, 20), st.integers(40, 90))
def test_what_was_told_is_in_it_whether_as_runs_or_one_by_one(
    told: list[list[tuple[int, int]]], lo: int, hi: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_RUNS", 3)
        patch.setattr(module, "LONG", 12)
        noted = Noted()
        for runs in told:
            noted.add(runs)
    expected = [e for e in range(lo, hi) if any(a <= e < b for runs in told for a, b in runs)]
    assert noted.total(lo, hi) == len(expected)
    bitmap = noted.bitmap(lo, hi)
    if bitmap is not None:
        assert bitmap.numbers().tolist() == expected
    else:
        assert [e for a, b in noted.runs(lo, hi) for e in range(a, b)] == expected


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNS", 10)
    monkeypatch.setattr(module, "MAX_EVENTS", 1000)
    noted = Noted()
    noted.add((e, e + 1) for e in range(0, 10_000, 2))
    noted.add([(1 << 40, 1 << 50)])
    assert len(noted._marks) == 1000 and noted._runs.count == 11
    assert noted.runs(0, 1 << 53) == [*((e, e + 1) for e in range(0, 20, 2)), (1 << 40, 1 << 50)]
    bitmap = noted.bitmap(1, 1 << 53)
    assert bitmap is not None and bitmap.numbers().tolist() == list(range(2, 1000, 2))
