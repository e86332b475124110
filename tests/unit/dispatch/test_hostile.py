"""Whatever well-formed message comes from whomever in whatever phase, the controller goes on, and its scan can end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.dispatch.actions import Logged, RecordScan, Send
from beamfold.dispatch.scan import Plan
from beamfold.dispatch.scans import Policy
from beamfold.model.triggermap import WrittenMap
from beamfold.protocols import messages as m
from corpus import any_of
from unit.dispatch.test_controller_machine import Bench

STREAMS = {"i": "a", "j": "b"}
PEERS = ["i", "j", "w0", "w1", "r", "s", "stranger"]
ROLES = {
    "i": [m.StreamSeen, m.StreamEnded, m.FramesMissing, m.Halted, m.FenceReached, m.Armed, m.Trouble, m.Beat],
    "j": [m.StreamSeen, m.StreamEnded, m.FramesMissing, m.Halted, m.FenceReached, m.Armed, m.Trouble, m.Beat],
    "r": [m.PartsDone, m.PartsDone, m.PartsDone, m.FoldFailed, m.Finished, m.Armed, m.Failed, m.Beat],
    "w0": [m.Finished, m.Armed, m.Beat, m.Logs],
    "s": [m.Gone],
}
MAPS: list[dict[str, Any]] = [
    {"streams": ["a", "b"], "events": 4},
    {"streams": ["a", "b"], "events": None},
    {"streams": ["a", "b"], "events": 1 << 53},
    {"streams": ["a", "b"], "events": None, "broadcast": True},
    {"streams": {"a": {"every": 3}, "b": {}}, "events": 50, "batch": 4},
    {
        "parts": {"p": {"a": [[{"constraint": 0}], None, []], "b": [[{"constraint": None}], [{"constraint": 1}], []]}},
        "sequence": ["p", "p"],
    },
]
POLICIES = [Policy(), Policy(overload="sample", record="/recordings"), Policy(overload="latest")]


def about_the_scan(kind: Any, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any message of this kind that is about the first scan, with what is known put in."""
    hints = get_type_hints(kind)
    given_ = {"scan": st.just(1), "version": st.integers(0, 1) if kind is m.FenceReached else st.just("v"), **known}
    fields = {name: given_.get(name, any_of(hints[name])) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


def believable(peer: str) -> st.SearchStrategy[Any]:
    """What this service may say, with any numbers."""
    stream = STREAMS.get(peer, "a")
    streams = st.fixed_dictionaries({stream: st.tuples(st.sampled_from([0, 3, 1 << 40, 1 << 53]), st.booleans())})
    parts = st.dictionaries(st.integers(0, 1), st.sampled_from([0, 1, 5, 1 << 16, 1 << 40, 1 << 53]), max_size=2)
    known: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
        m.Halted: {"streams": streams},
        m.PartsDone: {"parts": parts},
    }
    of = [about_the_scan(kind, stream=st.just(stream), **known.get(kind, {})) for kind in ROLES[peer]]
    return st.tuples(st.just(peer), st.one_of(of))


SAID = st.one_of(
    *(believable(peer) for peer in ROLES),
    *(believable(peer) for peer in ("i", "j", "r", "r")),
    st.tuples(st.sampled_from(PEERS), st.one_of([about_the_scan(kind) for kind in get_args(m.ToController)])),
)
ASKED = st.sampled_from(["stop", "parameters", "submit", "time"])


def begin(bench: Bench) -> None:
    pass


def armed(bench: Bench) -> None:
    bench.armed("i", "j", "r", "w0", "w1")


def halting(bench: Bench) -> None:
    armed(bench)
    bench.stop()


def draining(bench: Bench) -> None:
    armed(bench)
    bench.ended()


def finishing(bench: Bench) -> None:
    draining(bench)
    bench.drained(finish=False)


def reducing(bench: Bench) -> None:
    finishing(bench)
    for worker in ("w0", "w1"):
        bench.say(worker, m.Finished(1))


PHASES: list[Callable[[Bench], None]] = [begin, armed, halting, draining, finishing, reducing]


def plan(body: dict[str, Any], request: int) -> Plan:
    written = WrittenMap.of(json.dumps(body).encode())
    return Plan(f"scan-{request}", written.compile(), request, written)


def ask(bench: Bench, what: str, request: int) -> None:
    if what == "stop":
        bench.stop(request)
    elif what == "parameters":
        bench.do(bench.machine.set_parameters({"p": b"1"}, bench.now))
    elif what == "submit":
        bench.do(bench.machine.submit(plan(MAPS[0], request), bench.now))
    else:
        bench.now += 3.0
        bench.do(bench.machine.tick(bench.now))


def look(bench: Bench) -> None:
    """What people are shown, and what is stored and sent, can be written out."""
    for scan in (bench.machine.scan, bench.machine._scans.next):
        if scan is not None:
            json.dumps(bench.machine.report(scan.scan_id), allow_nan=False)
    bench.machine.declared()
    for action in bench.log:
        if isinstance(action, Send):
            m.encode_message(action.message)
        elif isinstance(action, RecordScan):
            json.dumps({key: value for key, value in action.fields.items() if key != "map"}, allow_nan=False)
        elif isinstance(action, Logged):
            json.dumps(action.entries, allow_nan=False)
    bench.log.clear()


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_no_message_of_anybody_stops_the_controller(phase: Callable[[Bench], None]) -> None:
    @settings(max_examples=150)
    @given(st.sampled_from(MAPS), st.sampled_from(POLICIES), st.lists(SAID | ASKED, min_size=1, max_size=8))
    def holds(body: dict[str, Any], policy: Policy, steps: list[Any]) -> None:
        bench = Bench(policy=policy)
        bench.do(bench.machine.submit(plan(body, 1), bench.now))
        phase(bench)
        for number, step in enumerate(steps):
            if isinstance(step, str):
                ask(bench, step, 100 + number)
            else:
                peer, message = step
                bench.say(peer, m.decode_to_controller(m.encode_message(message)))
            look(bench)
        for request in (200, 201, 202):
            bench.stop(request)  # the second time gives up, the third is for a scan that was submitted meanwhile
        look(bench)
        assert bench.machine.scan is None or not bench.machine.scan.active

    holds()
