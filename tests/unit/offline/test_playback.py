"""Captures as blocks: the same ones however the files were read."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamfold.model.errors import ConfigError, MalformedFrame
from beamfold.model.events import StreamData
from beamfold.offline import playback
from beamfold.offline.playback import Capture, blocks, read_captures
from beamfold.protocols.dumps import DumpEvent, DumpWriter

SIZES = st.lists(st.sampled_from([0, 1, 5, 40, 100]), max_size=60)


def event(number: int, size: int = 1, stream: str = "s") -> DumpEvent:
    return DumpEvent(number, {stream: StreamData("t", [bytes(size)])})


@given(SIZES, st.data())
def test_blocks_do_not_depend_on_how_events_were_read(sizes: list[int], data: st.DataObject) -> None:
    events = [event(n, size) for n, size in enumerate(sizes)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=5)))
    batches = [events[a:b] for a, b in pairwise([0, *cuts, len(events)])]
    with patch.multiple(playback, BLOCK=8, BLOCK_BYTES=100):
        found = list(blocks(batches))
        assert found == list(blocks([[e] for e in events]))
    assert list(chain.from_iterable(block.events for block in found)) == events
    ends = {0, len(events) - 1}
    for block in found:
        numbers = {e.event_number for e in block.events}
        assert block.broadcast == bool(numbers & ends) and not (block.broadcast and len(numbers) > 1)
        if not block.broadcast:
            sizes_of = [e.streams["s"].get_bytes() for e in block.events]
            assert len(sizes_of) <= 8 and sum(sizes_of[:-1]) < 100
            if max(numbers) + 1 not in ends:
                assert len(sizes_of) == 8 or sum(sizes_of) >= 100


def dump(path: Path, numbers: list[int], stream: str) -> Capture:
    with DumpWriter(path) as writer:
        for number in numbers:
            writer.write(*event(number, stream=stream))
    return Capture(path)


def numbers_of(captures: list[Capture]) -> tuple[list[tuple[int, str]], str]:
    found: list[tuple[int, str]] = []
    try:
        for batch in read_captures(captures):
            found += [(e.event_number, "".join(sorted(e.streams))) for e in batch]
    except (ConfigError, MalformedFrame) as error:
        return found, str(error)
    return found, ""


def test_parts_of_an_event_that_follow_one_another_in_a_file_are_one(tmp_path: Path) -> None:
    one, two = (dump(tmp_path / name, [1], name) for name in "ab")
    both = tmp_path / "both.cbors"
    both.write_bytes(
        one.path.read_bytes() + two.path.read_bytes() + dump(tmp_path / "c", [2, 5], "a").path.read_bytes()
    )
    assert numbers_of([Capture(both)]) == ([(1, "ab"), (2, "a"), (5, "a")], "")


@pytest.mark.parametrize("others", [[], ["b"]])
def test_what_was_whole_before_a_file_breaks_off_is_played(others: list[str], tmp_path: Path) -> None:
    captures = [dump(tmp_path / name, [*range(100)], name) for name in ["a", *others]]
    path = captures[0].path
    path.write_bytes(path.read_bytes()[:-1])
    found, error = numbers_of(captures)
    assert error == f"{path}: the file ends inside item 100; 99 before it were read whole"
    whole = 99 - len(others)  # the last event was being joined
    assert found[:whole] == [(n, "".join(["a", *others])) for n in range(whole)]
    assert found[whole:] == [(98, "a") for _ in others]


def test_a_stream_that_is_in_two_files_is_an_error_that_names_the_event(tmp_path: Path) -> None:
    captures = [
        dump(tmp_path / name, [0, number], "a" if number == 7 else name) for name, number in (("a", 7), ("b", 9))
    ]
    captures.append(dump(tmp_path / "c", [7], "a"))
    assert numbers_of(captures)[1] == "event 7: stream a is in two of the files"
