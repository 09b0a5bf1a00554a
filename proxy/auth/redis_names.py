"""The names of accounts in Redis, for several proxies: what one of them has seen, all know.

Redis decides whose a configured name is, since it can give it away only once. What a proxy knows already it
tells Redis again with each question, so that a Redis that lost its data learns it anew. While Redis is away,
a proxy goes on with what it knows itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from hubgate.proxy.auth.accounts import Told
from hubgate.proxy.auth.name_book import by_id
from hubgate.wire.secret import Secret

PATIENCE: Final = 0.25  # seconds for one round trip, connecting included
RETRY: Final = 1.0  # seconds for which nothing is asked of a Redis that did not answer
OWNERS: Final = "hubgate:names:owners"  # a hash: name → id
SEEN: Final = "hubgate:names:"  # and an id: the set of its names

# In one step, so that of two proxies that see a name for the first time one is first.
_SCRIPT: Final = """
local found = {}
for i, one in ipairs(cjson.decode(ARGV[1])) do
  for _, name in ipairs(one.names) do redis.call('SADD', KEYS[i + 1], name) end
  for _, name in ipairs(one.kept) do redis.call('HSETNX', KEYS[1], one.kind .. ':' .. name, one.id) end
  found[i] = {}
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[i + 1])) do
    table.insert(found[i], {name, redis.call('HGET', KEYS[1], one.kind .. ':' .. name) or ''})
  end
end
return found
"""

log = structlog.get_logger("names")


class RedisNames:
    """See `SharedNames`. A Redis that does not answer is not waited for."""

    def __init__(self, client: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._again_at = 0.0

    async def owners(self) -> Mapping[str, str] | None:
        """See `SharedNames`."""
        found: Mapping[str, str] | None = await self._ask(lambda: self._client.hgetall(OWNERS))
        return found

    async def exchange(self, told: Sequence[Told]) -> Sequence[Sequence[tuple[str, str]]] | None:
        """See `SharedNames`."""
        keys = [OWNERS, *(SEEN + by_id(one.kind, one.id) for one in told)]
        text = msgspec.json.encode(told)
        found: Sequence[Sequence[tuple[str, str]]] | None = await self._ask(
            lambda: self._client.eval(_SCRIPT, len(keys), *keys, text)
        )
        return found

    async def _ask(self, ask: Callable[[], Any]) -> Any:
        if self._clock() < self._again_at:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await ask()
        except (RedisError, OSError, TimeoutError) as error:
            self._again_at = self._clock() + RETRY
            if isinstance(error, ResponseError):  # of one that is away, the limits tell
                log.error("names cannot be shared", error=type(error).__name__)  # noqa: TRY400
            return None


@asynccontextmanager
async def connected(url: Secret) -> AsyncIterator[RedisNames]:
    """Names in the Redis at `url`."""
    client = Redis.from_url(url.reveal(), protocol=2, retry=Retry(NoBackoff(), 0), decode_responses=True)
    async with client:
        yield RedisNames(client)
