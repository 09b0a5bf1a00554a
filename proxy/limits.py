"""Keeps one caller from taking everything: requests per minute, requests at once, cold loads."""

import math
import time
from collections import Counter
from dataclasses import dataclass

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string

from proxy import settings
from proxy.auth.identity import Identity
from proxy.errors import Denied


@dataclass(frozen=True, slots=True)
class Permit:
    """A place among the requests under way; the headers tell the caller what is left."""

    sub: str
    headers: tuple[tuple[str, str], ...]


class Limits:
    """Counts per identity. Rates live in memory, or in Redis for several proxies."""

    def __init__(self, limits: settings.Limits) -> None:
        self._per_minute = RateLimitItemPerMinute(limits.requests_per_minute)
        self._loads_per_hour = RateLimitItemPerHour(limits.cold_loads_per_hour)
        self._same_load = RateLimitItemPerMinute(1)
        self._concurrent = limits.concurrent_requests
        self._rates = FixedWindowRateLimiter(_storage(limits.storage))
        self._under_way: Counter[str] = Counter()

    async def acquire(self, identity: Identity) -> Permit | Denied:
        """Count one request. A refused one counts too, so that hammering does not pay."""
        within = await self._rates.hit(self._per_minute, "requests", identity.sub)
        window = await self._rates.get_window_stats(self._per_minute, "requests", identity.sub)
        reset = max(0, math.ceil(window.reset_time - time.time()))
        headers = (
            ("x-ratelimit-limit-requests", str(self._per_minute.amount)),
            ("x-ratelimit-remaining-requests", str(max(0, window.remaining))),
            ("x-ratelimit-reset-requests", f"{reset}s"),
        )
        if not within:
            message = f"You sent more than {self._per_minute.amount} requests within a minute."
            return Denied("rate_limit_exceeded", message, retry_after=reset, headers=headers)
        if self._under_way[identity.sub] >= self._concurrent:
            message = f"You have {self._concurrent} requests under way already; wait for one to end."
            return Denied("rate_limit_exceeded", message, retry_after=1, headers=headers)
        self._under_way[identity.sub] += 1
        return Permit(identity.sub, headers)

    async def cold_load(self, identity: Identity, model: str) -> Denied | None:
        """Count one load of a cold model; those who wait for the same one within a minute are one."""
        if not await self._rates.hit(self._same_load, "load", identity.sub, model):
            return None
        if await self._rates.hit(self._loads_per_hour, "loads", identity.sub):
            return None
        message = f"You asked for more than {self._loads_per_hour.amount} cold models within an hour."
        return Denied("rate_limit_exceeded", message, retry_after=120)

    def release(self, permit: Permit) -> None:
        """Give the place back."""
        self._under_way[permit.sub] -= 1
        if self._under_way[permit.sub] <= 0:
            del self._under_way[permit.sub]


def _storage(uri: str) -> Storage:
    if uri == "memory://":
        return MemoryStorage()
    storage = storage_from_string(f"async+{uri}")
    assert isinstance(storage, Storage)  # noqa: S101 - limits' own promise for async+ schemes
    return storage
