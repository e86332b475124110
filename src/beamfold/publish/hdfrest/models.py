"""HDF over HTTP in the OpenAPI document: the shapes of its JSON, and which answers there are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from beamfold.publish.answers import JSON, NOT_MODIFIED, OCTETS, STATE_ERRORS
from beamfold.publish.problems import responses

ID = r"^[gd]-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

Value = Any
"""Nested lists of the dataset's shape; structured elements are lists; "NaN", "Infinity", "-Infinity" are texts."""


class Times(BaseModel):
    """When the state was read, in seconds of Unix time."""

    created: float
    lastModified: float


class About(BaseModel):
    """What answers here."""

    name: str
    about: str
    state: Literal["READY"]
    version: str = Field(description="of Beamfold")
    start_time: int = Field(description="seconds of Unix time")
    domains: list[str] = Field(description="the live domain, and those that pin a version that is kept")


class Domain(Times):
    """A domain. `pinned` is the domain that stays as this one is now, while it is kept."""

    root: str = Field(pattern=ID)
    owner: str
    domain: str
    pinned: str
    beamfold_version: int
    class_: Literal["domain"] = Field(alias="class")


class Shape(BaseModel):
    """A dataspace."""

    model_config = ConfigDict(extra="forbid")

    class_: Literal["H5S_NULL", "H5S_SCALAR", "H5S_SIMPLE"] = Field(alias="class")
    dims: list[int] | None = Field(None, description="for H5S_SIMPLE only")


class Type(BaseModel):
    """A type; what else it has depends on its class."""

    model_config = ConfigDict(extra="allow")

    class_: Literal["H5T_INTEGER", "H5T_FLOAT", "H5T_STRING", "H5T_ENUM", "H5T_COMPOUND", "H5T_ARRAY", "H5T_OPAQUE"] = (
        Field(alias="class")
    )


class Link(Times):
    """A link to a group or dataset."""

    id: str = Field(pattern=ID)
    title: str
    collection: Literal["groups", "datasets"]
    class_: Literal["H5L_TYPE_HARD"] = Field(alias="class")


class LinkAnswer(Times):
    """One link."""

    link: Link


class Links(BaseModel):
    """The links of a group."""

    links: list[Link]


class Attribute(Times):
    """An attribute; its `value` where that was asked for, null for a null dataspace."""

    name: str
    shape: Shape
    type: Type
    value: Value = None


class Attributes(BaseModel):
    """The attributes of an object."""

    attributes: list[Attribute]


class Group(Times):
    """A group; links and attributes are embedded where they are asked for."""

    id: str = Field(pattern=ID)
    root: str = Field(pattern=ID)
    domain: str
    linkCount: int
    attributeCount: int
    links: dict[str, Link] = {}
    attributes: dict[str, Attribute] = {}


class Dataset(Times):
    """A dataset without its values."""

    id: str = Field(pattern=ID)
    root: str = Field(pattern=ID)
    domain: str
    shape: Shape
    type: Type
    creationProperties: dict[str, Any]
    attributeCount: int
    attributes: dict[str, Attribute] = {}


class ShapeAnswer(Times):
    """A dataset's shape."""

    shape: Shape


class TypeAnswer(Times):
    """A dataset's type."""

    type: Type


class ValueAnswer(BaseModel):
    """Values of a dataset."""

    value: Value


# -- what else the document says of a route ------------------------------------------------------------------

JSON_ANSWERS: dict[int | str, dict[str, Any]] = {**STATE_ERRORS, **NOT_MODIFIED, **responses(404, 410, 422)}
"""What any route may answer beside its own model."""

_OCTETS: dict[str, Any] = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}

VALUE_ANSWERS: dict[int | str, dict[str, Any]] = {**JSON_ANSWERS, **responses(400), 200: {"content": _OCTETS}}

POINTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            OCTETS: {"schema": {"type": "string", "format": "binary"}},
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "select": {"type": "string"},
                        "points": {"type": "array", "items": {}},
                        "fields": {"type": "string"},
                    },
                }
            },
        },
    }
}
