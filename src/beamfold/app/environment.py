"""`BEAMFOLD_SECTION__KEY` variables as an overlay over a run file.

A variable's name cannot hold all that a stream's name can, nor tell upper from lower case by custom. So a
stream or parameter of the file is meant when the names agree but for case and for what is neither letter nor
digit; a name that the file does not have is taken as it stands, in lower case if it is all upper case. Empty
variables count as unset, except for parameters, whose value may be empty.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from beamfold.model.errors import ConfigError

PREFIX = "BEAMFOLD_"
_NAMED = ("streams", "parameters")

Origins: TypeAlias = dict[tuple[str, ...], str]
"""Which variable set what: path of keys -> variable."""


def read_environment(
    environ: Mapping[str, str], file: Mapping[str, Any], sections: Collection[str]
) -> tuple[dict[str, Any], Origins]:
    """The overlay that the environment makes over the contents of a run file, and where its parts come from.

    `REDIS_URL` fills `store.url` where neither the file nor a variable of ours has one. Raises ConfigError
    for a variable that names no section.
    """
    overlay: dict[str, Any] = {}
    origins: Origins = {}
    ours = [name for name in environ if name.startswith(PREFIX)]
    # Whole sections first, so that a single key wins over the section it is in.
    for variable in sorted(ours, key=lambda name: (name.count("__"), name)):
        path = _path(variable, file, sections)
        if path is None or (not environ[variable] and path[0] != "parameters"):
            continue
        _put(overlay, path, _value(variable, path, environ[variable]))
        origins[path] = variable
    redis = environ.get("REDIS_URL")
    if redis and not _get(file, "store", "url") and not _get(overlay, "store", "url"):
        _put(overlay, ("store", "url"), redis)
        origins["store", "url"] = "REDIS_URL"
    return overlay, origins


def _path(variable: str, file: Mapping[str, Any], sections: Collection[str]) -> tuple[str, ...] | None:
    first, *rest = variable.removeprefix(PREFIX).split("__")
    section = first.lower()
    if section not in sections:
        if not rest:
            return None  # not for the run file: Kubernetes, say, adds BEAMFOLD_PORT for a service `beamfold`
        close = difflib.get_close_matches(section, sections, 1)
        meant = f"did you mean {PREFIX}{close[0].upper()}__{'__'.join(rest)}? " if close else ""
        raise ConfigError(f"{variable}: there is no section {section!r}; {meant}Sections: {', '.join(sections)}")
    if not rest or section not in _NAMED:
        return (section, *(part.lower() for part in rest))
    names = file.get(section)
    known = names if isinstance(names, Mapping) else {}
    if section == "parameters":
        return (section, _name("__".join(rest), known))
    if len(rest) == 1:
        return (section, _name(rest[0], known))
    return (section, _name("__".join(rest[:-1]), known), rest[-1].lower())


def _name(written: str, known: Iterable[str]) -> str:
    for name in known:
        if _plain(name) == _plain(written):
            return name
    return written.lower() if written.isupper() else written


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _value(variable: str, path: tuple[str, ...], text: str) -> Any:
    if path[0] == "parameters" and len(path) > 1:
        return text  # its text is its bytes
    whole = len(path) == 1 or (path[0] == "streams" and len(path) == 2)
    if not whole and text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"{variable} is not valid JSON: {exc}") from None
    if whole and not isinstance(value, dict):
        raise ConfigError(f"{variable} sets a whole section: give a JSON mapping, or set {variable}__KEY instead")
    return value


def _put(overlay: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *above, last = path
    for part in above:
        found = overlay.setdefault(part, {})
        if not isinstance(found, dict):
            found = overlay[part] = {}
        overlay = found
    overlay[last] = value


def _get(tree: Mapping[str, Any], section: str, key: str) -> Any:
    found = tree.get(section)
    return found.get(key) if isinstance(found, Mapping) else None
