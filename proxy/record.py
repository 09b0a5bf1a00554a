"""What the audit tells of a request, as the members of one line (see `proxy.trail`).

Most of it is the same from request to request of one caller, so that its text is kept. A model that was
refused is not: what one caller named would be quicker for the next one, who could tell.
"""

from functools import lru_cache
from typing import Any, Final

from proxy import trail

_KEPT: Final = 4096  # texts of each kind; all together are a few MB

# The texts of what takes less than a tenth of a second, as nearly all that is told does.
_SECONDS: Final = tuple(str(tenths / 1e4) for tenths in range(1000))


@lru_cache(_KEPT)
def place(client: str, endpoint: str) -> str:
    """Where the request came from, and where to."""
    return trail.members({"client": client, "endpoint": endpoint})


@lru_cache(_KEPT)
def caller(  # noqa: PLR0917 - a cache is slower by names
    user: str, token_name: str, role: str, tenths: int | None, fingerprint: str, sub: str
) -> str:
    """Who asked, with a token that is so many tenths of a day old."""
    return _members(
        user=user,
        token_name=token_name,
        role=role,
        token_age_days=None if tenths is None else tenths / 10,
        fingerprint=fingerprint,
        sub=sub,
    )


@lru_cache(_KEPT)
def model(repo: str, sha: str | None, base: str) -> str:
    """What was granted, at which commit, and the base that it runs on."""
    return _members(repo=repo, sha=sha, base=base)


@lru_cache(_KEPT)
def outcome(  # noqa: PLR0917 - a cache is slower by names
    decision: str | None,
    reason: str,
    status: int,
    upstream: str | None,
    stream: bool,
    temperature: str | None,
) -> str:
    """What became of it."""
    return _members(
        decision=decision,
        reason=reason,
        status=status,
        upstream=upstream,
        stream=stream,
        temperature=temperature,
    )


def seconds(value: float) -> str:
    """A time, to a tenth of a millisecond."""
    tenths = int(value * 1e4 + 0.5)
    return _SECONDS[tenths] if tenths < 1000 else str(tenths / 1e4)


def _members(**values: Any) -> str:
    """Those that are not `None`."""
    return trail.members({name: value for name, value in values.items() if value is not None})
