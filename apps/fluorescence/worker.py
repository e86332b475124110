"""Map: one spectrum and one position in, the counts in the regions of interest out."""

from __future__ import annotations

from typing import Any

from beamfold.model.events import EventData
from beamfold.model.parameters import IntParameter, JsonParameter, ParameterBase

ROIS = ("roi1", "roi2", "roi3")


class FluorescenceWorker:
    """Sums regions of an Xspress3 spectrum at the position that Contrast reports."""

    @staticmethod
    def describe_parameters() -> list[ParameterBase]:
        more = "another region of bins, [] when not used"
        return [
            JsonParameter(
                name="roi1",
                description="first bin of the region and the one behind its last (iron's Kα line)",
                default=[630, 651],
            ),
            JsonParameter(name="roi2", description=more),
            JsonParameter(name="roi3", description=more),
            IntParameter(name="channel", description="detector element whose spectrum is used", default=3),
        ]

    def process_event(self, event: EventData, parameters: Any = None) -> dict[str, Any] | None:
        if not {"contrast", "xspress3"} <= event.streams.keys():
            return None  # the report names this event as incomplete
        contrast = event.streams["contrast"].parse()
        if contrast.status != "running":
            return None  # the start and the end of a scan
        spectra = event.streams["xspress3"].array()
        spectrum = spectra[channel_of(parameters, len(spectra))]
        rois = {name: region_of(parameters[name]) for name in ROIS if len(parameters[name])}
        return {
            "position": (float(contrast.pseudo["x"][0]), float(contrast.pseudo["y"][0])),
            "concentrations": {name: int(spectrum[lo:hi].sum()) for name, (lo, hi) in rois.items()},
        }


def channel_of(parameters: Any, channels: int) -> int:
    channel: int = parameters["channel"].value
    if not 0 <= channel < channels:
        raise ValueError(f"parameter 'channel' is {channel}, but the detector has channels 0 to {channels - 1}")
    return channel


def region_of(parameter: Any) -> tuple[int, int]:
    """A region as (first bin, bin behind the last)."""
    try:
        lo, hi = (int(edge) for edge in parameter)
    except (TypeError, ValueError):
        raise ValueError(f"parameter {parameter.name!r} must be [first, last + 1], e.g. [630, 651]") from None
    if not 0 <= lo < hi:
        raise ValueError(f"parameter {parameter.name!r} is [{lo}, {hi}]; it must rise and not begin below 0")
    return lo, hi
