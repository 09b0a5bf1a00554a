"""Proxies that share their lock-outs through a real Redis, which dies, hangs, or comes back empty."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hubgate.proxy.auth.block import Block
from hubgate.proxy.blocks.redis_blocks import KEY, RedisBlocks, connected
from hubgate.proxy.blocks.shared import AwayError, Version
from hubgate.proxy.limits import redis_counters
from hubgate.wire.secret import Secret
from tests.cases import each
from tests.fakes.answers import Stream
from tests.fakes.clock import START
from tests.fakes.redis import Redis
from tests.fakes.running_proxy import ALICE, BOB, Edge, eventually
from tests.proxy.blocks.conftest import block, command, guarded
from tests.proxy.blocks.test_running import chat, sent

SHARED, ALONE = (
    "the list of lock-outs is shared again",
    "the list of lock-outs is not shared; what is known stays in force",
)


@pytest.fixture
def redis_password() -> str:
    return "canary-of-redis-0123456789"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outage but those that a test makes."""
    monkeypatch.setattr(redis_counters, "PATIENCE", 10.0)


@asynccontextmanager
async def two(folder: Path, redis: Redis) -> AsyncIterator[tuple[Edge, Edge]]:
    """Two proxies with this Redis."""
    password = folder / "redis.url"
    password.write_text(redis.url)
    settings = guarded(folder, limits={"storage_file": str(password)})
    async with Edge.start(folder, settings) as first, first.twin() as second:
        yield first, second


async def status(edge: Edge, *, becomes: int, token: str = BOB) -> None:
    """Wait until a caller gets this from a proxy."""

    async def so() -> bool:
        return (await edge.chat(token=token)).status == becomes

    await eventually(so)


async def test_both_lock_out_and_let_in(tmp_path: Path, redis: Redis) -> None:
    """A command to one proxy counts on the other, whose trail tells of it; its streams end too."""
    async with two(tmp_path, redis) as (first, second):
        stream = Stream(count=9)
        first.engine.then(stream)
        async with sent(second, chat(BOB, stream=True)) as caller:
            stream.step()
            await caller.until(b"\n\n")
            assert (await block(first, "bob", reason="why"))["shared"]
            assert b"caller_not_allowed" in await caller.rest()
        assert (await second.chat(token=BOB)).code == "caller_not_allowed"
        assert (await second.chat(token=ALICE)).status == 200
        (record,) = await second.records(1, "block.added")
        assert (record["who"], record["by"], record["reason"]) == ("bob", "admin@127.0.0.1", "why")
        assert (await command(second, "DELETE", "/blocks/bob"))[0] == 200
        await status(first, becomes=200)


async def test_a_proxy_that_starts_later(tmp_path: Path, redis: Redis) -> None:
    """It knows before its first request, without a file of its own."""
    async with two(tmp_path, redis) as (first, _):
        await block(first, "bob")
        third = tmp_path / "third.jsonl"
        async with first.twin(audit={"path": str(third)}) as late:
            assert (await late.chat(token=BOB)).code == "caller_not_allowed"


async def test_a_killed_redis_lets_nobody_in(tmp_path: Path, redis: Redis) -> None:
    """Nor does an empty one that comes back; what was said meanwhile is shared then."""
    async with two(tmp_path, redis) as (first, second):
        await block(first, "bob")
        await status(second, becomes=403)
        with capture_logs() as logged:
            await redis.die()
            code, answer = await command(first, "POST", "/blocks", {"who": "alice"})
            assert code == 503
            assert "in force on this proxy alone" in answer["fault"]
            code, answer = await command(first, "DELETE", "/blocks/bob")
            assert (code, "still locked out" in answer["fault"]) == (503, True)
            for edge in (first, second):
                assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
            assert (await first.chat(token=ALICE)).code == "caller_not_allowed"
            assert "cannot be used" in (await command(first, "GET", "/blocks"))[1]["fault"]
            await redis.back()
            await status(second, token=ALICE, becomes=403)
            for edge in (first, second):
                assert (await edge.chat(token=BOB)).code == "caller_not_allowed"
            assert (await command(second, "DELETE", "/blocks/bob"))[0] == 200
            await status(first, becomes=200)
        said = [entry["event"] for entry in logged if entry["event"] in (SHARED, ALONE)]
        assert sorted(said) in ([ALONE, SHARED], [ALONE, ALONE, SHARED, SHARED])
        assert "canary" not in repr(logged)


async def test_a_redis_that_hangs(tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is waited for no longer than one that counts limits, and holds up no request."""
    async with two(tmp_path, redis) as (first, second):
        await block(first, "bob")
        await status(second, becomes=403)
        monkeypatch.setattr(redis_counters, "PATIENCE", 0.05)
        redis.freeze()
        try:
            code, answer = await command(first, "POST", "/blocks", {"who": "alice"})
            assert (code, "TimeoutError" in answer["fault"]) == (503, True)
            assert (await first.chat(token=ALICE)).code == "caller_not_allowed"
            assert (await second.chat(token=BOB)).code == "caller_not_allowed"
        finally:
            redis.thaw()
        monkeypatch.setattr(redis_counters, "PATIENCE", 10.0)
        await status(second, token=ALICE, becomes=403)


async def test_a_restart_without_redis(tmp_path: Path, redis: Redis) -> None:
    """Goes by the file."""
    async with two(tmp_path, redis) as (first, second):
        await block(first, "bob")
        await status(second, becomes=403)
        await redis.die()
        await second.stop()
        async with first.twin() as again:
            assert (await again.chat(token=BOB)).code == "caller_not_allowed"


@each("takes_commands", [True, False])
async def test_a_first_start_without_redis(tmp_path: Path, redis: Redis, takes_commands: bool) -> None:
    """Nobody can say who is locked out, so that it serves nobody until Redis was read once."""
    await redis.die()
    folder = tmp_path / str(takes_commands)
    folder.mkdir()
    password = folder / "redis.url"
    password.write_text(redis.url)
    limits = {"storage_file": str(password)}
    settings = guarded(folder, limits=limits) if takes_commands else {"limits": limits}
    async with Edge.start(folder, settings, ready=False) as edge:
        assert await edge.admin("/readyz") == (503, "who is locked out is not known yet: Redis is away\n")
        for answer in (await edge.chat(token=BOB), await edge.ask("GET", "/v1/models", BOB)):
            assert (answer.status, answer.code) == (503, "hub_unavailable")
            assert b"Retry-After: 5\r\n" in answer.raw
        await redis.back()
        await edge.until_ready()
        assert (await edge.chat(token=BOB)).status == 200


async def test_many_at_once_on_two_proxies(tmp_path: Path, redis: Redis) -> None:
    """No lock-out takes another one's place, and both end with the same list."""
    async with two(tmp_path, redis) as (first, second):
        names = [f"user-{number}" for number in range(40)]
        await asyncio.gather(*[block((first, second)[n % 2], name) for n, name in enumerate(names)])
        lifts = [command((second, first)[n % 2], "DELETE", f"/blocks/{names[n]}") for n in range(0, 40, 2)]
        assert {code for code, _ in await asyncio.gather(*lifts)} == {200}
        for edge in (first, second):

            async def left(edge: Edge = edge) -> bool:
                found = (await command(edge, "GET", "/blocks"))[1]["blocks"]
                return sorted(one["who"] for one in found) == sorted(names[1::2])

            await eventually(left)


@asynccontextmanager
async def listed(redis: Redis) -> AsyncIterator[tuple[RedisBlocks, Any]]:
    """The list alone, and a client of the test's own."""
    async with connected(Secret(redis.url)) as blocks, redis.client() as client:
        yield blocks, client


async def test_versions(redis: Redis) -> None:
    """None while there is no list; each change makes a later one, beyond what was asked for."""
    bob = Block("bob", START, None, "admin@127.0.0.1", "why")
    async with listed(redis) as (blocks, _):
        assert await blocks.version() is None
        assert (await blocks.read()).blocks == {}
        first = await blocks.put([bob], after=0)
        assert first.blocks == {"bob": bob}
        assert first.version is not None
        assert await blocks.version() == first.version == (await blocks.read()).version
        later = await blocks.put([], after=41)
        assert later.version == Version(first.version.generation, 42)
        last = await blocks.drop("bob")
        assert (last.version, dict(last.blocks)) == (Version(first.version.generation, 43), {})


async def test_what_has_changed_is_not_forgotten(redis: Redis) -> None:
    """Only those that still are as they were read."""
    bob = Block("bob", START, START + 1, "admin@127.0.0.1", "")
    longer = Block("bob", START, None, "admin@127.0.0.1", "")
    async with listed(redis) as (blocks, _):
        await blocks.put([longer], after=0)
        await blocks.forget([bob])
        assert (await blocks.read()).blocks == {"bob": longer}
        await blocks.forget([longer])
        await blocks.forget([])
        assert (await blocks.read()).blocks == {}


async def test_rubbish_in_redis_lets_nobody_in(redis: Redis) -> None:
    """An entry whose details cannot be read counts for its name; a key of another kind is an outage."""
    async with listed(redis) as (blocks, client):
        await blocks.put([], after=0)
        carols = b'{"who":"carol","since":1.0,"until":2.0,"by":"","reason":""}'
        await client.hset(KEY, mapping={"bob": "{", "eve": carols, "dan": "[]"})
        for field in ("since", "until"):
            for time in ("1e300", "-1", "1e11" + "0" * 40, "253402300800", "9" * 5000, "[" * 5000):
                times = {"since": "1", "until": "null", field: time}
                text = f'{{"who":"ed","since":{times["since"]},"until":{times["until"]},"by":"","reason":""}}'
                await client.hset(KEY, "ed", text)
                assert (await blocks.read()).blocks["ed"].by == "unknown"
        await client.hset(KEY, "ed", '{"x":' + "[" * 5000 + "]" * 5000 + "}")
        found = (await blocks.read()).blocks
        assert {who: one.until for who, one in found.items()} == dict.fromkeys(("bob", "eve", "dan", "ed"))
        await client.hset(KEY, "::number", "many")
        assert await blocks.version() is None
        for number in ("9" * 16, "9" * 5000, "1e300", "-1", "nan"):
            await client.hset(KEY, "::number", number)
            assert await blocks.version() is None
            mended = (await blocks.put([], after=7)).version
            assert mended is not None
            assert mended.number == 8
        await client.set(KEY, "text")
        with pytest.raises(AwayError, match="ResponseError"):
            await blocks.read()
