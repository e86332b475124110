"""What the command line asks for, and in which order it is measured."""

from __future__ import annotations

import pytest

from bench import _parser, _plan


def test_what_is_compared_is_measured_in_turn() -> None:
    plan = _plan(_parser().parse_args(["--repeat=2", "--batches=1,10", "--frames=7", "--peer-frames=3"]))
    one = [("ceiling", 1, 7), ("beamfold", 1, 7), ("dranspose", 1, 3)]
    one += [("ceiling", 10, 7), ("beamfold", 10, 7), ("dranspose", 10, 3)]
    assert list(plan.scans()) == [(repetition, *scan) for repetition in (1, 2) for scan in one]


def test_some_systems_only_in_the_usual_order() -> None:
    plan = _plan(_parser().parse_args(["--only", "beamfold,ceiling", "--quick"]))
    assert plan.systems == ("ceiling", "beamfold")
    assert plan.repeat == 1


def test_the_peer_is_given_fewer_frames() -> None:
    plan = _plan(_parser().parse_args([]))
    assert plan.batches == (1, 10, 100)
    assert max(plan.peer_frames.values()) * 10 <= plan.frames


@pytest.mark.parametrize("arguments", ["--batches 0", "--batches 1,,10", "--only us", "--repeat -1", "--frames many"])
def test_what_makes_no_sense_is_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(arguments.split())
