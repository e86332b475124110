"""Times on the wire: exactly as many as there are frames or parts, and numbers that can be reckoned with."""

from __future__ import annotations

import math

import msgspec
import pytest

from beamfold.model.errors import CodecError
from beamfold.protocols.stamps import Runs, Times, check_runs, spread


def test_runs_are_spread_over_what_they_are_of() -> None:
    assert spread([(2, 1.5), (1, 0.0), (3, 2.0)]).tolist() == [1.5, 1.5, 0.0, 2.0, 2.0, 2.0]
    assert spread([(2, 1.5)]).tolist() == [1.5, 1.5]


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
