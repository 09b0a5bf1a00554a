"""What the audit tells of a request."""

from typing import Literal

import msgspec


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line's own fields; what is `None` is left out."""

    request_id: str
    client: str
    endpoint: str
    user: str | None = None
    token_name: str | None = None
    role: str | None = None
    token_age_days: float | None = None
    fingerprint: str | None = None
    sub: str | None = None
    model: str | None = None
    repo: str | None = None
    sha: str | None = None
    base: str | None = None
    decision: Literal["granted", "denied"] | None = None
    reason: str
    status: int
    upstream: str | None = None
    stream: bool
    temperature: Literal["cold", "warm"] | None = None
    bytes_in: int
    bytes_out: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool | None = None
    seconds: dict[str, float]
