"""Control messages: every kind comes out as it went in, and strangers' bytes raise CodecError."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamfold.model.errors import CodecError
from beamfold.protocols import messages as m
from corpus import TO_CONTROLLER, TO_SERVICE


@pytest.mark.parametrize("message", TO_CONTROLLER, ids=lambda x: type(x).__name__)
def test_what_a_service_says_comes_out_as_it_went_in(message: m.Message) -> None:
    assert m.decode_to_controller(m.encode_message(message)) == message
    with pytest.raises(CodecError):
        m.decode_to_service(m.encode_message(message))


@pytest.mark.parametrize("message", TO_SERVICE, ids=lambda x: type(x).__name__)
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
