"""What the cache shares between callers, and what it forgets on request."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.hub.cache import Cache
from tests.fakes.clock import Clock
from tests.proxy.hub.scripted_cache import TTL, Hub, at_once, cache, turn


def open_to_all(value: object) -> bool:
    """Whether an answer holds for others than the one who asked."""
    return value != "mine alone"


async def test_a_private_answer_is_the_askers_own() -> None:
    """Those who waited for a refusal that was somebody else's ask for themselves."""
    one, hub, other = cache(Clock()), Hub(), Hub()
    first = asyncio.create_task(one.get("a", hub, shareable=open_to_all))
    await turn()
    waiting = [asyncio.create_task(one.get("a", other, shareable=open_to_all)) for _ in range(3)]
    await turn()
    assert (hub.asked, other.asked) == (1, 0)
    hub.answer("mine alone")
    assert await first == ("mine alone", "hub")
    await turn()
    assert other.asked == 1
    other.answer("fact")
    assert await asyncio.gather(*waiting) == [("fact", "hub")] * 3


async def test_each_refused_caller_asks_once() -> None:
    """Callers who are all refused each hear it from their own question."""
    one = cache(Clock())
    hubs = [Hub() for _ in range(4)]
    asking = [asyncio.create_task(one.get("a", hub, shareable=open_to_all)) for hub in hubs]
    for hub in hubs:
        await turn()
        hub.answer("mine alone")
    assert await asyncio.gather(*asking) == [("mine alone", "hub")] * 4
    assert [hub.asked for hub in hubs] == [1, 1, 1, 1]


async def test_forget_drops_a_value() -> None:
    """What was forgotten is asked anew."""
    one = cache(Clock())
    await one.get("a", at_once("old"))
    one.forget("a")
    one.forget("never known")
    assert await one.get("a", at_once("new")) == ("new", "hub")


@pytest.mark.parametrize("how", ["forget", "clear"])
async def test_forgetting_during_a_question_keeps_its_answer_out(how: str) -> None:
    """An answer that was on its way when its key was forgotten is not kept."""
    one, hub, newer = cache(Clock()), Hub(), Hub()
    asking = asyncio.create_task(one.get("a", hub))
    await turn()
    one.forget("a") if how == "forget" else one.clear()
    later = asyncio.create_task(one.get("a", newer))
    await turn()
    assert newer.asked == 1
    hub.answer("stale")
    assert (await asking)[0] == "stale"
    assert len(one) == 0
    newer.answer("fresh")
    assert await later == ("fresh", "hub")
    assert await one.get("a", hub) == ("fresh", "cache")


async def test_a_stale_answer_does_not_end_the_newer_question() -> None:
    """After a forgotten question ends, those who come still join the newer one."""
    one, hub, newer = cache(Clock()), Hub(), Hub()
    asking = [asyncio.create_task(one.get("a", hub))]
    await turn()
    one.forget("a")
    asking.append(asyncio.create_task(one.get("a", newer)))
    await turn()
    hub.answer("stale")
    await turn()
    asking.append(asyncio.create_task(one.get("a", hub)))
    await turn()
    assert (hub.asked, newer.asked) == (1, 1)
    newer.answer("fresh")
    assert [value for value, _ in await asyncio.gather(*asking)] == ["stale", "fresh", "fresh"]


async def test_clear_drops_everything() -> None:
    """After `clear` nothing is known."""
    one = cache(Clock())
    for key in "abc":
        await one.get(key, at_once(key))
    one.clear()
    assert len(one) == 0


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["get", "forget"]), st.floats(0, TTL / 2)), max_size=30
)


@given(steps, st.floats(0, 1, exclude_max=True))
def test_no_value_is_served_beyond_its_life(plan: list[tuple[str, str, float]], chance: float) -> None:
    """Whatever is asked, forgotten and waited for, a value is never older than its ttl."""

    async def run() -> None:
        clock = Clock()
        one: Cache[str, float] = Cache(capacity=2, ttl=lambda _: TTL, clock=clock, chance=lambda: chance)

        async def born() -> float:
            return clock()

        for key, what, pause in plan:
            clock.advance(pause)
            if what == "forget":
                one.forget(key)
                continue
            value, source = await one.get(key, born)
            assert clock() - value < TTL
            assert source == "cache" or value == clock()

    asyncio.run(run())
