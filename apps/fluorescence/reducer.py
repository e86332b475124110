"""Reduce: points in, a map out that grows with the scan."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from beamfold.model.events import ResultData
from beamfold.model.parameters import FloatParameter, ParameterBase

MAX_LINES = 2000
"""Rows or columns of the image; a scan with more different positions than that is no mesh."""


class FluorescenceReducer:
    """Publishes the map twice: `map` has every point at its exact position, `image` is a regular array.

    The image is NXdata with axes x and y, and what viewers plot first. It grows by a row or a column where a
    point lies further than `resolution` from all there are, so it needs to know nothing about the scan beforehand.
    """

    @staticmethod
    def describe_parameters() -> list[ParameterBase]:
        return [
            FloatParameter(
                name="resolution",
                description="positions that differ by less (in µm) are in one row or column of the image",
                default=0.02,
            )
        ]

    def __init__(self, parameters: Any = None, **kwargs: Any) -> None:
        self.image = Image(parameters["resolution"].value if parameters else 0.02)
        self.publish: dict[str, Any] = {
            "_attrs": {"default": "image"},
            "map": {},
            "image": self.image.published,
            "image_attrs": NXDATA,
        }

    def process_result(self, result: ResultData, parameters: Any = None) -> None:
        if not result.payload:
            return
        position, counts = result.payload["position"], result.payload["concentrations"]
        self.publish["map"][position] = counts
        self.image.put(*position, counts)


NXDATA = {"NX_class": "NXdata", "signal": "roi1", "axes": ["x", "y"]}


class Image:
    """One array of shape (len(x), len(y)) float64 per region of interest; NaN where no point was measured."""

    def __init__(self, resolution: float) -> None:
        self._resolution = resolution
        self.published: dict[str, Any] = {
            "x": np.empty(0),
            "y": np.empty(0),
            "x_attrs": {"units": "um"},
            "y_attrs": {"units": "um"},
        }
        self._rois: list[str] = []

    def put(self, x: float, y: float, counts: dict[str, int]) -> None:
        for name in counts.keys() - set(self._rois):
            self._rois.append(name)
            self.published[name] = np.full((len(self.published["x"]), len(self.published["y"])), np.nan)
            self.published[f"{name}_attrs"] = {"units": "counts"}
        i, j = self._line("x", 0, x), self._line("y", 1, y)
        if i is not None and j is not None:
            for name, count in counts.items():
                self.published[name][i, j] = count

    def _line(self, name: str, axis: int, position: float) -> int | None:
        """The row or column of a position, made where there is none yet; None when there are too many."""
        positions = self.published[name]
        at = bisect_left(positions, position)
        near = [i for i in (at - 1, at) if 0 <= i < len(positions)]
        best = min(near, key=lambda i: abs(positions[i] - position), default=None)
        if best is not None and abs(positions[best] - position) <= self._resolution:
            return best
        if len(positions) >= MAX_LINES:
            return None
        self.published[name] = np.insert(positions, at, position)
        for roi in self._rois:
            self.published[roi] = np.insert(self.published[roi], at, np.nan, axis=axis)
        return at
