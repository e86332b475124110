"""The workers on this host that read frames out of the ingester's arena."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping
from functools import partial

from beamfold.model.events import Buffer
from beamfold.protocols.envelopes import Slot
from beamfold.transport.arena import Arena, process_of
from beamfold.transport.sockets import POLLIN, Poller


def _nothing(_: Buffer) -> None:
    return None


class Readers:
    """Who reads what. A process that ends gives up its leases: the poller is told to watch for it."""

    def __init__(self, arena: Arena | None, poller: Poller) -> None:
        self._arena = arena
        self._poller = poller
        self._processes: dict[bytes, int] = {}
        self._pids: dict[int, int] = {}

    def attach(self, peer: bytes, pid: int) -> None:
        """This worker maps the arena, says the process with this number."""
        old = self._processes.get(peer)
        if self._arena is None or (old is not None and self._pids[old] == pid):
            return
        if (process := process_of(pid)) is None:
            return
        self._processes[peer] = process
        self._pids[process] = pid
        self._poller.register(process, POLLIN)

    def lease(self, peer: bytes) -> Callable[[Buffer], Slot | None]:
        """What leases slots to a worker: none to one that does not map the arena."""
        process = self._processes.get(peer)
        return _nothing if process is None or self._arena is None else partial(self._arena.lease, reader=process)

    def let_go(self, peer: bytes, leases: bytes) -> None:
        """A worker gives leases back (int64 bytes)."""
        process = self._processes.get(peer)
        numbers = array("q")
        if process is not None and self._arena is not None and len(leases) % numbers.itemsize == 0:
            numbers.frombytes(leases)
            self._arena.give_back(process, numbers)

    def look(self, ready: Mapping[object, int]) -> None:
        """Take note of processes that have ended."""
        for process in [p for p in self._pids if p in ready]:
            self._poller.unregister(process)
            os.close(process)
            del self._pids[process]
            self._processes = {peer: p for peer, p in self._processes.items() if p != process}
            if self._arena is not None:
                self._arena.forget(process)
