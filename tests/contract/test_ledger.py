"""What every ledger does, run on the in-memory one and on a real store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from beamfold.ledger import base
from beamfold.ledger.base import Ledger, ParameterEntry
from beamfold.ledger.memory import MemoryLedger
from beamfold.ledger.redis import RedisLedger
from beamfold.model.errors import CodecError, ConfigError

MakeLedger = Callable[..., Ledger]


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeLedger]:
    """Makes ledgers of one kind, each with a prefix of its own."""
    made: list[Ledger] = []

    def make_one(keep: int = base.KEEP_SCANS) -> Ledger:
        if request.param == "memory":
            made.append(MemoryLedger(keep=keep))
        else:
            url: str = request.getfixturevalue("store_url")
            made.append(RedisLedger(url, prefix=f"test-[*]-{uuid4().hex}", keep=keep))
        return made[-1]

    yield make_one
    for ledger in made:
        ledger.wipe()
        ledger.close()


@pytest.fixture
def ledger(make: MakeLedger) -> Ledger:
    return make()


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within some seconds: leases of a real store run out by its own clock."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def test_a_ledger_that_answers_can_be_pinged(ledger: Ledger) -> None:
    ledger.ping()


# services


def test_services_are_those_announced_and_not_withdrawn(ledger: Ledger) -> None:
    ledger.announce("worker", "w:1", {"pid": 7, "tags": ["a", "b"]}, 60)
    ledger.announce("worker", "w:2", {}, 60)
    ledger.announce("ingester", "w:1", {"url": "tcp://x", "blob": b"\x00\xff"}, 60)
    ledger.withdraw("worker", "w:2")
    ledger.withdraw("worker", "never there")
    assert ledger.services() == {
        ("worker", "w:1"): {"pid": 7, "tags": ["a", "b"]},
        ("ingester", "w:1"): {"url": "tcp://x", "blob": b"\x00\xff"},
    }


def test_announcing_again_replaces_the_info_and_prolongs(ledger: Ledger) -> None:
    ledger.announce("worker", "Ångström", {"old": 1}, 0.01)
    ledger.announce("worker", "Ångström", {"new": 2}, 60)
    ledger.announce("worker", "short", {}, 0.02)
    assert soon(lambda: ("worker", "short") not in ledger.services())
    assert ledger.services() == {("worker", "Ångström"): {"new": 2}}


def test_what_is_not_plain_is_refused_with_its_place(ledger: Ledger) -> None:
    with pytest.raises(CodecError, match=r"worker 'w'.*object"):
        ledger.announce("worker", "w", {"x": object()}, 60)
    with pytest.raises(CodecError, match=r"scan s\['map'\]"):
        ledger.put_scan("s", {"map": 2**80})
    assert ledger.services() == {}
    assert ledger.scan("s") is None


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_lease_of_no_length_is_a_mistake(ledger: Ledger, ttl: float) -> None:
    with pytest.raises(ValueError, match="lease"):
        ledger.announce("worker", "w", {}, ttl)
    with pytest.raises(ValueError, match="lease"):
        ledger.acquire_owner("me", ttl)
    with pytest.raises(ValueError, match="lease"):
        ledger.renew_owner("me", ttl)


# ownership


def test_only_one_is_the_owner_and_the_epoch_grows_with_every_new_one(ledger: Ledger) -> None:
    assert ledger.acquire_owner("a", 60) == 1
    assert ledger.acquire_owner("b", 60) is None
    ledger.release_owner("b")
    assert ledger.acquire_owner("b", 60) is None
    ledger.release_owner("a")
    assert ledger.acquire_owner("b", 60) == 2
    ledger.release_owner("b")
    assert ledger.acquire_owner("b", 60) == 3


def test_it_can_be_taken_over_from_who_is_gone(ledger: Ledger) -> None:
    assert ledger.acquire_owner("a", 60) == 1
    assert ledger.acquire_owner("b", 60, over=True) == 2
    assert not ledger.renew_owner("a", 60)
    assert ledger.acquire_owner("b", 60, over=True) == 2
    ledger.release_owner("b")
    assert ledger.acquire_owner("c", 60, over=True) == 3


def test_acquiring_what_one_has_keeps_the_epoch(ledger: Ledger) -> None:
    assert ledger.acquire_owner("a", 60) == 1
    assert ledger.acquire_owner("a", 60) == 1


def test_renewing_is_checked(ledger: Ledger) -> None:
    assert not ledger.renew_owner("a", 60)
    assert ledger.acquire_owner("b", 60) == 1, "a refused renewal took the ownership"
    assert not ledger.renew_owner("a", 60)
    assert ledger.renew_owner("b", 60)


def test_renewing_prolongs_the_lease(ledger: Ledger) -> None:
    ledger.acquire_owner("a", 0.2)
    assert ledger.renew_owner("a", 60)
    ledger.announce("clock", "longer than the first lease", {}, 0.3)
    assert soon(lambda: not ledger.services())
    assert ledger.acquire_owner("b", 60) is None


def test_a_lease_that_ran_out_is_lost_and_the_next_one_is_a_new_epoch(ledger: Ledger) -> None:
    assert ledger.acquire_owner("a", 0.01) == 1
    assert soon(lambda: ledger.acquire_owner("b", 60) == 2)
    assert not ledger.renew_owner("a", 60)
    ledger.release_owner("a")
    assert ledger.renew_owner("b", 60)


def test_of_many_who_try_at_once_one_becomes_the_owner(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        epochs = list(pool.map(lambda i: ledger.acquire_owner(f"token {i}", 60), range(32)))
    assert [epoch for epoch in epochs if epoch is not None] == [1]


# scans


def test_a_scan_is_merged_key_by_key(ledger: Ledger) -> None:
    assert ledger.scan("s") is None
    ledger.put_scan("s", {"state": "armed", "map": {"k": [1, None, b"\x00", "x"]}, "n": -5})
    ledger.put_scan("s", {"state": "done", "at": 1.5})
    ledger.put_scan("s", {})
    expected = {"state": "done", "map": {"k": [1, None, b"\x00", "x"]}, "n": -5, "at": 1.5}
    assert ledger.scan("s") == expected
    assert ledger.scans() == [("s", expected)]


def test_an_empty_record_is_a_scan(ledger: Ledger) -> None:
    ledger.put_scan("s", {})
    assert ledger.scan("s") == {}
    assert ledger.scans() == [("s", {})]


def test_a_record_cannot_be_changed_from_outside(ledger: Ledger) -> None:
    record = {"list": [1]}
    ledger.put_scan("s", record)
    record["list"].append(2)
    found = ledger.scan("s")
    assert found == {"list": [1]}
    found["list"].append(3)
    assert ledger.scan("s") == {"list": [1]}


def test_scans_come_newest_first_by_their_first_record(ledger: Ledger) -> None:
    for name in "abc":
        ledger.put_scan(name, {"name": name, "big": "x" * 100})
    ledger.put_scan("a", {"late": True})
    assert [scan_id for scan_id, _ in ledger.scans()] == ["c", "b", "a"]
    assert [scan_id for scan_id, _ in ledger.scans(limit=2)] == ["c", "b"]
    assert ledger.scans(limit=0) == []
    assert ledger.scans(limit=1, fields=["name", "absent"]) == [("c", {"name": "c"})]
    assert ledger.scans(limit=1, fields=[]) == [("c", {})]


def test_numbered_scans_come_by_their_numbers_in_whatever_order_they_are_put(ledger: Ledger) -> None:
    """A store that was wiped is told of older scans after the present one has ended."""
    ledger.put_scan("late", {})
    for name, number in (("c", 12), ("a", 2), ("b", 3)):
        ledger.put_scan(name, {"n": number}, number)
    ledger.put_scan("a", {"more": 1}, 2)
    ledger.put_scan("late", {}, 20)
    ledger.put_scan("c", {})
    ledger.put_scan("newest", {})
    assert [scan_id for scan_id, _ in ledger.scans()] == ["newest", "late", "c", "b", "a"]
    assert ledger.scan("a") == {"n": 2, "more": 1}


def test_old_scans_go(make: MakeLedger) -> None:
    ledger = make(keep=3)
    for i in range(5):
        ledger.put_scan(f"s{i}", {"i": i})
    assert [scan_id for scan_id, _ in ledger.scans()] == ["s4", "s3", "s2"]
    assert ledger.scan("s1") is None
    ledger.put_scan("s1", {"i": 1}, 2)
    assert [scan_id for scan_id, _ in ledger.scans()] == ["s4", "s3", "s2"], "an old one is not the newest now"
    assert ledger.scan("s1") is None


# parameters


def test_parameters_are_the_last_version_put(ledger: Ledger) -> None:
    assert ledger.parameters() == (0, {})
    assert ledger.parameter_history() == []
    ledger.put_parameters(1, {"roi": b"[1, 2]", "mask": b"\x00\xff"}, None, None)
    ledger.put_parameters(2, {"roi": b"[3]"}, 17, "scan")
    assert ledger.parameters() == (2, {"roi": b"[3]"})
    assert ledger.parameter_history() == [
        ParameterEntry(1, {"roi": b"[1, 2]", "mask": b"\x00\xff"}, None, None),
        ParameterEntry(2, {"roi": b"[3]"}, 17, "scan"),
    ]
    ledger.put_parameters(3, {}, 0, "scan")
    assert ledger.parameters() == (3, {})


def test_the_history_can_be_had_of_one_scan_and_of_the_newest(ledger: Ledger) -> None:
    for version in range(1, 7):
        ledger.put_parameters(version, {"v": b"%d" % version}, version, "even" if version % 2 == 0 else None)
    assert [e.version for e in ledger.parameter_history("even")] == [2, 4, 6]
    assert [e.version for e in ledger.parameter_history("even", limit=2)] == [4, 6]
    assert [e.version for e in ledger.parameter_history(limit=3)] == [4, 5, 6]
    assert ledger.parameter_history("unknown") == []
    assert ledger.parameter_history("") == []
    assert ledger.parameter_history(limit=0) == []


def test_the_history_is_bounded_and_what_is_left_is_whole(make: MakeLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEEP_PARAMETERS", 4)
    ledger = make()
    mask = b"m" * 100_000
    for version in range(1, 20):
        values = {"mask": mask, "same": mask, "v": b"%d" % version, "w": b"%d" % (version // 2)}
        ledger.put_parameters(version, values, version, None)
    history = ledger.parameter_history()
    assert [e.version for e in history] == [16, 17, 18, 19]
    assert [(e.values["v"], e.values["w"], e.values["same"] == mask) for e in history] == [
        (b"16", b"8", True),
        (b"17", b"8", True),
        (b"18", b"9", True),
        (b"19", b"9", True),
    ]


def test_putting_once_more_changes_nothing_and_what_is_put_late_goes_to_its_place(
    make: MakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "KEEP_PARAMETERS", 7)
    ledger = make()
    puts = [(1, None), (2, None), (2, 5), (3, 9), (4, None), (4, 12)]

    def put(version: int, from_event: int | None) -> None:
        ledger.put_parameters(version, {"v": b"%d" % version, "same": b"x"}, from_event, "s")

    for index in (4, 1, 1, 4, 2, 0, 5, 3, 2, 1, 0, 5, 3, 4):
        put(*puts[index])
        highest = max(entry.version for entry in ledger.parameter_history())
        assert ledger.parameters() == (highest, {"v": b"%d" % highest, "same": b"x"})
    assert [(e.version, e.from_event) for e in ledger.parameter_history()] == puts
    for version in (5, 6):
        put(version, version)
    assert [(e.version, e.from_event) for e in ledger.parameter_history()] == [*puts[1:], (5, 5), (6, 6)]
    put(*puts[0])
    assert [(e.version, e.from_event) for e in ledger.parameter_history()] == [*puts[1:], (5, 5), (6, 6)]
    assert all(e.values == {"v": b"%d" % e.version, "same": b"x"} for e in ledger.parameter_history())


def test_a_parameter_that_stays_is_stored_once(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEEP_PARAMETERS", 3)
    ledger = RedisLedger(store_url, prefix=f"test-{uuid4().hex}")
    for version in range(10):
        ledger.put_parameters(version, {"mask": b"m" * 1000, "v": b"%d" % version}, None, None)
    raw = ledger._redis  # what it costs is only to be seen in the store itself
    assert raw.hlen(ledger._key("parameters", "blobs")) == 4
    assert raw.hlen(ledger._key("parameters", "references")) == 4
    ledger.wipe()
    ledger.close()


def test_readers_never_see_half_a_version(ledger: Ledger) -> None:
    names = [f"p{i}" for i in range(20)]

    def write() -> None:
        for version in range(1, 40):
            ledger.put_parameters(version, dict.fromkeys(names, b"%d" % version), None, None)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            version, values = ledger.parameters()
            assert set(values.values()) <= {b"%d" % version}
        writing.result()


# logs


def log(number: int, level: str = "INFO") -> dict[str, object]:
    return {
        "created": 1.5 + number,
        "levelname": level,
        "name": "n",
        "lineno": number,
        "msg": f"text {number}",
    }


def test_logs_are_the_newest_in_order(ledger: Ledger) -> None:
    assert ledger.logs(10) == []
    ledger.append_logs([])
    ledger.append_logs([log(i) for i in range(5)])
    ledger.append_logs([log(5)])
    assert ledger.logs(3) == [log(3), log(4), log(5)]
    assert ledger.logs(100) == [log(i) for i in range(6)]
    assert ledger.logs(0) == []


def test_logs_can_be_had_from_a_level_up(ledger: Ledger) -> None:
    levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "strange"]
    entries = [log(i, levels[i % 6]) for i in range(3000)]
    ledger.append_logs(entries)
    assert ledger.logs(2, "ERROR") == [log(2997, "ERROR"), log(2998, "CRITICAL")]
    assert [e["levelname"] for e in ledger.logs(4, "info")] == ["WARNING", "ERROR", "CRITICAL", "strange"]
    assert len(ledger.logs(5000, "CRITICAL")) == 500
    with pytest.raises(ConfigError, match=r"unknown log level 'LOUD'.*WARNING"):
        ledger.logs(1, "LOUD")


def test_logs_are_bounded_in_number_and_in_bytes(make: MakeLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEEP_LOGS", 10)
    ledger = make()
    ledger.append_logs([log(i) for i in range(50)])
    assert [e["lineno"] for e in ledger.logs(1000)] == list(range(40, 50))
    ledger.append_logs([log(50) | {"msg": "begin" + "é" * 100_000 + "end"}])
    [cut] = ledger.logs(1)
    assert cut["lineno"] == 50
    assert cut["msg"].startswith("begin")
    assert cut["msg"].endswith("end")
    assert "characters cut" in cut["msg"]
    assert len(base.pack(cut, "it")) <= base.MAX_LOG_BYTES


# the whole


def test_wiping_leaves_nothing_and_touches_nobody_else(make: MakeLedger) -> None:
    ledger, other = make(), make()
    for each in (ledger, other):
        each.announce("r", "n", {}, 60)
        each.acquire_owner("t", 60)
        each.put_scan("s", {"x": 1})
        each.put_parameters(1, {"a": b"b"}, None, None)
        each.append_logs([log(1)])
    ledger.wipe()
    assert ledger.services() == {}
    assert ledger.scans() == []
    assert ledger.parameters() == (0, {})
    assert ledger.logs(10) == []
    assert ledger.acquire_owner("other", 60) == 1
    assert other.scans() == [("s", {"x": 1})]
    assert other.parameters() == (1, {"a": b"b"})
    assert len(other.services()) == 1


def test_threads_may_share_a_ledger(ledger: Ledger) -> None:
    def use(number: int) -> None:
        for i in range(10):
            ledger.append_logs([log(10 * number + i)])
            ledger.put_scan(f"s{number}", {"i": i})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert sorted(entry["lineno"] for entry in ledger.logs(1000)) == list(range(80))
    for number in range(8):
        assert ledger.scan(f"s{number}") == {"i": 9}


def test_a_wiped_store_has_another_life(make: MakeLedger) -> None:
    ledger = make()
    life = ledger.life()
    ledger.put_scan("s", {})
    assert ledger.life() == life
    ledger.wipe()
    assert ledger.life() not in ("", life)


def weight(ledger: Ledger) -> dict[str, int]:
    """What the store holds under each kind of key, counted one by one."""
    if isinstance(ledger, RedisLedger):
        raw, prefix = ledger._redis, f"{ledger._prefix}:"
        keys = [key.decode() for key in raw.keys("*") if key.decode().startswith(prefix)]
        count = {"zset": raw.zcard, "hash": raw.hlen, "list": raw.llen, "stream": raw.xlen, "string": lambda _: 1}
        return {key.removeprefix(prefix): count[raw.type(key).decode()](key) for key in keys}
    assert isinstance(ledger, MemoryLedger)
    sized = {name: value for name, value in vars(ledger).items() if isinstance(value, list | dict | deque)}
    scans = {f"scan:{scan_id}": len(fields) for scan_id, fields in ledger._scans.items()}
    return {name: len(value) for name, value in sized.items()} | scans


def test_two_hundred_scans_in_a_row_do_not_make_it_grow(make: MakeLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the controller writes of a scan, again and again: it comes to a size and stays there."""
    monkeypatch.setattr(base, "KEEP_PARAMETERS", 30)
    monkeypatch.setattr(base, "KEEP_LOGS", 50)
    ledger = make(keep=20)
    sizes = []
    for number in range(1, 201):
        scan_id = f"scan {number}"
        assert ledger.renew_owner("t", 60) or ledger.acquire_owner("t", 60)
        ledger.life()
        ledger.announce("controller", "controller", {"control": f"tcp://x:{number}"}, 60)
        ledger.put_scan(scan_id, {"number": number, "state": "arming"}, number)
        ledger.put_scan(scan_id, {"state": "running", "map": {"packed": b"x" * 100}}, number)
        for from_event in (None, 0, 7):
            ledger.put_parameters(number, {"v": b"%d" % number, "same": b"x"}, from_event, scan_id)
        ledger.append_logs([log(number), log(number)])
        ledger.put_scan(scan_id, {"state": "finished", "report": {"events": number}}, number)
        sizes.append(sum(weight(ledger).values()))
    assert sizes[30:] == [sizes[30]] * 170, weight(ledger)
    assert len([key for key in weight(ledger) if key.startswith("scan:")]) == 20
    assert len(weight(ledger)) < 20 + 12
