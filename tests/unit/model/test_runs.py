"""A RunSet behaves like the set of its integers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.runs import RunSet

SMALL = st.integers(-3, 40)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "discard"]), SMALL, SMALL), max_size=30)


def runs_of(numbers: set[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if out and out[-1][1] == n:
            out[-1] = (out[-1][0], n + 1)
        else:
            out.append((n, n + 1))
    return out


@given(STEPS, SMALL, SMALL)
@settings(max_examples=200, deadline=None)
def test_a_run_set_is_a_set_of_integers(steps: list[tuple[str, int, int]], lo: int, hi: int) -> None:
    runs, model = RunSet(), set[int]()
    for what, a, b in steps:
        if what == "add":
            assert runs.add(a, b) == len(set(range(a, b)) - model)
            model |= set(range(a, b))
        else:
            runs.discard(a, b)
            model -= set(range(a, b))
        assert runs.runs() == list(runs) == runs_of(model)
        assert runs.total == len(model)
        assert bool(runs) == bool(model)
    window = set(range(lo, hi))
    assert runs.covers(lo, hi) == (window <= model)
    assert runs.overlap(lo, hi) == runs_of(window & model)
    assert runs.missing(lo, hi) == runs_of(window - model)
    assert runs.first_gap(lo) == next(n for n in range(lo, 100) if n not in model)
    assert [n in runs for n in range(-5, 50)] == [n in model for n in range(-5, 50)]
    assert RunSet(runs) == runs
    assert (RunSet([(lo, hi)]) == runs) == (window == model)


def test_a_run_set_says_what_it_holds() -> None:
    assert repr(RunSet([(3, 5), (5, 6), (9, 9)])) == "RunSet([(3, 6)])"
