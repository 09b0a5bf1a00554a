"""Who works on a body next, and who is served in between."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hubgate.proxy.body.round_robin import LONG, RoundRobin
from tests.cases import each


@asynccontextmanager
async def turn(turns: RoundRobin, sub: str) -> AsyncIterator[None]:
    await turns.begin(sub)
    try:
        yield
    finally:
        turns.end(sub)


async def test_others_are_served_between_two_bodies() -> None:
    """However many are complete at once: each is worked on in another round of the loop."""
    turns, rounds, worked = RoundRobin(), 0, list[int]()

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def work(sub: str) -> None:
        async with turn(turns, sub):
            worked.append(rounds)
            until = time.perf_counter() + 2 * LONG
            while time.perf_counter() < until:
                pass

    counting = asyncio.create_task(count())
    await asyncio.gather(*(work(sub) for sub in "ab" * 20))
    counting.cancel()
    assert len(set(worked)) == len(worked) == 40
    assert not len(turns)


async def test_callers_take_turns() -> None:
    """One with many bodies does not go before another's first, but for the one that waits in line."""
    turns, order = RoundRobin(), list[str]()

    async def work(sub: str) -> None:
        async with turn(turns, sub):
            order.append(sub)
            await asyncio.sleep(0)

    many = [asyncio.create_task(work("a")) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.gather(*many, *(work(sub) for sub in "bc"))
    assert max(order.index("b"), order.index("c")) < 5


@each("seed", range(20))
async def test_who_leaves_holds_nobody_up(seed: int) -> None:
    """Cancelled while waiting, while working or while handing on: the others go on, and nothing is left."""
    turns, rng, done = RoundRobin(), random.Random(seed), list[str]()  # noqa: S311 - the same in every run

    async def work(sub: str) -> None:
        async with turn(turns, sub):
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        done.append(sub)

    tasks = [asyncio.create_task(work(rng.choice("abc"))) for _ in range(30)]
    for _ in range(40):
        if rng.random() < 0.5:
            rng.choice(tasks).cancel()
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert len(done) == sum(not task.cancelled() for task in tasks)
    assert not len(turns)
    await asyncio.wait_for(work("d"), 30)
