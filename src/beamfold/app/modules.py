"""The app's modules in this process: which they are, whether their files changed, and forgetting them.

Modules are known by their folder. What is installed (site-packages, Python itself) never counts as an app's,
even where an environment lies inside the app's folder; neither does Beamfold.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

INSTALLED = ("site-packages", "dist-packages")
_STDLIB = sysconfig.get_path("stdlib") + os.sep

Stamp: TypeAlias = tuple[int, int, int]
"""What a file looks like from outside: time of change (ns), size (bytes), inode."""
_UNLIKE_ANY: Stamp = (0, 0, 0)


@dataclass(frozen=True)
class _Loaded:
    """When an app's folder was last loaded, and what the files of its modules looked like then."""

    at_ns: int
    stamps: dict[str, Stamp]


_loaded: dict[Path, _Loaded] = {}


def file_of(module: ModuleType) -> str | None:
    """Where a module was read from; None for namespace packages and what is built in."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    return file if file.startswith(os.sep) else str(Path(file).absolute())  # there are hundreds, seldom relative


def scope_of(module: ModuleType) -> Path:
    """The app's folder that a module lives in; of an installed one, its package or its only file."""
    name, file = module.__name__, file_of(module)
    if file is None:
        return Path(f"<{name}>")
    above = Path(file).parents
    depth = name.count(".") + (Path(file).name == "__init__.py")
    folder = above[min(depth, len(above) - 1)]
    if folder.name in INSTALLED or _in_stdlib(file):
        return folder / name.partition(".")[0] if depth else Path(file)
    return folder


def _in_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and not any(part in INSTALLED for part in Path(file).parts)


def modules_in(scope: Path) -> dict[str, ModuleType]:
    """Imported modules of this folder; never Beamfold itself, nor an environment that lies in the folder."""
    exact, below = str(scope), str(scope) + os.sep
    found = {}
    for name, module in list(sys.modules.items()):
        file = file_of(module)
        if file is None or name.partition(".")[0] in ("beamfold", "__main__"):
            continue
        if file == exact or (file.startswith(below) and not _environment(file, below)):
            found[name] = module
    return found


def _environment(file: str, below: str) -> bool:
    return file.startswith(_STDLIB) or any(p in INSTALLED for p in Path(file[len(below) :]).parts)


def _stamp(module: ModuleType) -> Stamp | None:
    file = file_of(module)
    try:
        found = Path(file).stat() if file else None
    except OSError:  # deleted since: that is a change as well
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def changed(scope: Path) -> bool:
    """Whether a file of these modules changed since they were imported."""
    known = _loaded.get(scope)
    if known is None:
        return False
    for name, module in modules_in(scope).items():
        now, then = _stamp(module), known.stamps.get(name)
        # Without a stamp it was imported later, by a hook: then ask whether it is newer than the load.
        if now is None or (now != then if then else now[0] >= known.at_ns):
            return True
    return False


def remember(scope: Path, started: int) -> None:
    """Stamp what was imported; what was written since `started` (ns) will count as changed."""
    known = _loaded.get(scope)
    stamps = dict(known.stamps) if known else {}
    for name, module in modules_in(scope).items():
        stamp = _stamp(module)
        if name not in stamps and stamp:
            stamps[name] = stamp if stamp[0] < started else _UNLIKE_ANY
    _loaded[scope] = _Loaded(started, stamps)


def drop(scope: Path) -> None:
    """Forget all modules of this folder."""
    for name in modules_in(scope):
        forget(name)
    _loaded.pop(scope, None)


def forget(name: str) -> None:
    """Make the next import of this module a new one."""
    sys.modules.pop(name, None)
    for known in _loaded.values():
        known.stamps.pop(name, None)
    parent = sys.modules.get(name.rpartition(".")[0])
    # A namespace package (a folder without __init__.py, such as `src`) would go on looking in the old folder.
    if parent is not None and file_of(parent) is None:
        forget(parent.__name__)


def loaded_folders() -> list[Path]:
    """The folders of all apps loaded so far."""
    return list(_loaded)
