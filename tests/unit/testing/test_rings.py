from __future__ import annotations

import numpy as np
import pytest

from beamfold.model.errors import ConfigError
from beamfold.testing.rings import RINGS, rings


def test_stack_of_the_asked_shape_and_dtype() -> None:
    images = rings((40, 30), "uint16", count=3)
    assert images.shape == (3, 40, 30)
    assert images.dtype == np.uint16


def test_same_seed_same_pixels_other_seed_other_noise() -> None:
    assert np.array_equal(rings((16, 16), count=2, seed=5), rings((16, 16), count=2, seed=5))
    assert not np.array_equal(rings((16, 16), seed=5), rings((16, 16), seed=6))


def test_the_radial_mean_peaks_on_every_ring() -> None:
    size = 400
    image = rings((size, size), "float64", peak=100.0)[0]
    y, x = np.indices(image.shape) - (size - 1) / 2
    radius = np.hypot(x, y) * 2 / size
    for at, height in RINGS:
        on = image[np.abs(radius - at) < 0.004].mean()
        beside = image[np.abs(radius - at - 0.05) < 0.004].mean()
        assert on - beside > 50.0 * height


def test_small_dtypes_saturate_instead_of_wrapping() -> None:
    assert rings((64, 64), "int8", peak=500.0).min() >= 0


def test_one_row_and_three_axes_work() -> None:
    assert rings((16,), "float32").shape == (1, 16)
    assert rings((2, 8, 8), "uint32").shape == (1, 2, 8, 8)


@pytest.mark.parametrize("dtype", ["complex64", "nonsense", "datetime64[ns]", "U4"])
def test_what_no_detector_sends_is_refused(dtype: str) -> None:
    with pytest.raises(ConfigError, match="use"):
        rings((8, 8), dtype)
