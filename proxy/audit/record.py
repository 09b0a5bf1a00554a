"""What the audit tells of a request, as the members of one line (see `hubgate.proxy.audit.chain`).

Most of it is the same from request to request of one caller, so that its text is kept. A model that was
refused is not: what one caller named would be quicker for the next one, who could tell.
"""

from functools import lru_cache
from math import floor
from typing import Any, Final

from hubgate.proxy.audit import chain
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.context import RequestContext

_KEPT: Final = 4096  # texts of each kind; all together are a few MB

# The texts of what takes less than a tenth of a second, as nearly all that is told does.
_SECONDS: Final = tuple(str(tenths / 1e4) for tenths in range(1000))


def of(one: RequestContext, now: float) -> str:
    """What is told of a request at `now`, seconds since the epoch."""
    who = "" if one.identity is None else _who(one.identity, now)
    model = "" if one.model is None else f',"model":"{one.model}"'  # plain by the grammar of `RepoRef`
    granted = "" if one.access is None else _granted(one.access)
    prompt = "" if one.prompt_tokens is None else f',"prompt_tokens":{one.prompt_tokens}'
    completion = "" if one.completion_tokens is None else f',"completion_tokens":{one.completion_tokens}'
    estimated = ',"tokens_estimated":true' if one.estimated else ""
    place, end = _place(one.client, one.endpoint), _outcome(one)
    auth, limits = _spent(',"auth":', one.auth_seconds), _spent(',"limits":', one.limits_seconds)
    body, load = _spent(',"body":', one.body_seconds), _spent(',"load":', one.load_seconds)
    upstream, queue = _spent(',"upstream":', one.upstream_seconds), _spent(',"queue":', one.queue_seconds)
    # An id is plain by `request_id`. It is one text, made at once: appending takes twice as long.
    return (
        f',"request_id":"{one.request_id}"{place}{who}{model}{granted}{end}'
        f',"bytes_in":{one.bytes_in},"bytes_out":{one.bytes_out}{prompt}{completion}{estimated}'
        f',"seconds":{{"total":{_seconds(one.elapsed)}{auth}{limits}{body}{load}{upstream}{queue}}}'
    )


def granted(one: RequestContext, now: float) -> str:
    """What is known of a granted request that is still in flight at `now`, seconds since the epoch."""
    who = "" if one.identity is None else _who(one.identity, now)
    model = "" if one.model is None else f',"model":"{one.model}"'
    access = "" if one.access is None else _granted(one.access)
    decision = _members(decision="granted", upstream=one.upstream, stream=one.stream)
    return f',"request_id":"{one.request_id}"{_place(one.client, one.endpoint)}{who}{model}{access}{decision}'


def _who(identity: Identity, now: float) -> str:
    created = identity.created_at
    return _caller(
        identity.user,
        identity.token_name,
        identity.role or identity.kind,
        None if created is None else floor((now - created) / 8640 + 0.5),
        identity.fingerprint,
        identity.sub,
    )


def _granted(access: Access) -> str:
    base = access.base
    used = access.adapter or base
    return _model(used.id, used.revision, str(base))


def _outcome(one: RequestContext) -> str:
    decision = temperature = None
    if one.access is not None:
        decision, temperature = "granted", "cold" if one.cold else "warm"
    elif one.turned_away:
        decision = "denied"
    elif one.code == "ok":
        decision = "granted"
    return _end(decision, one.code, one.status, one.upstream, one.stream, temperature)


def _seconds(value: float) -> str:
    """To a tenth of a millisecond."""
    tenths = int(value * 1e4 + 0.5)
    return _SECONDS[tenths] if tenths < 1000 else str(tenths / 1e4)


def _spent(phase: str, value: float) -> str:
    return phase + _seconds(value) if value else ""


@lru_cache(_KEPT)
def _place(client: str, endpoint: str) -> str:
    return chain.members({"client": client, "endpoint": endpoint})


@lru_cache(_KEPT)
def _caller(  # noqa: PLR0917 - a cache is slower by names
    user: str, token_name: str, role: str, tenths: int | None, fingerprint: str, sub: str
) -> str:
    """The age of a token is told in tenths of a day."""
    return _members(
        user=user,
        token_name=token_name,
        role=role,
        token_age_days=None if tenths is None else tenths / 10,
        fingerprint=fingerprint,
        sub=sub,
    )


@lru_cache(_KEPT)
def _model(repo: str, sha: str | None, base: str) -> str:
    return _members(repo=repo, sha=sha, base=base)


@lru_cache(_KEPT)
def _end(  # noqa: PLR0917 - a cache is slower by names
    decision: str | None,
    reason: str,
    status: int,
    upstream: str | None,
    stream: bool,
    temperature: str | None,
) -> str:
    return _members(
        decision=decision,
        reason=reason,
        status=status,
        upstream=upstream,
        stream=stream,
        temperature=temperature,
    )


def _members(**values: Any) -> str:
    """Those that are not `None`."""
    return chain.members({name: value for name, value in values.items() if value is not None})
