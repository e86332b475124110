"""Who says Hello is known: the proof that a service has the token of its deployment.

The proof is an HMAC of who the service is, made with the token, so that the token itself never travels: not even to
somebody who listens where a controller was. It holds for that `uuid` alone, which nobody else is told, so it is of no
use to anybody who sees it on a connection of its own. Messages are neither encrypted nor signed, and the controller
proves nothing in turn; on loopback, where all of them stay, only root can read or change them.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from beamfold.protocols.messages import Hello


def proven(hello: Hello, token: str) -> Hello:
    """This Hello with the proof that who says it has the token; as it is where there is no token ("")."""
    return msgspec.structs.replace(hello, proof=_proof(hello, token)) if token else hello


def is_proven(hello: Hello, token: str) -> bool:
    """Whether who says this Hello has the token."""
    return hmac.compare_digest(hello.proof, _proof(hello, token))


def _proof(hello: Hello, token: str) -> bytes:
    who = msgspec.msgpack.encode([hello.role, hello.name, hello.uuid])
    return hmac.digest(token.encode(), who, hashlib.sha256)
