"""Diffraction images to send: rings of a powder around the beam, with counting noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from beamfold.model.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RINGS = ((0.22, 1.0), (0.36, 0.6), (0.44, 0.8), (0.61, 0.35))
"""(radius, height) of the rings; radii in half the image's shorter side."""


def rings(
    shape: tuple[int, ...],
    dtype: str | np.dtype[Any] = "uint16",
    *,
    count: int = 1,
    seed: int = 0,
    peak: float = 40.0,
) -> NDArray[Any]:
    """`count` images of `shape` (the last two axes are rows and columns), stacked to (count, *shape) of
    `dtype`.

    `peak`: expected counts on the highest ring. The same arguments give the same pixels; images differ in
    their noise alone. Raises ConfigError for a dtype that is no number.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise ConfigError(f"unknown dtype {dtype!r}: use a NumPy name such as uint16 or float32") from error
    if kind.kind not in "uif":
        raise ConfigError(f"images of {kind} cannot be simulated: use integers or floats")
    expected = np.broadcast_to(peak * _profile(_radii(shape)), shape)
    noisy = np.random.default_rng(seed).poisson(expected, (count, *shape))
    limit = np.iinfo(kind).max if kind.kind in "ui" else np.inf
    return np.minimum(noisy, limit).astype(kind)


def _radii(shape: tuple[int, ...]) -> NDArray[np.float64]:
    rows, columns = shape[-2:] if len(shape) > 1 else (1, shape[0])
    y = np.arange(rows)[:, None] - (rows - 1) / 2
    x = np.arange(columns)[None, :] - (columns - 1) / 2
    radii: NDArray[np.float64] = np.hypot(y, x) * 2.0 / max(1, min(rows, columns))
    return radii if len(shape) > 1 else radii[0]


def _profile(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    profile = 0.15 * np.exp(-radii / 0.5)
    for radius, height in RINGS:
        profile = profile + height * np.exp(-0.5 * ((radii - radius) / 0.012) ** 2)
    return profile
