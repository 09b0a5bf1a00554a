"""Keeps one caller from taking everything: requests and tokens per minute, requests at once, cold loads.

A request is admitted while its caller's tokens of the last minute are not used up. What its answer used is
charged when it has ended, because only then it is known: a caller can pass the limit by what the
requests under way use, which `concurrent_requests` bounds. The next requests then wait until enough of it
is a minute ago.

What was refused here does not count: who comes back when they are told to is let in, however often they asked
meanwhile, and nobody gets more by asking more often. What is refused later, by whatever comes next, counts.

Where the operator says so, the members of an organization have numbers together, beside their own. A request
has to have room in all of them, and counts in all or none.

Requests at once are weighed: eight answers to one request (`n`) are eight, and log-probabilities cost an
engine's API process as much again for each few of them. What a body asks for is known only once it was
read, so that a request gets one place at first and the others before anything goes up.

They are counted per process, whatever the storage: a place that a killed proxy took in Redis
would stay taken, and expiring places would be given back under long streams. With n proxies a caller
has n times as many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hubgate.proxy import settings
from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied
from hubgate.proxy.limits.allowances import Allowance, Allowances
from hubgate.proxy.limits.memory_counters import UNBOUNDED, Claim, Count, Counters
from hubgate.proxy.limits.organizations import Organizations, Pooled

MINUTE: Final = 60  # seconds
HOUR: Final = 3600


@dataclass(init=False)
class Permit:
    """A place among the requests under way."""

    sub: str
    pooled: tuple[Pooled, ...]  # organizations in which it counts too
    lines: str  # the headers that tell the caller what is left, as lines
    at_once: int  # how many places this caller may have
    weight: int  # of this caller's share of an engine
    places: int  # that this request takes

    def __init__(self, sub: str, pooled: tuple[Pooled, ...], lines: str, at_once: int, weight: int) -> None:
        self.sub = sub
        self.pooled = pooled
        self.lines = lines
        self.at_once = at_once
        self.weight = weight
        self.places = 1


class Limiter:
    """Counts per identity. Rates live in `counters`, which several proxies may share."""

    def __init__(
        self, limits: settings.Limits, keys: Sequence[settings.LocalKey], counters: Counters
    ) -> None:
        self._keys = keys
        self._allowances = Allowances(limits, keys)
        self._organizations = Organizations(limits.organizations)
        self._counters = counters
        self._under_way: dict[str, int] = {}  # places, by `sub` and by an organization's key
        self.queue_seconds = limits.queue_seconds  # that a request may wait for its share of an engine

    def replace(self, limits: settings.Limits) -> None:
        """Measure by other numbers from the next request on; what was counted stays counted."""
        self._allowances = Allowances(limits, self._keys)
        self._organizations = Organizations(limits.organizations)
        self.queue_seconds = limits.queue_seconds

    async def acquire(self, identity: Identity) -> Permit | Denied:
        """Count one request and take a place for it, or say what is used up and when there is room."""
        here = self.try_acquire(identity)
        if here is not None:
            return here
        allowed, pooled = self._allowances.of(identity), self._organizations.of(identity)
        claims = _requests(identity, allowed, pooled)
        counts = await self._counters.take(claims, MINUTE)
        return self._admit(identity.sub, allowed, pooled, claims, counts)

    def try_acquire(self, identity: Identity) -> Permit | Denied | None:
        """Do what `acquire` does, at once; or nothing, where there is somebody to wait for."""
        here = self._counters.local
        if here is None:
            return None
        allowed, pooled = self._allowances.of(identity), self._organizations.of(identity)
        claims = _requests(identity, allowed, pooled)
        return self._admit(identity.sub, allowed, pooled, claims, here.take_now(claims, MINUTE))

    def _admit(
        self,
        sub: str,
        allowed: Allowance,
        pooled: tuple[Pooled, ...],
        claims: Sequence[Claim],
        counts: Sequence[Count],
    ) -> Permit | Denied:
        mine, requests, tokens = counts[0], allowed.requests_per_minute, allowed.tokens_per_minute
        # As OpenAI's API reference ("Rate limits", headers) names and writes them. A reset is when there is
        # more than now; where nothing is left, when a request is let in. Tokens are those charged before.
        lines = (
            f"x-ratelimit-limit-requests: {requests}\r\n"
            f"x-ratelimit-limit-tokens: {tokens}\r\n"
            f"x-ratelimit-remaining-requests: {max(0, requests - mine.uses)}\r\n"
            f"x-ratelimit-remaining-tokens: {max(0, tokens - mine.tokens)}\r\n"
            f"x-ratelimit-reset-requests: {_until(mine.more_uses_in)}\r\n"
            f"x-ratelimit-reset-tokens: {_until(mine.more_tokens_in)}\r\n"
        )
        if not mine.let_in:
            return _used_up(pooled, claims, counts, lines)
        under_way = self._under_way
        if under_way.get(sub, 0) >= allowed.concurrent_requests:
            message = (
                f"You have {allowed.concurrent_requests} requests under way already; wait for one to end."
            )
            return Denied("rate_limit_exceeded", message, retry_after=1, lines=lines)
        for shared in pooled:
            if 0 <= shared.concurrent_requests <= under_way.get(shared.key, 0):
                have = f"have {shared.concurrent_requests} requests under way already; wait for one to end."
                message = f"The members of {shared.name} together {have}"
                return Denied("rate_limit_exceeded", message, retry_after=1, lines=lines)
        permit = Permit(sub, pooled, lines, allowed.concurrent_requests, allowed.weight)
        self._occupy(permit, 1)
        return permit

    def widen(self, permit: Permit, places: int) -> Denied | None:
        """Have a request take so many places. One that weighs more than all of them takes all."""
        most = permit.at_once
        for shared in permit.pooled:
            if 0 <= shared.concurrent_requests < most:
                most = shared.concurrent_requests
        more = min(places, most) - permit.places
        if more <= 0:
            return None
        whose, free = "you", permit.at_once - self._under_way[permit.sub]
        most = permit.at_once
        for shared in permit.pooled:
            left = shared.concurrent_requests - self._under_way[shared.key]
            if shared.concurrent_requests >= 0 and left < free:
                whose, free = f"the members of {shared.name} together", left
                most = shared.concurrent_requests
        if more > free:
            message = (
                f"This request counts as {permit.places + more} of the {most} that {whose} may have under "
                "way, by its answers and their log-probabilities; wait for others to end."
            )
            return Denied("rate_limit_exceeded", message, retry_after=1)
        self._occupy(permit, more)
        permit.places += more
        return None

    async def cold_load(self, identity: Identity, model: str) -> Denied | None:
        """Count one load of a cold model; those of one caller for the same one within a minute are one."""
        pooled = self._organizations.of(identity)
        most = self._allowances.of(identity).cold_loads_per_hour
        claims = [Claim(f"loads:{identity.sub}", most, UNBOUNDED)]
        claims += [Claim(f"loads:{shared.key}", shared.cold_loads_per_hour, UNBOUNDED) for shared in pooled]
        counts = await self._counters.admit(claims, HOUR, name=model, again=MINUTE)
        wait, message = 0.0, ""
        for i, count in enumerate(counts):
            if not count.let_in and 0 <= claims[i].most <= count.uses:
                wait = max(wait, count.more_uses_in)
                asked = "You asked" if i == 0 else f"The members of {pooled[i - 1].name} together asked"
                message = message or f"{asked} for more than {claims[i].most} cold models within an hour."
        return Denied("rate_limit_exceeded", message, retry_after=math.ceil(wait)) if message else None

    def release(self, permit: Permit, tokens: int = 0) -> None:
        """Give the place back, and charge the tokens that the answer used."""
        self._occupy(permit, -permit.places)
        if tokens > 0:
            keys = [permit.sub, *[shared.key for shared in permit.pooled]]
            self._counters.charge(keys, MINUTE, tokens=tokens)

    def _occupy(self, permit: Permit, more: int) -> None:
        self._add(permit.sub, more)
        for shared in permit.pooled:
            self._add(shared.key, more)

    def _add(self, key: str, more: int) -> None:
        places = self._under_way.get(key, 0) + more
        if places > 0:
            self._under_way[key] = places
        else:
            del self._under_way[key]


def _requests(identity: Identity, allowed: Allowance, pooled: tuple[Pooled, ...]) -> list[Claim]:
    """The windows in which a request has to have room: the caller's own, then the organizations'."""
    claims = [Claim(identity.sub, allowed.requests_per_minute, allowed.tokens_per_minute)]
    if pooled:
        claims += [Claim(one.key, one.requests_per_minute, one.tokens_per_minute) for one in pooled]
    return claims


def _used_up(
    pooled: tuple[Pooled, ...], claims: Sequence[Claim], counts: Sequence[Count], lines: str
) -> Denied:
    """What has no room, and when all of it has."""
    wait, message = 0.0, ""
    for i, count in enumerate(counts):
        claim = claims[i]
        if 0 <= claim.most <= count.uses:
            wait = max(wait, count.more_uses_in)
            sent = "You" if i == 0 else f"The members of {pooled[i - 1].name} together"
            message = message or f"{sent} sent more than {claim.most} requests within a minute."
        if 0 <= claim.most_tokens <= count.tokens:
            wait = max(wait, count.more_tokens_in)
            whose = (
                "Your requests" if i == 0 else f"The requests of the members of {pooled[i - 1].name} together"
            )
            used = f"{whose} used {count.tokens} tokens of {claim.most_tokens} within a minute."
            message = message or used
    return Denied("rate_limit_exceeded", message, retry_after=math.ceil(wait), lines=lines)


def _until(seconds: float) -> str:
    return _UNTIL[min(math.ceil(seconds), len(_UNTIL) - 1)]


# For each number of seconds; two minutes where Redis' clock was set back by one.
_UNTIL: Final = (
    *(f"{seconds}s" for seconds in range(MINUTE)),
    *(f"1m{seconds}s" for seconds in range(MINUTE)),
    "2m0s",
)
