"""How a scan comes to its end: what is done, the last event, `finish()`, and the report."""

from __future__ import annotations

from collections.abc import Callable

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Note, RecordScan, Reply, Send
from beamfold.dispatch.assigning import Assigning
from beamfold.dispatch.records import ended_record, ending_note
from beamfold.dispatch.scan import Phase, Scan
from beamfold.dispatch.scans import KEEP_REPORTS, Scans
from beamfold.dispatch.services import Service, Services
from beamfold.dispatch.tally import tally_of
from beamfold.model.errors import ScanError
from beamfold.model.runs import RunSet
from beamfold.protocols.messages import Close, Conclude, End, Finish, Finished, Halt, Halted, Release


class Ending:
    """Closes, concludes, finishes and ends scans. `advance` makes the next one the running one."""

    def __init__(
        self, services: Services, scans: Scans, assigning: Assigning, advance: Callable[[float], list[Action]]
    ) -> None:
        self._services = services
        self._scans = scans
        self._assigning = assigning
        self._advance = advance

    def stop(self, scan: Scan, reason: str, now: float) -> list[Action]:
        """Ingesters say how far they are, and the scan ends there; one that has not begun is over."""
        if scan.phase is Phase.ARMING:
            return self.abort(scan, "stopped", reason, now)
        if scan.phase is not Phase.RUNNING:
            return []
        scan.reason = reason
        return self.halt(scan)

    def halt(self, scan: Scan) -> list[Action]:
        """Ask all ingesters how far they are; one that was lost may have left a log to the one that comes for it."""
        scan.phase, scan.cut = Phase.HALTING, True
        scan.waiting = {key for key in scan.services if key.startswith("ingester ")}
        halt = Halt(scan.number)
        asked = [Send(s.peer, halt) for s in self._services.needed(scan, "ingester")]
        return [RecordScan(scan.scan_id, {"stopped": scan.reason}), *asked]

    def answer_done(self, now: float) -> list[Action]:
        """Parts are done: there is room for new ones, and frames may go."""
        actions: list[Action] = []
        for scan in (self._scans.scan, self._scans.next):
            if scan is None or not scan.active or not scan.unanswered:
                continue
            scan.unanswered = False
            scan.dispatcher.settle(scan.frontier)
            if scan.bereft:
                actions += self.close_if_ended(scan, now)
            actions += self._assigning.assign(scan, now)
            if scan.over:
                release = Release(scan.number, scan.over.runs())
                actions += [Send(s.peer, release) for s in self._services.needed(scan, "ingester")]
                scan.over = RunSet()
            actions += self._assigning.relieve(scan, now) + self._conclude(scan)
            if scan.reduced:
                actions += self._finish(scan)
        return actions

    def close_if_ended(self, scan: Scan, now: float) -> list[Action]:
        """All series ended: an endless scan ends there, and so does one whose streams all end before its map."""
        if scan.phase is not Phase.RUNNING:
            return []
        if set(scan.ended_streams) < set(scan.report.streams) and not scan.all_came(now):
            return []
        if scan.bereft and scan.planned is None:
            scan.phase = Phase.HALTING
            return self._ask_witnesses(scan)
        return self._close(scan, scan.last_reached(), now)

    def halted(self, scan: Scan, service: Service, message: Halted, now: float) -> list[Action]:
        """An ingester says how far it was; workers and reducer, what has come to them."""
        if scan.phase is not Phase.HALTING or service.key not in scan.waiting:
            return []
        for name, (last, ended) in message.streams.items():
            scan.halted[name] = max(last, scan.halted.get(name, (0, False))[0]), ended
        return self.halted_or_lost(scan, service.key, now)

    def halted_or_lost(self, scan: Scan, key: str, now: float) -> list[Action]:
        """Nothing more is to be learnt from this service: the scan is closed when that holds for all.

        An ingester that was lost may have been further than the one in its place can know: workers and reducer do.
        """
        scan.waiting.discard(key)
        if scan.waiting:
            return []
        if scan.bereft and not scan.witnesses_asked:
            return self._ask_witnesses(scan)
        reached = 0 if scan.cut else scan.last_reached()
        return self._close(scan, max([reached, *(last for last, _ in scan.halted.values())]), now)

    def _ask_witnesses(self, scan: Scan) -> list[Action]:
        scan.witnesses_asked = True
        witnesses = self._services.witnesses(scan)
        scan.waiting = {*witnesses, *(key for key in scan.services if key.startswith("reducer "))}
        return [Send(peer, Halt(scan.number)) for peer in witnesses.values()]

    def _close(self, scan: Scan, last: int, now: float) -> list[Action]:
        scan.phase = Phase.DRAINING
        scan.close(last, cut=scan.cut)
        final = scan.last_data_event
        assert final is not None
        actions: list[Action] = [Send(peer, Close(scan.number, final)) for peer in self._services.peers_of(scan)]
        actions += recording.closed(scan, final)
        return actions + self._assigning.assign(scan, now) + self._assigning.tell(scan, now)

    def _conclude(self, scan: Scan) -> list[Action]:
        """Let the end event be processed, once every data event is terminal."""
        n = scan.map.n_events
        if not scan.closed or scan.concluded or not scan.map.wrapped or n is None or scan.frontier < n - 1:
            return []
        scan.concluded = True
        return [Send(peer, Conclude(scan.number)) for _, peer in scan.places.here()]

    def _finish(self, scan: Scan) -> list[Action]:
        if scan.phase not in (Phase.RUNNING, Phase.HALTING, Phase.DRAINING):
            return []
        scan.phase = Phase.FINISHING
        here = scan.places.here()
        scan.waiting = {f"worker {scan.places[me].name}" for me, _ in here}
        if not here:
            return self.finish_reducer(scan)
        actions: list[Action] = [Send(peer, Finish(scan.number)) for _, peer in here]
        return actions + self.hurry(scan) if scan.ingesters_lost else actions

    def hurry(self, scan: Scan) -> list[Action]:
        """What was broadcast went with an ingester: who joined is not to wait for it before its `finish()`."""
        joined = [(place, place.peer) for place in scan.places if place.joined and place.here]
        late = [peer for place, peer in joined if peer is not None and f"worker {place.name}" in scan.waiting]
        return [Send(peer, Finish(scan.number)) for peer in late]

    def finish_reducer(self, scan: Scan) -> list[Action]:
        """All workers have finished, or are lost."""
        scan.phase = Phase.REDUCING
        scan.waiting = {key for key in scan.services if key.startswith("reducer ")}  # also one that is to come back
        return [Send(s.peer, Finish(scan.number)) for s in self._services.needed(scan, "reducer")]

    def finished(self, scan: Scan, service: Service, message: Finished, now: float) -> list[Action]:
        """The `finish()` of a worker or of the reducer came back."""
        if service.key not in scan.waiting:
            return []
        scan.waiting.discard(service.key)
        scan.finished(message)
        if scan.waiting:
            return []
        if scan.phase is Phase.FINISHING:
            return self.finish_reducer(scan)
        return self._end(scan, "stopped" if scan.cut else "finished", now)

    def abort(self, scan: Scan, ended: str, reason: str, now: float) -> list[Action]:
        """End the scan at once; what is not done is lost."""
        scan.reason = reason
        actions: list[Action] = []
        if scan.request is not None:
            request, scan.request = scan.request, None
            actions.append(Reply(request, error=ScanError(reason)))
        if scan.data_events is None:
            scan.close(max(scan.reached - 1, 0), cut=True)
        return actions + self._end(scan, ended, now)

    def _end(self, scan: Scan, ended: str, now: float) -> list[Action]:
        report = scan.conclude(ended, now)
        begun, scan.phase = scan.phase is not Phase.ARMING, Phase.ENDED
        self._scans.ended.add(tally_of(scan, self._services.loads()))
        self._scans.reports[scan.scan_id] = report
        if scan.scan_id in self._scans.known:
            self._scans.known[scan.scan_id] = {"finished": now}
        while len(self._scans.reports) > KEEP_REPORTS:
            del self._scans.reports[next(iter(self._scans.reports))]
        actions: list[Action] = []
        end, workers = End(scan.number), [p.peer for p in scan.places if p.peer is not None]
        actions += [Send(peer, end) for peer in [*(s.peer for s in self._services.needed(scan, "ingester")), *workers]]
        actions += [Send(s.peer, End(scan.number, report)) for s in self._services.needed(scan, "reducer")]
        self._services.changed()  # nobody asks for the services of this scan any more
        actions.append(ended_record(report))
        if begun:
            actions += recording.end(scan, report)
        actions += [Note("warning", f"stream {slip['stream']}: {slip['text']}") for slip in report["slips"]]
        actions.append(ending_note(report))
        if scan is self._scans.next:
            self._scans.next = None
            return actions
        return actions + self._advance(now)
