"""Whether a recording replays to the state that was published live: the proof, or where it fails.

Both states are compared as HDF5 files, which is how the live one was kept. What the reducer's `timer()` publishes is
left out, because it ran when it liked: that is seen by calling it once after the replay. The results that led to the
state are compared by the digests that were recorded, so that the first events which came out otherwise can be named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from beamfold.app.calling import USER_ERRORS, user_traceback
from beamfold.model.bitmaps import Bitmap, listed
from beamfold.model.errors import ConfigError
from beamfold.model.report import ScanReport
from beamfold.model.runs import Run, RunSet, shown
from beamfold.offline.digests import Digests, first_event
from beamfold.offline.recorded import RecordedReplay
from beamfold.offline.replay import play_through, playing
from beamfold.protocols.recordings import REPORT, RESULT, Logged, Recording, read_recording
from beamfold.publish.compare import Difference, compare
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.tree import snapshot

NAMES = ("live", "replayed")

MAX_DIFFERENCES = 20
"""Differing leaves that are named."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. `leaves` were compared, without those in `left_out`; `differences` are those that differ.

    `states` says which event did not end in the same state, "" if all did, and `first` where the two scans part: the
    first events that came out otherwise, or why that cannot be told; "" where they do not. `batches` of results had the
    digest that was recorded.
    """

    report: ScanReport
    leaves: int
    left_out: list[str]
    differences: list[Difference]
    states: str
    first: str
    batches: int

    @property
    def same(self) -> bool:
        """Whether the published state and the states of the events are those of the live scan."""
        return not self.differences and not self.states

    def lines(self) -> Iterator[str]:
        """All of it, for a terminal."""
        leaves = _count(self.leaves, "leaf", "leaves")
        if self.same:
            yield (
                f"the same: {leaves} of the published state, the states of {_count(self.report.events, 'event')}, and "
                f"the results in {_count(self.batches, 'batch', 'batches')} are those of the live scan"
            )
        else:
            yield f"not the same: {len(self.differences)} of {leaves} of the published state differ"
            yield from (f"  {difference.path}: {difference.text}" for difference in self.differences[:MAX_DIFFERENCES])
            if (more := len(self.differences) - MAX_DIFFERENCES) > 0:
                yield f"  and {more} more"
        if self.states and self.states not in self.first:
            yield self.states
        if self.left_out:
            shown = ", ".join(self.left_out[:MAX_DIFFERENCES])
            more = len(self.left_out) - MAX_DIFFERENCES
            also = f" and {more} more" if more > 0 else ""
            yield f"left out: {shown}{also}, which timer() publishes: a call of it after the replay changed them"
        if self.first:
            yield self.first


def verify_recording(
    folder: Path,
    app: tuple[str, str] | None = None,
    parameters: Path | None = None,
    output: Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Verdict:
    """Run a recorded scan again, as `replay_recording` does, and compare what it publishes with what was published.

    Raises BeamfoldError for what makes that impossible, also where the recording has no result to compare with.
    """
    recording = read_recording(folder)
    result, live = folder / RESULT, recording.report
    if live is None or not result.is_file():
        missing = REPORT if live is None else RESULT
        raise ConfigError(f"{folder} has no {missing}: the scan was not recorded to its end, nothing can be compared")
    with (
        tempfile.TemporaryDirectory(prefix="beamfold-verify-") as name,
        playing(recording, app, parameters, processes) as (player, steps),
    ):
        digests = player.compare()
        report = play_through(player, steps, live.events, output, progress)
        digests.finish()
        replayed = Path(name) / "replayed.h5"
        write_hdf5(replayed, snapshot(player.publish))
        try:
            found = compare(result, replayed, NAMES)
        except OSError as error:
            raise ConfigError(f"{result} cannot be read: {error}") from None
        left_out = _by_timer(player, replayed, Path(name) / "later.h5")
    differences = [difference for difference in found.differences if difference.path not in left_out]
    event, states = _states(live, report)
    first = ""
    if differences or states or digests.differing:
        first = _first(recording, digests, event, states, bool(differences))
    leaves = found.leaves - sum(not path.endswith("/") for path in left_out)
    return Verdict(report, leaves, sorted(left_out), differences, states, first, digests.same)


def _by_timer(player: RecordedReplay, before: Path, after: Path) -> set[str]:
    """The leaves that a call of `timer()` changes."""
    try:
        if not player.call_timer():
            return set()
    except USER_ERRORS as error:
        player.report.troubles.append(f"timer() raised, so what it publishes is not known: {user_traceback(error)}")
    write_hdf5(after, snapshot(player.publish))
    return {difference.path for difference in compare(before, after, NAMES).differences}


class _Listing(Protocol):
    """What a report says of the states of its events."""

    states: dict[str, int]
    runs: dict[str, list[Run]]
    bitmaps: dict[str, Bitmap]


def _states(live: _Listing, here: _Listing) -> tuple[int | None, str]:
    """The first event that did not end in the same state as live, as far as that is known, and what it is."""
    labels = {*live.runs, *live.bitmaps, *here.runs, *here.bitmaps}
    parted = [event for label in sorted(labels) if (event := _parting(label, live, here)) is not None]
    if parted:
        event = min(parted)
        return event, f"event {event} was {_state(event, live)} live, and {_state(event, here)} in the replay"
    if live.states == here.states:
        return None, ""
    return None, f"live there were {_listed(live.states)}, in the replay {_listed(here.states)}"


def _parting(label: str, live: _Listing, here: _Listing) -> int | None:
    """The first event that is in this state in only one of them."""
    if label in live.bitmaps or label in here.bitmaps:
        ours, theirs = (listed(label, report.runs, report.bitmaps) for report in (live, here))
        apart = np.setxor1d(ours, theirs, assume_unique=True)
        return int(apart[0]) if len(apart) else None
    first, second = RunSet(live.runs.get(label, ())), RunSet(here.runs.get(label, ()))
    alone = [n for a, b in ((first, second), (second, first)) for n in _alone(a, b)]
    return min(alone, default=None)


def _alone(runs: RunSet, without: RunSet) -> Iterator[int]:
    """The first number of each run that is not in `without`."""
    for lo, hi in runs.runs():
        at = lo
        for a, b in without.overlap(lo, hi):
            if at < a:
                break
            at = b
        if at < hi:
            yield at


def _state(event: int, report: _Listing) -> str:
    runs = next((label for label, found in report.runs.items() if any(lo <= event < hi for lo, hi in found)), None)
    bitmaps = (label for label, bitmap in report.bitmaps.items() if event in bitmap.numbers())
    return runs or next(bitmaps, "in order")


def _first(recording: Recording, digests: Digests, event: int | None, states: str, differs: bool) -> str:
    """Where the live scan and its replay part."""
    batch = digests.differing[0] if digests.differing else None
    if states and (batch is None or (event is not None and event <= first_event(batch))):
        return f"the first difference: {states}"
    if batch is not None:
        text = f"the first difference: another result of {_among(recording, digests.differing)}"
        return text if differs or states else f"{text}, though it changed nothing that is published"
    if not recording.logged:
        return "from which event on they differ is not known: this recording has no digests of results"
    alone = f", but for {_count(digests.without, 'batch', 'batches')} without a digest" if digests.without else ""
    order = ""
    if recording.policy.fold_order == "arrival":
        order = " They were folded as they arrived live, in event order here."
    elif recording.report and recording.report.out_of_order:
        lo, _ = recording.report.out_of_order[0]
        order = f" Event {lo} was folded before an earlier one live, in event order here."
    return (
        f"the results of all events are those of the live scan{alone}: it is the reducer that makes another state of "
        f"them. Was it changed, or does it look at the clock or at what is not in the results?{order}"
    )


def _among(recording: Recording, batches: Sequence[Logged]) -> str:
    """Where the first event is that came out otherwise, if in each of these batches at least one did."""
    lo = first_event(batches[0])
    hi = min(max(hi for _, _, hi in batch.parts) for batch in batches)
    near = [batch for batch in batches if first_event(batch) < hi]
    parts = [(max(lo, a), min(hi, b)) for batch in near for _, a, b in batch.parts]
    events, where = RunSet(parts), sorted({recording.workers[batch.worker][0] for batch in near})
    which = f"event {lo}" if events.total == 1 else f"one of the {events.total} events {shown(events.runs())}"
    return f"{which}, at {' or '.join(where)}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _listed(states: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {label}" for label, n in states.items()) or "none"


__all__ = ["Verdict", "verify_recording"]
