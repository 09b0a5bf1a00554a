"""The cache of the Hub's answers: one question at a time, and no answer beyond its life."""

import asyncio
import gc

import pytest

from hubgate.proxy.hub.cache import JITTER, REFRESH, Cache
from tests.fakes.clock import Clock
from tests.proxy.hub.scripted_cache import TTL, Hub, at_once, cache, turn


async def test_one_question_for_all_who_wait() -> None:
    """Five hundred who ask at once make one question, and all get its answer."""
    one, hub = cache(Clock()), Hub()
    asking = [asyncio.create_task(one.get("a", hub)) for _ in range(500)]
    await turn()
    assert hub.asked == 1
    hub.answer("yes")
    assert await asyncio.gather(*asking) == [("yes", "hub")] * 500
    assert await one.get("a", hub) == ("yes", "cache")
    assert hub.asked == 1


async def test_keys_do_not_wait_for_one_another() -> None:
    """A question about one key does not hold up another."""
    one, hub = cache(Clock()), Hub()
    slow = asyncio.create_task(one.get("a", hub))
    await turn()
    assert await one.get("b", at_once("b")) == ("b", "hub")
    hub.answer()
    assert (await slow)[0] == 1


async def test_an_answer_lives_from_the_start_of_its_question() -> None:
    """The time that the Hub took to answer is part of the answer's life."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    asking = asyncio.create_task(one.get("a", hub))
    await turn()
    clock.advance(TTL * 0.5)
    hub.answer("old")
    await asking
    clock.advance(TTL * 0.29)
    assert await one.get("a", at_once("new")) == ("old", "cache")
    clock.advance(TTL * 0.21)
    assert await one.get("a", at_once("new")) == ("new", "hub")


async def test_an_answer_that_came_too_late_serves_nobody_else() -> None:
    """A question that took longer than a life answers those who waited and is over."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    asking = asyncio.create_task(one.get("a", hub))
    await turn()
    clock.advance(TTL)
    hub.answer("old")
    assert (await asking)[0] == "old"
    assert await one.get("a", at_once("new")) == ("new", "hub")


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_jitter_only_shortens(chance: float) -> None:
    """No entry lives beyond its ttl; the earliest ends a tenth before."""
    clock = Clock()
    one = cache(clock, chance=chance)
    for key in "ab":
        await one.get(key, at_once("old"))
    life = TTL * (1 - JITTER * chance)
    assert TTL * (1 - JITTER) <= life <= TTL
    clock.advance(life - 0.001)
    assert await one.get("a", at_once("new")) == ("old", "cache")
    clock.advance(0.002)
    assert await one.get("b", at_once("new")) == ("new", "hub")


async def test_a_busy_key_is_asked_anew_ahead_of_time() -> None:
    """Towards the end of a life a hit asks once in the background; nobody waits."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    await one.get("a", at_once("old"))
    assert one.fresh("a") == "old"
    clock.advance(TTL * REFRESH)
    assert one.fresh("a") is None
    for _ in range(5):
        assert await one.get("a", hub) == ("old", "cache")
    await turn()
    assert hub.asked == 1
    hub.answer("new")
    await turn()
    clock.advance(TTL * (1 - REFRESH))
    assert await one.get("a", hub) == ("new", "cache")
    assert hub.asked == 1


async def test_an_idle_key_is_not_asked_anew() -> None:
    """Nobody asks for what nobody uses."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    await one.get("a", at_once("old"))
    clock.advance(TTL * 2)
    await turn()
    assert hub.asked == 0


async def test_a_denial_in_the_background_counts_at_once() -> None:
    """When the question ahead of time finds a refusal, the old answer is gone."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    await one.get("a", at_once("yes"))
    clock.advance(TTL * REFRESH)
    await one.get("a", hub)
    await turn()
    hub.answer("short")
    await turn()
    assert await one.get("a", hub) == ("short", "cache")
    clock.advance(TTL / 10)
    assert await one.get("a", at_once("yes")) == ("yes", "hub")


@pytest.mark.parametrize("outage", ["outage", OSError("gone")])
async def test_an_outage_in_the_background_takes_nothing_away(outage: object) -> None:
    """While the Hub is away an answer lives out its life, and not a moment longer."""
    clock = Clock()
    one, hub = cache(clock), Hub()
    await one.get("a", at_once("yes"))
    clock.advance(TTL * REFRESH)
    await one.get("a", hub)
    await turn()
    hub.answer(outage)
    await turn()
    assert await one.get("a", at_once("outage")) == ("yes", "cache")
    await turn()
    clock.advance(TTL * (1 - REFRESH))
    assert await one.get("a", at_once("outage")) == ("outage", "hub")


async def test_a_life_of_less_than_a_second_is_one() -> None:
    """Only an answer that lives for no time at all is kept for nobody."""
    one = Cache[str, object](capacity=1, ttl=lambda _: 0.5, clock=Clock())
    assert await one.get("a", at_once("old")) == ("old", "hub")
    assert await one.get("a", at_once("new")) == ("old", "cache")


async def test_an_answer_in_the_background_is_the_newest() -> None:
    """Where there is no room for all, what was just asked anew outlives what was asked before it."""
    clock = Clock()
    one, hub = cache(clock, capacity=2), Hub()
    await one.get("a", at_once("old"))
    clock.advance(TTL * REFRESH)
    await one.get("a", hub)
    await turn()
    await one.get("b", at_once("b"))
    hub.answer("new")
    await turn()
    await one.get("c", at_once("c"))
    assert await one.get("a", at_once("again")) == ("new", "cache")


async def test_a_fault_in_the_background_is_not_left_to_the_event_loop() -> None:
    """Nobody waits for a question ahead of time, so asyncio would log its exception and all in it."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    clock = Clock()
    one, hub = cache(clock), Hub()
    await one.get("a", at_once("yes"))
    clock.advance(TTL * REFRESH)
    await one.get("a", hub)
    await turn()
    hub.answer(OSError("gone"))
    await turn()
    gc.collect()
    assert not told


async def test_an_outage_is_never_kept() -> None:
    """Everybody who waited hears of the outage, and the next one asks again."""
    one, hub = cache(Clock()), Hub()
    asking = [asyncio.create_task(one.get("a", hub)) for _ in range(3)]
    await turn()
    hub.answer("outage")
    assert await asyncio.gather(*asking) == [("outage", "hub")] * 3
    assert len(one) == 0
    assert await one.get("a", at_once("yes")) == ("yes", "hub")


async def test_an_error_reaches_all_and_is_not_kept() -> None:
    """A question that fails fails for all who waited, and for them only."""
    one, hub = cache(Clock()), Hub()
    asking = [asyncio.create_task(one.get("a", hub)) for _ in range(3)]
    await turn()
    hub.answer(OSError("gone"))
    assert [type(found) for found in await asyncio.gather(*asking, return_exceptions=True)] == [OSError] * 3
    assert await one.get("a", at_once("yes")) == ("yes", "hub")


async def test_the_question_outlives_the_first_who_asked() -> None:
    """When the first caller leaves, the question goes on for the others."""
    one, hub = cache(Clock()), Hub()
    first = asyncio.create_task(one.get("a", hub))
    second = asyncio.create_task(one.get("a", hub))
    await turn()
    first.cancel()
    await turn()
    assert first.cancelled()
    hub.answer("yes")
    assert await second == ("yes", "hub")
    assert hub.asked == 1


async def test_an_answer_nobody_waits_for_is_kept() -> None:
    """When everybody left, the answer still serves the next."""
    one, hub = cache(Clock()), Hub()
    only = asyncio.create_task(one.get("a", hub))
    await turn()
    only.cancel()
    await turn()
    hub.answer("yes")
    await turn()
    assert await one.get("a", hub) == ("yes", "cache")


async def test_the_oldest_used_goes_first() -> None:
    """Beyond its capacity the cache forgets what was not used for longest."""
    one = cache(Clock(), capacity=2)
    for key in ("a", "b", "a", "c"):
        await one.get(key, at_once(key))
    assert len(one) == 2
    assert (await one.get("a", at_once("new")))[1] == "cache"
    assert (await one.get("b", at_once("new")))[1] == "hub"


async def test_a_quick_look_is_a_use_too() -> None:
    """What nearly every request finds by `fresh` is not the first to be forgotten."""
    one = cache(Clock(), capacity=2)
    for key in ("a", "b"):
        await one.get(key, at_once(key))
    assert one.fresh("a") == "a"
    await one.get("c", at_once("c"))
    assert (one.fresh("a"), one.fresh("b")) == ("a", None)


async def test_a_quick_look_ends_where_a_refresh_is_due() -> None:
    """An answer of no life, which is to be asked for anew at once, is not found by `fresh` either."""
    one = Cache[str, object](capacity=2, ttl=lambda _: 0, clock=Clock())
    assert await one.get("a", at_once("x")) == ("x", "hub")
    assert one.fresh("a") is None
