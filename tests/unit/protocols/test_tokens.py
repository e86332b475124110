"""Who has the token can prove it, for itself alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beamfold.dispatch.actions import Note, Send
from beamfold.dispatch.machine import ControllerMachine
from beamfold.dispatch.peers import is_ours
from beamfold.protocols.messages import Beat, Hello, Introduce, Refused, Welcome, encode_message
from beamfold.protocols.tokens import is_proven, proven

TOKEN = "0123456789abcdef"
HELLO = Hello("worker", "w0", "uuid", "v", 1, "host")


def test_a_proof_holds_for_one_service_and_one_token() -> None:
    hello = proven(HELLO, TOKEN)
    assert is_proven(hello, TOKEN)
    assert is_proven(msgspec.structs.replace(hello, scans=[1], error="its app changed"), TOKEN)
    assert not is_proven(hello, "another")
    assert not is_proven(HELLO, TOKEN)
    others: list[dict[str, Any]] = [{"role": "supervisor"}, {"name": "w1"}, {"uuid": "other"}, {"proof": b"x" * 32}]
    for other in others:
        assert not is_proven(msgspec.structs.replace(hello, **other), TOKEN)


def test_the_token_itself_does_not_travel() -> None:
    assert TOKEN.encode() not in encode_message(proven(HELLO, TOKEN))


def test_a_proof_that_was_seen_is_of_no_use_on_another_connection() -> None:
    hello = proven(HELLO, TOKEN)
    assert is_ours(hello, b"uuid", TOKEN)
    assert not is_ours(hello, b"somebody else", TOKEN)


def test_without_a_token_nobody_is_asked_for_it() -> None:
    assert proven(HELLO, "") is HELLO
    assert is_ours(HELLO, b"somebody", "")


@pytest.mark.parametrize("hello", [HELLO, proven(HELLO, "another"), msgspec.structs.replace(HELLO, role="supervisor")])
def test_a_controller_refuses_who_has_not_its_token_and_knows_nothing_of_it(hello: Hello) -> None:
    machine = ControllerMachine("v", 1, token=TOKEN)
    ours = machine.receive(b"uuid", proven(HELLO, TOKEN), 0.0)
    assert any(isinstance(a, Send) and isinstance(a.message, Welcome) for a in ours)
    (refusal, note) = machine.receive(b"stranger", hello, 0.0)
    assert isinstance(refusal, Send) and isinstance(refusal.message, Refused)
    assert "BEAMFOLD_CONTROLLER__TOKEN" in refusal.message.reason
    assert isinstance(note, Note) and TOKEN not in note.text
    assert [s.peer for s in machine.services.values()] == [b"uuid"]
    assert machine.receive(b"stranger", Beat(), 0.0) == [Send(b"stranger", Introduce())]
