"""Identities and callers for tests below the network."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from hubgate.proxy.auth.identity import Caller, Identity, called
from hubgate.wire.secret import Secret
from tests.fakes.clock import START

DAY = 86400


def names(user: str, orgs: Iterable[str] = ()) -> frozenset[str]:
    """What somebody holds and is known as whose names are all their own."""
    return frozenset({f"user:{user}", *(f"org:{org}" for org in orgs)})


ALICE = Identity(
    sub="a" * 32,
    user="alice",
    holds=names("alice", ["acme"]),
    known_as=names("alice", ["acme"]),
    called=called(names("alice", ["acme"]), "f" * 16),
    kind="access_token",
    token_name="alice-ci",
    role="read",
    permissions=frozenset(),
    created_at=START - 10 * DAY,
    expires_at=None,
    fingerprint="f" * 16,
    salt="5" * 32,
)


def identity(*, user: str = "alice", orgs: Iterable[str] = ("acme",), **changes: Any) -> Identity:
    """Alice of acme with a good read token, but for what is given."""
    standing = {"holds": names(user, orgs), "known_as": names(user, orgs)}
    made = dataclasses.replace(ALICE, user=user, **{**standing, **changes})
    return dataclasses.replace(made, called=called(made.known_as, made.fingerprint))


def caller(token: str = "hf_alice", **changes: Any) -> Caller:
    """One request's caller."""
    secret = Secret(token)
    return Caller(identity(**changes), secret, secret.digest(b"k" * 32))
