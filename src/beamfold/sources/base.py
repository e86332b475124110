"""What every source of detector messages can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import zmq

    from beamfold.model.events import Buffer

LARGE = 64 * 1024
"""Bytes from which a message part is handed on without a copy: below, copying is the cheaper of the two."""


class Source(Protocol):
    """Messages of one stream, in the order in which they came, one list of parts per message.

    A source looks into no message: what the parts mean is for the stream's protocol to say.
    """

    @property
    def url(self) -> str:
        """Where the messages come from, for people and reports; the real port where one was chosen freely."""

    @property
    def socket(self) -> zmq.Socket[bytes] | int | None:
        """What to poll before draining: a socket or a descriptor. None: there is nothing to wait for, drain until
        `exhausted`.

        A ZeroMQ socket's file descriptor signals edges, not levels: after a wake-up, drain until an empty
        list comes back, or the next wake-up may never come.
        """

    @property
    def exhausted(self) -> bool:
        """True once no message can ever come again; a live source is exhausted only when it is closed."""

    def drain(self, max_messages: int, max_bytes: int) -> list[list[Buffer]]:
        """The messages that are here now; an empty list when there are none. Never waits.

        Stops after `max_messages`, and after the message that reaches `max_bytes`, which may therefore be
        exceeded by up to one message (a message cannot be taken back), and never keeps a single large one
        from coming.

        The first part of a message is `bytes`; later parts of LARGE bytes and more are read-only
        `memoryview`s, smaller ones `bytes`. They belong to the caller and stay valid for as long as they are
        referenced, also after `close()`. A closed source gives empty lists.
        """

    def close(self) -> None:
        """Let go of the socket or file; messages not yet drained are gone. May be called twice."""
