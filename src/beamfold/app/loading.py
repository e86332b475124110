"""From the text `pkg.mod:Class` or `dir/file.py:Class` to the class, imported anew when its files changed.

An app is a folder: the run file's, or the one that a file path leads to. It goes to the front of `sys.path`,
as Python itself does for a script, so that the app's modules find one another. Many apps call their modules
`worker` and `reducer`, and one process may load several apps, so another folder's modules that stand in the
way are dropped first. When one file of an app changed, all of its modules are imported anew: they hold each
other's names.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from beamfold.app.calling import user_traceback
from beamfold.app.modules import (
    INSTALLED,
    changed,
    drop,
    file_of,
    forget,
    loaded_folders,
    modules_in,
    remember,
    scope_of,
)
from beamfold.model.errors import AppError


class _Target(NamedTuple):
    """A class path taken apart. `file` is None where the folder has no such module: it may be installed."""

    path: str
    folder: Path
    module: str
    cls: str
    file: Path | None


_FILE_CLOCK_NS = 20_000_000
"""File systems stamp by a coarse clock: a file written now may look this much (ns) older."""

_fronted: set[str] = set()
"""Entries of sys.path that are there because an app was loaded from them."""


def load_class(path: str, base_dir: str | Path, *, beside: type | None = None) -> type:
    """The class that `path` names, from the folder `base_dir` or else from what is installed.

    `beside` is a class that was loaded a moment ago and belongs to the same app: what it was loaded with stays,
    whatever was written meanwhile, so that the two classes hold the same modules.

    Raises AppError, which says what to do: a path without ':', no such module (and what was searched), no
    such class (and which there are), a module that fails while it is imported (with its traceback).
    """
    importlib.invalidate_caches()
    started = time.time_ns() - _FILE_CLOCK_NS
    target = _take_apart(path, Path(base_dir).resolve())
    kept = None if beside is None or beside.__module__ not in sys.modules else scope_of(sys.modules[beside.__module__])
    if target.file is not None:
        _make_way(target, kept)
    module = _import(target)
    scope = scope_of(module)
    if target.file is None and scope != kept and changed(scope):
        # Only now is it known where an installed module lives.
        drop(scope)
        module = _import(target)
    remember(scope, started)
    return _pick(module, target)


def modules_of(cls: type) -> list[str]:
    """Names of the imported modules that make up the app: the class's own, then those beside and below it."""
    module = sys.modules.get(cls.__module__)
    if module is None:
        raise AppError(f"the module {cls.__module__!r} of {cls.__qualname__} is not imported; load the class")
    return [cls.__module__, *sorted(n for n in modules_in(scope_of(module)) if n != cls.__module__)]


# -- which file is meant -------------------------------------------------------------------------------------


def _take_apart(path: str, base: Path) -> _Target:
    where, colon, name = path.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise AppError(f"{path!r} does not name a class; write 'module:Class' or 'folder/file.py:Class'")
    if where.endswith(".py") or "/" in where:
        return _of_file(path, base / Path(where).expanduser(), name)
    if not all(part.isidentifier() for part in where.split(".")):
        raise AppError(f"{path!r}: {where!r} is not a module's name; write 'package.module:Class'")
    return _Target(path, base, where, name, _find(where, base))


def _of_file(path: str, file: Path, name: str) -> _Target:
    # The folder is made definite, the file is not: mounted configuration swaps links under stable names.
    folder = file.parent.resolve()
    file = folder / file.name
    if not file.is_file():
        raise AppError(f"{path!r}: there is no file {file}{_python_files(folder)}")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise AppError(
            f"{path!r}: {file.name} cannot be imported; give it letters, digits and _, then .py, as its name"
        )
    module = file.stem
    while (folder / "__init__.py").is_file():
        folder, module = folder.parent, f"{folder.name}.{module}"
    return _Target(path, folder, module.removesuffix(".__init__"), name, file)


def _find(module: str, folder: Path) -> Path | None:
    """The file of a module in this folder, found without importing its packages; None: there is none."""
    places: list[str] | None = [str(folder)]
    spec = None
    full = ""
    for part in module.split("."):
        full = f"{full}.{part}" if full else part
        spec = PathFinder.find_spec(full, places) if places else None
        places = list(spec.submodule_search_locations or ()) if spec else None
    return Path(spec.origin) if spec and spec.origin else None


def _python_files(folder: Path) -> str:
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    there = sorted(f.name for f in folder.glob("*.py"))
    return f"; {folder} has {', '.join(there[:20]) or 'no Python files'}"


# -- importing -----------------------------------------------------------------------------------------------


def _make_way(target: _Target, kept: Path | None) -> None:
    """Drop what is stale or stands in the way, and put the app's folder first on the path."""
    top = target.module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "beamfold":
        raise AppError(f"{target.path!r}: the name {top!r} belongs to Python or Beamfold; rename {target.file}")
    if target.folder != kept and changed(target.folder):
        drop(target.folder)
    for other in [f for f in loaded_folders() if f != target.folder]:
        for name in modules_in(other):
            if _find(name.partition(".")[0], target.folder) is not None:
                forget(name)
    # Copied: the thread that serves people may import something just now.
    for name in sorted(n for n in list(sys.modules) if n == top or n.startswith(f"{top}.")):
        if not _belongs(sys.modules[name], target):
            sys.modules.pop(name)
    entry = str(target.folder)
    if entry not in sys.path:
        _fronted.add(entry)
    sys.path[:] = [entry, *(p for p in sys.path if p != entry)]


def _belongs(module: ModuleType, target: _Target) -> bool:
    """Whether an imported module is the target folder's; AppError for one that must not be dropped."""
    places = [file] if (file := file_of(module)) else list(getattr(module, "__path__", ()))
    if places and places[0].startswith(str(target.folder) + os.sep):
        return True
    if any(part in INSTALLED for place in places for part in Path(place).parts):
        raise AppError(
            f"{target.path!r}: the name {module.__name__!r} already belongs to {places[0]}, so {target.file} "
            "cannot be imported; rename it"
        )
    return False


def _import(target: _Target) -> ModuleType:
    before = set(sys.modules)
    try:
        with _no_bytecode(), _without_other_apps(target):
            return importlib.import_module(target.module)
    except (Exception, SystemExit) as exc:
        # What a failed import leaves behind would be taken for imported the next time, when it is mended.
        for name in modules_in(target.folder).keys() - before:
            forget(name)
        raise _explained(target, exc) from exc


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leave no compiled files: those tell two edits within one second apart by their size only."""
    wrote = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote


@contextmanager
def _without_other_apps(target: _Target) -> Iterator[None]:
    """What the folder does not have may be installed, but must not be another app's of the same name."""
    hidden: list[str] = []
    if target.file is None:
        hidden = [p for p in sys.path if p in _fronted]
        sys.path[:] = [p for p in sys.path if p not in _fronted]
        there = sys.modules.get(target.module)
        if there is not None and str(scope_of(there)) in _fronted:
            forget(target.module)
    try:
        yield
    finally:
        sys.path[:0] = [p for p in hidden if p not in sys.path]


def _explained(target: _Target, exc: BaseException) -> AppError:
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        if target.file is None and f"{target.module}.".startswith(f"{exc.name}."):
            return AppError(
                f"{target.path!r}: there is no module {target.module!r}; searched {target.folder} and what "
                f"is installed in {sys.prefix}{_python_files(target.folder)}"
            )
        return AppError(
            f"{target.path!r} imports {exc.name!r}, which is not there; install it in {sys.prefix}, or put "
            f"it beside the app in {target.folder}\n{user_traceback(exc)}"
        )
    return AppError(f"{target.path!r} fails while it is imported: {user_traceback(exc)}")


def _pick(module: ModuleType, target: _Target) -> type:
    found = getattr(module, target.cls, None)
    if isinstance(found, type):
        return found
    if found is not None:
        raise AppError(f"{target.path!r}: {target.cls} is {type(found).__name__}, not a class")
    own = [n for n, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    close = difflib.get_close_matches(target.cls, own, 1)
    hint = f"; did you mean {target.path.rpartition(':')[0]}:{close[0]}?" if close else ""
    there = ", ".join(own) or "none"
    raise AppError(f"{target.path!r}: {module.__file__} has no class {target.cls!r}, it has {there}{hint}")
