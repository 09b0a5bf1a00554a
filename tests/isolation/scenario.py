"""Who calls and what they ask for: data alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hubgate.demo.catalog import Token

Gate = Literal["accepted", "pending", "rejected"]
Revision = Literal["", "main", "first", "current", "pr-ref", "pr-sha"]

# More than 20 characters that all tokens share: who cuts a token short mixes up the callers.
PREFIX: Final = "hf_campaign_demo_user_"
READ: Final = ("repo.content.read",)

USERS: Final[Mapping[str, Mapping[str, str]]] = {
    "alice": {"lab": "read"},
    "bob": {},
    "carol": {"lab": "read"},
    "eve": {},
    "wanda": {},
    "olga": {},
}

TOKENS: Final[Mapping[str, Token]] = {
    "alice": Token(
        user="alice",
        name="alice",
        role="fineGrained",
        age_days=10,
        can_read_gated=True,
        scoped={"alice": READ, "lab": READ},
    ),
    "alice-narrow": Token(user="alice", name="alice-narrow", role="fineGrained", scoped={"alice": READ}),
    "bob": Token(user="bob", name="bob", age_days=5),
    "bob-unapproved": Token(user="bob", name="bob-unapproved", unapproved_by=("acme",)),
    "carol-0": Token(user="carol", name="carol-0"),
    "carol-1": Token(user="carol", name="carol-1"),
    "eve": Token(user="eve", name="eve", age_days=2),
    "wanda": Token(user="wanda", name="wanda", role="write"),
    "olga": Token(user="olga", name="olga", age_days=120),
}

# Never issued; one differs from alice's in its last character alone.
UNKNOWN: Final = ("alicf", "mallory")
REISSUED: Final = ("carol-0", "carol-1")  # one is good at a time
REVOCABLE: Final = ("alice", "alice-narrow", "bob", "bob-unapproved", "eve")

# What the proxy's own policy says of a token that the Hub knows.
POLICY: Final[Mapping[str, str]] = {"wanda": "insufficient_scope", "olga": "token_too_old"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A repo as the campaign begins. `base` makes it an adapter."""

    base: str | None = None
    private: bool = False
    gated: bool = False
    gate: Mapping[str, Gate] = field(default_factory=dict)


OPEN_BASE, GATED_BASE = "acme/base", "acme/gated"
PUBLIC, PRIVATE, MISSING = "acme/public-lora", "alice/private-lora", "alice/missing-lora"
GATED_LORA, BOBS, TEAMS = "acme/gated-lora", "bob/private-lora", "lab/team-lora"
FORBIDDEN, OLD_NAME = "acme/forbidden", "acme/old-lora"

MODELS: Final[Mapping[str, Model]] = {
    OPEN_BASE: Model(),
    GATED_BASE: Model(gated=True, gate={"alice": "accepted", "bob": "accepted", "carol": "pending"}),
    PRIVATE: Model(base=GATED_BASE, private=True),
    BOBS: Model(base=OPEN_BASE, private=True),
    TEAMS: Model(base=OPEN_BASE, private=True),
    PUBLIC: Model(base=OPEN_BASE),
    GATED_LORA: Model(base=GATED_BASE, gated=True, gate={"alice": "accepted", "eve": "accepted"}),
    FORBIDDEN: Model(),
}
BASES: Final = (OPEN_BASE, GATED_BASE)
ADAPTERS: Final = tuple(repo for repo, model in MODELS.items() if model.base)
GATED: Final = tuple(repo for repo, model in MODELS.items() if model.gated)
RENAMED: Final = {OLD_NAME: PUBLIC}
LISTED: Final = (OPEN_BASE,)  # configured without a wildcard, so that every list shows it
ALIASES: Final = {"house": GATED_BASE}


def secret(name: str) -> str:
    """The text of a token."""
    return PREFIX + name.replace("-", "_")


def holder(name: str) -> str | None:
    """Whose token it is, be it good or not."""
    return TOKENS[name].user if name in TOKENS else None


def chain(repo: str) -> tuple[str, ...]:
    """Every repo that a caller must be able to read in order to use this one."""
    today = RENAMED.get(ALIASES.get(repo, repo), ALIASES.get(repo, repo))
    base = MODELS[today].base if today in MODELS else None
    return (today, base) if base else (today,)
