"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """URL of a real control store, started for this session; tests keep apart by their prefixes."""
    from beamfold.ledger.embedded import EmbeddedStore

    with EmbeddedStore() as store:
        yield store.url
