"""Results survive the wire exactly, what cannot travel is named, hostile bytes raise CodecError alone."""

from __future__ import annotations

import math
import mmap
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import Enum, Flag, IntEnum, StrEnum, auto
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.msgpack import Ext
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator

from beamfold.model.errors import BeamfoldError, CodecError
from beamfold.model.events import EventData, ResultData, StreamData
from beamfold.model.parameters import IntParameter, JsonParameter, ParameterSet, WorkParameter
from beamfold.protocols.codec import INLINE_BYTES, TypeTable, codes, decode, encode, register_type

FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- an app's types ------------------------------------------------------------------------------------------


@dataclass
class Spot:
    x: float
    y: float
    counts: Any = None
    area: float = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.x * self.y
        self.note = "not a field, kept all the same"


@dataclass(frozen=True, slots=True)
class Cell:
    row: int
    column: int

    @dataclass
    class Inner:
        value: Any


@dataclass(frozen=True, slots=True)
class WideCell(Cell):
    width: Any = None


class Point(NamedTuple):
    x: Any
    y: Any = 0


class Shutter(Enum):
    OPEN = "o"
    CLOSED = ("any", "value")


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mode(StrEnum):
    FLY = "fly"


class Bits(Flag):
    A = auto()
    B = auto()


class Fit(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=True)
    peak: float
    curve: Any = None
    _seen: int = PrivateAttr(default=7)
    _never: int = PrivateAttr()

    @field_validator("peak")
    @classmethod
    def doubled(cls, value: float) -> float:
        return value * 2


class Plain:
    pass


class Known:
    pass


@dataclass
class Trouble(dict):  # type: ignore[type-arg]
    x: int = 0


TYPES = TypeTable([__name__])


def there_and_back(obj: Any, **options: Any) -> Any:
    buffers: list[bytes | memoryview] = []
    body = encode(obj, buffers, types=TYPES)
    assert type(body) is bytes
    return decode(body, buffers, TYPES, **options)


def same(a: Any, b: Any) -> bool:
    """Equal in value, type, order, and NaN equal to NaN, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        # Bytes, because NaN, NaT and padding compare badly.
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(*keys) and same(*values)
            for keys, values in zip(zip(a, b, strict=True), zip(a.values(), b.values(), strict=True), strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Spot):
        return same(vars(a), vars(b))
    return bool(a == b)


# -- what survives -------------------------------------------------------------------------------------------

zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, microseconds=1)), timezone(timedelta(hours=1), "CET")])
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(1 << 200), max_value=1 << 200),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters()),  # with lone surrogates
    st.binary(),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.sampled_from([*Shutter, *Level, *Mode, Bits.A, Bits.A | Bits.B, Bits(0)]),
    st.builds(range, st.integers(), st.integers(), st.integers(min_value=1)),
    st.builds(Cell, st.integers(), st.integers()),
)
hashables = st.recursive(
    hashable_leaves,
    lambda each: st.one_of(st.tuples(each, each), st.frozensets(each, max_size=3), st.builds(Point, each, each)),
    max_leaves=5,
)
arrays = hnp.arrays(
    st.one_of(
        hnp.scalar_dtypes(),
        hnp.unicode_string_dtypes(max_len=5),
        hnp.byte_string_dtypes(max_len=5),
        hnp.nested_dtypes(),
    ).filter(lambda dtype: not dtype.hasobject),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
leaves = st.one_of(
    hashables,
    st.floats(),
    st.complex_numbers(),
    st.binary(min_size=INLINE_BYTES, max_size=INLINE_BYTES + 2),
    st.builds(bytearray, st.binary()),
    st.sets(hashables, max_size=3),
    st.builds(slice, st.none() | st.integers(), st.integers()),
    arrays,
)
results = st.recursive(
    leaves,
    lambda each: st.one_of(
        st.lists(each, max_size=4),
        st.dictionaries(st.text(max_size=5), each, max_size=4),
        st.dictionaries(hashables, each, max_size=4),
        st.tuples(each, each),
        st.builds(Spot, st.floats(allow_nan=False), st.just(2.0), each),
        st.builds(Point, each, each),
        st.builds(lambda d: OrderedDict(d), st.dictionaries(hashables, each, max_size=3)),
    ),
    max_leaves=12,
)


@FEW
@given(results)
def test_any_result_survives_the_wire_exactly(result: Any) -> None:
    assert same(there_and_back(result), result)


@FEW
@given(arrays)
def test_any_array_survives_in_every_layout(array: np.ndarray[Any, Any]) -> None:
    for variant in (array, array.T, array[..., ::-1] if array.ndim else array, np.asfortranarray(array)):
        assert same(there_and_back(variant), variant)


def test_the_seeds_payload_survives() -> None:
    payload = {"position": (1.0, 2.0), "concentrations": {"roi1": np.uint64(3)}}
    back = there_and_back(payload)
    assert same(back, payload)
    assert {back["position"]: 1} == {(1.0, 2.0): 1}


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("a", "u1"), ("b", ">f8")]),
        np.dtype([("a", "u1"), ("b", "f8")], align=True),
        np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2], "itemsize": 12}),
        np.dtype([(("long title", "a"), "<i4"), ("b", "<f4", (2, 3))]),
        np.dtype([("outer", [("inner", "<M8[ns]"), ("text", "<U3")])]),
        np.dtype([]),
        np.dtype("V5"),
        np.dtype("<m8[25us]"),
        np.dtype("<M8"),
        np.dtype(np.longdouble),
        np.dtype("<f2"),
    ],
    ids=str,
)
def test_a_dtype_is_kept_whole(dtype: np.dtype[Any]) -> None:
    back = there_and_back(np.zeros((2, 600), dtype))
    assert back.dtype == dtype
    assert back.dtype.isalignedstruct == dtype.isalignedstruct
    assert back.dtype.fields == dtype.fields
    assert back.shape == (2, 600)


@pytest.mark.parametrize(
    "scalar",
    [
        np.float32("nan"),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1 - 2j),
        np.longdouble(1) / 3,
        np.datetime64("NaT", "s"),
        np.datetime64("2024-11-20T14:47:30.591", "ms"),
        np.timedelta64(5, "m"),
        np.str_(""),
        np.str_("å\udc80"),
        np.bytes_(b"a\0"),
        np.bytes_(b"x" * INLINE_BYTES),
        np.void(b"\1\2\0"),
        np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")])[0],
        np.float16(1.5),
        np.intc(3),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_numpy_scalar_keeps_its_type(scalar: np.generic) -> None:
    assert same(there_and_back([scalar])[0], scalar)


def test_zones_of_the_zone_database_survive() -> None:
    for moment in (
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Stockholm"), fold=1),
        time(1, 2, 3, 4, tzinfo=ZoneInfo("Europe/Stockholm"), fold=1),
    ):
        back = there_and_back(moment)
        assert (back, back.tzinfo, back.fold) == (moment, moment.tzinfo, 1)


def test_a_named_offset_keeps_its_name() -> None:
    back = there_and_back(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")))
    assert back.tzname() == "CET"


def test_models_come_back_without_being_validated_again() -> None:
    fit = Fit(peak=1.0, curve={"x": np.arange(3)}, width=(1, 2))
    back = there_and_back(fit)
    assert back.peak == 2.0
    assert back.model_extra == {"width": (1, 2)}
    assert back.model_fields_set == fit.model_fields_set
    assert back._seen == 7
    assert np.array_equal(back.curve["x"], [0, 1, 2])
    with pytest.raises(ValueError, match="frozen"):
        back.peak = 3.0


def test_dataclasses_come_back_with_slots_bases_and_extra_attributes() -> None:
    wide = WideCell(1, 2, width=(3,))
    assert there_and_back(wide) == wide
    assert there_and_back(Cell.Inner([Point(1), Shutter.OPEN])) == Cell.Inner([Point(1, 0), Shutter.OPEN])
    spot = there_and_back(Spot(2.0, 3.0))
    assert (spot.area, spot.note) == (6.0, "not a field, kept all the same")


def test_what_an_app_was_given_can_be_returned() -> None:
    big = bytes(range(256)) * 32
    stream = StreamData("STINS", [b"{}", big, memoryview(big), memoryview(b"small")])
    event = EventData(7, {"s": stream, "t": StreamData("t", [])})
    parameters = ParameterSet.build(
        [IntParameter(name="n"), JsonParameter(name="roi")], {"roi": b"[1, 2]", "x": b"y"}, 3
    )
    back = there_and_back([event, ResultData(7, "w0", {"p": (1,)}, "hash"), parameters, parameters["roi"]])
    assert back[0] == event
    assert isinstance(back[0].streams["s"].frames[1], memoryview)
    assert (back[1].event_number, back[1].worker, back[1].payload, back[1].parameters_hash) == (
        7, "w0", {"p": (1,)}, "hash",
    )  # fmt: skip
    assert type(back[2]) is ParameterSet
    assert (back[2], back[2].version, back[2].hash) == (parameters, 3, parameters.hash)
    assert back[3] == WorkParameter("roi", b"[1, 2]", [1, 2])


def test_a_type_of_beamfold_can_be_registered() -> None:
    register_type("test-plain", Known, lambda _: ["parts"], lambda parts: Known() if parts == ["parts"] else _fail())
    assert type(there_and_back((Known(),))[0]) is Known
    with pytest.raises(CodecError, match="taken"):
        register_type("test-plain", Spot, lambda _: [], lambda _: Spot(1, 2))


def _fail() -> Known:
    raise ValueError


# -- buffers -------------------------------------------------------------------------------------------------


def test_only_what_is_large_leaves_the_body() -> None:
    buffers: list[bytes | memoryview] = [b"of an earlier result"]
    small, large = np.zeros(INLINE_BYTES - 1, "u1"), np.ones(INLINE_BYTES, "u1")
    result = [small, large, b"x" * INLINE_BYTES, bytearray(INLINE_BYTES), b"x" * (INLINE_BYTES - 1)]
    body = encode(result, buffers)
    assert [len(b) for b in buffers[1:]] == [INLINE_BYTES] * 3
    assert same(decode(body, buffers), result)


def test_arrays_are_read_only_views_unless_asked_otherwise() -> None:
    arrays = [np.arange(3.0), np.arange(4096.0)]
    buffers: list[bytes | memoryview] = []
    body = encode(arrays, buffers)
    small, large = decode(body, buffers)
    assert not small.flags.writeable
    assert not large.flags.writeable
    assert np.shares_memory(large, np.frombuffer(buffers[0], "u1"))
    small, large = decode(body, buffers, writable=True)
    small += 1
    large += 1
    assert np.array_equal(large, arrays[1] + 1)


def test_views_of_a_writable_buffer_are_read_only_too() -> None:
    buffers: list[bytes | memoryview] = []
    body = encode(np.zeros(4096), buffers)
    assert not decode(body, [memoryview(bytearray(buffers[0]))]).flags.writeable


def test_a_later_change_of_the_array_does_not_reach_the_buffer_unless_asked() -> None:
    accumulator = np.zeros(4096)
    kept: list[bytes | memoryview] = []
    aliased: list[bytes | memoryview] = []
    encode(accumulator, kept)
    encode(accumulator, aliased, copy=False)
    accumulator += 1
    assert bytes(kept[0]) == bytes(8 * 4096)
    assert bytes(aliased[0]) == accumulator.tobytes()
    assert isinstance(aliased[0], memoryview)
    assert aliased[0].readonly


def test_received_frames_are_passed_on_without_a_copy() -> None:
    frame = bytes(8192)
    buffers: list[bytes | memoryview] = []
    encode([frame, memoryview(frame), np.frombuffer(frame, "<u2").reshape(64, 64)], buffers)
    assert buffers[0] is frame
    assert all(np.shares_memory(np.frombuffer(b, "u1"), np.frombuffer(frame, "u1")) for b in buffers)


def test_buffers_are_as_before_when_encoding_fails() -> None:
    buffers: list[bytes | memoryview] = [b"earlier"]
    with pytest.raises(CodecError):
        encode([np.zeros(4096), object()], buffers)
    assert buffers == [b"earlier"]


def test_a_second_walk_does_not_leave_the_first_ones_buffers() -> None:
    buffers: list[bytes | memoryview] = []
    result = [np.zeros(4096), 1 << 100, "\ud800", {"\ud800": 1}]
    body = encode(result, buffers)
    assert len(buffers) == 1
    assert same(decode(body, buffers), result)


# -- what is refused, and how --------------------------------------------------------------------------------


def a_generator() -> Iterator[int]:
    yield 1


class Text(str):
    pass


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (object(), "object cannot travel; return a dict"),
        (Plain, "return its result or its name"),
        (a_generator(), r"generator cannot travel; return list\(it\)"),
        (deque([1]), r"return list\(it\)"),
        (defaultdict(int), r"collections.defaultdict cannot travel; return dict\(it\)"),
        (Counter("a"), r"return dict\(it\)"),
        (Path("x"), r"return str\(it\)"),
        (Text("x"), r"Text cannot travel; return str\(it\)"),
        (ValueError("no"), r"return str\(it\), or raise it"),
        (lambda: 1, "not the callable"),
        (math, "return its name"),
        (np.array([object()]), r"dtype '\|O' holds Python objects .*\.astype\(float\)"),
        (np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), "Python objects"),
        (np.ma.masked_array([1], [True]), "filled"),
        (np.rec.array([(1,)], dtype=[("a", "i4")]), r"numpy.asarray\(it\)"),
        (memoryview(np.zeros((2, 2))), r"bytes\(it\)"),
        (Trouble(), r"Trouble cannot travel; return dict\(it\)"),
        (
            datetime(2024, 1, 1, tzinfo=type("Odd", (type(UTC).__base__,), {})()),
            "zone is a .*Odd cannot travel",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_named_with_its_place_and_a_way_out(thing: Any, words: str) -> None:
    with pytest.raises(CodecError, match=words) as caught:
        there_and_back({"fit": [1, ({"deep": thing},)]})
    assert str(caught.value).startswith("result['fit'][1][0]['deep']: ")


@pytest.mark.parametrize(
    ("result", "place"),
    [
        (object(), "result: "),
        ({1: 2, (3, 4): object()}, "result[(3, 4)]: "),
        ({Plain(): 1}, "result key <"),
        (Spot(1, 2, [object()]), "result.counts[0]: "),
        (Fit(peak=1, other=object()), "result.other: "),
        (Point(1, object()), "result[1]: "),
        (slice(object()), "result[1]: "),
        ((frozenset([Plain()]),), "result[0]{0}: "),
        ({"s": StreamData("t", [b""]), "r": ResultData(1, "w", [object()])}, "result['r']"),
    ],
)
def test_the_place_is_written_as_one_would_reach_it(result: Any, place: str) -> None:
    with pytest.raises(CodecError) as caught:
        there_and_back(result)
    assert str(caught.value).startswith(place)


def test_what_is_too_large_for_whoever_receives_it_is_refused() -> None:
    """Of memory that nothing was ever written to."""
    with mmap.mmap(-1, codes.MAX_PIECE + 1) as file, memoryview(file) as writable, writable.toreadonly() as huge:
        buffers: list[Any] = [b"before"]
        with pytest.raises(CodecError, match="a piece of 1073741825 bytes, at most 1073741824 travel"):
            encode({"a": np.zeros(5000), "b": huge}, buffers)
        assert buffers == [b"before"]
        encode([huge[1:]], buffers)
        buffers.clear()


def test_classes_that_nobody_could_find_again_are_refused() -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(CodecError, match=r"result\['a'\]: .*Local.*top level"):
        encode({"a": Local(1)}, [])
    with pytest.raises(CodecError, match=r"not defined in the app's modules \(.*test_codec\)"):
        encode(Local(1), [], types=TYPES)


def test_a_structure_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append({"again": loop, "mapped": {(1,): loop}})
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    spot = Spot(1, 2)
    spot.counts = spot
    for each in (loop, mapping, spot, Point(loop)):
        with pytest.raises(CodecError, match="contains itself"):
            there_and_back(each)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {1: x}, Point, lambda x: Spot(1, 2, x)])
def test_a_hundred_levels_are_enough_for_everybody(wrap: Any) -> None:
    nest: Any = 1
    for _ in range(50):
        nest = wrap(nest)
    assert same(there_and_back(nest), nest)
    for _ in range(51):
        nest = wrap(nest)
    with pytest.raises(CodecError, match="deeper than 100"):
        there_and_back(nest)


# -- types are looked up, never imported ---------------------------------------------------------------------


def module_with(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def app_class(module: str, qualname: str = "Spot", base: type = Spot) -> type:
    return type(qualname.rpartition(".")[2], (base,), {"__module__": module, "__qualname__": qualname})


def test_a_module_that_is_not_imported_is_not_imported() -> None:
    with pytest.raises(CodecError, match="'this_is_not_imported' is not imported"):
        TypeTable(["this_is_not_imported"])


def test_only_types_that_the_apps_modules_define_are_found() -> None:
    own = app_class("app")
    table = TypeTable(
        [module_with("app", Spot=own, Other=Spot, os=Path, n=3, fn=len, Plain=app_class("app", "Plain", Plain))]
    )
    assert table.find("app:Spot") is own
    assert list(table) == ["app"]
    for name in (
        "app:Other",
        "app:os",
        "app:n",
        "app:fn",
        "app:n.real",
        "app:",
        "",
        ":",
        "app:Plain",
        "app:Spot.__init__",
        "os:system",
        "builtins:dict",
        "subprocess:Popen",
        "app:Spot.__class__",
        f"{__name__}:Spot",
        "app:__builtins__",
    ):
        with pytest.raises(CodecError, match="not defined in the app's modules"):
            table.find(name)


def test_the_reader_says_which_type_it_lacks() -> None:
    body = encode({"s": Spot(1, 2)}, [])
    with pytest.raises(CodecError, match=r"Spot.*no modules were given"):
        decode(body)
    with pytest.raises(CodecError, match=r"test_codec:Spot' is not defined in the app's modules \(none\)"):
        decode(body, [], TypeTable())


def test_two_versions_of_an_app_are_noticed() -> None:
    def reader(cls: type, name: str) -> TypeTable:
        return TypeTable([module_with(__name__, **{name: cls})])

    slim = dataclass(slots=True)(type("Spot", (), {"__module__": __name__, "__qualname__": "Spot"}))
    with pytest.raises(CodecError, match="two versions"):
        decode(encode(Spot(1, 2), []), [], reader(slim, "Spot"))
    with pytest.raises(CodecError, match="two versions"):
        decode(encode(Spot(1, 2), []), [], reader(app_class(__name__, "Spot", Fit), "Spot"))
    fewer = Enum("Shutter", ["AJAR"], module=__name__, qualname="Shutter")
    with pytest.raises(CodecError, match=r"no member 'OPEN'.*two versions"):
        decode(encode(Shutter.OPEN, []), [], reader(fewer, "Shutter"))
    shorter = namedtuple("Point", ["x"], module=__name__)
    with pytest.raises(CodecError, match=r"has 1 fields here.*two versions"):
        decode(encode(Point(1, 2), []), [], reader(shorter, "Point"))


# -- hostile bytes -------------------------------------------------------------------------------------------

pack = msgspec.msgpack.encode


def ext(code: int, content: Any) -> Ext:
    return Ext(code, content if isinstance(content, bytes) else pack(content))


HOSTILE: list[Any] = [
    b"",
    b"\xc1",
    b"\x01\x02",
    b"\xdd\xff\xff\xff\xff",
    b"\x81\x90",
    b"\x91" * 100_000,
    b"\xa1\xff",
    ext(99, b""),
    ext(-1, b"\xff" * 12),
    ext(-7, b""),
    ext(codes.TUPLE, 3),
    ext(codes.TUPLE, b""),
    ext(codes.SET, [[]]),
    ext(codes.SET, [{}]),
    ext(codes.PAIRS, [1, 2, 3]),
    ext(codes.PAIRS, [[], 1]),
    ext(codes.COMPLEX, b"1"),
    ext(codes.SURROGATES, b"\xff"),
    ext(codes.BUFFER, [0, 5]),
    ext(codes.BUFFER, [0, -1]),
    ext(codes.BUFFER, [99, 0]),
    ext(codes.BUFFER, [0, True]),
    ext(codes.BUFFER, [0]),
    ext(codes.BUFFER, [[], 0]),
    [ext(codes.BUFFER, [0, 0]), ext(codes.BUFFER, [0, 0])],
    ext(codes.ARRAY, ["|O8", [1], bytes(8)]),
    ext(codes.ARRAY, ["O", [1], bytes(8)]),
    ext(codes.ARRAY, ["<f8", [2], bytes(8)]),
    ext(codes.ARRAY, ["<f8", [-1], bytes(8)]),
    ext(codes.ARRAY, ["<f8", [True], bytes(8)]),
    ext(codes.ARRAY, ["<f8", [1 << 62, 0], b""]),
    ext(codes.ARRAY, ["<f8", [1] * 99, bytes(8)]),
    ext(codes.ARRAY, ["<f8", 1, bytes(8)]),
    ext(codes.ARRAY, ["<f8", [1 << 40], 0]),
    ext(codes.ARRAY, ["<f8", [1], "text"]),
    ext(codes.ARRAY, ["<f3", [1], bytes(3)]),
    ext(codes.ARRAY, ["<U9999999999", [0], b""]),
    ext(codes.ARRAY, ["i4,i4", [1], bytes(8)]),
    ext(codes.ARRAY, ["<M8[zz]", [1], bytes(8)]),
    ext(codes.ARRAY, [["<f8", [1 << 40]], [0], b""]),
    ext(codes.ARRAY, [["<f8", [-1]], [0], b""]),
    ext(codes.ARRAY, [["<f8", ["a"]], [0], b""]),
    ext(codes.ARRAY, [{"names": ["a"]}, [0], b""]),
    ext(codes.ARRAY, [{"names": 1, "formats": 2, "offsets": 3, "itemsize": 4}, [0], b""]),
    ext(
        codes.ARRAY,
        [{"names": ["a", "a"], "formats": ["<f8"] * 2, "offsets": [0, 0], "itemsize": 8}, [0], b""],
    ),
    ext(codes.ARRAY, [{"names": ["a"], "formats": ["<f8"], "offsets": [9], "itemsize": 8}, [0], b""]),
    ext(codes.ARRAY, [{"names": ["a"], "formats": ["<f8"], "offsets": [0], "itemsize": 1 << 62}, [0], b""]),
    ext(codes.SCALAR, ["<f8", b"1"]),
    ext(codes.SCALAR, ["<f8", 0]),
    ext(codes.SCALAR, [None, b""]),
    ext(codes.NUMPY_TEXT, 5),
    ext(codes.RANGE, [0, 1, 0]),
    ext(codes.RANGE, ["a", 1, 1]),
    ext(codes.SLICE, [1]),
    ext(codes.DATE, [0, 0, 0]),
    ext(codes.DATE, ["a", 0, 0]),
    ext(codes.DATETIME, [1]),
    ext(codes.TIME, [25, 0, 0, 0, 0, None]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, "../../etc/passwd"]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, "Europe"]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, ["x", None]]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, []]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, [10**17, None]]),
    ext(codes.DATETIME, [2024, 1, 1, 0, 0, 0, 0, 0, 5]),
    ext(codes.TIMEDELTA, [1e308, 1e308, 0]),
    ext(codes.TIMEDELTA, [1 << 62, 0, 0]),
    ext(codes.ENUM, ["os:system", "x"]),
    ext(codes.ENUM, [5, "x"]),
    ext(codes.ENUM, [f"{__name__}:Shutter", []]),
    ext(codes.ENUM, [f"{__name__}:Bits", "A"]),
    ext(codes.ENUM, [f"{__name__}:Bits", 1 << 60]),
    ext(codes.ENUM, [f"{__name__}:Spot", "A"]),
    ext(codes.NAMED_TUPLE, [f"{__name__}:Point", 3]),
    ext(codes.NAMED_TUPLE, [f"{__name__}:Point", [1]]),
    ext(codes.DATACLASS, [f"{__name__}:Spot", [1]]),
    ext(codes.DATACLASS, [f"{__name__}:Spot", {1: 2}]),
    ext(codes.DATACLASS, [f"{__name__}:Cell", {"__class__": 1}]),
    ext(codes.DATACLASS, [f"{__name__}:Plain", {}]),
    ext(codes.SET, [ext(codes.DATACLASS, [f"{__name__}:Cell", {}])]),
    ext(codes.MODEL, [f"{__name__}:Fit", {}, None, [1], None]),
    ext(codes.MODEL, [f"{__name__}:Fit", 1, None, [], None]),
    ext(codes.MODEL, [f"{__name__}:Fit", {}, 1, [], None]),
    ext(codes.MODEL, [f"{__name__}:Fit", {}, None, None, []]),
    ext(codes.OWN, ["nobody", []]),
    ext(codes.OWN, [[], []]),
    ext(codes.OWN, ["stream", 1]),
    ext(codes.OWN, ["stream", [1]]),
    ext(codes.OWN, ["stream", [1, []]]),
    ext(codes.OWN, ["stream", ["t", [1]]]),
    ext(codes.OWN, ["stream", ["t", 1]]),
    ext(codes.OWN, ["event", ["n", {}]]),
    ext(codes.OWN, ["event", [1, {"s": 2}]]),
    ext(codes.OWN, ["event", [1, {2: 2}]]),
    ext(codes.OWN, ["result", [1, 2, 3, 4]]),
    ext(codes.OWN, ["parameter", [1, b"", None]]),
    ext(codes.OWN, ["parameter", ["n", 1, None]]),
    ext(codes.OWN, ["parameters", [[1], 0]]),
    ext(codes.OWN, ["parameters", [[], "v"]]),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_raise_codec_error(hostile: Any) -> None:
    with pytest.raises(CodecError):
        decode(hostile if isinstance(hostile, bytes) else pack(hostile), [b"12345678"], TYPES)


def test_extensions_nested_by_a_stranger_end_in_an_error() -> None:
    nest: Any = 1
    for _ in range(2000):
        nest = ext(codes.TUPLE, [nest])
    with pytest.raises(CodecError, match="deeper"):
        decode(pack(nest))


def test_truncation_anywhere_is_noticed() -> None:
    body = encode({"a": (1, 2.5), "b": np.arange(5), "c": Spot(1, 2), "d": {1, 2}}, [], types=TYPES)
    for cut in range(len(body)):
        with pytest.raises(CodecError):
            decode(body[:cut], [], TYPES)


@FEW
@given(st.binary(max_size=80))
def test_random_bytes_raise_codec_error_or_decode(raw: bytes) -> None:
    try:
        decode(raw, [b"x"], TYPES)
    except BeamfoldError as exc:
        assert isinstance(exc, CodecError)


@FEW
@given(results, st.data())
def test_a_flipped_byte_raises_codec_error_or_decodes(result: Any, data: st.DataObject) -> None:
    buffers: list[bytes | memoryview] = []
    body = bytearray(encode(result, buffers, types=TYPES))
    for _ in range(3):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(body), buffers, TYPES)
    except BeamfoldError as exc:
        assert isinstance(exc, CodecError)


def test_dates_are_not_mistaken_for_datetimes() -> None:
    assert type(there_and_back(date(2024, 1, 1))) is date


@pytest.mark.parametrize(
    ("one", "other"),
    [({0, 8, 16}, {16, 8, 0}), ({(0,), "a", 8, None}, {None, 8, "a", (0,)}), (frozenset((0, 8)), frozenset((8, 0)))],
)
def test_equal_sets_have_equal_encodings(one: Any, other: Any) -> None:
    """A set's own order depends on its history, and on the process where texts are in it."""
    assert one == other
    assert encode([one], []) == encode([other], [])
