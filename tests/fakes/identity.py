"""Identities and callers for tests below the network."""

import dataclasses
from typing import Any

from hubgate.proxy.auth.identity import Caller, Identity
from hubgate.wire.secret import Secret
from tests.fakes.clock import START

DAY = 86400

ALICE = Identity(
    sub="a" * 32,
    user="alice",
    orgs=frozenset({"acme"}),
    kind="access_token",
    token_name="alice-ci",
    role="read",
    permissions=frozenset(),
    created_at=START - 10 * DAY,
    expires_at=None,
    fingerprint="f" * 16,
    salt="5" * 32,
)


def identity(**changes: Any) -> Identity:
    """Alice with a good read token, but for what is given."""
    return dataclasses.replace(ALICE, **changes)


def caller(token: str = "hf_alice", **changes: Any) -> Caller:
    """One request's caller."""
    secret = Secret(token)
    return Caller(identity(**changes), secret, secret.digest(b"k" * 32))
