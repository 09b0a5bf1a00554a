"""What the members of an organization may use together, beside what each of them may."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.proxy.auth.identity import Identity
from hubgate.proxy.errors import Denied
from hubgate.proxy.limits.limiter import Limiter, Permit
from hubgate.proxy.limits.memory_counters import MemoryCounters
from hubgate.proxy.limits.organizations import Organizations
from hubgate.proxy.settings import Limits, ProxySettings
from hubgate.runtime.config import load
from tests.cases import each
from tests.fakes.clock import Clock
from tests.fakes.identity import identity
from tests.fakes.lines import by_name
from tests.fakes.redis import Redis
from tests.fakes.running_proxy import ALICE, BOB, PRIVATE, PUBLIC, Edge
from tests.proxy.conftest import StartEdge

ID = "5f0c1d2e3b4a59687786a5b4"


def member(name: str, *orgs: str) -> Identity:
    """Somebody of these organizations."""
    return identity(sub=name * 8, user=name, orgs=orgs)


ANN, BEN, EVE = member("ann", "acme"), member("ben", "acme", "labs"), member("eve")


def limits(clock: Clock | None = None, *, own: dict[str, int] | None = None, **organizations: Any) -> Limiter:
    """Limits in memory, of everybody and of organizations."""
    found = Limits.model_validate({**(own or {}), "organizations": organizations})
    return Limiter(found, (), MemoryCounters(clock or Clock()))


async def asked(subject: Limiter, who: Identity, tokens: int = 0) -> Permit | Denied:
    """One request, which ends at once."""
    permit = await subject.acquire(who)
    if isinstance(permit, Permit):
        subject.release(permit, tokens)
    return permit


async def test_members_use_up_the_requests_of_all() -> None:
    """The refusal says whose limit it is and when there is room; who is no member is not concerned."""
    clock = Clock()
    some = limits(clock, acme={"requests_per_minute": 3})
    for who in (ANN, BEN, ANN):
        clock.advance(10)
        assert isinstance(await asked(some, who), Permit)
    for who in (ANN, BEN):
        denied = await asked(some, who)
        assert isinstance(denied, Denied)
        assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 40)
        assert denied.message == "The members of acme together sent more than 3 requests within a minute."
    assert by_name(denied.lines)["x-ratelimit-remaining-requests"] == "599"  # ben's own
    assert isinstance(await asked(some, EVE), Permit)
    clock.advance(40)
    assert isinstance(await asked(some, BEN), Permit)


async def test_what_one_is_refused_costs_the_others_nothing() -> None:
    """Whoever is at their own limit uses up nothing of the organization's, however often they ask."""
    some = limits(own={"requests_per_minute": 2}, acme={"requests_per_minute": 3})
    for expected in (Permit, Permit, Denied, Denied, Denied):
        assert isinstance(await asked(some, ANN), expected)
    assert isinstance(await asked(some, BEN), Permit)
    denied = await asked(some, BEN)
    assert isinstance(denied, Denied)
    assert "acme" in denied.message


async def test_members_use_up_the_tokens_of_all() -> None:
    """What an answer took is charged to its caller and to the organization."""
    some = limits(acme={"tokens_per_minute": 10})
    assert isinstance(await asked(some, ANN, tokens=10), Permit)
    denied = await asked(some, BEN)
    assert isinstance(denied, Denied)
    assert denied.message == (
        "The requests of the members of acme together used 10 tokens of 10 within a minute."
    )
    assert isinstance(await asked(some, EVE), Permit)


async def test_each_organization_counts_by_itself() -> None:
    """Who is in two of them needs room in both, and uses up both; the other one's members none of it."""
    some = limits(acme={"requests_per_minute": 3}, labs={"requests_per_minute": 1})
    assert isinstance(await asked(some, BEN), Permit)
    denied = await asked(some, BEN)
    assert isinstance(denied, Denied)
    assert "labs" in denied.message
    assert [isinstance(await asked(some, ANN), Permit) for _ in range(3)] == [True, True, False]


async def test_the_longest_wait_is_told() -> None:
    """Where several limits refuse, the first is named, and who comes back is let in by all."""
    clock = Clock()
    some = limits(clock, acme={"requests_per_minute": 1}, labs={"requests_per_minute": 2})
    assert isinstance(await asked(some, member("dan", "labs")), Permit)
    clock.advance(10)
    assert isinstance(await asked(some, BEN), Permit)
    clock.advance(20)
    denied = await asked(some, BEN)
    assert isinstance(denied, Denied)
    assert ("acme" in denied.message, denied.retry_after) == (True, 40)
    clock.advance(40)
    assert isinstance(await asked(some, BEN), Permit)


async def test_members_share_places() -> None:
    """A member's requests under way are the organization's too, by their weight, until they end."""
    some = limits(own={"concurrent_requests": 8}, acme={"concurrent_requests": 6})
    heavy, light = await some.acquire(ANN), await some.acquire(BEN)
    assert isinstance(heavy, Permit)
    assert isinstance(light, Permit)
    assert some.widen(heavy, 5) is None
    denied = some.widen(light, 2)
    assert isinstance(denied, Denied)
    assert "counts as 2 of the 6 that the members of acme together may have" in denied.message
    full = await asked(some, ANN)
    assert isinstance(full, Denied)
    assert (full.retry_after, "acme together have 6 requests" in full.message) == (1, True)
    some.release(heavy)
    assert some.widen(light, 100) is None  # all that there is
    assert light.places == 6
    some.release(light)
    assert not some._under_way


async def test_members_share_cold_loads() -> None:
    """A load of a member is the organization's; the same one of another member is another one."""
    some = limits(acme={"cold_loads_per_hour": 2})
    assert await some.cold_load(ANN, "demo/a") is None
    assert await some.cold_load(ANN, "demo/a") is None
    assert await some.cold_load(BEN, "demo/a") is None
    denied = await some.cold_load(ANN, "demo/b")
    assert isinstance(denied, Denied)
    assert denied.message == "The members of acme together asked for more than 2 cold models within an hour."
    assert await some.cold_load(EVE, "demo/b") is None


async def test_new_numbers_count_from_the_next_request_on() -> None:
    """What was counted of an organization stays counted while it has a limit; what is under way ends well."""
    some = limits(acme={"requests_per_minute": 9})
    permit = await some.acquire(ANN)
    assert isinstance(permit, Permit)
    some.replace(Limits.model_validate({"organizations": {"acme": {"requests_per_minute": 1}}}))
    assert isinstance(await asked(some, BEN), Denied)
    some.replace(Limits())
    assert isinstance(await asked(some, BEN), Permit)
    some.release(permit, 5)
    assert not some._under_way


def test_an_id_and_a_name_with_it_are_one_organization() -> None:
    """Of two entries that mean one, the smaller number counts; unlike overrides, which favour somebody."""
    numbers: dict[str, Any] = {
        f"acme={ID}": {"requests_per_minute": 5, "tokens_per_minute": 7},
        f"id:{ID}": {"requests_per_minute": 4, "concurrent_requests": 2},
    }
    found = Organizations(Limits.model_validate({"organizations": numbers}).organizations)
    (pooled,) = found.of(identity(holds=frozenset({f"org={ID}"})))
    assert pooled[2:] == (4, 7, 2, -1)
    assert found.of(identity(holds=frozenset({"org:acme"}))) == ()


@each(
    "organizations",
    [
        {"acme": {}},
        {"acme": {"requests_per_minute": None}},
        {"acme": {"requests_per_minute": 0}},
        {"acme": {"requests_per_hour": 1}},
        {"acme": 60},
        {"a c m e": {"requests_per_minute": 1}},
        ["acme"],
    ],
)
def test_what_limits_nothing_is_refused(organizations: Any) -> None:
    """A typing error must not leave an organization without its limit in silence."""
    with pytest.raises(ValueError, match="validation error"):
        Limits.model_validate({"organizations": organizations})


def test_a_name_with_two_ids_is_refused() -> None:
    """Wherever they are written: alone, the name would mean neither."""
    number = {"requests_per_minute": 1}
    limited = {"organizations": {f"acme={ID}": number}, "overrides": {"orgs": {f"acme={ID[::-1]}": number}}}
    settings: dict[str, Any] = {
        "callers": {"anyone": True},
        "models": {"allow": ["a/*"]},
        "limits": limited,
        "upstreams": [{"name": "u", "url": "http://u:1", "public_key_file": "u.pub"}],
        "seal": {"key_file": "k"},
    }
    where = r"limits\.overrides\.orgs, limits\.organizations: one name has two ids"
    with pytest.raises(ValueError, match=where):
        ProxySettings.model_validate(settings)


async def test_members_meet_it_through_the_proxy(start_edge: StartEdge) -> None:
    """Membership is what whoami says; a 429 of the organization's has the member's own headers."""
    edge = await start_edge({"limits": {"organizations": {"acme": {"requests_per_minute": 2}}}})
    assert [(await edge.chat(token=ALICE)).status for _ in range(2)] == [200, 200]
    refused = await edge.chat(token=ALICE)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.header("x-ratelimit-remaining-requests") == "598"
    assert 1 <= int(refused.header("Retry-After") or "0") <= 60
    assert (await edge.chat(token=BOB)).status == 200  # of no organization


async def test_a_reload_limits_an_organization(start_edge: StartEdge) -> None:
    """SIGHUP counts from the next request on, by the name that is kept for whom it was seen with."""
    edge = await start_edge()
    assert (await edge.chat()).status == 200
    changed = {
        **yaml.safe_load(edge.config.read_text()),
        "limits": {"organizations": {"acme": {"requests_per_minute": 1}}},
    }
    edge.config.write_text(yaml.safe_dump(changed))
    edge.proxy.reloader.reload(lambda: load(ProxySettings, edge.config))
    assert [(await edge.chat()).status for _ in range(2)] == [200, 429]


async def _statuses(edges: list[Edge], *models: str) -> list[int]:
    return [(await edge.chat(model)).status for model in models for edge in edges]


async def test_several_proxies_share_it(tmp_path: Path, start_edge: StartEdge) -> None:
    """Requests at one proxy and loads at the other are the organization's at both."""
    (folder := tmp_path / "redis").mkdir()
    async with Redis.start(folder) as redis:
        pooled = {"acme": {"requests_per_minute": 5, "cold_loads_per_hour": 1}}
        edge = await start_edge({"limits": {"storage": redis.url, "organizations": pooled}})
        async with edge.twin() as twin:
            assert await _statuses([edge, twin], PUBLIC) == [200, 200]
            assert await _statuses([twin, edge], PRIVATE) == [429, 429]
            assert await _statuses([edge, twin], PUBLIC) == [200, 429]
