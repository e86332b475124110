"""Which classes of an app may travel, how they are named on the wire, and how they are found again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from types import MemberDescriptorType, ModuleType
from typing import Any

from beamfold.model.errors import CodecError
from beamfold.protocols.codec import codes

_BUILTIN_LAYOUTS = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    BaseException,
)


@lru_cache(maxsize=1024)
def kind(cls: type) -> int | None:
    """The code under which instances of this class travel; None for classes that do not.

    Dataclasses that are also a dict, list, exception and so on have state that a list of attributes misses,
    and do not travel. Pydantic is recognised without importing it.
    """
    if issubclass(cls, Enum):
        return codes.ENUM
    if issubclass(cls, tuple):
        return codes.NAMED_TUPLE if hasattr(cls, "_fields") and hasattr(cls, "_make") else None
    if any(base.__module__ == "pydantic.main" and base.__name__ == "BaseModel" for base in cls.__mro__[1:]):
        return codes.MODEL
    if dataclasses.is_dataclass(cls) and not issubclass(cls, _BUILTIN_LAYOUTS):
        return codes.DATACLASS
    return None


@lru_cache(maxsize=1024)
def slots(cls: type) -> dict[str, MemberDescriptorType]:
    """Every slot of a class and its bases by attribute name (private names as they are mangled)."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    }


def attributes(obj: object) -> dict[str, Any]:
    """What an instance itself holds: its `__dict__` and filled slots, no properties, no class defaults."""
    state = dict(getattr(obj, "__dict__", ()))
    cls: Any = type(obj)
    for name, member in slots(cls).items():
        try:
            state[name] = member.__get__(obj)
        except AttributeError:  # a slot that was never filled
            continue
    return state


def with_attributes(cls: type, state: dict[str, Any]) -> Any:
    """A new instance with exactly these attributes; `__init__`, `__setattr__` and properties are not called.

    Raises CodecError where the class has no room for one of them.
    """
    obj: Any = object.__new__(cls)
    members = slots(cls)
    rest = {}
    for name, value in state.items():
        if name in members:
            members[name].__set__(obj, value)
        else:
            rest[name] = value
    if rest:
        if not hasattr(obj, "__dict__"):
            raise CodecError(
                f"{cls.__qualname__} has no attribute {next(iter(rest))!r} here; are two versions of the app running?"
            )
        vars(obj).update(rest)
    return obj


class TypeTable:
    """The classes that results may contain: what the given modules define themselves, nested classes too.

    `modules` are modules or names of modules that are imported already; a name that is not raises CodecError.
    The table keeps the modules as they are now: make a new one after an app was reloaded.
    """

    def __init__(self, modules: Iterable[ModuleType | str] = ()) -> None:
        self._modules = {module.__name__: module for module in map(_imported, modules)}
        self._types: dict[str, type] = {}
        self._names: dict[type, str] = {}

    def find(self, name: str) -> type:
        """The class called "module:qualname"; CodecError where the table does not have it."""
        found = self._types.get(name)
        if found is None:
            module, _, qualname = name.partition(":")
            found = _defined(self._modules.get(module), qualname)
            if found is None or kind(found) is None:
                raise CodecError(f"type {name!r} is not defined in {self._described()}; {_ADVICE}")
            self._types[name] = found
        return found

    def name_of(self, cls: type) -> str:
        """The name under which `find` finds exactly this class; CodecError where it would not."""
        name = self._names.get(cls)
        if name is None:
            name = f"{cls.__module__}:{cls.__qualname__}"
            if _defined(self._modules.get(cls.__module__), cls.__qualname__) is not cls:
                raise CodecError(f"type {name!r} is not defined in {self._described()}; {_ADVICE}")
            self._names[cls] = name
        return name

    def _described(self) -> str:
        return "the app's modules (" + (", ".join(sorted(self._modules)) or "none") + ")"

    def __iter__(self) -> Iterator[str]:
        """Names of the modules."""
        return iter(self._modules)


_ADVICE = "define it at the top level of the worker's or reducer's module, or of one beside it, or return a dict"


def global_name(cls: type) -> str:
    """The name of a class without a table: CodecError unless an imported module has it under that name."""
    if _defined(sys.modules.get(cls.__module__), cls.__qualname__) is not cls:
        raise CodecError(f"type {cls.__module__}.{cls.__qualname__} cannot be found by its name; {_ADVICE}")
    return f"{cls.__module__}:{cls.__qualname__}"


def _imported(module: ModuleType | str) -> ModuleType:
    if isinstance(module, ModuleType):
        return module
    try:
        return sys.modules[module]
    except KeyError:
        raise CodecError(f"module {module!r} is not imported, so its types cannot be looked up") from None


def _defined(module: ModuleType | None, qualname: str) -> type | None:
    """The class with that qualname if the module itself defines it. Reads `__dict__`s only: no code runs."""
    if module is None:
        return None
    found: Any = module
    for piece in qualname.split("."):
        if not isinstance(found, ModuleType if found is module else type):
            return None
        found = vars(found).get(piece)
    if not isinstance(found, type) or found.__module__ != module.__name__ or found.__qualname__ != qualname:
        return None
    return found
