"""Finds the one credential in a request's headers. Asks nobody, repairs next to nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import Denied, Dialect
from wire.secret import Secret

MAX_LENGTH = 512

# RFC 6750, section 2.1: b64token. Anything else in a header value makes HTTP libraries quote it.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,512}=*", re.ASCII)
# The Hub's token formats: user and OAuth tokens (hf_…, hf_oauth_…, hf_jwt_…), organization tokens.
_HUB = re.compile(r"(?:hf_[A-Za-z0-9_]{3,}|api_org_[A-Za-z0-9_]{3,})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller presented; `doubled` when the scheme stood twice, as in `Bearer Bearer hf_…`."""

    secret: Secret
    doubled: bool = False


def parse(headers: Sequence[tuple[str, str]], dialect: Dialect) -> Credential | Denied:
    """Take the credential out of (name, value) pairs.

    Exactly one is accepted: one `Authorization: Bearer …` (RFC 6750; the scheme is
    case-insensitive, RFC 9110 section 11.1) or, in Anthropic's dialect, one `x-api-key`.
    """
    bearers = [value for name, value in headers if name.lower() == "authorization"]
    api_keys = [value for name, value in headers if name.lower() == "x-api-key"]
    if dialect != "anthropic":
        api_keys = []
    if len(bearers) + len(api_keys) > 1:
        return Denied("invalid_request", "The request carries more than one credential; send exactly one.")
    if api_keys:
        return _credential(api_keys[0].strip(" \t"), doubled=False)
    if not bearers:
        return _missing()
    return _bearer(bearers[0])


def is_hub_token(secret: Secret) -> bool:
    """Whether the Hub could know this token; nothing else is ever sent there."""
    return _HUB.fullmatch(secret.reveal()) is not None


def _bearer(value: str) -> Credential | Denied:
    # A user who writes the scheme into the SDK's api_key sends it twice.
    words = value.strip(" \t").split(" ")
    schemes = [word for word in words[:-1] if word]
    if not schemes or len(schemes) > 2 or any(word.lower() != "bearer" for word in schemes):
        return _missing()
    return _credential(words[-1], doubled=len(schemes) == 2)


def _credential(text: str, *, doubled: bool) -> Credential | Denied:
    if len(text) > MAX_LENGTH or not _TOKEN.fullmatch(text):
        return _invalid()
    return Credential(Secret(text), doubled)


def _missing() -> Denied:
    return Denied(
        "invalid_api_key",
        "No API key. Send your Hugging Face token as `Authorization: Bearer hf_…` "
        '(with the OpenAI SDK: api_key="hf_…"). A read token is made under Settings, Access Tokens.',
    )


def _invalid() -> Denied:
    return Denied("invalid_api_key", "This is not a Hugging Face token: one begins with hf_.")
