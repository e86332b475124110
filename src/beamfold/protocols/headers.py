"""JSON headers: reading one whole, and reading one number out of a hundred thousand a second.

A detector's image headers differ only in the values, so the layout is learnt once: from a header that `json`
parsed, a pattern is made in which every key, bracket and separator is literal, every value but `htype` is
free, and the wanted number is captured. A header that the pattern matches whole has, by construction, that
number as that top-level key, exactly once, and `htype` as it was. That needs one call per header, less than
searching for the key, for its second occurrence, for `htype` and for enclosing braces would, and leaves no
case to guess at: whatever does not match goes to `json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from beamfold.model.errors import MalformedFrame
from beamfold.model.events import Buffer

NUMBER_LIMIT = 10**18
"""Frame numbers are below this: 18 digits, which fit 63 bits."""

_LEARN_BYTES = 4096
_LEARN_LAYOUTS = 4
"""A stream that keeps changing its layout is read by json: compiling a pattern costs a hundred times that."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?[0-9][-+.eE0-9]*+|true|false|null|[{}\[\]:,]|[ \t\r\n]++')
_PLAIN_STRING = rb'"[^"\\]*+"'
_ANY_STRING = rb'"(?:[^"\\]|\\.)*+"'

Match: TypeAlias = Callable[[Buffer], "re.Match[bytes] | None"]


def load_header(part: Buffer, what: str) -> dict[str, Any]:
    """The JSON object in a message part; MalformedFrame, which names `what` was read, if it is none."""
    try:
        # str() first: json would take UTF-16 and UTF-32 too, which no detector sends and no pattern matches
        header = json.loads(str(part, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(f"{what}: expected a JSON object, found {_excerpt(part)} ({error})") from None
    if not isinstance(header, dict):
        raise MalformedFrame(f"{what}: expected a JSON object, found {_excerpt(part)}")
    return header


def frame_number(header: Mapping[str, Any], key: str) -> int:
    """The frame number that a parsed header carries; MalformedFrame if it is not a whole number in range."""
    number = header.get(key)
    if type(number) is not int or not 0 <= number < NUMBER_LIMIT:
        raise MalformedFrame(f"image header: {key!r} must be a whole number, 0 or more, found {number!r}"[:300])
    return number


class Layouts:
    """The header layouts of one stream, learnt as they come.

    `match` is the pattern of the layout learnt last: give it a header, `int(found[1])` is the number. Read it
    again after `learn` and `find`.
    """

    __slots__ = ("_known", "_name", "_tries", "match")

    def __init__(self, key: str) -> None:
        self.match: Match = _no_match
        self._name = f'"{key}"'.encode()
        self._known: list[Match] = []
        self._tries = 0

    def find(self, header: Buffer) -> int | None:
        """The number in an image header of any layout known, None where json has to decide."""
        for match in self._known:
            found = match(header)
            if found:
                self.match = match
                return int(found[1])
        return None

    def learn(self, header: Buffer, number: int) -> None:
        """Learn the layout of an image header in which json found this number."""
        if self._tries >= _LEARN_LAYOUTS or len(header) > _LEARN_BYTES:
            return
        self._tries += 1
        pattern = _pattern(bytes(header), self._name)
        if pattern is None:
            return
        match: Match = re.compile(pattern, re.DOTALL).fullmatch
        found = match(header)
        if found and int(found[1]) == number:
            self._known.append(match)
            self.match = match


def _no_match(_: Buffer) -> None:
    return None


def _pattern(header: bytes, name: bytes) -> bytes | None:
    """A pattern for headers laid out like this one; None where this one's layout is not certain."""
    tokens = _TOKEN.findall(header)
    if b"".join(tokens) != header:
        return None
    out: list[bytes] = []
    keys: list[bytes] = []
    depth, key = 0, b""
    for place, token in enumerate(tokens):
        kind = token[:1]
        if kind == b'"' and _is_key(tokens, place):
            if depth == 1:
                key = token
                keys.append(token)
            out.append(re.escape(token))
        elif kind == b'"':
            out.append(re.escape(token) if depth == 1 and key == b'"htype"' else _string(token))
        elif kind in b"-0123456789":
            out.append(rb"([0-9]{1,18}+)" if depth == 1 and key == name else rb"[-+.eE0-9]++")
        else:
            depth += (kind in b"{[") - (kind in b"}]")
            out.append(re.escape(token))
    if keys.count(name) != 1 or keys.count(b'"htype"') != 1 or any(b"\\" in key for key in keys):
        return None
    return b"".join(out)


def _is_key(tokens: list[bytes], place: int) -> bool:
    after = next((token for token in tokens[place + 1 : place + 3] if not token.isspace()), b"")
    return after == b":"


def _string(token: bytes) -> bytes:
    return _ANY_STRING if b"\\" in token else _PLAIN_STRING


def _excerpt(part: Buffer) -> str:
    return f"{bytes(part[:40])!r}{'…' if len(part) > 40 else ''} of {len(part)} bytes"
