"""A cluster in virtual time around the real controller machine; the simulation itself checks what must not happen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import scaling
from beamfold.dispatch.machine import TELL_INTERVAL
from simulation.cluster import TICK, Cluster, Outcome
from simulation.setup import Setup


def run(**more: object) -> Outcome:
    """Turns of the controller take a tenth of a millisecond here, however long they really take."""
    return Cluster(Setup(turn_time=1e-4, **more)).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 7])
def test_every_event_is_done_once_and_parameters_change_on_the_way(batch: int) -> None:
    outcome = run(workers=30, ingesters=5, events=20_000, batch=batch, spread=0.8, change_at=5000)
    assert outcome.report["summary"] == "20000 events: 20000 reduced"
    assert [p["version"] for p in outcome.report["parameters"]] == [0, 1]
    assert outcome.kinds["Fence"] == 5 and outcome.kinds["Parameters"] == 36


def test_a_block_goes_to_all_ingesters_and_to_one_worker() -> None:
    outcome = run(workers=40, ingesters=4, events=16_000)
    told_all = outcome.whole.time / TELL_INTERVAL + 3  # also in the beginning, when all is given out, and at the end
    assert outcome.kinds["Assign"] <= 4 * outcome.whole.turns + outcome.whole.blocks + 40 * told_all
    assert outcome.kinds["Release"] <= 4 * outcome.whole.turns
    assert outcome.stale <= TELL_INTERVAL + 2 * TICK


def test_the_faster_events_go_the_fewer_messages_each_of_them_costs() -> None:
    slow, fast = (run(workers=20, ingesters=4, events=n, event_time=10 / n).figures for n in (2000, 200_000))
    assert fast["events/block"] > 50 * slow["events/block"]
    assert fast["messages/event"] < slow["messages/event"] / 50
    assert fast["bytes/event"] < slow["bytes/event"] / 50


def test_a_busy_controller_answers_more_at_once() -> None:
    """Its turns take 20 ms here: as long as workers need for twenty events."""
    quick = run(workers=20, ingesters=4, events=40_000)
    busy = Cluster(Setup(turn_time=0.02, workers=20, ingesters=4, events=40_000)).run()
    assert busy.figures["messages/event"] < quick.figures["messages/event"] / 4
    assert busy.utilisation > 0.9


def test_workers_do_not_starve_where_the_controller_takes_longer_than_a_window() -> None:
    outcome = Cluster(Setup(turn_time=0.07, workers=20, ingesters=2, events=40_000)).run()
    assert outcome.utilisation > 0.3


def test_slow_workers_do_not_hold_up_the_end() -> None:
    outcome = run(workers=40, ingesters=2, events=100_000, spread=1.0)
    assert outcome.utilisation > 0.98
    assert outcome.uneven < 0.15


def test_no_more_streams_than_a_map_can_have_take_part() -> None:
    outcome = run(workers=3, ingesters=70, events=300)
    assert outcome.kinds["Arm"] == 62 + 3 + 1


def test_a_detector_slower_than_the_workers_sets_the_rate() -> None:
    assert run(workers=20, ingesters=2, events=5000, rate=2000.0).whole.time == pytest.approx(2.5, rel=0.1)


def test_the_same_seed_gives_the_same_scan() -> None:
    one, two, other = (run(workers=10, ingesters=2, events=5000, seed=seed) for seed in (3, 3, 4))
    assert one.kinds == two.kinds and one.figures["bytes/event"] == two.figures["bytes/event"]
    assert one.kinds != other.kinds


def test_the_command_prints_a_table_and_writes_all_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "scaling.json"
    arguments = ["--workers", "2,5", "--event-us", "1000", "--ingesters", "3", "--seconds", "0.3", "--json"]
    assert scaling.main([*arguments, str(path)]) == 0
    scans = json.loads(path.read_text())["scans"]
    assert len(scans) == 2 * capsys.readouterr().out.count("events/block")
    assert {(s["setup"]["workers"], s["setup"]["ingesters"]) for s in scans} == {(2, 3), (5, 3)}
    assert all(s["messages/event"] > 0 and s["load"] > 0 for s in scans)
