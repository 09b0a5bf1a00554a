"""Keeps one caller from taking everything: requests and tokens per minute, requests at once, cold loads.

A request is admitted while its caller's tokens of this minute are not used up. What its answer used is
charged when it has ended, because only then it is known: a caller can pass the limit by what the
requests under way use, which `concurrent_requests` bounds. The next requests then wait for the next minute.

Requests at once are counted per process, whatever the storage: a place that a killed proxy took in Redis
would stay taken, and expiring places would be given back under long streams. With n proxies a caller
has n times as many.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from proxy import settings
from proxy.allowances import Allowance, Allowances
from proxy.auth.identity import Identity
from proxy.counters import Count, Counters
from proxy.errors import Denied
from proxy.value import Value

MINUTE: Final = 60  # seconds
HOUR: Final = 3600

Headers = tuple[tuple[str, str], ...]


class Permit(Value):
    """A place among the requests under way; the headers tell the caller what is left."""

    sub: str
    headers: Headers


class Limits:
    """Counts per identity. Rates live in `counters`, which several proxies may share."""

    def __init__(
        self, limits: settings.Limits, keys: Sequence[settings.LocalKey], counters: Counters
    ) -> None:
        self._keys = keys
        self._allowances = Allowances(limits, keys)
        self._counters = counters
        self._under_way: Counter[str] = Counter()

    def replace(self, limits: settings.Limits) -> None:
        """Measure by other numbers from the next request on; what was counted stays counted."""
        self._allowances = Allowances(limits, self._keys)

    async def acquire(self, identity: Identity) -> Permit | Denied:
        """Count one request. A refused one counts too, so that hammering does not pay."""
        allowed = self._allowances.of(identity)
        count = await self._counters.add(identity.sub, MINUTE, uses=1)
        reset = max(0, math.ceil(count.resets_in))
        headers = _headers(allowed, count, reset)
        if count.uses > allowed.requests_per_minute:
            message = f"You sent more than {allowed.requests_per_minute} requests within a minute."
            return Denied("rate_limit_exceeded", message, retry_after=reset, headers=headers)
        if count.tokens >= allowed.tokens_per_minute:
            message = (
                f"Your requests used {count.tokens} tokens of {allowed.tokens_per_minute} within a minute."
            )
            return Denied("rate_limit_exceeded", message, retry_after=reset, headers=headers)
        if self._under_way[identity.sub] >= allowed.concurrent_requests:
            message = (
                f"You have {allowed.concurrent_requests} requests under way already; wait for one to end."
            )
            return Denied("rate_limit_exceeded", message, retry_after=1, headers=headers)
        self._under_way[identity.sub] += 1
        return Permit(identity.sub, headers)

    async def cold_load(self, identity: Identity, model: str) -> Denied | None:
        """Count one load of a cold model; those who wait for the same one within a minute are one."""
        allowed = self._allowances.of(identity)
        most = allowed.cold_loads_per_hour
        wait = await self._counters.enter(f"loads:{identity.sub}", HOUR, most=most, name=model, again=MINUTE)
        if wait is None:
            return None
        message = f"You asked for more than {most} cold models within an hour."
        return Denied("rate_limit_exceeded", message, retry_after=math.ceil(wait))

    def release(self, permit: Permit, tokens: int = 0) -> None:
        """Give the place back, and charge the tokens that the answer used."""
        self._under_way[permit.sub] -= 1
        if self._under_way[permit.sub] <= 0:
            del self._under_way[permit.sub]
        if tokens > 0:
            self._counters.charge(permit.sub, MINUTE, tokens=tokens)


def _headers(allowed: Allowance, count: Count, reset: int) -> Headers:
    """What is left, as OpenAI's API reference ("Rate limits", headers) names and writes it.

    Requests and tokens share one window. Tokens are those charged before this request.
    """
    until = f"{reset}s" if reset < 60 else f"{reset // 60}m{reset % 60}s"
    return (
        ("x-ratelimit-limit-requests", str(allowed.requests_per_minute)),
        ("x-ratelimit-limit-tokens", str(allowed.tokens_per_minute)),
        ("x-ratelimit-remaining-requests", str(max(0, allowed.requests_per_minute - count.uses))),
        ("x-ratelimit-remaining-tokens", str(max(0, allowed.tokens_per_minute - count.tokens))),
        ("x-ratelimit-reset-requests", until),
        ("x-ratelimit-reset-tokens", until),
    )
