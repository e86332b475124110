"""The map of the demo's app, read by h5pyd and silx while it grows and when it is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import pytest

from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, xspress3_series
from flow.deployment import PATIENCE, Deployment, Stream, wait_until
from flow.hdf_clients import CLIENTS, differences, flat, run_client

APP = Path(__file__).parents[2] / "apps" / "fluorescence"
SAMPLE = FluorescenceSample((12, 9))
REGION = (630, 651)
AT_ONCE = 12
"""Points that are there before a client begins to read, and as many come while it reads."""

RATE = 20.0
"""Points per second while a client reads: it takes about a second or two."""


class Mesh:
    """A scan of the demo's app, some points at a time."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.scan = deployment.submit({"streams": ["contrast", "xspress3"], "events": SAMPLE.points})
        self._messages = {
            "contrast": contrast_series(map(SAMPLE.readings, range(SAMPLE.points))),
            "xspress3": xspress3_series(map(SAMPLE.spectrum, range(SAMPLE.points)), framing="multipart"),
        }
        self.sent = 0
        for stream, messages in self._messages.items():
            deployment.send(stream, [next(messages)])

    def play(self, points: int, rate: float | None = None) -> list[threading.Thread]:
        """Begin to send the next points, each detector in a thread; all at once where there is no rate."""
        threads = []
        for stream, messages in self._messages.items():
            some = [next(messages) for _ in range(points)]
            arguments = (some, rate)
            threads.append(threading.Thread(target=self.deployment.senders[stream].send, args=arguments))
            threads[-1].start()
        self.sent += points
        return threads

    def end(self) -> dict[str, Any]:
        for stream, messages in self._messages.items():
            self.deployment.send(stream, messages)
        return self.deployment.wait_ended(self.scan)

    def wait_shown(self) -> None:
        """Until all that was sent is in the published map."""
        wait_until(lambda: self._shown() == self.sent, f"{self.sent} points on the map")

    def _shown(self) -> int:
        return len(self.deployment.state("map").get("keys", []))  # an empty dict is no table yet

    def live(self) -> str:
        """The address of the state as it is whenever somebody looks."""
        return self.deployment.reducer_url + "/live"

    def pinned(self) -> str:
        """The address of the state as it is now."""
        url = self.deployment.reducer_url
        return url + str(httpx.get(url, params={"domain": "/live"}, trust_env=False, timeout=PATIENCE).json()["pinned"])


def members(path: str) -> list[str]:
    with h5py.File(path) as file:
        return list(file)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    streams = {"contrast": Stream("contrast"), "xspress3": Stream("xspress3")}
    classes = ("worker.py:FluorescenceWorker", "reducer.py:FluorescenceReducer")
    folder = tmp_path_factory.mktemp("mesh")
    with Deployment(folder, APP, streams, classes=classes, parameters={"roi1": list(REGION)}) as deployment:
        yield Mesh(deployment)


def expected(points: int) -> tuple[list[list[str]], list[int]]:
    """Positions and counts of the first points, as the client's script prints them."""
    readings = [SAMPLE.readings(n)["pseudo"] for n in range(points)]
    positions = [[str(float(each[axis][0])) for axis in ("x", "y")] for each in readings]
    return positions, [int(SAMPLE.spectrum(n)[3, slice(*REGION)].sum()) for n in range(points)]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_growing_map_is_read_as_it_is(mesh: Mesh, client: str) -> None:
    for thread in mesh.play(2):
        thread.join()
    mesh.wait_shown()
    there = mesh.sent
    growing = mesh.play(8, RATE)
    tree = flat(run_client(client, mesh.live())["tree"])
    for thread in growing:
        thread.join()
    mesh.wait_shown()
    assert not [value for value in tree.values() if isinstance(value, str) and "Error" in value]
    counts = tree["/map/roi1/value"][1]
    assert there <= len(counts) <= mesh.sent
    assert counts == expected(len(counts))[1]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_growing_map_is_read_as_it_was_at_one_time(mesh: Mesh, client: str) -> None:
    for thread in mesh.play(AT_ONCE):
        thread.join()
    mesh.wait_shown()
    there, address = mesh.sent, mesh.pinned()
    growing = mesh.play(AT_ONCE, RATE)
    found = run_client(client, address)
    for thread in growing:
        thread.join()
    mesh.wait_shown()
    tree = flat(found["tree"])
    assert (tree["/map/keys/value"][1], tree["/map/roi1/value"][1]) == expected(there)
    assert tree["/image@NX_class"] == ["text", "NXdata"]
    assert tree["/image@axes"] == ["text", ["x", "y"]]
    measured = [float(counts) for row in tree["/image/roi1/value"][1] for counts in row if counts != "nan"]
    assert sum(measured) == sum(expected(there)[1])
    if client == "silx":
        assert found["plot"]["signal"] == "roi1 (counts)"
        assert found["plot"]["sum"] == sum(measured)
        assert len(found["plot"]["axes"][0]) == tree["/image/roi1/shape"][0]


def test_the_finished_map_is_what_is_in_its_file(mesh: Mesh) -> None:
    report = mesh.end()
    assert report["summary"] == f"{SAMPLE.points} events: {SAMPLE.points} reduced"
    wait_until(lambda: "beamfold_report" in members(report["result_file"]), "the file with its report")
    in_file = flat(run_client("h5py", report["result_file"])["tree"])
    in_file[""].remove("beamfold_report")
    assert in_file["/map/roi1/value"][1] == expected(SAMPLE.points)[1]
    for client in CLIENTS:
        found = run_client(client, mesh.deployment.reducer_url + "/live")
        differing = {path.partition("_")[0] for path in differences(in_file, flat(found["tree"]))}
        assert differing == {"@beamfold", "/beamfold"}
        if client == "silx":
            assert found["plot"]["shape"] == [12, 9]
