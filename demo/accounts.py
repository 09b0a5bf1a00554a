"""Whose token is it: the demo Hub's users and tokens. No network, no token's text kept or shown."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from hubgate.demo.catalog import Token, User

Clock = Callable[[], float]
"""Gives seconds since the epoch."""

DAY: Final = 86_400.0
READS: Final = frozenset({"repo.content.read", "repo.write"})
"""Permissions of a fineGrained token that let it read a repo."""
WRITE: Final = "repo.write"
_WRITERS: Final = frozenset({"write", "admin"})
"""Roles in an organization that let a member write."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A no: the name of its row in `hub.yaml`'s `errors`, and what its message needs."""

    row: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `token` is None for a caller without one."""

    token: Token | None
    issued: float = 0.0

    @property
    def user(self) -> str | None:
        """The user's name, None for nobody."""
        return self.token.user if self.token else None


NOBODY: Final = Caller(None)


def iso(seconds: float) -> str:
    """Write a time as the Hub does: 2026-07-23T10:27:03.276Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def hub_id(kind: str, name: str) -> str:
    """Give the 24 hex digits by which the Hub knows something, the same in every run."""
    return hashlib.sha256(f"{kind}:{name}".encode()).hexdigest()[:24]


class Accounts:
    """Users and tokens. Tokens are kept by their SHA-256 only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: dict[str, User] = {}
        self._tokens: dict[str, Caller] = {}
        self._revoked: set[str] = set()
        self._ids: dict[tuple[str, str], str] = {}  # by kind and name, where a rename made them others

    def add_user(self, name: str, user: User) -> None:
        """Add or replace a user."""
        self._users[name] = user

    def rename(self, old: str, new: str) -> None:
        """Rename a user or an organization, which keeps its id; whoever takes the old name has another."""
        kind = "user" if old in self._users else "org"
        self._ids[kind, new] = self._id(kind, old)
        self._ids[kind, old] = hub_id(kind, f"{old} after {self._ids[kind, new]}")
        self._users = {
            new if name == old else name: replace(
                user, orgs={new if org == old else org: role for org, role in user.orgs.items()}
            )
            for name, user in self._users.items()
        }
        for digest, caller in self._tokens.items():
            if (token := caller.token) is not None:
                user = new if token.user == old else token.user
                scoped = {new if entity == old else entity: may for entity, may in token.scoped.items()}
                self._tokens[digest] = replace(caller, token=replace(token, user=user, scoped=scoped))

    def add_token(self, secret: str, token: Token) -> None:
        """Add or replace a token; its age and expiry count from now. Raises KeyError for an unknown user."""
        if token.user not in self._users:
            raise KeyError(token.user)
        self._tokens[_digest(secret)] = Caller(token, self._clock())
        self._revoked.discard(_digest(secret))

    def revoke(self, secret: str | None = None, *, name: str | None = None, user: str | None = None) -> int:
        """Revoke a token, the token of that name, or all tokens of a user; give how many there were."""
        found = self._find(secret, name, user)
        self._revoked |= found
        return len(found)

    def unrevoke(self, secret: str | None = None, *, name: str | None = None, user: str | None = None) -> int:
        """Undo `revoke`."""
        found = self._find(secret, name, user)
        self._revoked -= found
        return len(found)

    def whose(self, secret: str | None) -> Caller:
        """Say whose token it is, be it revoked or expired: for the log. NOBODY if unknown."""
        return self._tokens.get(_digest(secret), NOBODY) if secret is not None else NOBODY

    def identify(self, secret: str | None) -> Caller | Refused:
        """Say who calls with this token; NOBODY calls without one."""
        if secret is None:
            return NOBODY
        caller = self.whose(secret)
        token = caller.token
        if token is None or _digest(secret) in self._revoked:
            return Refused("invalid_credentials", {})
        expires = _expires(caller, token)
        if expires is not None and expires <= self._clock():
            return Refused("token_expired", {"token_name": token.name})
        return caller

    def belongs(self, user: str, owner: str) -> bool:
        """Whether `owner` is the user or an organization of theirs."""
        return user == owner or owner in self._users[user].orgs

    def writes(self, user: str, owner: str) -> bool:
        """Whether the user may write to what `owner` owns, given a token that lets them."""
        return user == owner or self._users[user].orgs.get(owner) in _WRITERS

    def whoami(self, caller: Caller) -> Mapping[str, object] | Refused:
        """Give what `/api/whoami-v2` answers."""
        token = caller.token
        if token is None:
            return Refused("no_credentials", {})
        user = self._users[token.user]
        return {
            "type": "user",
            "id": self._id("user", token.user),
            "name": token.user,
            "fullname": user.fullname,
            "isPro": False,
            "orgs": [
                {"type": "org", "id": self._id("org", org), "name": org, "fullname": org, "roleInOrg": role}
                for org, role in user.orgs.items()
            ],
            "auth": self._auth(caller, token),
        }

    def _auth(self, caller: Caller, token: Token) -> Mapping[str, object]:
        if token.role == "none":
            expires = _expires(caller, token)
            return {"type": "app_token_as_user"} | ({} if expires is None else {"expiresAt": iso(expires)})
        facts: dict[str, object] = {
            "displayName": token.name,
            "role": token.role,
            "createdAt": iso(caller.issued - token.age_days * DAY),
        }
        if token.role == "fineGrained":
            facts["fineGrained"] = {
                "canReadGatedRepos": token.can_read_gated,
                "global": [],
                "scoped": [
                    {"entity": self._entity(name), "permissions": list(permissions)}
                    for name, permissions in token.scoped.items()
                ],
            }
        return {"type": "access_token", "accessToken": facts}

    def _entity(self, name: str) -> dict[str, str]:
        kind = "model" if "/" in name else "user" if name in self._users else "org"
        return {"_id": self._id(kind, name), "type": kind, "name": name}

    def _id(self, kind: str, name: str) -> str:
        return self._ids.get((kind, name)) or hub_id(kind, name)

    def _find(self, secret: str | None, name: str | None, user: str | None) -> set[str]:
        wanted = _digest(secret) if secret is not None else None
        return {
            digest
            for digest, caller in self._tokens.items()
            if digest == wanted or (caller.token and (caller.token.name == name or caller.token.user == user))
        }


def _expires(caller: Caller, token: Token) -> float | None:
    return None if token.expires_in_days is None else caller.issued + token.expires_in_days * DAY


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
