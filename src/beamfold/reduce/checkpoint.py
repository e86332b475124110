"""Checkpoints of a reducer: the state of the app's object, and how far the result log is folded into it.

A checkpoint is a log of one record in a folder of its own beside the result log, which appears as a whole. What is in
it counts for nothing unless it is of the same scan, of the same files of the app, and of a result log that has all
that it has; the log outranks it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.app.hooks import ReducerHooks
from beamfold.app.modules import file_of
from beamfold.ledger.segmentlog import Location, LogFull, SegmentLog
from beamfold.model.errors import BeamfoldError, ConfigError
from beamfold.model.events import Buffer
from beamfold.protocols.codec import TypeTable
from beamfold.protocols.messages import Failure, Run
from beamfold.reduce.state import Unsaveable, decode_state, encode_state, give_state, state_of
from beamfold.reduce.told import Sum

logger = logging.getLogger(__name__)

FORMAT = 1

SHARE = 20
"""A checkpoint is followed by this many times the time that it took, in which none is made: 5 % of the time at most."""

KEEP = 2
"""Checkpoints that are kept: one may be damaged."""

FREE = 20
"""A checkpoint is not made where it would take the disk's last 1/FREE, which the result log may need."""

_PREFIX = "checkpoint."
_PART = "part"

Unfolded = tuple[int, int, bytes]
"""Where a batch is in the log (segment, offset), and places of its parts (int32)."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """What belongs to a state; everything in the log before `log` is in it, but for what is not folded yet.

    That is `handed` by the machine already, in this order, or `held` by it. `events` is how many the map had then,
    `tracker` its parts that were done, `told` what the controller knew. `files` of the app, with their digests.
    """

    format: int
    software: str
    scan_id: str
    files: dict[str, str]
    log: tuple[int, int]
    handed: list[Unfolded]
    held: list[Unfolded]
    out_of_order: list[Run]
    failures: list[Failure]
    failed: list[Run]
    folded: int
    events: int | None
    tracker: dict[str, Any]
    told: Sum

    @property
    def end(self) -> Location:
        """Where the log's tail begins."""
        return Location(*self.log)

    def left(self) -> Counter[Location]:
        """How many parts of which batches before that are not folded."""
        found: Counter[Location] = Counter()
        for location, places in places_of([*self.handed, *self.held]):
            found[location] += len(places)
        return found


def places_of(unfolded: Iterable[Unfolded]) -> list[tuple[Location, NDArray[np.intp]]]:
    """Batches by where they are in the log, with places of their parts, in the same order."""
    return [(Location(segment, offset), np.frombuffer(p, "<i4").astype(np.intp)) for segment, offset, p in unfolded]


def unfolded(location: Location, places: Sequence[int]) -> Unfolded:
    """Undo `places_of`, for one batch."""
    return (*location, np.array(places, "<i4").tobytes())


def files_of(types: TypeTable) -> dict[str, str]:
    """The files of an app's modules, each with its digest."""
    files = filter(None, (file_of(sys.modules[name]) for name in types if name in sys.modules))
    return {file: _digest(file) for file in sorted(files)}


def _digest(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def write_whole(path: Path, frames: Sequence[Buffer]) -> None:
    """Write frames into a folder that appears as a whole, and replaces one that is there. Raises OSError, LogFull."""
    part = path.with_name(f"{path.name}.{_PART}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with SegmentLog(part) as log:
            log.append(frames)
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_whole(path: Path) -> list[bytes]:
    """The frames again. Raises OSError, BeamfoldError where they are damaged or not all there."""
    with SegmentLog(path, readonly=True) as log:
        for _, frames in log.records():
            return frames
    raise ConfigError(f"{path} is empty")


class Checkpoints:
    """Those of one scan, in the `folder` of its result log: made when they are due, in a thread of their own.

    `files` are those of the app with their digests; between two checkpoints are `pause` seconds at least. `outside` are
    objects that belong to the process, not to the state. A state that cannot be saved is said once, and none is made.
    """

    def __init__(
        self,
        folder: Path,
        scan_id: str,
        hooks: ReducerHooks,
        types: TypeTable,
        outside: Sequence[object],
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._scan_id = scan_id
        self._hooks = hooks
        self._types = types
        self._outside = outside
        self._pause = pause
        self._clock = clock
        self._software = version("beamfold")
        self._files = files_of(types)
        self._next = clock() + pause
        self._at: object = None
        self._writer: threading.Thread | None = None
        self._complained = False

    def stamp(self) -> tuple[int, str, str, dict[str, str]]:
        """What a checkpoint begins with, so that it is known whose it is."""
        return FORMAT, self._software, self._scan_id, self._files

    def due(self, at: object) -> bool:
        """Whether a checkpoint should be made, `at` this point of the scan."""
        return self._clock() >= self._next and at != self._at

    def save(self, at: object, lock: threading.Lock, make: Callable[[], Checkpoint]) -> None:
        """Make one, `at` this point of the scan, unless the app's `timer()` is running and holds the `lock`."""
        if not lock.acquire(blocking=False):
            return
        began = self._clock()
        try:
            with self._hooks.publish_rlock:
                frames = encode_state(self._state(), self._types, self._outside)
        except Unsaveable as error:
            self._give_up(str(error))
            return
        except USER_ERRORS as error:
            self._give_up(user_traceback(error))
            return
        finally:
            lock.release()
        self._at = at
        frames.insert(0, msgspec.msgpack.encode(make()))
        self.wait()
        spent, self._next = self._clock() - began, float("inf")
        self._writer = threading.Thread(target=self._write, args=(frames, spent), name="checkpoint", daemon=True)
        self._writer.start()

    def _state(self) -> Any:
        if self._hooks.checkpoint is not None:
            return self._hooks.checkpoint()
        state = state_of(self._hooks.instance)
        for name, value in state.items():
            if isinstance(value, dict) and value and any(value is obj for obj in self._outside):
                raise Unsaveable(f"state[{name!r}]: what is in the context belongs to no scan")
        return state

    def _give_up(self, reason: str) -> None:
        self._next = float("inf")
        logger.warning(
            "the reducer's state cannot be saved, so that another reducer would fold all results again; %s\n"
            "write `checkpoint` and `restore` for what cannot be kept as it is",
            reason,
        )

    def _write(self, frames: list[Buffer], spent: float) -> None:
        began = self._clock()
        known = self._paths()
        try:
            self._refuse_to_fill(sum(map(len, frames)))
            write_whole(self._folder / f"{_PREFIX}{_number(known[-1]) + 1 if known else 1:010d}", frames)
            for old in known[: 1 - KEEP]:
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, BeamfoldError) as error:
            if not self._complained:
                logger.warning("a checkpoint could not be written: %s", error)
            self._complained = True
        now = self._clock()
        self._next = now + max(self._pause, SHARE * (spent + now - began))

    def _refuse_to_fill(self, size: int) -> None:
        disk = shutil.disk_usage(self._folder)
        if disk.free - size < disk.total // FREE:
            raise LogFull(f"{self._folder} has only {disk.free >> 20} MiB left; make room on that disk")

    def restore(self, end: Location, construct: Callable[[], object]) -> Checkpoint | None:
        """Give the object the newest state that is of use, of a log that has this end; None where there is none.

        The object is constructed anew where it may have taken up only part of a state. Raises AppError for that.
        """
        for part in self._folder.glob(f"{_PREFIX}*.{_PART}"):
            shutil.rmtree(part, ignore_errors=True)
        for path in reversed(self._paths()):
            try:
                head, state = self._read(path, end)
            except (BeamfoldError, OSError) as error:
                logger.warning("%s is not used: %s", path, error)
                continue
            try:
                if self._hooks.restore is not None:
                    self._hooks.restore(state)
                else:
                    give_state(self._hooks.instance, state)
            except USER_ERRORS as error:
                logger.warning("%s is not used: %s", path, user_traceback(error))
                construct()
                continue
            return head
        return None

    def _read(self, path: Path, end: Location) -> tuple[Checkpoint, Any]:
        frames = read_whole(path)
        try:
            head = msgspec.msgpack.decode(frames[0], type=Checkpoint)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"it is not a checkpoint of this version: {error}") from None
        if (head.format, head.software, head.scan_id) != (FORMAT, self._software, self._scan_id):
            raise ConfigError("it is of another scan, or of another version of Beamfold")
        if changed := [file for file, digest in head.files.items() if _digest(file) != digest]:
            raise ConfigError(f"{changed[0]} was changed since")
        if head.end > end:
            raise ConfigError("the result log does not reach as far as it does")
        return head, decode_state(frames[1:], self._types, self._outside)

    def _paths(self) -> list[Path]:
        """The folders of checkpoints, oldest first."""
        return sorted(self._folder.glob(f"{_PREFIX}{'[0-9]' * 10}"))

    def wait(self) -> None:
        """Until what is being written has been."""
        if self._writer is not None:
            self._writer.join()

    def stop(self) -> None:
        """Make no more of them."""
        self.wait()
        self._next = float("inf")


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))
