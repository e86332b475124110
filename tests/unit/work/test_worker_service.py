"""The worker service and users' mistakes: it goes on, and somebody is told."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from beamfold.model.errors import ConfigError
from beamfold.model.events import Buffer
from beamfold.model.latency import Latencies, Stage
from beamfold.model.parameters import IntParameter
from beamfold.model.triggermap import compile_map
from beamfold.protocols.envelopes import (
    GREETING,
    Grant,
    ResultBatch,
    decode_header,
    encode_frames,
    encode_header,
    unpack_events,
)
from beamfold.protocols.messages import (
    Armed,
    Assign,
    Beat,
    Block,
    Conclude,
    End,
    Finish,
    Finished,
    IngesterInfo,
    Message,
    Parameters,
    StreamInfo,
    Trouble,
    WorkerInfo,
)
from beamfold.work import service
from scripted import Control, Hub, Until, arm

MAP = compile_map({"streams": ["camera"], "events": 10}, True)


class Link(Hub):
    """A worker's connection; the open ones by address."""

    open: ClassVar[dict[str, Link]] = {}

    def __init__(self, context: object, url: str, identity: bytes) -> None:
        super().__init__()
        self.open[url] = self
        self.url = url
        self.out: list[Sequence[Buffer]] = []

    def send(self, parts: Sequence[Buffer]) -> None:  # type: ignore[override]
        self.out.append(parts)

    def ask(self) -> None:
        self.asked = True

    def close(self, linger_ms: int = 0) -> None:
        super().close()
        del self.open[self.url]


@pytest.fixture(autouse=True)
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Link]]:
    monkeypatch.setattr(service, "DataLink", Link)
    yield Link.open
    for link in list(Link.open.values()):
        link.close()


class App:
    def process_event(self, event: Any) -> None:
        pass


def run(app: type, *steps: Any) -> Control:
    control = Control(*steps)

    def info(stream: str) -> StreamInfo:
        if stream != "camera":
            raise ConfigError(f"there is no stream {stream!r} here")
        return StreamInfo(stream, "STINS", True)

    worker = service.WorkerService("w0", lambda: app, control, None, info)  # type: ignore[arg-type]
    worker.run()
    control.close()
    return control


def only_error(control: Control) -> str:
    (armed,) = control.said(Armed)
    msgspec.msgpack.encode(armed)
    return str(armed.error)


@pytest.mark.parametrize("stateful", [True, False])
def test_a_class_that_keeps_something_says_so(stateful: bool) -> None:
    (armed,) = run(type("Keeps", (App,), {"stateful": stateful} if stateful else {}), arm(MAP)).said(Armed)
    assert (armed.error, armed.stateful) == ("", stateful)


def test_a_tick_interval_that_raises_is_why_it_cannot_be_armed() -> None:
    class Raises(App):
        def get_tick_interval(self) -> float:
            return float({}["seconds"])

    assert "get_tick_interval() failed" in only_error(run(Raises, arm(MAP)))


def test_an_app_that_calls_exit_while_it_is_made_is_why_it_cannot_be_armed() -> None:
    class Exits(App):
        def __init__(self) -> None:
            sys.exit("no detector caf\udce9")

    error = only_error(run(Exits, arm(MAP)))
    assert "failed to construct" in error
    assert "no detector caf\\udce9" in error


def test_a_stream_that_its_run_file_does_not_have_is_why_it_cannot_be_armed() -> None:
    other = compile_map({"streams": ["unknown"], "events": 10}, True)
    assert only_error(run(App, arm(other))) == "there is no stream 'unknown' here"


def test_parameters_that_cannot_be_read_leave_the_old_ones_in_force() -> None:
    class Declares(App):
        @staticmethod
        def describe_parameters() -> list[Any]:
            return [IntParameter(name="roi", default=7)]

        def finish(self, parameters: Any) -> None:
            raise ValueError(f"roi {parameters['roi'].value} of version {parameters.version}")

    changed = Parameters(1, 2, {"roi": b"wide"}, 3)
    control = run(Declares, arm(MAP), changed, Finish(1))
    (trouble,) = control.said(Trouble)
    assert "parameter version 2 was not applied" in trouble.text
    (finished,) = control.said(Finished)
    assert "roi 7 of version 2" in finished.failures[0].text


def test_a_failure_whose_text_is_no_unicode_travels() -> None:
    class Raises(App):
        def finish(self) -> None:
            raise OSError("no file caf\udce9.h5")

    (finished,) = run(Raises, arm(MAP), Finish(1)).said(Finished)
    msgspec.msgpack.encode(finished)
    assert "caf\\udce9.h5" in finished.failures[0].text


def test_its_last_word_about_a_scan_is_how_much_it_did() -> None:
    control = run(App, arm(MAP), Finish(1))
    (beat,) = control.said(Beat)
    assert {k: v for k, v in beat.stats.items() if k != "total"} == {
        "scan": 1,
        "events": 0,
        "last_event": 0,
        "active": 0.0,
        "waiting": 0,
    }
    assert beat.stats["total"] >= 0
    assert control.sent.index(beat) < control.sent.index(control.said(Finished)[0])


def test_results_say_when_their_frames_came_and_what_user_code_took(links: dict[str, Link]) -> None:
    """Event 0 is a broadcast and not timed; of events 1 and 2 the frames were received together."""

    def arrive(first: int, n: int, k: int, received: float) -> None:
        frames, _ = encode_frames(
            1, 0, 1, np.arange(first, first + n), k, [[b"f"]] * n, received=[(n, received)], sent=9.0
        )
        links["inproc://ingester"].arrived.append([bytes(p) for p in frames])

    def results() -> list[ResultBatch]:
        headers = [decode_header(out[0]) for out in links["inproc://reducer"].out]
        return [h for h in headers if isinstance(h, ResultBatch)]

    found: list[ResultBatch] = []
    control = run(
        App,
        arm(MAP),
        lambda: links["inproc://reducer"].arrived.append([encode_header(Grant(1, GREETING, 1 << 20))]),
        Assign(1, [Block(0, 10, 0)], 10),
        lambda: arrive(0, 1, -1, 8.0),
        lambda: arrive(1, 2, 0, 8.0),
        Until(lambda: sum(h.n for h in results()) == 3),
        lambda: found.extend(results()),
        Finish(1),
    )
    timed = {event: run for h in found for event, run in zip(unpack_events(h.events, h.n), expanded(h), strict=True)}
    assert timed == {0: 0.0, 1: 8.0, 2: 8.0}
    (beat,) = control.said(Beat)
    latency = dict(Latencies.from_wire(beat.latency).items())
    assert {stage.value: h.count for stage, h in latency.items()} == {
        "ingest": 2,
        "transit": 2,
        "wait": 2,
        "process": 2,
    }
    assert latency[Stage.INGEST].total == pytest.approx(2.0)


def expanded(header: ResultBatch) -> list[float]:
    assert header.times is not None
    header.times.check(header.n)
    return [received for n, received in header.times.received for _ in range(n)]


def test_times_are_left_out_where_a_part_that_came_twice_is_combined(links: dict[str, Link]) -> None:
    """The reducer refuses a batch whose times are not those of its parts."""

    class Combines(App):
        def process_event(self, event: Any) -> int:  # type: ignore[override]
            return 1

        def combine(self, results: list[int]) -> int:
            return sum(results)

    def arrive(event: int, n: int, k: int) -> None:
        frames, _ = encode_frames(1, 0, 1, np.arange(event, event + n), k, [[b"f"]] * n, received=[(n, 8.0)], sent=9.0)
        links["inproc://ingester"].arrived.append([bytes(p) for p in frames])

    def results() -> list[ResultBatch]:
        headers = [decode_header(out[0]) for out in links["inproc://reducer"].out]
        return [h for h in headers if isinstance(h, ResultBatch)]

    def all_at_once() -> None:
        arrive(0, 1, -1)
        arrive(1, 2, 0)
        arrive(1, 2, 0)

    found: list[ResultBatch] = []
    run(
        Combines,
        arm(MAP),
        lambda: links["inproc://reducer"].arrived.append([encode_header(Grant(1, GREETING, 1 << 20))]),
        Assign(1, [Block(0, 10, 0)], 10),
        all_at_once,
        Until(lambda: any(h.combined for h in results())),
        lambda: found.extend(results()),
    )
    assert sum(h.n for h in found) == 3
    for header in found:
        assert header.times is None or header.times.check(header.n) is None


def test_services_that_moved_are_not_called_for_ever(links: dict[str, Link]) -> None:
    steps: list[Message] = []
    for scan in range(1, 6):
        where = [IngesterInfo("i", f"inproc://ingester-{scan}", ["camera"])]
        steps += [arm(MAP, scan, ingesters=where, reducer_url=f"inproc://reducer-{scan}"), End(scan)]
    run(App, *steps)
    assert set(links) == {"inproc://ingester-5", "inproc://reducer-5"}


def test_envelopes_that_make_no_sense_do_not_end_it(links: dict[str, Link]) -> None:
    strange: list[Any] = [
        ResultBatch(1, 0, 1, 0, (0, 1), 0, 2, b"\0\0\0\0", [], [], []),
        Grant(1, 1 << 60, -(1 << 60)),
        Grant(1 << 63, 0, 1),
    ]
    steps = [lambda h=h: links["inproc://ingester"].arrived.append([msgspec.msgpack.encode(h)]) for h in strange]
    steps.append(lambda: links["inproc://ingester"].arrived.append([b"\xc1"]))
    run(App, arm(MAP), *steps)
    greeting = decode_header(links["inproc://ingester"].out[0][0])
    assert isinstance(greeting, Grant)


def test_frames_that_are_sent_again_and_come_before_their_assignment_are_not_combined(links: dict[str, Link]) -> None:
    """Some of them may be done: then what they are combined with would be refused with them."""

    class Sums(App):
        def process_events(self, events: list[Any]) -> list[int]:
            return [event.event_number for event in events]

        def process_event(self, event: Any) -> int:
            return int(event.event_number)

        def combine(self, results: list[int]) -> int:
            return sum(results)

    def arrive(*events: int, k: int = 0, again: bool = False) -> None:
        frames, _ = encode_frames(1, 0, 1, np.array(events), k, [[b"f"]] * len(events), again=again)
        links["inproc://ingester"].arrived.append([bytes(p) for p in frames])

    def done() -> list[tuple[list[int], list[tuple[int, int]]]]:
        headers = [decode_header(out[0]) for out in links["inproc://reducer"].out]
        return [(unpack_events(h.events, h.n).tolist(), h.combined) for h in headers if isinstance(h, ResultBatch)]

    found: list[Any] = []
    run(
        Sums,
        arm(MAP),
        Assign(1, [Block(0, 2, 0)], 2),
        lambda: arrive(0, k=-1),
        lambda: arrive(1, 2),
        lambda: arrive(5, 6, again=True),
        lambda: links["inproc://reducer"].arrived.append([encode_header(Grant(1, GREETING, 1 << 20))]),
        Until(lambda: sum(len(events) for events, _ in done()) == 5),
        lambda: found.extend(done()),
        Assign(1, [Block(4, 6, 0, 1)], 6),
        Finish(1),
    )
    combined = [set(events[lo:hi]) for events, runs in found for lo, hi in runs]
    assert all(together <= {1, 2} for together in combined)


JOINED = [WorkerInfo("w1", ["generic"], "w1"), WorkerInfo("w0", ["generic"], "w0", joined=True)]


def casts(links: dict[str, Link], event: int, n: int = 1, k: int = -2) -> None:
    frames, _ = encode_frames(1, 0, 1, np.arange(event, event + n), k, [[b"f"]] * n)
    links["inproc://ingester"].arrived.append([bytes(p) for p in frames])


def greet(links: dict[str, Link]) -> None:
    links["inproc://reducer"].arrived.append([encode_header(Grant(1, GREETING, 1 << 20))])


def test_one_that_joined_sees_broadcasts_and_sends_nothing_of_them(links: dict[str, Link]) -> None:
    seen: list[int] = []

    class Sees(App):
        def process_event(self, event: Any) -> None:
            seen.append(event.event_number)
            if event.event_number == 0:
                raise ValueError("no start for me")

    found: list[list[int]] = []

    def results() -> list[list[int]]:
        headers = [decode_header(out[0]) for out in links["inproc://reducer"].out]
        return [unpack_events(h.events, h.n).tolist() for h in headers if isinstance(h, ResultBatch)]

    control = run(
        Sees,
        arm(MAP, workers=JOINED),
        lambda: greet(links),
        lambda: casts(links, 0),
        Until(lambda: seen == [0]),
        Assign(1, [Block(0, 2, 1)], 2),
        lambda: casts(links, 1, 2, 0),
        Until(results),
        lambda: found.extend(results()),
    )
    assert seen == [0, 1, 2] and found == [[1, 2]]
    (trouble,) = control.said(Trouble)
    assert "event 0, which is broadcast" in trouble.text and "no start for me" in trouble.text


@pytest.mark.parametrize("hurried", [False, True])
def test_one_that_joined_finishes_when_it_has_seen_the_end_unless_it_is_told_again(
    hurried: bool, links: dict[str, Link]
) -> None:
    seen: list[int] = []

    class Sees(App):
        def process_event(self, event: Any) -> None:
            seen.append(event.event_number)

        def finish(self) -> None:
            seen.append(-1)

    rest: list[Any] = [lambda: casts(links, 0), Conclude(1), lambda: casts(links, 11), Until(lambda: -1 in seen)]
    run(
        Sees,
        arm(MAP, workers=JOINED),
        lambda: greet(links),
        Assign(1, [], 10, 11),
        Finish(1),
        lambda: None,
        *([Finish(1), Until(lambda: -1 in seen)] if hurried else rest),
    )
    assert seen == ([-1] if hurried else [0, 11, -1])


@pytest.mark.parametrize("cycle", [False, True])
def test_what_an_ended_scan_had_is_freed_when_the_next_one_is_armed(
    monkeypatch: pytest.MonkeyPatch, cycle: bool
) -> None:
    """Nothing of ours is in a cycle, so that no search is needed; an app may be in one."""
    made: list[weakref.ref[App]] = []

    class Kept(App):
        def __init__(self) -> None:
            self.itself = self if cycle else None
            made.append(weakref.ref(self))

    if not cycle:
        monkeypatch.setattr(service, "collect_what_is_over", lambda: None)
    there: list[list[bool]] = []
    gc.disable()
    gc.freeze()  # as a service does that calms its collector
    try:
        run(Kept, arm(MAP), End(1), arm(MAP, 2), lambda: None, lambda: there.append([m() is not None for m in made]))
    finally:
        gc.unfreeze()
        gc.enable()
    assert there == [[False, True]]
