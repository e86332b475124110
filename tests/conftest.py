"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

# To explain a failure hypothesis traces every line of every example, which takes several times as long as they do.
# How long an example takes depends on what else the machine does.
settings.register_profile("beamfold", phases=[phase for phase in Phase if phase is not Phase.explain], deadline=None)
settings.load_profile("beamfold")


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """URL of a real control store, started for this session; tests keep apart by their prefixes."""
    from beamfold.ledger.embedded import EmbeddedStore

    with EmbeddedStore() as store:
        yield store.url
