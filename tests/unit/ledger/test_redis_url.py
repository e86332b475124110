"""Store URLs that cannot be used are refused before anything is connected, and passwords stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamfold.ledger.redis import RedisLedger
from beamfold.model.errors import ConfigError, LedgerUnavailable


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://:hunter2@host", "redis://:hunter2/x@host:1", "redis://[hunter2"]
)
def test_a_url_that_is_none_is_a_clear_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used; write redis://") as caught:
        RedisLedger(url)
    assert "hunter2" not in str(caught.value)


def test_a_store_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    ledger = RedisLedger(f"unix://:hunter2@{tmp_path}/absent.sock")
    with pytest.raises(LedgerUnavailable, match=r"unix://.*absent\.sock") as caught:
        ledger.ping()
    assert "hunter2" not in str(caught.value)
    ledger.close()
