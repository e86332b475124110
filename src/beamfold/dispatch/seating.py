"""Services that come in mid-scan: they take the place of one that was lost, or join."""

from __future__ import annotations

import msgspec

from beamfold.dispatch import recording
from beamfold.dispatch.actions import Action, Note, Send
from beamfold.dispatch.arming import Arming
from beamfold.dispatch.assigning import Assigning
from beamfold.dispatch.ending import Ending
from beamfold.dispatch.fencing import Fencing
from beamfold.dispatch.losses import Losses
from beamfold.dispatch.scan import MAX_JOINED, Phase, Scan
from beamfold.dispatch.scans import Scans
from beamfold.dispatch.services import Service, Services, fill_of, info_of
from beamfold.protocols.messages import (
    Armed,
    Assign,
    Close,
    Conclude,
    Drop,
    Filled,
    Finish,
    Halt,
    Moved,
    Rejoined,
    Torn,
    Vacate,
)


class Seating:
    """Seats services in scans that run."""

    def __init__(
        self,
        services: Services,
        scans: Scans,
        assigning: Assigning,
        arming: Arming,
        fencing: Fencing,
        ending: Ending,
        losses: Losses,
    ) -> None:
        self._services = services
        self._scans = scans
        self._assigning = assigning
        self._arming = arming
        self._fencing = fencing
        self._ending = ending
        self._losses = losses

    def armed(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """A service is ready for a scan: in mid-scan it gets its seat."""
        me = scan.places.of(service.peer)
        if me is not None and scan.phase is not Phase.ARMING and not scan.places[me].here:
            return self._seat(scan, me, message, now)
        if service.key in scan.seating and scan.phase is not Phase.ARMING:
            scan.seating.discard(service.key)
            seat = self._seat_reducer if service.hello.role == "reducer" else self._seat_ingester
            return seat(scan, service, message, now)
        return self._arming.armed(scan, service, message, now)

    def _replace_ingester(self, scan: Scan, service: Service, now: float) -> list[Action]:
        if service.key not in scan.ingesters_lost or not scan.assigning:
            return []
        del scan.ingesters_lost[service.key]
        if not self._losses.resumable(scan, service):
            return self._ending.abort(
                scan, "failed", f"{service.key} was lost, and nobody can go on with its streams", now
            )
        scan.seating.add(service.key)
        series = scan.series(info.name for info in service.hello.streams)
        return [Send(service.peer, msgspec.structs.replace(self._arming.arm_of(scan), resume=series))]

    def _seat_ingester(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """An ingester goes on with streams of one that was lost: it learns what that one was told, workers of it."""
        if message.error:
            return self._ending.abort(scan, "failed", f"{service.key}: {message.error}", now)
        peer, number, hello = service.peer, scan.number, service.hello
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        blocks = scan.dispatcher.assigned(scan.dispatcher.attempt)  # it cannot know which of them somebody had before
        actions.append(Send(peer, Assign(number, blocks, *scan.standing)))
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(number, scan.last_data_event)))
        if scan.phase is Phase.HALTING:
            actions.append(Send(peer, Halt(number)))
        actions += [
            Send(peer, fill_of(scan, me)) for me, place in enumerate(scan.places) if service.key in place.unaware
        ]
        actions += [Send(worker, Rejoined(number, info_of(hello))) for _, worker in scan.places.here()]
        return actions + self._fencing.ingester_seated(scan, service)

    def _replace_reducer(self, scan: Scan, service: Service) -> list[Action]:
        if service.key not in scan.services or scan.reducer_lost is None:
            return []
        scan.reducer_lost = None
        if "reducer" in scan.unarmed:
            return []
        scan.seating.add(service.key)
        unsure = [me for me, place in enumerate(scan.places) if service.key in place.unaware]
        fills = [Send(service.peer, fill_of(scan, me)) for me in unsure]
        return [Send(service.peer, self._arming.arm_of(scan)), *fills]

    def _seat_reducer(self, scan: Scan, service: Service, message: Armed, now: float) -> list[Action]:
        """A reducer has read the result log of the one before: it learns what that one was told, workers of it."""
        if message.error:
            return self._ending.abort(scan, "failed", f"{service.key}: {message.error}", now)
        peer, number = service.peer, scan.number
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        if dropped := scan.dispatcher.dropped():
            actions.append(Send(peer, Drop(number, dropped)))
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(number, scan.last_data_event)))
        actions += [Send(peer, Vacate(number, me)) for me, p in enumerate(scan.places) if p.vacant]
        moved = Moved(number, service.hello.url)
        actions += [Send(worker, moved) for _, worker in scan.places.here()]
        if scan.phase is Phase.REDUCING:
            actions.append(Send(peer, Finish(number)))
        if scan.phase is Phase.HALTING and service.key in scan.waiting:
            actions.append(Send(peer, Halt(number)))
        return actions + self._fencing.reducer_seated(scan) + self.resolve(scan, now)

    def resolve(self, scan: Scan, now: float) -> list[Action]:
        """What is done is known: what nobody has for certain is for others, or for new processes in the places."""
        actions: list[Action] = []
        for me in sorted(scan.dispatcher.resolve(scan.frontier, scan.reached)):
            key = f"worker {scan.places[me].name}"
            if (service := self._services.all.get(key)) is not None and service.peer == scan.places[me].peer:
                actions += self._replace_worker(scan, service, uncertain(service), now)
        return actions + self._assigning.assign(scan, now)

    def torn(self, scan: Scan, service: Service, message: Torn, now: float) -> list[Action]:
        """Parts are to be processed again that their worker takes for done: another process will."""
        scan.trouble(service.key, message.text)
        worker = self._services.all.get(f"worker {scan.places[message.worker].name}")
        if worker is None or worker.peer != message.uuid.encode() or scan.places.of(worker.peer) != message.worker:
            return []  # it was lost since, and what it had is assigned again
        return self._replace_worker(scan, worker, f"results of {worker.key} were refused", now)

    def _replace_worker(self, scan: Scan, service: Service, why: str, now: float) -> list[Action]:
        """Another process has to take a worker's place, and others do what it has not done."""
        return [*self._services.dismiss(service, why), *self._losses.lose_worker(scan, service, why, now, -1)]

    def take_place(self, service: Service, now: float) -> list[Action]:
        """A service is here: it takes part in scans that have lost the one of its name."""
        actions: list[Action] = []
        for scan in (self._scans.scan, self._scans.next):
            if scan is not None and scan.active and service.hello.role == "reducer":
                actions += self._replace_reducer(scan, service)
            if scan is not None and scan.active and service.hello.role == "ingester":
                actions += self._replace_ingester(scan, service, now)
            if service.hello.role != "worker" or scan is None or not (scan.assigning or scan.phase is Phase.ARMING):
                continue
            me = scan.places.named(service.hello.name)
            if me is None:
                actions += self.join(scan, service)
            elif scan.places[me].peer is None and scan.places[me].tags <= set(service.hello.tags):
                actions += self._offer_place(scan, me, service)
        return actions

    def _offer_place(self, scan: Scan, me: int, service: Service) -> list[Action]:
        """This worker is to fill a place: the others learn it first."""
        routers = self._services.routers(scan)
        scan.places.fill(me, service.peer, {s.key for s in routers})
        if not routers and "worker" not in scan.unarmed:
            return [Send(service.peer, self._arming.arm_of(scan))]
        return [Send(s.peer, fill_of(scan, me)) for s in routers]

    def join(self, scan: Scan, service: Service) -> list[Action]:
        """A worker of a new name in mid-scan gets a place of its own, as long as there is work to be given out.

        What is broadcast it sees as others do, but no part of that is its own: who waits for what stays as it was.
        """
        hello, tags = service.hello, frozenset(service.hello.tags)
        joined = sum(place.joined for place in scan.places)
        if not scan.assigning or hello.error or joined >= MAX_JOINED or not scan.dispatcher.wants(tags):
            return []
        me = scan.join(hello.name, tags)
        self._services.changed()
        note = Note("info", f"{service.key} joins scan {scan.number}")
        return [note, *recording.joined(scan), *self._offer_place(scan, me, service)]

    def filled(self, scan: Scan, service: Service, message: Filled) -> list[Action]:
        """A service knows who fills a place; once all do, that worker is armed."""
        peer = message.uuid.encode()
        if not scan.places.known(message.worker, peer, service.key) or "worker" in scan.unarmed:
            return []
        return [Send(peer, self._arming.arm_of(scan))]

    def _seat(self, scan: Scan, me: int, message: Armed, now: float) -> list[Action]:
        """A worker is armed in mid-scan: it learns what others know already, and gets work."""
        place = scan.places[me]
        if message.error or place.peer is None or not scan.assigning:
            if message.error:
                scan.trouble(f"worker {place.name}", message.error)
                scan.places.lose(me, now)
            return []
        place.here, peer = True, place.peer
        actions: list[Action] = [Send(peer, change) for change in scan.changes]
        if scan.closing and scan.last_data_event is not None:
            actions.append(Send(peer, Close(scan.number, scan.last_data_event)))
        actions += [Send(peer, Moved(scan.number, s.hello.url)) for s in self._services.needed(scan, "reducer")]
        actions += [
            Send(peer, Rejoined(scan.number, info_of(s.hello))) for s in self._services.needed(scan, "ingester")
        ]
        blocks = scan.dispatcher.fill(me)
        actions += self._assigning.assigned(scan, blocks, now) if blocks else [self._assigning.to_worker(scan, me, [])]
        if scan.concluded:
            actions.append(Send(peer, Conclude(scan.number)))
        if scan.phase is Phase.HALTING and scan.witnesses_asked:
            scan.waiting.add(f"worker {place.name}")
            actions.append(Send(peer, Halt(scan.number)))
        return actions + self._assigning.assign(scan, now)


def uncertain(service: Service) -> str:
    """Why another process has to take this worker's place."""
    return f"nobody knows for certain what {service.key} has to do, because a controller ended"
