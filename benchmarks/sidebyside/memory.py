"""How much memory the processes of a system take."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from sidebyside.processes import cpu_seconds

PERIOD_S = 0.5

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def resident_mib(pids: Iterable[int]) -> float:
    """What these processes hold in memory together, in MiB; pages that several of them share count once."""
    return sum(map(_pss_kib, pids)) / 1024


def _pss_kib(pid: int) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return 0  # it ended while we looked
    return int(found[1]) if found else 0


class Memory:
    """Context manager: looks at the memory of some processes, and all below them, again and again."""

    def __init__(self, roots: Callable[[], Iterable[int]]) -> None:
        self._roots = roots
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.most = resident_mib(cpu_seconds(roots()))

    def _watch(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        self.most = max(self.most, resident_mib(cpu_seconds(self._roots())))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._look()
