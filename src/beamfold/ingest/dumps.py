"""The dumps of one scan at one ingester: which files there are, and writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from beamfold.ingest.machine import Dump
from beamfold.model.events import StreamData
from beamfold.protocols.dumps import DumpWriter
from beamfold.protocols.messages import Arm
from beamfold.protocols.recordings import dump_name, next_dump


def dump_paths(arm: Arm, ingester: str, streams: Sequence[str]) -> dict[str, list[Path]]:
    """The files that each of these streams is dumped to: one of the scan's recording, and one beside its `dump_prefix`.

    The latter has the name that dranspose gives it, `PREFIX` + `INGESTER-SCAN.cbors`; only where one ingester has
    several streams, `INGESTER-STREAM-SCAN.cbors`, because an event may be in a file only once.
    """
    found: dict[str, list[Path]] = {name: [] for name in streams}
    for name, paths in found.items():
        if arm.record:
            paths.append(Path(arm.record) / dump_name(name))
        if arm.dump_prefix:
            who = ingester if len(streams) == 1 else f"{ingester}-{dump_name(name).removesuffix('.cbors')}"
            paths.append(Path(f"{arm.dump_prefix}{who}-{arm.scan_id}.cbors"))
    return found


class Dumps:
    """Open dumps. `streams` are (name, type) by their number in the map.

    The files are made at once, with their folders, so that what would hinder it is known before the scan; one that
    stays empty is taken away again. With `go_on` another ingester may have begun them, and was killed perhaps in the
    middle of an event: what comes now is in files of its own. Raises OSError here and wherever something is written.
    """

    def __init__(
        self, streams: Mapping[int, tuple[str, str]], paths: Mapping[str, Sequence[Path]], *, go_on: bool = False
    ) -> None:
        self._streams = dict(streams)
        if go_on:
            paths = {name: [next_dump(p) if p.exists() else p for p in each] for name, each in paths.items()}
        self._paths = [path for each in paths.values() for path in each]
        self._writers: dict[int, list[DumpWriter]] = {}
        with ExitStack() as opened:
            for index, (name, _) in self._streams.items():
                for path in paths[name]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = opened.enter_context(DumpWriter(path))
                    self._writers.setdefault(index, []).append(writer)
            opened.pop_all()

    def write(self, dump: Dump) -> None:
        """Append these frames, as they arrived now, and hand them over to the system: nobody has a frame that the death
        of this process takes from its dump."""
        name, typ = self._streams[dump.stream]
        now = datetime.now(UTC)
        for writer in self._writers.get(dump.stream, ()):
            for event, frame in zip(dump.events.tolist(), dump.frames, strict=True):
                writer.write(event, {name: StreamData.of(typ, frame)}, now)
            writer.flush()

    def close(self) -> None:
        """Flush and close, all of them even where one fails."""
        with ExitStack() as closing:
            for writer in self._all():
                closing.callback(writer.close)
        for path in self._paths:
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()

    def _all(self) -> list[DumpWriter]:
        return [writer for each in self._writers.values() for writer in each]
