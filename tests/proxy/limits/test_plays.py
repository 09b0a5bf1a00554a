"""Sliding windows beside an exact log of what was let in, in plays that chance makes."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from hubgate.proxy.limits import redis_counters
from hubgate.proxy.limits.memory_counters import UNBOUNDED, Claim, Count, Counters, MemoryCounters
from hubgate.proxy.limits.redis_counters import RedisCounters, connected
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.redis import Redis

MINUTE = 60
LONGER = 65  # thirteen twelfths of it, see `memory_counters`
PLAYS, PLAYS_IN_REDIS = 1_000, 40


class Log:
    """Everything, exactly."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uses: list[tuple[float, int]] = []

    def add(self, count: int) -> None:
        self._uses.append((self._clock(), count))

    def within(self, seconds: float) -> int:
        """How much was used since so many seconds ago, that moment left out."""
        return sum(count for time, count in self._uses if time > self._clock() - seconds)


class Play:
    """Three callers of one organization, each with numbers of their own; times are eighths of a second."""

    def __init__(self, seed: int, counters: Counters, clock: Clock) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a play, to be played again
        self._counters = counters
        self._clock = clock
        self._uses = {key: Log(clock) for key in ("org", "a", "b", "c")}
        self._tokens = {key: Log(clock) for key in self._uses}
        self._most = {
            key: Claim(f"{seed}-{key}", self._chance.randint(1, 40), self._chance.choice((UNBOUNDED, 300)))
            for key in self._uses
        }
        self._pause = self._chance.choice((0, 1, 4, 20))  # the usual one, in eighths
        self.let_in = self.refused = 0

    async def step(self) -> None:
        (pause,) = self._chance.choices((0, self._pause, self._chance.randint(0, 8 * 70)), (6, 3, 1))
        self._clock.advance(pause / 8)
        keys = ["org", self._chance.choice("abc")]
        if self._chance.random() < 0.2:
            tokens = self._chance.randint(1, 200)
            self._counters.charge([self._most[key].key for key in keys], MINUTE, tokens=tokens)
            for key in keys:
                self._tokens[key].add(tokens)
            await self._counters.take([Claim("next", UNBOUNDED, UNBOUNDED)], MINUTE)  # the charge was sent
            return
        counts = await self._take(keys)
        if not counts[0].let_in and self._chance.random() < 0.3:
            self._clock.advance(max(self._waits(keys, counts)))
            assert (await self._take(keys))[0].let_in, "who comes back when they were told to is let in"

    async def _take(self, keys: Sequence[str]) -> Sequence[Count]:
        counts = await self._counters.take([self._most[key] for key in keys], MINUTE)
        if counts[0].let_in:
            self.let_in += 1
            for key in keys:
                assert self._uses[key].within(MINUTE) < self._most[key].most or self._most[key].most < 0
                assert not self._spent(key, MINUTE)
                self._uses[key].add(1)
        else:
            self.refused += 1
            assert any(
                self._uses[key].within(LONGER) >= self._most[key].most or self._spent(key, LONGER)
                for key in keys
            ), "nobody is refused who is below the limit"
        for key, count in zip(keys, counts, strict=True):
            assert self._uses[key].within(MINUTE) <= count.uses <= self._uses[key].within(LONGER)
            assert self._tokens[key].within(MINUTE) <= count.tokens <= self._tokens[key].within(LONGER)
        return counts

    def _spent(self, key: str, seconds: float) -> bool:
        most = self._most[key].most_tokens
        return 0 <= most <= self._tokens[key].within(seconds)

    def _waits(self, keys: Sequence[str], counts: Sequence[Count]) -> list[float]:
        waits = []
        for key, count in zip(keys, counts, strict=True):
            most = self._most[key]
            waits += [count.more_uses_in] if count.uses >= most.most else []
            waits += [count.more_tokens_in] if 0 <= most.most_tokens <= count.tokens else []
        assert all(0 < wait <= MINUTE for wait in waits)
        return waits


async def test_no_minute_has_more_than_the_limit() -> None:
    """Nor is anybody refused who is below it within 65 seconds, or comes back when they were told to."""
    let_in = refused = 0
    for seed in range(PLAYS):
        clock = Clock()
        play = Play(seed, MemoryCounters(clock), clock)
        for _ in range(80):
            await play.step()
        let_in, refused = let_in + play.let_in, refused + play.refused
    assert min(let_in, refused) > 10 * PLAYS


class Set:
    """Redis with a clock that a test sets."""

    def __init__(self, counters: RedisCounters, clock: Clock) -> None:
        self.counters = counters
        self.clock = clock

    def play(self, seed: int) -> Play:
        return Play(seed, self.counters, self.clock)


@pytest.fixture
async def in_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Set]:
    """Counters in a Redis that is told the time with each question."""
    clock, script = Clock(), redis_counters._SCRIPT
    assert script.count("redis.call('TIME')") == 1

    class Told(str):
        """The script, as it is at the time at which it is sent."""

        __slots__ = ()

        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            seconds = f"{{'{int(clock() * 8) // 8}', '{int(clock() * 8) % 8 * 125_000}'}}"
            return script.replace("redis.call('TIME')", seconds).encode(encoding, errors)

    monkeypatch.setattr(redis_counters, "_SCRIPT", Told())
    monkeypatch.setattr(redis_counters, "PATIENCE", 10.0)
    (folder := tmp_path / "redis").mkdir()
    gauge = Gauge("up", "up", registry=CollectorRegistry())
    async with Redis.start(folder) as redis, connected(Secret(redis.url), gauge, clock) as counters:
        assert counters.local is None
        yield Set(counters, clock)


async def test_redis_counts_as_this_process_does(in_redis: Set) -> None:
    """The same plays, by the same rules."""
    let_in = refused = 0
    for seed in range(PLAYS_IN_REDIS):
        play = in_redis.play(seed)
        for _ in range(80):
            await play.step()
        let_in, refused = let_in + play.let_in, refused + play.refused
    assert min(let_in, refused) > 10 * PLAYS_IN_REDIS


async def use(in_redis: Set, most: int) -> Count:
    (count,) = await in_redis.counters.take([Claim("a", most, UNBOUNDED)], MINUTE)
    return count


async def test_a_clock_that_is_set_forward_forgets(in_redis: Set) -> None:
    """An hour's step lets everybody in again, once."""
    assert (await use(in_redis, 1)).let_in
    assert not (await use(in_redis, 1)).let_in
    in_redis.clock.advance(3600)
    assert [(await use(in_redis, 1)).let_in for _ in range(2)] == [True, False]


@pytest.mark.parametrize("seconds", [0.125, 4, 60])
async def test_a_clock_that_is_set_back_a_little_holds(in_redis: Set, seconds: float) -> None:
    """What was used counts until that time has come again and a minute has passed, and is not forgotten."""
    assert (await use(in_redis, 2)).let_in
    in_redis.clock.advance(-seconds)
    assert (await use(in_redis, 2)).uses == 2
    denied = await use(in_redis, 2)
    assert (denied.let_in, denied.more_uses_in) == (False, MINUTE + seconds)
    in_redis.clock.advance(MINUTE + seconds)
    assert (await use(in_redis, 2)).let_in


async def test_a_clock_that_is_set_back_far_locks_nobody_out(in_redis: Set) -> None:
    """What lies further ahead than a minute is dropped, and not waited for."""
    assert not [await use(in_redis, 1) for _ in range(2)][-1].let_in
    in_redis.clock.advance(-3600)
    assert [(await use(in_redis, 1)).let_in for _ in range(2)] == [True, False]
    in_redis.clock.advance(MINUTE)
    assert (await use(in_redis, 1)).let_in
