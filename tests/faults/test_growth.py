"""Nothing is left of a scan but its result; `make growth` looks for longer."""

from __future__ import annotations

from pathlib import Path

from faults.growth import APP, FILES, MEMORY, MIB, STREAMS, THREADS, Player, Values, fill, growth
from flow.deployment import Deployment, wait_until

EXACT = (FILES, THREADS, "keys", "entries", "files")
ROOM = 40 * MIB
"""An allocator may keep what was freed, an array or two; arrays of eleven scans are 88 MiB."""

LARGE = {name: text.replace("(128, 1024)", "(1024, 1024)") for name, text in APP.items()}
"""Both objects of this app have an array of 8 MiB."""


def at_rest(player: Player) -> Values:
    """What there is of everything, once what ends with a scan has ended."""
    samples: list[Values] = [{}]

    def counts(sample: Values) -> dict[tuple[str, str], int]:
        return {key: value for key, value in sample.items() if key[1] in EXACT}

    def same() -> bool:
        player.look()
        samples.append(player.gauge.sample())
        return counts(samples[-1]) == counts(samples[-2])

    wait_until(same, "that all is at rest")
    return samples[-1]


def test_nothing_is_left_of_scans_of_all_kinds(tmp_path: Path) -> None:
    with Deployment(tmp_path, LARGE, STREAMS, parameters={"p": "1"}) as deployment:
        player = Player(deployment)
        for number in range(10):
            player.short(number)
        player.long(4000)
        fill(deployment)
        player.crowd()
        before = at_rest(player)
        for number in range(10):
            player.short(number)
        after = at_rest(player)
    more = {key: value - before.get(key, 0) for key, value in after.items() if key[1] in EXACT}
    assert not {key: n for key, n in more.items() if n > 0}
    memory = {who: value - before[who, what] for (who, what), value in after.items() if what == MEMORY}
    assert not {who: shown / MIB for who, shown in memory.items() if shown > ROOM}


def test_what_comes_and_goes_does_not_grow_and_what_leaks_does() -> None:
    steady = [10 + n % 3 for n in range(200)]
    assert abs(growth(steady)) <= 1
    assert growth([10] * 40 + [30] * 160) == 0, "what is there since long does not grow"
    assert growth([*steady[:-20], *[50] * 20]) <= 2, "a few at the end may have been at an unlucky moment"
    assert growth([n // 10 for n in range(200)]) >= 9
