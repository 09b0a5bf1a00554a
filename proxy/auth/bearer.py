"""Finds the one credential in a request's headers. Asks nobody, repairs next to nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hubgate.proxy.errors import Denied
from hubgate.proxy.hub.errors import Unsuitable
from hubgate.wire.secret import Secret

MAX_LENGTH: Final = 512

# RFC 6750, section 2.1: b64token. Anything else in a header value makes HTTP libraries quote it.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,512}=*", re.ASCII)
# The Hub's token formats: user tokens (hf_…), OAuth tokens (hf_oauth_…), those that a CI job gets for
# its own identity (hf_jwt_…, huggingface_hub/_oidc.py), and the old ones of organizations (api_org_…).
_HUB: Final = re.compile(r"(?:hf_[A-Za-z0-9_]{3,}|api_org_[A-Za-z0-9_]{3,})", re.ASCII)
_HEADERS: Final = frozenset({"authorization", "x-api-key", "api-key"})
# A user who writes the scheme into the SDK's api_key sends it twice.
_BEARER: Final = re.compile(r"bearer +(bearer +)?([^ ]+)", re.ASCII | re.IGNORECASE)


@dataclass(init=False)
class Credential:
    """What a caller presented; `doubled` when the scheme stood twice, as in `Bearer Bearer hf_…`."""

    secret: Secret
    unsuitable: Unsuitable | None
    doubled: bool

    def __init__(self, secret: Secret, *, doubled: bool = False) -> None:
        self.secret = secret
        self.unsuitable = unsuitable(secret)
        self.doubled = doubled


def parse(headers: Sequence[tuple[str, str]], advice: str) -> Credential | Denied:
    """Take the credential out of (name, value) pairs; `advice` tells those without one what to make.

    Exactly one is accepted: `Authorization: Bearer …` (RFC 6750; the scheme is case-insensitive,
    RFC 9110 section 11.1), `x-api-key` (Anthropic's) or `api-key` (Azure's), each at most once. The
    same token in several of them is one: Claude Code sends two where both of its variables are set.
    """
    presented: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower not in _HEADERS:
            continue
        if lower in presented:  # equal ones too: others might read the other one
            return _several()
        presented[lower] = value
    found: Credential | Denied | None = None
    for name, value in presented.items():
        read = (
            _bearer(value, advice)
            if name == "authorization"
            else _credential(value.strip(" \t"), advice, doubled=False)
        )
        if found is None:
            found = read
        elif isinstance(found, Denied) or isinstance(read, Denied) or found.secret != read.secret:
            return _several()
        elif read.doubled:
            found = read
    return _missing(advice) if found is None else found


def is_hub_token(secret: Secret) -> bool:
    """Whether the Hub could know this token; nothing else is ever sent there."""
    return _HUB.fullmatch(secret.reveal()) is not None


def unsuitable(secret: Secret) -> Unsuitable | None:
    """Why the Hub is not asked whose token this is; `None` if it is."""
    if not is_hub_token(secret):
        return "other"
    if secret.reveal().startswith("api_org_"):
        return "organization"
    return "exchanged" if secret.reveal().startswith("hf_jwt_") else None


def is_well_formed(secret: Secret) -> bool:
    """Whether a request could carry this at all."""
    return len(secret.reveal()) <= MAX_LENGTH and _TOKEN.fullmatch(secret.reveal()) is not None


def _bearer(value: str, advice: str) -> Credential | Denied:
    found = _BEARER.fullmatch(value.strip(" \t"))
    return _missing(advice) if found is None else _credential(found[2], advice, doubled=found[1] is not None)


def _credential(text: str, advice: str, *, doubled: bool) -> Credential | Denied:
    secret = Secret(text)
    return Credential(secret, doubled=doubled) if is_well_formed(secret) else _invalid(advice)


def _several() -> Denied:
    return Denied("invalid_request", "The request carries more than one credential; send exactly one.")


def _missing(advice: str) -> Denied:
    return Denied(
        "invalid_api_key",
        "No API key. Send your Hugging Face token as `Authorization: Bearer hf_…` "
        f'(with the OpenAI SDK: api_key="hf_…"). {advice}',
    )


def _invalid(advice: str) -> Denied:
    return Denied("invalid_api_key", f"This is not a Hugging Face token: one begins with hf_. {advice}")
