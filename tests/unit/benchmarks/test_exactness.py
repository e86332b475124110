"""No figure without exactness: what a benchmark refuses to go on with."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from beamfold.model.report import ScanReport
from beamfold.model.states import EventState
from sidebyside.base import BenchFailure, Inexact, Scan, Setup, Stream, check_state
from sidebyside.ours import check_report
from sidebyside.peer import sequence
from sidebyside.processes import family, free_port, parse_stat, spent, wait_for


def state(count: int, total: int, frames: int) -> dict[str, int]:
    return {"count": count, "sum": total, "frames": frames}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(9, 45, 9), "1 of 10 events were MISSED"),
        (state(0, 0, 0), "10 of 10 events were MISSED"),
        (state(11, 56, 11), "some were DOUBLED"),
        (state(10, 54, 10), "some were MISSED and as many DOUBLED"),
        (state(10, 55, 9), "10 events of 1 streams had 9 frames"),
    ],
)
def test_an_event_that_was_missed_or_doubled_fails(found: dict[str, int], said: str) -> None:
    with pytest.raises(Inexact, match=f"peer: .*{said}"):
        check_state("peer", Scan(10), Setup(), found)


def test_events_one_to_n_once_each_pass() -> None:
    check_state("peer", Scan(10), Setup(), state(10, 55, 10))
    check_state("peer", Scan(10), Setup((Stream("a"), Stream("b"))), state(10, 55, 20))


def test_results_are_expected_of_every_so_many_events() -> None:
    check_state("peer", Scan(250), Setup(every=100), state(2, 300, 2))
    check_state("peer", Scan(250), Setup(every=0), state(0, 0, 0))
    with pytest.raises(Inexact, match="DOUBLED"):
        check_state("peer", Scan(250), Setup(every=0), state(1, 1, 1))


@pytest.mark.parametrize(("every", "reduced"), [(1, 250), (100, 2), (0, 0)])
def test_the_report_must_have_every_event_in_its_state(every: int, reduced: int) -> None:
    report = ScanReport("a scan", 250, workers=["worker-0"], started=0.0)
    report.count({EventState.REDUCED: reduced, EventState.NO_RESULT: 250 - reduced})
    check_report(Scan(250), Setup(every=every), report.to_dict())
    report.count({EventState.REDUCED: reduced, EventState.NO_RESULT: 249 - reduced, EventState.LOST: 1})
    with pytest.raises(Inexact, match="not every one was processed"):
        check_report(Scan(250), Setup(every=every), report.to_dict())


@pytest.mark.parametrize("events", [1, 99, 1000, 1001, 3050])
@pytest.mark.parametrize("batch", [1, 10, 100, 300, 5000])
def test_a_sequence_has_every_frame_once_in_batches(events: int, batch: int) -> None:
    """Constraints are scoped to one occurrence of a part, so a batch must not cross from one to the next."""
    spec = sequence(Scan(events, batch), ["a", "b"])
    assert set(spec["sequence"]) == set(spec["parts"])  # all are used, and all are there
    sizes: list[int] = []
    for part in spec["sequence"]:
        cells = spec["parts"][part]["a"]
        assert spec["parts"][part]["b"] == cells
        constraints = [cell[0]["constraint"] for cell in cells]
        sizes += [constraints.count(c) for c in sorted(set(constraints))]
    assert sum(sizes) == events
    assert set(sizes[:-1]) <= {batch}
    assert sizes[-1] <= batch


def test_cpu_time_is_that_of_user_and_system() -> None:
    fields = "S 7 1 1 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 3 0 100 1000 10"
    parent, seconds = parse_stat(f"42 (a (strange) name) {fields}")
    assert parent == 7
    assert seconds == pytest.approx(3.0)  # in hundredths of a second, on every Linux that we know of


def test_a_system_is_its_roots_and_all_below_them() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 1: 0}
    assert family({2, 6}, parents) == {2, 3, 4, 6}
    assert family({9}, parents) == {9}


def test_a_process_that_came_during_a_scan_counts_whole() -> None:
    assert spent({1: 1.0}, {1: 1.5, 2: 0.25}) == pytest.approx(0.75)


def test_a_process_that_went_during_a_scan_fails_it() -> None:
    with pytest.raises(BenchFailure, match=r"ended during a scan: \[2\]"):
        spent({1: 1.0, 2: 1.0}, {1: 1.5})


def test_nobody_waits_for_ever() -> None:
    answers = iter([None, None, "there"])
    assert wait_for(lambda: next(answers), 10.0, lambda: "late", poll=0.0) == "there"
    with pytest.raises(BenchFailure, match="the third service HANGS"):
        wait_for(lambda: None, 0.0, lambda: "the third service HANGS", poll=0.0)


def test_a_port_that_is_listened_on_later_is_none_that_an_outgoing_connection_may_take() -> None:
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    port = free_port()
    assert 1024 < port < int(outgoing[0])
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
