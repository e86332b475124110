"""Parameters: typed by declaration, indexable when they are lists, and a function of the event number."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from beamfold.model.errors import ParameterError
from beamfold.model.parameters import (
    BinaryParameter,
    BoolParameter,
    FloatParameter,
    IntParameter,
    JsonParameter,
    ParameterBase,
    ParameterHistory,
    ParameterSet,
    StrParameter,
    WorkParameter,
    encode_value,
    merge_declared,
)

ROI = b"[100, 200]"


def test_defaults_are_those_that_clients_know() -> None:
    declared = [
        StrParameter(name="s"),
        IntParameter(name="i"),
        FloatParameter(name="f"),
        BoolParameter(name="b"),
        BinaryParameter(name="x"),
        JsonParameter(name="j"),
    ]
    assert [p.default for p in declared] == ["", 0, 0.0, False, b"", []]
    assert [p.dtype for p in declared] == ["str", "int", "float", "bool", "binary", "json"]
    values = ParameterSet.build(declared, {}, 0)
    assert {n: p.value for n, p in values.items()} == {
        "s": "",
        "i": 0,
        "f": 0.0,
        "b": False,
        "x": b"",
        "j": [],
    }


@pytest.mark.parametrize(
    ("parameter", "data", "value"),
    [
        (StrParameter(name="p"), "Å".encode(), "Å"),
        (IntParameter(name="p"), b" -7\n", -7),
        (FloatParameter(name="p"), b"1e-3", 1e-3),
        (FloatParameter(name="p"), b"inf", math.inf),
        (BoolParameter(name="p"), b"True", True),
        (BoolParameter(name="p"), b"true", True),
        (BoolParameter(name="p"), b"0", False),
        (BinaryParameter(name="p"), b"\x00\xff", b"\x00\xff"),
        (JsonParameter(name="p"), ROI, [100, 200]),
        (JsonParameter(name="p"), b' {"a": {"b": null}}', {"a": {"b": None}}),
    ],
)
def test_bytes_become_the_declared_type(parameter: ParameterBase, data: bytes, value: Any) -> None:
    found = parameter.from_bytes(data)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("parameter", "data"),
    [
        (StrParameter(name="gain"), b"\xff\xfe"),
        (IntParameter(name="gain"), b"5.0"),
        (IntParameter(name="gain"), b""),
        (IntParameter(name="gain"), b"9" * 10_000),
        (FloatParameter(name="gain"), b"one"),
        (FloatParameter(name="gain"), b"\xff"),
        (BoolParameter(name="gain"), b"yes please"),
        (JsonParameter(name="gain"), b"3"),
        (JsonParameter(name="gain"), b"[1,"),
        (JsonParameter(name="gain"), b"[\xff]"),
        (JsonParameter(name="gain"), b"[" * 200_000),
    ],
)
def test_bytes_that_do_not_fit_are_refused_by_name(parameter: ParameterBase, data: bytes) -> None:
    with pytest.raises(ParameterError, match="'gain' wants") as caught:
        parameter.from_bytes(data)
    assert len(str(caught.value)) < 200


@given(
    st.one_of(
        st.tuples(st.just(StrParameter), st.text()),
        st.tuples(st.just(IntParameter), st.integers()),
        st.tuples(st.just(FloatParameter), st.floats(allow_nan=False)),
        st.tuples(st.just(BoolParameter), st.booleans()),
        st.tuples(st.just(BinaryParameter), st.binary()),
        st.tuples(st.just(JsonParameter), st.lists(st.integers() | st.text() | st.none())),
        st.tuples(st.just(JsonParameter), st.dictionaries(st.text(), st.booleans())),
    )
)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_what_is_read(case: tuple[type[ParameterBase], Any]) -> None:
    kind, value = case
    parameter = kind(name="p", dtype=kind.model_fields["dtype"].default)
    assert parameter.from_bytes(parameter.to_bytes(value)) == value


@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b'["', b"nan", b"[NaN]"]))
@settings(max_examples=150, deadline=None)
def test_hostile_bytes_raise_nothing_but_parameter_errors(data: bytes) -> None:
    for kind in (StrParameter, IntParameter, FloatParameter, BoolParameter, BinaryParameter, JsonParameter):
        with contextlib.suppress(ParameterError):
            ParameterSet.build([kind(name="p")], {"p": data}, 1)
    assert ParameterSet.build([], {"p": data}, 1)["p"].data == data


def test_a_value_of_the_wrong_kind_is_not_written() -> None:
    with pytest.raises(ParameterError, match="'n' wants a whole number"):
        IntParameter(name="n").to_bytes("many")
    with pytest.raises(ParameterError, match="cannot be written as JSON"):
        JsonParameter(name="n").to_bytes({"a": object()})


def test_a_misspelt_field_or_an_impossible_name_is_a_message() -> None:
    with pytest.raises(ValidationError, match="defualt"):
        IntParameter(name="n", defualt=3)  # type: ignore[call-arg]
    for name in ("", "a\nb", "\x00"):
        with pytest.raises(ValidationError, match="name"):
            StrParameter(name=name)
        with pytest.raises(ParameterError, match="name"):
            ParameterSet.build([], {name: b""}, 0)


def test_describe_is_json() -> None:
    parameter = BinaryParameter(name="mask", description="bad pixels", default=b"\xff")
    assert json.loads(json.dumps(parameter.describe())) == {
        "name": "mask",
        "description": "bad pixels",
        "dtype": "binary",
        "default": "\\xff",
    }


# -- indexing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declared",
    [
        [],
        [JsonParameter(name="roi1", default=[0, 1])],
        [StrParameter(name="roi1")],
        [BinaryParameter(name="roi1")],
    ],
)
def test_a_list_parameter_can_be_indexed_declared_or_not(declared: list[ParameterBase]) -> None:
    parameters = ParameterSet.build(declared, {"roi1": ROI}, 1)
    spectrum = list(range(300))
    assert spectrum[parameters["roi1"][0] : parameters["roi1"][1]] == list(range(100, 200))
    lo, hi = parameters["roi1"]
    assert (lo, hi, len(parameters["roi1"]), 200 in parameters["roi1"]) == (100, 200, 2, True)


def test_a_mapping_parameter_can_be_indexed() -> None:
    parameters = ParameterSet.build([], {"fit": b'{"order": 2}'}, 1)
    assert parameters["fit"]["order"] == 2
    assert parameters["fit"].value == {"order": 2}
    assert list(parameters["fit"]) == ["order"]


def test_undeclared_parameters_have_bytes_and_no_value() -> None:
    found = ParameterSet.build([], {"n": b"5", "t": b"[not json"}, 1)
    assert (found["n"].value, found["n"].data) == (None, b"5")
    assert (found["t"].value, found["t"].data) == (None, b"[not json")
    with pytest.raises(TypeError, match="'n' is b'5', neither a list nor a mapping"):
        found["n"][0]


def test_a_work_parameter_made_by_hand() -> None:
    parameter = WorkParameter(name="roi1", data="[100, 200]")  # type: ignore[arg-type]
    assert parameter.data == ROI
    assert parameter.value is None
    assert parameter[1] == 200
    assert WorkParameter("n", memoryview(b"5"), 5) == WorkParameter("n", b"5", 5)  # type: ignore[arg-type]
    assert hash(parameter) == hash(WorkParameter("roi1", ROI))
    assert WorkParameter("empty", b"", []), "a parameter is there, whatever its value"
    with pytest.raises(ParameterError, match="bytes or text, not int"):
        WorkParameter("n", 5)  # type: ignore[arg-type]


# -- sets ----------------------------------------------------------------------------------------------------


def test_a_set_says_everything_that_does_not_fit() -> None:
    with pytest.raises(ParameterError, match=r"'a' wants a whole number.*'b' wants True or False"):
        ParameterSet.build([IntParameter(name="a"), BoolParameter(name="b")], {"a": b"x", "b": b"y", "c": b""}, 1)


def test_the_hash_knows_names_and_bytes_and_nothing_else() -> None:
    build = ParameterSet.build
    one = build([], {"a": b"1", "b": b"2"}, 1)
    assert one.hash == build([IntParameter(name="a")], {"b": b"2", "a": b"1"}, 9).hash
    assert one.hash == build([IntParameter(name="a", default=1)], {"b": b"2"}, 1).hash
    others = [{}, {"a": b"1"}, {"a": b"2", "b": b"1"}, {"ab": b"12"}, {"a": b"1", "b": b"2", "c": b""}]
    assert len({one.hash, *(build([], raw, 1).hash for raw in others)}) == 6
    assert len(one.hash) == 64
    int(one.hash, 16)


def test_a_set_is_a_dict_that_cannot_be_changed() -> None:
    parameters = ParameterSet.build([], {"a": b"1"}, 3)
    assert isinstance(parameters, dict)
    assert parameters.get("b") is None
    assert parameters.raw() == {"a": b"1"}
    for change in (
        lambda: parameters.__setitem__("a", parameters["a"]),
        lambda: parameters.update(a=parameters["a"]),
        lambda: parameters.setdefault("b", parameters["a"]),
        lambda: parameters.pop("a"),
        lambda: parameters.popitem(),
        lambda: parameters.clear(),
        lambda: parameters.__delitem__("a"),
        lambda: parameters.__ior__({}),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert type(parameters.copy()) is dict
    for twin in (pickle.loads(pickle.dumps(parameters)), copy.deepcopy(parameters)):
        assert (twin, twin.version, twin.hash) == (parameters, 3, parameters.hash)
        assert type(twin) is ParameterSet


def test_a_missing_parameter_is_a_key_error_that_helps() -> None:
    with pytest.raises(KeyError, match=r"no parameter 'roi2'.*there are: roi1.*describe_parameters"):
        ParameterSet.build([], {"roi1": ROI}, 1)["roi2"]


def test_worker_and_reducer_see_what_either_declares() -> None:
    nan = float("nan")
    worker = [FloatParameter(name="t", default=nan), IntParameter(name="n", default=1)]
    reducer = [FloatParameter(name="t", default=float("nan"), description="time"), StrParameter(name="a")]
    merged = merge_declared(worker, reducer)
    assert [p.name for p in merged] == ["a", "n", "t"]
    assert merged[2].description == "time"
    with pytest.raises(ParameterError, match="'n' is declared twice and differently"):
        merge_declared(worker, [IntParameter(name="n", default=2)])
    with pytest.raises(ParameterError, match="as int with default 1 and as float"):
        merge_declared(worker, [FloatParameter(name="n", default=1)])


def test_plain_values_become_raw_bytes() -> None:
    values = {"s": "x", "i": 3, "f": 0.5, "b": True, "l": [1, "Å"], "m": {"k": [1]}, "y": b"\x00"}
    assert {n: encode_value(n, v) for n, v in values.items()} == {
        "s": b"x",
        "i": b"3",
        "f": b"0.5",
        "b": b"True",
        "l": '[1, "Å"]'.encode(),
        "m": b'{"k": [1]}',
        "y": b"\x00",
    }
    with pytest.raises(ParameterError, match="'s'"):
        encode_value("s", "\ud800")


# -- history -------------------------------------------------------------------------------------------------


def _version(n: int) -> ParameterSet:
    return ParameterSet.build([], {"v": b"%d" % n}, n)


def test_the_version_is_a_function_of_the_event_number() -> None:
    one, two, three = _version(1), _version(2), _version(3)
    history = ParameterHistory([(0, one), (10, two)])
    assert [history.at(e) for e in (0, 9, 10, 11, 3)] == [one, one, two, two, one]
    assert history.at_run(3) == (one, 10)
    assert history.at_run(10) == (two, None)
    history.append(25, three)
    assert history.at_run(10) == (two, 25)
    assert history.at(10**15) is history.latest is three
    assert ParameterHistory(history.entries()).entries() == [(0, one), (10, two), (25, three)]
    assert len(history) == 3


def test_versions_that_nobody_asks_for_any_more_are_forgotten() -> None:
    history = ParameterHistory([(0, _version(1)), (10, _version(2)), (20, _version(3))])
    history.forget(9)
    assert len(history) == 3
    history.forget(12)
    assert [history.at(e).version for e in (12, 19, 20)] == [2, 2, 3] and len(history) == 2
    assert history.at(0).version == 2, "a part that is done already, and whose result nobody takes"
    history.forget(10**6)
    assert len(history) == 1 and history.latest.version == history.at(20).version == 3
    history.append(10**6, _version(4))
    assert history.at(10**6).version == 4


def test_of_two_changes_at_one_event_the_later_holds() -> None:
    history = ParameterHistory([(0, _version(1)), (0, _version(2)), (4, _version(3)), (4, _version(4))])
    assert [history.at(e).version for e in range(6)] == [2, 2, 2, 2, 4, 4]
    assert history.at_run(0)[1] == 4


def test_an_answer_given_before_a_change_is_not_given_after_it() -> None:
    history = ParameterHistory([(0, _version(1))])
    assert history.at(7).version == 1
    history.append(5, _version(2))
    assert history.at(7).version == 2


def test_history_cannot_be_rewritten() -> None:
    with pytest.raises(ParameterError, match="event 0 on"):
        ParameterHistory([])
    with pytest.raises(ParameterError, match="event 0 on, not from 1"):
        ParameterHistory([(1, _version(1))])
    history = ParameterHistory([(0, _version(1)), (10, _version(2))])
    with pytest.raises(ParameterError, match="version 3 from event 9 cannot follow version 2 from event 10"):
        history.append(9, _version(3))
    with pytest.raises(ParameterError, match="cannot follow"):
        history.append(11, _version(2))
    with pytest.raises(ParameterError, match="no event -1"):
        history.at(-1)


@given(st.lists(st.integers(0, 30), max_size=8), st.lists(st.integers(0, 35), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_order_of_questions_gets_the_same_answers(changes: list[int], events: list[int]) -> None:
    entries = [(0, _version(0)), *((e, _version(i)) for i, e in enumerate(sorted(changes), 1))]
    history = ParameterHistory(entries)
    for event in events:
        expected = max(v.version for e, v in entries if e <= event)
        assert history.at(event).version == expected
        found, until = history.at_run(event)
        later = [e for e, _ in entries if e > event]
        assert (found.version, until) == (expected, min(later, default=None))
