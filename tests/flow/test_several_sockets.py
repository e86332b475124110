"""One stream over several sockets: frames come in any order across them, and every event is whole all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamfold.testing.simulators import stins_series
from flow.deployment import Deployment, Stream, wait_until
from flow.witness import APP, frames, in_step, rows, seen

FRAMES = 600
SOCKETS = 3


@pytest.mark.parametrize(
    ("sockets", "connections", "receiver"), [(SOCKETS, 1, "direct"), (SOCKETS, 1, "libzmq"), (1, SOCKETS, "direct")]
)
def test_a_series_over_several_sockets_is_one_series(
    tmp_path: Path, sockets: int, connections: int, receiver: str
) -> None:
    streams = {"camera": Stream("stins", {"receiver": receiver}, sockets, connections), "other": Stream("stins")}
    with Deployment(tmp_path, APP, streams, parameters={"p": "0"}) as deployment:
        for shape in ({"events": FRAMES}, {}):  # of the second nobody knows how many frames there are
            scan = deployment.submit({"streams": list(streams), **shape})
            for name in streams:
                deployment.send(name, frames(FRAMES))
            report = deployment.wait_ended(scan)
            assert report["states"] == {"reduced": FRAMES}
            assert seen(deployment.state()) == in_step(streams, range(1, FRAMES + 1))
            camera = report["streams"]["camera"]
            assert (camera["frames"], camera["duplicates"], camera["discarded"]) == (FRAMES, 0, 0)


@pytest.mark.parametrize("overload", ["spill", "block"])
def test_large_frames_over_several_sockets_need_little_room(tmp_path: Path, overload: str) -> None:
    """Of 120 MiB there is room for 8, a quarter of that for frames that wait for others."""
    streams = {"camera": Stream("stins", {"retention_bytes": 8 << 20}, SOCKETS)}
    sections = {"policy": {"overload": overload}}
    with Deployment(tmp_path, APP, streams, parameters={"p": "0"}, sections=sections) as deployment:
        scan = deployment.submit({"streams": ["camera"], "events": 120})
        deployment.send("camera", stins_series(np.full((512, 512), n, "uint32") for n in range(120)))
        assert deployment.wait_ended(scan)["states"] == {"reduced": 120}
        assert seen(deployment.state()) == in_step(streams, range(1, 121))


def test_a_socket_that_dies_costs_its_own_frames_and_no_others(tmp_path: Path) -> None:
    half = FRAMES // 2
    with Deployment(tmp_path, APP, {"camera": Stream(sockets=SOCKETS)}, parameters={"p": "0"}) as deployment:
        scan = deployment.submit({"streams": ["camera"], "events": FRAMES})
        messages = frames(FRAMES)
        deployment.send("camera", messages[: half + 1])
        deployment.wait_reached(half + 1)
        dead, *alive = deployment.dealers["camera"].senders
        dead.close()
        lost = []
        for number, message in enumerate(messages[half + 1 : -1], half):
            if number % SOCKETS == 0:
                lost.append(number + 1)
            else:
                alive[number % SOCKETS - 1].send([message])
        alive[0].send([messages[-1]])
        report = deployment.wait_ended(scan)
        assert report["incomplete"] == {"camera": [[event, event + 1] for event in lost]}
        assert report["states"] == {"reduced": FRAMES - len(lost), "incomplete (skipped)": len(lost)}
        assert [row.event for row in rows(deployment.state())] == [
            event for event in range(1, FRAMES + 1) if event not in lost
        ]
        wait_until(lambda: any(f"nothing came from {dead.url}" in line for line in deployment.lines), "word of it")
