"""The simulated sample shows its picture, and is the same picture every time."""

from __future__ import annotations

import numpy as np
import pytest

from beamfold.model.errors import ConfigError
from beamfold.testing.leaf import leaf
from beamfold.testing.sample import COMPONENTS, EV_PER_BIN, FluorescenceSample

ELEMENTS = ["K", "Ca", "Fe", "Zn"]


@pytest.fixture(scope="module")
def sample() -> FluorescenceSample:
    return FluorescenceSample((24, 20))


def test_a_spectrum_is_what_the_detector_counts(sample: FluorescenceSample) -> None:
    spectrum = sample.spectrum(210)
    assert spectrum.shape == (4, 4096)
    assert spectrum.dtype == np.uint32
    assert (spectrum.sum(axis=1) > 1000).all()


@pytest.mark.parametrize("element", ELEMENTS)
def test_the_picture_is_found_in_the_spectra(sample: FluorescenceSample, element: str) -> None:
    """What an app does: sum a region of the fourth channel at every point."""
    first, end = sample.roi(element)
    sums = np.array([sample.spectrum(i)[3, first:end].sum() for i in range(sample.points)], float)
    found = np.corrcoef(sums, sample.maps[element].ravel())[0, 1]
    assert found > 0.95


def test_the_picture_tells_its_axes_apart() -> None:
    for name in ("Ca", "Zn"):
        picture = leaf(31, 31)[name]
        for other in (picture.T, picture[::-1], picture[:, ::-1], picture[::-1, ::-1]):
            assert np.corrcoef(picture.ravel(), other.ravel())[0, 1] < 0.9


def test_amounts_lie_between_nothing_and_everything() -> None:
    for nx, ny in ((40, 25), (1, 1), (1, 9), (9, 1)):
        for amounts in leaf(nx, ny).values():
            assert amounts.shape == (nx, ny)
            assert amounts.min() >= 0.0
            assert amounts.max() <= 1.0


def test_counts_scatter_as_counts_do() -> None:
    """Where nothing but the background is, the sum over many bins varies like a Poisson number."""
    sample = FluorescenceSample((30, 30))
    sums = [int(sample._backgrounds[i, 0, 100:280].sum()) for i in range(len(sample._backgrounds))]
    assert 0.3 < np.var(sums) / np.mean(sums) < 2.5


def test_equal_arguments_equal_bytes() -> None:
    one, two = FluorescenceSample((6, 5), seed=3), FluorescenceSample((6, 5), seed=3)
    for point in (0, 13, 29):
        assert one.spectrum(point).tobytes() == two.spectrum(point).tobytes()
        assert repr(one.readings(point)) == repr(two.readings(point))


def test_order_of_asking_does_not_matter(sample: FluorescenceSample) -> None:
    late = sample.spectrum(400).copy()
    sample.spectrum(3)
    assert np.array_equal(sample.spectrum(400), late)


def test_another_seed_is_another_sample() -> None:
    one, two = FluorescenceSample((6, 5), seed=3), FluorescenceSample((6, 5), seed=4)
    assert not np.array_equal(one.spectrum(13), two.spectrum(13))


def test_a_spectrum_belongs_to_the_caller(sample: FluorescenceSample) -> None:
    before = sample.spectrum(5)
    sample.spectrum(5)[:] = 0
    assert np.array_equal(sample.spectrum(5), before)


def test_the_second_motor_is_the_fast_one(sample: FluorescenceSample) -> None:
    assert sample.position(0) == (-2.0, -2.0)
    assert sample.position(1)[0] == -2.0
    assert sample.position(19) == (-2.0, 2.0)
    assert sample.position(20)[1] == -2.0
    assert sample.position(479) == (2.0, 2.0)
    assert sample.description == "mesh sx -2 2 23 sy -2 2 19 0.1"


def test_readings_have_the_recorded_shape(sample: FluorescenceSample) -> None:
    readings = sample.readings(30)
    assert list(readings) == ["sx", "sy", "pseudo", "panda0", "xspress3"]
    assert list(readings["pseudo"]) == ["x", "y", "z", "analog_x", "analog_y", "analog_z"]
    assert len(readings["panda0"]) == 19
    for value in (*readings["pseudo"].values(), *readings["panda0"].values()):
        assert value.shape == (1,)
        assert value.dtype == np.float64
    assert readings["pseudo"]["x"][0] == pytest.approx(sample.position(30)[0], abs=0.01)
    assert readings["panda0"]["INENC2.VAL_Mean"] == readings["pseudo"]["x"]
    assert readings["xspress3"]["type"] == "Link"


def test_a_region_holds_its_line(sample: FluorescenceSample) -> None:
    for component in COMPONENTS:
        first, end = sample.roi(component.name)
        assert first * EV_PER_BIN < component.lines[0][0] < end * EV_PER_BIN
    with pytest.raises(ConfigError, match="it has K, Ca, Fe"):
        sample.roi("Au")


def test_points_outside_the_mesh_are_refused(sample: FluorescenceSample) -> None:
    for point in (-1, sample.points):
        with pytest.raises(IndexError, match="480"):
            sample.spectrum(point)
        with pytest.raises(IndexError):
            sample.readings(point)


def test_few_bins_and_channels_work() -> None:
    sample = FluorescenceSample((3, 3), channels=1, bins=256)
    assert sample.spectrum(4).shape == (1, 256)


@pytest.mark.parametrize("bad", [{"shape": (0, 3)}, {"bins": 0}, {"counts": -1.0}, {"exptime": 0.0}])
def test_impossible_samples_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cannot simulate"):
        FluorescenceSample(**{"shape": (3, 3), **bad})  # type: ignore[arg-type]
