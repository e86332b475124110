"""The registry holds together, and the app does for both systems what the scenarios say of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from beamfold.app.loading import load_class
from beamfold.protocols.dumps import read_dump
from beamfold.testing import simulate, wire
from sidebyside.base import APP, CAMERA, CEILING, HWM_BYTES, PEER, SYSTEMS, Scan, Setup, Stream
from sidebyside.histogram import BUCKET, BUCKETS, SETTLED, counted, percentile
from sidebyside.memory import Memory, resident_mib
from sidebyside.scenarios import QUICK, SCENARIOS
from sidebyside.scenarios.base import Options, Scenario
from sidebyside.scenarios.flow import Flow
from sidebyside.scenarios.replays import write_dump
from sidebyside.source import command

FLOWS = [scenario for scenario in SCENARIOS.values() if isinstance(scenario, Flow)]


def tally(name: str) -> Any:
    """A class of the benchmark's app."""
    return load_class(f"tally.py:{name}", APP)


def event(number: int, *streams: list[bytes]) -> Any:
    named = {f"stream{n}": SimpleNamespace(frames=frames) for n, frames in enumerate(streams)}
    return SimpleNamespace(event_number=number, streams=named)


# -- the registry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda s: s.name)
def test_a_ratio_compares_what_is_measured(scenario: Scenario) -> None:
    for ratio in scenario.ratios:
        for side in (ratio.above, ratio.below):
            assert side.system in scenario.systems
            assert set(side.variants) <= set(scenario.variants)
    assert set(scenario.systems) <= set(SYSTEMS)
    assert len({ratio.name for ratio in scenario.ratios}) == len(scenario.ratios)


@pytest.mark.parametrize("scenario", FLOWS, ids=lambda s: s.name)
def test_the_setup_says_how_often_its_worker_has_a_result(scenario: Flow) -> None:
    assert scenario.setup.every == tally(scenario.setup.worker).EVERY


def test_names_are_those_of_the_registry() -> None:
    assert [scenario.name for scenario in SCENARIOS.values()] == list(SCENARIOS)
    assert set(QUICK) < set(SCENARIOS)


def test_scaled_scans_have_some_events() -> None:
    options = Options(deadline_s=1.0, scale=0.1, folder=Path())
    assert options.events(1000) == 100
    assert options.events(10) == 20


# -- the source ----------------------------------------------------------------------------------------------


def arguments(setup: Setup, scan: Scan) -> dict[str, Any]:
    """What the simulator makes of the command."""
    urls = [f"tcp://127.0.0.1:{9000 + n}" for n in range(len(setup.streams))]
    words = command(setup, urls, scan)
    return vars(simulate._parser().parse_args(words[words.index("beamfold.testing.simulate") + 1 :]))


def test_the_source_is_told_of_every_stream() -> None:
    found = arguments(Setup((Stream("a", (4, 2)), Stream("b"))), Scan(7))
    assert found["detectors"] == [((4, 2), "tcp://127.0.0.1:9000"), ((8, 8), "tcp://127.0.0.1:9001")]
    assert found["frames"] == 7
    assert found["rate"] is None


def test_frames_say_when_they_were_sent_where_time_is_measured() -> None:
    paced, fast = arguments(Setup(), Scan(7, rate=100.0)), arguments(Setup(), Scan(7))
    assert paced["stamp"] == "sent"
    assert paced["rate"] == 100.0
    assert fast["stamp"] is None


@pytest.mark.parametrize("scenario", FLOWS, ids=lambda s: s.name)
def test_what_lies_between_source_and_receiver_is_bounded_in_bytes(scenario: Flow) -> None:
    found = arguments(scenario.setup, Scan(1))
    assert found["hwm"] * max(stream.nbytes for stream in scenario.setup.streams) <= HWM_BYTES
    assert found["hwm"] >= 4


# -- the app -------------------------------------------------------------------------------------------------


def test_starts_and_ends_have_no_result() -> None:
    assert tally("Worker")().process_event(event(0, [b"{}"])) is None


def test_events_are_counted_with_their_streams() -> None:
    reducer, worker = tally("Reducer")(), tally("Worker")()
    for number in (1, 2):
        result = worker.process_event(event(number, [b"{}", b"abc"], [b"{}", b""]))
        reducer.process_result(SimpleNamespace(event_number=number, payload=result))
    assert reducer.publish == {"count": 2, "sum": 3, "frames": 4}


def test_some_workers_have_few_results_or_none() -> None:
    for name, expected in (("Never", []), ("Hundredth", [100, 200])):
        worker = tally(name)()
        found = [n for n in range(1, 251) if worker.process_event(event(n, [b"{}", b"abc"])) is not None]
        assert found == expected


def test_combined_results_fold_to_the_same_state() -> None:
    events = [event(n, [b"{}", b"abc"], [b"{}", b"d"]) for n in range(1, 6)]
    one, other, worker = tally("Reducer")(), tally("Reducer")(), tally("Combining")()
    for e in events:
        one.process_result(SimpleNamespace(payload=worker.process_event(e)))
    other.process_result(SimpleNamespace(payload=worker.combine(worker.process_events(events))))
    assert one.publish == other.publish


def test_large_frames_are_read_as_far_as_the_worker_says() -> None:
    pixels = np.arange(6, dtype=np.uint16)
    header = wire.stins_template((2, 3), pixels.dtype, stamp="sent") % (4, 5, 6_000)
    whole = event(5, [header, memoryview(wire.stins_blob(pixels))])
    values = [tally(name)().process_event(whole)["value"] for name in ("Header", "Sum", "Stamped")]
    assert values == [4, 15, 6_000]


def test_latency_is_counted_once_things_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    reducer = tally("LatencyReducer")()
    assert (reducer.SETTLED, reducer.RATIO, reducer.BUCKETS) == (SETTLED, BUCKET, BUCKETS)
    clock = iter([5_000_000, 5_000_000, 5_000_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    for number, sent in ((SETTLED, 0), (SETTLED + 1, 3_000_000), (SETTLED + 2, 6_000_000)):
        payload = {"count": 1, "sum": number, "frames": 1, "value": sent}
        reducer.process_result(SimpleNamespace(event_number=number, payload=payload))
    counts = reducer.publish["latency"]
    assert counts.sum() == 2
    assert percentile(counts, 0.99) == pytest.approx(2.0, rel=0.02)  # the clock did not go backwards for the other
    assert reducer.publish["count"] == 3


def test_latencies_are_counted_as_the_app_does(monkeypatch: pytest.MonkeyPatch) -> None:
    micros = [0.0, 0.5, 1.0, 1.5, 340.0, 1480.0, 1480.0, 3.7e6, 1e15]
    reducer = tally("LatencyReducer")()
    clock = iter(micros)
    monkeypatch.setattr("time.monotonic_ns", lambda: round(next(clock) * 1e3))
    for number in range(len(micros)):
        payload = {"count": 1, "sum": 0, "frames": 1, "value": 0}
        reducer.process_result(SimpleNamespace(event_number=SETTLED + 1 + number, payload=payload))
    assert counted(micros).tolist() == reducer.publish["latency"].tolist()


def test_a_percentile_is_what_that_share_did_not_exceed() -> None:
    counts = np.zeros(1200, np.int64)
    fast, slow = (int(np.log(micros) / np.log(BUCKET)) for micros in (1e3, 1e5))
    counts[fast], counts[slow] = 98, 2
    assert percentile(counts, 0.5) == pytest.approx(1.0, rel=0.02)
    assert percentile(counts, 0.98) == pytest.approx(1.0, rel=0.02)
    assert percentile(counts, 0.99) == pytest.approx(100.0, rel=0.02)


def test_the_state_of_a_replay_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_STATE", str(tmp_path / "state.json"))
    reducer = tally("WrittenReducer")()
    reducer.finish()
    assert json.loads((tmp_path / "state.json").read_text()) == {"count": 0, "sum": 0, "frames": 0}


# -- files and memory ----------------------------------------------------------------------------------------


def test_a_dump_has_a_start_every_frame_and_an_end(tmp_path: Path) -> None:
    write_dump(tmp_path / "camera.cbors", 3)
    found = list(read_dump(tmp_path / "camera.cbors"))
    assert [e.event_number for e in found] == [0, 1, 2, 3, 4]
    kinds = [json.loads(bytes(e.streams[CAMERA.name].frames[0]))["htype"] for e in found]
    assert kinds == ["header", "image", "image", "image", "series_end"]


def test_memory_is_that_of_the_processes_while_they_are_watched() -> None:
    assert resident_mib([os.getpid()]) > 10
    with Memory(lambda: [os.getpid()]) as memory:
        held = np.ones(32 << 17)  # 32 MiB
    assert memory.most - memory.before == pytest.approx(held.nbytes / 2**20, rel=0.5)


def test_only_the_peer_has_fewer_events_and_the_ceiling_no_batches() -> None:
    options = Options(deadline_s=1.0, scale=1.0, folder=Path())
    for flow in FLOWS:
        first, *others = flow.variants
        assert flow._scan(PEER, first, options).events <= flow.events
        assert all(flow._scan(CEILING, variant, options) is None for variant in others)
