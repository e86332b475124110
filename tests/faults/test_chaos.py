"""Promise 2, in whatever order and at whatever moment: a few histories of the chaos suite; `make chaos` plays more."""

from __future__ import annotations

from pathlib import Path

from faults.chaos import Chaos, again, harmed_of
from faults.histories import draw

SEEDS = [5, 12, 14, 15, 54]
ROLES = ["worker", "reducer"]


def test_scans_in_which_services_are_harmed_leave_what_the_undisturbed_ones_do(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        for seed in SEEDS:
            found = chaos.play(draw(seed, ROLES))
            assert not found, "\n".join([*found, again(seed, ROLES)])
    assert chaos.counts["scans"] == len(SEEDS)
    assert harmed_of(chaos.counts, "worker") >= 3 and harmed_of(chaos.counts, "reducer") >= 2, chaos.counts
    assert chaos.counts["services lost in mid-scan"] >= 3, chaos.counts
