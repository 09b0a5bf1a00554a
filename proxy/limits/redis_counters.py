"""Counters in Redis, which several proxies share; in this process alone while Redis is away.

One task owns the connection. What was asked for while it waited for Redis goes out in the next round
trip together, so that a thousand requests need neither a thousand connections nor a thousand turns.
When Redis fails, whoever waits is counted here, and so is everybody else until a later attempt of that
task succeeds: an outage costs the requests of one round trip `PATIENCE` at most, and the others nothing.
Counts begin anew here and are not carried over when Redis is back: an outage is generous, never strict.

What was used is kept in slices as in `memory_counters`, by Redis' clock, which all proxies share. When that
is set forward, uses are forgotten before their time; when it is set back, what was used then counts until it
is reached again if that is at most as long as the window, and not any more otherwise.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hubgate.proxy.limits.memory_counters import SLICES, UNBOUNDED, Claim, Count, MemoryCounters
from hubgate.wire.secret import Secret

PATIENCE: Final = 0.25  # seconds for one round trip, connecting included
RETRY: Final = 1.0  # seconds between attempts to reach a Redis that is away
BATCH: Final = 100  # questions in one round trip: one to four milliseconds of Redis
PREFIX: Final = "hubgate:"
# Proxies of before had windows that did not slide, under keys of this prefix alone; both can use one Redis.
SLIDING: Final = PREFIX + "sliding:"

# One script for a whole batch: a command of its own for each question costs half as much CPU again.
# Sent whole each time (EVAL): it is short, and a Redis that was restarted knows no EVALSHA.
# Per question: how many windows, how many uses and tokens to count in each, and for how long a name that is
# let in stays so (0: there is none; else its key goes before the windows'). Per window: its length, how
# many uses and tokens it may have. Per question it gives 1 if it was counted, 0 if not, 2 for a name that
# was let in before, and per window four numbers, as in `Count`. A window is a hash: `u` or `t` and when a
# slice began tell what it has of uses or tokens, and when the last of them was. Times are in milliseconds.
_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, argument, keys = {}, 0, 0

local function number()
  argument = argument + 1
  return tonumber(ARGV[argument])
end

local function next_key()
  keys = keys + 1
  return KEYS[keys]
end

local function earlier(one, other)
  return one.first < other.first
end

local function read(key, life)
  local window = {u = {total = 0}, t = {total = 0}}
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local slices, first = window[string.sub(fields[i], 1, 1)], tonumber(string.sub(fields[i], 2))
    local count, last = string.match(fields[i + 1], '(%d+) (%d+)')
    count, last = tonumber(count), tonumber(last)
    if not (slices and first and last) or last + life <= now or last > now + life then
      redis.call('HDEL', key, fields[i])
    else
      slices[#slices + 1] = {first = first, last = last, count = count}
      slices.total = slices.total + count
    end
  end
  table.sort(window.u, earlier)
  table.sort(window.t, earlier)
  return window
end

local function has_room(slices, most)
  return most < 0 or slices.total < most
end

local function add(key, kind, window, life, count)
  local slices = window[kind]
  local slice = slices[#slices]
  if not slice or now - slice.first >= life / SLICES then
    slice = {first = now, last = now, count = 0}
    slices[#slices + 1] = slice
  end
  slice.count, slice.last = slice.count + count, math.max(slice.last, now)
  slices.total = slices.total + count
  redis.call('HSET', key, kind .. string.format('%.0f', slice.first),
    string.format('%.0f %.0f', slice.count, slice.last))
  redis.call('PEXPIRE', key, life)
end

local function wait(slices, most, life)
  local over = 1
  if most >= 0 then over = math.max(1, slices.total - most + 1) end
  for _, slice in ipairs(slices) do
    over = over - slice.count
    if over <= 0 then return slice.last + life - now end
  end
  return 0
end

while argument < #ARGV do
  local many, uses, tokens, again = number(), number(), number(), number()
  local name = again > 0 and next_key()
  local windows, counted = {}, 1
  for i = 1, many do
    local one = {key = next_key(), life = number(), most = number(), most_tokens = number()}
    one.window = read(one.key, one.life)
    if uses > 0 and not (has_room(one.window.u, one.most) and has_room(one.window.t, one.most_tokens)) then
      counted = 0
    end
    windows[i] = one
  end
  if name and redis.call('EXISTS', name) == 1 then counted = 2 end
  if name and counted == 1 then redis.call('SET', name, 1, 'PX', again) end
  found[#found + 1] = counted
  for _, one in ipairs(windows) do
    if counted == 1 and uses > 0 then add(one.key, 'u', one.window, one.life, uses) end
    if counted == 1 and tokens > 0 then add(one.key, 't', one.window, one.life, tokens) end
    found[#found + 1] = one.window.u.total
    found[#found + 1] = one.window.t.total
    found[#found + 1] = wait(one.window.u, one.most, one.life)
    found[#found + 1] = wait(one.window.t, one.most_tokens, one.life)
  end
end
return found
""".replace("SLICES", str(SLICES))

log = structlog.get_logger("limits")


@dataclass(frozen=True, slots=True)
class _Question:
    """What the script is given, how to answer without Redis, and who waits."""

    keys: Sequence[str]
    numbers: Sequence[int]
    windows: int  # of which it tells
    local: Callable[[], Sequence[Count] | None]
    answer: "asyncio.Future[Sequence[Count]] | None" = None  # None: nobody waits for it


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

    async def take(self, claims: Sequence[Claim], seconds: int) -> Sequence[Count]:
        """See `Counters`."""
        if not self._up:
            return self._local.take_now(claims, seconds)
        answer: asyncio.Future[Sequence[Count]] = asyncio.get_running_loop().create_future()
        self._ask(
            _Question(
                [claim.key for claim in claims],
                _numbers(claims, seconds, uses=1),
                len(claims),
                lambda: self._local.take_now(claims, seconds),
                answer,
            )
        )
        return await answer

    def charge(self, keys: Sequence[str], seconds: int, *, tokens: int) -> None:
        """See `Counters`. `run` sends it, also after `close`."""
        if not self._up:
            self._local.charge(keys, seconds, tokens=tokens)
            return
        claims = [Claim(key, UNBOUNDED, UNBOUNDED) for key in keys]
        self._ask(
            _Question(
                keys,
                _numbers(claims, seconds, tokens=tokens),
                len(claims),
                lambda: self._local.charge(keys, seconds, tokens=tokens),
            )
        )

    async def admit(self, claims: Sequence[Claim], seconds: int, *, name: str, again: int) -> Sequence[Count]:
        """See `Counters`."""
        if not self._up:
            return self._local.admit_now(claims, seconds, name, again)
        answer: asyncio.Future[Sequence[Count]] = asyncio.get_running_loop().create_future()
        self._ask(
            _Question(
                [f"{claims[0].key}:{name}", *(claim.key for claim in claims)],
                _numbers(claims, seconds, uses=1, again=again),
                len(claims),
                lambda: self._local.admit_now(claims, seconds, name, again),
                answer,
            )
        )
        return await answer

    async def reach(self) -> None:
        """Find out whether Redis can be used, by using it."""
        try:
            await self._send([_PROBE])
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
                question.answer.set_result(answer or ())

    async def _send(self, batch: Sequence[_Question]) -> Sequence[Sequence[Count]]:
        keys = [SLIDING + key for question in batch for key in question.keys]
        numbers = [number for question in batch for number in question.numbers]
        async with asyncio.timeout(PATIENCE):
            found: list[int] = await self._client.eval(_SCRIPT, len(keys), *keys, *numbers)
        told = iter(found)
        return [_read(told, question.windows) for question in batch]

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


def _alone(batch: Sequence[_Question]) -> Sequence[Sequence[Count] | None]:
    return [question.local() for question in batch]


def _numbers(
    claims: Sequence[Claim], seconds: int, *, uses: int = 0, tokens: int = 0, again: int = 0
) -> list[int]:
    numbers = [len(claims), uses, tokens, again * 1000]
    for claim in claims:
        numbers += [seconds * 1000, claim.most, claim.most_tokens]
    return numbers


def _read(told: Iterator[int], windows: int) -> Sequence[Count]:
    counted = next(told)
    counts = [
        Count(counted != 0, next(told), next(told), next(told) / 1000, next(told) / 1000)
        for _ in range(windows)
    ]
    return [] if counted == _BEFORE else counts


_BEFORE: Final = 2  # what is told of a name that was let in before
_PROBE: Final = _Question(
    ["probe"], _numbers([Claim("probe", UNBOUNDED, UNBOUNDED)], 1, uses=1), 1, lambda: None
)


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
