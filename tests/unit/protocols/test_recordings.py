"""A recording is read back as it was written, and what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.errors import ConfigError
from beamfold.protocols.recordings import FORMAT, Logged, is_recording, plain_values, read_recording

ABOUT: dict[str, Any] = {
    "format": FORMAT,
    "scan_id": "id",
    "all_wrap": True,
    "streams": {"a": {"typ": "T", "numbered": True, "dump": "a.cbors"}},
    "workers": [{"name": "w0", "tags": ["generic"]}],
    "policy": {"incomplete": "process"},
    "app": {"worker": "w:W", "reducer": "r:R", "directory": "/app"},
}
FIRST = {"parameters": {"version": 3, "from_event": 0, "values": {"p": {"text": "1"}}}}


def write(folder: Path, *history: Any, about: Any = ABOUT, rest: str = "") -> Path:
    (folder / "recording.json").write_text(about if isinstance(about, str) else json.dumps(about))
    (folder / "map.json").write_text('{"streams": ["a"], "events": 5}')
    lines = "".join(json.dumps(line) + "\n" for line in history)
    (folder / "history.jsonl").write_text(lines + rest)
    return folder


def test_what_happened_is_read_in_its_order(tmp_path: Path) -> None:
    second = {"parameters": {"version": 4, "from_event": 3, "values": {"p": {"base64": "/w=="}}}}
    lines = [FIRST, {"blocks": [[0, 2, 0]]}, {"ticks": [[1, 0]]}, second, {"later": 1}, {"blocks": [[2, 5, 0]]}]
    found = read_recording(write(tmp_path, *lines, {"closed": 4}))
    assert found.parameters == [(3, 0, {"p": b"1"}), (4, 3, {"p": b"\xff"})]
    assert found.blocks == [(0, 2, 0), (2, 5, 0)]
    assert found.ticks == [(1, 0)]
    assert found.closed == 4 and found.map.n_events == 7 and found.report is None
    assert found.streams["a"].dump == tmp_path / "a.cbors"
    assert is_recording(tmp_path) and not is_recording(tmp_path / "nothing")


def test_what_was_done_again_and_told_again_is_there_once(tmp_path: Path) -> None:
    logged = {"logged": [[0, [[0, 1, 3], [-1, 0, 1]], "ab"], [0, [[0, 4, 5]], ""]]}
    told = [logged, {"poison": [[3, 0]]}, {"vacated": [0]}, logged, {"poison": [[3, 0]]}]
    found = read_recording(write(tmp_path, FIRST, {"blocks": [[0, 4, 0]]}, {"blocks": [[1, 3, 0], [4, 5, 0]]}, *told))
    assert found.logged == [Logged(0, [(0, 1, 3), (-1, 0, 1)], "ab"), Logged(0, [(0, 4, 5)], "")]
    assert (found.again, found.poison, found.vacated) == ([(1, 3)], {(3, 0)}, {0})


def test_a_line_in_which_a_controller_ended_is_passed_over_where_another_one_goes_on(tmp_path: Path) -> None:
    logged = {"logged": [[0, [[0, 1, 3]], "ab", {"a": [[0, 2, 3]]}]]}
    rest = '{"blocks": [[0, \n' + "".join(f"\n{json.dumps(line)}\n" for line in ({"taken_up": True}, logged))
    found = read_recording(write(tmp_path, FIRST, rest=rest.replace(" \n\n", "\n\n", 1)))
    assert found.taken_up and found.blocks == []
    assert found.logged == [Logged(0, [(0, 1, 3)], "ab", {"a": [(0, 2, 3)]})]
    with pytest.raises(ConfigError, match="line 2 is not JSON"):
        read_recording(write(tmp_path, FIRST, rest='{"blocks": [[0, \n{"taken_up": true}\n'))


def test_workers_that_joined_are_told_before_what_they_got_and_perhaps_twice(tmp_path: Path) -> None:
    joined = {"joined": [[1, "extra", ["x"]]]}
    lines = [
        FIRST,
        {"blocks": [[0, 2, 0]]},
        joined,
        {"blocks": [[2, 4, 1]]},
        joined,
        {"logged": [[1, [[0, 3, 5]], ""]]},
    ]
    found = read_recording(write(tmp_path, *lines))
    assert found.workers == [("w0", {"generic"}), ("extra", {"x"})]
    assert found.joined == {1} and found.blocks[-1] == (2, 4, 1)


@pytest.mark.parametrize(
    "joined", [[[2, "extra", []]], [[1, 7, []]], [[1, "extra", "x"]], [[-1, "extra", []]], [[1]], 3]
)
def test_a_worker_that_cannot_have_joined_is_refused(joined: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        read_recording(write(tmp_path, FIRST, {"joined": joined}))


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    found = read_recording(write(tmp_path, FIRST, {"blocks": [[0, 2, 0]]}, rest='{"blocks": [[2'))
    assert found.blocks == [(0, 2, 0)] and found.closed is None


@pytest.mark.parametrize(
    ("history", "about", "text"),
    [
        ([], ABOUT, "does not say with which parameters"),
        ([FIRST], {**ABOUT, "format": 99}, "has format 99, this Beamfold reads"),
        ([FIRST], {"format": FORMAT}, "not what a recording's should be"),
        ([FIRST], "{", "is not JSON"),
        ([FIRST], [1], "not what a recording's should be"),
        ([FIRST, {"blocks": [[0, 2, 9]]}], ABOUT, "line 2"),
        ([FIRST, {"blocks": [[2, 0, 0]]}], ABOUT, "line 2"),
        ([FIRST, {"blocks": 5}], ABOUT, "line 2"),
        ([FIRST, {"blocks": [[0, 1e30, 0]]}], ABOUT, "line 2"),
        ([FIRST, {"blocks": [[0, 10**30, 0]]}], ABOUT, "line 2"),
        ([FIRST, {"combined": [[9, [[0, 1, 2]]]]}], ABOUT, "line 2"),
        ([FIRST, {"combined": [[0, [[0, 2, 2]]]]}], ABOUT, "line 2"),
        ([FIRST, {"combined": [[0, [[-1, 1, 2]]]]}], ABOUT, "line 2"),
        ([FIRST, {"combined": [[0, [[0, 1]]]]}], ABOUT, "line 2"),
        ([FIRST, {"logged": [[1, [[0, 1, 2]], ""]]}], ABOUT, "line 2"),
        ([FIRST, {"logged": [[0, [[-2, 1, 2]], ""]]}], ABOUT, "line 2"),
        ([FIRST, {"logged": [[0, [[0, 1, 2]], 5]]}], ABOUT, "line 2"),
        ([FIRST, {"logged": [[0, [[0, 1, 2]]]]}], ABOUT, "line 2"),
        ([FIRST, {"poison": [[1, -1]]}], ABOUT, "line 2"),
        ([FIRST, {"vacated": [None]}], ABOUT, "line 2"),
        ([FIRST, {"closed": 99}], ABOUT, "line 2"),
        ([FIRST], {**ABOUT, "app": {}}, "not what a recording's should be"),
        ([FIRST], {**ABOUT, "streams": {"b": ABOUT["streams"]["a"]}}, "map.json has streams that .* does not know: a"),
        ([FIRST, 5], ABOUT, "line 2"),
        ([{"parameters": {"version": 1}}], ABOUT, "line 1"),
        ([{"parameters": {"version": 1, "from_event": 0, "values": {"p": {"base64": "?"}}}}], ABOUT, "line 1"),
        ([{"parameters": {"version": 1, "from_event": 0, "values": {"": {"text": ""}}}}], ABOUT, "line 1"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(history: list[Any], about: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        read_recording(write(tmp_path, *history, about=about))


def test_a_dump_that_was_lost_is_not_taken_for_frames_that_never_came(tmp_path: Path) -> None:
    """Without it all of its events would look incomplete, as if the detector had not sent them."""
    write(tmp_path, FIRST, {"closed": 4})
    stream = {"phase": "ended", "frames": 4, "surplus": 0}
    (tmp_path / "report.json").write_text(json.dumps({"ended": "finished", "streams": {"a": stream}}))
    with pytest.raises(ConfigError, match=r"a\.cbors is missing or empty: it had 4 frames"):
        read_recording(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"ended": "stopped", "streams": {"a": {**stream, "frames": 0}}}))
    assert read_recording(tmp_path).report is not None
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"report\.json is not what"):
        read_recording(tmp_path)


@pytest.mark.parametrize("name", ["recording.json", "map.json", "history.jsonl"])
def test_a_file_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    (write(tmp_path, FIRST) / name).unlink()
    with pytest.raises(ConfigError, match=f"cannot read .*{name}.*a recording needs it"):
        read_recording(tmp_path)


@given(st.dictionaries(st.text("abc", min_size=1), st.binary()))
def test_parameters_travel_unchanged(values: dict[str, bytes]) -> None:
    from beamfold.protocols.recordings import _raw

    plain = json.loads(json.dumps(plain_values(values)))
    assert {name: _raw(name, value) for name, value in plain.items()} == values


def test_what_a_new_controller_writes_again_counts_once(tmp_path: Path) -> None:
    """It may find a version of the parameters that was in force nowhere, and blocks before others that are written."""
    values = {"p": {"text": "1"}}
    versions = [{"parameters": {"version": 4, "from_event": event, "values": values}} for event in (3, 5)]
    write(tmp_path, FIRST, {"blocks": [[2, 4, 0]]}, versions[0], {"blocks": [[0, 2, 0]]}, versions[1])
    found = read_recording(tmp_path)
    assert found.blocks == [(0, 2, 0), (2, 4, 0)]
    assert [(version, event) for version, event, _ in found.parameters] == [(3, 0), (4, 5)]


def test_lines_that_are_missing_from_the_history_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, FIRST, {"blocks": [[0, 2, 0]]}, {"blocks": [[4, 5, 0]]})
    with pytest.raises(ConfigError, match="virtual workers 2 to 3 were given to nobody"):
        read_recording(tmp_path)
    write(tmp_path, FIRST, {"blocks": [[0, 2, 0]]}, {"taken_up": True}, {"blocks": [[4, 5, 0]]})
    assert read_recording(tmp_path).taken_up, "and then results tell whose these were"
    write(tmp_path, FIRST, {"ticks": [[1, 0]]})
    (tmp_path / "report.json").write_text(json.dumps({"parameters_total": 2, "ticks_total": 1}))
    with pytest.raises(ConfigError, match="lines are missing"):
        read_recording(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"parameters_total": 1, "ticks_total": 1}))
    assert read_recording(tmp_path).ticks == [(1, 0)]
    (tmp_path / "report.json").write_text(json.dumps({"parameters_total": 1, "ticks_total": 1, "combined": 1}))
    with pytest.raises(ConfigError, match=r"has 1, 1 and 0 versions .*, not 1, 1 and 1"):
        read_recording(tmp_path)
    write(tmp_path, FIRST, {"ticks": [[1, 0]]}, {"combined": [[0, [[0, 1, 3], [1, 2, 3]]]]})
    assert read_recording(tmp_path).combined == [(0, [(0, 1, 3), (1, 2, 3)])]
