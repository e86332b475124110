"""A sample under a fluorescence microscope: what its two detectors read at every point of a mesh scan.

Making a Poisson-distributed spectrum of 4 × 4096 bins takes a millisecond; at 1000 points a second there is
none to spare. But a sum of Poisson numbers is Poisson again: so each element's lines are drawn beforehand at
65 levels of concentration, a few times each, the background as well, and a point's spectrum is the sum of
what fits it. The noise of single points is right; what repeats, every few hundred points, is its draw.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from beamfold.model.errors import ConfigError
from beamfold.testing.leaf import leaf

if TYPE_CHECKING:
    from numpy.typing import NDArray

EV_PER_BIN = 10.0
"""Width of one bin in eV; bin 0 starts at 0 eV."""

BEAM_EV = 12_000.0

_LEVELS = 64
_DRAWS = 4
_BACKGROUNDS = 32
_JITTERS = 1021  # prime, so that the table does not repeat in step with the lines of a map

# One detector element sees a little more than the next.
_GAINS = (1.0, 0.93, 1.06, 0.88)


@dataclass(frozen=True, slots=True)
class Component:
    """What one ingredient of the sample adds to a spectrum at full amount.

    `lines`: (energy in eV, share, extra width in eV); `counts`: expected counts of the strongest line per
    channel and frame.
    """

    name: str
    counts: float
    lines: tuple[tuple[float, float, float], ...]


COMPONENTS = (
    Component("K", 420.0, ((3313.8, 1.0, 0.0), (3589.6, 0.11, 0.0))),
    Component("Ca", 900.0, ((3691.7, 1.0, 0.0), (4012.7, 0.13, 0.0))),
    Component("Fe", 1300.0, ((6403.8, 1.0, 0.0), (7058.0, 0.14, 0.0))),
    Component("Zn", 600.0, ((8638.9, 1.0, 0.0), (9572.0, 0.14, 0.0))),
    Component("scatter", 1500.0, ((BEAM_EV, 1.0, 0.0), (11_640.0, 0.7, 90.0))),
)
"""Kα and Kβ lines of the elements; elastic and Compton scattering of the beam."""


class FluorescenceSample:
    """A mesh of `shape` = (nx, ny) points over a leaf; the second axis is the fast one.

    Points are numbered 0 … nx·ny-1. `span` gives the corners (x0, x1, y0, y1) in µm, `exptime` the exposure
    in seconds, `counts` scales all count rates. The same arguments give the same bytes.

    `maps[name]` is the amount (0 … 1) of every component, shape (nx, ny) float64: what an analysis should
    find.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (40, 40),
        *,
        channels: int = 4,
        bins: int = 4096,
        seed: int = 0,
        counts: float = 1.0,
        span: tuple[float, float, float, float] = (-2.0, 2.0, -2.0, 2.0),
        exptime: float = 0.1,
    ) -> None:
        if min(*shape, channels, bins) < 1 or counts < 0 or exptime <= 0:
            raise ConfigError(
                f"cannot simulate {shape} points of {channels} channels × {bins} bins, counts {counts}, "
                f"exposure {exptime} s: all must be positive"
            )
        self.shape = shape
        self.points = shape[0] * shape[1]
        self.span = span
        self.exptime = exptime
        self.maps = leaf(*shape, seed)
        self._x = np.linspace(span[0], span[1], shape[0])
        self._y = np.linspace(span[2], span[3], shape[1])
        rng = np.random.default_rng(seed)
        gains = np.resize(np.array(_GAINS), channels)[:, None]
        self._banks = [_draw_bank(rng, component, gains, bins, counts) for component in COMPONENTS]
        self._backgrounds = rng.poisson(counts * gains * _background(bins), (_BACKGROUNDS, channels, bins)).astype(
            np.uint32
        )
        amounts = np.stack([self.maps[c.name].ravel() for c in COMPONENTS], axis=1)
        self._levels = np.rint(amounts * _LEVELS).astype(np.uint8)
        self._draws = rng.integers(_DRAWS, size=amounts.shape, dtype=np.uint8)
        self._background_of = rng.integers(_BACKGROUNDS, size=self.points, dtype=np.uint8)
        self._jitter = rng.normal(0.0, 1e-3, (_JITTERS, 8))

    @property
    def description(self) -> str:
        """The scan command, as the scan software words it (intervals, not points)."""
        x0, x1, y0, y1 = self.span
        nx, ny = self.shape
        return f"mesh sx {x0:g} {x1:g} {nx - 1} sy {y0:g} {y1:g} {ny - 1} {self.exptime:g}"

    def snapshot(self) -> dict[str, float]:
        """Positions of the motors around the sample, as the scan's first record lists them."""
        return {"sx": self.span[0], "sy": self.span[2], "sz": 0.0, "energy": BEAM_EV, "energy_raw": 11971.8}

    def position(self, point: int) -> tuple[float, float]:
        """Where the point should be: (x, y) in µm."""
        column, row = divmod(self._checked(point), self.shape[1])
        return float(self._x[column]), float(self._y[row])

    def spectrum(self, point: int) -> NDArray[np.uint32]:
        """Counts of shape (channels, bins) uint32; a new array at every call."""
        spectrum: NDArray[np.uint32] = self._backgrounds[self._background_of[self._checked(point)]].copy()
        levels, draws = self._levels[point].tolist(), self._draws[point].tolist()
        for (where, bank), level, draw in zip(self._banks, levels, draws, strict=True):
            if level:
                spectrum[:, where] += bank[level, draw]
        return spectrum

    def readings(
        self, point: int, filename: str = "/data/simulated/scan_000001_xspress3.hdf5"
    ) -> OrderedDict[str, Any]:
        """What motors and counters read at the point, with the keys of a recorded scan.

        `pseudo` holds positions from the encoders and from the analogue sensors in µm, `panda0` the trigger
        box's columns, each an array of shape (1,) float64; `xspress3` is a link to the spectra's file.
        """
        x, y = self.position(point)
        j = self._jitter[point % _JITTERS].tolist()
        ex, ey, ez = x + j[0], y + j[1], 3e-4 + 0.1 * j[2]
        ax, ay, az = x + 4 * j[3], y + 4 * j[4], -3e-3 + 0.1 * j[5]
        trigger = 0.0058 + 0.05 * j[6]
        end = trigger + self.exptime
        currents = (0.0057, 7e-4, 0.0464, -0.0294, 0.0125)
        pseudo = _arrays(_PSEUDO, (ex, ey, ez, ax, ay, az))
        panda = (0.0, 0.0, 0.0, 0.0, 0.0, trigger, end, end, ez, ex, ey, -az / 5, -ax / 5, ay / 5, *currents)
        return OrderedDict(
            sx=x + 2 * j[7],
            sy=y - 2 * j[6],
            pseudo=pseudo,
            panda0=_arrays(_PANDA, panda),
            xspress3={
                "type": "Link",
                "filename": filename,
                "path": "/entry/instrument/xspress3/",
                "universal": True,
            },
        )

    def roi(self, name: str) -> tuple[int, int]:
        """Bins [first, behind the last) around a component's main line: what an app would sum for its map."""
        for component in COMPONENTS:
            if component.name == name:
                energy, _, extra = component.lines[0]
                half = 1.5 * _sigma(energy, extra)
                return round((energy - half) / EV_PER_BIN), round((energy + half) / EV_PER_BIN) + 1
        raise ConfigError(f"the sample has no {name!r}: it has {', '.join(c.name for c in COMPONENTS)}")

    def _checked(self, point: int) -> int:
        if not 0 <= point < self.points:
            raise IndexError(f"point {point} of a scan of {self.points}")
        return point


_PSEUDO = ("x", "y", "z", "analog_x", "analog_y", "analog_z")
_PANDA = (
    *(f"COUNTER{n}.OUT_Value" for n in range(1, 6)),
    *(f"PCAP.TS_{what}_Value" for what in ("START", "END", "TRIG")),
    *(f"INENC{n}.VAL_Mean" for n in range(1, 4)),
    *(f"FMC_IN.VAL{n}_Mean" for n in range(1, 9)),
)


def _arrays(names: tuple[str, ...], values: tuple[float, ...]) -> dict[str, NDArray[np.float64]]:
    """One array of shape (1,) for every name: views of one row, because making many small arrays is slow."""
    row = np.array(values)
    return {name: row[i : i + 1] for i, name in enumerate(names)}


def _sigma(energy: float, extra: float) -> float:
    """Standard deviation of a line in eV: electronic noise, Fano statistics in silicon, and its own width."""
    return float(np.sqrt(45.0**2 + 0.12 * 3.66 * energy + extra**2))


def _draw_bank(
    rng: np.random.Generator, component: Component, gains: NDArray[np.float64], bins: int, counts: float
) -> tuple[slice, NDArray[np.uint32]]:
    """Where the component's lines lie, and its draws: shape (levels + 1, draws, channels, width) uint32."""
    reach = [(energy, 4.0 * _sigma(energy, extra)) for energy, _, extra in component.lines]
    lowest = int(min(e - r for e, r in reach) / EV_PER_BIN)
    highest = int(max(e + r for e, r in reach) / EV_PER_BIN) + 1
    where = slice(min(lowest, bins), min(highest, bins))
    energies = (np.arange(where.start, where.stop) + 0.5) * EV_PER_BIN
    shape = np.zeros_like(energies)
    for energy, share, extra in component.lines:
        sigma = _sigma(energy, extra)
        shape += share * EV_PER_BIN / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((energies - energy) / sigma) ** 2)
    expected = counts * component.counts * gains * shape
    levels = np.arange(_LEVELS + 1)[:, None, None, None] / _LEVELS
    drawn = rng.poisson(levels * expected, (_LEVELS + 1, _DRAWS, *expected.shape))
    return where, drawn.astype(np.uint32)


def _background(bins: int) -> NDArray[np.float64]:
    """Expected counts per bin of everything that is there at every point: a continuum and the air's argon."""
    energy = (np.arange(bins) + 0.5) * EV_PER_BIN
    continuum = 0.25 + 0.9 * np.exp(-energy / 2500.0)
    continuum *= 1.0 / (1.0 + np.exp(np.clip((energy - BEAM_EV - 250.0) / 60.0, -50.0, 50.0)))
    continuum *= 1.0 - np.exp(-((energy / 900.0) ** 2))  # the window absorbs what is soft
    argon = 5.0 * np.exp(-0.5 * ((energy - 2957.7) / _sigma(2957.7, 0.0)) ** 2)
    pile_up = 2e-4
    total: NDArray[np.float64] = continuum + argon + pile_up
    return total
