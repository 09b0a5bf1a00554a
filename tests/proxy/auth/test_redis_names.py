"""Several proxies share their names through a real Redis, and go on when it dies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from hubgate.proxy.auth import redis_names
from hubgate.proxy.auth.accounts import Account, Accounts, Standing
from hubgate.proxy.auth.name_book import NameBook
from hubgate.proxy.auth.redis_names import RedisNames
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.settings import Callers, Limits
from hubgate.wire.secret import Secret
from tests.fakes.clock import Clock
from tests.fakes.redis import Redis

A, B = "a" * 24, "b" * 24
LISTED = {"users": ["alice", "bob"], "orgs": ["acme"], "block": {"users": ["mallory"]}}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outage but those that a test makes; and those end at once."""
    monkeypatch.setattr(redis_names, "PATIENCE", 10.0)
    monkeypatch.setattr(redis_names, "RETRY", 0.0)


@asynccontextmanager
async def proxy(redis: Redis, path: Path) -> AsyncIterator[Accounts]:
    """The accounts of one proxy, with a file of its own."""
    book = NameBook(path)
    async with redis_names.connected(Secret(redis.url)) as shared:
        callers = Callers.model_validate(LISTED)
        accounts = Accounts(book, shared, Metrics().name_conflicts, callers, Limits())
        await accounts.start()
        yield accounts
    await book.close()


async def meet(accounts: Accounts, name: str, account: str, org: str = "") -> Any:
    """What the caller holds of the names in the lists; the code of a refusal."""
    orgs = [Account("org", org, A)] if org else []
    standing = await accounts.meet([Account("user", name, account), *orgs])
    if not isinstance(standing, Standing):
        return standing.code
    return sorted(one for one in standing.holds if ":" in one)


async def test_what_one_proxy_saw_holds_at_the_other(redis: Redis, tmp_path: Path) -> None:
    """Of two that run already: whose the name is, and what a renamed account was called before."""
    async with proxy(redis, tmp_path / "1") as one, proxy(redis, tmp_path / "2") as two:
        assert await meet(one, "alice", A, "acme") == ["org:acme", "user:alice"]
        assert await meet(two, "alice", B) == []
        assert await meet(two, "alicia", A, "acme-two") == ["org:acme", "user:alice"]
        await meet(one, "mallory", B)
        standing = await two.meet([Account("user", "mall", B)])
        assert isinstance(standing, Standing)
        assert "user:mallory" in standing.known_as


async def test_where_they_are_kept(redis: Redis, tmp_path: Path) -> None:
    """Neighbouring releases share these keys."""
    async with proxy(redis, tmp_path / "1") as one, redis.client() as asking:
        await meet(one, "alice", A)
        await meet(one, "alice", A)
        assert await asking.hgetall("hubgate:names:owners") == {"user:alice": A}
        assert await asking.smembers(f"hubgate:names:user={A}") == {"alice"}


async def test_a_name_is_given_away_once(redis: Redis, tmp_path: Path) -> None:
    """Two accounts that show it to two proxies at once cannot both have it."""
    async with proxy(redis, tmp_path / "1") as one, proxy(redis, tmp_path / "2") as two:
        found = [await meet(one, "bob", A), await meet(two, "bob", B)]
        again = [await meet(two, "bob", A), await meet(one, "bob", B)]
        assert found == again == [["user:bob"], []]


async def test_an_outage_gives_no_name_away(redis: Redis, tmp_path: Path) -> None:
    """Whom a proxy knows goes on; a name that it has seen with nobody has to wait for Redis."""
    async with proxy(redis, tmp_path / "1") as one:
        await meet(one, "alice", A)
    async with proxy(redis, tmp_path / "2") as two:  # learns it at its start
        await redis.die()
        assert await meet(two, "alice", A) == ["user:alice"]
        assert await meet(two, "alice", B) == []
        assert await meet(two, "bob", B) == "hub_unavailable"
        await redis.back()
        assert await meet(two, "bob", B) == ["user:bob"]


async def test_a_redis_that_lost_its_names_is_told_again(redis: Redis, tmp_path: Path) -> None:
    """By each proxy that knows them, before anybody else can take one there."""
    async with proxy(redis, tmp_path / "1") as one, proxy(redis, tmp_path / "2") as two:
        await meet(one, "alice", A)
        await redis.die()
        await redis.back()
        assert await meet(one, "alicia", A) == ["user:alice"]
        assert await meet(two, "alice", B) == []


class Dead:
    """A client of a Redis that is away."""

    def __init__(self) -> None:
        self.asked = 0

    async def hgetall(self, _: str) -> None:
        self.asked += 1
        raise ConnectionRefusedError


async def test_a_redis_that_is_away_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller finds out, those of the next second do not even ask; the limits tell of the outage."""
    monkeypatch.setattr(redis_names, "RETRY", 1.0)
    client, clock = Dead(), Clock()
    shared = RedisNames(cast("Any", client), clock)
    with capture_logs() as logged:
        for _ in range(100):
            assert await shared.owners() is None
        assert client.asked == 1
        clock.advance(1)
        assert await shared.owners() is None
    assert client.asked == 2
    assert not logged


async def test_a_redis_that_hangs_is_not_waited_for(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is known is let in by what the proxy knows itself."""
    async with proxy(redis, tmp_path / "1") as one:
        await meet(one, "alice", A)
        monkeypatch.setattr(redis_names, "PATIENCE", 0.05)
        redis.freeze()
        assert await meet(one, "alice", A) == ["user:alice"]
        redis.thaw()


async def test_a_redis_that_refuses_is_told_of(redis: Redis, tmp_path: Path) -> None:
    """A user of Redis who may not do what is needed is a mistake of the operator's, and no outage."""
    async with redis.client() as asking:
        await asking.acl_setuser(
            "default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-eval"]
        )
        with pytest.raises(NoPermissionError):
            await asking.eval("return 1", 0)
    async with proxy(redis, tmp_path / "1") as one:
        with capture_logs() as logged:
            assert await meet(one, "alice", A) == "hub_unavailable"
        assert [entry["event"] for entry in logged] == ["names cannot be shared"]
