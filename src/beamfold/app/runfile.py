"""The run file: one TOML file per run, the same on a laptop and in a cluster; `BEAMFOLD_*` overrides it.

`load_runfile` reads and checks it. All sections but `[app]` and `[streams.NAME]` may be left out.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from beamfold.app.addresses import takes_free_port
from beamfold.app.environment import Origins, read_environment
from beamfold.app.sections import (
    SHORTEST_TOKEN,
    AppSection,
    ControllerSection,
    OutputSection,
    PolicySection,
    RecordSection,
    ReducerSection,
    RunSection,
    SpillSection,
    StoreSection,
    StreamSection,
    WorkersSection,
)
from beamfold.model.errors import ConfigError, ParameterError
from beamfold.model.parameters import encode_value, name_fault

__all__ = ["RunFile", "StreamSection", "load_runfile"]

_ADD = {
    "app": "[app] with worker = 'worker:MyWorker' and reducer = 'reducer:MyReducer'",
    "streams": "[streams.NAME] with protocol and url for every detector",
    "worker": "worker = 'module:Class'",
    "reducer": "reducer = 'module:Class'",
    "url": "url = 'tcp://host:port'",
    "protocol": "protocol = 'stins', 'xspress3' or 'contrast'",
}


class _EnvironmentSource(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], file: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._overlay, _ = read_environment(os.environ, file, settings_cls.model_fields)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._overlay.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._overlay


class RunFile(BaseSettings):
    """A whole run file. Made from keywords it still obeys the environment, as a loaded one does."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(extra="forbid", frozen=True)

    run: RunSection = RunSection()
    app: AppSection
    workers: WorkersSection = WorkersSection()
    streams: dict[str, StreamSection] = Field(min_length=1)
    parameters: dict[str, Any] = {}
    policy: PolicySection = PolicySection()
    spill: SpillSection = SpillSection()
    controller: ControllerSection = ControllerSection()
    reducer: ReducerSection = ReducerSection()
    store: StoreSection = StoreSection()
    output: OutputSection = OutputSection()
    record: RecordSection = RecordSection()

    _path: Path | None = PrivateAttr(None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what is given; there are no other sources."""
        return (_EnvironmentSource(settings_cls, init_settings()), init_settings)

    @model_validator(mode="before")
    @classmethod
    def _ingesters_by_stream(cls, given: dict[str, Any]) -> dict[str, Any]:
        streams = given.get("streams")
        if not isinstance(streams, Mapping):
            return given
        named = {n: {"ingester": n, **s} if isinstance(s, Mapping) else s for n, s in streams.items()}
        return {**given, "streams": named}

    @field_validator("streams")
    @classmethod
    def _apart(cls, streams: dict[str, StreamSection]) -> dict[str, StreamSection]:
        for fault in filter(None, map(name_fault, streams)):
            raise ValueError(fault)
        uses = Counter(url for s in streams.values() for url in set(s.urls) if not takes_free_port(url))
        for url in (u for u, n in uses.items() if n > 1):
            users = {n: s for n, s in streams.items() if url in s.urls}
            # A PUSH socket gives each message to one reader only, and an address can be bound once.
            if any(s.socket == "pull" or s.bind for s in users.values()):
                raise ValueError(
                    f"{', '.join(users)} share {url} and would take each other's frames; give each its own"
                )
        return streams

    @field_validator("parameters")
    @classmethod
    def _encodable(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            fault = name_fault(name)
            if fault:
                raise ValueError(fault)
            try:
                encode_value(name, value)
            except ParameterError as exc:
                raise ValueError(str(exc)) from exc
        return parameters

    @property
    def path(self) -> Path | None:
        """The file this was loaded from."""
        return self._path

    @property
    def directory(self) -> Path:
        """The folder that class paths are relative to."""
        return self._path.parent if self._path else Path.cwd()

    def raw_parameters(self) -> dict[str, bytes]:
        """The parameters as bytes: text and numbers as written by `str`, lists and tables as JSON."""
        return {name: encode_value(name, value) for name, value in self.parameters.items()}

    def token(self) -> str:
        """The token by which the services of this deployment know each other; "" where none is set.

        Raises ConfigError for a file that has none.
        """
        if self.controller.token is not None:
            return self.controller.token.get_secret_value()
        if self.controller.token_file is None:
            return ""
        path = self.directory / self.controller.token_file.expanduser()
        return read_token(path)

    def worker_tags(self) -> tuple[frozenset[str], ...]:
        """The tags of each logical worker."""
        tags = self.workers.tags or [["generic"]] * self.workers.count
        return tuple(frozenset(t) for t in tags)

    def ingesters(self) -> dict[str, tuple[str, ...]]:
        """The streams of each ingester, both in the order of the file."""
        found: dict[str, tuple[str, ...]] = {}
        for name, stream in self.streams.items():
            found[stream.ingester] = (*found.get(stream.ingester, ()), name)
        return found


def read_token(path: Path) -> str:
    """The token that a file has, without space around it. Raises ConfigError where it has none that can be used."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigError(
            f"the token file {path} cannot be read: {why}; `openssl rand -hex 32` makes a token"
        ) from None
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"the token file {path} has less than {SHORTEST_TOKEN} characters; `openssl rand -hex 32` makes a token"
        )
    return token


def load_runfile(path: str | Path) -> RunFile:
    """Read a run file, or the `run.toml` of a folder. Raises ConfigError: file, key, and what to do."""
    file = Path(path).expanduser().absolute()
    if file.is_dir():
        file /= "run.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no run file {file}; name one, or a folder that has a run.toml") from None
    except OSError as exc:
        raise ConfigError(f"the run file {file} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not valid TOML: {exc}") from exc
    _, origins = read_environment(os.environ, data, RunFile.model_fields)
    try:
        loaded = RunFile(**data)
    except ValidationError as exc:
        faults = "\n".join(f"  {_explained(e['loc'], e, origins)}" for e in exc.errors(include_url=False))
        raise ConfigError(f"{file} cannot be used:\n{faults}") from None
    loaded._path = file
    return loaded


def _explained(loc: tuple[int | str, ...], error: Any, origins: Origins) -> str:
    keys = tuple(str(part) for part in loc)
    variable = next((v for path, v in origins.items() if keys[: len(path)] == path), "")
    where = ".".join(keys) + (f" (set by {variable})" if variable else "")
    kind, text = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return f"{where} is missing; add {_ADD.get(keys[-1], 'it')}"
    if kind == "extra_forbidden":
        known = _known_keys(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, 1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        return f"{where}: there is no such key; {meant}Known here: {', '.join(known)}"
    if kind == "value_error" or isinstance(error["input"], Mapping):
        return f"{where}: {text}"
    return f"{where}: {text}, found {error['input']!r}"


def _known_keys(section: tuple[str, ...]) -> list[str]:
    if not section:
        return list(RunFile.model_fields)
    model = StreamSection if section[0] == "streams" else RunFile.model_fields[section[0]].annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
