"""A reducer's state as bytes and back: what is one object stays one, and what cannot be kept is named."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr

from beamfold.model.errors import CodecError
from beamfold.model.events import ResultData
from beamfold.protocols.codec import TypeTable, encode
from beamfold.reduce.state import Unsaveable, decode_state, encode_state, give_state, state_of

TYPES = TypeTable([sys.modules[__name__]])


class Colour(Enum):
    RED = 1


@dataclass
class Roi:
    name: str
    counts: Any = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    x: int
    y: float


class Pair(NamedTuple):
    left: Any
    right: Any


class Fit(BaseModel):
    values: list[Any]
    _seen: list[Any] = PrivateAttr(default_factory=list)
    _later: Any = PrivateAttr()


def same(a: Any, b: Any) -> bool:
    return bool(a.dtype == b.dtype and np.array_equal(a, b))


def there_and_back(state: Any, *outside: object) -> Any:
    return decode_state(encode_state(state, TYPES, outside), TYPES, outside)


def test_what_publish_shares_with_an_attribute_is_shared_again() -> None:
    class Reducer:
        def __init__(self) -> None:
            self.map = np.zeros((3, 2000))
            self.publish: dict[str, Any] = {"map": self.map, "rois": {}}
            self.rois = self.publish["rois"]
            self.publish_rlock = threading.RLock()
            self.gone = 1

    before, after = Reducer(), Reducer()
    before.map[1] = 7
    before.rois["a"] = [1]
    del before.gone
    before.new = Pair(before.rois, {1, 2})  # type: ignore[attr-defined]
    lock = after.publish_rlock
    give_state(after, there_and_back(state_of(before)))
    assert same(after.map, before.map) and after.publish["map"] is after.map
    assert after.rois == {"a": [1]} and after.publish["rois"] is after.rois
    assert after.new.left is after.rois and type(after.new) is Pair  # type: ignore[attr-defined]
    assert not hasattr(after, "gone")
    assert after.publish_rlock is lock
    after.map += 1
    assert after.publish["map"][1, 0] == 8


def test_objects_of_the_app_and_what_contains_itself() -> None:
    roi = Roi("a")
    roi.counts.append(roi)
    fit = Fit(values=[roi])
    fit._seen.append(fit)
    ring: list[Any] = [(1, [2]), OrderedDict(b=1), Colour.RED, {Place(1, 2.0): "here", (1, "k"): frozenset({3})}]
    ring.append((ring, "again"))
    found = there_and_back({"roi": roi, "fit": fit, "ring": ring})
    assert found["roi"].counts[0] is found["roi"] is found["fit"].values[0]
    assert found["fit"]._seen[0] is found["fit"]
    again = found["ring"]
    assert again[4][0] is again and again[4][1] == "again"
    assert again[:4] == ring[:4] and type(again[1]) is OrderedDict


def test_what_belongs_to_the_process_is_only_named() -> None:
    context, state = {"handle": object()}, object()
    found = there_and_back({"a": context, "b": [state, context]}, state, context)
    assert found["a"] is context and found["b"][0] is state and found["b"][1] is context


def test_arrays_are_as_they_were() -> None:
    columns = np.asfortranarray(np.random.default_rng(1).random((60, 70)))
    state = {"columns": columns, "none": np.zeros(0), "bytes": bytearray(b"x" * 5000), "odd": np.arange(20)[::2]}
    found = there_and_back(state)
    assert same(found["columns"], columns) and found["columns"].flags.f_contiguous
    assert found["columns"].sum() == columns.sum()
    assert found["odd"].tolist() == state["odd"].tolist()
    assert found["bytes"] == state["bytes"]
    found["columns"][0, 0] = 1
    found["bytes"][0] = 1


class Plain:
    pass


BASE = np.zeros(1000)
REFUSED: list[tuple[Any, str]] = [
    ({"file": open}, r"state\['file'\]: builtin_function_or_method cannot be kept"),
    ({"a": [1, {"lock": threading.Lock()}]}, r"state\['a'\]\[1\]\['lock'\]: _thread.lock cannot be kept"),
    ({"a": Plain()}, "Plain cannot be kept"),
    ({"map": BASE, "row": BASE[3:4]}, r"state\['map'\] and state\['row'\] share memory; keep a copy"),
    ({"even": BASE[::2], "odd": BASE[1::2]}, "share memory"),
    ({"back": BASE[::-1], "one": BASE[:1]}, "share memory"),
    ({"raw": (raw := bytearray(8)), "array": np.frombuffer(raw)}, "share memory"),
    ({"objects": np.array([None])}, "an array of Python objects"),
    ({"keys": {(1, Plain()): 1}}, "the key or item"),
    ({"set": {Plain()}}, "the key or item"),
    ({"last": ResultData(1, "w", [])}, "ResultData cannot be kept"),
    ({"view": memoryview(bytearray(8))}, "memoryview cannot be kept"),
    (Roi("a", Plain()), r"state\.counts: "),
]


@pytest.mark.parametrize(("state", "text"), REFUSED)
def test_what_cannot_be_kept_is_named(state: Any, text: str) -> None:
    with pytest.raises(Unsaveable, match=text):
        encode_state(state, TYPES)


def test_a_state_that_is_nested_without_end_is_refused_and_a_deep_one_is_not() -> None:
    deep: Any = []
    for _ in range(150):  # more than one result may be
        deep = [deep]
    assert there_and_back(deep) == deep
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Unsaveable, match="nested too deeply"):
        encode_state(deep, TYPES)
    while deep:  # or its end would nest as deeply
        deep = deep[0]


def test_the_place_is_named_by_the_file_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, pytest.raises(Unsaveable, match=r"state\['log'\]: _io.TextIOWrapper"):
        encode_state({"log": file}, TYPES)


@pytest.mark.parametrize("value", [1, [1, 2], [1, [], [5]], [1, [], 3], ["a", None, []]])
def test_what_is_no_state_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        decode_state([encode(value, [])], TYPES)


_leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3))


@settings(max_examples=100)
@given(st.data())
def test_any_state_is_as_it_was_with_the_same_objects_in_the_same_places(data: st.DataObject) -> None:
    """Containers that hold one another at random: afterwards each is where it was."""
    kinds = data.draw(st.lists(st.sampled_from([list, dict, Roi, np.ndarray]), min_size=1, max_size=6))
    pool: list[Any] = [
        np.arange(i + 1) if kind is np.ndarray else Roi(str(i), []) if kind is Roi else kind()
        for i, kind in enumerate(kinds)
    ]
    for container in pool:
        if isinstance(container, np.ndarray):
            continue
        inside = data.draw(st.lists(st.one_of(_leaf, st.sampled_from(pool)), max_size=4))
        inside = [(item, 1) if data.draw(st.booleans()) else item for item in inside]
        if isinstance(container, Roi):
            container.counts = tuple(inside)
        elif isinstance(container, dict):
            container.update(enumerate(inside))
        else:
            container.extend(inside)
    found = there_and_back(pool)
    numbers = {id(before): i for i, before in enumerate(pool)} | {id(after): i for i, after in enumerate(found)}

    def shape(value: Any, top: bool = False) -> Any:
        if not top and id(value) in numbers:
            return ("number", numbers[id(value)])
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, Roi):
            return (value.name, shape(value.counts))
        if isinstance(value, dict):
            return [(key, shape(item)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(shape, value)]
        return repr(value)

    assert [shape(value, True) for value in found] == [shape(value, True) for value in pool]
