"""The controller service: sockets and store around the controller machine, on one asyncio loop."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog

from beamfold.dispatch.actions import Action, Logged, Note, RecordParameters, RecordScan, Reply, Send
from beamfold.dispatch.entries import Entry, cut
from beamfold.dispatch.files import FileWriter, WriteFile
from beamfold.dispatch.journal import Away, LedgerWriter
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.notes import Notes
from beamfold.dispatch.resumption import written_map
from beamfold.dispatch.scan import Plan
from beamfold.ledger.base import Ledger
from beamfold.model.errors import ConfigError, LedgerUnavailable, ScanError
from beamfold.model.triggermap import TriggerMap, WrittenMap
from beamfold.transport.control import ControlHub

FILES_PATIENCE = 5.0
"""Seconds that the report of an ended scan waits for its recording to be on the disk."""

TICK = 0.05
"""Seconds between ticks of the machine, and the longest that a message on the control channel can go unseen."""

LEASE = 10.0
"""Seconds that the controller's ownership and address in the ledger hold without being renewed."""

MAX_BEHIND = 100
"""Writes that wait for the store, from which on it is not told any more that we are alive."""

SCAN_BYTES = 1 << 20
"""What a report or a map is taken to weigh while it waits for the store: about what the largest ones do."""

MAX_UNRECORDED = 1000
"""Writes that wait for the store, from which on parameters are refused."""


class ControllerService:
    """Owns the control channel and the machine. Requests come from the HTTP layer on the same loop.

    `http` is the address people use, for the registry; `unfinished` why scans that the ledger takes to be under way
    have failed, "": services may still be at work on them.
    """

    def __init__(
        self,
        hub: ControlHub,
        ledger: Ledger,
        machine: ControllerMachine,
        *,
        token: str,
        http: str = "",
        unfinished: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.hub = hub
        self.ledger = ledger
        self.machine = machine
        self.http = http
        self._token = token
        self._unfinished = unfinished
        self._clock = clock
        self._writer = LedgerWriter(ledger)
        self._files = FileWriter()
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._number = itertools.count(1)
        self._log = structlog.get_logger("controller")
        self.notes = Notes()
        self._running = True
        self._superseded = False
        self._life = ""
        self._forgotten = False
        self._told_away: Away | None = None
        self._told_given_up = 0
        self._parameters = RecordParameters(None, machine.version, machine.values, None)
        self._wake = asyncio.Event()

    # -- the loop --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `shutdown()`."""
        loop = asyncio.get_running_loop()
        descriptor = self.hub.fileno()
        # Messages are taken in this task and not in the callback: an error there would be logged and forgotten.
        loop.add_reader(descriptor, self._wake.set)
        self._announce()
        if self._unfinished:
            self._perform(self.machine.give_up_unfinished(self._unfinished, self._clock()))
        renew = 0.0
        try:
            while self._running:
                self._wake.clear()
                self._drain()
                self._perform(self.machine.tick(self._clock()))
                self._look_at_files()
                self._look_at_store()
                if self._superseded:
                    raise ConfigError("another controller has taken this one's place: it ends")
                if self._writer.error is not None:
                    raise RuntimeError("the ledger is not written any more") from self._writer.error
                if time.monotonic() >= renew:
                    renew = time.monotonic() + LEASE / 4
                    self._announce()
                await self._rest()
        finally:
            loop.remove_reader(descriptor)
            self._writer.put(lambda ledger: ledger.withdraw("controller", "controller"))
            self._writer.put(lambda ledger: ledger.release_owner(self._token))
            await asyncio.to_thread(self._writer.close)
            await asyncio.to_thread(self._files.close)

    async def _rest(self) -> None:
        """Let others have the loop, until there is something to do."""
        if self._wake.is_set():
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(TICK):
                await self._wake.wait()
        except TimeoutError:
            pass

    def shutdown(self) -> None:
        """Leave `run`. Who still waits for a scan to be armed is told that it will not be."""
        self._running = False
        self._wake.set()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(ScanError("the controller was told to end: no scan is started any more"))

    def _announce(self) -> None:
        if self._writer.behind > MAX_BEHIND:
            return  # the store is away: that we were alive meanwhile must not drive out what is to be recorded
        info = {"control": self.hub.url, "http": self.http}
        self._writer.put(self._keep_role)
        self._writer.put(lambda ledger: ledger.announce("controller", "controller", info, LEASE))

    def _keep_role(self, ledger: Ledger) -> None:
        """Renew the lease; one that was lost is taken again (the store may have been wiped), unless somebody has it."""
        if not (ledger.renew_owner(self._token, LEASE) or ledger.acquire_owner(self._token, LEASE)):
            self._superseded = True
            return
        life = ledger.life()
        if self._life not in ("", life):
            self._forgotten = True
        self._life = life

    def _look_at_store(self) -> None:
        """Say when the store goes and comes back; write again what we know to one that may have forgotten it."""
        away, told = self._writer.away, self._told_away
        self._told_away = away
        if away is not None and told is None:
            self._note(Note("warning", f"what is to be recorded waits: {away.why}"))
        elif away is None and told is not None:
            self._note(Note("info", f"the control store is back after {self._clock() - told.since:.1f} s"))
        if self._writer.given_up > self._told_given_up:
            self._told_given_up = self._writer.given_up
            self._note(Note("error", f"{self._told_given_up} records could not be kept for the control store"))
        if self._forgotten:
            self._forgotten = False
            self._note(Note("warning", "the control store was wiped or started again: it is told all that is known"))
            newest = self._parameters  # perhaps not in force yet
            self._perform(self.machine.record_again())
            if newest.version:
                self._record_parameters(newest)

    @property
    def store_trouble(self) -> str:
        """Why nothing is recorded at the moment, and since when; "" while it is."""
        away = self._writer.away
        if away is None:
            return ""
        since = time.strftime("%H:%M:%S", time.localtime(away.since))
        return f"away since {since}, {self._writer.behind + 1} records wait for it: {away.why}"

    def _drain(self) -> None:
        """Take what is here, but not what comes meanwhile: people's requests get their turn before that.

        The descriptor signals edges, so a turn that found something is followed by another one.
        """
        messages = self.hub.receive()
        if messages:
            self._perform(self.machine.receive_all(messages, self._clock()))
            self._wake.set()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                if not self.hub.send(action.peer, action.message):
                    self.machine.unreachable(action.peer)
                self._wake.set()  # what came meanwhile may have been noticed by this send, and is not signalled again
            elif isinstance(action, Reply):
                self._reply(action)
            elif isinstance(action, RecordScan):
                self._record_scan(action)
            elif isinstance(action, RecordParameters):
                self._record_parameters(action)
            elif isinstance(action, WriteFile):
                self._files.put(action)
            elif isinstance(action, Logged):
                self._keep(action.entries)
            else:
                self._note(action)

    def _look_at_files(self) -> None:
        for action, error in self._files.faults():
            text = f"cannot write {action.path}: {error.strerror or error}; the recording is not whole"
            self._perform(self.machine.trouble(action.scan_id, "recording", text))

    def _reply(self, action: Reply) -> None:
        future = self._requests.pop(action.request, None)
        if future is None or future.done():
            return
        if action.error is not None:
            future.set_exception(action.error)
        else:
            future.set_result(action.value)

    def _record_scan(self, action: RecordScan) -> None:
        size = SCAN_BYTES if {"report", "map"} & set(action.fields) else 0
        self._writer.put(lambda ledger: ledger.put_scan(action.scan_id, action.fields, action.number), size)

    def _record_parameters(self, a: RecordParameters) -> None:
        self._parameters = a
        size = sum(map(len, a.values.values()))
        self._writer.put(lambda ledger: ledger.put_parameters(a.version, a.values, a.from_event, a.scan_id), size)

    def _note(self, note: Note) -> None:
        self._log.log({"info": 20, "warning": 30, "error": 40}.get(note.level, 20), note.text)
        entry: Entry = {
            "created": self._clock(),
            "levelname": note.level.upper(),
            "name": "controller",
            "lineno": 0,
            "msg": cut(note.text),
        }
        self._keep([entry])

    def _keep(self, entries: list[Entry]) -> None:
        self.notes.add(entries)
        self._writer.log(entries)

    # -- requests --------------------------------------------------------------------------------------------

    async def submit(self, trigger_map: TriggerMap, written: WrittenMap | None = None) -> str:
        """Start a scan; returns its id once it is armed. MapError or ScanError say why it cannot be.

        `written` is the map as somebody wrote it, to be shown and recorded.
        """
        number, future = self._request()
        plan = Plan(str(uuid.uuid4()), trigger_map, number, written)
        self._perform(self.machine.submit(plan, self._clock()))
        return str(await future)

    async def stop(self) -> None:
        """Stop the running scan, if there is one: what has arrived is still processed."""
        number, future = self._request()
        self._perform(self.machine.stop(number, self._clock()))
        await future

    async def set_parameters(self, values: dict[str, bytes]) -> int:
        """New raw values; returns their version. LedgerUnavailable when they could not be recorded."""
        await asyncio.to_thread(self.ledger.ping)
        if self._writer.behind > MAX_UNRECORDED:
            raise LedgerUnavailable("the control store lags behind: try again in a moment")
        self._perform(self.machine.set_parameters(values, self._clock()))
        return self.machine.version

    async def scans(self, limit: int) -> list[dict[str, Any]]:
        """Scans that the ledger remembers, newest first, without their reports."""
        fields = ("number", "state", "started", "finished", "streams")
        found = await asyncio.to_thread(self.ledger.scans, limit, fields)
        return [{"id": scan_id, **record} for scan_id, record in found]

    async def written(self, scan_id: str) -> WrittenMap | None:
        """The trigger map of a scan as somebody wrote it; None when it is not known any more."""
        written = self.machine.written(scan_id)
        if written is None:
            record = await asyncio.to_thread(self.ledger.scan, scan_id)
            written = written_map(record) if record else None
        return written

    async def report(self, scan_id: str) -> dict[str, Any] | None:
        """The report of a running or ended scan; None when nobody knows the scan.

        Who is told that a scan has ended finds its recording whole, or the report says that it could not be written.
        """
        report = self.machine.report(scan_id)
        if report is not None and report["ended"] and report["recording"]:
            await self._files.settle(FILES_PATIENCE)
            self._look_at_files()
            report = self.machine.report(scan_id)
        if report is None:
            record = await asyncio.to_thread(self.ledger.scan, scan_id)
            report = record.get("report") if record else None
        return report

    def _request(self) -> tuple[int, asyncio.Future[Any]]:
        number = next(self._number)
        future = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        return number, future
