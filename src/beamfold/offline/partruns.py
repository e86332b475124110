"""Where a part is in lists of runs, as recordings have them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence


class PartRuns:
    """Finds which of several lists of runs (k, lo, hi), disjoint, a part is in."""

    def __init__(self, lists: Iterable[Sequence[tuple[int, int, int]]]) -> None:
        runs = sorted((k, lo, hi, number) for number, parts in enumerate(lists) for k, lo, hi in parts)
        self._begins = [(k, lo) for k, lo, _, _ in runs]
        self._ends = [(hi, number) for _, _, hi, number in runs]

    def __bool__(self) -> bool:
        return bool(self._begins)

    def find(self, event: int, k: int) -> int | None:
        """The number of the list, None where none has this part."""
        at = bisect_right(self._begins, (k, event)) - 1
        if at < 0 or self._begins[at][0] != k:
            return None
        hi, number = self._ends[at]
        return number if event < hi else None
