"""What the operator allows: which callers, which tokens, which models. Pure decisions."""

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import cache
from typing import Final

from hubgate.proxy.auth import accounts
from hubgate.proxy.auth.blocklist import LOCKED_OUT, Blocklist
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied
from hubgate.proxy.settings import Callers, Models, Tokens
from hubgate.wire.repo import RepoRef

# The read permissions of a fine-grained token (Hub documentation, "User access tokens"; the names
# as whoami gives them). Everything that is not listed counts as a write.
READ_PERMISSIONS: Final = frozenset(
    {
        "repo.content.read",
        "repo.access.read",
        "collection.read",
        "org.read",
        "user.billing.read",
        "user.webhooks.read",
    }
)

CLOCK_LEEWAY_DAYS: Final = 5 / 60 / 24  # five minutes


class CallerPolicy:
    """Decides, on every request and from cached facts, whether this identity may call at all."""

    def __init__(self, callers: Callers, tokens: Tokens, advice: str) -> None:
        self._advice = advice  # what to make instead of a token that is refused
        self.blocklist = Blocklist()  # beside that of the configuration: changed while the proxy runs
        self.replace(callers, tokens)

    def replace(self, callers: Callers, tokens: Tokens) -> None:
        """Decide by other rules from the next request on."""
        block = callers.block
        self._blocked = accounts.blocked(block.users, block.orgs)
        self._blocked_fingerprints = block.fingerprints
        self._anyone = callers.anyone
        self._callers = accounts.listed(callers.users, callers.orgs)
        self._roles = frozenset[str](tokens.roles)
        self._permissions = READ_PERMISSIONS | tokens.extra_permissions
        self._max_age_days = tokens.max_age_days
        self._when_old = tokens.when_old
        self._oauth = tokens.oauth

    def check(self, identity: Identity, now: float) -> Denied | None:
        """`None` if the caller is listed and their token is good enough."""
        if (refused := self.blocklist.refusal(identity, now)) is not None:
            return refused
        if self._is_blocked(identity):
            return LOCKED_OUT
        if identity.kind == "key":
            return None  # the operator made this key, bound to models of their choice
        return self._listed(identity) or self._strong(identity) or self._old(identity, now)

    def notice(self, identity: Identity, now: float) -> str | None:
        """What to tell the owner of a token that is over age and may still be accepted (`when_old: warn`)."""
        age = identity.age_days(now)
        if age is None or age <= self._max_age_days:
            return None
        return f"token is {int(age)} days old; make a new one, {self._max_age_days} days is the limit"

    def _is_blocked(self, identity: Identity) -> bool:
        return (
            not self._blocked.isdisjoint(identity.known_as)
            or identity.fingerprint in self._blocked_fingerprints
        )

    def _listed(self, identity: Identity) -> Denied | None:
        if self._anyone or not self._callers.isdisjoint(identity.holds):
            return None
        if names := self._callers & identity.known_as:
            name = min(names).partition(":")[2]
            return Denied(
                "caller_not_allowed",
                f"The name {name} is listed here for another account of the Hub; "
                f"if yours is meant, the operator has to write its id.",
            )
        return Denied("caller_not_allowed", f"The operator of this service has not listed {identity.user}.")

    def _strong(self, identity: Identity) -> Denied | None:
        if identity.kind == "oauth":
            return self._oauth_accepted()
        if identity.kind != "access_token":
            return Denied("insufficient_scope", f"This kind of token is not accepted here. {self._advice}")
        if identity.role not in self._roles:
            role = identity.role or "unknown"
            return Denied(
                "insufficient_scope", f"Your token's role is {role}, which is too strong here. {self._advice}"
            )
        if identity.role != "fineGrained" or "write" in self._roles:
            return None
        if extra := identity.permissions - self._permissions:
            names = ", ".join(sorted(extra)[:5])
            return Denied(
                "insufficient_scope",
                f"Your fine-grained token may do more than read ({names}). {self._advice}",
            )
        return None

    def _oauth_accepted(self) -> Denied | None:
        if self._oauth == "deny":
            return Denied("insufficient_scope", f"OAuth tokens are not accepted here. {self._advice}")
        return None

    def _old(self, identity: Identity, now: float) -> Denied | None:
        if identity.kind == "oauth":
            if identity.expires_at is None or identity.expires_at <= now:
                return Denied(
                    "token_expired", f"Your OAuth token has expired. Sign in again. Or: {self._advice}"
                )
            return None
        age = identity.age_days(now)
        if age is None or age < -CLOCK_LEEWAY_DAYS:
            return Denied(
                "token_too_old", f"The Hub gives no believable creation date for your token. {self._advice}"
            )
        limit = self._max_age_days
        if age > limit and self._when_old == "deny":
            return Denied(
                "token_too_old",
                f"Your token is {int(age)} days old; here {limit} days is the limit. {self._advice}",
            )
        return None


class ModelPolicy:
    """Decides which repositories this proxy serves, whatever a caller's own access is."""

    def __init__(self, models: Models) -> None:
        self.replace(models)

    def replace(self, models: Models) -> None:
        """Decide by other rules from the next request on."""
        self.models = models
        self._allow = _globs(models.allow)
        self._deny = _globs(models.deny)
        self.configured = tuple(glob for glob in models.allow if not re.search(r"[*?]", glob))

    def check(self, identity: Identity, repo: RepoRef) -> Denied | None:
        """`None` if the canonical `org/name` is allowed here, and to this identity's key."""
        allowed = _matches(self._allow, repo.id) and not _matches(self._deny, repo.id)
        if allowed and identity.models:
            allowed = _matches(_globs(identity.models), repo.id)
        return None if allowed else Denied("model_not_allowed", f"{repo.id} is not served here.", "model")


@cache  # what is asked for are the operator's own lists
def _globs(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    # fnmatch's `*` would cross the slash, so that `acme/*` and `*/x` mean more than they say; the
    # one slash of a repo id makes that harmless.
    return tuple(re.compile(translate(pattern), re.ASCII) for pattern in patterns)


def _matches(patterns: Sequence[re.Pattern[str]], text: str) -> bool:
    return any(pattern.match(text) for pattern in patterns)
