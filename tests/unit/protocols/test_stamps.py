"""Times on the wire: exactly as many as there are frames or parts, and numbers that can be reckoned with."""

from __future__ import annotations

import math
from itertools import groupby

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.protocols.stamps import Runs, Times, check_runs, stretches

RUNS = st.lists(st.tuples(st.integers(1, 5), st.floats(0, 9)), min_size=1, max_size=6)


def each(runs: Runs) -> list[float]:
    return [number for n, number in runs for _ in range(n)]


@given(RUNS, RUNS)
def test_stretches_are_where_two_numbers_stay_the_same(runs: Runs, spent: Runs) -> None:
    n = min(sum(count for count, _ in some) for some in (runs, spent))
    runs, spent = (pack(each(some)[:n]) for some in (runs, spent))
    found = list(stretches(runs, spent))
    assert [number for count, number, _, _ in found for _ in range(count)] == each(runs)
    assert [seconds for count, _, seconds, _ in found for _ in range(count)] == each(spent)
    assert len(found) < len(runs) + len(spent)
    at = 0
    for count, _, _, before in found:
        assert before == pytest.approx(sum(each(spent)[:at]))
        at += count


def pack(numbers: list[float]) -> Runs:
    return [(len(list(same)), number) for number, same in groupby(numbers)]


WRONG: list[Runs] = [
    [],
    [(2, 1.0)],
    [(4, 1.0)],
    [(3, math.nan)],
    [(3, math.inf)],
    [(3, 1e300)],
    [(3, -1.0)],
    [(4, 1.0), (-1, 1.0)],
    [(0, 1.0), (3, 1.0)],
    [(1 << 62, 1.0), (3 - (1 << 62), 1.0)],
]


@pytest.mark.parametrize("runs", WRONG)
def test_runs_of_another_number_or_of_what_is_no_time_are_refused(runs: Runs) -> None:
    with pytest.raises(CodecError, match="runs of times"):
        check_runs(runs, 3)
    right: Runs = [(1, 0.0), (2, 5.0)]
    Times(1.0, right, right).check(3)
    for times in (Times(1.0, runs, right), Times(1.0, right, runs), Times(math.nan, right, right)):
        back = msgspec.msgpack.decode(msgspec.msgpack.encode(times), type=Times)
        with pytest.raises(CodecError):
            back.check(3)
