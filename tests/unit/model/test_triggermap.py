"""The trigger map says what a naive reading of the sequence, event by event, says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import MapError
from beamfold.model.triggermap import TriggerMap, WrittenMap, compile_map, compile_sequence, compile_uniform
from unit.model.reference import Reference, assert_plain, assert_same

STREAMS = ["eiger", "xspress3", "pcap"]
TAGS = [["generic"], ["gpu"], ["generic", "gpu"]]


@st.composite
def parts(draw: st.DrawFn) -> dict[str, list[Any]]:
    """A part in which every constraint keeps its tags."""
    length = draw(st.integers(0, 6))
    tags = {c: draw(st.sampled_from([None, *TAGS])) for c in range(4)}

    def target(constraint: int | None, own: list[str] | None) -> dict[str, Any]:
        given_tags = own if constraint is None else tags[constraint]
        out: dict[str, Any] = {} if given_tags is None else {"tags": given_tags}
        return out if constraint is None and own is TAGS[1] else {**out, "constraint": constraint}

    targets = st.builds(target, st.one_of(st.none(), *[st.just(c) for c in range(4)]), st.sampled_from([None, *TAGS]))
    cell = st.one_of(st.none(), st.lists(targets, max_size=3), st.lists(targets, min_size=1, max_size=1))
    streams = draw(st.lists(st.sampled_from(STREAMS), min_size=1, unique=True))
    return {s: draw(st.lists(cell, min_size=length, max_size=length)) for s in streams}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A whole sequence."""
    named = draw(st.dictionaries(st.sampled_from(["line", "flyback", "dark"]), parts(), min_size=1, max_size=3))
    return {
        "parts": named,
        "sequence": draw(st.lists(st.sampled_from(sorted(named)), min_size=1, max_size=4)),
    }


@given(bodies(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_sequence_means_what_it_says_event_by_event(body: dict[str, Any], wrap: bool) -> None:
    assert_same(compile_sequence(body, all_wrap=wrap), Reference(body, wrap))


@given(bodies(), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_closed_sequence_is_the_same_sequence_cut(body: dict[str, Any], wrap: bool, data: st.DataObject) -> None:
    m, ref = compile_sequence(body, all_wrap=wrap), Reference(body, wrap)
    last = data.draw(st.integers(0 if wrap else -1, len(ref.events) - (2 if wrap else 1)))
    closed = m.closed_at(last)
    ref.cut(last)
    assert closed.groups == m.groups
    assert_same(closed, ref)


@given(bodies(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_sequence_survives_the_wire(body: dict[str, Any], wrap: bool) -> None:
    m = compile_sequence(body, all_wrap=wrap)
    wire = m.to_wire()
    assert_plain(wire)
    again = TriggerMap.from_wire(wire)
    assert again.groups == m.groups
    assert_same(again, Reference(body, wrap))


def test_cells_of_one_constraint_may_interleave_between_streams() -> None:
    own = [[{"constraint": c}] for c in (5, 7, 5)]
    m = compile_sequence({"parts": {"p": {"a": own, "b": own[::-1]}}, "sequence": ["p", "p"]}, all_wrap=False)
    assert m.route(0, 0, 6).virtual.tolist() == [0, 1, 0, 2, 3, 2]
    assert m.route(1, 0, 6).virtual.tolist() == [0, 1, 0, 2, 3, 2]
    assert [m.constraint(v) for v in range(4)] == [5, 7, 5, 7]


def test_a_discarded_frame_takes_an_ordinal_and_goes_nowhere() -> None:
    cells = [[], None, [{"constraint": 0}]]
    m = compile_sequence({"parts": {"p": {"a": cells}}, "sequence": ["p"]}, all_wrap=False)
    assert m.events(0, 0, 9).tolist() == [0, 2]
    assert m.route(0, 0, 2).index.tolist() == [1]
    assert m.part_count(0, []) == 0


def test_start_and_end_go_to_every_tag_once() -> None:
    cells = [[{"tags": ["b", "a"], "constraint": 0}], [{"tags": ["b"], "constraint": None}]]
    m = compile_map({"parts": {"p": {"s": cells}}, "sequence": ["p"]})
    assert m.groups == (frozenset({"a"}), frozenset({"b"}))
    assert m.route(0, 0, 1).virtual.tolist() == [-1, -2]
    assert m.part_count(0, [0b011, 0b110]) == 3
    assert m.part_count(2, [0b011, 0b110]) == 2


def test_what_comes_back_cannot_alter_the_map() -> None:
    m = compile_map({"parts": {"p": {"s": [[{"constraint": 0}]]}}, "sequence": ["p"]})
    for array in (*m.route(0, 0, 3)[1:], m.events(0, 0, 3), *m.parts_of(0, 1)):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_one_million_events_of_a_repeated_part_are_read_once() -> None:
    cells = [[{"constraint": i}] for i in range(1000)]
    m = compile_map({"parts": {"line": {"s": cells}}, "sequence": ["line"] * 1000})
    assert m.n_events == 1_000_002
    assert m.n_virtual == 1_000_000
    assert m.single_part(1, 1_000_001)
    assert m.plain_run(0) == 1_000_000
    assert len(b"".join(c for c in m.to_wire()["columns"][0] if isinstance(c, bytes))) < 200_000


CELL = [{"constraint": 0}]
BAD_BODIES: list[tuple[object, str]] = [
    ([], "an object with parts"),
    ({}, 'either "parts"'),
    ({"parts": {}, "streams": {}}, 'either "parts"'),
    ({"parts": {"a": {"s": [CELL]}}}, "sequence: Field required"),
    ({"parts": {"a": {"s": [CELL]}}, "sequence": []}, "sequence: .*at least 1"),
    ({"parts": {"a": {"s": [CELL]}}, "sequence": ["a", "b"]}, "parts that are not there: 'b'"),
    ({"parts": {"a": {}}, "sequence": ["a"]}, "no streams"),
    ({"parts": {}, "sequence": ["a"]}, "not there"),
    ({"parts": {"a": {"s": [CELL], "t": [CELL, CELL]}}, "sequence": ["a"]}, "'s' has 1, 't' has 2"),
    ({"parts": {"a": {"s": "abc"}}, "sequence": ["a"]}, r"parts\.a\.s: .*list"),
    (
        {"parts": {"a": {"s": [3]}}, "sequence": ["a"]},
        "part 'a', stream 's', cell 0: a cell is null or a list",
    ),
    ({"parts": {"a": {"s": [None, [3]]}}, "sequence": ["a"]}, "cell 1: a target is"),
    ({"parts": {"a": {"s": [[{"constraint": "1"}]]}}, "sequence": ["a"]}, "an integer or null, not '1'"),
    (
        {"parts": {"a": {"s": [[{"constraint": float("nan")}]]}}, "sequence": ["a"]},
        "integer or null, not nan",
    ),
    ({"parts": {"a": {"s": [[{"constraint": True}]]}}, "sequence": ["a"]}, "integer or null, not True"),
    ({"parts": {"a": {"s": [[{"constraint": 1 << 70}]]}}, "sequence": ["a"]}, "64 bits"),
    ({"parts": {"a": {"s": [[{"constraint": 1, "worker": 3}]]}}, "sequence": ["a"]}, "not worker"),
    (
        {"parts": {"a": {"s": [[{"tags": "gpu"}]]}}, "sequence": ["a"]},
        "tags must be a list of names, not 'gpu'",
    ),
    ({"parts": {"a": {"s": [[{"tags": [3]}]]}}, "sequence": ["a"]}, "tags must be names"),
    ({"parts": {"a": {"s": [[{"tags": [[]]}]]}}, "sequence": ["a"]}, "tags must be names"),
    ({"parts": {"a": {"s": [[{"tags": []}]]}}, "sequence": ["a"]}, "empty list of tags"),
    ({"parts": {"a": {"s": [[{"tags": None}]]}}, "sequence": ["a"]}, "tags must be a list"),
    (
        {"parts": {"a": {"s": [CELL], "t": [[{"constraint": 0, "tags": ["x"]}]]}}, "sequence": ["a"]},
        r"stream 't', cell 0: constraint 0 has the tags \['x'\], but \['generic'\]",
    ),
    ({"parts": {"a": {"": [CELL]}}, "sequence": ["a"]}, "'' cannot be a stream's name"),
    ({"parts": {"a": {"a\nb": [CELL]}}, "sequence": ["a"]}, "cannot be a stream's name"),
    ({"parts": {"a": {str(i): [CELL] for i in range(63)}}, "sequence": ["a"]}, "63 streams; at most 62"),
    ({"parts": {"a": {"s": [CELL] * 100_000}}, "sequence": ["a"] * 1000}, "100000000 events"),
    (
        {"parts": {"a": {"s": [[{"tags": [str(i)]} for i in range(70)]]}}, "sequence": ["a"]},
        "different tag sets are broadcast",
    ),
    (
        {"parts": {"a": {"s": [[{"constraint": i} for i in range(40000)]]}}, "sequence": ["a"]},
        "40000 constraints",
    ),
    ({"parts": {"a": {"s": [CELL]}}, "sequence": ["a"], "color": 1}, "color: Extra inputs"),
    ({"streams": []}, "no streams"),
    ({"streams": ["a", "a"]}, "named twice"),
    ({"streams": [1]}, "must hold their names"),
    ({"streams": 3}, "streams: "),
    ({"streams": {"a": {"every": 0}}}, r"streams\.a\.every: .*greater than or equal to 1"),
    ({"streams": {"a": {"first": 0}}}, r"streams\.a\.first: "),
    (
        {"streams": {"a": {"first": 1 << 53}}, "events": 1 << 53},
        r"streams\.a\.first: .*less than or equal to 4294967296",
    ),
    ({"streams": {"a": {"every": 1.5}}}, r"streams\.a\.every: "),
    ({"streams": {"a": {"each": 1}}}, r"streams\.a\.each: Extra"),
    ({"streams": ["a"], "events": -1}, "events: "),
    ({"streams": ["a"], "events": True}, "events: "),
    ({"streams": ["a"], "events": 10, "batch": 0}, "batch: "),
    ({"streams": ["a"], "events": 10, "tags": []}, "tags: "),
    ({"streams": {"a": {"every": 65537}, "b": {"every": 65539}}}, "repeat only after 4295229443 events"),
]


@pytest.mark.parametrize(("body", "text"), BAD_BODIES, ids=[t for _, t in BAD_BODIES])
def test_a_bad_map_is_refused_with_what_and_where(body: Any, text: str) -> None:
    with pytest.raises(MapError, match=text):
        compile_map(body)


def test_the_end_may_not_lie_beyond_the_map() -> None:
    body = {"parts": {"a": {"s": [CELL]}}, "sequence": ["a"]}
    for m in (
        compile_map(body),
        compile_map(body, all_wrap=False),
        compile_uniform({"streams": ["s"], "events": 1}),
    ):
        for last in (-2, 2):
            with pytest.raises(MapError, match=f"after event {last}"):
                m.closed_at(last)
    assert compile_map(body, all_wrap=False).closed_at(-1).n_events == 0


@pytest.mark.parametrize(
    "wire",
    [
        None,
        {},
        {"kind": "cube"},
        {"kind": ["sequence"]},
        {"kind": "sequence"},
        {"kind": "uniform", "streams": [["a", 0, 1]], "events": 3, "batch": 1, "tags": ["x"], "broadcast": 0},
        {"kind": "uniform", "streams": [["a"]], "events": 3, "batch": 1, "tags": ["x"], "broadcast": 0},
    ],
)
def test_what_is_no_map_on_the_wire_is_refused(wire: Any) -> None:
    with pytest.raises(MapError):
        TriggerMap.from_wire(wire)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_map_on_the_wire_is_refused_or_still_a_map(data: st.DataObject) -> None:
    body = {"parts": {"a": {"s": [CELL, None], "t": [[{"constraint": None}], CELL]}}, "sequence": ["a", "a"]}
    wire = compile_map(body).to_wire()
    key = data.draw(st.sampled_from(sorted(set(wire) - {"kind"})))
    junk = st.one_of(st.none(), st.integers(-3, 9), st.binary(max_size=30), st.text(), st.just([]))
    if key == "columns":
        column = data.draw(st.sampled_from(wire["columns"]))
        column[data.draw(st.integers(0, 4))] = data.draw(junk)
    else:
        wire[key] = data.draw(junk)
    try:
        TriggerMap.from_wire(wire)
    except MapError as error:
        assert str(error)


# -- against a deployment ------------------------------------------------------------------------------------


def test_a_map_is_refused_where_it_cannot_be_served() -> None:
    generic, gpu = frozenset({"generic"}), frozenset({"gpu"})
    wide = [[{"constraint": 0}, {"constraint": 1}, {"constraint": 2, "tags": ["gpu"]}]]
    m = compile_map({"parts": {"p": {"a": wide, "b": wide}}, "sequence": ["p"]})
    m.refuse_unless({"a", "b", "c"}, [generic, generic, gpu])
    with pytest.raises(MapError, match=r"^streams \{'a', 'b'\} not available \(there are: .*\)$"):
        m.refuse_unless(["c"], [])
    with pytest.raises(MapError, match=r"^only 2 workers available, but 3 required$"):
        m.refuse_unless({"a", "b"}, [generic, gpu])
    with pytest.raises(MapError, match="no worker has the tag 'gpu'"):
        m.refuse_unless({"a", "b"}, [generic] * 3)
    with pytest.raises(MapError, match="only 1 workers with the tag 'generic' available, but 2 required"):
        m.refuse_unless({"a", "b"}, [generic, gpu, gpu])


def test_one_worker_cannot_stand_for_two_tag_sets_at_once() -> None:
    cell = [{"constraint": i, "tags": [t]} for i, t in enumerate(["x", "y", "z"])]
    m = compile_sequence({"parts": {"p": {"a": [cell]}}, "sequence": ["p"]}, all_wrap=False)
    with pytest.raises(MapError, match="only 1 workers with the tag 'x' or the tag 'y' available, but 2 required"):
        m.refuse_unless({"a"}, [frozenset("xy"), frozenset("z"), frozenset("z")])


def test_a_uniform_map_needs_a_worker_with_its_tags() -> None:
    m = compile_uniform({"streams": ["a"], "events": 5, "tags": ["gpu", "big"]})
    with pytest.raises(MapError, match="only 0 workers available, but 1 required"):
        m.refuse_unless({"a"}, [])
    with pytest.raises(MapError, match="the tags 'big', 'gpu'"):
        m.refuse_unless({"a"}, [frozenset({"gpu"}), frozenset({"big"})])
    m.refuse_unless({"a"}, [frozenset({"gpu", "big", "x"})])


def test_a_map_is_kept_as_it_was_written() -> None:
    body = b'{"parts": {"line": {"camera": [[{"constraint": 3}], null]}}, "sequence": ["line", "line"]}'
    written = WrittenMap.of(body, all_wrap=False)
    assert written.body == json.loads(body)
    assert written.compile().to_wire() == compile_map(json.loads(body), False).to_wire()
    with pytest.raises(MapError, match="not JSON"):
        WrittenMap.of(b"{").compile()
