"""Keeps one caller from taking everything: requests and tokens per minute, requests at once, cold loads.

A request is admitted while its caller's tokens of this minute are not used up. What its answer used is
charged when it has ended, because only then it is known: a caller can pass the limit by what the
requests under way use, which `concurrent_requests` bounds. The next requests then wait for the next minute.

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
from hubgate.proxy.limits.allowances import Allowances
from hubgate.proxy.limits.memory_counters import Counters, WindowCount

MINUTE: Final = 60  # seconds
HOUR: Final = 3600


@dataclass(init=False)
class Permit:
    """A place among the requests under way."""

    sub: str
    lines: str  # the headers that tell the caller what is left, as lines
    at_once: int  # how many places this caller may have
    places: int  # that this request takes

    def __init__(self, sub: str, lines: str, at_once: int) -> None:
        self.sub = sub
        self.lines = lines
        self.at_once = at_once
        self.places = 1


class Limiter:
    """Counts per identity. Rates live in `counters`, which several proxies may share."""

    def __init__(
        self, limits: settings.Limits, keys: Sequence[settings.LocalKey], counters: Counters
    ) -> None:
        self._keys = keys
        self._allowances = Allowances(limits, keys)
        self._counters = counters
        self._under_way: dict[str, int] = {}

    def replace(self, limits: settings.Limits) -> None:
        """Measure by other numbers from the next request on; what was counted stays counted."""
        self._allowances = Allowances(limits, self._keys)

    async def acquire(self, identity: Identity) -> Permit | Denied:
        """Count one request. A refused one counts too, so that hammering does not pay."""
        here = self.try_acquire(identity)
        if here is not None:
            return here
        return self._admit(identity, await self._counters.add(identity.sub, MINUTE, uses=1))

    def try_acquire(self, identity: Identity) -> Permit | Denied | None:
        """Do what `acquire` does, at once; or nothing, where there is somebody to wait for."""
        here = self._counters.local
        return None if here is None else self._admit(identity, here.count(identity.sub, MINUTE, 1, 0))

    def _admit(self, identity: Identity, count: WindowCount) -> Permit | Denied:
        requests, tokens, at_once, _ = self._allowances.of(identity)
        sub, uses, used = identity.sub, count.uses, count.tokens
        reset = min(MINUTE, max(0, math.ceil(count.resets_in)))
        # As OpenAI's API reference ("Rate limits", headers) names and writes them. Requests and tokens share
        # one window. Tokens are those charged before this request.
        until = _UNTIL[reset]
        lines = (
            f"x-ratelimit-limit-requests: {requests}\r\n"
            f"x-ratelimit-limit-tokens: {tokens}\r\n"
            f"x-ratelimit-remaining-requests: {max(0, requests - uses)}\r\n"
            f"x-ratelimit-remaining-tokens: {max(0, tokens - used)}\r\n"
            f"x-ratelimit-reset-requests: {until}\r\n"
            f"x-ratelimit-reset-tokens: {until}\r\n"
        )
        if uses > requests:
            message = f"You sent more than {requests} requests within a minute."
            return Denied("rate_limit_exceeded", message, retry_after=reset, lines=lines)
        if used >= tokens:
            message = f"Your requests used {used} tokens of {tokens} within a minute."
            return Denied("rate_limit_exceeded", message, retry_after=reset, lines=lines)
        under_way = self._under_way.get(sub, 0)
        if under_way >= at_once:
            message = f"You have {at_once} requests under way already; wait for one to end."
            return Denied("rate_limit_exceeded", message, retry_after=1, lines=lines)
        self._under_way[sub] = under_way + 1
        return Permit(sub, lines, at_once)

    def widen(self, permit: Permit, places: int) -> Denied | None:
        """Have a request take so many places. One that weighs more than all of them takes all."""
        most = permit.at_once
        if (places := min(places, most)) <= permit.places:
            return None
        under_way = self._under_way[permit.sub] + places - permit.places
        if under_way > most:
            message = (
                f"This request counts as {places} of the {most} that you may have under way, by its answers "
                "and their log-probabilities; wait for others to end."
            )
            return Denied("rate_limit_exceeded", message, retry_after=1)
        self._under_way[permit.sub] = under_way
        permit.places = places
        return None

    async def cold_load(self, identity: Identity, model: str) -> Denied | None:
        """Count one load of a cold model; those who wait for the same one within a minute are one."""
        allowed = self._allowances.of(identity)
        most = allowed.cold_loads_per_hour
        wait = await self._counters.admit(f"loads:{identity.sub}", HOUR, most=most, name=model, again=MINUTE)
        if wait is None:
            return None
        message = f"You asked for more than {most} cold models within an hour."
        return Denied("rate_limit_exceeded", message, retry_after=math.ceil(wait))

    def release(self, permit: Permit, tokens: int = 0) -> None:
        """Give the place back, and charge the tokens that the answer used."""
        sub = permit.sub
        others = self._under_way[sub] - permit.places
        if others > 0:
            self._under_way[sub] = others
        else:
            del self._under_way[sub]
        if tokens > 0:
            self._counters.charge(sub, MINUTE, tokens=tokens)


_UNTIL: Final = (*(f"{seconds}s" for seconds in range(MINUTE)), "1m0s")  # for each number of seconds
