"""The picture that the simulated fluorescence map shows: where in a leaf which element is.

Functions of the position alone, so that the picture is the same at every resolution; only the iron grains
depend on the seed. Plants make good examples: calcium draws the veins, potassium fills the tissue, iron sits
in grains, zinc gathers at the tip, and anybody sees at once whether the axes are swapped or a line of points
is shifted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TILT = np.deg2rad(35.0)
_TIP = 0.92  # half the leaf's length; the map reaches from -1 to 1 on both axes
_GRAINS = 14


def leaf(nx: int, ny: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Amounts between 0 and 1 of K, Ca, Fe, Zn and of scattering matter, each of shape (nx, ny) float64.

    The first axis is x. The leaf lies along a diagonal, its tip at large x and y, which is not symmetric
    under any exchange of the axes' directions.
    """
    x = np.linspace(-1.0, 1.0, nx)[:, None] if nx > 1 else np.zeros((1, 1))
    y = np.linspace(-1.0, 1.0, ny)[None, :] if ny > 1 else np.zeros((1, 1))
    along = x * np.cos(_TILT) + y * np.sin(_TILT)
    across = y * np.cos(_TILT) - x * np.sin(_TILT)
    inside = _outline(along, across)
    veins = inside * _veins(along, across)
    tip = np.clip((along + 0.1) / _TIP, 0.0, 1.0) ** 2
    maps = {
        "K": inside * (0.55 + 0.25 * np.cos(3.0 * along) * np.cos(4.0 * across)),
        "Ca": np.clip(0.08 * inside + veins + _stalk(along, across), 0.0, 1.0),
        "Fe": inside * (0.04 + 0.96 * _grains(along, across, seed)),
        "Zn": inside * (0.06 + 0.8 * tip),
        "scatter": 0.5 + 0.4 * inside,
    }
    return {name: np.clip(amount, 0.0, 1.0) for name, amount in maps.items()}


def _outline(along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 in the leaf, 0 outside, with an edge a few hundredths wide; broadest behind the middle."""
    t = np.clip((along + _TIP) / (2 * _TIP), 0.0, 1.0)
    half_width = 0.95 * t**0.7 * (1.0 - t)
    rim = np.clip((half_width - np.abs(across)) / 0.03, -30.0, 30.0)
    inside: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-4.0 * rim))
    return np.where((t > 0.0) & (t < 1.0), inside, 0.0)


def _veins(along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    veins = np.exp(-((across / 0.025) ** 2))
    for root in np.linspace(-0.7, 0.5, 7):
        # Side veins leave the midrib forwards on both sides and get thinner towards the rim.
        distance = (along - root - 0.9 * np.abs(across)) / (0.028 + 0.01 * np.abs(across))
        veins = veins + 0.75 * np.exp(-(distance**2)) * np.exp(-np.abs(across))
    return veins


def _stalk(along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.8 * np.exp(-((across / 0.03) ** 2)) * ((along > -1.25) & (along < -_TIP + 0.05))


def _grains(along: NDArray[np.float64], across: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, 26])
    grains = np.zeros(np.broadcast_shapes(along.shape, across.shape))
    for a, b, size in zip(
        rng.uniform(-0.7, 0.6, _GRAINS),
        rng.uniform(-0.22, 0.22, _GRAINS),
        rng.uniform(0.025, 0.06, _GRAINS),
        strict=True,
    ):
        grains += np.exp(-((along - a) ** 2 + (across - b) ** 2) / size**2)
    return grains
