"""Control messages: every kind comes out as it went in, and strangers' bytes raise CodecError."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.protocols import messages as m

FROM_SERVICES = [
    m.Hello("worker", "w0", "uuid", "1", 7, "here", streams=[m.StreamInfo("a", "STINS", True)]),
    m.Beat({"rate": 1.5}),
    m.Logs([m.LogLine(1.5, "INFO", 7, "text")]),
    m.Armed(3, tick_interval=0.5),
    m.StreamSeen(3, "a", "running", 5, 5, 100),
    m.StreamEnded(3, "a", 5, 5, 1),
    m.FramesMissing(3, "a", [(2, 4)]),
    m.Trouble(3, "stream a", "text"),
    m.Halted(3, {"a": (4, True)}),
    m.FenceReached(3, 2, -1),
    m.PartsDone(3, [(1, 2, 2)], {0: 1}, 2, [m.Failure(1, "process_event", "w0", "trace")]),
    m.Gone("worker", "w0", "killed"),
    m.Finished(3, out_of_order=[(3, 4)]),
]
FROM_CONTROLLER = [
    m.Welcome(1),
    m.Introduce(),
    m.Refused("no"),
    m.Arm(3, "id", {"kind": "uniform"}, [m.WorkerInfo("w0", ["generic"])], [], "tcp://x", 0, {"p": b"1"}),
    m.Assign(3, [m.Block(0, 4, 1), m.Block(4, 5, 0, 2)], 5, 2),
    m.Release(3, [(1, 9)]),
    m.Halt(3),
    m.Close(3, -1),
    m.Conclude(3),
    m.Fence(3, 1),
    m.Parameters(3, 1, {"p": b"\xff"}, 12),
    m.Tick(3),
    m.Finish(3),
    m.End(3, {"events": 1}),
    m.Shutdown(),
]


@pytest.mark.parametrize("message", FROM_SERVICES, ids=lambda x: type(x).__name__)
def test_what_a_service_says_comes_out_as_it_went_in(message: m.Message) -> None:
    assert m.decode_to_controller(m.encode_message(message)) == message
    with pytest.raises(CodecError):
        m.decode_to_service(m.encode_message(message))


@pytest.mark.parametrize("message", FROM_CONTROLLER, ids=lambda x: type(x).__name__)
def test_what_the_controller_says_comes_out_as_it_went_in(message: m.Message) -> None:
    assert m.decode_to_service(m.encode_message(message)) == message
    with pytest.raises(CodecError):
        m.decode_to_controller(m.encode_message(message))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_strange_bytes_raise_a_codec_error(data: bytes) -> None:
    for decode in (m.decode_to_controller, m.decode_to_service):
        with contextlib.suppress(CodecError):
            decode(data)


@pytest.mark.parametrize(
    "value",
    [None, 5, "Hello", [], {}, {"type": "Nobody"}, {"type": "Halt"}, {"type": "Halt", "scan": "3"}, {"type": 7}],
)
def test_something_else_raises_a_codec_error(value: object) -> None:
    with pytest.raises(CodecError):
        m.decode_to_service(msgspec.msgpack.encode(value))


def test_text_that_is_not_utf_8_raises_a_codec_error() -> None:
    data = msgspec.msgpack.encode({"type": "Refused", "reason": "abc"}).replace(b"abc", b"\xff\xfe\xfd")
    with pytest.raises(CodecError):
        m.decode_to_service(data)
    data = msgspec.msgpack.encode({"type": "Gone", "role": "abc", "name": "", "how": ""})
    with pytest.raises(CodecError):
        m.decode_to_controller(data.replace(b"abc", b"\xff\xfe\xfd"))
