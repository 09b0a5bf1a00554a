"""The list of lock-outs in Redis: one hash, so that it is there as a whole or not at all."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from hubgate.proxy.auth.block import Block
from hubgate.proxy.blocks.shared import AwayError, Snapshot, Version
from hubgate.proxy.limits import redis_counters
from hubgate.wire.secret import Secret

KEY: Final = redis_counters.PREFIX + "blocks"
# Beside the fields that are names: no name has two colons.
_GENERATION: Final = b"::generation"
_NUMBER: Final = b"::number"
MAX_DIGITS: Final = 15  # of a number: Lua's are exact up to there, and nobody makes so many changes

# Sent whole each time, as in `redis_counters`. A change and its version are one step.
# ARGV: a generation, in case there is none; the least number before; `set` or `drop`; names (with values).
# A number that is none, or has more than `MAX_DIGITS`, counts as 0, so that the next change mends it.
_CHANGE: Final = """
local key = KEYS[1]
redis.call('HSETNX', key, '::generation', ARGV[1])
local number = tonumber(redis.call('HGET', key, '::number') or 0) or 0
if not (number >= 0 and number < 1e15) then number = 0 end
number = math.max(number, tonumber(ARGV[2]))
if ARGV[3] == 'set' then
  for i = 4, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
else
  for i = 4, #ARGV do redis.call('HDEL', key, ARGV[i]) end
end
redis.call('HSET', key, '::number', string.format('%.0f', number + 1))
return redis.call('HGETALL', key)
"""
_FORGET: Final = """
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 0
"""


class RedisBlocks:
    """See `SharedBlocks`."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def version(self) -> Version | None:
        """See `SharedBlocks`."""
        generation, number = await self._ask("HMGET", KEY, _GENERATION, _NUMBER)
        return _version(generation, number)

    async def read(self) -> Snapshot:
        """See `SharedBlocks`."""
        return _snapshot(await self._ask("HGETALL", KEY))

    async def put(self, blocks: Iterable[Block], after: int) -> Snapshot:
        """See `SharedBlocks`."""
        pairs = [text for block in blocks for text in (block.who, msgspec.json.encode(block))]
        return await self._change(after, "set", *pairs)

    async def drop(self, who: str) -> Snapshot:
        """See `SharedBlocks`."""
        return await self._change(0, "drop", who)

    async def forget(self, blocks: Iterable[Block]) -> None:
        """See `SharedBlocks`."""
        pairs = [text for block in blocks for text in (block.who, msgspec.json.encode(block))]
        if pairs:
            await self._ask("EVAL", _FORGET, 1, KEY, *pairs)

    async def _change(self, after: int, *what: str | bytes) -> Snapshot:
        generation = secrets.token_hex(8)
        found: list[bytes] = await self._ask("EVAL", _CHANGE, 1, KEY, generation, after, *what)
        return _snapshot(dict(zip(found[::2], found[1::2], strict=True)))

    async def _ask(self, *command: Any) -> Any:
        try:
            async with asyncio.timeout(redis_counters.PATIENCE):
                return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - whatever the client raises is taken for an outage
            raise AwayError(type(error).__name__) from None


def _version(generation: bytes | None, number: bytes | None) -> Version | None:
    if generation is None or number is None or len(number) > MAX_DIGITS or not number.isdigit():
        return None
    return Version(generation.decode("ascii", "replace"), int(number))


def _snapshot(found: dict[bytes, bytes]) -> Snapshot:
    version = _version(found.pop(_GENERATION, None), found.pop(_NUMBER, None))
    blocks = [_block(who, value) for who, value in found.items()]
    return Snapshot(version, {block.who: block for block in blocks})


def _block(field: bytes, value: bytes) -> Block:
    """One lock-out. Where its value cannot be read, it is known for whom: it counts until it is lifted."""
    who = field.decode("ascii", "replace")
    try:
        block = msgspec.json.decode(value, type=Block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        block = None
    if block is None or block.who != who:
        return Block(who, 0, None, "unknown", "its details in Redis cannot be read")
    return block


@asynccontextmanager
async def connected(url: Secret) -> AsyncIterator[RedisBlocks]:
    """The list in the Redis at `url`."""
    async with redis_counters.client(url) as client:
        yield RedisBlocks(client)
