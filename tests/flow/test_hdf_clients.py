"""h5pyd and silx read over HTTP what h5py reads from the file of the same state: names, types, attributes, parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.reducer_http import HttpThread, build_reducer_app
from beamfold.publish.tree import snapshot
from flow.hdf_clients import CLIENTS, differences, flat, run_client
from zoo import zoo

NAMES = {"/odd/named å": "names of fields are ASCII for all clients, so that they are percent-encoded"}
FLAGS = {"/odd/sub_bool": "no client takes arrays of enums, so that they are arrays of int8"}
NESTED = {
    f"/structured/s_nested/{part}": "h5pyd 1.0 looks for the field a second time within it"
    for part in ("field p", "field slice", "field z")
}
KNOWN = {
    "h5pyd": NAMES | FLAGS | NESTED,
    "silx": NAMES | FLAGS | NESTED,
    "h5pyd 0.24": {
        **NAMES,
        **FLAGS,
        "/odd/sub_struct": "h5pyd 0.24 takes arrays of numbers and texts only within a structure",
        "/odd/opaque@opaque": "h5pyd 0.24 can make no bytes of the JSON of an attribute",
        "/attributed@n_be_c16": "h5pyd 0.24 gives complex attributes in the machine's byte order",
    },
}
"""Where a client gives something else than h5py does of the file, and why."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    http = HttpThread(build_reducer_app(_read_of(snapshot(zoo()))))
    yield http.url
    http.stop()


def _read_of(tree: Any) -> Any:
    return lambda _timeout: tree


@pytest.fixture(scope="module")
def in_file(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("zoo") / "zoo.h5"
    write_hdf5(path, snapshot(zoo()))
    return flat(run_client("h5py", str(path))["tree"])


@pytest.mark.parametrize(("client", "domain"), list(zip(CLIENTS, ["/live", "/", "/live"], strict=True)))
def test_a_client_reads_what_is_in_the_file(client: str, domain: str, url: str, in_file: dict[str, Any]) -> None:
    found = run_client(client, url + domain)
    known = KNOWN[client]
    differ = differences(in_file, flat(found["tree"]))
    unknown = {path: pair for path, pair in differ.items() if not path.startswith(tuple(known))}
    assert not unknown
    assert [start for start in known if not any(path.startswith(start) for path in differ)] == []
    if client == "silx":
        assert found["plot"]["signal"] == "Intensität"
        assert (found["plot"]["shape"], found["plot"]["sum"]) == ([3, 4], 66.0)
        assert found["plot"]["axes"] == [[0.0, 0.5, 1.0], [0.0, 2.0, 4.0, 6.0]]


def test_the_zoo_is_all_there_in_the_file(in_file: dict[str, Any]) -> None:
    """Else the comparison with it would be of nothing."""
    assert in_file["/python/nan/value"] == ["<f8", "nan"]
    assert in_file["/numbers/n_cube/steps"][1] == np.arange(24).reshape(2, 3, 4)[1:2, ::3].tolist()
    assert in_file["/structured/s_pair/field b"] == [">f8", ["2.5", "nan", "-1.0"]]
    assert in_file["/text/t_list/points"] == ["text", ["a", "日本"]]
    assert in_file["/tables/positions/keys/value"][1] == [["0.0", "1.5"], ["0.5", "1.5"]]
    assert in_file["/large_attrs/long/value"][1] == "x" * 70_000
    assert not [value for value in in_file.values() if isinstance(value, str) and "Error" in value]


def test_fields_with_names_that_no_client_takes_are_read_under_others(url: str) -> None:
    found = flat(run_client("h5pyd", url + "/live")["tree"])
    assert found["/odd/named å/field %C3%A5"] == ["<i4", [1]]
    assert found["/odd/named å/field b%3Ac"] == ["<i4", [2]]
    assert found["/odd/sub_bool/field flags"] == ["|i1", [[0, 0], [0, 0]]]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_dataset_that_grows_with_every_look_is_read_all_the_same(client: str) -> None:
    """h5pyd 1.0 asks for all values without saying how many it expects: those that its dataset's shape promised."""
    points = 10

    def read(_timeout: float) -> Any:
        nonlocal points
        points += 1
        return {"x": np.arange(points), "image": np.ones((points, 3)), "text": ["a"] * points}

    http = HttpThread(build_reducer_app(read))
    try:
        found = flat(run_client(client, http.url + "/live")["tree"])
    finally:
        http.stop()
    assert not [value for value in found.values() if isinstance(value, str) and "Error" in value]
    for name in ("x", "image", "text"):
        assert len(found[f"/{name}/value"][1]) == found[f"/{name}/shape"][0] > 10
    assert found["/x/value"][1] == list(range(found["/x/shape"][0]))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_pinned_version_stays_while_the_state_changes(client: str) -> None:
    points = 3

    def read(_timeout: float) -> Any:
        nonlocal points
        points += 1
        return {"x": np.arange(points)}

    http = HttpThread(build_reducer_app(read))
    try:
        with httpx.Client(base_url=http.url, trust_env=False) as people:
            pinned = people.get("/", params={"domain": "/live"}).json()["pinned"]
            for _ in range(3):
                assert people.get("/api/v1/state/x").json()[-1] > 3
        found = flat(run_client(client, http.url + pinned)["tree"])
        assert found["/x/value"] == ["<i8", [0, 1, 2, 3]]
    finally:
        http.stop()
