"""Reading pickles without unpickling.

Contrast and xspress3 send pickles, and old dumps are pickles. Python's own unpickler calls whatever the bytes
name, and even with an allow-list a few bytes make it reserve gigabytes (a memo index, an array built by its
raw state), or read outside an array. So this is a small machine of its own for the pickle opcodes of
protocols 0 to 5: containers, numbers and text are made here, and a REDUCE can only reach the functions of
`unpickle_calls`, which check their arguments. What it makes is plain data: numbers, text, bytes, lists,
tuples, dicts, sets, and numpy arrays that hold no objects.

Bounds, all of them in proportion to what was received: the size of the pickle, the number of its opcodes, and
the bytes that calls copy (a pickle can have the same megabyte copied a thousand times). Keys are looked at
before they are hashed, as hashing a tuple of tuples of the same tuples takes for ever.

Source of the format: Lib/pickletools.py of CPython, which documents every opcode.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from beamfold.model.errors import MalformedFrame, UnsafePickle
from beamfold.model.events import Buffer
from beamfold.protocols.unpickle_calls import CALLS, Call, Pending, check_key

MAX_BYTES: Final = 64 << 20
"""Largest pickle taken: a message of metadata with a few images in it."""
_MAX_STEPS: Final = 1_000_000
_COPY_RATIO: Final = 8
_COPY_ALLOWANCE: Final = 1 << 20

Name: TypeAlias = tuple[str, str]


class TruncatedPickle(MalformedFrame):
    """The bytes end before the pickle does."""


class Global:
    """What a pickle named; it can be called by REDUCE and nothing else."""

    __slots__ = ("call", "made_by_new", "name")

    def __init__(self, name: Name, call: Call, made_by_new: bool) -> None:
        self.name = name
        self.call = call
        self.made_by_new = made_by_new

    def __repr__(self) -> str:
        return f"<{'.'.join(self.name)} in a pickle>"


def safe_loads(
    buffer: Buffer, extra: Mapping[Name, Callable[..., Any]] | None = None, *, max_bytes: int = MAX_BYTES
) -> Any:
    """The data in a pickle. Bytes after its end are ignored, as pickle.loads does.

    `extra` allows more (module, name) pairs: each is called with the pickle's arguments and must check them;
    it may return a `Pending`, which gets the object's state. Arrays own their memory and can be written to.

    Raises UnsafePickle, which names what the pickle asked for, for anything outside the allow-list and beyond
    the bounds; TruncatedPickle and MalformedFrame for bytes that are no whole pickle.
    """
    if len(buffer) > max_bytes:
        raise UnsafePickle(f"a pickle of {len(buffer)} bytes; at most {max_bytes} are read")
    value, _ = load_at(bytes(buffer), 0, extra or {})
    return value


def load_at(data: bytes, at: int, extra: Mapping[Name, Callable[..., Any]]) -> tuple[Any, int]:
    """The data in the pickle that begins at `at`, and where it ends. Raises as `safe_loads`."""
    machine = _Machine(data, at, extra)
    try:
        return machine.run(), machine.at
    except IndexError:
        if machine.at >= len(data):
            raise TruncatedPickle(f"the bytes end inside a pickle, after {len(data) - at} bytes") from None
        raise MalformedFrame(f"not a pickle: nothing to work on at byte {machine.at}") from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise MalformedFrame(f"not a pickle: {error!r} at byte {machine.at}"[:300]) from None


class _Machine:
    """The state of one pickle being read: a stack, the stacks below the marks, and the memo."""

    __slots__ = ("at", "below", "copies", "data", "extra", "memo", "pending", "stack")

    def __init__(self, data: bytes, at: int, extra: Mapping[Name, Callable[..., Any]]) -> None:
        self.data = data
        self.at = at
        self.extra = extra
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.pending = 0
        self.copies = _COPY_RATIO * (len(data) - at) + _COPY_ALLOWANCE

    def run(self) -> Any:
        data = self.data
        for _ in range(_MAX_STEPS):
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self._result()
            _STEPS[code](self)
        raise UnsafePickle(f"a pickle of more than {_MAX_STEPS} steps")

    def _result(self) -> Any:
        if self.pending or self.below or len(self.stack) != 1:
            raise MalformedFrame("not a pickle: it stops in the middle of building something")
        return self.stack[0]

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        end = self.at + n
        if end > len(self.data):
            self.at = len(self.data)
            raise IndexError
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, n: int) -> int:
        """The next n bytes as an unsigned number."""
        return int.from_bytes(self.take(n), "little")

    def line(self) -> bytes:
        """The bytes up to the next newline."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            self.at = len(self.data)
            raise IndexError
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark; the stack below is the stack again."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def remember(self, index: int) -> None:
        value = self.stack[-1]
        if isinstance(value, Pending):
            value.memo.append(index)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        value = self.memo[index]
        if isinstance(value, Pending):
            raise UnsafePickle("a pickle uses an object before it is built")
        self.stack.append(value)

    def name(self, module: str, name: str) -> None:
        key = (module, name)
        wanted = self.extra.get(key)
        if wanted is not None:
            self.stack.append(Global(key, _extra_call(wanted), True))
        elif key in CALLS:
            self.stack.append(Global(key, CALLS[key], False))
        else:
            raise UnsafePickle(f"a pickle asks for {module}.{name}, which is not on the list of what it may have"[:300])

    def call(self, by_new: bool) -> None:
        args = self.stack.pop()
        what = self.stack.pop()
        if not isinstance(what, Global) or type(args) is not tuple or (by_new and not what.made_by_new):
            raise UnsafePickle(f"a pickle calls {what!r} with {type(args).__name__} arguments"[:300])
        value = what.call(args, self.charge)
        self.pending += isinstance(value, Pending)
        self.stack.append(value)

    def build(self) -> None:
        state = self.stack.pop()
        unbuilt = self.stack[-1]
        if not isinstance(unbuilt, Pending):
            raise UnsafePickle(f"a pickle sets the state of a {type(unbuilt).__name__}")
        value = unbuilt.build(state, self.charge)
        self.pending -= 1
        self.stack[-1] = value
        for index in unbuilt.memo:
            if self.memo[index] is unbuilt:
                self.memo[index] = value

    def charge(self, n: int) -> None:
        """Account for n bytes that a call is about to copy."""
        self.copies -= n
        if self.copies < 0:
            raise UnsafePickle("a pickle would take far more memory than it has bytes")


def _extra_call(function: Callable[..., Any]) -> Call:
    return lambda args, _: function(*args)


_Step: TypeAlias = Callable[[_Machine], None]
_STOP: Final = ord(".")
_DOUBLE = struct.Struct(">d")
_INT4 = struct.Struct("<i")


def _refuse(machine: _Machine) -> None:
    machine.at -= 1
    code = machine.data[machine.at]
    refused = _REFUSED.get(code)
    if refused:
        raise UnsafePickle(f"a pickle uses {refused}, which is not read")
    raise MalformedFrame(f"not a pickle: byte {code:#04x} at {machine.at} means nothing there")


_REFUSED: Final = {
    ord("P"): "PERSID", ord("Q"): "BINPERSID", ord("i"): "INST", ord("o"): "OBJ", ord("S"): "STRING",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x92: "NEWOBJ_EX", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
_STEPS: list[_Step] = [_refuse] * 256


def _step(code: int | str) -> Callable[[_Step], _Step]:
    def register(step: _Step) -> _Step:
        _STEPS[ord(code) if isinstance(code, str) else code] = step
        return step

    return register


def _push(code: int | str, read: Callable[[_Machine], Any]) -> None:
    """A step that reads an argument and puts it on the stack."""

    @_step(code)
    def push(machine: _Machine) -> None:
        value = read(machine)  # first: at a mark's end this changes which stack it is
        machine.stack.append(value)


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _int_line(machine: _Machine) -> int | bool:
    line = machine.line()
    return line == b"01" if line in (b"00", b"01") else int(line)


_push("N", lambda m: None)
_push(0x88, lambda m: True)
_push(0x89, lambda m: False)
_push("J", lambda m: _INT4.unpack(m.take(4))[0])
_push("M", lambda m: m.number(2))
_push("G", lambda m: _DOUBLE.unpack(m.take(8))[0])
_push("I", _int_line)
_push("L", lambda m: int(m.line().removesuffix(b"L")))
_push("F", lambda m: float(m.line()))
_push(0x8A, lambda m: _signed(m.take(m.number(1))))
_push(0x8B, lambda m: _signed(m.take(m.number(4))))
_push("V", lambda m: str(m.line(), "raw-unicode-escape"))
_push(0x8C, lambda m: _text(m.take(m.number(1))))
_push(0x8D, lambda m: _text(m.take(m.number(8))))
_push("B", lambda m: m.take(m.number(4)))
_push("C", lambda m: m.take(m.number(1)))
_push(0x8E, lambda m: m.take(m.number(8)))
_push(0x96, lambda m: bytearray(m.take(m.number(8))))
# Python 2's text may be bytes; latin-1 keeps them, and arrays turn them back
_push("U", lambda m: str(m.take(m.number(1)), "latin-1"))
_push("T", lambda m: str(m.take(m.number(4)), "latin-1"))
_push("]", lambda m: [])
_push("}", lambda m: {})
_push(")", lambda m: ())
_push(0x8F, lambda m: set())
_push("l", lambda m: m.marked())
_push("t", lambda m: tuple(m.marked()))


@_step(0x80)
def _protocol(machine: _Machine) -> None:
    if machine.number(1) > 5:
        raise MalformedFrame("not a pickle that is read here: its protocol is newer than 5")


@_step(0x95)
def _frame(machine: _Machine) -> None:
    if machine.number(8) > len(machine.data) - machine.at:
        machine.at = len(machine.data)
        raise IndexError


@_step("(")
def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


@_step("0")
def _pop(machine: _Machine) -> None:
    machine.stack.pop()


@_step("1")
def _pop_mark(machine: _Machine) -> None:
    machine.marked()


@_step("2")
def _duplicate(machine: _Machine) -> None:
    if isinstance(machine.stack[-1], Pending):
        raise UnsafePickle("a pickle uses an object before it is built")
    machine.stack.append(machine.stack[-1])


def _tuple_of(n: int) -> _Step:
    def make(machine: _Machine) -> None:
        stack = machine.stack
        if len(stack) < n:
            raise IndexError
        stack[-n:] = [tuple(stack[-n:])]

    return make


_STEPS[0x85], _STEPS[0x86], _STEPS[0x87] = _tuple_of(1), _tuple_of(2), _tuple_of(3)


@_step("a")
def _append(machine: _Machine) -> None:
    value = machine.stack.pop()
    _target(machine, list).append(value)


@_step("e")
def _appends(machine: _Machine) -> None:
    values = machine.marked()
    _target(machine, list).extend(values)


@_step("s")
def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set_items_of(machine, [key, value])


@_step("u")
def _set_items(machine: _Machine) -> None:
    _set_items_of(machine, machine.marked())


@_step("d")
def _dict(machine: _Machine) -> None:
    items = machine.marked()
    machine.stack.append({})
    _set_items_of(machine, items)


def _set_items_of(machine: _Machine, items: list[Any]) -> None:
    target = _target(machine, dict, OrderedDict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        check_key(key)
        target[key] = value


@_step(0x90)
def _add_items(machine: _Machine) -> None:
    values = machine.marked()
    for value in values:
        check_key(value)
    _target(machine, set).update(values)


@_step(0x91)
def _frozenset(machine: _Machine) -> None:
    values = machine.marked()
    for value in values:
        check_key(value)
    machine.stack.append(frozenset(values))


def _target(machine: _Machine, *kinds: type) -> Any:
    target = machine.stack[-1]
    if type(target) not in kinds:
        raise UnsafePickle(f"a pickle puts items into a {type(target).__name__}")
    return target


@_step("c")
def _global(machine: _Machine) -> None:
    module = str(machine.line(), "utf-8")
    machine.name(module, str(machine.line(), "utf-8"))


@_step(0x93)
def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise MalformedFrame("not a pickle: it names something by what is no text")
    machine.name(module, name)


_STEPS[ord("R")] = lambda machine: machine.call(False)
_STEPS[0x81] = lambda machine: machine.call(True)
_STEPS[ord("b")] = _Machine.build
_STEPS[ord("p")] = lambda machine: machine.remember(int(machine.line()))
_STEPS[ord("r")] = lambda machine: machine.remember(machine.number(4))
_STEPS[0x94] = lambda machine: machine.remember(len(machine.memo))
_STEPS[ord("g")] = lambda machine: machine.recall(int(machine.line()))
_STEPS[ord("j")] = lambda machine: machine.recall(machine.number(4))


# The four that most of a message consists of, spelt out for speed.


@_step("q")
def _binput(machine: _Machine) -> None:
    index = machine.data[machine.at]
    machine.at += 1
    value = machine.stack[-1]
    machine.memo[index] = value
    if isinstance(value, Pending):
        value.memo.append(index)


@_step("h")
def _binget(machine: _Machine) -> None:
    value = machine.memo[machine.data[machine.at]]
    machine.at += 1
    if isinstance(value, Pending):
        raise UnsafePickle("a pickle uses an object before it is built")
    machine.stack.append(value)


@_step("K")
def _binint1(machine: _Machine) -> None:
    machine.stack.append(machine.data[machine.at])
    machine.at += 1


@_step("X")
def _binunicode(machine: _Machine) -> None:
    data, start = machine.data, machine.at + 4
    end = start + int.from_bytes(data[machine.at : start], "little")
    if end > len(data):
        machine.at = len(data)
        raise IndexError
    machine.at = end
    machine.stack.append(str(data[start:end], "utf-8", "surrogatepass"))
