"""Turns a credential into an identity: who is calling, and with what kind of token."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from hubgate.proxy.auth import accounts, bearer
from hubgate.proxy.auth.accounts import Account, Accounts, Standing
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.auth.unknown_tokens import UnknownTokenLimiter
from hubgate.proxy.errors import Denied
from hubgate.proxy.frozen_struct import FrozenStruct
from hubgate.proxy.http.client_address import group
from hubgate.proxy.hub.cache import Cache, Source
from hubgate.proxy.hub.client import HubClient
from hubgate.proxy.hub.errors import HubErrors
from hubgate.proxy.hub.schemas import WhoAmI
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.keys import ProxyKeys
from hubgate.wire.secret import Secret

TokenKind = Literal["access_token", "oauth", "other", "key"]
Known = Source | Literal["key", "none"]  # where an identity is known from

ACCEPTED: Final = 100_000  # tokens and keys that are remembered for having been accepted
_AFTER_KIND: Final = re.compile(r"^[a-z]+[:=]")
UNKNOWN = "unknown"  # stands for permissions that whoami does not name where it should


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A caller as the Hub (or a local key) names them. Holds no credential."""

    sub: str  # pseudonym: HMAC of `user:<Hub id>` or `key:<name>`
    user: str  # the name that the Hub gives now
    holds: frozenset[str]  # what lists and overrides may mean the caller by, see `Standing`
    known_as: frozenset[str]  # what a block in the configuration may mean the caller by
    called: frozenset[str]  # what a lock-out may, see `called`
    kind: TokenKind
    token_name: str
    role: str  # read, write, god, fineGrained; "" where the Hub gives none
    permissions: frozenset[str]  # of a fine-grained token, scoped and global together
    created_at: float | None  # seconds since the epoch
    expires_at: float | None  # OAuth only
    fingerprint: str  # tells two tokens of one user apart in the audit; cannot be turned back
    salt: str  # cache_salt of this identity's prompts in the engine's prefix cache
    models: tuple[str, ...] = ()  # globs that a local key is bound to; empty: no such bound

    def age_days(self, now: float) -> float | None:
        """How old the token is at `now`, in days."""
        return None if self.created_at is None else (now - self.created_at) / 86400


@dataclass(init=False)
class Caller:
    """One request's identity, with the token that the Hub is asked with on its behalf."""

    identity: Identity
    token: Secret
    digest: bytes  # of that token: what caches are keyed with

    def __init__(self, identity: Identity, token: Secret, digest: bytes) -> None:
        self.identity = identity
        self.token = token
        self.digest = digest


class LocalKey(FrozenStruct):
    """An API key of the proxy's own: its token is read anew for each use, since it may rotate."""

    name: str
    models: tuple[str, ...]
    read_token: Callable[[], Secret | None]


def called(known_as: frozenset[str], fingerprint: str) -> frozenset[str]:
    """Names and ids without the word that says whose they are, and the fingerprint, all in lower case.

    Each request is compared with the list of lock-outs, so that this is made once for an identity.
    """
    return frozenset((fingerprint.lower(), *(_AFTER_KIND.sub("", known).lower() for known in known_as)))


def fingerprint(keys: ProxyKeys, secret: Secret) -> str:
    """What tells a token apart in the audit and in `callers.block`; the same on every proxy of these keys."""
    return secret.hmac(keys.derive("fingerprint")).hex()[:16]


class Identities:
    """Resolves credentials, asking the Hub at most once per token and `identity_ttl`."""

    def __init__(
        self,
        hub: HubClient,
        keys: ProxyKeys,
        local_keys: Mapping[bytes, LocalKey],
        limiter: UnknownTokenLimiter,
        errors: HubErrors,
        *,
        accounts: Accounts,
        cache: Cache[bytes, Identity | Denied],
        digest_key: bytes,
    ) -> None:
        self._hub = hub
        self._local_keys = local_keys  # by sha256 of the key
        self._limiter = limiter
        self._errors = errors
        self._accounts = accounts
        self._cache = cache
        self._digest_key = digest_key
        # What is still asked about when its client's budget is spent; not whose it is, which may change.
        self._accepted: BoundedMap[tuple[str, bytes], None] = BoundedMap(ACCEPTED)
        self._sub_key = keys.derive("sub")
        self._salt_key = keys.derive("salt")
        self._keys = keys

    def known(self, credential: Credential) -> Caller | None:
        """Whose token this is, if that is known and fresh, as for nearly every request; else `resolve` it."""
        if credential.unsuitable is not None:
            return None
        secret = credential.secret
        digest = secret.digest(self._digest_key)
        identity = self._cache.fresh(digest)
        return Caller(identity, secret, digest) if isinstance(identity, Identity) else None

    def accepted(self, credential: Credential, client: str) -> bool:
        """Whether this one was accepted when we last asked: a local key, by a request of this client.

        Somebody who guesses local keys is so not told of one that others use, past the budget of guesses.
        """
        whose = group(client) if credential.unsuitable == "other" else ""
        return (whose, credential.secret.digest(self._digest_key)) in self._accepted

    async def resolve(self, secret: Secret, client: str) -> tuple[Caller | Denied, Known]:
        """Who holds this credential, and where we know it from."""
        unsuitable = bearer.unsuitable(secret)
        if unsuitable == "other":
            found = self._local(secret)
            if isinstance(found, Caller):
                self._accepted.put((group(client), secret.digest(self._digest_key)), None)
            return found, "key"
        if unsuitable is not None:
            return self._errors.of_kind(unsuitable), "none"
        digest = secret.digest(self._digest_key)
        identity, source = await self._cache.get(
            digest, lambda: self._ask(secret, client), shareable=_is_about_the_token
        )
        if isinstance(identity, Denied):
            return identity, source
        return Caller(identity, secret, digest), source

    async def renew(self, caller: Caller, client: str) -> tuple[Caller | Denied, Known]:
        """The same caller, asked for again if what we knew has outlived its time."""
        if caller.identity.kind == "key":
            return caller, "key"  # the operator's own, until a restart
        return await self.resolve(caller.token, client)

    def forget_all(self) -> None:
        """Drop every cached identity."""
        self._cache.clear()

    def forget(self, caller: Caller) -> None:
        """Drop a cached identity, because the Hub just said that its token is no longer good."""
        self._cache.forget(caller.digest)
        self._accepted.pop(("", caller.digest), None)

    def _local(self, secret: Secret) -> Caller | Denied:
        # Looking up a sha256 leaks nothing useful through time: to come near a stored hash, one
        # would have to find preimages.
        key = self._local_keys.get(hashlib.sha256(secret.reveal().encode()).digest())
        if key is None:
            return self._errors.of_kind("other")
        token = key.read_token()
        if token is None or not bearer.is_hub_token(token):
            return Denied("hub_unavailable", "The token behind this key is not in place.", retry_after=10)
        subject = f"key:{key.name}"
        standing = accounts.of_local_key(subject)
        mark = fingerprint(self._keys, secret)
        identity = Identity(
            sub=self._hmac(self._sub_key, subject),
            user=subject,
            holds=standing.holds,
            known_as=standing.known_as,
            called=called(standing.known_as, mark),
            kind="key",
            token_name=key.name,
            role="",
            permissions=frozenset(),
            created_at=None,
            expires_at=None,
            fingerprint=mark,
            salt=self._hmac(self._salt_key, subject),
            models=key.models,
        )
        return Caller(identity, token, token.digest(self._digest_key))

    async def _ask(self, secret: Secret, client: str) -> Identity | Denied:
        token = ("", secret.digest(self._digest_key))
        if token in self._accepted:  # what its neighbours try is nothing to it
            facts = await self._hub.whoami(secret, token[1].hex())
        else:
            slot = await self._limiter.begin(client)
            if isinstance(slot, float):
                message = "Too many unknown tokens came from your address; the Hub is not asked about more."
                return Denied("rate_limit_exceeded", message, retry_after=slot)
            refused = False
            try:
                facts = await self._hub.whoami(secret, f"client {group(client)}")
                refused = isinstance(facts, Denied) and facts.status == 401
            finally:
                self._limiter.end(slot, refused=refused)
        if isinstance(facts, Denied):
            if facts.status == 401:
                self._accepted.pop(token, None)
            return facts
        self._accepted.put(token, None)
        standing = await self._accounts.meet(_accounts(facts))
        return standing if isinstance(standing, Denied) else self._identity(facts, secret, standing)

    def _identity(self, facts: WhoAmI, secret: Secret, standing: Standing) -> Identity:
        token = facts.auth.access_token
        kinds: dict[str, TokenKind] = {"access_token": "access_token", "app_token_as_user": "oauth"}
        # An organization or an app is nobody: least privilege and the audit are about people.
        kind = kinds.get(facts.auth.type, "other") if facts.type == "user" else "other"
        subject = f"{facts.type}:{facts.id}"
        mark = fingerprint(self._keys, secret)
        return Identity(
            sub=self._hmac(self._sub_key, subject),
            user=facts.name,
            holds=standing.holds,
            known_as=standing.known_as,
            called=called(standing.known_as, mark),
            kind=kind,
            token_name=token.display_name if token else "",
            role=token.role if token else "",
            permissions=_permissions(facts),
            created_at=_timestamp(token.created_at) if token else None,
            expires_at=_timestamp(facts.auth.expires_at),
            fingerprint=mark,
            salt=self._hmac(self._salt_key, subject),
        )

    @staticmethod
    def _hmac(key: bytes, text: str) -> str:
        return Secret(text).hmac(key).hex()[:32]


def _accounts(facts: WhoAmI) -> list[Account]:
    """The user and the organizations. What is no user, an app say, is nobody who could be listed."""
    user = [Account("user", facts.name, facts.id)] if facts.type == "user" else []
    return user + [Account("org", org.name, org.id) for org in facts.orgs]


def _is_about_the_token(answer: Identity | Denied) -> bool:
    """Whether an answer is everybody's who holds the token, and not one client's who asks too much."""
    return not isinstance(answer, Denied) or answer.code != "rate_limit_exceeded"


def _permissions(facts: WhoAmI) -> frozenset[str]:
    token = facts.auth.access_token
    if token is None or token.role != "fineGrained":
        return frozenset()
    fine = token.fine_grained
    if fine is None or fine.global_ is None or fine.scoped is None:
        return frozenset({UNKNOWN})
    found = set(fine.global_)
    for scope in fine.scoped:
        permissions: Any = scope.get("permissions")
        listed = permissions if isinstance(permissions, list) else [UNKNOWN]
        found.update(str(permission) for permission in listed)
    return frozenset(found)


def _timestamp(text: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 time as the Hub writes it; `None` if it is not one."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
