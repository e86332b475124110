"""Arguments of the command line."""

from __future__ import annotations

import argparse

import pytest

from beamfold.testing.simulate import _mesh, _parser, _shape


def test_shapes() -> None:
    assert _shape("8x8") == (8, 8)
    assert _shape("1065X1030") == (1065, 1030)
    assert _shape("128") == (128,)


@pytest.mark.parametrize(("points", "mesh"), [("1", (1, 1)), ("4", (2, 2)), ("5", (3, 3)), ("1000", (32, 32))])
def test_a_number_of_points_makes_the_square_mesh_that_holds_them(points: str, mesh: tuple[int, int]) -> None:
    assert _mesh(points) == mesh


def test_a_mesh_may_be_oblong() -> None:
    assert _mesh("40x25") == (40, 25)


@pytest.mark.parametrize("text", ["", "x", "8x", "0x8", "-3", "eight", "1.5"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    for parse in (_shape, _mesh):
        with pytest.raises(argparse.ArgumentTypeError, match="is no"):
            parse(text)


def test_three_axes_are_no_mesh() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it as 40x25"):
        _mesh("2x3x4")


def test_defaults_send_everything_and_wait_for_receivers() -> None:
    args = _parser().parse_args(["stins", "--frames", "5"])
    assert args.frames == 5
    assert args.linger_s is None
    assert args.wait_s is None
    assert not args.drop


def test_detectors_on_one_trigger_have_a_shape_and_an_address_each() -> None:
    args = _parser().parse_args(["joined", "512x256=tcp://127.0.0.1:9000", "8x8"])
    assert args.detectors == [((512, 256), "tcp://127.0.0.1:9000"), ((8, 8), "tcp://127.0.0.1:0")]
