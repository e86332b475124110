"""HDF over HTTP, raw bytes, and who may have them, without a server; with the clients: flow/test_hdf_clients.py."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import AppError
from beamfold.publish.hdf5 import write_hdf5
from beamfold.publish.hdfrest.objects import NotThere, Objects, version_of
from beamfold.publish.hdfrest.types import dtype_json, shape_json, type_json
from beamfold.publish.hdfrest.values import MAX_TEXT, text_bytes, value_json
from beamfold.publish.hdftree import HdfDataset, HdfGroup
from beamfold.publish.leaf import Leaf, leaf
from beamfold.publish.reducer_http import build_reducer_app
from beamfold.publish.snapshots import KEEP, Snapshot
from beamfold.publish.tree import snapshot
from zoo import zoo

STATE = {
    "image": np.arange(12, dtype=">f4").reshape(3, 4),
    "image_attrs": {"units": "counts", "NX_class": "NXdata"},
    "group": {"words": ["a", "bb"], "none": None, "empty": []},
    "pair": np.array([(1, np.nan), (2, 0.5)], dtype=[("a", "i2"), ("b", "f8")]),
    "map": {(0.5, 1.5): {"roi1": 7}},
    "flat": np.zeros((100, 100)),
}

OCTETS = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}


class People:
    """Ask an app; each request in a loop of its own."""

    def __init__(self, state: Any = STATE) -> None:
        tree = snapshot(state)
        self.app: FastAPI = build_reducer_app(lambda _timeout: tree)

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(once())

    def get(self, path: str, **more: Any) -> Any:
        answer = self.ask(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def id_of(self, path: str) -> str:
        """The address of the object at a path."""
        found = f"/groups/{self.get('/', params={'domain': '/live'})['root']}"
        for name in path.split("/"):
            link = self.get(f"{found}/links/{name}")["link"]
            found = f"/{link['collection']}/{link['id']}"
        return found


@pytest.fixture(scope="module")
def people() -> People:
    return People()


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    return detail


# -- domains and versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, "", "/", "/live", "live", "/LIVE", "/live/", "//live"])
def test_the_live_domain_has_several_names(domain: str | None) -> None:
    assert version_of(domain) is None


@pytest.mark.parametrize("domain", ["/live@12", "live@12", "/@12", "/Live@12/"])
def test_a_version_is_pinned_by_the_domain(domain: str) -> None:
    assert version_of(domain) == 12


@pytest.mark.parametrize("domain", ["/else", "/live@", "/live@x", "/live@-1", "/live@1@2", "/live@" + "9" * 30, "\0"])
def test_another_domain_is_not_there(domain: str, people: People) -> None:
    with pytest.raises(NotThere, match="/live@VERSION"):
        version_of(domain)
    assert "/live@VERSION" in problem(people.ask("/", params={"domain": domain}), 404)
    assert "/live@VERSION" in problem(people.ask("/groups/g-x", params={"domain": domain}), 404)


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("text/html,application/json;q=0.9", {}, "text/html"),
        ("*/*", {}, "text/html"),
        ("application/json", {}, "application/json"),
        ("application/json, text/plain, */*", {}, "application/json"),
        ("text/html", {"domain": "/"}, "application/json"),
    ],
)
def test_the_top_is_for_people_and_for_clients(people: People, accept: str, query: Any, kind: str) -> None:
    answer = people.ask("/", headers={"Accept": accept}, params=query)
    assert answer.headers["content-type"].split(";")[0] == kind


def test_a_version_that_is_gone_says_which_are_there() -> None:
    count = 0

    def read(_timeout: float) -> Any:
        nonlocal count
        count += 1
        return {"n": count}

    people = People()
    people.app = build_reducer_app(read)
    value = people.id_of("n") + "/value"
    first = people.get("/", params={"domain": "/live"})["pinned"]
    for _ in range(2 * KEEP):
        people.get("/api/v1/state")
    assert people.get(value, params={"domain": first})["value"] < 10  # held, as somebody was told of it
    for _ in range(KEEP):
        people.get("/", params={"domain": "/live"})
    there = people.get("/about")["domains"]
    assert (there[0], len(there)) == ("/live", 1 + KEEP)
    said = problem(people.ask(value, params={"domain": first}), 410)
    assert all(domain.partition("@")[2] in said for domain in there)


def test_an_answer_that_is_at_hand_is_not_sent_again(people: People) -> None:
    for path in ("/api/v1/state/group", "/?domain=/", people.id_of("image"), people.id_of("image") + "/value"):
        first = people.ask(path)
        again = people.ask(path, headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert people.ask(path, headers={"If-None-Match": '"1"'}).status_code == 200


def test_each_form_of_an_answer_has_an_etag_of_its_own(people: People) -> None:
    tags = {people.ask(f"/api/v1/state/image?format={form}").headers["etag"] for form in ("json", "raw", "npy")}
    value = people.id_of("flat") + "/value"
    kinds = [{"Accept-Encoding": packing, **accept} for packing in ("gzip", "identity") for accept in ({}, _OCTETS)]
    tags |= {people.ask(value, headers=headers).headers["etag"] for headers in kinds}
    assert len(tags) == 6  # the JSON of both addresses may share one


_OCTETS = {"Accept": "application/octet-stream"}


def test_all_of_a_dataset_is_as_much_as_was_promised() -> None:
    points = 3

    def read(_timeout: float) -> Any:
        return {"x": np.arange(points), "y": np.ones((points, 2))}

    people = People()
    people.app = build_reducer_app(read)
    x, y = people.id_of("x"), people.id_of("y")
    assert people.get(f"{x}/value") == {"value": [0, 1, 2]}, "nothing was promised yet"
    assert people.get(x)["shape"]["dims"] == [3] and people.get(y)["shape"]["dims"] == [3, 2]
    whole = people.ask(f"{x}/value").headers["etag"]
    points = 5
    grown = people.ask(f"{x}/value")
    assert grown.json() == {"value": [0, 1, 2]} and grown.headers["etag"] != whole
    assert len(people.get(f"{y}/value")["value"]) == 3
    assert people.get(f"{x}/value?select=[0:5]") == {"value": [0, 1, 2, 3, 4]}
    assert people.get(x)["shape"]["dims"] == [5]
    assert people.get(f"{x}/value") == {"value": [0, 1, 2, 3, 4]}
    points = 2  # a new scan: what was promised is not there
    assert people.get(f"{x}/value") == {"value": [0, 1]}


def test_what_user_code_raises_is_said() -> None:
    def read(_timeout: float) -> Any:
        raise AppError("R.publish is a list")

    people = People()
    people.app = build_reducer_app(read)
    assert problem(people.ask("/", params={"domain": "/"}), 500) == "R.publish is a list"
    assert problem(people.ask("/groups/g-x"), 500) == "R.publish is a list"


# -- objects -------------------------------------------------------------------------------------------------


def test_ids_are_those_of_paths_in_every_snapshot() -> None:
    one, other = (Objects(Snapshot(n, snapshot(tree))) for n, tree in ((1, STATE), (2, {"image": 1, "new": {}})))
    links = [o.links_json(o.root, False, None, None)["links"] for o in (one, other)]
    ids = [{link["title"]: link["id"] for link in each} for each in links]
    assert ids[0]["image"] == ids[1]["image"]
    assert one.domain_json()["root"] == other.domain_json()["root"]
    assert all(re.fullmatch(r"[gd]-[0-9a-f-]{36}", id_) for id_ in (*ids[0].values(), *ids[1].values()))


def test_ids_are_what_they_have_always_been() -> None:
    """Whoever has noted one finds the same object with every later release."""
    objects = Objects(Snapshot(1, snapshot(STATE)))
    assert objects.dataset("d-82eabf8a-f1b5-5b4d-83d4-264afcbb1873").path == "/image"


def test_links_are_sorted_and_come_in_pages(people: People) -> None:
    root = f"/groups/{people.get('/?domain=/')['root']}"

    def titles(query: str) -> list[str]:
        return [link["title"] for link in people.get(f"{root}/links{query}")["links"]]

    assert titles("") == ["flat", "group", "image", "map", "pair"]
    assert titles("?CreateOrder=1") == ["image", "group", "pair", "map", "flat"]
    assert titles("?Limit=2&Marker=group") == ["image", "map"]
    assert titles("?Marker=nowhere") == []
    assert people.get(root)["linkCount"] == 5


def test_links_and_attributes_are_embedded_for_who_asks(people: People) -> None:
    root = f"/groups/{people.get('/?domain=/')['root']}"
    assert "links" not in people.get(root)
    embedded = people.get(f"{root}?include_links=1&include_attrs=1")
    assert embedded["links"]["image"]["collection"] == "datasets"
    assert embedded["attributes"] == {}
    image = people.id_of("image")
    assert "attributes" not in people.get(image)
    found = people.get(f"{image}?include_attrs=T")["attributes"]
    assert {name: attribute["value"] for name, attribute in found.items()} == {"units": "counts", "NX_class": "NXdata"}


def test_attributes_are_listed_without_values_unless_asked_for(people: People) -> None:
    image = people.id_of("image")
    assert ["value" in each for each in people.get(f"{image}/attributes")["attributes"]] == [False, False]
    assert [each["value"] for each in people.get(f"{image}/attributes?IncludeData=1")["attributes"]] == [
        "NXdata",
        "counts",
    ]
    assert people.get(f"{image}/attributes/units")["value"] == "counts"
    assert "'/image'" in problem(people.ask(f"{image}/attributes/unit"), 404)


def test_a_dataset_says_its_shape_and_type(people: People) -> None:
    image = people.id_of("image")
    found = people.get(image)
    assert found["shape"] == {"class": "H5S_SIMPLE", "dims": [3, 4]}
    assert found["type"] == {"class": "H5T_FLOAT", "base": "H5T_IEEE_F32BE"}
    assert people.get(f"{image}/shape")["shape"] == found["shape"]
    assert people.get(f"{image}/type")["type"] == found["type"]
    assert people.get(people.id_of("group/none"))["shape"] == {"class": "H5S_NULL"}


@pytest.mark.parametrize("path", ["/groups/g-0", "/groups/d-0/links", "/datasets/x/value", "/datasets/g-0/attributes"])
def test_an_id_that_nothing_has_is_not_there(people: People, path: str) -> None:
    assert "there is no" in problem(people.ask(path), 404)


def test_a_group_is_no_dataset_and_the_reverse(people: People) -> None:
    group, dataset = people.id_of("group").rpartition("/")[2], people.id_of("image").rpartition("/")[2]
    for path in (
        f"/datasets/{group}",
        f"/groups/{dataset}",
        f"/datasets/{group}/attributes",
        f"/groups/{dataset}/links",
    ):
        assert problem(people.ask(path), 404)
    assert problem(people.ask(f"/types/{group}/attributes"), 422)


# -- values --------------------------------------------------------------------------------------------------


def test_values_are_bytes_for_who_asks_and_else_json(people: People) -> None:
    value = people.id_of("image") + "/value"
    answer = people.ask(value, headers=OCTETS, params={"select": "[0:3:2,1:3]"})
    assert answer.headers["content-type"] == "application/octet-stream"
    expected = STATE["image"][0:3:2, 1:3]  # type: ignore[index, call-overload]
    assert answer.content == expected.tobytes()
    assert people.get(value, params={"select": "[2,:]"})["value"] == [8, 9, 10, 11]


def test_fields_and_points_of_a_structured_dataset(people: People) -> None:
    value = people.id_of("pair") + "/value"
    assert people.get(value)["value"] == [[1, "NaN"], [2, 0.5]]
    assert people.ask(value, headers=OCTETS, params={"fields": "b"}).content == np.array([np.nan, 0.5]).tobytes()
    body = np.array([1, 0], dtype="<u8").tobytes()
    headers = {**OCTETS, "Content-Type": "application/octet-stream"}
    assert len(people.ask(value, "POST", content=body, headers=headers).content) == 20
    assert people.ask(value, "POST", json={"points": [1], "fields": "a"}).json() == {"value": [[2]]}
    assert people.ask(value, "POST", content=b'{"select": "[0:1]"}').json() == {"value": [[1, "NaN"]]}


@pytest.mark.parametrize("select", ["[0:4,:]", "0", "[", "[1:0,:]"])
def test_a_bad_selection_says_what_was_expected(people: People, select: str) -> None:
    assert "expected" in problem(people.ask(people.id_of("image") + "/value", params={"select": select}), 400)


def test_texts_null_and_nothing_are_what_clients_take(people: People) -> None:
    words = people.ask(people.id_of("group/words") + "/value", headers=OCTETS)
    assert words.content == b"\1\0\0\0a\2\0\0\0bb"
    for path, value in (("group/none", None), ("group/empty", [])):
        answer = people.ask(people.id_of(path) + "/value", headers=OCTETS)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"value": value}


def test_what_packs_well_is_packed_and_noise_is_not() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 50_000, dtype=np.uint8)
    people = People({"noise": noise, "flat": np.zeros(50_000), "few": np.zeros(3)})
    packed = {}
    for name in ("noise", "flat", "few"):
        answer = people.ask(people.id_of(name) + "/value", headers={**_OCTETS, "Accept-Encoding": "deflate, gzip"})
        packed[name] = answer.headers.get("content-encoding")
        assert len(answer.content) == people.get(people.id_of(name))["shape"]["dims"][0] * (1 if name == "noise" else 8)
    assert packed == {"noise": None, "flat": "gzip", "few": None}
    plain = people.ask(people.id_of("flat") + "/value", headers={**_OCTETS, "Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert len(gzip.compress(plain.content)) < len(plain.content)


def test_a_text_that_h5pyd_would_not_take_among_bytes_goes_as_json() -> None:
    assert text_bytes(np.array(["å", "x" * MAX_TEXT], dtype=object)) is not None
    assert text_bytes(np.array(["å", "x" * (MAX_TEXT + 1)], dtype=object)) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([np.nan, np.inf, -np.inf, 1.5]), ["NaN", "Infinity", "-Infinity", 1.5]),
        (float("nan"), "NaN"),
        (np.array([1 + 2j, complex(0, np.nan)]), [[1.0, 2.0], [0.0, "NaN"]]),
        (np.array([[True, False]]), [[True, False]]),
        (np.array([b"a", b"bc"]), ["a", "bc"]),
        (b"\xff\0", "/wA="),
        (np.zeros((2, 0), dtype=[("a", "i4")]), [[], []]),
        (np.zeros((0, 2), dtype="S3"), []),
        (np.array([(1, (2, 3))], dtype=[("a", "i4"), ("b", "i4", (2,))]), [[1, [2, 3]]]),
        (2**64 - 1, 2**64 - 1),
        (1 << 64, "18446744073709551616"),
        (None, None),
        ("", ""),
    ],
    ids=repr,
)
def test_the_json_of_a_value(value: Any, expected: Any) -> None:
    assert value_json(leaf(value)) == expected
    json.dumps(value_json(leaf(value)), allow_nan=False)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("<u2", {"class": "H5T_INTEGER", "base": "H5T_STD_U16LE"}),
        (">i8", {"class": "H5T_INTEGER", "base": "H5T_STD_I64BE"}),
        ("i1", {"class": "H5T_INTEGER", "base": "H5T_STD_I8LE"}),
        (">f2", {"class": "H5T_FLOAT", "base": "H5T_IEEE_F16BE"}),
        ("V3", {"class": "H5T_OPAQUE", "size": 3}),
    ],
)
def test_the_type_of_numbers(dtype: str, expected: Any) -> None:
    assert dtype_json(np.dtype(dtype)) == expected


def test_a_bool_is_an_enum_for_both_clients() -> None:
    found = dtype_json(np.dtype(bool))
    assert found["mapping"] == {"FALSE": 0, "TRUE": 1} == {m["name"]: m["value"] for m in found["members"]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.complex_numbers()
        | st.text()
        | st.binary()
        | st.builds(object),
        lambda each: (
            st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), each, max_size=3)
        ),
        max_leaves=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_state_can_be_shown(tree: Any) -> None:
    """Every document of every object is JSON, whatever an app publishes."""
    objects = Objects(Snapshot(1, snapshot({"tree": tree, "x": 1, "x_attrs": {"tree": tree}})))
    left: list[Any] = [objects.root]
    while left:
        node = left.pop()
        document: Any
        if isinstance(node, HdfGroup):
            document = objects.group_json(node, links=True, attrs=True)
            left += node.members.values()
        else:
            document = [objects.dataset_json(node, attrs=True), value_json(node.leaf)]
        json.dumps(document, allow_nan=False).encode("ascii")


def test_the_zoo_is_the_same_in_the_file_and_over_http(tmp_path: Path) -> None:
    """Without a client between: names, shapes, and types as HDF5 itself has them."""
    write_hdf5(tmp_path / "zoo.h5", snapshot(zoo()))
    root = Objects(Snapshot(1, snapshot(zoo()))).root
    seen = 0

    def same(ours: HdfGroup, theirs: Any) -> None:
        nonlocal seen
        assert sorted(ours.members) == sorted(theirs)
        assert sorted(ours.attrs) == sorted(theirs.attrs)
        for name, node in ours.members.items():
            seen += 1
            if isinstance(node, HdfDataset):
                assert sorted(node.attrs) == sorted(theirs[name].attrs)
                same_type(node.leaf, theirs[name])
            else:
                same(node, theirs[name])

    with h5py.File(tmp_path / "zoo.h5") as file:
        same(root, file)
    assert seen > 100


def same_type(ours: Leaf, theirs: Any) -> None:
    assert shape_json(ours).get("dims", []) == list(theirs.shape or ())
    if ours.text:
        assert h5py.check_string_dtype(theirs.dtype).length is None
        assert type_json(ours)["length"] == "H5T_VARIABLE"
    elif ours.array is not None:
        assert ours.array.dtype == theirs.dtype


# -- raw bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["image", "pair", "group/empty", "map/keys", "map/roi1", "flat"])
def test_an_array_comes_as_bytes_and_as_npy(people: People, path: str) -> None:
    raw = people.ask(f"/api/v1/state/{path}", headers=OCTETS)
    npy = people.ask(f"/api/v1/state/{path}?format=npy")
    assert npy.headers["content-type"] == "application/x-npy"
    array = np.load(io.BytesIO(npy.content), allow_pickle=False)
    assert raw.headers["content-type"] == "application/octet-stream"
    assert raw.content == array.tobytes()
    described = raw.headers["x-beamfold-dtype"]
    fields = [tuple(field) for field in json.loads(described)] if described.startswith("[") else described
    shape = tuple(map(int, filter(None, raw.headers["x-beamfold-shape"].split(","))))
    assert (np.dtype(fields), shape) == (array.dtype, array.shape)
    assert ">" not in described


@pytest.mark.parametrize(("number", "dtype"), [(7, "<i8"), (1.5, "<f8"), (True, "|b1"), (1j, "<c16")])
def test_a_number_is_an_array_without_dimensions(number: Any, dtype: str) -> None:
    answer = People({"n": number}).ask("/api/v1/state/n?format=raw")
    assert (answer.headers["x-beamfold-dtype"], answer.headers["x-beamfold-shape"]) == (dtype, "")
    assert np.frombuffer(answer.content, dtype).tolist() == [number]


@pytest.mark.parametrize("path", ["", "/group", "/map", "/group/words", "/group/none"])
def test_what_is_no_array_has_no_bytes(people: People, path: str) -> None:
    assert "no array" in problem(people.ask(f"/api/v1/state{path}", headers=OCTETS), 406)
    assert "no array" in problem(people.ask(f"/api/v1/state{path}?format=npy"), 400)
    assert people.ask(f"/api/v1/state{path}", headers={"Accept": "application/json"}).status_code == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,*/*;q=0.8", "application/json"),
        ("application/octet-stream;q=0.1", "application/octet-stream"),
        ("application/octet-stream, application/json", "application/json"),
        ("application/json;q=0.5, application/x-npy", "application/x-npy"),
        ("application/octet-stream;q=x", "application/json"),
        ("application/x-npy;q=0", "application/json"),
    ],
)
def test_accept_decides(people: People, accept: str, kind: str) -> None:
    assert people.ask("/api/v1/state/image", headers={"Accept": accept}).headers["content-type"] == kind


def test_a_form_that_there_is_not_is_refused(people: People) -> None:
    assert "format" in problem(people.ask("/api/v1/state/image?format=pickle"), 422)
    assert problem(people.ask("/api/v1/state/nothing?format=raw"), 404)


# -- other origins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/state", "/api/v1/state/image?format=raw", "/?domain=/", "/about"])
def test_a_page_of_any_origin_may_read_but_not_as_somebody(people: People, path: str) -> None:
    answer = people.ask(path, headers={"Origin": "http://viewer.example", "Cookie": "a=b"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 400), ("PUT", 400)])
def test_a_page_of_another_origin_may_only_get(people: People, method: str, status: int) -> None:
    headers = {"Origin": "http://viewer.example", "Access-Control-Request-Method": method}
    answer = people.ask("/api/v1/state", "OPTIONS", headers=headers)
    assert answer.status_code == status


def test_an_endless_path_is_refused_at_once_and_an_odd_name_is_no_server_error() -> None:
    people = People({"\ud800": 1, "x": 2})
    assert "so deep" in problem(people.ask("/api/v1/state/" + "a/" * 20_000), 404)
    assert "there is no 'nosuch'" in problem(people.ask("/api/v1/state/nosuch"), 404)
