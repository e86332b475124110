"""Parameter files: what `-p` names."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cbor2

from beamfold.model.errors import ConfigError, MalformedFrame, ParameterError
from beamfold.model.parameters import encode_value
from beamfold.protocols.unpickle import safe_loads


def read_parameters(path: Path) -> dict[str, bytes]:
    """Raw parameter values by name, from a list of `{"name", "data"}` or a mapping name → value.

    JSON and TOML are read as text; anything else as a pickle (allow-listed) or CBOR of the same. ConfigError says
    what does not fit.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the parameter file {path}: {error}") from error
    found = _load(path, raw)
    if isinstance(found, dict) and set(found) == {"parameters"} and isinstance(found["parameters"], dict):
        found = found["parameters"]  # as in a run file
    if isinstance(found, dict):
        return {_name(path, k): _bytes(path, k, v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return dict(_entries(path, found))
    raise ConfigError(f"{path}: a list of {{name, data}} or a mapping of names to values was expected")


def _load(path: Path, raw: bytes) -> Any:
    if path.suffix == ".toml":
        try:
            return tomllib.loads(raw.decode())
        except (ValueError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _binary(path, raw)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error


def _binary(path: Path, raw: bytes) -> Any:
    try:
        return safe_loads(raw)
    except MalformedFrame as error:
        try:
            return cbor2.loads(raw)
        except (cbor2.CBORDecodeError, ValueError):
            raise ConfigError(f"{path} is neither JSON, CBOR nor a harmless pickle: {error}") from error


def _entries(path: Path, items: Iterable[Any]) -> Iterable[tuple[str, bytes]]:
    for item in items:
        if not isinstance(item, dict) or "name" not in item or "data" not in item:
            raise ConfigError(f"{path}: every entry needs name and data, not {item!r}")
        yield _name(path, item["name"]), _bytes(path, item["name"], item["data"])


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{path}: a parameter's name is text, not {name!r}")
    return name


def _bytes(path: Path, name: str, value: Any) -> bytes:
    try:
        return encode_value(name, value)
    except ParameterError as error:
        raise ConfigError(f"{path}: {error}") from error
