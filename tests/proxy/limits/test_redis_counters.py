"""Several proxies share their limits through a real Redis, and go on when it dies."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs

from hubgate.proxy.limits import redis_counters
from hubgate.proxy.limits.memory_counters import UNBOUNDED, Claim, Count
from hubgate.proxy.limits.redis_counters import RedisCounters, connected
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime.config import ConfigError, load
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.redis import Redis
from tests.fakes.running_proxy import BASE, PRIVATE, PUBLIC, Edge, eventually
from tests.proxy.conftest import StartEdge

PASSWORD = "canary-of-redis-0123456789"
UP, AWAY = "limits storage is up", "limits storage is away; each proxy limits for itself"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outage but those that a test makes; and those end soon after."""
    monkeypatch.setattr(redis_counters, "PATIENCE", 10.0)
    monkeypatch.setattr(redis_counters, "RETRY", 0.02)


@pytest.fixture
async def start_counters() -> AsyncIterator[Callable[..., Any]]:
    """Makes counters on a Redis, each with a gauge of its own."""
    async with AsyncExitStack() as stack:

        async def start(url: str, gauge: Gauge | None = None) -> RedisCounters:
            gauge = gauge or Gauge("up", "up", registry=CollectorRegistry())
            return await stack.enter_async_context(connected(Secret(url), gauge, Clock()))

        yield start


def shared(redis: Redis, **limits: Any) -> dict[str, Any]:
    """Settings with this Redis."""
    return {"limits": {"storage": redis.url, **limits}}


def events(logged: list[Any]) -> list[str]:
    """What was said of the storage, in order."""
    return [entry["event"] for entry in logged if entry["event"] in (UP, AWAY)]


async def take(counters: RedisCounters, key: str = "a", most: int = UNBOUNDED) -> Count:
    """One use within a minute."""
    (count,) = await counters.take([Claim(key, most, UNBOUNDED)], 60)
    return count


async def left(edge: Edge, what: str) -> int:
    """What the headers of one more request say."""
    answer = await edge.ask("GET", "/v1/models")
    return int(answer.header(f"x-ratelimit-remaining-{what}") or "-1")


async def test_two_proxies_share_requests(redis: Redis, start_edge: StartEdge) -> None:
    """Requests at one proxy use up what the other one has left, for the same caller."""
    edge = await start_edge(shared(redis, requests_per_minute=4))
    async with edge.twin() as twin:
        assert await edge.metric("hubgate_limits_storage_up") == 1
        statuses = [(await proxy.chat()).status for proxy in (edge, twin, edge, twin, edge, twin)]
        assert statuses == [200] * 4 + [429] * 2
        refused = await twin.chat()
        assert 1 <= int(refused.header("Retry-After") or "0") <= 60
        assert (await edge.chat(token="hf_demo_bob")).status == 200


async def test_two_proxies_share_tokens(redis: Redis, start_edge: StartEdge) -> None:
    """What an answer through one proxy used is charged at the other one too."""
    edge = await start_edge(shared(redis, tokens_per_minute=10))
    async with edge.twin() as twin:
        for used in (5, 10):
            assert (await edge.chat()).status == 200

            async def charged(rest: int = 10 - used) -> bool:
                return await left(twin, "tokens") == rest

            await eventually(charged)
        refused = await twin.chat()
        assert (refused.status, refused.header("x-ratelimit-remaining-tokens")) == (429, "0")
        assert len(edge.engine.requests) == 2


async def test_two_proxies_share_cold_loads(redis: Redis, start_edge: StartEdge) -> None:
    """A model that was asked for at one proxy is the same load at the other, and the last one allowed."""
    edge = await start_edge(shared(redis, cold_loads_per_hour=1))
    async with edge.twin() as twin:
        assert (await edge.chat(PUBLIC)).status == 200
        assert [(await proxy.chat(PRIVATE)).status for proxy in (twin, edge, twin)] == [429] * 3
        assert (await twin.chat(PUBLIC)).status == 200
        assert (await twin.chat(BASE)).status == 200


async def test_loads_that_come_at_once_cannot_pass_together(
    redis: Redis, start_counters: Callable[..., Any]
) -> None:
    """The look at the rest and the taking are one step, whoever asks."""
    one, two = await start_counters(redis.url), await start_counters(redis.url)
    asked = [
        counters.admit([Claim("loads:a", 2, UNBOUNDED)], 3600, name=f"m{number % 5}", again=60)
        for number in range(20)
        for counters in (one, two)
    ]
    answers = await asyncio.gather(*asked)
    refused = {(number // 2) % 5 for number, counts in enumerate(answers) if counts and not counts[0].let_in}
    assert len(refused) == 3
    assert sum(bool(counts) and counts[0].let_in for counts in answers) == 2
    assert all(3500 < counts[0].more_uses_in <= 3600 for counts in answers if counts)


async def test_a_thousand_at_once_need_one_connection(
    redis: Redis, start_counters: Callable[..., Any]
) -> None:
    """Each gets a count of its own, and Redis sees one client and not a thousand."""
    counters = await start_counters(redis.url)
    found = await asyncio.gather(*(take(counters) for _ in range(1200)))
    assert sorted(count.uses for count in found) == list(range(1, 1201))
    async with redis.client() as asking:
        assert (await asking.info("stats"))["total_connections_received"] <= 4  # two of them the test's own


async def test_a_proxy_from_before_counts_apart(redis: Redis, start_counters: Callable[..., Any]) -> None:
    """Its windows, which did not slide, have other keys: neither reads or changes the other's."""
    counters = await start_counters(redis.url)
    async with redis.client() as asking:
        await asking.hset("hubgate:a", mapping={"uses": 600, "tokens": 5})
        await asking.set("hubgate:loads:a:m", 1)
        assert (await take(counters, most=1)).let_in
        claims = [Claim("loads:a", 1, UNBOUNDED)]
        assert [one.let_in for one in await counters.admit(claims, 3600, name="m", again=60)] == [True]
        assert await asking.hgetall("hubgate:a") in (
            {"uses": "600", "tokens": "5"},
            {b"uses": b"600", b"tokens": b"5"},
        )


@pytest.mark.parametrize("value", ["x", "1", "-5 9", "1 2 3", "9" * 400 + " " + "9" * 400, "7 {now}"])
async def test_what_is_no_count_is_dropped(
    redis: Redis, start_counters: Callable[..., Any], value: str
) -> None:
    """Whatever somebody wrote there, callers are counted, and nobody is locked out by it."""
    counters = await start_counters(redis.url)
    async with redis.client() as asking:
        now, _ = await asking.time()
        for field in ("u", "ux", "x5", ""):
            await asking.hset("hubgate:sliding:a", field, value.format(now=now * 1000))
    assert [(await take(counters, most=2)).let_in for _ in range(3)] == [True, True, False]
    assert counters.local is None


async def test_another_kind_of_value_is_an_outage(redis: Redis, start_counters: Callable[..., Any]) -> None:
    """Callers are counted here, and nothing ends."""
    counters = await start_counters(redis.url)
    async with redis.client() as asking:
        await asking.set("hubgate:sliding:a", "text")
    assert [(await take(counters, most=1)).let_in for _ in range(2)] == [True, False]


async def test_nothing_stays_in_redis(redis: Redis, start_edge: StartEdge) -> None:
    """Every key ends by itself, and none holds a token or a user's name."""
    edge = await start_edge(shared(redis))
    assert (await edge.chat(PUBLIC)).status == 200
    async with redis.client() as asking:
        keys = [key async for key in asking.scan_iter()]
        lives = [await asking.pttl(key) for key in keys]
    assert len(keys) >= 3
    assert all(key.startswith("hubgate:") and "hf_" not in key and "alice:" not in key for key in keys)
    assert all(0 < life <= 3_600_000 for life in lives)


async def test_a_killed_redis_costs_no_request(redis: Redis, start_edge: StartEdge) -> None:
    """Each proxy limits for itself, says so once, and shares again when Redis is back."""
    edge = await start_edge(shared(redis, requests_per_minute=30))
    with capture_logs() as logged:
        async with edge.twin() as twin:
            assert (await twin.chat()).status == 200
            burst = [asyncio.create_task(proxy.chat()) for proxy in (edge, twin) for _ in range(8)]
            await redis.die()
            assert [(await task).status for task in burst] == [200] * 16
            while (await edge.chat()).status == 200:
                pass
            assert [(await edge.chat()).status, (await twin.chat()).status] == [429, 200]
            assert await edge.metric("hubgate_limits_storage_up") == 0
            assert (await edge.admin("/readyz"))[0] == 200
            assert events(logged).count(AWAY) == 2  # one of each proxy

            await redis.back()

            async def healed() -> bool:
                return all([await proxy.metric("hubgate_limits_storage_up") for proxy in (edge, twin)])

            await eventually(healed)
            before = await left(edge, "requests")
            assert [await left(twin, "requests"), await left(edge, "requests")] == [before - 1, before - 2]
            assert events(logged) == [UP, AWAY, AWAY, UP, UP]  # the twin's start was seen too


async def test_a_redis_that_hangs_is_waited_for_once(
    redis: Redis, start_counters: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one round trip wait for its patience; whoever comes later does not even ask."""
    counters = await start_counters(redis.url)
    monkeypatch.setattr(redis_counters, "RETRY", 3600.0)
    monkeypatch.setattr(redis_counters, "PATIENCE", 0.2)
    trips = _trips(counters, monkeypatch)
    redis.freeze()
    with capture_logs() as logged:
        found = await asyncio.gather(*(take(counters) for _ in range(20)))
        assert sorted(count.uses for count in found) == list(range(1, 21))
        for number in range(21, 1000):
            assert (await take(counters)).uses == number
            counters.charge(["a"], 60, tokens=1)
    assert (await take(counters)).tokens == 979
    assert len(trips) == 1
    assert [entry["error"] for entry in logged] == ["TimeoutError"]
    redis.thaw()


def _trips(counters: RedisCounters, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are sent from now on."""
    sizes: list[int] = []
    send = counters._send

    async def counted(batch: Any) -> Any:
        sizes.append(len(batch))
        return await send(batch)

    monkeypatch.setattr(counters, "_send", counted)
    return sizes


async def test_charges_are_sent_before_the_end(redis: Redis, start_counters: Callable[..., Any]) -> None:
    """A proxy that is stopped charges what its last answers used."""
    gauge = Gauge("up", "up", registry=CollectorRegistry())
    async with connected(Secret(redis.url), gauge, Clock()) as ending:
        for _ in range(1200):
            ending.charge(["a"], 60, tokens=2)
    assert (await take(await start_counters(redis.url))).tokens == 2400


async def test_a_caller_who_leaves_is_counted(redis: Redis, start_counters: Callable[..., Any]) -> None:
    """Hanging up while Redis is asked harms nobody else's answer."""
    counters = await start_counters(redis.url)
    asking = [asyncio.create_task(take(counters)) for _ in range(10)]
    await asyncio.sleep(0)
    asking[3].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in found) == 1
    assert (await take(counters)).uses == 11


async def test_it_starts_without_redis(redis: Redis, start_edge: StartEdge, tmp_path: Path) -> None:
    """A proxy that starts again during an outage serves, limits for itself, and finds Redis later."""
    (tmp_path / "audit.jsonl.blocks").write_text("{}")  # of an earlier run: nobody is locked out
    await redis.die()
    edge = await start_edge(shared(redis, requests_per_minute=2))
    assert [(await edge.chat()).status for _ in range(3)] == [200, 200, 429]
    assert await edge.metric("hubgate_limits_storage_up") == 0
    await redis.back()

    async def healed() -> bool:
        return await edge.metric("hubgate_limits_storage_up") == 1

    await eventually(healed)
    assert await left(edge, "requests") == 1


@pytest.mark.parametrize("by", ["environment", "file"])
async def test_a_password_works_and_shows_nowhere(
    tmp_path: Path, start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """From the environment or a file it opens Redis; settings, logs and objects show stars or nothing."""
    (tmp_path / "redis").mkdir()
    async with Redis.start(tmp_path / "redis", PASSWORD) as redis:
        limits: dict[str, Any] = {"requests_per_minute": 2}
        if by == "file":
            (tmp_path / "storage").write_text(f"{redis.url}\n")
            limits["storage_file"] = str(tmp_path / "storage")
        else:
            monkeypatch.setenv("HUBGATE_LIMITS__STORAGE", redis.url)
        with capture_logs() as logged:
            edge = await start_edge({"limits": limits})
            async with edge.twin() as twin:
                assert [(await proxy.chat()).status for proxy in (edge, twin, edge)] == [200, 200, 429]
            await redis.die()
            assert (await edge.chat()).status == 200
        counters = edge.proxy.reloader.limits._counters
        assert isinstance(counters, RedisCounters)
        shown = [edge.settings, edge.settings.limits.model_dump(), edge.checked, counters, counters._client]
        assert events(logged) == [UP, UP, AWAY]
        assert PASSWORD not in repr([*shown, logged])


@pytest.mark.parametrize("password", ["canary-of-redis-wrong", None])
async def test_a_wrong_password_is_an_outage(
    tmp_path: Path, start_counters: Callable[..., Any], password: str | None
) -> None:
    """The log names the kind of error, and neither password."""
    (tmp_path / "redis").mkdir()
    async with Redis.start(tmp_path / "redis", PASSWORD) as redis:
        with capture_logs() as logged:
            counters = await start_counters(redis.address(password))
            assert (await take(counters)).uses == 1
    assert events(logged) == [AWAY]
    assert logged[0]["error"] in ("AuthenticationError", "ResponseError")
    assert "canary" not in repr(logged)


@pytest.mark.parametrize("url", [f"redis://:{PASSWORD}@redis/0", f"rediss://me:{PASSWORD}@redis:6379"])
def test_a_password_in_the_configuration_is_refused(tmp_path: Path, url: str) -> None:
    """The fault says where it belongs, and does not repeat it."""
    path = tmp_path / "proxy.yaml"
    path.write_text(f'limits: {{storage: "{url}"}}\n')
    with pytest.raises(ConfigError) as caught:
        load(ProxySettings, path)
    (fault,) = [fault for fault in caught.value.faults if fault.startswith("limits")]
    assert "limits.storage_file" in fault
    assert "HUBGATE_LIMITS__STORAGE" in fault
    assert PASSWORD not in str(caught.value)


async def test_a_storage_file_must_hold_a_url(start_edge: StartEdge, tmp_path: Path) -> None:
    """A missing file and one with something else are faults at the start, told without what it holds."""
    for content, says in ((None, "No such file or directory"), (f"redis://{PASSWORD}@", "must be")):
        path = tmp_path / f"storage-{says[:4]}"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            await start_edge({"limits": {"storage_file": str(path)}})
        (fault,) = caught.value.faults
        assert fault.startswith("limits.storage_file: ")
        assert says in fault
        assert PASSWORD not in fault
