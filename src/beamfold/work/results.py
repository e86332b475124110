"""Finished parts on their way to the reducer, collected into one batch."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from beamfold.model.events import Buffer
from beamfold.model.states import EventState
from beamfold.protocols.envelopes import ResultBatch, encode_header, pack_events, pack_positions
from beamfold.protocols.stamps import Times
from beamfold.work.machine import Part

MAX_TEXT = 8192
"""Characters of one traceback that travel; the end of a traceback is the part that says what went wrong."""


class Unconfirmed:
    """Envelopes of results that were sent, until the reducer says that they are in its log.

    It says so by giving their bytes of credit back, in the order in which they came; so the credit bounds what is kept.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[list[Buffer], int]] = deque()
        self._confirmed = 0

    def add(self, envelope: list[Buffer], size: int) -> None:
        """An envelope of `size` bytes was sent."""
        self._sent.append((envelope, size))

    def confirm(self, nbytes: int) -> None:
        """So many more bytes are in the log."""
        self._confirmed += nbytes
        while self._sent and self._confirmed >= self._sent[0][1]:
            self._confirmed -= self._sent.popleft()[1]

    def again(self) -> list[tuple[list[Buffer], int]]:
        """What has to be sent to another reducer, in this order."""
        self._confirmed = 0
        return list(self._sent)


class ResultBuffer:
    """Collects what became of parts; `take` makes an envelope of it and starts anew."""

    def __init__(self, scan: int, worker: int) -> None:
        self._scan = scan
        self._worker = worker
        self._reset()

    def _reset(self) -> None:
        self.events: list[int] = []
        self._ks: list[int] = []
        self._states = bytearray()
        self._sizes = array("I")
        self._blob: list[bytes] = []
        self.buffers: list[Buffer] = []
        self._failures: list[tuple[int, str, str]] = []
        self._missing: list[tuple[int, int]] = []
        self._combined: list[tuple[int, int]] = []
        self._version = 0
        self.ticks: list[int] = []

    def __len__(self) -> int:
        return len(self.events)

    def add(self, event: int, k: int, version: int, state: int, body: bytes, missing: int) -> None:
        """A part is finished. `body` is its encoded result, empty for nothing to reduce."""
        if missing:
            self._missing.append((len(self.events), missing))
        if version > self._version:
            self._version = version
        self.events.append(event)
        self._ks.append(k)
        self._states.append(state)
        self._sizes.append(len(body))
        self._blob.append(body)

    def add_combined(self, parts: Sequence[Part], body: bytes) -> None:
        """These parts are finished, with one result for all of them; they ascend by event and k."""
        events, ks, _, missing, versions, _, _, _ = zip(*parts, strict=True)
        at, n = len(self.events), len(parts)
        if n > 1:
            self._combined.append((at, at + n))
        if any(missing):
            self._missing += [(i, bits) for i, bits in enumerate(missing, at) if bits]
            self._states += bytes(EventState.INCOMPLETE if bits else EventState.REDUCED for bits in missing)
        else:
            self._states += bytes((EventState.REDUCED,)) * n
        self._version = max(self._version, *versions)
        self.events += events
        self._ks += ks
        self._sizes.append(len(body))
        self._sizes.frombytes(bytes(self._sizes.itemsize * (n - 1)))
        self._blob.append(body)

    def fail(self, part: Part, hook: str, text: str) -> None:
        """`hook` raised for a part, or returned what cannot travel."""
        shown = text if len(text) <= MAX_TEXT else "…" + text[-MAX_TEXT:]
        self._failures.append((len(self.events), hook, shown))
        self.add(part.event, part.k, part.version, EventState.FAILED, b"", part.missing)

    @property
    def failed(self) -> int:
        """How many of the parts failed."""
        return len(self._failures)

    def take(self, times: Times | None = None) -> tuple[list[Buffer], int]:
        """The envelope of all that was collected, and its size in bytes; `times` are those of its parts."""
        first = self._states[0]
        same = self._states.count(first) == len(self._states)
        header = ResultBatch(
            self._scan,
            self._worker,
            len(self.events),
            self._version,
            pack_events(np.array(self.events, dtype=np.int64)),
            pack_positions(np.array(self._ks, dtype=np.int16)),
            int(first) if same else bytes(self._states),
            self._sizes.tobytes(),
            self._failures,
            self._missing,
            self.ticks,
            self._combined,
            times,
        )
        parts: list[Buffer] = [encode_header(header), b"".join(self._blob), *self.buffers]
        self._reset()
        return parts, sum(map(len, parts))


class JoinedBuffer(ResultBuffer):
    """Those of a worker that joined in mid-scan: nobody waits for what it makes of broadcasts, so that is left out.

    Where user code raises for one, `tell` is told so the first time.
    """

    def __init__(self, scan: int, worker: int, tell: Callable[[str], None]) -> None:
        super().__init__(scan, worker)
        self._tell: Callable[[str], None] | None = tell

    def add(self, event: int, k: int, version: int, state: int, body: bytes, missing: int) -> None:
        if k >= 0:
            super().add(event, k, version, state, body, missing)

    def fail(self, part: Part, hook: str, text: str) -> None:
        if part.k >= 0:
            super().fail(part, hook, text)
        elif self._tell is not None:
            self._tell(f"{hook} failed for event {part.event}, which is broadcast: {text[-MAX_TEXT:]}")
            self._tell = None
