"""The first event whose state differs is found, whether a report lists its events in runs or in bitmaps."""

from __future__ import annotations

import numpy as np
import pytest

from beamfold.model.bitmaps import Bitmap
from beamfold.model.report import ScanReport
from beamfold.offline.verify import _states


def told(failed: list[int], *, bits: bool, lost: list[int] | None = None) -> ScanReport:
    report = ScanReport("id", 1, events=20)
    lists = {"failed": failed, "lost": lost or []}
    report.states = {"reduced": 20 - sum(map(len, lists.values())), **{s: len(e) for s, e in lists.items() if e}}
    for state, events in lists.items():
        if events and bits:
            mask = np.zeros(20, np.bool_)
            mask[np.array(events) - 1] = True
            report.bitmaps[state] = Bitmap.of(1, mask)
        elif events:
            report.runs[state] = [(e, e + 1) for e in events]
    return report


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("here", [True, False])
def test_states_are_compared_however_they_are_listed(live: bool, here: bool) -> None:
    same = [1, 3, 9]
    assert _states(told(same, bits=live), told(same, bits=here)) == (None, "")
    event, text = _states(told(same, bits=live), told([1, 9], bits=here, lost=[3]))
    assert (event, text) == (3, "event 3 was failed live, and lost in the replay")
    event, text = _states(told(same, bits=live), told([1, 3, 9, 15], bits=here))
    assert (event, text) == (15, "event 15 was in order live, and failed in the replay")
