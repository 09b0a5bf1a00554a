"""Who is let in next: callers in turn, however many requests each of them has waiting."""

import asyncio

import pytest

from hubgate.backend.plugin.fair_queue import FairQueue


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_take_turns() -> None:
    """One with five waiting does not go before another's first."""
    queue, order = FairQueue(1), list[str]()

    async def wait(caller: str, name: str) -> None:
        await queue.enter(caller)
        order.append(name)
        queue.leave()

    await queue.enter("a")
    waiting = [asyncio.create_task(wait("a", f"a{number}")) for number in range(5)]
    await _settle()
    waiting += [asyncio.create_task(wait("b", f"b{number}")) for number in range(2)]
    await _settle()
    queue.leave()
    await asyncio.gather(*waiting)
    assert order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


async def test_as_many_as_it_is_wide_are_in() -> None:
    """And each that leaves makes room for one."""
    queue = FairQueue(2)
    assert (queue.try_enter(), queue.try_enter(), queue.try_enter()) == (True, True, False)
    queue.leave()
    assert (queue.try_enter(), queue.try_enter()) == (True, False)


async def test_who_gives_up_takes_no_turn() -> None:
    """Neither while waiting, nor in the moment in which the turn comes: the place goes to the next one."""
    queue = FairQueue(1)
    await queue.enter("a")
    first, second, third = (asyncio.create_task(queue.enter(caller)) for caller in "bcd")
    await _settle()
    first.cancel()
    await _settle()
    queue.leave()  # to the second, which does not know of it yet
    second.cancel()
    await asyncio.wait_for(third, 5)
    assert not queue.try_enter()
    queue.leave()
    assert queue.try_enter()


async def test_who_is_cancelled_as_a_place_comes_does_not_get_it() -> None:
    """Between the cancellation and the next step of its task the place goes to the next one."""
    for others in ("", "a", "b"):
        queue = FairQueue(1)
        await queue.enter("a")
        cancelled = asyncio.create_task(queue.enter("a"))
        waiting = [asyncio.create_task(queue.enter(caller)) for caller in others]
        await asyncio.sleep(0)
        cancelled.cancel()
        queue.leave()
        await asyncio.gather(*waiting)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        if waiting:
            queue.leave()
        assert queue.try_enter()
        assert not queue.try_enter()
