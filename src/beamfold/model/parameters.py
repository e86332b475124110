"""Parameters: what an app declares, what people send as bytes, and which values hold for which event.

A parameter travels as bytes and nothing else; the declared type says how to read them. The same bytes always
give the same value, in every process and in a replay, so a set of parameters is known by its bytes' hash.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

from pydantic import BaseModel, ConfigDict, field_validator

from beamfold.model.errors import ParameterError

Json: TypeAlias = list[Any] | dict[str, Any]

_FOREVER = 1 << 63
_TRUTH = {b"true": True, b"1": True, b"false": False, b"0": False}


def name_fault(name: str) -> str | None:
    """What is wrong with a stream's or a parameter's name, or None; all but control characters will do."""
    if not name:
        return "a name must not be empty"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"the name {name!r} has control characters; leave them out"
    return None


def _excerpt(data: bytes) -> str:
    return repr(data if len(data) <= 60 else data[:57] + b"...")


def _json_container(data: bytes) -> Json | None:
    """The JSON list or mapping that these bytes are, or None. They come from the network: expect anything."""
    if data.lstrip()[:1] not in (b"[", b"{"):
        return None
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list | dict) else None


def encode_value(name: str, value: Any) -> bytes:
    """A plain value as raw parameter bytes: lists and mappings as JSON, bytes as they are, the rest by `str`.

    Raises ParameterError where a list or mapping holds what JSON cannot.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        if isinstance(value, list | tuple | dict):
            return json.dumps(value, ensure_ascii=False).encode()
        return str(value).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ParameterError(
            f"parameter {name!r}: the value cannot be written as JSON ({exc}); use numbers, strings, "
            "booleans, lists and mappings with string keys"
        ) from exc


class ParameterBase(BaseModel, ABC):
    """What an app says about one parameter: its name, what it is for, its default, how its bytes are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str | None = None
    default: Any = None
    dtype: str = ""

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        fault = name_fault(name)
        if fault:
            raise ValueError(fault)
        return name

    @abstractmethod
    def from_bytes(self, data: bytes) -> Any:
        """The typed value of these bytes. Raises ParameterError, which names the parameter."""

    def to_bytes(self, value: Any) -> bytes:
        """The bytes of a value. Raises ParameterError for a value that these bytes would not give back."""
        data = encode_value(self.name, value)
        self.from_bytes(data)
        return data

    def describe(self) -> dict[str, Any]:
        """Name, description, dtype and default as JSON-able values; a binary default as text with escapes."""
        default = self.default
        if isinstance(default, bytes):
            default = default.decode(errors="backslashreplace")
        return {
            "name": self.name,
            "description": self.description,
            "dtype": self.dtype,
            "default": default,
        }

    def _refuse(self, data: bytes, wanted: str) -> ParameterError:
        wanted = f"{wanted} (its type is {self.dtype})"
        return ParameterError(f"parameter {self.name!r} wants {wanted}, but was given {_excerpt(data)}")


class StrParameter(ParameterBase):
    """Text, UTF-8 on the wire."""

    default: str = ""
    dtype: Literal["str"] = "str"

    def from_bytes(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._refuse(data, "UTF-8 text") from None


class IntParameter(ParameterBase):
    """A whole number, in decimal digits on the wire."""

    default: int = 0
    dtype: Literal["int"] = "int"

    def from_bytes(self, data: bytes) -> int:
        try:
            return int(data)
        except ValueError:
            raise self._refuse(data, "a whole number such as 42") from None


class FloatParameter(ParameterBase):
    """A number; `nan` and `inf` are numbers too."""

    default: float = 0.0
    dtype: Literal["float"] = "float"

    def from_bytes(self, data: bytes) -> float:
        try:
            return float(data)
        except ValueError:
            raise self._refuse(data, "a number such as 0.5") from None


class BoolParameter(ParameterBase):
    """True or false. Written as `True` or `False`; any case, `1` and `0` are read too."""

    default: bool = False
    dtype: Literal["bool"] = "bool"

    def from_bytes(self, data: bytes) -> bool:
        try:
            return _TRUTH[data.strip().lower()]
        except KeyError:
            raise self._refuse(data, "True or False") from None


class BinaryParameter(ParameterBase):
    """Bytes that mean something to the app alone."""

    default: bytes = b""
    dtype: Literal["binary"] = "binary"

    def from_bytes(self, data: bytes) -> bytes:
        return data


class JsonParameter(ParameterBase):
    """A list or a mapping, JSON on the wire."""

    default: Json = []
    dtype: Literal["json"] = "json"

    def from_bytes(self, data: bytes) -> Json:
        found = _json_container(data)
        if found is None:
            raise self._refuse(data, "a JSON list or mapping such as [100, 200]")
        return found


def _default(parameter: ParameterBase) -> bytes:
    return parameter.to_bytes(parameter.default)


def merge_declared(*lists: Iterable[ParameterBase]) -> tuple[ParameterBase, ...]:
    """What worker and reducer declare, together and sorted by name; both sides see all of it.

    Raises ParameterError where one name is declared with two types or two defaults.
    """
    merged: dict[str, ParameterBase] = {}
    for parameter in (p for each in lists for p in each):
        other = merged.setdefault(parameter.name, parameter)
        # By bytes: two defaults of nan are the same default.
        if other.dtype != parameter.dtype or _default(other) != _default(parameter):
            raise ParameterError(
                f"parameter {parameter.name!r} is declared twice and differently: as {other.dtype} with "
                f"default {other.default!r} and as {parameter.dtype} with default {parameter.default!r}; "
                "make them the same"
            )
        if parameter.description and not other.description:
            merged[parameter.name] = parameter
    return tuple(merged[name] for name in sorted(merged))


@dataclass(frozen=True, slots=True)
class WorkParameter:
    """One parameter as a hook sees it: the raw `data` (text is taken as UTF-8) and the typed `value`.

    `value` is None for a parameter that nobody declared, unless its bytes are a JSON list or mapping. A list
    or mapping can be indexed, iterated and measured on the parameter itself: `parameters["roi"][0]`. It is
    shared by all events, so it must not be changed. A parameter is always true, as an object is, whatever its
    value. Raises TypeError when something else is indexed.
    """

    name: str
    data: bytes
    value: Any = field(default=None, hash=False)

    def __post_init__(self) -> None:
        data: object = self.data
        if not isinstance(data, bytes | str | bytearray | memoryview):
            raise ParameterError(f"parameter {self.name!r}: data must be bytes or text, not {type(data).__name__}")
        object.__setattr__(self, "data", data.encode() if isinstance(data, str) else bytes(data))

    def _container(self) -> Any:
        if isinstance(self.value, list | dict):
            return self.value
        # An app from a time without list parameters declares its list as text, or not at all.
        found = _json_container(self.data)
        if found is None:
            raise TypeError(
                f"parameter {self.name!r} is {_excerpt(self.data)}, neither a list nor a mapping; "
                f"use parameters[{self.name!r}].value, or set it to JSON such as [100, 200]"
            )
        return found

    def __getitem__(self, key: Any) -> Any:
        return self._container()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._container())

    def __len__(self) -> int:
        return len(self._container())

    def __contains__(self, item: object) -> bool:
        return item in self._container()

    def __bool__(self) -> bool:
        return True


class ParameterSet(dict[str, WorkParameter]):
    """All parameters of one version: an unchangeable dict, so that hooks get a dict's speed and manners.

    `version` counts changes; `hash` (64 hex digits) depends on names and bytes alone.
    """

    __slots__ = ("hash", "version")

    version: int
    hash: str

    def __init__(self, parameters: Iterable[WorkParameter] = (), version: int = 0) -> None:
        super().__init__((p.name, p) for p in parameters)
        self.version = version
        self.hash = _digest(self.values())

    @classmethod
    def build(cls, declared: Sequence[ParameterBase], raw: Mapping[str, bytes], version: int) -> ParameterSet:
        """Type the raw bytes by what is declared; declared ones that were not sent get their default.

        Raises ParameterError that lists everything that does not fit.
        """
        known = {p.name: p for p in declared}
        faults: list[str] = []
        found: list[WorkParameter] = []
        for name in sorted({*known, *raw}):
            try:
                found.append(_typed(name, known.get(name), raw.get(name)))
            except ParameterError as exc:
                faults.append(str(exc))
        if faults:
            raise ParameterError("; ".join(faults))
        return cls(found, version)

    def renumbered(self, version: int) -> ParameterSet:
        """The same values as another version: what stays in force when a version cannot be applied."""
        return ParameterSet(self.values(), version)

    def raw(self) -> dict[str, bytes]:
        """The bytes by name, defaults included: what to record and to send to another process."""
        return {name: p.data for name, p in self.items()}

    def __missing__(self, name: str) -> NoReturn:
        there = ", ".join(self) or "none"
        raise KeyError(f"no parameter {name!r} (there are: {there}); declare it in describe_parameters() or set it")

    def _immutable(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("parameters cannot be changed by a hook; keep state in self, or take dict(parameters)")

    __setitem__ = __delitem__ = __ior__ = _immutable
    update = setdefault = pop = popitem = clear = _immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return (ParameterSet, (list(self.values()), self.version))


def _typed(name: str, declared: ParameterBase | None, data: bytes | None) -> WorkParameter:
    fault = name_fault(name)
    if fault:
        raise ParameterError(f"a parameter cannot be called so: {fault}")
    if declared is None:
        raw = bytes(data or b"")
        return WorkParameter(name, raw, _json_container(raw))
    raw = _default(declared) if data is None else bytes(data)
    return WorkParameter(name, raw, declared.from_bytes(raw))


def _digest(parameters: Iterable[WorkParameter]) -> str:
    digest = hashlib.sha256()
    for p in sorted(parameters, key=lambda p: p.name):
        name = p.name.encode()
        # Lengths first, so that no two different sets run together to the same bytes.
        digest.update(b"%d:%d:" % (len(name), len(p.data)) + name + p.data)
    return digest.hexdigest()


class ParameterHistory:
    """Which parameters hold from which event number on. One scan's history starts at event 0."""

    def __init__(self, entries: Iterable[tuple[int, ParameterSet]]) -> None:
        self._from: list[int] = []
        self._sets: list[ParameterSet] = []
        for from_event, parameters in entries:
            self.append(from_event, parameters)
        if not self._from:
            raise ParameterError("a parameter history needs the parameters that hold from event 0 on")
        self._last = self._look_up(0)

    def append(self, from_event: int, parameters: ParameterSet) -> None:
        """A new version, in force from `from_event` on. Two at one event: the later one holds.

        Raises ParameterError when it would change the past: event numbers must not fall, versions must rise,
        and the first version starts at event 0.
        """
        if not self._from and from_event != 0:
            raise ParameterError(f"the first parameters must hold from event 0 on, not from {from_event}")
        if self._from and (from_event < self._from[-1] or parameters.version <= self._sets[-1].version):
            raise ParameterError(
                f"parameter version {parameters.version} from event {from_event} cannot follow version "
                f"{self._sets[-1].version} from event {self._from[-1]}; neither number may go back"
            )
        self._from.append(from_event)
        self._sets.append(parameters)
        self._last = self._look_up(from_event)

    def _look_up(self, event: int) -> tuple[int, int, ParameterSet]:
        if event < 0:
            raise ParameterError(f"there is no event {event}; events are numbered from 0")
        i = max(bisect_right(self._from, event), 1)
        until = self._from[i] if i < len(self._from) else _FOREVER
        return self._from[i - 1], until, self._sets[i - 1]

    def forget(self, event: int) -> None:
        """Nobody asks for events before this one any more: versions that hold only for those go."""
        n = bisect_right(self._from, event) - 1
        if n > 0:
            del self._from[:n], self._sets[:n]

    def at(self, event: int) -> ParameterSet:
        """The parameters in force for this event; the oldest ones kept where those are forgotten."""
        # One tuple, read once: the timer thread may ask while the main thread appends.
        lo, until, found = self._last
        if lo <= event < until:
            return found
        self._last = self._look_up(event)
        return self._last[2]

    def at_run(self, event: int) -> tuple[ParameterSet, int | None]:
        """The parameters in force for this event, and the first event with others (None: there is none)."""
        _, until, found = self._look_up(event)
        return found, None if until == _FOREVER else until

    @property
    def latest(self) -> ParameterSet:
        """The newest version, which may hold only from a later event on."""
        return self._sets[-1]

    def entries(self) -> list[tuple[int, ParameterSet]]:
        """All of it, oldest first, as the constructor takes it."""
        return list(zip(self._from, self._sets, strict=True))

    def __len__(self) -> int:
        return len(self._sets)
