"""The checker of the chaos suite: silent about what is right, and each kind of violation that is planted is caught."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from faults.checker import POISON, Row, Values, violations
from faults.histories import ROLES, WORKERS, History, Planned, draw

EVENTS = (
    Planned({"a": 0, "b": 0}, (("a", "b"),)),
    Planned({"a": 1, "b": None}, (("a", "b"),)),
    Planned({"a": 2, "b": 2}, (("a", "b"),), cast=True),
    Planned({"a": 3, "b": 3}, (("a",), ("b",))),
    Planned({"a": None}, (("a",),)),
    Planned({"a": 5, "b": 4}, (("a", "b"),)),
)
VALUES = Values(7, (8, 9), due=9)
W, V = "worker-0", "worker-1"


def rows() -> list[Row]:
    return [
        Row(0, W, (7, 7), {}, -1),
        Row(0, V, (7, 7), {}, -1),
        Row(1, W, (7, 7), {"a": 0, "b": 0}, -1),
        Row(2, V, (7, 7), {"a": 1}, -1),
        Row(3, W, (7, 7), {"a": 2, "b": 2}, 3),
        Row(3, V, (7, 7), {"a": 2, "b": 2}, 3),
        Row(4, V, (9, 9), {"a": 3}, 3),
        Row(4, W, (9, 9), {"b": 3}, 3),
        Row(6, W, (9, 9), {"a": 5, "b": 4}, 3),
        Row(7, W, (9, 9), {}, 3),
        Row(7, V, (9, 9), {}, 3),
    ]


def report() -> dict[str, Any]:
    return {
        "ended": "finished",
        "reason": "",
        "events": 6,
        "states": {"reduced": 4, "incomplete": 1, "incomplete (skipped)": 1},
        "runs": {"incomplete": [[2, 3]], "incomplete (skipped)": [[5, 6]]},
        "streams": {"a": {"missing": [[5, 6]], "phase": "ended"}, "b": {"missing": [[2, 3]], "phase": "ended"}},
        "incomplete": {"a": [[5, 6]], "b": [[2, 3]]},
        "failures": [],
        "troubles": [],
        "unreached": 0,
        "losses": [],
        "out_of_order": [],
        "workers": [W, V],
        "joined": [],
        "parameters": [
            {"from_event": 0, "values": {"p": "7"}},
            {"from_event": 4, "values": {"p": "9"}},
        ],
    }


def test_it_finds_nothing_wrong_with_the_undisturbed_scan() -> None:
    assert violations(EVENTS, VALUES, rows(), report()) == []


def changed(row: Row, **to: Any) -> Row:
    return Row(**{**{name: getattr(row, name) for name in ("event", "worker", "p", "seen", "cast")}, **to})


def replaced(at: int, **to: Any) -> Callable[[list[Row]], object]:
    return lambda found: found.__setitem__(at, changed(found[at], **to))


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        pytest.param("lost: event 1", lambda found: found.pop(2), id="an event is lost"),
        pytest.param("lost: event 3", lambda found: found.pop(5), id="one worker's part of a broadcast is lost"),
        pytest.param("lost: event 4", lambda found: found.pop(7), id="one of two parts is lost"),
        pytest.param("lost: event 0", lambda found: found.pop(0), id="a start event is lost"),
        pytest.param("lost: event 7", lambda found: found.pop(), id="an end event is lost"),
        pytest.param("doubled: event 1", lambda found: found.insert(3, found[2]), id="an event is folded twice"),
        pytest.param("doubled: event 3", lambda found: found.insert(5, found[4]), id="a broadcast part twice"),
        pytest.param("doubled: event 0", lambda found: found.insert(0, found[0]), id="a start event twice"),
        pytest.param("misaligned: event 1", replaced(2, seen={"a": 0, "b": 1}), id="joined with the next frame"),
        pytest.param("misaligned: event 1", replaced(2, seen={"a": 0}), id="joined with too little"),
        pytest.param("misaligned: event 2", replaced(3, seen={"a": 1, "b": 1}), id="a lost frame was made up"),
        pytest.param("misaligned: event 1", replaced(2, seen={"a": -1, "b": -1}), id="frames of another scan"),
        pytest.param("misaligned: event 99", replaced(10, event=99), id="an event that the scan does not have"),
        pytest.param(
            "misaligned: event 5", lambda found: found.insert(8, Row(5, W, (9, 9), {"a": 4}, 3)), id="a skipped event"
        ),
        pytest.param("version: event 6", replaced(8, p=(7, 9)), id="an old version at the worker"),
        pytest.param("version: event 6", replaced(8, p=(9, 7)), id="an old version at the reducer"),
        pytest.param("version: event 2", replaced(3, p=(9, 9)), id="a new version too early at both"),
        pytest.param("broadcast: event 6", replaced(8, cast=-1), id="a replacement did not see the broadcast"),
        pytest.param("broadcast: event 2", replaced(3, cast=3), id="a broadcast came too early"),
        pytest.param("order: event 1", lambda found: found.insert(3, found.pop(2)), id="two events in wrong order"),
        pytest.param("order: event 4", lambda found: found.insert(6, found.pop(7)), id="two parts in wrong order"),
        pytest.param("order: event 3", lambda found: found.insert(4, found.pop(5)), id="a broadcast in wrong order"),
    ],
)
def test_what_was_folded_wrongly_is_caught(kind: str, plant: Callable[[list[Row]], object]) -> None:
    wrong = rows()
    plant(wrong)
    assert any(text.startswith(kind) for text in violations(EVENTS, VALUES, wrong, report()))


def test_events_folded_early_as_the_report_says_are_no_violation() -> None:
    found = rows()
    found.insert(3, found.pop(2))
    assert violations(EVENTS, VALUES, found, {**report(), "out_of_order": [[2, 3]]}) == []


NAMED = [f"stream {name}: event {event} lacks its message" for event in (0, 7) for name in "ab"]


@pytest.mark.parametrize("event", [0, 7])
def test_of_lossy_streams_start_and_end_may_have_died_where_the_report_names_them_all(event: int) -> None:
    found = [row for row in rows() if (row.event, row.worker) != (event, V)]
    lost = [f"lost: event {event}: [('{V}',)] was not folded"]

    def wrong(troubles: list[str], lossy: str = "ab", **to: Any) -> list[str]:
        return violations(EVENTS, VALUES, found, planted(troubles=troubles, **to), lossy=lossy)

    assert wrong(NAMED) == []
    assert wrong([]) == wrong(NAMED[:1] + NAMED[2:3]) == wrong(NAMED, lossy="") == lost
    open_ = {name: {**stream, "phase": "running"} for name, stream in report()["streams"].items()}
    assert wrong([], ended="stopped", streams=open_) == []
    assert wrong([], ended="stopped") == lost


def planted(**to: Any) -> dict[str, Any]:
    return {**copy.deepcopy(report()), **to}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("it ended 'failed'", planted(ended="failed")),
        ("5 events instead of 6", planted(events=5)),
        ("do not sum up", planted(states={"reduced": 4, "incomplete": 1})),
        ("states are", planted(states={"reduced": 5, "incomplete (skipped)": 1})),
        ("too many [3]", planted(runs={"incomplete": [[2, 4]], "incomplete (skipped)": [[5, 6]]})),
        ("too few [5]", planted(runs={"incomplete": [[2, 3]], "incomplete (skipped)": []})),
        ("more than one state: [2]", planted(runs={"incomplete": [[2, 3]], "incomplete (skipped)": [[2, 3], [5, 6]]})),
        ("names no events for ['incomplete (skipped)']", planted(runs={"incomplete": [[2, 3]]})),
        ("missing of b", planted(streams={"a": {"missing": [[5, 6]]}, "b": {"missing": []}})),
        ("incomplete of a", planted(incomplete={"b": [[2, 3]]})),
        ("is not in the history", planted(parameters=report()["parameters"][:1])),
        ("are not those that were set", planted(parameters=[*report()["parameters"], *report()["parameters"][:1]])),
        ("does not begin with 7", planted(parameters=report()["parameters"][1:])),
    ],
)
def test_a_wrong_report_is_caught(text: str, wrong: dict[str, Any]) -> None:
    assert any(text in found for found in violations(EVENTS, VALUES, rows(), wrong))


def failing(event: int, losses: int, traceback: str) -> dict[str, Any]:
    return planted(
        states={"reduced": 3, "incomplete": 1, "incomplete (skipped)": 1, "failed": 1},
        runs={**report()["runs"], "failed": [[event, event + 1]]},
        failures=[{"event": event, "traceback": traceback}],
        losses=[{}] * losses,
    )


def test_an_event_in_which_two_processes_were_killed_may_fail_and_no_other() -> None:
    without = [row for row in rows() if row.event != 6]
    assert violations(EVENTS, VALUES, without, failing(6, 2, f"it {POISON}")) == []
    assert violations(EVENTS, VALUES, without, failing(6, 1, f"it {POISON}"))
    assert violations(EVENTS, VALUES, without, failing(6, 2, "ValueError"))
    assert violations(EVENTS, VALUES, without, failing(1, 2, f"it {POISON}"))


def played(history: History) -> list[Row]:
    """What the undisturbed scan folds, as far as frames go."""
    made = [Row(0, name, (0, 0), {}, -1) for name in WORKERS]
    cast = -1
    for event, planned in enumerate(history.events, 1):
        if planned.cast and any(n is not None for n in planned.frames.values()):
            cast = event
        for part in planned.parts:
            seen = {name: n for name in part if (n := planned.frames[name]) is not None}
            made += [Row(event, name, (0, 0), seen, cast) for name in WORKERS[: None if planned.cast else 1] if seen]
    return made + [Row(len(history.events) + 1, name, (0, 0), {}, cast) for name in WORKERS]


def test_a_history_is_the_same_for_a_seed_and_others_for_others() -> None:
    drawn = [draw(seed, ROLES) for seed in range(30)]
    assert drawn == [draw(seed, ROLES) for seed in range(30)]
    assert len({history.kind for history in drawn}) == 5
    assert {harm.what for history in drawn for harm in history.harms} == {"kill", "term", "stop", "cut"}
    assert not any(draw(seed, ()).harms for seed in range(30))


@pytest.mark.parametrize("seed", range(30))
def test_every_frame_of_a_history_belongs_to_one_event(seed: int) -> None:
    history = draw(seed)
    for name, count in history.counts.items():
        numbers = [event.frames[name] for event in history.events if name in event.frames]
        came = [n for n in numbers if n is not None]
        assert len(numbers) == count
        assert came == [n for n in range(count) if n not in history.lost[name]]
    texts = violations(history.events, Values(0), played(history), {**report(), "workers": list(WORKERS)})
    assert not [text for text in texts if text.startswith(("lost", "doubled", "misaligned", "order", "broadcast"))]
