"""The sections of a run file: their keys, defaults and checks.

What a stream does not say is filled in by its protocol, so that the fields can be used as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from beamfold.app.addresses import (
    connecting_url,
    listening_http,
    listening_url,
    readable_directly,
    takes_free_port,
)

Loopback = Annotated[str, AfterValidator(listening_http)]
_STORES = ("redis://", "rediss://", "unix://")

SHORTEST_TOKEN = 16
"""Characters of the shortest token that is taken: others could be guessed."""


def _class_path(path: str) -> str:
    if not re.fullmatch(r".+:\w+", path):
        raise ValueError(f"{path!r} does not name a class; write 'module:Class' or 'folder/file.py:Class'")
    return path


def _number(value: Any) -> Any:
    return int(value) if value in ("0", "1") else value


def _addresses(value: Any) -> Any:
    """An address, or several of them; a list of one is that one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(url, str) for url in value):
        raise ValueError(f"{value!r} is no address; write 'tcp://host:port', or a list of such")
    if not value:
        raise ValueError("the list of addresses is empty; write 'tcp://host:port', or several of them")
    return value[0] if len(value) == 1 else tuple(value)


def _token(value: Any) -> Any:
    """A token, which no error message repeats."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is not None and not (isinstance(text, str) and len(text) >= SHORTEST_TOKEN):
        raise ValueError(f"a token is a text of {SHORTEST_TOKEN} characters or more; `openssl rand -hex 32` makes one")
    return value


ClassPath = Annotated[str, AfterValidator(_class_path)]


class Section(BaseModel):
    """What all sections share: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(Section):
    """`name` tells this instance from others on the same control store."""

    name: str = Field(default="beamfold", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class AppSection(Section):
    """Class paths, relative to the run file's folder."""

    worker: ClassPath
    reducer: ClassPath


class WorkersSection(Section):
    """How many logical workers, and the tags of each where they differ (default: "generic" for all).

    User code may work for `time_limit` seconds on one event (or batch of them), and a worker may be stopped for `lease`
    seconds; then its process is killed, and others do its work.
    """

    count: int = Field(default=2, ge=1)
    tags: list[Annotated[list[str], Field(min_length=1)]] | None = None
    time_limit: float = Field(default=300.0, gt=0)
    lease: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        if self.tags is not None and len(self.tags) != self.count:
            raise ValueError(
                f"tags has {len(self.tags)} lists for {self.count} workers; give one list of tags per worker"
            )
        return self


class StreamSection(Section):
    """One stream: which protocol, and where its frames come from.

    `url` is an address, or several where a detector deals one series over several sockets; an address that is there
    more than once gets as many connections.

    `socket`, `frame_base` and `ingester` are filled in where the file leaves them out. `frame_base` is the
    number of a series' first frame, "continuing" where numbers run on from series to series, None for counted
    protocols. `retention_bytes` bounds what is kept in memory until it is done. `durable`: all that is received is also
    written to disk, so that it outlives an ingester that is killed; only numbered streams of one address can be gone on
    with, so for others it is refused.

    `receiver`: "direct" reads a detector's PUSH socket straight into place, which is faster; "libzmq" uses ZeroMQ's
    library, where `receive_hwm` bounds the messages that wait in the socket. The default is direct for pull sockets
    with a tcp address, libzmq for all else.
    """

    protocol: Literal["stins", "xspress3", "contrast"]
    url: Annotated[str | tuple[str, ...], BeforeValidator(_addresses)]
    socket: Literal["pull", "sub"]
    bind: bool = False
    frame_base: Annotated[Literal[0, 1, "continuing"] | None, BeforeValidator(_number)]
    retention_bytes: int = Field(default=1 << 30, ge=1)
    receive_hwm: int = Field(default=1000, ge=1)
    receiver: Literal["direct", "libzmq"]
    ingester: str
    durable: bool = False

    @model_validator(mode="before")
    @classmethod
    def _by_protocol(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        protocol = given.get("protocol")
        socket, base = ("pull" if protocol == "stins" else "sub"), (None if protocol == "contrast" else 0)
        urls = given.get("url")
        urls = urls if isinstance(urls, list | tuple) else [urls]
        direct = given.get("socket", socket) == "pull" and all(readable_directly(str(url)) for url in urls)
        return {"socket": socket, "frame_base": base, "receiver": "direct" if direct else "libzmq", **given}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for url in self.urls:
            (listening_url if self.bind else connecting_url)(url)
        self._several()
        if self.protocol == "contrast" and self.frame_base is not None:
            raise ValueError("contrast frames have no numbers, they are counted; leave frame_base out")
        if self.frame_base == "continuing" and self.protocol != "stins":
            raise ValueError('frame_base = "continuing" exists for stins only; use 0 or 1')
        if self.receiver == "direct" and not (self.socket == "pull" and all(map(readable_directly, self.urls))):
            raise ValueError(
                'receiver = "direct" needs socket = "pull" and an address like tcp://host:port; leave it out'
            )
        return self

    @model_validator(mode="after")
    def _can_be_durable(self) -> Self:
        if self.durable and self.protocol == "contrast":
            raise ValueError(
                "contrast frames have no numbers: nobody would know which were lost with an ingester, so another one "
                "cannot go on with them; leave durable out"
            )
        if self.durable and len(self.urls) > 1:
            raise ValueError("a stream of several addresses cannot be durable; give one url, or leave durable out")
        return self

    def _several(self) -> None:
        """Raises ValueError for several addresses that cannot bring one stream."""
        if len(self.urls) > 1 and self.protocol == "contrast":
            raise ValueError(
                "contrast frames have no numbers, by which those of several sockets could be put in order; give one url"
            )
        twice = next((url for url, n in Counter(self.urls).items() if n > 1), None)
        if twice is None:
            return
        if self.bind and not takes_free_port(twice):
            raise ValueError(f"{twice} can be listened on once only: connect the detector several times to one url")
        if self.socket == "sub":
            raise ValueError(
                f"{twice} is named more than once, and every connection of a sub socket would bring every frame; "
                "name it once"
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, one for every connection."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def base(self) -> int | None:
        """The number of a series' first frame; None: its start message gives it, or frames are counted."""
        return self.frame_base if isinstance(self.frame_base, int) else None

    @property
    def framer_options(self) -> dict[str, Any]:
        """What the protocol's framer must be told."""
        return {"number": "msg_number"} if self.frame_base == "continuing" else {}


class PolicySection(Section):
    """What happens when not all is well; `fold_patience` in seconds.

    `overload` is for more frames than the workers can process: put them on disk, hold the detectors back, or leave
    events out, all but one in `sample_every` (None: as many as it takes) or all but the latest.

    A scan is stopped when for `timeout` seconds nothing has come of any stream that has not ended; None: never.

    `shared_memory`: workers on an ingester's host read large frames (64 KiB and more) out of its memory.
    """

    incomplete: Literal["process", "skip"] = "process"
    fold_patience: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    fold_order: Literal["event", "arrival"] = "event"
    overload: Literal["spill", "block", "sample", "latest"] = "spill"
    sample_every: int | None = Field(default=None, ge=2)
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    shared_memory: bool = True

    @model_validator(mode="after")
    def _sampling(self) -> Self:
        if self.sample_every is not None and self.overload != "sample":
            raise ValueError('sample_every is for overload = "sample" only; set that, or leave sample_every out')
        return self


class SpillSection(Section):
    """Where an ingester puts frames that exceed their stream's `retention_bytes`, `max_bytes` of them.

    None: in the output folder. A relative folder counts from where the command was started. A twentieth of the disk
    is never used.
    """

    directory: Path | None = None
    max_bytes: int = Field(default=10 << 30, ge=1 << 20)


class ControllerSection(Section):
    """Where the controller listens: HTTP for people, `control` for the other services.

    Those have to have its `token`, or else what is in `token_file`, which counts from the run file's folder.
    """

    http: Loopback = "127.0.0.1:0"
    control: Annotated[str, AfterValidator(listening_url)] = "tcp://127.0.0.1:0"
    token: Annotated[SecretStr | None, BeforeValidator(_token)] = None
    token_file: Path | None = None


class ReducerSection(Section):
    """Where the reducer's state is served, and how it is kept for the case that the reducer ends in mid-scan.

    A class with `checkpoint` and `restore` has its state saved in any case; with `checkpoint` so has one without them:
    its attributes are. Between two checkpoints are `checkpoint_pause` seconds at least.
    """

    http: Loopback = "127.0.0.1:0"
    checkpoint: bool = False
    checkpoint_pause: float = Field(default=5.0, gt=0, allow_inf_nan=False)


class StoreSection(Section):
    """The control store; None: one is started for this run."""

    url: str | None = None

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        # The URL may hold a password: it is never repeated.
        if url is not None and not url.startswith(_STORES):
            raise ValueError("not the URL of a store; write redis://host:port, rediss:// or unix:///path")
        return url


class RecordSection(Section):
    """Where every scan is recorded, in a folder of its own; None: nowhere. A relative folder counts as in `output`."""

    directory: Path | None = None


class OutputSection(Section):
    """Where results go; a relative folder counts from where the command was started."""

    directory: Path = Path("beamfold-data")
    hdf5: bool = True
