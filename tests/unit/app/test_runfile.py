"""A run file is read, completed and overridden; a mistake names the file, the key, and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from beamfold.app.runfile import RunFile, load_runfile
from beamfold.model.errors import ConfigError

SMALL = """
[app]
worker = "worker:FluorescenceWorker"
reducer = "reducer:FluorescenceReducer"

[streams.contrast]
protocol = "contrast"
url = "tcp://127.0.0.1:5556"

[streams.xspress3]
protocol = "xspress3"
url = "tcp://127.0.0.1:9999"
"""

FULL = (
    SMALL
    + """
frame_base = 1
retention_bytes = 1_000_000
receive_hwm = 50
ingester = "detectors"

[streams."Eiger 1/å"]
protocol = "stins"
url = "tcp://detector.example:9998"
frame_base = "continuing"
ingester = "detectors"

[streams.pub]
protocol = "stins"
socket = "sub"
bind = true
url = "tcp://127.0.0.1:*"

[run]
name = "beamline-1"

[workers]
count = 3
tags = [["generic"], ["generic", "gpu"], ["gpu"]]

[parameters]
roi1 = [100, 200]
fit = {order = 2, names = ["a", "å"]}
mode = "fast"
gain = 2
threshold = 0.5
enabled = true
since = 2024-05-01T10:00:00Z

[policy]
incomplete = "skip"
fold_patience = 0.5
fold_order = "arrival"
overload = "sample"
sample_every = 10

[spill]
directory = "/fast/disk"
max_bytes = 2_000_000

[controller]
http = "localhost:5000"
control = "ipc:///run/beamfold/control"

[reducer]
http = "[::1]:5001"

[store]
url = "redis://:secret@store:6379/0"

[output]
directory = "results"
hdf5 = false
"""
)

Load = Callable[[str], RunFile]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a run file and load it, in an environment that says nothing."""
    for name in [n for n in os.environ if n.startswith("BEAMFOLD_") or n == "REDIS_URL"]:
        monkeypatch.delenv(name)

    def write_and_load(text: str) -> RunFile:
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        return load_runfile(tmp_path / "run.toml")

    return write_and_load


def refused(load: Load, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert "run.toml" in str(caught.value)
    return str(caught.value)


def test_what_a_small_file_leaves_out(load: Load) -> None:
    run = load(SMALL)
    assert run.run.name == "beamfold"
    assert (run.workers.count, run.worker_tags()) == (2, (frozenset({"generic"}),) * 2)
    assert run.raw_parameters() == {}
    assert run.policy.model_dump() == {
        "incomplete": "process",
        "fold_patience": 2.0,
        "fold_order": "event",
        "overload": "spill",
        "sample_every": None,
        "timeout": None,
        "shared_memory": True,
    }
    assert (run.controller.http, run.controller.control) == ("127.0.0.1:0", "tcp://127.0.0.1:0")
    assert run.reducer.http == "127.0.0.1:0"
    assert run.store.url is None
    assert (run.output.directory, run.output.hdf5) == (Path("beamfold-data"), True)
    assert run.ingesters() == {"contrast": ("contrast",), "xspress3": ("xspress3",)}
    counted, numbered = run.streams.values()
    assert (counted.socket, counted.frame_base, counted.base) == ("sub", None, None)
    assert (numbered.socket, numbered.frame_base, numbered.base) == ("sub", 0, 0)
    assert (numbered.bind, numbered.retention_bytes, numbered.receive_hwm) == (False, 1_073_741_824, 1000)


def test_a_full_file(load: Load, tmp_path: Path) -> None:
    run = load(FULL)
    assert run.run.name == "beamline-1"
    assert (run.policy.overload, run.policy.sample_every) == ("sample", 10)
    assert (run.spill.directory, run.spill.max_bytes) == (Path("/fast/disk"), 2_000_000)
    assert run.worker_tags() == (frozenset({"generic"}), frozenset({"generic", "gpu"}), frozenset({"gpu"}))
    assert list(run.streams) == ["contrast", "xspress3", "Eiger 1/å", "pub"]
    assert run.ingesters() == {
        "contrast": ("contrast",),
        "detectors": ("xspress3", "Eiger 1/å"),
        "pub": ("pub",),
    }
    eiger = run.streams["Eiger 1/å"]
    assert (eiger.socket, eiger.frame_base, eiger.base) == ("pull", "continuing", None)
    assert eiger.framer_options == {"number": "msg_number"}
    assert (run.streams["xspress3"].base, run.streams["xspress3"].framer_options) == (1, {})
    assert run.streams["pub"].socket == "sub"
    assert run.raw_parameters() == {
        "roi1": b"[100, 200]",
        "fit": '{"order": 2, "names": ["a", "å"]}'.encode(),
        "mode": b"fast",
        "gain": b"2",
        "threshold": b"0.5",
        "enabled": b"True",
        "since": b"2024-05-01 10:00:00+00:00",
    }
    assert run.store.url == "redis://:secret@store:6379/0"
    assert (run.path, run.directory) == (tmp_path / "run.toml", tmp_path)


def test_a_folder_stands_for_its_run_toml(load: Load, tmp_path: Path) -> None:
    assert load(SMALL) == load_runfile(tmp_path)


def test_a_loaded_file_cannot_be_changed(load: Load) -> None:
    run = load(SMALL)
    with pytest.raises(ValidationError):
        run.workers.count = 7  # type: ignore[misc]
    with pytest.raises(ValidationError):
        run.run = run.run  # type: ignore[misc]


# -- mistakes ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_or_no_toml(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no run file .*run\.toml; name one, or a folder"):
        load_runfile(tmp_path)
    assert "not valid TOML" in refused(load, "[app]\nworker = worker:W\n")
    assert "line 2" in refused(load, "[app]\nworker = worker:W\n")
    (tmp_path / "run.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_runfile(tmp_path)


def test_an_empty_file_says_what_to_add(load: Load) -> None:
    text = refused(load, "")
    assert "app is missing; add [app] with worker = " in text
    assert "streams is missing; add [streams.NAME] with protocol and url" in text


@pytest.mark.parametrize(
    ("edit", "texts"),
    [
        ("[polcy]\nincomplete = 'skip'", ["polcy: there is no such key; did you mean 'policy'?", "workers"]),
        ("[policy]\nincomplet = 'skip'", ["policy.incomplet: there is no such key", "mean 'incomplete'?"]),
        ("[policy]\nincomplete = 'drop'", ["policy.incomplete", "'process' or 'skip'", "found 'drop'"]),
        (
            "[policy]\noverload = 'latest'\nsample_every = 10",
            ['policy: sample_every is for overload = "sample" only'],
        ),
        ("[policy]\noverload = 'pray'", ["policy.overload", "'block'", "found 'pray'"]),
        ("[policy]\nfold_patience = -1", ["policy.fold_patience", "greater than or equal to 0", "found -1"]),
        ("[policy]\nfold_patience = nan", ["policy.fold_patience"]),
        ("[workers]\ncount = 0", ["workers.count", "found 0"]),
        ("[workers]\ncount = 3\ntags = [['a']]", ["workers: tags has 1 lists for 3 workers; give one list"]),
        ("[workers]\ncount = 1\ntags = [[]]", ["workers.tags.0", "at least 1 item"]),
        ("[run]\nname = 'a b'", ["run.name", "found 'a b'"]),
        (
            "[controller]\nhttp = '0.0.0.0:5000'",
            ["controller.http: '0.0.0.0:5000' would listen", "needs a token"],
        ),
        (
            "[controller]\ncontrol = 'tcp://*:5000'",
            ["controller.control: 'tcp://*:5000' would listen", "keys"],
        ),
        ("[reducer]\nhttp = '[::]:80'", ["reducer.http: '[::]:80' would listen beyond this machine"]),
        ("[reducer]\nhttp = 'host.example:80'", ["reducer.http", "would listen beyond this machine"]),
        ("[reducer]\nhttp = '5000'", ["reducer.http: '5000' is not an address; write host:port"]),
        ("[reducer]\nhttp = '127.0.0.1:70000'", ["reducer.http: '127.0.0.1:70000' is not an address"]),
        ("[store]\nurl = 'mysql://x:secret@h'", ["store.url: not the URL of a store; write redis://"]),
        (
            "[parameters]\na = [2024-05-01]",
            ["parameters: parameter 'a': the value cannot be written as JSON"],
        ),
        ('[parameters]\n"a\\n" = 1', ["parameters: the name 'a\\n' has control characters"]),
        ("[streams.\"\"]\nprotocol='stins'\nurl='tcp://h:1'", ["streams: a name must not be empty"]),
        ("[streams.a]\nurl='tcp://h:1'", ["streams.a.protocol is missing; add protocol = 'stins',"]),
        ("[streams.a]\nprotocol='stins'", ["streams.a.url is missing; add url = 'tcp://host:port'"]),
        (
            "[streams.a]\nprotocol='eiger'\nurl='tcp://h:1'",
            ["streams.a.protocol", "'stins'", "found 'eiger'"],
        ),
        (
            "[streams.a]\nprotocol='stins'\nurl='tcp://h'",
            ["streams.a: 'h' is not an address; write host:port"],
        ),
        ("[streams.a]\nprotocol='stins'\nurl='h:1'", ["streams.a: 'h:1' is not a usable ZeroMQ address"]),
        ("[streams.a]\nprotocol='stins'\nurl='inproc://x'", ["is not a usable ZeroMQ address; write tcp://"]),
        (
            "[streams.a]\nprotocol='stins'\nurl='tcp://h:*'",
            ["has no host and port to connect to", "bind = true"],
        ),
        ("[streams.a]\nprotocol='stins'\nurl='tcp://*:80'\nbind=true", ["would listen beyond this machine"]),
        (
            "[streams.a]\nprotocol='contrast'\nurl='tcp://h:1'\nframe_base=0",
            ["they are counted; leave frame_base"],
        ),
        ("[streams.a]\nprotocol='xspress3'\nurl='tcp://h:1'\nframe_base='continuing'", ["for stins only"]),
        ("[streams.a]\nprotocol='stins'\nurl='tcp://h:1'\nframe_base=2", ["streams.a.frame_base", "found 2"]),
        (
            "[streams.a]\nprotocol='stins'\nurl='tcp://h:1'\nretention=5",
            ["streams.a.retention", "'retention_bytes'?"],
        ),
        (
            "[streams.a]\nprotocol='stins'\nurl='tcp://127.0.0.1:9999'",
            ["xspress3, a share tcp://127.0.0.1:9999"],
        ),
        (
            "[streams.a]\nprotocol='stins'\nurl=['tcp://h:1', 'tcp://127.0.0.1:9999']",
            ["xspress3, a share tcp://127.0.0.1:9999"],
        ),
        ("[streams.a]\nprotocol='stins'\nurl=[]", ["streams.a.url: the list of addresses is empty; write 'tcp://"]),
        (
            "[streams.a]\nprotocol='stins'\nurl=5",
            ["streams.a.url: 5 is no address; write 'tcp://host:port', or a list"],
        ),
        ("[streams.a]\nprotocol='stins'\nurl=['tcp://h:1', 5]", ["streams.a.url", "is no address"]),
        ("[streams.a]\nprotocol='stins'\nurl=['tcp://h:1', 'tcp://h']", ["streams.a: 'h' is not an address"]),
        (
            "[streams.a]\nprotocol='stins'\nbind=true\nurl=['tcp://127.0.0.1:1', 'tcp://127.0.0.1:1']",
            ["streams.a: tcp://127.0.0.1:1 can be listened on once only: connect the detector several times"],
        ),
        (
            "[streams.a]\nprotocol='stins'\nsocket='sub'\nurl=['tcp://h:1', 'tcp://h:1']",
            ["streams.a: tcp://h:1 is named more than once", "would bring every frame; name it once"],
        ),
        ("[streams.a]\nprotocol='contrast'\nurl='tcp://h:1'\ndurable=true", ["no numbers", "leave durable out"]),
        (
            "[streams.a]\nprotocol='stins'\nurl=['tcp://h:1', 'tcp://h:2']\ndurable=true",
            ["several addresses cannot be durable; give one url"],
        ),
        (
            "[streams.a]\nprotocol='contrast'\nurl=['tcp://h:1', 'tcp://h:2']",
            ["streams.a: contrast frames have no numbers, by which", "give one url"],
        ),
    ],
)
def test_a_mistake_names_the_key_and_what_to_do(load: Load, edit: str, texts: list[str]) -> None:
    found = refused(load, f"{SMALL}\n{edit}\n")
    for text in texts:
        assert text in found
    assert "secret" not in found
    assert "pydantic" not in found


def test_a_class_path_is_checked_early(load: Load) -> None:
    found = refused(load, SMALL.replace("worker:FluorescenceWorker", "worker.FluorescenceWorker"))
    assert "app.worker: 'worker.FluorescenceWorker' does not name a class; write 'module:Class'" in found


def test_all_mistakes_are_told_at_once(load: Load) -> None:
    found = refused(load, SMALL + "[workers]\ncount = 0\n[policy]\nfold_order = 'any'\n")
    assert "workers.count" in found
    assert "policy.fold_order" in found


def test_two_subscribers_may_read_one_publisher(load: Load) -> None:
    again = "[streams.again]\nprotocol = 'xspress3'\nurl = 'tcp://127.0.0.1:9999'\n"
    assert len(load(SMALL + again).streams) == 3


@pytest.mark.parametrize(
    ("keys", "urls", "receiver"),
    [
        ("url = ['tcp://h:1']", ("tcp://h:1",), "direct"),
        ("url = ['tcp://h:1', 'tcp://h:2']", ("tcp://h:1", "tcp://h:2"), "direct"),
        ("url = ['tcp://h:1', 'tcp://h:1']", ("tcp://h:1", "tcp://h:1"), "direct"),
        ("url = ['tcp://h:1', 'ipc:///detector']", ("tcp://h:1", "ipc:///detector"), "libzmq"),
        ("url = ['tcp://h:1', 'tcp://h:2']\nsocket = 'sub'", ("tcp://h:1", "tcp://h:2"), "libzmq"),
        ("url = ['tcp://127.0.0.1:0', 'tcp://127.0.0.1:0']\nbind = true", ("tcp://127.0.0.1:0",) * 2, "direct"),
    ],
)
def test_several_sockets_for_one_stream(load: Load, keys: str, urls: tuple[str, ...], receiver: str) -> None:
    camera = load(f"{SMALL}\n[streams.camera]\nprotocol = 'stins'\n{keys}\n").streams["camera"]
    assert (camera.urls, camera.receiver) == (urls, receiver)
    assert camera.url == (urls if len(urls) > 1 else urls[0])


def test_one_address_in_a_list_is_like_the_address_itself(load: Load) -> None:
    of_list = load(SMALL.replace('url = "tcp://127.0.0.1:5556"', 'url = ["tcp://127.0.0.1:5556"]'))
    assert of_list.streams == load(SMALL).streams


# -- the environment -----------------------------------------------------------------------------------------


def test_the_environment_wins(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "BEAMFOLD_WORKERS__COUNT": "2",
        "BEAMFOLD_WORKERS__TAGS": '[["a"], ["b", "c"]]',
        "BEAMFOLD_POLICY__FOLD_PATIENCE": "7.5",
        "BEAMFOLD_OUTPUT__HDF5": "true",
        "BEAMFOLD_APP__WORKER": "other.py:Worker",
        "BEAMFOLD_STREAMS__XSPRESS3__URL": "tcp://detector:1234",
        "BEAMFOLD_STREAMS__xspress3__FRAME_BASE": "0",
        "BEAMFOLD_STREAMS__EIGER_1____BIND": "false",
        "BEAMFOLD_STREAMS__NEW": '{"protocol": "stins", "url": "tcp://h:1"}',
        "BEAMFOLD_STREAMS__PUB__URL": '["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]',
        "BEAMFOLD_STREAMS__NEW__RECEIVE_HWM": "9",
        "BEAMFOLD_PARAMETERS__ROI1": "[1, 2]",
        "BEAMFOLD_PARAMETERS__MODE": "",
        "BEAMFOLD_PARAMETERS__Extra__One": "x",
        "BEAMFOLD_STORE__URL": "unix:///run/store",
        "REDIS_URL": "redis://elsewhere",
    }.items():
        monkeypatch.setenv(name, value)
    run = load(FULL)
    assert run.worker_tags() == (frozenset("a"), frozenset("bc"))
    assert (run.policy.fold_patience, run.policy.fold_order, run.output.hdf5) == (7.5, "arrival", True)
    assert (run.app.worker, run.app.reducer) == ("other.py:Worker", "reducer:FluorescenceReducer")
    xspress3 = run.streams["xspress3"]
    assert (xspress3.url, xspress3.frame_base, xspress3.receive_hwm) == ("tcp://detector:1234", 0, 50)
    assert sorted(run.streams) == sorted(["contrast", "xspress3", "Eiger 1/å", "pub", "new"])
    assert (run.streams["new"].receive_hwm, run.streams["new"].ingester) == (9, "new")
    assert run.streams["pub"].urls == ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    raw = run.raw_parameters()
    assert (raw["roi1"], raw["mode"], raw["Extra__One"], raw["gain"]) == (b"[1, 2]", b"", b"x", b"2")
    assert run.store.url == "unix:///run/store"


def test_redis_url_is_the_store_where_nothing_else_says(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1")
    assert load(SMALL).store.url == "redis://elsewhere:1"
    assert load(FULL).store.url == "redis://:secret@store:6379/0"
    monkeypatch.setenv("REDIS_URL", "http://wrong:secret@h")
    found = refused(load, SMALL)
    assert "store.url (set by REDIS_URL): not the URL of a store" in found
    assert "secret" not in found


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "BEAMFOLD_POLCY__INCOMPLETE",
            "skip",
            "no section 'polcy'; did you mean BEAMFOLD_POLICY__INCOMPLETE?",
        ),
        (
            "BEAMFOLD_POLICY__INCOMPLETE",
            "drop",
            "policy.incomplete (set by BEAMFOLD_POLICY__INCOMPLETE): Input",
        ),
        (
            "BEAMFOLD_POLICY__INCOMPLET",
            "skip",
            "policy.incomplet (set by BEAMFOLD_POLICY__INCOMPLET): there is",
        ),
        ("BEAMFOLD_WORKERS", "4", "BEAMFOLD_WORKERS sets a whole section: give a JSON mapping, or set"),
        ("BEAMFOLD_WORKERS", "four", "BEAMFOLD_WORKERS is not valid JSON"),
        ("BEAMFOLD_WORKERS__TAGS", "[[", "BEAMFOLD_WORKERS__TAGS is not valid JSON"),
        (
            "BEAMFOLD_REDUCER__HTTP",
            "0.0.0.0:1",
            "reducer.http (set by BEAMFOLD_REDUCER__HTTP): '0.0.0.0:1' would",
        ),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(
    load: Load, monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load(SMALL)
    assert text in str(caught.value)


def test_variables_that_are_not_for_the_run_file_are_left_alone(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEAMFOLD_CAPTURES", "BEAMFOLD_PORT_5000_TCP", "BEAMFOLD_CONTROLLER_SERVICE_HOST"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("BEAMFOLD_WORKERS__COUNT", "")
    assert load(SMALL).workers.count == 2


def test_a_section_in_one_variable(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAMFOLD_POLICY", '{"incomplete": "skip", "fold_patience": 1}')
    monkeypatch.setenv("BEAMFOLD_POLICY__FOLD_PATIENCE", "3")
    policy = load(SMALL).policy
    assert (policy.incomplete, policy.fold_patience) == ("skip", 3.0)


def test_the_token_of_a_deployment(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(SMALL).token() == ""
    in_a_file = SMALL + "\n[controller]\ntoken_file = 'token'\n"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(in_a_file).token()
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(ConfigError, match="less than 16 characters"):
        load(in_a_file).token()
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert load(in_a_file).token() == "0123456789abcdef"
    monkeypatch.setenv("BEAMFOLD_CONTROLLER__TOKEN", "fedcba9876543210")
    assert load(in_a_file).token() == "fedcba9876543210"
    assert "fedcba" not in repr(load(in_a_file))


@pytest.mark.parametrize("token", ["secret", "[1, 2]"])
def test_a_token_that_cannot_be_used_is_not_repeated(load: Load, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("BEAMFOLD_CONTROLLER__TOKEN", token)
    with pytest.raises(ConfigError, match="openssl rand -hex 32") as caught:
        load(SMALL)
    assert token not in str(caught.value)
