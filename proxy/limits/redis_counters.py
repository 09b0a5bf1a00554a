"""Counters in Redis, which several proxies share; in this process alone while Redis is away.

One task owns the connection. What was asked for while it waited for Redis goes out in the next round
trip together, so that a thousand requests need neither a thousand connections nor a thousand turns.
When Redis fails, whoever waits is counted here, and so is everybody else until a later attempt of that
task succeeds: an outage costs the requests of one round trip `PATIENCE` at most, and the others nothing.
Counts begin anew here and are not carried over when Redis is back: an outage is generous, never strict.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hubgate.proxy.limits.memory_counters import MemoryCounters, WindowCount
from hubgate.wire.secret import Secret

PATIENCE: Final = 0.25  # seconds for one round trip, connecting included
RETRY: Final = 1.0  # seconds between attempts to reach a Redis that is away
BATCH: Final = 500  # questions in one round trip: about a millisecond of Redis
PREFIX: Final = "hubgate:"

# One script for a whole batch: a command of its own for each question costs half as much CPU again.
# Sent whole each time (EVAL): it is short, and a Redis that was restarted knows no EVALSHA.
# Per question two keys and four numbers: add is (key, key, life, uses, tokens, -1), admit is
# (key, key of the name, life, 0, life of the name, most). Each gives three numbers.
_SCRIPT: Final = """
local found = {}
for i = 1, #KEYS, 2 do
  local key, name = KEYS[i], KEYS[i + 1]
  local life, uses, other, most = unpack(ARGV, 2 * i - 1, 2 * i + 2)
  local left = redis.call('PTTL', key)
  local first, second = 0, 0
  if tonumber(most) < 0 then
    first = redis.call('HINCRBY', key, 'uses', uses)
    second = redis.call('HINCRBY', key, 'tokens', other)
  elseif redis.call('EXISTS', name) == 0 then
    if tonumber(redis.call('HGET', key, 'uses') or 0) >= tonumber(most) then
      first = 1
    else
      redis.call('HINCRBY', key, 'uses', 1)
      redis.call('SET', name, 1, 'PX', other)
    end
  end
  if left < 0 and redis.call('PEXPIRE', key, life) == 1 then left = tonumber(life) end
  found[#found + 1] = first
  found[#found + 1] = second
  found[#found + 1] = left
end
return found
"""

log = structlog.get_logger("limits")


@dataclass(frozen=True, slots=True)
class _Question:
    """What the script is given, how to read its three numbers, and how to answer without Redis."""

    keys: tuple[str, str]
    numbers: tuple[int, int, int, int]
    read: Callable[[int, int, int], Any]
    local: Callable[[], Any]
    answer: "asyncio.Future[Any] | None" = None  # None: nobody waits for it


class RedisCounters:
    """See `Counters`. Call `reach` before use, and let `run` go on for as long as it lasts."""

    def __init__(self, client: Redis, up: Gauge, clock: Callable[[], float]) -> None:
        self._client = client
        self._gauge = up
        self._local = MemoryCounters(clock)
        self._up: bool | None = None  # None: not tried yet
        self._waiting: deque[_Question] = deque()
        self._work = asyncio.Event()
        self._closing = False

    @property
    def local(self) -> MemoryCounters | None:
        """See `Counters`."""
        return None if self._up else self._local

    async def add(self, key: str, seconds: int, *, uses: int = 0, tokens: int = 0) -> WindowCount:
        """See `Counters`."""
        if not self._up:
            return self._local.count(key, seconds, uses, tokens)
        answer: asyncio.Future[WindowCount] = asyncio.get_running_loop().create_future()
        self._ask(self._addition(key, seconds, uses, tokens, answer))
        return await answer

    def charge(self, key: str, seconds: int, *, tokens: int) -> None:
        """See `Counters`. `run` sends it, also after `close`."""
        if self._up:
            self._ask(self._addition(key, seconds, 0, tokens))
        else:
            self._local.charge(key, seconds, tokens=tokens)

    async def admit(self, key: str, seconds: int, *, most: int, name: str, again: int) -> float | None:
        """See `Counters`."""
        if not self._up:
            return self._local.admit_now(key, seconds, most, name, again)
        answer: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        question = _Question(
            (key, f"{key}:{name}"),
            (seconds * 1000, 0, again * 1000, most),
            lambda refused, _, left: left / 1000 if refused else None,
            lambda: self._local.admit_now(key, seconds, most, name, again),
            answer,
        )
        self._ask(question)
        return await answer

    async def reach(self) -> None:
        """Find out whether Redis can be used, by using it."""
        try:
            await self._send([self._addition("probe", 1, 0, 0)])
        except Exception as error:  # noqa: BLE001 - see `_lost`
            self._lost(error)
            return
        if not self._up:
            log.info("limits storage is up")
        self._up = True
        self._gauge.set(1)
        self._local.clear()

    async def run(self) -> None:
        """Carry questions to Redis, and look for it while it is away, until `close` was called."""
        try:
            while self._waiting or not self._closing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if self._up else RETRY):
                        await self._work.wait()
                self._work.clear()
                if not self._up and not self._closing:
                    await self.reach()
                while self._waiting:
                    await self._answer()
        finally:
            self._up = False  # whatever ended it, nobody must wait for it from now on

    def close(self) -> None:
        """Have `run` send what waits, and end."""
        self._closing = True
        self._work.set()

    def _addition(
        self,
        key: str,
        seconds: int,
        uses: int,
        tokens: int,
        answer: "asyncio.Future[WindowCount] | None" = None,
    ) -> _Question:
        return _Question(
            (key, key),
            (seconds * 1000, uses, tokens, -1),
            lambda uses, tokens, left: WindowCount(uses, tokens, left / 1000),
            lambda: self._local.count(key, seconds, uses, tokens),
            answer,
        )

    def _ask(self, question: _Question) -> None:
        self._waiting.append(question)
        self._work.set()

    async def _answer(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            answers = await self._send(batch) if self._up else _alone(batch)
        except Exception as error:  # noqa: BLE001 - see `_lost`
            self._lost(error)
            answers = _alone(batch)
        for question, answer in zip(batch, answers, strict=True):
            if question.answer is not None and not question.answer.done():  # the caller may have left
                question.answer.set_result(answer)

    async def _send(self, batch: Sequence[_Question]) -> Sequence[Any]:
        keys = [PREFIX + key for question in batch for key in question.keys]
        numbers = [number for question in batch for number in question.numbers]
        async with asyncio.timeout(PATIENCE):
            found: list[int] = await self._client.eval(_SCRIPT, len(keys), *keys, *numbers)
        return [question.read(*found[3 * i : 3 * i + 3]) for i, question in enumerate(batch)]

    def _lost(self, error: Exception) -> None:
        """Go on alone. Requests wait here, so whatever the client raises is taken for an outage.

        Only the error's type is logged where it is an ordinary one: its text may quote what was sent.
        """
        if self._up is not False:
            strange = None if isinstance(error, RedisError | OSError | TimeoutError) else error
            log.warning(
                "limits storage is away; each proxy limits for itself",
                error=type(error).__name__,
                exc_info=strange,
            )
        self._up = False
        self._gauge.set(0)


def _alone(batch: Sequence[_Question]) -> Sequence[Any]:
    return [question.local() for question in batch]


def client(url: Secret) -> Redis:
    """One that fails at once where Redis is away."""
    # RESP2, so that a Redis of any age and a restricted user will do.
    return Redis.from_url(url.reveal(), protocol=2, retry=Retry(NoBackoff(), 0))


@asynccontextmanager
async def connected(url: Secret, up: Gauge, clock: Callable[[], float]) -> AsyncIterator[RedisCounters]:
    """Counters in the Redis at `url`; leaving sends what is still to be charged."""
    async with client(url) as redis:
        counters = RedisCounters(redis, up, clock)  # whose `run` is what tries again
        await counters.reach()
        task = asyncio.create_task(counters.run(), name="limits")
        try:
            yield counters
        finally:
            counters.close()
            await task
