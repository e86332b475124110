"""Make the small recorded runs in this folder, with Beamfold's own simulators: `python dumps/make_dumps.py`.

They are deterministic, so making them again changes nothing but the time stamps of the internal dumps, which are fixed.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpWriter, RawWriter
from beamfold.testing.rings import rings
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, stins_series, xspress3_series

HERE = Path(__file__).parent
MADE = datetime(2026, 1, 1, tzinfo=UTC)
MESH = (4, 6)
FRAMES = 20


def raw(name: str, messages: Iterable[list[bytes]]) -> Path:
    """A raw capture, gzipped."""
    path = HERE / f"{name}.cbors.gz"
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        writer = RawWriter(packed)
        for message in messages:
            writer.write(message)
        writer.flush()
    return path


def internal(name: str, stream: str, messages: Iterable[list[bytes]]) -> Path:
    """An internal dump of one STINS stream: event 0 the start, the last event the end."""
    path = HERE / f"{name}.cbors"
    path.unlink(missing_ok=True)
    with DumpWriter(path) as writer:
        for number, message in enumerate(messages):
            writer.write(number, {stream: StreamData("STINS", message)}, MADE)
    return path


def entry(path: Path, kind: str, stream: str, protocol: str, shape: tuple[int, ...], dtype: str, events: int) -> str:
    """One table of the manifest."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return "\n".join(
        (
            f'["{path.name}"]',
            f'kind = "{kind}"',
            f'stream = "{stream}"',
            f'protocol = "{protocol}"',
            f"shape = {list(shape)}",
            f'dtype = "{dtype}"',
            f"events = {events}",
            'origin = "dumps/make_dumps.py"',
            f'sha256 = "{digest}"',
            "",
        )
    )


def main() -> None:
    """Write the dumps and their manifest."""
    sample = FluorescenceSample(MESH, counts=2000.0)
    points = range(sample.points)
    images = rings((32, 32), "uint16", count=FRAMES, seed=1)
    entries = [
        entry(
            raw("fluorescence-contrast", contrast_series(map(sample.readings, points))),
            "raw",
            "contrast",
            "contrast",
            (),
            "",
            sample.points,
        ),
        entry(
            raw("fluorescence-xspress3", xspress3_series(map(sample.spectrum, points))),
            "raw",
            "xspress3",
            "xspress3",
            (4, 4096),
            "uint32",
            sample.points,
        ),
        entry(
            internal("camera", "camera", stins_series(images)),
            "internal",
            "camera",
            "stins",
            (32, 32),
            "uint16",
            FRAMES,
        ),
        entry(
            internal("camera-bslz4", "camera", stins_series(images, compression="bslz4")),
            "internal",
            "camera",
            "stins",
            (32, 32),
            "uint16",
            FRAMES,
        ),
    ]
    header = "# What the files of this folder hold. Made by make_dumps.py; `events` counts data events.\n"
    (HERE / "MANIFEST.toml").write_text("\n".join([header, *entries]))


if __name__ == "__main__":
    main()
