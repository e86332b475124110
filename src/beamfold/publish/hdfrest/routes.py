"""The routes of HDF over HTTP. Each answers from one snapshot; `domain` may pin which one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from http import HTTPStatus
from importlib.metadata import version as version_of_package
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from beamfold.publish.answers import (
    JSON,
    OCTETS,
    Body,
    Make,
    NoneMatch,
    answer,
    preferred,
    snapshot_of,
    takes_gzip,
)
from beamfold.publish.hdfrest import models
from beamfold.publish.hdfrest.objects import LIVE, NotThere, Objects, version_of
from beamfold.publish.hdfrest.reading import Wanted, values_body
from beamfold.publish.hdfrest.told import Told
from beamfold.publish.leaf import Leaf
from beamfold.publish.problems import read_body, refuse, responses
from beamfold.publish.snapshots import Snapshot, SnapshotGone, Snapshots

MAX_BODY = 64 << 20
"""Bytes of a POST: coordinates of a few million points."""

# Without a limit all are answered: clients take what they get for all that there is.
Limit = Annotated[int | None, Query(alias="Limit", ge=1, description="entries at most")]
Marker = Annotated[str | None, Query(alias="Marker", description="name of the entry before the first")]
Creation = Annotated[bool, Query(alias="CreateOrder", description="in the app's order, not by name")]


class Collection(StrEnum):
    """What has attributes."""

    groups = "groups"
    datasets = "datasets"


def hdf_routes(snapshots: Snapshots) -> APIRouter:
    """All routes but "/", which is shared with the page for people: see `domain_answer`."""
    router = APIRouter(tags=["HDF"])
    pinned = _snapshot(snapshots)
    started = int(time.time())

    @router.get("/about", response_model=models.About)
    async def about() -> dict[str, Any]:
        """What answers here, and which domains there are."""
        return {
            "name": "Beamfold",
            "about": "the published state of a reducer, to be read with h5pyd, silx or H5Web",
            "state": "READY",
            "version": version_of_package("beamfold"),
            "start_time": started,
            "domains": [LIVE, *(f"{LIVE}@{version}" for version in snapshots.versions())],
        }

    _groups(router, pinned)
    _datasets(router, pinned)
    _attributes(router, pinned)
    return router


async def domain_answer(snapshots: Snapshots, domain: str | None, none_match: str | None) -> Response:
    """The domain's document. HTTPException 404, 410, 500 or 503."""
    snapshot = await _of_domain(snapshots, domain)
    with suppress(SnapshotGone):  # the client is told how to pin it, so it is held until it comes back to that
        snapshots.pinned(snapshot.version)
    return await _json(snapshot, none_match, Objects.domain_json)


async def _of_domain(snapshots: Snapshots, domain: str | None) -> Snapshot:
    try:
        version = version_of(domain)
    except NotThere as error:
        raise refuse(HTTPStatus.NOT_FOUND, str(error)) from None
    return await snapshot_of(snapshots, version)


def _snapshot(snapshots: Snapshots) -> Any:
    """The dependency that gives every route the snapshot of its `domain`."""

    async def of_domain(
        domain: Annotated[str | None, Query(description="/live, or /live@VERSION for one that is kept")] = None,
    ) -> Snapshot:
        return await _of_domain(snapshots, domain)

    return Depends(of_domain)


async def _json(snapshot: Snapshot, none_match: str | None, document: Callable[[Objects], Any]) -> Response:
    def make() -> Body:
        return msgspec.json.encode(document(Objects.of(snapshot))), JSON, {}

    return await _found(snapshot, none_match, make)


async def _found(snapshot: Snapshot, none_match: str | None, make: Make, form: str = "") -> Response:
    try:
        return await answer(snapshot, none_match, make, form)
    except NotThere as error:
        raise refuse(HTTPStatus.NOT_FOUND, str(error)) from None


def _groups(router: APIRouter, pinned: Any) -> None:
    @router.get("/groups/{group_id}", response_model=models.Group, responses=models.JSON_ANSWERS)
    async def group(
        group_id: str,
        include_links: bool = False,
        include_attrs: bool = False,
        none_match: NoneMatch = None,
        snapshot: Snapshot = pinned,
    ) -> Response:
        """A group."""
        return await _json(
            snapshot,
            none_match,
            lambda objects: objects.group_json(objects.group(group_id), include_links, include_attrs),
        )

    @router.get("/groups/{group_id}/links", response_model=models.Links, responses=models.JSON_ANSWERS)
    async def links(
        group_id: str,
        creation: Creation = False,
        limit: Limit = None,
        marker: Marker = None,
        none_match: NoneMatch = None,
        snapshot: Snapshot = pinned,
    ) -> Response:
        """What a group contains, sorted by name."""
        return await _json(
            snapshot, none_match, lambda objects: objects.links_json(objects.group(group_id), creation, limit, marker)
        )

    @router.get("/groups/{group_id}/links/{name:path}", response_model=models.LinkAnswer, responses=models.JSON_ANSWERS)
    async def link(group_id: str, name: str, none_match: NoneMatch = None, snapshot: Snapshot = pinned) -> Response:
        """One link of a group."""
        return await _json(snapshot, none_match, lambda objects: objects.link_json(objects.group(group_id), name))


def _datasets(router: APIRouter, pinned: Any) -> None:
    told = Told()

    @router.get("/datasets/{dataset_id}", response_model=models.Dataset, responses=models.JSON_ANSWERS)
    async def dataset(
        request: Request,
        dataset_id: str,
        include_attrs: bool = False,
        none_match: NoneMatch = None,
        snapshot: Snapshot = pinned,
    ) -> Response:
        """A dataset's shape and type."""

        def document(objects: Objects) -> Any:
            node = objects.dataset(dataset_id)
            told.tell(request, dataset_id, node.leaf)
            return objects.dataset_json(node, include_attrs)

        return await _json(snapshot, none_match, document)

    @router.get("/datasets/{dataset_id}/shape", response_model=models.ShapeAnswer, responses=models.JSON_ANSWERS)
    async def shape(dataset_id: str, none_match: NoneMatch = None, snapshot: Snapshot = pinned) -> Response:
        """A dataset's shape alone."""
        return await _json(snapshot, none_match, lambda objects: _only("shape", objects, dataset_id))

    @router.get("/datasets/{dataset_id}/type", response_model=models.TypeAnswer, responses=models.JSON_ANSWERS)
    async def type_(dataset_id: str, none_match: NoneMatch = None, snapshot: Snapshot = pinned) -> Response:
        """A dataset's type alone."""
        return await _json(snapshot, none_match, lambda objects: _only("type", objects, dataset_id))

    @router.get("/datasets/{dataset_id}/value", response_model=models.ValueAnswer, responses=models.VALUE_ANSWERS)
    async def value(
        request: Request,
        dataset_id: str,
        select: Annotated[str | None, Query(description='one entry per dimension, like "[0:10:2,3,[1,4]]"')] = None,
        fields: Annotated[str | None, Query(description="fields of a structured dataset, a:b")] = None,
        none_match: NoneMatch = None,
        snapshot: Snapshot = pinned,
    ) -> Response:
        """Values, or some of them: little- or big-endian as the type says, in C order; or JSON.

        All of a dataset that has grown since its shape was asked for over the same connection are as many as then.
        """

        def wanted(content: Leaf) -> Wanted:
            return Wanted(select or told.select(request, dataset_id, content), None, fields or None)

        return await _values(request, snapshot, none_match, dataset_id, wanted)

    @router.post(
        "/datasets/{dataset_id}/value",
        response_model=models.ValueAnswer,
        responses={**models.VALUE_ANSWERS, **responses(413)},
        openapi_extra=models.POINTS_BODY,
    )
    async def points(request: Request, dataset_id: str, snapshot: Snapshot = pinned) -> Response:
        """Values at points, (n, rank) little-endian uint64; or a long `select`, as JSON."""
        body = await read_body(request, MAX_BODY)
        media_type = request.headers.get("content-type", "")
        return await _values(request, snapshot, None, dataset_id, lambda _: Wanted.of_body(body, media_type))


def _only(part: str, objects: Objects, dataset_id: str) -> dict[str, Any]:
    found = objects.dataset_json(objects.dataset(dataset_id))
    return {key: found[key] for key in (part, "created", "lastModified")}


async def _values(
    request: Request, snapshot: Snapshot, none_match: str | None, dataset_id: str, wanted: Callable[[Leaf], Wanted]
) -> Response:
    """Values; which of the content is `wanted` is found out in the thread too, as a body may be long."""
    octets = preferred(request.headers.get("accept"), (JSON, OCTETS)) == OCTETS
    gzip = takes_gzip(request)
    form = ("-octets" if octets else "") + ("-gzip" if gzip else "")

    def make() -> Body:
        content = Objects.of(snapshot).dataset(dataset_id).leaf
        found = wanted(content)
        body, media_type, headers = values_body(content, found, octets, gzip)
        if found.select and request.method == "GET" and not request.query_params.get("select"):
            # Not what another client would get at this address.
            headers = {**headers, "ETag": f'"{snapshot.version}{form}-{found.select}"'}
        return body, media_type, headers

    return await _found(snapshot, none_match, make, form)


def _attributes(router: APIRouter, pinned: Any) -> None:
    def node(objects: Objects, collection: Collection, object_id: str) -> Any:
        return objects.group(object_id) if collection is Collection.groups else objects.dataset(object_id)

    @router.get("/{collection}/{object_id}/attributes", response_model=models.Attributes, responses=models.JSON_ANSWERS)
    async def attributes(
        collection: Collection,
        object_id: str,
        creation: Creation = False,
        limit: Limit = None,
        marker: Marker = None,
        values: Annotated[bool, Query(alias="IncludeData")] = False,
        none_match: NoneMatch = None,
        snapshot: Snapshot = pinned,
    ) -> Response:
        """The attributes of a group or dataset, sorted by name."""
        return await _json(
            snapshot,
            none_match,
            lambda objects: objects.attributes_json(
                node(objects, collection, object_id), creation, limit, marker, values
            ),
        )

    @router.get(
        "/{collection}/{object_id}/attributes/{name:path}",
        response_model=models.Attribute,
        responses=models.JSON_ANSWERS,
    )
    async def attribute(
        collection: Collection, object_id: str, name: str, none_match: NoneMatch = None, snapshot: Snapshot = pinned
    ) -> Response:
        """One attribute with its value."""
        return await _json(
            snapshot, none_match, lambda objects: objects.attribute_json(node(objects, collection, object_id), name)
        )
